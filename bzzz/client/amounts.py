"""Sizes and times as people write them.

Enters: a number, or a text such as ``4GiB`` or ``10m``. Leaves: bytes, or seconds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

__all__ = ["seconds", "size"]

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

_AMOUNT: Final = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*", re.ASCII)


def size(given: int | str, option: str) -> int:
    """Bytes: ``4GiB``, ``512M``, ``1000``.

    :raises ValueError: it is none.
    """
    if isinstance(given, int):
        return given
    return int(_amount(given, SIZES, f"{option}={given!r}: a size is written as 512MiB or 4GiB"))


def seconds(given: float | str, option: str) -> float:
    """Seconds: ``90s``, ``10m``, ``2h``, ``90``.

    :raises ValueError: it is none.
    """
    if isinstance(given, int | float):
        return float(given)
    return _amount(given, TIMES, f"{option}={given!r}: a time is written as 90s, 10m or 2h")


def _amount(text: str, units: Mapping[str, float], complaint: str) -> float:
    found = _AMOUNT.fullmatch(text)
    if found is None or found[2].lower() not in units:
        raise ValueError(complaint)
    return float(found[1]) * units[found[2].lower()]
