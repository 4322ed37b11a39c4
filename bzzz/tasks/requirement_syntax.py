"""What a requirement says, before it is evaluated: its names, its predicates, what it may cost.

Enters: the text of a CEL expression. Leaves: its predicates with the places of the document that
each looks at, and how the work of an evaluation grows with the lists of a document; or
:class:`RequirementError`. The grammar is that of CEL (https://github.com/google/cel-spec,
doc/langdef.md, "Syntax"); what has no bound on its work, or no use in a question about a machine,
is left out of it: ``map``, ``matches``, maps, messages, comments and strings with a prefix.
"""

from __future__ import annotations

import difflib
import itertools
from typing import Final, NamedTuple

from bzzz.tasks.requirement_tokens import (
    END,
    MAX_EXPRESSION,
    MENDS,
    RequirementError,
    Token,
    error_at,
    mended,
    tokens_of,
)

__all__ = [
    "ELEMENT",
    "LISTS",
    "BULK",
    "Path",
    "Predicate",
    "STEP",
    "Scan",
    "Weights",
    "scan",
]

# A step of an evaluation, the work on one token, in the unit of :data:`Weights`.
STEP: Final = 32

# Stands in a path for any element of the list before it.
ELEMENT: Final = "[]"

# Stands for all that a document has, for what walks over values without saying over which.
BULK: Final = ("*",)

Path = tuple[str, ...]

# By the lists that are gone through, one within the other: how much that costs, in parts of a step.
Weights = dict[tuple[Path, ...], int]

FIELDS: Final[dict[Path, frozenset[str]]] = {
    (): frozenset(
        [
            "node_id",
            "name",
            "version",
            "capabilities",
            "models",
            "specialization",
            "resources",
            "labels",
            "os",
            "arch",
            "python",
            "runtimes",
            "service",
            "addresses",
        ]
    ),
    ("resources",): frozenset(
        [
            "cpu_cores",
            "cpus",
            "memory_bytes",
            "memory",
            "gpus",
            "disk_bytes",
            "disk",
            "disk_free_bytes",
            "disk_free",
        ]
    ),
    ("resources", "gpus", ELEMENT): frozenset(["name", "vendor", "memory_bytes", "memory"]),
}
LISTS: Final[frozenset[Path]] = frozenset(
    {
        ("capabilities",),
        ("models",),
        ("labels",),
        ("runtimes",),
        ("service",),
        ("addresses",),
        ("resources", "gpus"),
    }
)

# What the evaluator copies each time that it is named.
COPIED: Final[frozenset[Path]] = frozenset({("resources", "gpus")})

MACROS: Final = frozenset({"exists", "all", "exists_one", "filter"})
METHODS: Final = frozenset({"contains", "startsWith", "endsWith", "size"})
FUNCTIONS: Final = frozenset({"size", "has", "int", "double", "string", "gib", "mib"})
UNITS: Final = {"gib": 30, "mib": 20}
KEYWORDS: Final = frozenset({"true", "false", "null", "in"})

# Signs that are no work by themselves.
FREE: Final = frozenset({"(", ")", ".", ",", "]"})

# Steps of a function of a string: a text of a document has 512 characters at most.
CALL_STEPS: Final = 4


class Predicate(NamedTuple):
    """One of the conditions that have to be true together.

    :ivar text: as it was written.
    :ivar start: where it is in the expression.
    :ivar seen: places of the document that it looks at, each once.
    """

    text: str
    start: int
    seen: tuple[Path, ...]


class Scan(NamedTuple):
    """What an expression says.

    :ivar program: the expression with the sizes in bytes in the place of ``gib(16)``.
    :ivar pieces: the same of each predicate.
    """

    program: str
    predicates: tuple[Predicate, ...]
    pieces: tuple[str, ...]
    weights: Weights


class _Frame(NamedTuple):
    """An open bracket: of a macro, with its variable and its list, or of anything else.

    ``over`` of an index is what is indexed.
    """

    sign: str
    macro: str = ""
    variable: str = ""
    over: Path = ()
    literal: bool = False


def scan(text: str) -> Scan:
    """What an expression says, whose brackets and signs have not been looked at yet.

    :raises RequirementError: something in it is unknown, or has no bound.
    """
    if len(text) > MAX_EXPRESSION:
        raise RequirementError(
            f"the expression has {len(text)} characters, and {MAX_EXPRESSION} at most"
        )
    return _Scanner(text).scan()


class _Scanner:
    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = tokens_of(text)
        self._frames: list[_Frame] = []
        # What the tokens up to here name, if it is a place of the document.
        self._path: Path | None = None
        # Places that are looked at, with where they begin. The last one is still being read.
        self._seen: list[tuple[int, Path]] = []
        self._reading = False
        self._weights: Weights = {}
        self._sizes: list[tuple[int, int, str]] = []
        self._splits: list[int] = []
        self._whole = False

    def scan(self) -> Scan:
        pluses = sum(token.text == "+" for token in self._tokens)
        at = 0
        while at < len(self._tokens):
            token = self._tokens[at]
            self._charge(at, pluses)
            if token.kind == "name" and token.text not in KEYWORDS:
                at = self._name(at)
            else:
                self._sign(token, self._token(at - 1))
            at += 1
        return self._result()

    def _token(self, at: int) -> Token:
        return self._tokens[at] if 0 <= at < len(self._tokens) else END

    # -- names

    def _name(self, at: int) -> int:
        """A name begins; returns where what belongs to it ends."""
        token = self._tokens[at]
        called = self._token(at + 1).text == "("
        if self._token(at - 1).text == ".":
            return self._member(at, called)
        self._reading = False
        if called:
            return self._function(at)
        for frame in reversed(self._frames):
            if frame.macro and frame.variable == token.text:
                self._path = (*frame.over, ELEMENT)
                return at
        if token.text not in FIELDS[()]:
            raise self._unknown(token, "variable", self._variables())
        self._path = (token.text,)
        self._seen.append((token.start, self._path))
        self._reading = True
        return at

    def _member(self, at: int, called: bool) -> int:
        token = self._tokens[at]
        if called:
            if token.text in MACROS:
                return self._macro(at)
            if token.text not in METHODS:
                raise self._unknown(token, "function", MACROS | METHODS)
            self._reading = False
            self._add(CALL_STEPS * STEP)
            return at
        if self._path is not None:
            fields = FIELDS.get(self._path)
            if fields is not None and token.text not in fields:
                what = ".".join(self._path).replace("." + ELEMENT, "[]")
                raise self._unknown(token, f"field of {what}", fields)
            self._path = (*self._path, token.text)
            if self._path in COPIED:
                self._add(STEP // 32, BULK)
            if self._reading:
                self._seen[-1] = (self._seen[-1][0], self._path)
        return at

    def _function(self, at: int) -> int:
        token = self._tokens[at]
        if token.text in MACROS | METHODS and token.text not in FUNCTIONS:
            raise self._error(
                token, f'"{token.text}" is asked of a value, such as models.{token.text}(...)'
            )
        if token.text not in FUNCTIONS:
            raise self._unknown(token, "function", FUNCTIONS)
        self._path = None
        self._add(CALL_STEPS * STEP)
        if token.text in UNITS:
            return self._size(at)
        return at

    def _size(self, at: int) -> int:
        name, number, end = self._tokens[at], self._token(at + 2), self._token(at + 3)
        example = f"{name.text}(16)"
        if number.kind != "number" or end.text != ")":
            raise self._error(name, f"{name.text}() takes a number as it is, such as {example}")
        unit = 1 << UNITS[name.text]
        try:
            size = int(number.text) * unit
        except ValueError:
            try:
                size = int(float(number.text) * unit)
            except (ValueError, OverflowError):
                size = -1
        if not 0 <= size < 1 << 63:
            raise self._error(number, f"{number.text} is no size, such as {example}")
        self._sizes.append((name.start, end.start + 1, str(size)))
        # The signs of it count as if they were one.
        return at + 3

    def _macro(self, at: int) -> int:
        """``.exists(``: what it goes through is known, and its variable is the next token."""
        token, variable, comma = self._tokens[at], self._token(at + 2), self._token(at + 3)
        if self._path is None or self._path not in LISTS:
            raise self._error(
                token,
                f"{token.text}() goes over a list of the document: "
                + ", ".join(sorted(".".join(each) for each in LISTS)),
            )
        if variable.kind != "name" or variable.text in KEYWORDS or comma.text != ",":
            raise self._error(
                token,
                f"{token.text}() takes a name and a condition, such as"
                f' models.{token.text}(m, m.startsWith("llama"))',
            )
        if token.text == "filter":
            # What was found so far is copied with each element.
            self._add(STEP // 16, self._path, BULK)
        self._frames.append(_Frame("(", token.text, variable.text, self._path))
        self._path = None
        self._reading = False
        return at + 3

    # -- everything else

    def _sign(self, token: Token, before: Token) -> None:
        # The text of a string has its quotes, so it is none of these.
        sign = token.text
        if sign == ".":
            if not self._ends_value(before):
                raise self._error(token, "a dot follows what it is asked of")
            return
        if sign in (")", "]"):
            self._close(token)
            return
        if sign in ("(", "["):
            indexed = sign == "[" and self._ends_value(before)
            path = self._path if indexed and self._path is not None else ()
            self._frames.append(_Frame(sign, over=path, literal=sign == "[" and not indexed))
        elif not self._frames:
            if sign == "&&":
                self._splits.append(token.start)
            elif sign in ("||", "?"):
                self._whole = True
        elif self._frames[-1].macro and sign == ",":
            raise self._error(token, f"{self._frames[-1].macro}() takes one condition")
        self._path = None
        self._reading = False

    def _ends_value(self, token: Token) -> bool:
        if token.kind == "name":
            return token.text not in KEYWORDS
        return token.kind == "string" or token.text in (")", "]")

    def _close(self, token: Token) -> None:
        opening = "(" if token.text == ")" else "["
        if not self._frames or self._frames[-1].sign != opening:
            raise self._error(token, f'"{token.text}" closes nothing that is open here')
        frame = self._frames.pop()
        self._reading = False
        if frame.macro == "filter":
            self._path = frame.over
        elif frame.sign == "[" and frame.over:
            self._path = (*frame.over, ELEMENT)
        else:
            self._path = None

    # -- what it costs

    def _charge(self, at: int, pluses: int) -> None:
        token = self._tokens[at]
        if token.text not in FREE:
            self._add(STEP)
        if token.text == "+":
            # Texts and lists are copied, and each sum may hold all those before it.
            self._add(STEP * pluses // 4, BULK)
        elif token.text == "in" or (token.text in ("==", "!=") and not self._beside_literal(at)):
            self._add(STEP // 16, BULK)
        if any(frame.literal for frame in self._frames):
            self._add(STEP // 4, BULK)

    def _beside_literal(self, at: int) -> bool:
        kinds = {self._token(at - 1).kind, self._token(at + 1).kind}
        return not kinds.isdisjoint({"string", "number"})

    def _add(self, cost: int, *within: Path) -> None:
        key = (*(frame.over for frame in self._frames if frame.macro), *within)
        self._weights[key] = self._weights.get(key, 0) + cost

    # -- what comes out

    def _result(self) -> Scan:
        bounds = [0, *self._splits, len(self._text)] if not self._whole else [0, len(self._text)]
        predicates, pieces = [], []
        for place, (split, end) in enumerate(itertools.pairwise(bounds)):
            start = split + 2 if place else split
            text = self._text[start:end]
            seen = tuple(dict.fromkeys(path for at, path in self._seen if start <= at < end))
            predicates.append(Predicate(text.strip(), start, seen))
            pieces.append(self._with_sizes(start, end))
        return Scan(
            self._with_sizes(0, len(self._text)), tuple(predicates), tuple(pieces), self._weights
        )

    def _with_sizes(self, start: int, end: int) -> str:
        parts = []
        at = start
        for begin, over, size in self._sizes:
            if start <= begin < end:
                parts += [self._text[at:begin], size]
                at = over
        return "".join([*parts, self._text[at:end]])

    def _error(self, token: Token, message: str) -> RequirementError:
        return error_at(self._text, token.start, message)

    def _variables(self) -> frozenset[str]:
        bound = {frame.variable for frame in self._frames if frame.macro}
        nested = {f"resources.{name}" for name in FIELDS["resources",]}
        return FIELDS[()] | bound | nested

    def _unknown(self, token: Token, what: str, known: frozenset[str]) -> RequirementError:
        message = f'there is no {what} "{token.text}"'
        if token.text in MENDS:
            return self._error(token, mended(message, token.text))
        # "gpu" is nearer to "gpus" than to any other, wherever that is.
        by_name = {name.rpartition(".")[2]: name for name in sorted(known, reverse=True)}
        near = difflib.get_close_matches(token.text.lower(), list(by_name), 1, 0.6)
        if near:
            return self._error(token, f'{message}; did you mean "{by_name[near[0]]}"?')
        some = ", ".join(sorted(name for name in known if "." not in name))
        return self._error(token, f"{message}; there are {some}")
