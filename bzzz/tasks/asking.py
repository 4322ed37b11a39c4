"""Asking replicas about a register (``docs/tasks.rst``, "Who may ask a replica").

Enters: what a proposer wants to ask, and the record that it goes by. Leaves: the answers of
replicas, to which that record was shown where they had none; none with a value of another task.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred

from bzzz.errors import RemoteProtocolError
from bzzz.identity.peer_id import PeerID
from bzzz.tasks.ballots import Accept, Answer, Prepare, Promise, Request, Unknown
from bzzz.tasks.interfaces import Peers
from bzzz.tasks.messages import Failed, Register, Told
from bzzz.tasks.record_checks import RecordChecks

__all__ = ["Asking"]


class Asking:
    """Asks for one node.

    :param checks: of what replicas say.
    """

    def __init__(self, peers: Peers, checks: RecordChecks) -> None:
        self._peers = peers
        self._checks = checks

    def ask(self, peer: PeerID, task: str, request: Request, shown: bytes) -> Deferred[Answer]:
        """See :data:`bzzz.tasks.registers.Ask`."""
        if isinstance(request, Accept):
            # Half of what is asked, and nobody has to be shown anything.
            asking = self._peers.ask(peer, Register(task, request))
            return asking.addCallback(_accepted, peer)
        return Deferred.fromCoroutine(self._ask(peer, task, request, shown))

    async def _ask(self, peer: PeerID, task: str, request: Prepare, shown: bytes) -> Answer:
        answer = _told(await self._peers.ask(peer, Register(task, request)), peer)
        if isinstance(answer, Unknown):
            asking = self._peers.ask(peer, Register(task, request, shown))
            answer = _accepted(await asking, peer)
        if isinstance(answer, Promise) and answer.accepted is not None:
            self._checks.check_promised(task, shown, answer.value)
        return answer


def _told(answer: object, peer: PeerID) -> Answer:
    if isinstance(answer, Told):
        return answer.answer
    reason = answer.reason if isinstance(answer, Failed) else "an answer of another kind"
    raise RemoteProtocolError(f"{peer} did not keep a record: {reason}")


def _accepted(answer: object, peer: PeerID) -> Answer:
    told = _told(answer, peer)
    if isinstance(told, Unknown):
        raise RemoteProtocolError(f"{peer} does not know what it was shown", "not_shown")
    return told
