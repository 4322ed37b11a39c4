"""All members that can be asked about tasks, this node with them, and how long that may take."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from bzzz.identity.peer_id import PeerID
from bzzz.net.alarms import Alarms
from bzzz.net.calls import AnswerLost
from bzzz.tasks.interfaces import Peers
from bzzz.tasks.messages import Answer, Register, Renew, Request

__all__ = ["ANSWER_SECONDS", "Everyone"]

# Seconds for an answer. A change of a record that a peer makes for it takes ten at most.
ANSWER_SECONDS: Final = 30.0


class Everyone:
    """Implements :class:`~bzzz.tasks.interfaces.Peers` with this node, which asks itself.

    :param answer: what this node answers.
    """

    def __init__(
        self,
        clock: IReactorTime,
        own: PeerID,
        others: Peers,
        answer: Callable[[PeerID, Request], Deferred[Answer]],
    ) -> None:
        self._alarms = Alarms(clock)
        self._own = own
        self._others = others
        self._answer = answer

    def linked(self) -> Collection[PeerID]:
        """Those that can be asked now, without this node."""
        return self._others.linked()

    def ask(self, peer: PeerID, request: Request) -> Deferred[Answer]:
        """See :class:`~bzzz.tasks.interfaces.Peers`. It fails after :data:`ANSWER_SECONDS`, unless
        it is this node that has to answer."""
        if peer == self._own:
            return self._answer(peer, request)
        asking = self._others.ask(peer, request)
        if isinstance(request, Register | Renew):
            # These are sent again without an answer anyway.
            return asking
        return self._within(asking, peer)

    def stop(self) -> None:
        """Nothing more is asked; what was is answered, or not in time."""
        self._alarms.tidy()

    def send_now(self) -> None:
        """See :class:`~bzzz.tasks.interfaces.Peers`."""
        self._others.send_now()

    def _within(self, asking: Deferred[Answer], peer: PeerID) -> Deferred[Answer]:
        late = False

        def cancel() -> None:
            nonlocal late
            late = True
            asking.cancel()

        alarm = self._alarms.call_later(ANSWER_SECONDS, cancel)

        def over(result: Answer | Failure) -> Answer | Failure:
            alarm.cancel()
            if late and isinstance(result, Failure):
                raise AnswerLost(f"{peer} did not answer within {ANSWER_SECONDS:g} s")
            return result

        return asking.addBoth(over)
