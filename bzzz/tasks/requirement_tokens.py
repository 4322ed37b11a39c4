"""The words and signs of a requirement, and what is wrong with them.

Enters: the text of a CEL expression. Leaves: its tokens, each with its place, or
:class:`RequirementError`; and what the compiler of the expression had to say, in a line for people.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from bzzz.errors import BzzzError, one_line

__all__ = [
    "END",
    "MAX_EXPRESSION",
    "MAX_TOKENS",
    "MENDS",
    "RequirementError",
    "Token",
    "error_at",
    "mended",
    "parse_problem",
    "tokens_of",
]

# Characters, as a submission has it.
MAX_EXPRESSION: Final = 4096

# Words and signs: those of the longest that still takes a few milliseconds to compile.
MAX_TOKENS: Final = 256

# Brackets within each other. What compiles it is recursive.
MAX_DEPTH: Final = 24

MENDS: Final = {
    "=": "write == to compare",
    "&": "write && for and",
    "|": "write || for or",
    "and": "write && for and",
    "or": "write || for or",
    "not": "write ! for not",
    "AND": "write && for and",
    "OR": "write || for or",
    "NOT": "write ! for not",
    "map": "use exists, all or filter, which build nothing",
    "matches": "use startsWith, endsWith or contains",
    "{": "a requirement builds no maps",
}

_TOKEN = re.compile(
    r"""(?P<space>[ \t\r\n\f]+)
    | (?P<left>//|\"\"\"|'''|[rRbB]+["'])
    | (?P<string>"(?:\\.|[^"\\\r\n])*"|'(?:\\.|[^'\\\r\n])*')
    | (?P<number>0x[0-9A-Fa-f]+[uU]?|(?:[0-9]+\.[0-9]+|\.[0-9]+|[0-9]+)(?:[eE][+-]?[0-9]+)?[uU]?)
    | (?P<name>[A-Za-z_][A-Za-z0-9_]*)
    | (?P<sign>&&|\|\||[<>=!]=|[-+*/%<>!?:.,()\[\]])""",
    re.VERBOSE,
)
_PROBLEM = re.compile(r"ERROR: <input>:([0-9]+):([0-9]+): (?:Syntax error: )?(.*)")


class RequirementError(BzzzError):
    """An expression is none, or none that can be asked of a machine.

    :ivar line: where, from 1.
    :ivar column: likewise.
    """

    def __init__(self, message: str, line: int = 1, column: int = 1) -> None:
        super().__init__(one_line(message))
        self.line = line
        self.column = column


class Token(NamedTuple):
    """A word or a sign; ``kind`` is ``string``, ``number``, ``name``, ``sign`` or ``end``."""

    kind: str
    text: str
    start: int


END: Final = Token("end", "", -1)


def error_at(text: str, start: int, message: str) -> RequirementError:
    """What is wrong, with the line and column of a place in the text."""
    line = text.count("\n", 0, start) + 1
    column = start - (text.rfind("\n", 0, start) + 1) + 1
    where = f"line {line}, column {column}" if "\n" in text.strip("\n") else f"column {column}"
    return RequirementError(f"in the expression, {where}: {message}", line, column)


def mended(message: str, word: str) -> str:
    """The same with what to write in the place of a word, if that is known."""
    mend = MENDS.get(word)
    return f"{message}; {mend}" if mend else message


def parse_problem(text: str, problem: str) -> RequirementError:
    """What the compiler of the expression said, in a line for people."""
    found = _PROBLEM.search(problem)
    if found is None:
        return error_at(text, 0, "it cannot be read")
    lines = text.split("\n")
    line = min(int(found[1]), len(lines))
    start = sum(len(each) + 1 for each in lines[: line - 1]) + int(found[2]) - 1
    said = found[3].split(" expecting ")[0]
    word = re.fullmatch(r"(?:mismatched|extraneous|no viable alternative at) input '(.*)'", said)
    if word is None and not said.endswith("at '<EOF>'"):
        return error_at(text, start, said)
    if word is None or word[1] == "<EOF>":
        return error_at(text, start, "it ends here, and something is missing")
    return error_at(text, start, mended(f'"{word[1]}" does not belong here', word[1]))


def tokens_of(text: str) -> list[Token]:
    """The words and signs of an expression.

    :raises RequirementError: for what is none, or too many of them.
    """
    tokens: list[Token] = []
    at = 0
    depth = 0
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            sign = text[at]
            if sign in "\"'":
                raise error_at(text, at, "the string that begins here has no end")
            raise error_at(text, at, mended(f"{sign!r} is no part of the language", sign))
        kind = str(found.lastgroup)
        if kind == "left":
            what = "comments" if found[0] == "//" else 'strings of this kind; write it in plain ""'
            raise error_at(text, at, f"a requirement has no {what}")
        if kind != "space":
            tokens.append(Token(kind, found[0], at))
        depth += (found[0] in ("(", "[")) - (found[0] in (")", "]"))
        if depth > MAX_DEPTH:
            raise error_at(text, at, f"more than {MAX_DEPTH} brackets are open")
        at = found.end()
    if len(tokens) > MAX_TOKENS:
        raise error_at(
            text, tokens[MAX_TOKENS].start, f"it has more than {MAX_TOKENS} words and signs"
        )
    return tokens
