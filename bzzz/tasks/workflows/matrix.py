"""References to a step's matrix, and the instances that it makes.

Enters: the values of a file, with ``${{ matrix.NAME }}`` in their strings. Leaves: what is wrong
with the references, the combinations of the matrix, and the values with one combination put in.

No shell, and no CEL expression, can have ``${{`` in it with a meaning of its own. ``$${{`` stands
for ``${{`` itself.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from msgspec import Struct

__all__ = [
    "LABEL",
    "MATRIX_NAME",
    "MAX_FILLED",
    "MAX_VALUE",
    "Reference",
    "combinations",
    "count",
    "fill",
    "labels",
    "plain_word",
    "references",
]

MATRIX_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,39}")

# Characters of one value of a matrix: it becomes a part of a name.
MAX_VALUE: Final = 64

# Characters of the part of an instance's name that says which one it is; with the step's name it is
# no longer than a task's step may be.
MAX_LABEL: Final = 80

# References that are filled in for one step, in all its instances: a second's work.
MAX_FILLED: Final = 50_000

LABEL: Final = re.compile(r"[A-Za-z0-9_+][A-Za-z0-9_+.,~-]*")

REFERENCE: Final = re.compile(r"\$\$\{\{|\$\{\{(?:([^{}\n]*)\}\})?")
PREFIX: Final = "matrix."

# What a shell takes as it is, and as one word.
PLAIN: Final = re.compile(r"[A-Za-z0-9_@%+=:,./-]+")


class Reference(Struct, frozen=True):
    """A reference in a string.

    :ivar at: the item of the value that it is in, where there is one.
    :ivar written: as it is in the file.
    :ivar variable: what it refers to, None where it has no end.
    """

    at: tuple[str | int, ...]
    written: str
    variable: str | None

    @property
    def name(self) -> str | None:
        """The name in the matrix; None where it is of no matrix."""
        if self.variable is None or not self.variable.startswith(PREFIX):
            return None
        return self.variable[len(PREFIX) :]


def references(value: object, at: tuple[str | int, ...] = ()) -> Iterator[Reference]:
    """All references in a string, in a list of strings, or in the values of a table."""
    if isinstance(value, str):
        for found in REFERENCE.finditer(value):
            if not found[0].startswith("$$"):
                if found[1] is None:
                    # To the end of its line, which tells it from others that do have an end.
                    yield Reference(at, value[found.start() :].partition("\n")[0], None)
                else:
                    yield Reference(at, found[0], found[1].strip())
    elif not at and isinstance(value, list):
        for number, item in enumerate(value):
            if isinstance(item, str):
                yield from references(item, (number,))
    elif not at and isinstance(value, Mapping):
        for key, item in value.items():
            if isinstance(item, str):
                yield from references(item, (key,))


def fill(value: Any, chosen: Mapping[str, str]) -> Any:
    """A value with what was chosen of the matrix in the place of its references.

    :raises KeyError: it refers to something else.
    """
    if isinstance(value, str):
        return REFERENCE.sub(lambda found: _filled(found, chosen), value)
    if isinstance(value, list):
        return [fill(item, chosen) if isinstance(item, str) else item for item in value]
    if isinstance(value, Mapping):
        return {
            key: fill(item, chosen) if isinstance(item, str) else item
            for key, item in value.items()
        }
    return value


def _filled(found: re.Match[str], chosen: Mapping[str, str]) -> str:
    if found[0] == "$${{":
        return "${{"
    variable = (found[1] or "").strip()
    if not variable.startswith(PREFIX):
        raise KeyError(variable)
    return chosen[variable[len(PREFIX) :]]


def plain_word(value: str) -> bool:
    """Whether a shell takes a value as it is, so that it may stand anywhere in a script."""
    return PLAIN.fullmatch(value) is not None


def count(matrix: Mapping[str, Sequence[str]]) -> int:
    """How many instances a matrix makes; 1 without one."""
    return math.prod(len(values) for values in matrix.values())


def combinations(matrix: Mapping[str, Sequence[str]]) -> Iterator[dict[str, str]]:
    """Each combination of a matrix's values; the last name's values change first."""
    for values in itertools.product(*matrix.values()):
        yield dict(zip(matrix, values, strict=True))


def labels(matrix: Mapping[str, Sequence[str]]) -> list[str]:
    """What tells instances of a step apart, in names and in paths: their values.

    Where two would be the same, as by what may not stand in a path, the later has a number.
    """
    if not matrix:
        return [""]
    given: dict[str, int] = {}
    all_labels = []
    for values in itertools.product(*matrix.values()):
        label = re.sub(r"[^A-Za-z0-9_+.,-]", "_", ",".join(values))[: MAX_LABEL - 8]
        if LABEL.fullmatch(label) is None:
            label = "_" + label[1:]
        given[label] = number = given.get(label, 0) + 1
        all_labels.append(label if number == 1 else f"{label}~{number}")
    return all_labels
