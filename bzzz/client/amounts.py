"""Sizes and times as people write them.

Enters: a number, or a text such as ``4GiB`` or ``10m``. Leaves: bytes, or seconds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

__all__ = ["MAX_BYTES", "MAX_DAYS", "seconds", "size"]

SIZES: Final = {
    "": 1,
    "b": 1,
    "k": 1 << 10,
    "kib": 1 << 10,
    "kb": 1000,
    "m": 1 << 20,
    "mib": 1 << 20,
    "mb": 1000**2,
    "g": 1 << 30,
    "gib": 1 << 30,
    "gb": 1000**3,
    "t": 1 << 40,
    "tib": 1 << 40,
    "tb": 1000**4,
}
TIMES: Final = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}

# The greatest that a node takes (:mod:`bzzz.tasks.submission`).
MAX_BYTES: Final = 1 << 53
MAX_DAYS: Final = 366

# Letters of what was given that an error shows.
MAX_SHOWN: Final = 40

_AMOUNT: Final = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*", re.ASCII)


def size(given: int | str, option: str) -> int:
    """Bytes: ``4GiB``, ``512M``, ``1000``.

    :raises ValueError: it is none, or too large.
    """
    said = _said(given, option)
    amount = given if isinstance(given, int) else _amount(given, SIZES, said, "512MiB or 4GiB")
    if not 0 <= amount <= MAX_BYTES:
        raise ValueError(f"{said}: it is from 0 to {MAX_BYTES >> 40}TiB")
    return int(amount)


def seconds(given: float | str, option: str) -> float:
    """Seconds: ``90s``, ``10m``, ``2h``, ``90``.

    :raises ValueError: it is none, or too long.
    """
    said = _said(given, option)
    amount = _amount(given, TIMES, said, "90s, 10m or 2h") if isinstance(given, str) else given
    if not 0 <= amount <= MAX_DAYS * 86400:
        # So it is of NaN.
        raise ValueError(f"{said}: it is from 0s to {MAX_DAYS}d")
    return float(amount)


def _said(given: object, option: str) -> str:
    try:
        shown = repr(given)
    except ValueError:  # a whole number of thousands of digits
        shown = "a number"
    return f"{option}={shown if len(shown) <= MAX_SHOWN else shown[:MAX_SHOWN] + '...'}"


def _amount(text: str, units: Mapping[str, float], said: str, examples: str) -> float:
    """What a text says; infinity for what is more than any number.

    :raises ValueError: it is no amount.
    """
    found = _AMOUNT.fullmatch(text)
    if found is None or found[2].lower() not in units:
        raise ValueError(f"{said}: it is written as {examples}")
    return float(found[1]) * units[found[2].lower()]
