"""When which peer is asked for other peers.

A new peer is asked soon after its link came up. When a mesh forms, each node gets dozens of links
at once and asking each of them would be N questions with answers of N peers, on N nodes, for what
the first answers have told: so after :data:`BURST` questions the others wait, :data:`GAP` seconds
each, and up to :data:`PATIENCE` seconds until no handshake is under way, and by then have hardly
anything to tell.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall

from bzzz.net.interfaces import Clock
from bzzz.net.link import Link

__all__ = ["AFTER", "BURST", "GAP", "PATIENCE", "Asking"]

# A new link is asked after this many seconds: in a mesh that forms, most of the answer is known by
# then and need not be sent.
AFTER = 0.3

# Questions that may follow each other at once.
BURST = 4

# Between two questions after those, in seconds.
GAP = 1.0

# For so many seconds a mesh may form; somebody can have a handshake under way for ever.
PATIENCE = 20.0


class Asking:
    """Asks each new link once, a few at a time.

    :param ask: asks the peer of a link.
    :param calm: whether no mesh is forming.
    """

    def __init__(self, clock: Clock, ask: Callable[[Link], None], calm: Callable[[], bool]) -> None:
        self._clock = clock
        self._ask = ask
        self._calm = calm
        self._new: dict[Link, IDelayedCall] = {}
        self._waiting: dict[Link, None] = {}
        self._timer: IDelayedCall | None = None
        # When the questions so far would be over if each took GAP.
        self._until = clock.seconds()
        self._patient_until: float | None = None

    def link_up(self, link: Link) -> None:
        """A new link: it is asked soon."""
        self._new[link] = self._clock.callLater(AFTER, self._ready, link)

    def link_down(self, link: Link) -> None:
        """The link is gone."""
        self._waiting.pop(link, None)
        new = self._new.pop(link, None)
        if new is not None:
            new.cancel()

    def stop(self) -> None:
        """Ask no more."""
        for link in [*self._new, *self._waiting]:
            self.link_down(link)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _ready(self, link: Link) -> None:
        del self._new[link]
        self._waiting[link] = None
        if self._timer is None:
            self._go_on()

    def _go_on(self, are_many: bool = False) -> None:
        self._timer = None
        while self._waiting:
            now = self._clock.seconds()
            self._until = max(self._until, now)
            wait = self._until - now - (BURST - 1) * GAP
            if are_many and self._is_patient(now):
                wait = GAP
                self._until = now + BURST * GAP
            if wait > 0:
                self._timer = self._clock.callLater(wait, self._go_on, True)
                return
            self._until += GAP
            link = next(iter(self._waiting))
            del self._waiting[link]
            self._ask(link)
        self._patient_until = None

    def _is_patient(self, now: float) -> bool:
        if self._calm():
            return False
        if self._patient_until is None:
            self._patient_until = now + PATIENCE
        return now < self._patient_until
