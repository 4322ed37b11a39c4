"""All members that can be asked about tasks, this node with them, and how long that may take."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from typing import Final, NoReturn

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from bzzz.identity.peer_id import PeerID
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
        self._clock = clock
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
        if not isinstance(request, Register | Renew):
            # These are sent again without an answer anyway.
            asking.addTimeout(ANSWER_SECONDS, self._clock, partial(_late, peer))
        return asking


def _late(peer: PeerID, result: object, seconds: float) -> NoReturn:
    raise AnswerLost(f"{peer} did not answer within {seconds:g} s")
