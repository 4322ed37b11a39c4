"""What is wrong with a text that is no TOML, in words that say what to do.

Enters: the message of tomllib's error. Leaves: line, column, and a reason.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["explained"]

PLACE: Final = re.compile(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", re.DOTALL)

# What Python does not read as a number.
LONG_NUMBER: Final = re.compile(r"[0-9][0-9_]{4299,}")

# What tomllib's messages begin with, and how it is said here. Others are told as they are.
REASONS: Final = (
    ("Invalid statement", "this is neither a key with its value nor a [table]"),
    ("Expected '=' after a key", "after the key an = is missing (write key = value)"),
    ("Expected newline or end", "there is something behind the value (write one key in a line)"),
    ("Expected ']' at the end of a table", "the name of the table has no ] behind it"),
    ("Expected ']]' at the end", "the name of the table has no ]] behind it"),
    ("Invalid value", "this is no value (write texts in quotes, and true and false small)"),
    ("Invalid initial character for a key", "this is no key (put what is not a word in quotes)"),
    ("Invalid date or datetime", "there is no such date (write texts in quotes)"),
    ("Unclosed array", "a list has no ] at its end, or a comma is missing in it"),
    ("Unclosed inline table", "a table has no } at its end, or a comma is missing in it"),
    ("Unterminated string", "a string has no quotes at its end"),
    ("Expected \"'", "a string has no ' at its end"),
    ("Found invalid character", "a string has no ' at the end of its line, or this may be in none"),
    (
        "Unescaped '\\' in a string",
        "a backslash in \"...\" begins a code that there is not (write it twice, or use '...')",
    ),
    ("Cannot overwrite a value", "this was given a value before (remove one of the two)"),
    ("Duplicate inline table key", "a key is there twice in this table (remove one of the two)"),
    ("Cannot declare", "this table was there before (put both into one)"),
    ("Cannot redefine namespace", "this table was there before (put both into one)"),
    ("Cannot mutate immutable", "a list or table that was written in one line cannot grow"),
    (
        "Illegal character '\\n'",
        'a string has no quotes at the end of its line (write """ for one of several lines)',
    ),
)


def explained(message: str, text: str) -> tuple[int, int, str]:
    """Line and column, each from 1, and the reason.

    :param message: of the error that tomllib raised for the text.
    """
    found = PLACE.fullmatch(message)
    if found is None:
        number = LONG_NUMBER.search(text)
        if number is None:
            return 1, 0, message
        return text.count("\n", 0, number.start()) + 1, 0, "a number has thousands of digits"
    reason = found[1]
    for start, words in REASONS:
        if reason.startswith(start):
            reason = words
    if found[2] is None:
        if found[1] == "Invalid value":
            reason = "a value is missing, or a list has no ]"
        *before, last = text.rstrip("\n").split("\n")
        return len(before) + 1, len(last) + 1, f"{reason} (at the end of the file)"
    return int(found[2]), int(found[3]), reason
