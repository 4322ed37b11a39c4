"""``/bzzz/present/1.0.0``: proof of an admission that the other side has not heard of yet.

Enters: links on which this node is a guest although it is a member, or the other way round; what
peers present. Leaves: proofs, and statements to the cluster when they make the guest a member.
docs/trust.rst, "Proof of an admission".

Guests send their proofs at the same time, each until its deadline, so that one that is slow, or
silent, holds up nobody. What is whole is judged on a copy of the roster, a few statements at a
time, one proof after the other. The first statement that is wrong ends it, so that a guest can
cost this node one signature that is checked in vain per proof.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any
from weakref import WeakSet

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from bzzz.errors import BzzzError, RemoteProtocolError
from bzzz.net.accepting import HOSTS_PER_SUBNET, Place, place_of
from bzzz.net.guests import MAX_GUESTS
from bzzz.net.interfaces import Clock
from bzzz.net.link import Link
from bzzz.net.stream import Stream
from bzzz.net.swarm import Swarm
from bzzz.net.token_bucket import Rate, TokenBuckets
from bzzz.trust.cluster import Cluster
from bzzz.trust.roster import Roster
from bzzz.trust.roster_exchange import decode_batch, encode_batch
from bzzz.trust.statements import SignedStatement, StatementID
from bzzz.wire.framing import FrameReader, frame
from bzzz.wire.identify import Identify
from bzzz.wire.multiaddr import Multiaddr

__all__ = ["MAX_PROOF", "PROTOCOL", "Presenting"]

PROTOCOL = "/bzzz/present/1.0.0"

# Bytes of a proof: some 1500 statements. A member whose roster is longer waits until the other has
# heard of it from somebody else.
MAX_PROOF = 1 << 20

# Statements of a proof, none of which is as short: a million empty texts take 17 ms to read and
# 14 MB.
MAX_STATEMENTS = MAX_PROOF // 256

# Proofs judged in a minute, of one IP address; an IPv6 /64 has HOSTS_PER_SUBNET times as many. One
# that is good is needed once by each member that was away.
PER_MINUTE = 30
BURST = 10

# Addresses, and /64s, that are remembered for that: more than have guests at one time.
MAX_HOSTS = 1024

# Seconds that a guest has for sending its proof.
TIME_LIMIT = 5.0

# Proofs that come or wait to be judged: one of each guest. One more is refused.
MAX_WAITING = MAX_GUESTS

# Bytes of them that are held. Beyond it the longest goes, so that short ones always get through.
MAX_HELD = 4 * MAX_PROOF

# Statements judged before others have their turn: 1 ms.
SLICE = 6


class _Proof(msgspec.Struct):
    statements: list[str]


class Presenting:
    """Presents this node's admission, and judges what guests present.

    Add it to the swarm's observers.
    """

    _log = Logger()

    def __init__(self, swarm: Swarm, cluster: Cluster, clock: Clock) -> None:
        self._swarm = swarm
        self._cluster = cluster
        self._clock = clock
        rate = Rate(BURST, PER_MINUTE / 60)
        self._hosts = TokenBuckets[Place](rate, MAX_HOSTS)
        self._subnets = TokenBuckets[Place](rate * HOSTS_PER_SUBNET, MAX_HOSTS)
        self._last: tuple[Place, Place] = "", ""
        self._coming: list[_Judging] = []
        self._waiting: deque[_Judging] = deque()
        self._current: _Judging | None = None
        self._presented: WeakSet[Link] = WeakSet()
        swarm.handle(PROTOCOL, _Factory(lambda link: _Judging(self, link, clock)), guests=True)

    # -- swarm observer

    def link_up(self, link: Link) -> None:
        """Identify follows, and says what this node is to the peer."""

    def link_down(self, link: Link, reason: str) -> None:
        """Not of interest here: another link to the peer has a proof of its own."""

    def identified(self, link: Link, identify: Identify) -> None:
        """The peer takes this node for a guest: prove that it is a member."""
        roster, own = self._cluster.roster, self._cluster.peer_id
        if identify.guest and roster is not None and roster.admits(own):
            # The peer may have heard that it was revoked, and not that it is a member again.
            who = (own, link.remote_peer)
            said = [roster.members[each].statement for each in who if roster.admits(each)]
            self._present(link, roster.wanted(said, []))

    def copy_found(self, address: Multiaddr | None) -> None:
        """Not of interest here."""

    # -- for the streams

    def came(self, judging: _Judging) -> bool:
        """A guest wants to present something; whether it may."""
        link = judging.link
        there = (*self._coming, *self._waiting, self._current)
        if (
            self._cluster.roster is None
            or self._swarm.link_to(link.remote_peer) is None
            or len(self._coming) + len(self._waiting) >= MAX_WAITING
            or any(other is not None and other.link is link for other in there)
            or not self._may_judge(judging)
        ):
            return False
        self._coming.append(judging)
        return True

    def grew(self) -> None:
        """More of a proof is here."""
        held = [*self._coming, *self._waiting]
        if sum(each.held for each in held) > MAX_HELD:
            max(held, key=lambda each: each.held).give_up()

    def whole(self, judging: _Judging) -> None:
        """All of a proof is here."""
        self._coming.remove(judging)
        self._waiting.append(judging)
        self._next()

    def ended(self, judging: _Judging) -> None:
        """A proof has been judged, or is given up."""
        if judging in self._coming:
            self._coming.remove(judging)
        if judging in self._waiting:
            self._waiting.remove(judging)
        if self._current is judging:
            self._current = None
            self._next()

    def begin(self) -> Roster | None:
        """A copy of the roster to judge a proof on."""
        roster = self._cluster.roster
        return None if roster is None else roster.copy()

    def proved(
        self, link: Link, merged: Roster, new: list[SignedStatement], shown: Sequence[StatementID]
    ) -> None:
        """All of a proof is well-formed.

        :param shown: the statements in it.
        """
        peer, roster = link.remote_peer, self._cluster.roster
        if roster is None:
            return
        if merged.admits(peer):
            words = "was admitted to"
        elif roster.admits(peer):
            words = "is no member any more of"
        else:
            return
        self._log.info(
            "{peer} has proved that it {words} {cluster}",
            peer=peer,
            words=words,
            cluster=merged.cluster,
        )
        self._cluster.present(new)
        if merged.admits(peer) and not roster.admits(self._cluster.peer_id):
            # It takes this node for a member. Nobody else may know why it is none: it was about to
            # leave, or heard it of somebody who was cut off, too.
            self._present(link, roster.listed(roster.up_to(roster.heads) & ~roster.up_to(shown)))

    def _present(self, link: Link, statements: Sequence[SignedStatement]) -> None:
        """Show the peer what this node is, once on a link."""
        if link in self._presented or len(statements) > MAX_STATEMENTS:
            return
        message = msgspec.json.encode(_Proof(encode_batch(statements)))
        if len(message) > MAX_PROOF:
            return
        self._presented.add(link)
        opened: Deferred[Any] = link.open_stream(
            [PROTOCOL], _Factory(lambda _: _Presenting(message))
        )
        opened.addErrback(self._failed, link)

    def _next(self) -> None:
        if self._current is None and self._waiting:
            # Of another /64 than the last one, or else of another address: one machine that has
            # many, or presents many, would keep others out.
            host, subnet = self._last
            self._current = min(
                self._waiting, key=lambda each: (each.subnet == subnet, each.host == host)
            )
            self._waiting.remove(self._current)
            self._last = self._current.host, self._current.subnet
            self._current.begin()

    def _may_judge(self, judging: _Judging) -> bool:
        now = self._clock.seconds()
        # First, or one that has a /64 would fill the table of addresses with new ones.
        if not self._subnets.has(judging.subnet, now) or not self._hosts.take(judging.host, now):
            return False
        return self._subnets.take(judging.subnet, now)

    def _failed(self, failure: Failure, link: Link) -> None:
        failure.trap(BzzzError)
        self._log.debug(
            "{peer} could not be shown this node's admission: {error}",
            peer=link.remote_peer,
            error=failure.getErrorMessage(),
        )


class _Factory(Factory):
    noisy = False

    def __init__(self, build: Any) -> None:
        self._build = build

    def buildProtocol(self, addr: Any) -> Protocol:
        built: Protocol = self._build(addr.link)
        return built


class _Presenting(Protocol):
    """Sends a proof and closes."""

    transport: Stream

    def __init__(self, message: bytes) -> None:
        self._message = message

    def connectionMade(self) -> None:
        self.transport.write(frame(self._message))
        self.transport.loseConnection()


class _Judging(Protocol):
    """Reads a proof, and judges it when it is its turn.

    :ivar held: bytes of it that are here.
    """

    _log = Logger()

    transport: Stream

    def __init__(self, presenting: Presenting, link: Link, clock: Clock) -> None:
        self.link = link
        self.host, self.subnet, _ = place_of(link.remote_host)
        self.held = 0
        self._presenting = presenting
        self._clock = clock
        self._reader = FrameReader(MAX_PROOF)
        self._deadline: IDelayedCall | None = None
        self._encoded: list[str] | None = None
        self._new: list[SignedStatement] = []
        self._shown: list[StatementID] = []
        self._merged: Roster | None = None
        self._over = False

    def connectionMade(self) -> None:
        """Whether it may present anything."""
        if self._presenting.came(self):
            self._deadline = self._clock.callLater(TIME_LIMIT, self.give_up)
        else:
            self._over = True
            self.transport.abortConnection()

    def give_up(self) -> None:
        """It takes too long, or is too long for what else is here."""
        self._end()

    def dataReceived(self, data: bytes) -> None:
        """The proof, or a part of it."""
        if self._over:
            return
        messages = self._reader.receive(data)
        self.held = self._reader.buffered
        if messages:
            # Of what follows there is no use.
            self.transport.pauseProducing()
            self._reader = FrameReader(MAX_PROOF)
            self.held = len(messages[0])
            self._encoded = self._decoded(messages[0])
            self._stop_deadline()
            self._presenting.whole(self)
        self._presenting.grew()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The stream is gone. One that was read to its end is judged all the same."""
        if self._encoded is None:
            self._end()

    def begin(self) -> None:
        """It is its turn."""
        self.link.turns.wait(self._judge, stranger=True)

    def _judge(self) -> None:
        try:
            go_on = not self._over and not self.link.closed and self._judge_slice()
        except BzzzError as error:
            self._log.debug(
                "{peer} presented no proof: {error}", peer=self.link.remote_peer, error=error
            )
            go_on = False
        except Exception:  # noqa: BLE001 - a bug there must not keep others from being judged
            self._log.failure("a proof of {peer} could not be judged", peer=self.link.remote_peer)
            go_on = False
        if go_on:
            self.link.turns.wait(self._judge, stranger=True)
        else:
            self._end()

    def _judge_slice(self) -> bool:
        """Judge a few statements; whether there are more."""
        if self._merged is None:
            self._merged = self._presenting.begin()
        if self._merged is None or self._encoded is None:
            return False
        slice_, self._encoded = self._encoded[:SLICE], self._encoded[SLICE:]
        statements = decode_batch(self.link.remote_peer, slice_)
        for statement in statements:
            self._new += self._merged.add(statement)
        self._shown += [each.id for each in statements]
        if self._encoded:
            return True
        self._presenting.proved(self.link, self._merged, self._new, self._shown)
        return False

    def _decoded(self, message: bytes) -> list[str]:
        if message.count(b",") >= MAX_STATEMENTS:
            raise RemoteProtocolError(
                f"{self.link.remote_peer} presented more than {MAX_STATEMENTS} statements",
                "present_bad_message",
            )
        try:
            return msgspec.json.decode(message, type=_Proof).statements
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise RemoteProtocolError(
                f"{self.link.remote_peer} presented what cannot be read", "present_bad_message"
            ) from error

    def _stop_deadline(self) -> None:
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()

    def _end(self) -> None:
        if self._over:
            return
        self._over = True
        self._stop_deadline()
        self._reader = FrameReader(MAX_PROOF)
        self._encoded, self._new, self._shown, self._merged = None, [], [], None
        self.transport.abortConnection()
        self._presenting.ended(self)
