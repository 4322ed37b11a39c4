"""Sizes for people, as the reasons have them that a shim tells."""

from __future__ import annotations

__all__ = ["size"]


def size(number: int) -> str:
    """``1.5 GiB``, ``100 MiB``, ``12 bytes``."""
    for shift, unit in ((40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")):
        if number >= 1 << shift:
            return f"{number / (1 << shift):.5g} {unit}"
    return f"{number} byte{'' if number == 1 else 's'}"
