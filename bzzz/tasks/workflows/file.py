"""Workflows as people write them: a TOML file (``docs/tasks.rst``, "Workflows").

Enters: the bytes of a file. Leaves: a :class:`~bzzz.tasks.workflows.plan.Workflow` that can run, or
:class:`WorkflowFileError` with everything that is wrong, each with its line and what to do.
"""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from bzzz.errors import BzzzError
from bzzz.tasks.submission import MAX_FILES
from bzzz.tasks.workflows import plan as plans
from bzzz.tasks.workflows.matrix import count, fill
from bzzz.tasks.workflows.needs import conflicts, cycles, in_order
from bzzz.tasks.workflows.plan import (
    MAX_INSTANCES,
    MAX_WORKFLOW,
    STEP_NAME,
    Step,
    Workflow,
    WorkflowError,
)
from bzzz.tasks.workflows.step import Checks, StepReader
from bzzz.tasks.workflows.syntax import explained
from bzzz.tasks.workflows.toml_lines import MAX_DEPTH, Lines, Path, TooDeep
from bzzz.tasks.workflows.values import (
    DEFAULTS,
    BadValue,
    meant,
    name_of,
    read,
    show,
    whole,
)

__all__ = ["MAX_FILE", "MAX_PROBLEMS", "Checks", "Problem", "WorkflowFileError", "parse"]

# Bytes of a file: what is longer is another one.
MAX_FILE: Final = 128 << 10

# Problems that are looked for in one file; who has more has one reason for them.
MAX_PROBLEMS: Final = 100

KEYS: Final = ("name", "max_parallel", "defaults", "steps")

# What the record keeps of each path beside it: a digest and a size.
FILE_ROOM: Final = 90


class Problem:
    """One thing that is wrong with a file.

    :ivar line: the first being 1.
    :ivar column: likewise, 0 where it is not known.
    """

    def __init__(self, file: str, line: int, message: str, column: int = 0) -> None:
        self.file, self.line, self.message, self.column = file, line, message, column

    def __str__(self) -> str:
        column = f":{self.column}" if self.column else ""
        return f"{self.file}:{self.line}{column}: {self.message}"


class WorkflowFileError(BzzzError):
    """A workflow's file cannot be run as it is; its text has a line for each reason.

    :ivar problems: in the order of their lines.
    """

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = sorted(problems, key=lambda problem: problem.line)
        super().__init__("\n".join(map(str, self.problems)))


def parse(data: bytes, file: str, checks: Checks | None = None) -> Workflow:
    """Read a workflow.

    :param file: its name, for messages; without ``.toml`` it is the workflow's too, if that has
        none of its own.
    :param checks: what is known of the world that it is to run in.
    :raises WorkflowFileError: it cannot be run as it is.
    """
    text = _text(data, file)
    try:
        lines = Lines(text)
    except TooDeep as deep:
        message = f"more than {MAX_DEPTH} levels deep, which nothing in a workflow is"
        raise WorkflowFileError([Problem(file, deep.line, message)]) from None
    return _Reader(lines, _document(text, file), file, _once(checks or Checks())).workflow()


def _once(checks: Checks) -> Checks:
    """Checks that are asked once of each value: a matrix may give one a thousand times."""
    asked = {name: getattr(checks, name) for name in Checks.__struct_fields__}
    return Checks(**{name: functools.cache(check) for name, check in asked.items() if check})


def _text(data: bytes, file: str) -> str:
    if len(data) > MAX_FILE:
        raise WorkflowFileError(
            [
                Problem(
                    file,
                    1,
                    f"it is longer than {MAX_FILE} bytes, which no workflow is; put long scripts"
                    " into files of their own and give them with in",
                )
            ]
        )
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        message = "not UTF-8 text (save it with that encoding)"
        raise WorkflowFileError([Problem(file, line, message)]) from None


def _document(text: str, file: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except ValueError as error:  # TOMLDecodeError, and numbers of thousands of digits
        line, column, reason = explained(str(error), text)
        problem = Problem(file, line, f"not valid TOML: {reason}", column)
    raise WorkflowFileError([problem]) from None


class _Reader:
    """Reads one document, and collects what is wrong with it."""

    def __init__(self, lines: Lines, document: dict[str, Any], file: str, checks: Checks) -> None:
        self._document = document
        self._file = file
        self._checks = checks
        self._lines = lines
        self._problems: list[Problem] = []

    def workflow(self) -> Workflow:
        self._unknown(self._document, KEYS, ())
        name = self._one("name", name_of, self._usual_name())
        most = self._one("max_parallel", whole(1, MAX_INSTANCES), 0)
        defaults = self._defaults()
        steps = self._steps(defaults)
        self._together(steps)
        if self._problems:
            raise WorkflowFileError(self._problems)
        workflow = Workflow(name=name, max_parallel=most, steps=in_order(steps))
        self._whole(workflow)
        if self._problems:
            raise WorkflowFileError(self._problems)
        return workflow

    def _wrong(self, path: Path, message: str, containing: str = "") -> None:
        self._problems.append(Problem(self._file, self._lines.line(path, containing), message))
        if len(self._problems) == MAX_PROBLEMS:
            last = max(problem.line for problem in self._problems)
            more = Problem(self._file, last, "no more is looked for after as many mistakes")
            raise WorkflowFileError([*self._problems, more])

    def _usual_name(self) -> str:
        name = self._file.rpartition("/")[2].removesuffix(".toml")
        try:
            return name_of(name)
        except BadValue:
            return "workflow"

    def _one(self, key: str, check: Callable[[object], Any], default: Any) -> Any:
        if key not in self._document:
            return default
        try:
            return check(self._document[key])
        except BadValue as bad:
            self._wrong((key,), f"{key}: {bad.wrongs[0].reason}")
            return default

    def _unknown(self, table: Mapping[str, Any], known: Iterable[str], path: Path) -> None:
        for key in table:
            if key not in known:
                self._wrong((*path, key), f"unknown key {show(key)}{meant(key, known)}")

    def _table(self, key: str) -> dict[str, Any]:
        table = self._document.get(key, {})
        if isinstance(table, dict):
            return table
        hint = "[steps.NAME] for each step" if key == "steps" else f"[{key}]"
        self._wrong((key,), f"{key}: {show(table)} is not a table (write {hint})")
        return {}

    def _defaults(self) -> dict[str, Any]:
        good = {}
        for key, value in self._table("defaults").items():
            path = ("defaults", key)
            if key not in DEFAULTS:
                reason = "is not for all steps" if key in ("run", "command", "in", "out") else ""
                self._wrong(
                    path,
                    f"{key} {reason} (write it in each that it is for)"
                    if reason
                    else f"unknown key {show(key)}{meant(key, DEFAULTS)}",
                )
                continue
            reader = StepReader("defaults", {}, self._checks, self._wrong)
            if not reader.no_references(path, key, value):
                reader.read_others(("defaults",), key, value)
                continue
            try:
                good[key] = read(key, fill(value, {}))
            except BadValue as bad:
                reader.bad(path, bad)
                continue
            for at, reason in reader.checked(key, good[key]):
                self._wrong((*path, *at), f"defaults.{key}: {reason}")
        return good

    def _steps(self, defaults: Mapping[str, Any]) -> list[Step]:
        table = self._table("steps")
        if not table and not self._problems:
            self._wrong(("steps",), "it has no steps (write [steps.NAME], and what it is to run)")
        if len(table) > MAX_INSTANCES:
            self._wrong(("steps",), f"{len(table)} steps are more than {MAX_INSTANCES}")
            return []
        steps = []
        for name, said in table.items():
            path: Path = ("steps", name)
            if STEP_NAME.fullmatch(name) is None:
                self._wrong(
                    path,
                    f"{show(name)} is no name of a step (letters, digits, _ and -, at most 40,"
                    " first a letter or _)",
                )
            elif not isinstance(said, dict):
                self._wrong(path, f"{show(said)} is not a table (write [steps.{name}])")
            else:
                reader = StepReader(name, said, self._checks, self._wrong)
                steps.append(reader.step(defaults, table))
        return steps

    def _together(self, steps: list[Step]) -> None:
        """What is seen only when all steps are known."""
        for cycle in cycles(steps):
            names = [*cycle, cycle[0]]
            if len(cycle) == 1:
                message = f"step {cycle[0]} needs itself; remove that"
            else:
                message = f"steps wait for each other: {' -> '.join(names)}; remove one need"
            self._wrong(("steps", cycle[0], "needs"), message)
        total = sum(count(step.matrix) for step in steps)
        if total > MAX_INSTANCES:
            most = max(steps, key=lambda step: count(step.matrix))
            self._wrong(
                ("steps", most.name, "matrix"),
                f"all steps together have {total} instances, {count(most.matrix)} of them in"
                f" {most.name}, and {MAX_INSTANCES} at most run in one workflow; leave out values"
                " of the matrix, or divide it into more files",
            )

    def _whole(self, workflow: Workflow) -> None:
        """What is seen only when its instances are known, so when all else is right."""
        try:
            plan = plans.plan(workflow)
            taken = len(plans.encode(workflow))
        except WorkflowError as error:
            self._wrong(("steps",), str(error))
            return
        paths = plan.paths
        if len(paths) > MAX_FILES:
            self._wrong(
                ("steps",),
                f"its steps take {len(paths)} files and directories, and {MAX_FILES} at most; name"
                " the directories that they are in",
            )
        taken += sum(len(each.encode()) + FILE_ROOM for each in paths)
        if taken > MAX_WORKFLOW:
            self._wrong(
                ("steps",),
                f"it takes {taken} bytes with the names of its files, and {MAX_WORKFLOW} at most"
                " are kept; put long scripts into files of their own and give them with in",
            )
        for step, message in conflicts(plan):
            self._wrong(("steps", step, "needs"), message)
