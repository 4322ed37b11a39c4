"""``/bzzz/pair/1.0.0`` at the joiner: how an unclaimed node with a code finds the inviter.

Enters: a code or a token, where to look. Leaves: membership in the cluster, or why not.
docs/trust.rst, "Pairing".

Candidates are asked beside each other for the channel, and told a confirmation one after the other,
since each that is told one may have made a guess at the code, and there may be
:data:`~bzzz.trust.pairing.MAX_CONFIRMS` of these.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from bzzz.errors import BzzzError, RemoteProtocolError
from bzzz.identity.peer_id import PeerID
from bzzz.net.background import in_background
from bzzz.net.interfaces import Clock
from bzzz.net.link import Link
from bzzz.net.stream import Stream
from bzzz.net.swarm import Swarm
from bzzz.trust.cluster import Cluster, ClusterError
from bzzz.trust.codes import Code, Token
from bzzz.trust.pairing import (
    MAX_CONFIRMS,
    MAX_ROSTER,
    PROTOCOL,
    Admission,
    Joiner,
    PairingRefused,
    Reply,
)
from bzzz.trust.pairing_keys import prepare
from bzzz.trust.pairing_messages import NAME
from bzzz.trust.pairing_streams import STEP_SECONDS
from bzzz.wire.framing import FrameReader, frame
from bzzz.wire.multiaddr import Multiaddr

__all__ = ["SEARCH_SECONDS", "Candidate", "JoinError", "Joined", "Joining"]

# Seconds for which the inviter is looked for.
SEARCH_SECONDS = 30.0

# Seconds between two looks at who was discovered.
LOOK = 0.25

# Candidates that are asked at one time; a mesh has hundreds.
AT_ONCE = 8

# Refusals of those who did not make the code.
NOT_THE_INVITER = {"no_channel", "not_a_member"}

InThread = Callable[[Callable[[], Any]], Deferred[Any]]
Say = Callable[..., object]


class JoinError(BzzzError):
    """The node did not join; says why, and what to do.

    :ivar code: a short, stable, snake_case name.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Candidate:
    """A peer that may be the inviter, and where it is."""

    peer: PeerID | None
    addresses: tuple[Multiaddr, ...]


@dataclass(frozen=True)
class Joined:
    """What came of it.

    :ivar cluster: its name.
    :ivar name: of this node in it.
    :ivar by: who let it in, and its name.
    """

    cluster: str
    name: str
    by: PeerID
    by_name: str


class Joining:
    """Has this node join a cluster.

    :param candidates: the peers that are known to be members of a cluster.
    :param unbound: take links that have no handshake hash; in the simulator only.
    """

    _log = Logger()

    def __init__(
        self,
        swarm: Swarm,
        cluster: Cluster,
        clock: Clock,
        random_bytes: Callable[[int], bytes],
        in_thread: InThread,
        candidates: Callable[[], Sequence[Candidate]],
        unbound: bool = False,
    ) -> None:
        self.swarm = swarm
        self.cluster = cluster
        self.clock = clock
        self.random_bytes = random_bytes
        self.in_thread = in_thread
        self.unbound = unbound
        self._candidates = candidates
        self._under_way = False

    async def join(
        self, secret: Code | Token, name: str, at: Sequence[Multiaddr] = (), say: Say = print
    ) -> Joined:
        """Find the inviter and join its cluster.

        :param at: where the inviter is; else it is looked for among the peers that are discovered.
        :param say: told of what happens: ``asking`` (``peer_id``), ``found`` (``peer_id``).
        :raises ClusterError: this node is a member of one already.
        :raises JoinError: it did not come to that.
        """
        if self.cluster.roster is not None:
            raise ClusterError(
                "already_member",
                f"this node is a member of {self.cluster.roster.cluster}: bzzz leave comes first",
            )
        if self._under_way:
            raise JoinError("busy", "this node is joining a cluster at this moment")
        if NAME.fullmatch(name) is None:
            raise JoinError(
                "bad_name",
                f"{name!r} cannot be the name of a node: it has letters, digits and . _ -, at most"
                " 63, a letter or digit first",
            )
        self._under_way = True
        try:
            await self.in_thread(prepare)
            attempt = _Attempt(self, secret, name, at, say)
            return await attempt.run(self._candidates)
        finally:
            self._under_way = False


class _Attempt:
    """One ``bzzz join``: all candidates, until one has let this node in or one has said no."""

    def __init__(
        self,
        joining: Joining,
        secret: Code | Token,
        name: str,
        at: Sequence[Multiaddr],
        say: Say,
    ) -> None:
        self.joining = joining
        self.secret = secret
        self.name = name
        self.say = say
        self.confirming = DeferredLock()
        self._at = tuple(at)
        self._result: Deferred[Joined] = Deferred(lambda _: self._stop())
        self._asked: set[PeerID | None] = set()
        self._runs: set[_Run] = set()
        self._dials: set[Deferred[Link]] = set()
        self._refusals: dict[PeerID, JoinError] = {}
        self._guesses = 0
        self._guess: JoinError | None = None
        self._begin = joining.clock.seconds()
        self._timer: IDelayedCall | None = None
        self.over = False

    def run(self, candidates: Callable[[], Sequence[Candidate]]) -> Deferred[Joined]:
        """Look, and ask whom there is."""
        self._look(candidates)
        return self._result

    # -- for the runs

    def started(self, run: _Run) -> None:
        """A candidate is asked."""
        self._runs.add(run)

    def ended(self, run: _Run) -> None:
        """It has answered, or not."""
        self._runs.discard(run)
        if self._guess is not None and not self._runs:
            self.fail(self._guess)

    def refused(self, peer: PeerID, error: BzzzError) -> None:
        """A candidate said no, or talked nonsense before it could know the code: ask others."""
        refusal = JoinError(_code(error), str(error))
        self._refusals[peer] = refusal
        if self._at or isinstance(self.secret, Token):
            self.fail(refusal)

    def guessed(self, run: _Run, error: BzzzError) -> None:
        """A candidate that was told a confirmation did not turn out to have the code."""
        self._guesses += 1
        self._guess = JoinError(_code(error), str(error))
        if self._guesses >= MAX_CONFIRMS or not self._runs - {run}:
            self.fail(self._guess)

    def fail(self, error: BzzzError) -> None:
        """It has come to nothing."""
        if not self.over:
            self._stop()
            self._result.errback(error)

    def succeed(self, run: _Run, joined: Joined) -> None:
        """This node is a member."""
        # Its last message is under way.
        self._runs.discard(run)
        if not self.over:
            self._stop()
            self._result.callback(joined)

    # -- inside

    def _look(self, candidates: Callable[[], Sequence[Candidate]]) -> None:
        self._timer = None
        if self.over:
            return
        if self.joining.clock.seconds() - self._begin < SEARCH_SECONDS:
            self._ask_new(candidates)
        elif not self._runs:
            self.fail(self._nobody())
        if not self.over:
            self._timer = self.joining.clock.callLater(LOOK, self._look, candidates)

    def _ask_new(self, candidates: Callable[[], Sequence[Candidate]]) -> None:
        if self._at:
            inviter = self.secret.inviter if isinstance(self.secret, Token) else None
            found: Sequence[Candidate] = [Candidate(inviter, self._at)]
        else:
            found = candidates()
        for candidate in found:
            if len(self._runs) + len(self._dials) >= AT_ONCE:
                break
            if candidate.peer in self._asked or self.over:
                continue
            if isinstance(self.secret, Token) and candidate.peer != self.secret.inviter:
                continue
            self._asked.add(candidate.peer)
            self._ask(candidate)

    def _ask(self, candidate: Candidate) -> None:
        swarm = self.joining.swarm
        link = None if candidate.peer is None else swarm.link_to(candidate.peer)
        if link is not None and not link.closed:
            self._talk(link)
            return
        dialled = swarm.dial(candidate.addresses, candidate.peer, guest_ok=True)
        self._dials.add(dialled)

        def up(link: Link) -> None:
            self._dials.discard(dialled)
            if not self.over:
                self._talk(link)

        def failed(failure: Failure) -> None:
            self._dials.discard(dialled)
            failure.trap(BzzzError)
            if self._at:
                self.fail(
                    JoinError("unreachable", f"nobody can be reached: {failure.getErrorMessage()}")
                )

        dialled.addCallbacks(up, failed)

    def _talk(self, link: Link) -> None:
        # At once: the peer tells by identify that it is in a cluster, and the link would be closed.
        self.joining.swarm.hold_guest(link)
        self.say("asking", peer_id=str(link.remote_peer), address=str(link.remote_multiaddr))
        opened: Deferred[Any] = link.open_stream([PROTOCOL], _Factory(self))

        def failed(failure: Failure) -> None:
            failure.trap(BzzzError)
            self.joining.swarm.release_guest(link)
            self.refused(
                link.remote_peer,
                JoinError(
                    "not_a_member", f"{link.remote_peer} pairs with nobody: it is in no cluster"
                ),
            )

        opened.addErrback(failed)

    def _nobody(self) -> JoinError:
        if isinstance(self.secret, Token):
            return JoinError(
                "inviter_not_found",
                f"{self.secret.inviter}, who made this token, was not found on this network within"
                f" {SEARCH_SECONDS:.0f} s; give its address with --at, as bzzz id shows it there",
            )
        for refusal in self._refusals.values():
            # Of no use before: anybody may say so. Now nobody else has said more.
            if refusal.code not in NOT_THE_INVITER:
                return refusal
        asked = len(self._refusals)
        return JoinError(
            "inviter_not_found",
            f"nobody with invitation {self.secret.channel} was found on this network within"
            f" {SEARCH_SECONDS:.0f} s{f', among {asked} that were asked' if asked else ''}; is bzzz"
            " invite still waiting there? If it is, give that machine's address with --at, as bzzz"
            " id shows it there",
        )

    def _stop(self) -> None:
        self.over = True
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        for dialled in list(self._dials):
            dialled.cancel()
        for run in list(self._runs):
            run.abort()


def _code(error: BzzzError) -> str:
    code = getattr(error, "code", "")
    return code if isinstance(code, str) and code else "failed"


class _Factory(Factory):
    noisy = False

    def __init__(self, attempt: _Attempt) -> None:
        self._attempt = attempt

    def buildProtocol(self, addr: Any) -> Protocol:
        return _Run(self._attempt, addr.link)


class _Run(Protocol):
    """The joiner's side with one candidate."""

    transport: Stream
    _log = Logger()

    def __init__(self, attempt: _Attempt, link: Link) -> None:
        joining = attempt.joining
        secret = attempt.secret
        self._attempt = attempt
        self._joining = joining
        self._link = link
        self._reader = FrameReader(MAX_ROSTER)
        self._core = Joiner(
            joining.cluster.peer_id,
            link.remote_peer,
            secret.channel,
            secret.password,
            attempt.name,
            link.connection.handshake_hash,
            joining.random_bytes,
            unbound=joining.unbound,
        )
        self._timer: IDelayedCall | None = None
        self._error: BzzzError | None = None
        self._has_lock = False
        self._confirmed = False
        # The inviter has shown that it has the code: whether this node joins is up to it alone.
        self._has_admission = False
        self._lost = False
        self._done = False

    def connectionMade(self) -> None:
        """Ask for the channel."""
        self._attempt.started(self)
        if self._attempt.over:
            self.transport.abortConnection()
            return
        self._send(self._core.begin())

    def dataReceived(self, data: bytes) -> None:
        """Messages, or parts of them."""
        if self._done or self._has_admission:
            return
        try:
            messages = self._reader.receive(data)
            if self._reader.buffered > self._core.max_length:
                raise RemoteProtocolError(
                    f"{self._link.remote_peer} sends more than is due", "pair_too_long"
                )
            for message in messages:
                self._received(message)
                if self._done or self._has_admission:
                    return
        except (RemoteProtocolError, PairingRefused) as error:
            self._failed(error)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The stream is gone."""
        self._lost = True
        self._cancel_timer()
        self._joining.swarm.release_guest(self._link)
        if self._has_admission and not self._done:
            # It is being written to disk, and _admitted tells what came of that.
            return
        self._release()
        self._attempt.ended(self)
        if not self._done and not self._attempt.over:
            self._done = True
            words = "the inviter has hung up; if its owner sees no reason, try again"
            error = JoinError("cut_off", f"{self._link.remote_peer}: {words}")
            self._tell(error)

    def abort(self, reason: str = "") -> None:
        """Another candidate was the right one, or all is over, or this one took too long."""
        if reason and not self._done:
            self._failed(JoinError("too_late", f"{self._link.remote_peer} {reason}"))
        self._done = True
        self.transport.abortConnection()

    # -- inside

    def _received(self, message: bytes) -> None:
        self._cancel_timer()
        event = self._core.receive(message)
        if isinstance(event, Reply):
            self._attempt.say("found", peer_id=str(self._link.remote_peer))
            in_background(self._confirm(event.message), "joining a cluster", self._log)
        elif isinstance(event, Admission):
            self._has_admission = True
            in_background(self._admitted(event), "joining a cluster", self._log)

    async def _confirm(self, message: bytes) -> None:
        """Send message 3 when no other candidate is being sent one."""
        await self._attempt.confirming.acquire()
        self._has_lock = True
        if self._done or self._attempt.over:
            self._release()
            return
        self._confirmed = True
        self._send(message)

    async def _admitted(self, admission: Admission) -> None:
        peer = self._link.remote_peer
        cluster = self._joining.cluster
        try:
            statements: list[bytes] = await self._joining.in_thread(admission.decode)
            if self._attempt.over:
                return
            roster = await cluster.adopt(statements, peer)
        except (ClusterError, RemoteProtocolError) as error:
            self._not_joined(JoinError(_code(error), str(error)))
            return
        except BzzzError as error:
            self._not_joined(
                JoinError(
                    "not_kept",
                    f"{peer} has let this node in, but this node cannot keep the roster: {error};"
                    " then the same bzzz join again",
                )
            )
            return
        self._done = True
        if not (self._lost or self._link.closed):
            self.transport.write(frame(self._core.joined()))
            self.transport.loseConnection()
        self._attempt.succeed(
            self,
            Joined(roster.cluster, roster.name_of(cluster.peer_id), peer, roster.name_of(peer)),
        )

    def _failed(self, error: BzzzError) -> None:
        """The run is over."""
        self._done = True
        self._tell(error)
        self._release()
        self.transport.abortConnection()

    def _not_joined(self, error: JoinError) -> None:
        """The right inviter was found, and nobody else can help."""
        self._done = True
        self._release()
        self.transport.abortConnection()
        self._attempt.fail(error)

    def _tell(self, error: BzzzError) -> None:
        if self._confirmed:
            self._attempt.guessed(self, error)
        else:
            self._attempt.refused(self._link.remote_peer, error)

    def _send(self, message: bytes) -> None:
        self.transport.write(frame(message))
        self._cancel_timer()
        self._timer = self._joining.clock.callLater(
            2 * STEP_SECONDS, self.abort, f"said nothing for {2 * STEP_SECONDS:.0f} s"
        )

    def _cancel_timer(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None

    def _release(self) -> None:
        if self._has_lock:
            self._has_lock = False
            self._attempt.confirming.release()
