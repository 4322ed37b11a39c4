"""Reads one step of a workflow's file.

Enters: the step's table. Leaves: a :class:`~bzzz.tasks.workflows.plan.Step`, with as much of it as
is right; what is wrong is told to the caller, each thing with the path of where it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Final, Protocol

from msgspec import Struct
from msgspec.structs import replace

from bzzz.tasks.workflows.matrix import (
    MATRIX_NAME,
    MAX_FILLED,
    MAX_VALUE,
    PREFIX,
    combinations,
    count,
    fill,
    plain_word,
    references,
)
from bzzz.tasks.workflows.plan import ALWAYS, MAX_INSTANCES, SUCCESS, Step
from bzzz.tasks.workflows.toml_lines import Path
from bzzz.tasks.workflows.values import FIELDS, BadValue, Work, items, meant, path, read, show, text

__all__ = ["KEYS", "Check", "Checks", "StepReader"]

KEYS: Final = (*FIELDS, "needs", "matrix", "from", "when")

# What is wrong with a value, or None.
Check = Callable[[str], str | None]


class Checks(Struct, frozen=True, kw_only=True):
    """What the reader of a file cannot know; each says what is wrong with a value, or None.

    :ivar where: of an expression over the capability document.
    :ivar on: of a node's name.
    :ivar profile: of a profile's name.
    :ivar inputs: of a path of the submitter's, relative to the file's directory.
    """

    where: Check | None = None
    on: Check | None = None
    profile: Check | None = None
    inputs: Check | None = None


class Tell(Protocol):
    """Takes what is wrong: where, why, and a part of the value that stands in the line meant."""

    def __call__(self, path: Path, message: str, containing: str = "") -> None: ...


class StepReader:
    """Reads one step.

    :param name: of the step.
    :param said: its table.
    """

    def __init__(self, name: str, said: Mapping[str, Any], checks: Checks, wrong: Tell) -> None:
        self._name = name
        self._said = said
        self._checks = checks
        self._wrong = wrong
        self._path: Path = ("steps", name)
        self._matrix: dict[str, tuple[str, ...]] = {}

    def step(self, defaults: Mapping[str, Any], names: Collection[str]) -> Step:
        """The step.

        :param defaults: values that were read, for all steps.
        :param names: of all steps of the file.
        """
        for key in self._said:
            if key not in KEYS:
                self._tell(key, (), f"unknown key {show(key)}{meant(key, KEYS)}", named=False)
        if ("run" in self._said) == ("command" in self._said):
            both = "run" in self._said
            self._wrong(
                (*self._path, "run") if both else self._path,
                f"step {self._name} has {'both run and command' if both else 'nothing to run'}"
                " (write run for the shell, or command for a list of words)",
            )
        self._matrix = self._read_matrix()
        work = replace(Work(), **{FIELDS[key][0]: value for key, value in defaults.items()})
        fixed: dict[str, Any] = {}
        varying: dict[str, Any] = {}
        for key in FIELDS:
            if key not in self._said:
                continue
            value = self._said[key]
            if not self._references(key, value):
                self.read_others(self._path, key, value)
                continue
            if any(references(value)):
                if key == "env" and isinstance(value, dict):
                    value = {**_escaped(work.env), **value}
                if self._varies(key, value):
                    varying[key] = value
            else:
                self._fix(key, fill(value, {}), fixed)
        if "env" in fixed:
            fixed["env"] = {**work.env, **fixed["env"]}
        needs = self._needs(names)
        return Step(
            name=self._name,
            work=replace(work, **fixed),
            varying=varying,
            needs=needs,
            sources=self._sources(needs),
            matrix=self._matrix,
            when=self._when(),
        )

    def no_references(self, path: Path, key: str, value: object) -> bool:
        """Whether a value that is for all steps is for all of them."""
        found = list(references(value))
        for reference in found:
            self._wrong(
                (*path, *reference.at),
                f"{'.'.join(map(str, path))}: {reference.written} has no meaning for all steps"
                f" (write {key} in the step that has the matrix)",
                reference.written,
            )
        return not found

    def read_others(self, path: Path, key: str, value: object) -> None:
        """Tell what else is wrong with a list or a table, some of whose references are wrong."""
        if isinstance(value, list | dict):
            try:
                read(key, value)
            except BadValue as bad:
                self.bad((*path, key), bad)

    def bad(self, path: Path, bad: BadValue) -> None:
        """Tell what is wrong with a value."""
        for wrong in bad.wrongs:
            self._wrong((*path, *wrong.at), f"{'.'.join(map(str, path))}: {wrong.reason}")

    def _tell(
        self, key: str, at: Path, message: str, containing: str = "", *, named: bool = True
    ) -> None:
        prefix = f"steps.{self._name}.{key}: " if named else f"steps.{self._name}: "
        self._wrong((*self._path, key, *at), prefix + message, containing)

    def _fix(self, key: str, value: object, fixed: dict[str, Any]) -> None:
        field = FIELDS[key][0]
        try:
            fixed[field] = read(key, value)
        except BadValue as bad:
            self.bad((*self._path, key), bad)
            return
        for at, reason in self.checked(key, fixed[field]):
            self._tell(key, at, reason)

    def checked(self, key: str, value: Any) -> Iterator[tuple[Path, str]]:
        """What those who know say of a value."""
        check = {
            "where": self._checks.where,
            "on": self._checks.on,
            "profile": self._checks.profile,
            "in": self._checks.inputs,
        }.get(key)
        if check is None:
            return
        parts: list[tuple[Path, str]] = [((), value)]
        if not isinstance(value, str):
            parts = [((number,), part) for number, part in enumerate(value)]
        for at, part in parts:
            reason = check(part)
            if reason is not None:
                yield at, reason

    def _read_matrix(self) -> dict[str, tuple[str, ...]]:
        said = self._said.get("matrix", {})
        if not isinstance(said, dict) or ("matrix" in self._said and not said):
            self._tell("matrix", (), f"{show(said)} with no list in it (write NAME = ['A', 'B'])")
            return {}
        matrix = {}
        for name, values in said.items():
            if MATRIX_NAME.fullmatch(name) is None:
                self._tell(
                    "matrix",
                    (name,),
                    f"{show(name)} is no name (letters, digits, _ and -, at most 40)",
                )
                continue
            try:
                read_values = items(values, MAX_INSTANCES, _matrix_value)
            except BadValue as bad:
                self.bad((*self._path, "matrix", name), bad)
                read_values = ()
            else:
                twice = [each for each, times in Counter(read_values).items() if times > 1]
                if not read_values:
                    self._tell("matrix", (name,), f"{name} has no values (leave it out)")
                elif twice:
                    self._tell("matrix", (name,), f"{name} has {show(twice[0])} twice")
            # Its name is known in any case, so references to it are not told as wrong too.
            matrix[name] = read_values
        return matrix

    def _references(self, key: str, value: object) -> bool:
        """Whether all references of a value are to this step's matrix."""
        good = True
        for reference in references(value):
            known = [PREFIX + name for name in self._matrix]
            if reference.variable is None:
                message = "${{ has no }} (write $${{ for ${{ itself)"
            elif reference.variable in known:
                continue
            elif not known:
                message = (
                    f"{reference.written} is not known, as this step has no matrix"
                    f" (write [steps.{self._name}.matrix], or $${{{{ for ${{{{ itself)"
                )
            else:
                message = f"{reference.written} is not known{meant(reference.variable, known)}"
                if "(" not in message:
                    message += f" (there is {', '.join(known)})"
            self._tell(key, reference.at, message, reference.written)
            good = False
        return good

    def _varies(self, key: str, value: Any) -> bool:
        """Whether a value is right with all that the matrix puts into it."""
        if not 0 < count(self._matrix) <= MAX_INSTANCES:
            return True  # which is told by itself
        found = sum(1 for _ in references(value))
        if found * count(self._matrix) > MAX_FILLED:
            self._tell(
                key,
                (),
                f"{found} references for each of {count(self._matrix)} instances are too many (put"
                " long scripts into files and give them with in)",
            )
            return False
        if key == "run" and not self._plain(value):
            return False
        told: set[Path] = set()
        for chosen in combinations(self._matrix):
            try:
                filled = read(key, fill(value, chosen), referred=True)
            except BadValue as bad:
                problems = [(wrong.at, wrong.reason) for wrong in bad.wrongs]
            else:
                problems = list(self.checked(key, filled))
            with_ = ", ".join(f"{name} = {show(each)}" for name, each in chosen.items())
            for at, reason in problems:
                # Of what is wrong at one place, the first combination is told.
                if at not in told:
                    told.add(at)
                    self._tell(key, at, f"with {with_}: {reason}")
        return not told

    def _plain(self, value: object) -> bool:
        """Whether what is put into a script is one word for the shell, in whatever quotes."""
        good = True
        for name in dict.fromkeys(reference.name for reference in references(value)):
            odd = [each for each in self._matrix.get(name or "", ()) if not plain_word(each)]
            if odd:
                good = False
                variable = (name or "").upper().replace("-", "_")
                written = next(r.written for r in references(value) if r.name == name)
                self._tell(
                    "run",
                    (),
                    f"{show(odd[0])} of {PREFIX}{name} is not one word for a shell (write"
                    f" env.{variable} = '{written}', and \"${variable}\" in run)",
                    written,
                )
        return good

    def _needs(self, names: Collection[str]) -> tuple[str, ...]:
        if "needs" not in self._said:
            return ()
        try:
            said = items(self._said["needs"], MAX_INSTANCES, text)
        except BadValue as bad:
            self.bad((*self._path, "needs"), bad)
            return ()
        for number, name in enumerate(said):
            if name not in names:
                self._tell("needs", (number,), f"unknown step {show(name)}{meant(name, names)}")
        return tuple(dict.fromkeys(name for name in said if name in names))

    def _sources(self, needs: Collection[str]) -> dict[str, str | None]:
        said = self._said.get("from", {})
        if not isinstance(said, dict):
            self._tell("from", (), f"{show(said)} is not a table (write from.STEP = 'DIRECTORY')")
            return {}
        sources: dict[str, str | None] = {}
        for name, directory in said.items():
            if name not in needs:
                self._tell(
                    "from",
                    (name,),
                    f"this step does not need {show(name)}"
                    + (meant(name, needs) or " (write it into needs too)"),
                )
            elif directory is False:
                sources[name] = None
            else:
                try:
                    sources[name] = path(directory)
                except BadValue as bad:
                    reason = f"{bad.wrongs[0].reason}; it is a directory, or false for no files"
                    self._tell("from", (name,), f"{name}: {reason}")
        return sources

    def _when(self) -> str:
        when = self._said.get("when", SUCCESS)
        if when not in (SUCCESS, ALWAYS):
            self._tell("when", (), f"{show(when)} is neither 'success' nor 'always'")
            return SUCCESS
        if when == ALWAYS and not self._said.get("needs"):
            self._tell("when", (), "'always' is of steps that others come before (write needs)")
        return SUCCESS if when == SUCCESS else ALWAYS


def _matrix_value(value: object) -> str:
    if isinstance(value, float):
        raise BadValue(f"{show(value)} is not a string (write it in quotes: 3.10 would be 3.1)")
    if isinstance(value, int) and not isinstance(value, bool):
        value = show(value)
    value = text(value)
    if not 0 < len(value) <= MAX_VALUE or not value.isprintable():
        raise BadValue(f"{show(value)} is empty, not printable or longer than {MAX_VALUE}")
    return value


def _escaped(env: Mapping[str, str]) -> dict[str, str]:
    return {name: value.replace("${{", "$${{") for name, value in env.items()}
