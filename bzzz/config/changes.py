"""What a configuration that was read again changes in a running node."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from types import MappingProxyType

from bzzz.config.options import OPTIONS, Config

__all__ = ["Changes", "changes"]


@dataclass(frozen=True)
class Changes:
    """The difference of two configurations.

    :ivar config: in effect afterwards.
    :ivar now: keys that change in the running node.
    :ivar later: keys whose new values wait for a restart.
    """

    config: Config
    now: tuple[str, ...]
    later: tuple[str, ...]


def changes(old: Config, new: Config) -> Changes:
    """What becomes of a node that was started with ``old`` when ``new`` is read."""
    different = [
        option for option in OPTIONS if getattr(old, option.key) != getattr(new, option.key)
    ]
    now = tuple(option.key for option in different if option.live)
    later = tuple(option.key for option in different if not option.live)
    # A value that has not changed may have moved to another line, or from the file to a flag.
    sources = {key: where for key, where in new.sources.items() if key not in later}
    sources |= {key: old.sources[key] for key in later if key in old.sources}
    values = {key: getattr(new, key) for key in now}
    config = dataclasses.replace(old, **values, sources=MappingProxyType(sources))
    return Changes(config, now, later)
