"""A roster on the disk of a simulated machine."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.defer import Deferred, succeed

from bzzz.net.interfaces import Clock
from bzzz.trust.statements import SignedStatement

__all__ = ["SimRosterStore"]

# Seconds that an fsync takes. A machine that ends within them has not kept what was to be kept.
FSYNC = 0.004


class SimRosterStore:
    """Implements :class:`bzzz.trust.roster_store.RosterStore`.

    :param disk: what is kept; outlives the process.
    :param clock: of the process, which stands still when that has ended.
    """

    def __init__(self, disk: list[bytes], clock: Clock) -> None:
        self._disk = disk
        self._clock = clock

    def load(self) -> Deferred[list[bytes]]:
        """See :class:`RosterStore`."""
        return succeed(list(self._disk))

    def add(self, statements: Sequence[SignedStatement]) -> Deferred[None]:
        """See :class:`RosterStore`."""
        return self._write(statements, False)

    def replace(self, statements: Sequence[SignedStatement]) -> Deferred[None]:
        """See :class:`RosterStore`."""
        return self._write(statements, True)

    def clear(self) -> Deferred[None]:
        """See :class:`RosterStore`."""
        return self._write((), True)

    def _write(self, statements: Sequence[SignedStatement], alone: bool) -> Deferred[None]:
        written: Deferred[None] = Deferred()

        def write() -> None:
            if alone:
                self._disk.clear()
            for each in statements:
                encoded = each.encode()
                if encoded not in self._disk:
                    self._disk.append(encoded)
            written.callback(None)

        self._clock.callLater(FSYNC, write)
        return written
