"""A node without a link says so.

Enters: that the last link is gone, or that there is one. Leaves: a warning and an event after a
while, and again ever more rarely as long as it lasts.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from bzzz.net.interfaces import Clock

__all__ = ["ALONE", "Alone"]

# A node without a link says so after this many seconds, and again when it has lasted these.
ALONE = (10.0, 60.0, 600.0, 3600.0)


class Alone:
    """The notice of one node.

    :param tried: what has been tried so far, in words.
    :param claimed: how many peers are known to be in a cluster that this node is not in.
    :param emit: takes an event's name and its fields.
    """

    _log = Logger()

    def __init__(
        self,
        clock: Clock,
        tried: Callable[[], str],
        claimed: Callable[[], int],
        emit: Callable[..., None],
    ) -> None:
        self._clock = clock
        self._tried = tried
        self._claimed = claimed
        self._emit = emit
        self._since = clock.seconds()
        self._said = 0
        self._timer: IDelayedCall | None = None

    def begin(self) -> None:
        """From now on there is no link."""
        self.end()
        self._since = self._clock.seconds()
        self._timer = self._clock.callLater(ALONE[0], self._say)

    def end(self) -> None:
        """There is one, or the node stops."""
        self._said = 0
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None

    def _say(self) -> None:
        alone = self._clock.seconds() - self._since
        self._log.warn(
            "Alone for {seconds:.0f} s: no other node is linked. Tried: {tried}. {hint}",
            seconds=alone,
            tried=self._tried(),
            hint=self._hint(),
            event="alone",
        )
        self._emit("alone", seconds=alone)
        self._said = min(self._said + 1, len(ALONE) - 1)
        following = ALONE[self._said]
        delay = following - alone if following > alone else ALONE[-1]
        self._timer = self._clock.callLater(delay, self._say)

    def _hint(self) -> str:
        """What to do about it."""
        count = self._claimed()
        if not count:
            return "Look with: bzzz doctor"
        nodes = "One node belongs" if count == 1 else f"{count} nodes belong"
        return f"{nodes} to a cluster: bzzz invite there, bzzz join here"
