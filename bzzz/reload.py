"""The configuration, read again while the node runs.

Enters: the wish to read it (SIGHUP). Leaves: a node in which what can change has changed; or an
error in the log, and a node that is as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from bzzz.config import Config
from bzzz.config.changes import Changes, changes
from bzzz.errors import BzzzError
from bzzz.net.background import in_background

__all__ = ["Reload"]

Apply = Callable[[Config], object]


class Reload:
    """Reads the configuration and changes the node.

    :param config: with which the node was started.
    :param read: reads it again as at the start; may block. Raises :class:`BzzzError`.
    :param in_thread: runs a function in a thread.
    :param appliers: for each key that can change in a running node, what changes it. One that
        several keys share is called once.
    :param begin: called before, and ``end`` after, whatever comes of it.
    :ivar config: in effect.
    """

    _log = Logger()

    def __init__(
        self,
        config: Config,
        read: Callable[[], Config],
        in_thread: Callable[[Callable[[], Config]], Deferred[Config]],
        appliers: Mapping[str, Apply],
        begin: Callable[[], object],
        end: Callable[[], object],
    ) -> None:
        self.config = config
        self._read = read
        self._in_thread = in_thread
        self._appliers = appliers
        self._begin = begin
        self._end = end
        self._wanted = False
        self._running = False

    def reload(self) -> None:
        """Read it now; or once more after the reading that is under way."""
        self._wanted = True
        if not self._running:
            self._running = True
            in_background(self._reload(), "reading the configuration again", self._log)

    async def _reload(self) -> None:
        try:
            while self._wanted:
                self._wanted = False
                self._begin()
                try:
                    await self._once()
                finally:
                    self._end()
        finally:
            self._running = False

    def _apply(self, found: Changes) -> list[str]:
        """Change the node; returns the keys that could not be, for a mistake of ours."""
        failed: list[str] = []
        for apply in dict.fromkeys(self._appliers[key] for key in found.now):
            keys = [key for key in found.now if self._appliers[key] == apply]
            try:
                apply(found.config)
            except Exception:  # noqa: BLE001 - the others are to be changed all the same
                self._log.failure(
                    "{keys} cannot be changed in the running node; restart it", keys=", ".join(keys)
                )
                failed += keys
        return failed

    async def _once(self) -> None:
        try:
            new = await self._in_thread(self._read)
        except BzzzError as error:
            self._log.error(
                "The configuration was read again and is wrong: {error}."
                " The node runs on as before",
                error=str(error),
                event="reload_refused",
            )
            return
        found = changes(self.config, new)
        failed = self._apply(found)
        done = [key for key in found.now if key not in failed]
        kept = {key: getattr(self.config, key) for key in failed}
        self.config = replace(found.config, **kept)
        self._log.info(
            "The configuration was read again: {what}",
            what=f"{', '.join(done)} changed" if done else "nothing new",
            event="reloaded",
        )
        if found.later:
            self._log.warn(
                "{keys} changed in the configuration, and will at the next start only",
                keys=", ".join(found.later),
                event="restart_needed",
            )
