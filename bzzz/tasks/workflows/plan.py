"""A checked workflow, and the instances of its steps (``docs/tasks.rst``, "Workflows").

Enters: a :class:`Workflow`, from a file or from a record that another member wrote. Leaves: its
bytes, or a :class:`Plan`: every instance of every step, with what it runs, and what it gets from
which others. A workflow is kept with its steps as they were written, so that a matrix of a thousand
instances takes no more room than one; the plan is worked out of it, the same everywhere.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Struct

from bzzz.errors import BzzzError, RemoteProtocolError
from bzzz.tasks.submission import MAX_FILES, MAX_SUBMISSION, Input
from bzzz.tasks.workflows.matrix import (
    MATRIX_NAME,
    MAX_FILLED,
    MAX_VALUE,
    combinations,
    count,
    fill,
    labels,
    references,
)
from bzzz.tasks.workflows.paths import below
from bzzz.tasks.workflows.values import FIELDS, BadValue, Work, path, read

__all__ = [
    "ALWAYS",
    "MAX_INSTANCES",
    "MAX_WORKFLOW",
    "STEP_NAME",
    "SUCCESS",
    "Instance",
    "Plan",
    "Source",
    "Step",
    "Workflow",
    "WorkflowError",
    "encode",
    "gathered",
    "plan",
    "read_name",
    "read_workflow",
    "works",
]

# Instances of all steps together: what their states take in the record, with the IDs and outputs of
# their tasks, is half of what a record may have.
MAX_INSTANCES: Final = 1000

# Bytes of a workflow in its record.
MAX_WORKFLOW: Final = 96 << 10

# Bytes of all instances' commands and variables together, once the matrix is put in: what a node
# holds for a workflow that it drives.
MAX_EXPANDED: Final = 8 << 20

# What a task's submission has beside its command, its variables and its files.
SUBMISSION_REST: Final = 4096

STEP_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,39}")

SUCCESS: Final = "success"
ALWAYS: Final = "always"

Name = Annotated[str, Meta(max_length=128)]


class WorkflowError(BzzzError):
    """A workflow cannot be run as it is."""


class Step(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A step as it was written.

    :ivar work: what does not depend on the matrix.
    :ivar varying: keys of the file whose strings refer to the matrix, as they were written.
    :ivar needs: names of steps that end before it begins, each of them earlier in the workflow.
    :ivar sources: of these, the directories that their files are put into; None for none of them.
        Those of a step that is not named here are put where that step had them.
    :ivar when: ``success`` or ``always``.
    """

    name: Name
    work: Work = Work()
    varying: dict[str, Any] = {}
    needs: tuple[Name, ...] = ()
    sources: dict[str, str | None] = {}
    matrix: dict[str, tuple[str, ...]] = {}
    when: str = SUCCESS


class Workflow(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A workflow whose steps are in an order in which they can run.

    :ivar name: what its submitter calls it.
    :ivar max_parallel: instances that are there as tasks at once, 0 for any number.
    :ivar files: the manifests of what its steps take from the submitter, once they are made.
    """

    name: Name = ""
    max_parallel: Annotated[int, Meta(ge=0, le=MAX_INSTANCES)] = 0
    steps: Annotated[tuple[Step, ...], Meta(min_length=1, max_length=MAX_INSTANCES)]
    files: Annotated[tuple[Input, ...], Meta(max_length=MAX_FILES)] = ()


class _Named(Struct, frozen=True):
    name: Name = ""


class Source(Struct, frozen=True):
    """Whose files an instance gets.

    :ivar instance: its place in the plan.
    :ivar directory: where they are put, below the working directory; ``.`` for where they were.
    """

    instance: int
    directory: str


class Instance(Struct, frozen=True):
    """One task of a workflow.

    :ivar name: of its step, with what was chosen of the matrix.
    :ivar step: place of its step.
    :ivar sources: those whose files it gets.
    """

    name: str
    step: int
    label: str
    work: Work
    sources: tuple[Source, ...] = ()


class Plan(Struct, frozen=True):
    """All instances of a workflow, in the order of its steps.

    :ivar ranges: each step's instances: the place of the first, and the one behind the last.
    :ivar needs: each step's needs, as places of steps.
    """

    workflow: Workflow
    instances: tuple[Instance, ...]
    ranges: tuple[tuple[int, int], ...]
    needs: tuple[tuple[int, ...], ...]

    @property
    def paths(self) -> list[str]:
        """Paths of the files that its steps take from the submitter, each once."""
        return list(dict.fromkeys(path for one in self.instances for path in one.work.inputs))


# In the order that they were written in: that of a matrix is that of its instances.
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Workflow)
_names = msgspec.msgpack.Decoder(_Named)


def encode(workflow: Workflow) -> bytes:
    """A workflow's bytes.

    :raises WorkflowError: they are too many.
    """
    data = _encoder.encode(workflow)
    if len(data) > MAX_WORKFLOW:
        raise WorkflowError(
            f"the workflow takes {len(data)} bytes, and {MAX_WORKFLOW} at most are kept; put long"
            " scripts into files and give them with in"
        )
    return data


def read_name(data: bytes) -> str:
    """What a workflow that a member wrote is called; its steps are not looked at.

    :raises RemoteProtocolError: it is none.
    """
    try:
        return _names.decode(data).name
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise RemoteProtocolError(f"a workflow cannot be read: {error}", "workflow") from None


def read_workflow(data: bytes) -> Plan:
    """Read a workflow that a member wrote.

    :raises RemoteProtocolError: it is none that can be run.
    """
    if len(data) > MAX_WORKFLOW:
        raise RemoteProtocolError(f"a workflow has {len(data)} bytes", "workflow_length")
    try:
        return plan(_decoder.decode(data))
    except (msgspec.MsgspecError, WorkflowError, RecursionError, UnicodeError) as error:
        raise RemoteProtocolError(f"a workflow cannot be run: {error}", "workflow") from None


def plan(workflow: Workflow) -> Plan:
    """Work out the instances of a workflow.

    :raises WorkflowError: it is not one that a file could have said.
    """
    places = {step.name: place for place, step in enumerate(workflow.steps)}
    if len(places) != len(workflow.steps):
        raise WorkflowError("two steps have one name")
    total = sum(count(step.matrix) for step in workflow.steps)
    if total > MAX_INSTANCES:
        raise WorkflowError(f"its steps have {total} instances, and {MAX_INSTANCES} at most run")
    instances: list[Instance] = []
    ranges: list[tuple[int, int]] = []
    needs: list[tuple[int, ...]] = []
    room = MAX_EXPANDED
    for place, step in enumerate(workflow.steps):
        _well_formed(step)
        needed = tuple(sorted({places.get(name, place) for name in step.needs}))
        if needed and needed[-1] >= place:
            raise WorkflowError(f"step {step.name!r} needs one that does not come before it")
        sources = tuple(
            source
            for other in needed
            for source in _sources(step, workflow.steps[other], range(*ranges[other]), instances)
        )
        first = len(instances)
        for work, label in works(step):
            room -= _checked(step, work, sources) if step.varying or first == len(instances) else 0
            if room < 0:
                raise WorkflowError(
                    f"its instances take more than {MAX_EXPANDED} bytes together; put long scripts"
                    " into files and give them with in"
                )
            name = f"{step.name}[{label}]" if label else step.name
            instances.append(Instance(name, place, label, work, sources))
        ranges.append((first, len(instances)))
        needs.append(needed)
    return Plan(workflow, tuple(instances), tuple(ranges), tuple(needs))


def works(step: Step) -> list[tuple[Work, str]]:
    """What each instance of a step runs, and its label.

    :raises WorkflowError: a value is not as it has to be.
    """
    names = labels(step.matrix)
    if not step.varying:
        _fixed(step.work)
        return [(step.work, label) for label in names]
    found = sum(1 for value in step.varying.values() for _ in references(value))
    if found * len(names) > MAX_FILLED:
        raise WorkflowError(
            f"step {step.name!r} has {found} references for each of {len(names)} instances; put"
            " long scripts into files and give them with in"
        )
    all_works = []
    for chosen, label in zip(combinations(step.matrix), names, strict=True):
        try:
            filled = {
                FIELDS[key][0]: read(key, fill(value, chosen), referred=True)
                for key, value in step.varying.items()
            }
        except BadValue as bad:
            raise WorkflowError(f"step {step.name!r}: {bad.wrongs[0].reason}") from None
        except KeyError as unknown:
            raise WorkflowError(f"step {step.name!r} refers to {unknown}") from None
        work = msgspec.structs.replace(step.work, **filled)
        _fixed(work)
        all_works.append((work, label))
    return all_works


def gathered(step: Step, other: Step, label: str) -> str | None:
    """The directory into which an instance's files are put for a step that needs it."""
    directory = step.sources.get(other.name, ".")
    if directory is None or directory == "." or not label:
        return directory
    return below(directory, label)


def _sources(step: Step, other: Step, places: range, instances: list[Instance]) -> list[Source]:
    sources = []
    for place in places:
        directory = gathered(step, other, instances[place].label)
        if directory is not None and instances[place].work.outputs:
            sources.append(Source(place, directory))
    return sources


def _well_formed(step: Step) -> None:
    """What a file's reader has seen to, and a peer may not have.

    :raises WorkflowError: a name, or a directory, is not as it has to be.
    """
    values = [value for values in step.matrix.values() for value in values]
    if (
        STEP_NAME.fullmatch(step.name) is None
        or step.when not in (SUCCESS, ALWAYS)
        or not set(step.sources) <= set(step.needs)
        or not set(step.varying) <= set(FIELDS)
        or not all(MATRIX_NAME.fullmatch(name) for name in step.matrix)
        or not all(step.matrix.values())
        or not all(0 < len(value) <= MAX_VALUE and value.isprintable() for value in values)
    ):
        raise WorkflowError(f"step {step.name!r} is not as it has to be")
    try:
        for directory in step.sources.values():
            if directory is not None and path(directory) != directory:
                raise WorkflowError(f"{directory!r} is not in its normal form")
    except BadValue as bad:
        raise WorkflowError(bad.wrongs[0].reason) from None


def _fixed(work: Work) -> None:
    try:
        for key, (field, _) in FIELDS.items():
            value = getattr(work, field)
            # Of run, the words are read; where a step is not bound to run is left open.
            if key != "run" and (value or key not in ("where", "on")):
                read(key, value)
    except BadValue as bad:
        raise WorkflowError(bad.wrongs[0].reason) from None


def _checked(step: Step, work: Work, sources: tuple[Source, ...]) -> int:
    """The bytes of what is run.

    :raises WorkflowError: it could not be submitted.
    """
    if len(work.inputs) + len(sources) > MAX_FILES:
        raise WorkflowError(
            f"step {step.name!r} gets the files of {len(sources)} instances and of"
            f" {len(work.inputs)} paths, and {MAX_FILES} together at most; gather them in steps"
            " between, or leave some out with from.STEP = false"
        )
    length = len(_encoder.encode(work))
    paths = sum(len(source.directory) for source in sources) + 100 * (
        len(sources) + len(work.inputs)
    )
    if length + paths + SUBMISSION_REST > MAX_SUBMISSION:
        raise WorkflowError(
            f"step {step.name!r} takes {length + paths} bytes with its variables and paths, and"
            f" {MAX_SUBMISSION - SUBMISSION_REST} at most travel with a task; put long scripts into"
            " files and give them with in"
        )
    return length
