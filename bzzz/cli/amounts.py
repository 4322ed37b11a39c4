"""Sizes and times on the command line; how they are written is :mod:`bzzz.client.amounts`'."""

from __future__ import annotations

import click

from bzzz.client import amounts

__all__ = ["seconds", "size"]


def size(text: str, option: str) -> int:
    """Bytes: ``4GiB``, ``512M``, ``1000``.

    :raises click.BadParameter: it is none, or more than there can be.
    """
    try:
        return amounts.size(text, option)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def seconds(text: str, option: str) -> float:
    """Seconds: ``90s``, ``10m``, ``2h``, ``90``.

    :raises click.BadParameter: it is none, or more than there can be.
    """
    try:
        return amounts.seconds(text, option)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
