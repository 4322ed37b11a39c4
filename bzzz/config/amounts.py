"""The types of options that are an amount of something.

Enters: text or a TOML value, as in :mod:`bzzz.config.kinds`. Leaves: bytes, cores, or None for all
that there is.
"""

from __future__ import annotations

import re
from typing import Generic, TypeVar

from bzzz.config.kinds import BadValue, Kind, is_number, shown

__all__ = ["ALL", "AllOr", "Cores", "Size", "size_text"]

T = TypeVar("T")

# Stands for None, which TOML has not.
ALL = "all"

# As the command line has them.
SIZES = {
    **{unit: 1 << shift for shift, unit in ((10, "k"), (20, "m"), (30, "g"), (40, "t"))},
    **{unit: 1 << shift for shift, unit in ((10, "kib"), (20, "mib"), (30, "gib"), (40, "tib"))},
    **{unit: 1000**power for power, unit in enumerate(("b", "kb", "mb", "gb", "tb"))},
}


class Size(Kind[int]):
    """Bytes, or a number with its unit."""

    metavar = "SIZE"
    is_size = True

    def __init__(self, least: int, most: int) -> None:
        self.least, self.most = least, most

    def from_text(self, text: str) -> int:
        found = re.fullmatch(r"([0-9]{1,18}(?:\.[0-9]{1,9})?)\s*([A-Za-z]*)", text.strip())
        if found is None or (found[2] and found[2].lower() not in SIZES):
            raise BadValue(f"{shown(text)} is not a size (write for example 512MiB or 16GiB)")
        return self._in_range(int(float(found[1]) * SIZES[found[2].lower() or "b"]))

    def from_toml(self, value: object) -> int:
        if isinstance(value, str):
            return self.from_text(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise BadValue(f"{shown(value)} is not a size (write for example '512MiB' or '16GiB')")
        return self._in_range(value)

    def _in_range(self, size: int) -> int:
        if not self.least <= size <= self.most:
            least, most = size_text(self.least), size_text(self.most)
            said = size_text(size) if size < 1 << 63 else shown(size)
            # A number without its unit was meant as another amount.
            unit = " (write the unit, as in 16GiB)" if 0 < size < self.least else ""
            raise BadValue(f"{said} is not between {least} and {most}{unit}")
        return size


class Cores(Kind[float]):
    """A number of processor cores, also a part of one."""

    metavar = "N"

    def __init__(self, most: float) -> None:
        self.most = most

    def from_text(self, text: str) -> float:
        if re.fullmatch(r"[0-9]{1,9}(?:\.[0-9]{1,9})?", text.strip()) is None:
            raise BadValue(f"{shown(text)} is not a number of cores (write for example 4 or 1.5)")
        return self._in_range(float(text))

    def from_toml(self, value: object) -> float:
        if not is_number(value):
            raise BadValue(f"{shown(value)} is not a number of cores (write for example 4 or 1.5)")
        return self._in_range(value)

    def _in_range(self, cores: float) -> float:
        if not 0 <= cores <= self.most:
            raise BadValue(f"{shown(cores)} is not between 0 and {self.most:g}")
        return float(cores)


class AllOr(Kind[T | None], Generic[T]):
    """All that there is, or what another kind has; the value is None for ``all``."""

    def __init__(self, kind: Kind[T]) -> None:
        self.metavar = f"{kind.metavar}|{ALL}"
        self.is_size = kind.is_size
        self._kind = kind

    def from_text(self, text: str) -> T | None:
        if text.strip() == ALL:
            return None
        try:
            return self._kind.from_text(text)
        except BadValue as bad:
            raise BadValue(f"{bad}, nor '{ALL}'") from None

    def from_toml(self, value: object) -> T | None:
        if value is None or value == ALL:
            return None
        try:
            return self._kind.from_toml(value)
        except BadValue as bad:
            raise BadValue(f"{bad}, nor '{ALL}'") from None

    def plain(self, value: T | None) -> object:
        return ALL if value is None else self._kind.plain(value)


def size_text(size: int) -> str:
    """``16 GiB``, in the greatest unit that gives a whole number."""
    for shift, unit in ((40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")):
        if size and not size % (1 << shift):
            return f"{size >> shift} {unit}"
    return f"{size} bytes"
