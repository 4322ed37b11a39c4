"""From flags, environment and file to one :class:`Config`; what is given first in this list wins.

A list or a table given in one place replaces that of another; they are never merged, so that what
is in effect can be read in one place.
"""

from __future__ import annotations

import difflib
import os
import re
import stat
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from bzzz.config import places
from bzzz.config.kinds import BadValue
from bzzz.config.options import OPTIONS, Config
from bzzz.errors import ConfigError

__all__ = ["CONFIG_VARIABLE", "load", "problems_of_file"]

# The --config flag's own variable.
CONFIG_VARIABLE = "BZZZ_CONFIG"

# Variables that are of no option: the file, and the token of bzzz join.
NO_OPTIONS = (CONFIG_VARIABLE, "BZZZ_JOIN_TOKEN")

# A configuration file longer than this is some other file.
MAX_FILE_BYTES = 1 << 20

BY_KEY = {option.key: option for option in OPTIONS}
BY_VARIABLE = {option.variable: option for option in OPTIONS}

# What one source says: key -> (value, where).
Said = dict[str, tuple[Any, str]]


def load(
    flags: Mapping[str, Sequence[str]], environ: Mapping[str, str], file: str | None = None
) -> Config:
    """The configuration in effect.

    :param flags: key -> the texts given for its flag, in order.
    :param file: the file of ``--config``; without it ``$BZZZ_CONFIG``, else the user's own
        ``bzzz/bzzz.toml`` in the XDG configuration directory if that exists.
    :raises ConfigError: with the first thing that is wrong, in one line.
    """
    said: Said = {}
    problems: list[str] = []
    path = file or environ.get(CONFIG_VARIABLE)
    if path:
        said.update(_from_file(Path(path).expanduser(), problems))
    elif os.path.isfile(usual := places.config_file(environ)):
        # Not Path.is_file(), which raises where $HOME is another user's and closed.
        said.update(_from_file(usual, problems))
    said.update(_from_environment(environ, problems))
    said.update(_from_flags(flags, problems))
    if problems:
        raise ConfigError(problems[0])
    values = {option.key: option.default(environ) for option in OPTIONS}
    values.update((key, value) for key, (value, _) in said.items())
    sources = MappingProxyType({key: where for key, (_, where) in said.items()})
    return Config(**values, sources=sources)


def problems_of_file(path: Path) -> list[str]:
    """Everything that is wrong with a file, a line each."""
    problems: list[str] = []
    _from_file(path, problems)
    return problems


def _from_flags(flags: Mapping[str, Sequence[str]], problems: list[str]) -> Said:
    said: Said = {}
    for key, texts in flags.items():
        option = BY_KEY[key]
        try:
            value = option.kind.from_texts(list(texts))
            flag = f"--no-{option.flag[2:]}" if value is False else option.flag
            said[key] = (value, f"flag {flag}")
        except BadValue as bad:
            problems.append(f"{option.flag}: {bad}")
    return said


def _from_environment(environ: Mapping[str, str], problems: list[str]) -> Said:
    said: Said = {}
    for variable in sorted(environ):
        # A variable that is set to nothing counts as not set: unit files and shells leave such.
        if not variable.startswith("BZZZ_") or variable in NO_OPTIONS or not environ[variable]:
            continue
        option = BY_VARIABLE.get(variable)
        if option is None:
            problems.append(
                f"environment {variable}: unknown variable{_meant(variable, BY_VARIABLE)}"
            )
            continue
        try:
            said[option.key] = (
                option.kind.from_text(environ[variable]),
                f"environment {variable}",
            )
        except BadValue as bad:
            problems.append(f"environment {variable}: {bad}")
    return said


def _from_file(path: Path, problems: list[str]) -> Said:
    text = _read(path, problems)
    if text is None:
        return {}
    try:
        table = tomllib.loads(text)
    except RecursionError:
        problems.append(f"{path}: not valid TOML: nested too deeply")
        return {}
    except ValueError as error:  # TOMLDecodeError, and numbers of thousands of digits
        found = re.fullmatch(r"(.*) \(at line (\d+), column \d+\)", str(error), re.DOTALL)
        where, reason = (f"{path}:{found[2]}", found[1]) if found else (str(path), str(error))
        if not isinstance(error, tomllib.TOMLDecodeError):
            reason = "a number has thousands of digits"
        problems.append(f"{where}: not valid TOML: {reason}")
        return {}
    said: Said = {}
    lines = text.splitlines()
    # In the order of the file, so that the first problem reported is the first in the file.
    for line, key in sorted((_line_of(lines, key), key) for key in table):
        option = BY_KEY.get(key)
        if option is None:
            problems.append(f"{path}:{line}: unknown key {key!r}{_meant(key, BY_KEY)}")
            continue
        try:
            said[key] = (option.kind.from_toml(table[key]), f"{path}:{line}")
        except BadValue as bad:
            problems.append(f"{path}:{line}: {key}: {bad}")
    return said


def _read(path: Path, problems: list[str]) -> str | None:
    try:
        # A FIFO in its place would keep a running node that reads it again for ever.
        with open(path, "rb", opener=_without_waiting) as stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                problems.append(f"{path}: not a file")
                return None
            content = stream.read(MAX_FILE_BYTES + 1)
        if len(content) > MAX_FILE_BYTES:
            problems.append(f"{path}: longer than {MAX_FILE_BYTES} bytes, not a configuration file")
            return None
        return content.decode("utf-8")
    except UnicodeDecodeError:
        problems.append(f"{path}: not valid TOML: it is not UTF-8 text")
    except OSError as error:
        problems.append(f"{path}: cannot be read: {error.strerror}")
    return None


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def _line_of(lines: Sequence[str], key: str) -> int:
    """The line of a top-level key or table, which tomllib does not tell; 1 if it is not found."""
    name = rf"(?:{re.escape(key)}|\"{re.escape(key)}\"|'{re.escape(key)}')"
    start = re.compile(rf"\s*(?:{name}\s*[=.]|\[\[?\s*{name}\s*[\].])")
    for number, line in enumerate(lines, 1):
        if start.match(line):
            return number
    return 1


def _meant(wrong: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(wrong, list(known), n=1)
    return f" (did you mean '{close[0]}'?)" if close else ""
