"""The runs of ``/bzzz/pair/1.0.0`` at the inviter, each from message 1 to message 5.

Enters: streams of guests. Leaves: who names an invitation, whether it has the code, and how its run
ends, for :class:`~bzzz.trust.pairing_streams.Pairing`. docs/trust.rst, "Pairing".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from bzzz.errors import BzzzError, LinkClosed, RemoteProtocolError
from bzzz.net.accepting import HOSTS_PER_SUBNET, place_of
from bzzz.net.background import in_background
from bzzz.net.link import Link
from bzzz.net.stream import Stream
from bzzz.trust.invitations import Invitation
from bzzz.trust.pairing import (
    MAX_MESSAGE,
    Confirmed,
    Inviter,
    Joined,
    Request,
    State,
    WrongCode,
)
from bzzz.wire.framing import FrameReader, frame

if TYPE_CHECKING:
    # It makes the runs.
    from bzzz.trust.pairing_streams import Pairing

__all__ = [
    "MAX_RUNS",
    "MAX_RUNS_PER_HOST",
    "MAX_RUNS_PER_SUBNET",
    "STEP_SECONDS",
    "Refused",
    "Run",
    "RunFactory",
    "Runs",
]

# Between two messages of a pairing, in seconds. Machines answer in milliseconds; the last step has
# a disk at the other end.
STEP_SECONDS = 10.0

# Runs under way at one time: each holds a guest's link for as long as it takes. As many as there
# may be guests.
MAX_RUNS = 32

# The same with one IP address, and with one IPv6 /64: as many as it may have guests, so that no
# machine has all the runs.
MAX_RUNS_PER_HOST = 4
MAX_RUNS_PER_SUBNET = HOSTS_PER_SUBNET * MAX_RUNS_PER_HOST

# Why a run ended whose stream is gone, if nothing else is known.
HUNG_UP = "the other side has hung up"


class Refused(BzzzError):
    """The joiner is told no.

    :ivar code: what it is told.
    """

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class RunFactory(Factory):
    """Makes a run of each stream."""

    noisy = False

    def __init__(self, pairing: Pairing) -> None:
        self._pairing = pairing

    def buildProtocol(self, addr: Any) -> Protocol:
        """A run over the stream's link."""
        return Run(self._pairing, addr.link)


class Runs:
    """The runs under way, the oldest first.

    Those that are told that there is no room are in it, too: one a link.
    """

    def __init__(self) -> None:
        self._runs: dict[Run, None] = {}

    def __len__(self) -> int:
        return len(self._runs)

    def __iter__(self) -> Iterator[Run]:
        return iter(list(self._runs))

    def began(self, run: Run) -> bool:
        """A peer wants to pair; whether there is room for it.

        Those that have named no invitation, or are told their last word, make room: the oldest.
        A link has one run, and besides at most one that is told that there is no room.
        """
        for other in [each for each in self._runs if each.link is run.link and each.is_idle]:
            self._abort(other, "its peer has begun another")
        runs = [each for each in self._runs if each.has_room]
        address, subnet, _ = place_of(run.link.remote_host)
        around = [each for each in runs if place_of(each.link.remote_host)[1] == subnet]
        near = [each for each in around if place_of(each.link.remote_host)[0] == address]
        has_room = not any(each.link is run.link for each in runs)
        if len(near) >= MAX_RUNS_PER_HOST:
            has_room = has_room and self._make_room(near)
        elif len(around) >= MAX_RUNS_PER_SUBNET:
            has_room = has_room and self._make_room(around)
        elif len(runs) >= MAX_RUNS:
            has_room = has_room and self._make_room(runs)
        self._runs[run] = None
        return has_room

    def over(self, run: Run) -> bool:
        """Its stream is gone; whether no other run of its link goes on."""
        self._runs.pop(run, None)
        return not any(each.link is run.link and not each.is_idle for each in self._runs)

    def _make_room(self, among: list[Run]) -> bool:
        for run in among:
            if run.is_idle:
                self._abort(run, "another one has its place")
                return True
        return False

    def _abort(self, run: Run, reason: str) -> None:
        self._runs.pop(run, None)
        run.abort(reason)


class Run(Protocol):
    """One run, from message 1 to message 5.

    :ivar link: to the peer.
    :ivar has_room: whether it may go on; else its request is refused.
    """

    transport: Stream
    _log = Logger()

    def __init__(self, pairing: Pairing, link: Link) -> None:
        self.link = link
        self.has_room = False
        self._pairing = pairing
        self._reader = FrameReader(MAX_MESSAGE)
        self._core: Inviter | None = None
        self._invitation: Invitation | None = None
        self._name = ""
        self._timer: IDelayedCall | None = None
        self._work: Deferred[None] | None = None
        self._reason = ""
        self._done = False

    def connectionMade(self) -> None:
        """A peer wants something."""
        self._core = self._pairing.inviter(self.link)
        self.has_room = self._pairing.began(self)
        self._wait()

    @property
    def is_idle(self) -> bool:
        """Whether nothing is lost by its end: it has named no invitation, or has its answer."""
        return self._done or self._invitation is None

    def dataReceived(self, data: bytes) -> None:
        """Messages, or parts of them.

        :raises RemoteProtocolError: one breaks the rules; the stream is reset.
        """
        if self._core is None or self._done:
            return
        try:
            for message in self._reader.receive(data):
                if self._done:
                    return
                self._received(self._core, message)
        except RemoteProtocolError as error:
            self._reason = str(error)
            raise

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The stream is gone."""
        self._cancel_timer()
        self._pairing.over(self)
        if self._invitation is not None and self._core is not None and not self._done:
            self._gone(self._invitation, self._core.state)
        self._done = True

    def abort(self, reason: str = "this node stops") -> None:
        """Pair no more."""
        self._reason = reason
        self.transport.abortConnection()

    # -- inside

    def _gone(self, invitation: Invitation, state: State) -> None:
        """Tell how far it came."""
        peer, why = self.link.remote_peer, self._reason or HUNG_UP
        if state is State.ADMITTED:
            self._pairing.unheard(invitation, peer, why)
        elif state is not State.CONFIRMED:
            # Whoever begins runs without having the code is not the machine that is invited.
            why += " before it showed that it has the code"
            self._pairing.failed(invitation, peer, why)
        # Else it is known only when the admission, which goes on, has ended.

    def _received(self, core: Inviter, message: bytes) -> None:
        event = core.receive(message)
        self._wait()
        if isinstance(event, Request):
            self._requested(core, event)
        elif isinstance(event, Confirmed | WrongCode) and self._is_void():
            self._refuse(core, "no_channel")
        elif isinstance(event, Confirmed):
            self._cancel_timer()
            in_background(self._admit(core, event), "letting a peer in", self._log)
        elif isinstance(event, WrongCode):
            if self._invitation is not None:
                self._pairing.wrong_code(
                    self._invitation, self.link.remote_peer, self.link.remote_host
                )
            self._refuse(core, "wrong_code")
        elif isinstance(event, Joined):
            self._done = True
            if self._invitation is not None:
                self._pairing.joined(self._invitation, self._name, self.link.remote_peer)
            self.transport.loseConnection()

    def _is_void(self) -> bool:
        """Whether the code is void by now: nobody is told whether it was the right one."""
        invitation = self._invitation
        if invitation is None or self._pairing.is_open(invitation):
            return False
        self._pairing.failed(invitation, self.link.remote_peer, "the code was void by then")
        return True

    def _requested(self, core: Inviter, request: Request) -> None:
        if not self.has_room:
            self._refuse(core, "busy")
            return
        invitation, refusal = self._pairing.requested(request.channel, self.link)
        if invitation is None:
            self._refuse(core, refusal)
            return
        self._invitation = invitation
        self._name = request.name
        self._pairing.swarm.hold_guest(self.link)
        self._send(core.offer(invitation.secret.password))

    async def _admit(self, core: Inviter, confirmed: Confirmed) -> None:
        invitation = self._invitation
        if invitation is None:
            raise LinkClosed("no invitation was named")
        try:
            statements = await self._pairing.admit(
                invitation, confirmed.name, confirmed.peer, self.link.remote_host
            )
        except Refused as refused:
            if not self._done:
                self._refuse(core, refused.code)
            return
        if self._done:
            self._pairing.unheard(invitation, confirmed.peer, self._reason or HUNG_UP)
            return
        self._send(core.accept(statements))
        self._wait()

    def _refuse(self, core: Inviter, code: str) -> None:
        self._done = True
        self._send(core.refuse(code))
        self.transport.loseConnection()

    def _send(self, message: bytes) -> None:
        self.transport.write(frame(message))

    def _wait(self) -> None:
        self._cancel_timer()
        self._timer = self._pairing.clock.callLater(
            STEP_SECONDS, self.abort, f"the other side said nothing for {STEP_SECONDS:.0f} s"
        )

    def _cancel_timer(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
