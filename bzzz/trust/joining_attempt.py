"""One ``bzzz join``: whom to ask for the channel, and whom to tell a confirmation.

Enters: the peers that may be the inviter, what came of the run with each. Leaves: membership in the
cluster, or why not. docs/trust.rst, "Pairing".

Candidates are asked beside each other for the channel, and told a confirmation one after the other,
since each that is told one may have made a guess at the code, and there may be
:data:`~bzzz.trust.pairing.MAX_CONFIRMS` of these.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import Factory, Protocol
from twisted.python.failure import Failure

from bzzz.errors import BzzzError, NegotiationError
from bzzz.identity.peer_id import PeerID
from bzzz.net.link import NEGOTIATION_TIMEOUT, Link
from bzzz.trust.codes import Code, Token
from bzzz.trust.joining_run import Joined, JoinError, JoiningNode, Run, code_of
from bzzz.trust.pairing import MAX_CONFIRMS, PROTOCOL
from bzzz.wire.multiaddr import Multiaddr

__all__ = [
    "AGAIN",
    "AT_ONCE",
    "LOOK",
    "OTHERS_SECONDS",
    "SEARCH_SECONDS",
    "Attempt",
    "Candidate",
    "Say",
]

# Seconds for which the inviter is looked for.
SEARCH_SECONDS = 30.0

# Seconds between two looks at who was discovered.
LOOK = 0.25

# Candidates that are asked at one time, from the dial on; a mesh has hundreds.
AT_ONCE = 8

# Seconds until a candidate is asked again that may have another answer by then: the machines that
# keep an inviter busy pair in less.
AGAIN = 3.0

# What such candidates say, or what happens to them before they were told anything.
PASSING = {"busy", "cut_off", "kept_waiting", "not_asked"}

# Seconds for which others are looked for after the last guess, where nobody is left to be asked.
# Most often it is the code that was mistyped, and somebody waits to hear it.
OTHERS_SECONDS = 1.0

# What comes of those who have not said that they made the code.
NOT_THE_INVITER = {"no_channel", "not_a_member", "not_asked"}

Say = Callable[..., object]


@dataclass(frozen=True)
class Candidate:
    """A peer that may be the inviter, and where it is."""

    peer: PeerID | None
    addresses: tuple[Multiaddr, ...]


class Attempt:
    """All candidates, until one has let this node in or nobody is left.

    :param at: where the inviter is; else it is looked for among the peers that are discovered.
    :param say: told of what happens: ``asking`` (``peer_id``), ``found`` (``peer_id``).
    :ivar over: whether it has come to an end.
    """

    def __init__(
        self,
        node: JoiningNode,
        secret: Code | Token,
        name: str,
        at: Sequence[Multiaddr],
        say: Say,
    ) -> None:
        self.secret = secret
        self.name = name
        self.over = False
        self._node = node
        self._say = say
        self._at = tuple(at)
        self._result: Deferred[Joined] = Deferred(lambda _: self._stop())
        # Who was asked, and when it may be asked again.
        self._due: dict[PeerID | None, float] = {}
        # Who was found at the address, where that does not say whom to find.
        self._there: PeerID | None = None
        self._dials: set[Deferred[Link]] = set()
        self._openings: set[Deferred[Any]] = set()
        self._runs: set[Run] = set()
        # Those that have the channel, the first one first, and the one whose turn it is.
        self._waiting: dict[Run, None] = {}
        self._confirming: Run | None = None
        self._told = 0
        self._refusals: dict[PeerID, JoinError] = {}
        self._guess: JoinError | None = None
        self._guess_at = 0.0
        self._begin = node.clock.seconds()
        self._timer: IDelayedCall | None = None

    def run(self, candidates: Callable[[], Sequence[Candidate]]) -> Deferred[Joined]:
        """Look, and ask whom there is.

        :return: fails with :class:`JoinError`.
        """
        self._look(candidates)
        return self._result

    # -- for the runs

    def started(self, run: Run) -> None:
        """A candidate is asked."""
        self._runs.add(run)

    def offered(self, run: Run) -> None:
        """It has the channel: it is told a confirmation when all before it have had their turn."""
        self._say("found", peer_id=str(run.link.remote_peer))
        self._waiting[run] = None
        self._next_turn()

    def ended(self, run: Run) -> None:
        """Its stream is gone: it has answered, or not."""
        self._runs.discard(run)
        self._waiting.pop(run, None)
        if self._confirming is run:
            self._confirming = None
            self._next_turn()

    def refused(self, run: Run, error: BzzzError) -> None:
        """A candidate said no, or talked nonsense before it could know the code: ask others."""
        self._waiting.pop(run, None)
        self._refused(run.asked, run.link.remote_peer, error)

    def guessed(self, run: Run, error: BzzzError) -> None:
        """A candidate that was told a confirmation did not turn out to have the code."""
        self._guess = JoinError(code_of(error), str(error))
        self._guess_at = self._node.clock.seconds()
        if self._told >= MAX_CONFIRMS or self._is_for_one:
            self.fail(self._guess)

    def fail(self, error: BzzzError) -> None:
        """It has come to nothing."""
        if not self.over:
            self._stop()
            self._result.errback(error)

    def succeed(self, run: Run, joined: Joined) -> None:
        """This node is a member."""
        # Its last message is under way.
        self._runs.discard(run)
        if not self.over:
            self._stop()
            self._result.callback(joined)

    # -- inside

    @property
    def _is_for_one(self) -> bool:
        """Whether one peer alone can be the inviter: that of the token, or at the address."""
        return bool(self._at) or isinstance(self.secret, Token)

    @property
    def _under_way(self) -> int:
        """Candidates that are being asked."""
        return len(self._dials) + len(self._openings) + len(self._runs)

    def _next_turn(self) -> None:
        """Have the next one told a confirmation, unless somebody is being told one."""
        if self.over or self._confirming is not None or not self._waiting:
            return
        if self._told >= MAX_CONFIRMS:
            return
        self._told += 1
        self._confirming = next(iter(self._waiting))
        del self._waiting[self._confirming]
        self._confirming.confirm()

    def _look(self, candidates: Callable[[], Sequence[Candidate]]) -> None:
        self._timer = None
        if self.over:
            return
        now = self._node.clock.seconds()
        is_searching = now - self._begin < SEARCH_SECONDS
        if is_searching:
            self._ask_due(candidates, now)
        if not self._under_way and not self.over:
            is_somebody_left = any(now < due < math.inf for due in self._due.values())
            has_waited = now - self._guess_at >= OTHERS_SECONDS
            if self._guess is not None and has_waited and not is_somebody_left:
                self.fail(self._guess)
            elif not is_searching:
                self.fail(self._guess or self._nobody())
        if not self.over:
            self._timer = self._node.clock.callLater(LOOK, self._look, candidates)

    def _ask_due(self, candidates: Callable[[], Sequence[Candidate]], now: float) -> None:
        if self._at:
            inviter = self.secret.inviter if isinstance(self.secret, Token) else None
            found: Sequence[Candidate] = [Candidate(inviter, self._at)]
        else:
            found = candidates()
        # Those that were not asked yet come before those that are asked again.
        for candidate in sorted(found, key=lambda each: each.peer in self._due):
            if self._under_way >= AT_ONCE or self.over:
                break
            if self._due.get(candidate.peer, now) > now:
                continue
            if isinstance(self.secret, Token) and candidate.peer != self.secret.inviter:
                continue
            self._due[candidate.peer] = math.inf
            self._ask(candidate)

    def _ask(self, candidate: Candidate) -> None:
        swarm = self._node.swarm
        known = candidate.peer or self._there
        link = None if known is None else swarm.link_to(known)
        if link is not None and not link.closed:
            self._talk(link, candidate.peer)
            return
        dialled = swarm.dial(candidate.addresses, candidate.peer, guest_ok=True)
        self._dials.add(dialled)

        def up(link: Link) -> None:
            self._dials.discard(dialled)
            if not self.over:
                self._talk(link, candidate.peer)

        def failed(failure: Failure) -> None:
            self._dials.discard(dialled)
            # It is cancelled when all is over.
            failure.trap(BzzzError, CancelledError)
            if self._at:
                self.fail(
                    JoinError("unreachable", f"nobody can be reached: {failure.getErrorMessage()}")
                )

        dialled.addCallbacks(up, failed)

    def _talk(self, link: Link, asked: PeerID | None) -> None:
        if self._at:
            self._there = link.remote_peer
        # At once: the peer tells by identify that it is in a cluster, and the link would be closed.
        self._node.swarm.hold_guest(link)
        self._say("asking", peer_id=str(link.remote_peer), address=str(link.remote_multiaddr))
        begin = self._node.clock.seconds()
        opened: Deferred[Any] = link.open_stream([PROTOCOL], _Factory(self, self._node, asked))
        self._openings.add(opened)

        def failed(failure: Failure) -> None:
            self._openings.discard(opened)
            failure.trap(BzzzError, CancelledError)
            self._node.swarm.release_guest(link)
            if self.over:
                return
            peer = link.remote_peer
            # The same error also says that there was no answer in time.
            was_answered = self._node.clock.seconds() - begin < NEGOTIATION_TIMEOUT
            if failure.check(NegotiationError) is not None and was_answered:
                error = JoinError("not_a_member", f"{peer} pairs with nobody: it is in no cluster")
            else:
                error = JoinError(
                    "not_asked",
                    f"{peer} could not be asked: {failure.getErrorMessage()}; try again",
                )
            self._refused(asked, peer, error)

        opened.addCallbacks(lambda _: self._openings.discard(opened), failed)

    def _refused(self, asked: PeerID | None, peer: PeerID, error: BzzzError) -> None:
        refusal = JoinError(code_of(error), str(error))
        self._refusals[peer] = refusal
        if refusal.code in PASSING:
            self._due[asked] = self._node.clock.seconds() + AGAIN
        elif self._is_for_one:
            self.fail(refusal)

    def _nobody(self) -> JoinError:
        for refusal in self._refusals.values():
            # Of no use before: anybody may say so. Now nobody else has said more.
            if self._is_for_one or refusal.code not in NOT_THE_INVITER:
                return refusal
        if isinstance(self.secret, Token):
            return JoinError(
                "inviter_not_found",
                f"{self.secret.inviter}, who made this token, was not found on this network within"
                f" {SEARCH_SECONDS:.0f} s; give its address with --at, as bzzz id shows it there",
            )
        asked = len(self._refusals)
        return JoinError(
            "inviter_not_found",
            f"nobody with invitation {self.secret.channel} was found on this network within"
            f" {SEARCH_SECONDS:.0f} s{f', among {asked} that were asked' if asked else ''}; is bzzz"
            " invite still waiting there, or was the code used, or has it run out? If it waits,"
            " give that machine's address with --at, as bzzz id shows it there; else make a new"
            " code there with bzzz invite",
        )

    def _stop(self) -> None:
        self.over = True
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        for deferred in [*self._dials, *self._openings]:
            deferred.cancel()
        for run in list(self._runs):
            run.abort()


class _Factory(Factory):
    noisy = False

    def __init__(self, attempt: Attempt, node: JoiningNode, asked: PeerID | None) -> None:
        self._attempt = attempt
        self._node = node
        self._asked = asked

    def buildProtocol(self, addr: Any) -> Protocol:
        return Run(self._attempt, self._node, addr.link, self._asked)
