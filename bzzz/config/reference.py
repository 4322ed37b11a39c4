"""The reference of the configuration as reST, from the table."""

from __future__ import annotations

from collections.abc import Iterator

from bzzz.config.kinds import Boolean
from bzzz.config.options import OPTIONS, Option

__all__ = ["reference"]


def _entry(option: Option) -> Iterator[str]:
    yield f".. _config-{option.key.replace('_', '-')}:"
    yield ""
    yield f"``{option.key}``"
    yield "-" * (len(option.key) + 4)
    yield ""
    yield option.help
    yield ""
    if isinstance(option.kind, Boolean):
        flag = f"``{option.flag}`` or ``--no-{option.flag[2:]}``"
    else:
        flag = f"``{option.flag} {option.kind.metavar}``"
    if option.kind.repeatable:
        flag += ", repeatable"
    variable = f"``{option.variable}``"
    if option.kind.repeatable:
        variable += ", separated by commas"
    yield f":Flag: {flag}"
    yield f":Environment: {variable}"
    yield f":Default: {option.default_text}"
    yield f":Why: {option.reason}"
    yield f":Changes: {'by a reload' if option.live else 'at the next start'}"
    yield ""


def reference() -> str:
    """A section for each option."""
    return "\n".join(line for option in OPTIONS for line in _entry(option))
