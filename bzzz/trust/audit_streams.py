"""The audit log's checkpoints, between members: given to others, kept for them, asked for.

Enters: links of members, this node's log as it grows, questions of others. Leaves: checkpoints on
``/bzzz/audit/1.0.0`` (:mod:`bzzz.trust.audit_asking`), and an error where one contradicts another.

A node gives its checkpoints to two linked members, chosen by rendezvous hashing (Thaler and
Ravishankar, 1998), so that each member has as many to keep for, and those of a node stay the same
while they are linked. docs/trust.rst, "Audit log".
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable

import msgspec
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import Protocol
from twisted.logger import Logger

from bzzz.errors import BzzzError, RemoteProtocolError
from bzzz.identity.peer_id import PeerID
from bzzz.net.background import in_background
from bzzz.net.interfaces import Clock
from bzzz.net.link import Link
from bzzz.net.swarm import Swarm
from bzzz.net.token_bucket import Rate
from bzzz.trust.audit import CHECKPOINT_LINES, CHECKPOINT_SECONDS, AuditLog
from bzzz.trust.audit_asking import (
    PROTOCOL,
    Answering,
    Found,
    FoundOne,
    Given,
    Question,
    ask,
    decode,
    factory,
)
from bzzz.trust.audit_chain import BadCheckpoint, Checkpoint, Kept
from bzzz.trust.audit_kept import MAX_KEPT, KeptCheckpoints, Verdict
from bzzz.wire.identify import Identify
from bzzz.wire.multiaddr import Multiaddr

__all__ = ["KEEPERS", "AuditStreams", "Collected", "keepers_of"]

# Members that a node gives its checkpoints to: one may be off when it is needed.
KEEPERS = 2

# Streams of this protocol that a member may open: a checkpoint costs 0.1 ms to check. An honest
# one gives one a minute, or one for each CHECKPOINT_LINES, and asks when its owner does.
RATE = Rate(32, 1.0)

# Seconds between two checkpoints of a node that writes much.
APART = 2.0

# Characters of an RFC 3339 time.
MAX_TIME = 24

# Seconds after which the same contradiction is told again.
CONTRADICTION_AGAIN = 3600.0


class Collected(msgspec.Struct):
    """What is kept of one node's log, by this node and by those that are linked.

    :ivar node: its peer ID.
    :ivar checkpoints: what is kept, and by whom.
    :ivar asked: how many members were asked.
    :ivar answered: how many of them answered.
    """

    node: str
    checkpoints: list[Kept]
    asked: int
    answered: int


def keepers_of(node: PeerID, members: Iterable[PeerID]) -> list[PeerID]:
    """Who of ``members`` keeps the checkpoints of ``node``."""

    def weight(member: PeerID) -> tuple[bytes, PeerID]:
        both = hashlib.blake2b(member.bytes, key=node.bytes[-32:], digest_size=16)
        return both.digest(), member

    return sorted((each for each in members if each != node), key=weight, reverse=True)[:KEEPERS]


class AuditStreams:
    """Gives this node's checkpoints away, and keeps those of others.

    Add it to the swarm's observers.

    :param own: this node's peer ID.
    :param log: this node's.
    :param kept: what it keeps of others.
    :param is_member: whether a peer is a member of this node's cluster.
    :param name_of: what a peer is called.
    """

    _log = Logger()

    def __init__(
        self,
        swarm: Swarm,
        own: PeerID,
        log: AuditLog,
        kept: KeptCheckpoints,
        clock: Clock,
        is_member: Callable[[PeerID], bool],
        name_of: Callable[[PeerID], str] = lambda peer: "",
    ) -> None:
        self._swarm = swarm
        self._own = own
        self._audit = log
        self._kept = kept
        self._clock = clock
        self._is_member = is_member
        self._name_of = name_of
        self._speaks: set[PeerID] = set()
        self._latest: Checkpoint | None = None
        self._made_at = float("-inf")
        self._timer: IDelayedCall | None = None
        # The number of the last checkpoint that a peer has or is being given.
        self._given: dict[PeerID, int] = {}
        self._giving: set[PeerID] = set()
        self._told: dict[tuple[str, str], float] = {}
        self._stopped = False
        swarm.handle(PROTOCOL, factory(self._answering), rate=RATE)
        log.on_written(self._written)

    def stop(self) -> None:
        """Give nothing away any more."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def collect(self, node: PeerID) -> Deferred[Collected]:
        """What this node and those that are linked keep of a node's log.

        :return: fires after :data:`~bzzz.trust.audit_asking.ANSWER_SECONDS` at the latest.
        """
        return Deferred.fromCoroutine(self._collect(node))

    # -- swarm observer

    def link_up(self, link: Link) -> None:
        """Identify follows, and says whether the peer speaks this."""

    def link_down(self, link: Link, reason: str) -> None:
        """Others may be the keepers now."""
        peer = link.remote_peer
        self._speaks.discard(peer)
        self._given.pop(peer, None)
        self._give()

    def identified(self, link: Link, identify: Identify) -> None:
        """A peer said who it is: it may be a keeper."""
        if PROTOCOL in identify.protocols:
            self._speaks.add(link.remote_peer)
        else:
            self._speaks.discard(link.remote_peer)
        self._give()

    def copy_found(self, address: Multiaddr | None) -> None:
        """Not of interest here."""

    # -- giving

    def keepers(self) -> list[PeerID]:
        """Who keeps this node's checkpoints now."""
        linked = (peer for peer in self._speaks if peer in self._swarm.links)
        return keepers_of(self._own, filter(self._is_member, linked))

    def _written(self) -> None:
        """The log has grown."""
        head = self._audit.head
        if head is None or self._stopped:
            return
        since = 0 if self._latest is None else self._latest.seq
        wait = CHECKPOINT_SECONDS
        if head.seq - since >= CHECKPOINT_LINES:
            wait = max(0.0, self._made_at + APART - self._clock.seconds())
        if self._timer is not None:
            if self._timer.getTime() - self._clock.seconds() <= wait:
                return
            self._timer.cancel()
            self._timer = None
        if wait > 0:
            self._timer = self._clock.callLater(wait, self._due)
        else:
            self._make()

    def _due(self) -> None:
        self._timer = None
        self._make()

    def _make(self) -> None:
        self._latest = self._audit.checkpoint()
        self._made_at = self._clock.seconds()
        self._give()

    def _give(self) -> None:
        """Give the latest checkpoint to each keeper that has not got it."""
        latest = self._latest
        # After a rotation of the key peers still know this node by the old one, over old links.
        if latest is None or latest.node != str(self._own) or self._stopped:
            return
        for peer in self.keepers():
            if self._given.get(peer, 0) < latest.seq and peer not in self._giving:
                self._giving.add(peer)
                in_background(
                    self._give_to(self._swarm.links[peer], latest),
                    "giving a checkpoint of the audit log away",
                    self._log,
                )

    async def _give_to(self, link: Link, checkpoint: Checkpoint) -> None:
        peer = link.remote_peer
        self._given[peer] = checkpoint.seq
        try:
            message = await ask(link, Question(checkpoint=checkpoint), self._clock)
            answer = decode(message, Given, peer)
            if not answer.kept and answer.contradicts is not None:
                self._is_contradicted(peer, checkpoint, answer.contradicts)
        except BzzzError as error:
            self._failed(link, error)
            self._given.pop(peer, None)
            if self._timer is None and not self._stopped:
                self._timer = self._clock.callLater(CHECKPOINT_SECONDS, self._due)
        finally:
            self._giving.discard(peer)
        if self._latest is not checkpoint:
            self._give()

    def _is_contradicted(self, peer: PeerID, given: Checkpoint, kept: Checkpoint) -> None:
        """A keeper says that this node has said something else before."""
        try:
            kept.check()
        except BadCheckpoint as error:
            raise RemoteProtocolError(
                f"{peer} keeps what nobody signed: {error}", "audit_bad_signature"
            ) from error
        later = kept.seq > given.seq or (kept.seq == given.seq and kept.hash != given.hash)
        if kept.node != given.node or not later:
            raise RemoteProtocolError(
                f"{peer} sees a contradiction where there is none", "audit_bad_message"
            )
        if self._is_news(given.node, str(peer)):
            self._log.error(
                "{peer} keeps a checkpoint of line {seq} of this node's audit log, of {moment},"
                " that does not fit it: the log was written anew, or an older copy of the state"
                " directory was put in its place. To see where: bzzz audit verify",
                peer=self._called(peer),
                seq=kept.seq,
                moment=kept.time,
            )
            self._record(given, kept, str(peer))

    # -- keeping

    def answer(self, message: bytes, asker: PeerID) -> bytes:
        """What this node answers to a question.

        :raises RemoteProtocolError: it is none, or a checkpoint that the asker has not signed.
        """
        question = decode(message, Question, asker)
        if question.checkpoint is not None:
            return msgspec.json.encode(self._keep(question.checkpoint, asker))
        if question.of is None:
            raise RemoteProtocolError(f"{asker} asked for nothing", "audit_bad_message")
        kept = [FoundOne(each.checkpoint, each.received) for each in self._kept.of(question.of)]
        return msgspec.json.encode(Found(kept))

    def _keep(self, checkpoint: Checkpoint, asker: PeerID) -> Given:
        if checkpoint.node != str(asker):
            raise RemoteProtocolError(
                f"{asker} gave a checkpoint of another node", "audit_not_its_own"
            )
        try:
            checkpoint.check()
        except BadCheckpoint as error:
            raise RemoteProtocolError(str(error), "audit_bad_signature") from error
        verdict, other = self._kept.take(checkpoint)
        if verdict is not Verdict.CONTRADICTION:
            return Given(kept=True)
        if self._is_news(checkpoint.node, str(self._own)):
            self._log.error(
                "The audit log of {peer} contradicts itself: its line {seq} does not fit the"
                " checkpoint of line {kept} of {moment} that is kept here. It was written anew, or"
                " an older copy was put in its place. On that machine: bzzz audit verify",
                peer=self._called(asker),
                seq=checkpoint.seq,
                kept=other.seq,
                moment=other.time,
            )
            self._record(checkpoint, other, str(self._own))
        return Given(kept=False, contradicts=other)

    def _record(self, given: Checkpoint, kept: Checkpoint, kept_by: str) -> None:
        self._audit.record(
            "audit_contradiction",
            node=given.node,
            kept_by=kept_by,
            seq=given.seq,
            hash=given.hash,
            kept_seq=kept.seq,
            kept_hash=kept.hash,
            kept_time=kept.time,
        )

    def _is_news(self, node: str, kept_by: str) -> bool:
        """Whether a contradiction was not told lately; it comes with each checkpoint."""
        now = self._clock.seconds()
        if now - self._told.get((node, kept_by), float("-inf")) < CONTRADICTION_AGAIN:
            return False
        self._told = {pair: at for pair, at in self._told.items() if now - at < CONTRADICTION_AGAIN}
        self._told[node, kept_by] = now
        return True

    # -- asking

    async def _collect(self, node: PeerID) -> Collected:
        links = [
            link
            for peer, link in self._swarm.links.items()
            if peer in self._speaks and self._is_member(peer)
        ]
        asking = [Deferred.fromCoroutine(self._collect_from(link, node)) for link in links]
        answers = await gatherResults(asking)
        collected = Collected(str(node), self._kept.of(str(node)), len(links), 0)
        for answer in answers:
            if answer is not None:
                collected.answered += 1
                collected.checkpoints += answer
        return collected

    async def _collect_from(self, link: Link, node: PeerID) -> list[Kept] | None:
        peer = link.remote_peer
        try:
            found = decode(await ask(link, Question(of=str(node)), self._clock), Found, peer)
            names = self._name_of(node), self._name_of(peer)
            kept = []
            for each in found.checkpoints[:MAX_KEPT]:
                if each.checkpoint.node == str(node):
                    each.checkpoint.check()
                    received = each.received[:MAX_TIME]
                    kept.append(Kept(each.checkpoint, names[0], str(peer), names[1], received))
        except BzzzError as error:
            self._failed(link, error)
            return None
        return kept

    # -- inside

    def _answering(self, link: Link) -> Protocol | None:
        member = self._is_member(link.remote_peer)
        return Answering(self, link, self._clock) if member else None

    def offended(self, link: Link, error: RemoteProtocolError) -> None:
        """A peer broke the rules."""
        self._log.warn(
            "{peer} broke the rules of {protocol}: {error}",
            peer=self._called(link.remote_peer),
            protocol=PROTOCOL,
            error=error,
        )
        link.abort(f"{error} ({error.code})")

    def _failed(self, link: Link, error: BzzzError) -> None:
        if isinstance(error, RemoteProtocolError | BadCheckpoint):
            code = getattr(error, "code", "audit_bad_signature")
            self.offended(link, RemoteProtocolError(str(error), code))
            return
        # A peer that does not answer, or is going away, is nothing to report.
        self._log.debug(
            "{peer} could not be asked over {protocol}: {error}",
            peer=self._called(link.remote_peer),
            protocol=PROTOCOL,
            error=error,
        )

    def _called(self, peer: PeerID) -> str:
        name = self._name_of(peer)
        return f"{name} ({peer.short})" if name else str(peer)
