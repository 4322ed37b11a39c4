"""What a task asks of a machine: a CEL expression over its capability document.

Enters: an expression, and documents. Leaves: whether it is true of one, and of a conjunction those
conditions that are not, with what they saw (``bzzz why``). An expression that cannot be asked of
any machine is refused before anything is submitted.

CEL ends always, but not soon: ``models.all(a, models.all(b, ...))`` takes time that grows with each
level, and a member may have sent both the expression and the document. So before an evaluation the
steps that it can take are added up, from the expression and the lengths of the document's lists,
and with more than :data:`MAX_STEPS` it is not made.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import math
import sys
from collections.abc import Mapping
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, Final

from bzzz.mesh.capability import CapabilityDocument, Gpu, Resources, gibibytes, printable
from bzzz.tasks.requirement_syntax import (
    BULK,
    STEP,
    Path,
    Predicate,
    Weights,
    scan,
)
from bzzz.tasks.requirement_tokens import RequirementError, parse_problem

if TYPE_CHECKING:
    from cel import Context, Program

__all__ = [
    "CACHED",
    "MAX_STEPS",
    "Facts",
    "Requirement",
    "RequirementError",
    "compile",
    "evaluate",
    "explain",
]

# Steps of one evaluation. The costliest expressions found take under 10 ms with as many.
MAX_STEPS: Final = 10_000

# Compiled expressions that are kept, and answers with each document.
CACHED: Final = 256

# Characters of a value that is shown, and of a predicate.
SHOWN: Final = 120

# A number from which on it is a size, and is shown as one too.
SIZE_FROM: Final = 1 << 26

Value = Any


class Facts:
    """A capability document, as expressions see it. To be kept as long as the document.

    :ivar document: itself.
    :ivar values: its fields, with the short names beside the long ones.
    :ivar context: the same for the evaluator.
    :ivar answers: to the requirements that were asked of it last, see :func:`evaluate`.
    """

    def __init__(self, document: CapabilityDocument) -> None:
        self.document = document
        self.values = _values(document)
        self._lengths: dict[Path, int] = {
            (name,): len(value) for name, value in self.values.items() if _is_list(value)
        }
        self._lengths["resources", "gpus"] = len(document.resources.gpus)
        self._lengths[BULK] = sum(_bulk(value) for value in self.values.values())
        self.context: Context = _cel().Context(self.values)
        self.answers: dict[str, bool] = {}

    def length(self, path: Path) -> int:
        """How many entries a list has; 0 where there is none."""
        return self._lengths.get(path, 0)


class Requirement:
    """A compiled expression.

    :ivar text: as it was written; empty for one that is true of every machine.
    """

    def __init__(
        self,
        text: str,
        program: Program | None,
        predicates: tuple[Predicate, ...],
        pieces: tuple[Program, ...],
        weights: Weights,
    ) -> None:
        self.text = text
        self.program = program
        self.predicates = predicates
        self.pieces = pieces
        self._weights = weights

    def steps(self, facts: Facts) -> int:
        """The most steps that an evaluation can take, of all of it and of its pieces alike."""
        total = 0
        for lists, weight in self._weights.items():
            total += weight * math.prod(facts.length(path) for path in lists)
        return total // STEP


def compile(text: str) -> Requirement:
    """Compile an expression; the last :data:`CACHED` are kept.

    :raises RequirementError: it cannot be asked of a machine. The message says where, and the mend.
    """
    return _compile(text) if text.strip() else _NONE


def evaluate(requirement: Requirement, facts: Facts) -> bool:
    """Whether it is true of a machine. It is not where it has no answer."""
    program = requirement.program
    if program is None:
        return True
    answer = facts.answers.get(requirement.text)
    if answer is None:
        answer = requirement.steps(facts) <= MAX_STEPS and _run(program, facts) is True
        if len(facts.answers) >= CACHED:
            facts.answers.clear()
        facts.answers[requirement.text] = answer
    return answer


def explain(requirement: Requirement, facts: Facts) -> tuple[str, ...]:
    """Each condition that is not true of a machine, with what it saw there, for people."""
    if requirement.steps(facts) > MAX_STEPS:
        return (
            f"{printable(requirement.text, SHOWN)}: takes up to {requirement.steps(facts)} steps"
            f" on this member's document, and {MAX_STEPS} at most are made",
        )
    failed = []
    for predicate, program in zip(requirement.predicates, requirement.pieces, strict=True):
        answer = _run(program, facts)
        if answer is not True:
            failed.append(_told(predicate, answer, facts))
    return tuple(failed)


_NONE: Final = Requirement("", None, (), (), {})


@lru_cache(maxsize=CACHED)
def _compile(text: str) -> Requirement:
    found = scan(text)
    program = _program(text, found.program)
    pieces = (
        tuple(_program(text, piece) for piece in found.pieces)
        if len(found.pieces) > 1
        else (program,)
    )
    requirement = Requirement(text, program, found.predicates, pieces, found.weights)
    _try(requirement)
    return requirement


def _program(text: str, program: str) -> Program:
    try:
        return _cel().compile(program)  # type: ignore[no-any-return]  # loaded by its file
    except Exception as error:  # noqa: BLE001  # it raises ValueError, and promises nothing
        raise parse_problem(text, str(error)) from None


def _run(program: Program, facts: Facts) -> object:
    """The answer, or the exception in its place."""
    try:
        return program.execute(facts.context)
    except Exception as error:  # noqa: BLE001  # one of many, whatever the operation was
        return error


# -- a trial on a machine that has everything


@cache
def _sample() -> Facts:
    return Facts(
        CapabilityDocument(
            node_id="x",
            capabilities=("x",),
            models=("x",),
            runtimes=("x",),
            addresses=("x",),
            labels={"x": "x"},
            resources=Resources(gpus=(Gpu(),)),
        )
    )


def _try(requirement: Requirement) -> None:
    """See that each condition is true or false, and compares what can be compared.

    :raises RequirementError: one is not.
    """
    for predicate, program in zip(requirement.predicates, requirement.pieces, strict=True):
        # Nothing is known of what a service says of itself.
        if any(path[0] == "service" for path in predicate.seen):
            continue
        answer = _run(program, _sample())
        # No entry, no element, a division by a zero of the sample: it may be otherwise elsewhere.
        if isinstance(answer, bool | LookupError | ArithmeticError):
            continue
        shown = printable(predicate.text, SHOWN)
        if not isinstance(answer, Exception):
            message = f"gives {_kind(answer)}, and a requirement is true or false"
        elif isinstance(answer, TypeError):
            message = (
                "compares or combines what does not go together: numbers go with numbers, texts"
                " with texts, and lists are asked with in, size() or exists()"
            )
        elif "string parse error" in str(answer):
            continue
        else:
            message = "asks something of a value that is of another kind"
        raise RequirementError(f'in the expression, "{shown}" {message}')


def _kind(value: object) -> str:
    if isinstance(value, str):
        return "a text"
    if isinstance(value, list | dict):
        return "a list"
    return "nothing" if value is None else "a number"


# -- what is said of a condition that is not true


def _told(predicate: Predicate, answer: object, facts: Facts) -> str:
    text = printable(predicate.text, SHOWN)
    result = "false" if answer is False else _failure(answer)
    seen = [_shown(path, facts.values) for path in predicate.seen]
    return f"{text}: {', '.join([result, *seen])}"


def _failure(answer: object) -> str:
    if isinstance(answer, LookupError):
        missing = printable(str(answer).strip("'\""), SHOWN)
        return (
            f"no answer, there is no {missing}"
            if isinstance(answer, KeyError)
            else (f"no answer, {missing}")
        )
    if isinstance(answer, TypeError):
        return "no answer, it compares values of different kinds"
    if isinstance(answer, Exception):
        return f"no answer, {printable(str(answer), SHOWN)}"
    return f"gives {_kind(answer)}, and not true or false"


def _shown(path: Path, values: Mapping[str, Value]) -> str:
    name = ".".join(path)
    value: Value = values
    for part in path:
        if not isinstance(value, dict) or part not in value:
            return f"{name} was not there"
        value = value[part]
    return f"{name} was {printable(_text(value), SHOWN)}"


def _text(value: Value) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, int) and value >= SIZE_FROM:
        return f"{value} ({gibibytes(value)})"
    if isinstance(value, list):
        return f"[{', '.join(_text(each) for each in value)}]"
    if isinstance(value, dict):
        # What has two names is said once.
        parts = [
            f"{key}: {_text(each)}"
            for key, each in value.items()
            if key.removesuffix("_bytes") == key or key.removesuffix("_bytes") not in value
        ]
        return f"{{{', '.join(parts)}}}"
    return str(value)


# -- a document as values


def _is_list(value: Value) -> bool:
    return isinstance(value, list | dict)


def _bulk(value: Value) -> int:
    """How much there is to walk over, or to copy, in a value."""
    if isinstance(value, str):
        return 1 + len(value) // 64
    if isinstance(value, list):
        return sum(_bulk(each) for each in value)
    if isinstance(value, dict):
        return sum(8 + _bulk(each) for each in value.values())
    return 1


def _values(document: CapabilityDocument) -> dict[str, Value]:
    resources = document.resources
    return {
        "node_id": document.node_id,
        "name": document.name,
        "version": document.version,
        "capabilities": list(document.capabilities),
        "models": list(document.models),
        "specialization": document.specialization,
        "resources": {
            "cpu_cores": resources.cpu_cores,
            "cpus": resources.cpu_cores,
            "memory_bytes": resources.memory_bytes,
            "memory": resources.memory_bytes,
            "gpus": [
                {
                    "name": gpu.name,
                    "vendor": gpu.vendor,
                    "memory_bytes": gpu.memory_bytes,
                    "memory": gpu.memory_bytes,
                }
                for gpu in resources.gpus
            ],
            "disk_bytes": resources.disk_bytes,
            "disk": resources.disk_bytes,
            "disk_free_bytes": resources.disk_free_bytes,
            "disk_free": resources.disk_free_bytes,
        },
        "labels": dict(document.labels),
        "os": document.os,
        "arch": document.arch,
        "python": document.python,
        "runtimes": list(document.runtimes),
        "service": dict(document.service or {}),
        "addresses": list(document.addresses),
    }


# -- the evaluator


@cache
def _cel() -> Any:
    """The evaluator of the package ``cel``, without the rest of it.

    The package imports its command line with prompt_toolkit and typer, which took 340 ms and 13 MiB
    where its evaluator alone took 20 ms.
    """
    name = "cel.cel"
    if name in sys.modules:
        return sys.modules[name]
    package = importlib.machinery.PathFinder.find_spec("cel")
    places = package.submodule_search_locations if package is not None else None
    spec = importlib.machinery.PathFinder.find_spec(name, places)
    if spec is None or spec.loader is None:
        raise ImportError("the package common-expression-language is not installed")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules[name] = module
    return module
