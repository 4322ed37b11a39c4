"""The keys that a step of a workflow's file has, and what each may be.

Enters: a value as tomllib read it. Leaves: the checked value, or :class:`BadValue` with what is
wrong in the words that follow the key's name. What a step runs in the end is a :class:`Work`.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeGuard

from msgspec import Struct

from bzzz.tasks.submission import ENV_NAME, MAX_FILES, MAX_SECONDS, MAX_WORDS
from bzzz.tasks.workflows.paths import BadPath, normal

__all__ = [
    "DEFAULTS",
    "FIELDS",
    "RESERVED_ENV",
    "SHELL",
    "BadValue",
    "Wrong",
    "Work",
    "meant",
    "name_of",
    "read",
    "show",
    "size",
    "seconds",
]

# How the text of ``run`` is run: a line that fails ends it, so that a step is not done when its
# second line of three has failed.
SHELL: Final = ("/bin/sh", "-ec")

# What the node itself tells a task.
RESERVED_ENV: Final = "BZZZ_"

MAX_NAME: Final = 128
MAX_PROFILE: Final = 64
MAX_WHERE: Final = 4096
MAX_PATH: Final = 4096
MAX_COMPONENTS: Final = 64

# Less memory than this runs no command: the unit was forgotten.
MIN_MEMORY: Final = 1 << 20
MAX_MEMORY: Final = 1 << 53

TIMES: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
SIZES: Final = {
    "B": 1,
    **{f"{letter}B": 1000**power for power, letter in enumerate("kMGT", 1)},
    **{f"{letter}iB": 1024**power for power, letter in enumerate("KMGT", 1)},
}

# What other systems call it.
ELSEWHERE: Final = {
    "artifacts": "out",
    "cmd": "command",
    "condition": "when",
    "dependencies": "needs",
    "dependson": "needs",
    "environment": "env",
    "if": "when",
    "inputs": "in",
    "jobs": "steps",
    "node": "on",
    "outputs": "out",
    "requires": "needs",
    "script": "run",
    "strategy": "matrix",
    "tasks": "steps",
}


class Wrong(Struct, frozen=True):
    """What is wrong with a value, or with one item of it.

    :ivar at: the item in the value, where there is one.
    """

    reason: str
    at: tuple[str | int, ...] = ()


class BadValue(Exception):
    """A value is not as it has to be.

    :ivar wrongs: everything that is wrong with it.
    """

    def __init__(self, *wrongs: str | Wrong) -> None:
        super().__init__(*wrongs)
        self.wrongs = [wrong if isinstance(wrong, Wrong) else Wrong(wrong) for wrong in wrongs]


class Work(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What one instance of a step is, as far as it is known before anything runs.

    The fields are those of :class:`~bzzz.tasks.submission.Submission`, but ``inputs``: paths of
    the submitter's files, relative to the directory of the workflow's file.
    """

    command: tuple[str, ...] = ()
    env: dict[str, str] = {}
    where: str = ""
    on: str = ""
    cpus: float = 1.0
    memory: int = 0
    gpus: int = 0
    timeout: float = 0.0
    retries: int = 0
    restart: bool = True
    priority: int = 0
    profile: str = "default"
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()


def meant(wrong: str, known: Iterable[str]) -> str:
    """`` (did you mean 'that'?)`` where a known word is close, else nothing."""
    known = list(known)
    other = ELSEWHERE.get(re.sub("[-_]", "", wrong.lower()), "")
    close = [other] if other in known else difflib.get_close_matches(wrong[:MAX_NAME], known, n=1)
    return f" (did you mean '{close[0]}'?)" if close else ""


def show(value: object) -> str:
    """A value for a message, shortened. What has others in it is not shown."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return "a table"
    if isinstance(value, list | tuple):
        return "a list"
    try:
        shown = repr(value) if isinstance(value, str | int | float) else str(value)
    except ValueError:  # a number of thousands of digits, written in base 16
        return "a number"
    return shown if len(shown) <= 80 else shown[:77] + "..."


def text(value: object) -> str:
    """A string that a command line can have."""
    if not isinstance(value, str):
        raise BadValue(f"{show(value)} is not a string (write it in quotes)")
    if "\0" in value:
        raise BadValue("it has a zero byte, which no command line can have")
    return value


def _named(most: int) -> Callable[[object], str]:
    def check(value: object) -> str:
        value = text(value)
        if not value or len(value) > most or not value.isprintable():
            raise BadValue(f"{show(value)} is empty, not printable or longer than {most}")
        return value

    return check


name_of: Final = _named(MAX_NAME)


def _is_number(value: object) -> TypeGuard[int | float]:
    """Whether it is one, which neither a boolean is, nor NaN."""
    if isinstance(value, float):
        return not math.isnan(value)
    return isinstance(value, int) and not isinstance(value, bool)


def seconds(value: object) -> float:
    """A length of time: seconds, or a number with its unit."""
    wrong = f"{show(value)} is not a time (write for example 30, '500ms' or '10m')"
    if isinstance(value, str):
        found = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)\s*([a-z]*)", value.strip(), re.ASCII)
        if found is None or (found[2] or "s") not in TIMES:
            raise BadValue(wrong)
        number = float(found[1]) * TIMES[found[2] or "s"]
    elif not _is_number(value):
        raise BadValue(wrong)
    else:
        number = value
    if not 0 <= number <= MAX_SECONDS:
        raise BadValue(f"{show(value)} is not between 0 and {MAX_SECONDS / 86400:g} days")
    return float(number)


def size(value: object) -> int:
    """A number of bytes: with its unit, or as it is."""
    number = value
    if isinstance(value, str):
        found = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)\s*([A-Za-z]*)", value.strip())
        if found is None or (found[2] or "B") not in SIZES:
            raise BadValue(f"{show(value)} is not a size (write for example '512MiB' or '2GiB')")
        number = int(float(found[1]) * SIZES[found[2] or "B"])
    if isinstance(number, bool) or not isinstance(number, int):
        raise BadValue(f"{show(value)} is not a size (write for example '512MiB' or '2GiB')")
    if 0 < number < MIN_MEMORY:
        raise BadValue(f"{show(value)} is less than 1 MiB (write the unit: '512MiB' or '2GiB')")
    if not 0 <= number <= MAX_MEMORY:
        raise BadValue(f"{show(value)} is not between 0 and {MAX_MEMORY >> 40} TiB")
    return number


def whole(least: int, most: int) -> Callable[[object], int]:
    """A whole number in a range."""

    def check(value: object) -> int:
        if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,18}", value, re.ASCII):
            raise BadValue(f"{show(value)} is not a whole number (write it without quotes)")
        if isinstance(value, bool) or not isinstance(value, int):
            raise BadValue(f"{show(value)} is not a whole number")
        if not least <= value <= most:
            raise BadValue(f"{show(value)} is not between {least} and {most}")
        return value

    return check


def _cores(value: object) -> float:
    if not _is_number(value):
        raise BadValue(f"{show(value)} is not a number of cores (write for example 2 or 0.5)")
    if not 0 <= value <= 65536:
        raise BadValue(f"{show(value)} is not between 0 and 65536")
    return float(value)


def _boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise BadValue(f"{show(value)} is neither true nor false (write it without quotes)")
    return value


def _where(value: object) -> str:
    value = text(value)
    if not value.strip() or len(value) > MAX_WHERE:
        raise BadValue(f"it is empty or longer than {MAX_WHERE} (leave it out for every node)")
    return value


def _run(value: object) -> tuple[str, ...]:
    value = text(value)
    if not value.strip():
        raise BadValue("it is empty (write what the shell is to run)")
    return (*SHELL, value)


def items(value: object, most: int, one: Callable[[object], str]) -> tuple[str, ...]:
    """A list, each item of which satisfies ``one``."""
    if not isinstance(value, list | tuple):
        hint = f" (write [{show(value)}])" if isinstance(value, str) else ""
        raise BadValue(f"{show(value)} is not a list{hint}")
    if len(value) > most:
        raise BadValue(f"{len(value)} items are more than {most}")
    good, wrongs = [], []
    for number, item in enumerate(value):
        try:
            good.append(one(item))
        except BadValue as bad:
            wrongs += [Wrong(wrong.reason, (number, *wrong.at)) for wrong in bad.wrongs]
    if wrongs:
        raise BadValue(*wrongs)
    return tuple(good)


def _command(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        raise BadValue(
            f"{show(value)} is not a list (write each word in quotes of its own, as in"
            " ['make', '-j8'], or call it run, for the shell)"
        )
    words = items(value, MAX_WORDS, text)
    if not words or not words[0]:
        raise BadValue("it has no program (its first word)")
    return words


def _env(value: object) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise BadValue(f"{show(value)} is not a table (write {{ NAME = 'value' }})")
    if len(value) > MAX_WORDS:
        raise BadValue(f"{len(value)} variables are more than {MAX_WORDS}")
    good, wrongs = {}, []
    for name, said in value.items():
        if ENV_NAME.fullmatch(name) is None:
            reason = "is no name of a variable (letters, digits and _, not first a digit)"
            wrongs.append(Wrong(f"{show(name)} {reason}", (name,)))
        elif name.startswith(RESERVED_ENV):
            wrongs.append(Wrong(f"{show(name)} is set by the node (choose another name)", (name,)))
        else:
            try:
                good[name] = text(said)
            except BadValue as bad:
                wrongs += [Wrong(f"{name}: {wrong.reason}", (name,)) for wrong in bad.wrongs]
    if wrongs:
        raise BadValue(*wrongs)
    return good


def path(value: object) -> str:
    """A path, or a glob, below the directory that it is relative to."""
    value = text(value)
    if len(value) > MAX_PATH:
        raise BadValue(f"it is longer than {MAX_PATH}")
    try:
        return normal(value)
    except BadPath as bad:
        raise BadValue(str(bad)) from None


def _paths(value: object) -> tuple[str, ...]:
    return tuple(dict.fromkeys(items(value, MAX_FILES, path)))


def _globs(value: object) -> tuple[str, ...]:
    globs = _paths(value)
    wrongs = []
    for number, glob in enumerate(globs):
        if glob == ".":
            reason = "'.' would keep what the step was given too (name what it makes, or '*')"
            wrongs.append(Wrong(reason, (number,)))
        elif glob.count("/") >= MAX_COMPONENTS:
            wrongs.append(Wrong(f"{show(glob)} has more than {MAX_COMPONENTS} names", (number,)))
    if wrongs:
        raise BadValue(*wrongs)
    return globs


def _inputs(value: object) -> tuple[str, ...]:
    paths = _paths(value)
    wrongs = []
    for each in paths:
        parents = {".", *(each[:at] for at, letter in enumerate(each) if letter == "/")} - {each}
        for other in sorted(parents.intersection(paths)):
            wrongs.append(Wrong(f"{show(each)} is in {show(other)} already (leave one out)"))
    if wrongs:
        raise BadValue(*wrongs)
    return paths


# The key in the file: the field of Work, and what reads it.
FIELDS: Final[Mapping[str, tuple[str, Callable[[object], Any]]]] = {
    "run": ("command", _run),
    "command": ("command", _command),
    "env": ("env", _env),
    "where": ("where", _where),
    "on": ("on", _named(MAX_NAME)),
    "cpus": ("cpus", _cores),
    "memory": ("memory", size),
    "gpus": ("gpus", whole(0, 64)),
    "timeout": ("timeout", seconds),
    "retries": ("retries", whole(0, 1000)),
    "restart": ("restart", _boolean),
    "priority": ("priority", whole(-1000, 1000)),
    "profile": ("profile", _named(MAX_PROFILE)),
    "in": ("inputs", _inputs),
    "out": ("outputs", _globs),
}

# Keys that may be said once for all steps.
DEFAULTS: Final = tuple(key for key in FIELDS if key not in ("run", "command", "in", "out"))

# Keys that are numbers; a reference to the matrix in quotes can stand for one.
NUMBERS: Final = ("cpus", "gpus", "retries", "priority")


def read(key: str, value: object, *, referred: bool = False) -> Any:
    """The value of a key of :data:`FIELDS`.

    :param referred: it had references to the matrix, so it is text now whatever it is to be.
    :raises BadValue: it is not as it has to be.
    """
    if referred and key in NUMBERS and isinstance(value, str):
        if re.fullmatch(r"-?[0-9]{1,18}", value, re.ASCII):
            value = int(value)
        elif re.fullmatch(r"[0-9]{1,18}\.[0-9]{1,18}", value, re.ASCII):
            value = float(value)
    return FIELDS[key][1](value)
