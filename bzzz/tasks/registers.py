"""Changes of registers, by one of their replicas, through a majority of them.

Enters: changes. Leaves: requests to replicas, and the values that were decided. Requests are sent
again where no answer comes, ballots raised where others are faster, and replicas that were not
reached brought up to date for a while. docs/tasks.rst, "The register".
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from random import Random

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from bzzz.errors import BzzzError
from bzzz.identity.peer_id import PeerID
from bzzz.net.alarms import Alarm, Alarms
from bzzz.tasks.ballots import RESERVED, Accept, Accepted, Answer, Ballot, Request
from bzzz.tasks.nearest import nearest
from bzzz.tasks.proposer import Beaten, Change, Decided, Early, Held, Outcome, Proposal

__all__ = ["Ask", "NoMajority", "Registers"]

# Seconds without an answer after which a request is sent again: far above what a replica takes
# whose disk is slow. Links are reliable, so it is for answers that an error kept back, and for
# links that were made again.
RESEND = 1.0

# Seconds, up to twice as many, after which a change is sent to the replicas that it was not sent at
# once: those where it is not decided by then, as the disk of one of the others is slow, and those
# where it is, and has become no other one meanwhile. A task that ends soon so costs them one write,
# and what is sent to one of them after so many seconds goes together.
REST = 0.01
REST_DECIDED = 0.05

# Times that a replica which has not answered is sent a value that is decided, in 20 s. One that is
# away for longer gets it with the next change.
LAGGING = 5

# Seconds, at most, that a proposer waits who was beaten, doubled each time up to so many.
BEATEN = 0.02
MAX_BEATEN = 1.0

# Tasks whose next ballot this node has been promised. One that is dropped costs a round trip.
MAX_HELD = 20_000

Ask = Callable[[PeerID, str, Request, bytes], Deferred[Answer]]
"""Asks a replica, this node among them, and shows it a value where it has none; fails with a
BzzzError if it cannot be reached or asked."""


class NoMajority(BzzzError):
    """It is not known whether a change was made: too few replicas have answered in time."""


class Registers:
    """The changes of one node.

    :param own: this node's peer ID.
    :param rng: for who was beaten, so that two do not beat each other again.
    :param send_now: called when a change was asked of all that are asked of it at once.
    """

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        rng: Random,
        own: PeerID,
        ask: Ask,
        send_now: Callable[[], object] = lambda: None,
    ) -> None:
        self._clock = clock
        self._alarms = Alarms(clock)
        self._rng = rng
        self._own = own
        self._ask = ask
        self._send_now = send_now
        self._held: OrderedDict[str, Held] = OrderedDict()
        self._turns: dict[str, _Turn] = {}

    async def create(
        self, task: str, replicas: Sequence[PeerID], value: bytes, within: float
    ) -> bytes | None:
        """Give a register its first value.

        :param task: an ID that this node has made for this call: with one that may have been used,
            even before a restart, the value may be lost after it was decided.
        :param replicas: this node is the first of them.
        :param within: seconds.
        :returns: the value that was decided.
        :raises NoMajority: it is not known whether it has the value.
        """
        if replicas[0] != self._own:
            raise ValueError("a register is created by the first of its replicas")

        def change(before: bytes | None) -> bytes | None:
            return value if before is None else None

        decided = await self.propose(task, replicas, change, within, first=RESERVED, shown=value)
        return decided.value

    async def change(
        self,
        task: str,
        replicas: Sequence[PeerID],
        change: Change,
        within: float,
        *,
        close: int = 0,
        shown: bytes = b"",
    ) -> bytes | None:
        """Change a register, or read it by a change that returns None.

        ``change`` is called again where it is not known whether the value that it returned was
        decided: it has to leave a value alone that has its effect already. One change of a register
        at a time: a second one ends the first.

        :param replicas: of which this node is one.
        :param within: seconds.
        :param close: the token that has to be closed first, 0 for none. It is waited for as long as
            ``within`` allows.
        :param shown: a value, for replicas that have none.
        :returns: the value that was decided; None: the register is empty.
        :raises NoMajority: it is not known whether it was changed.
        """
        decided = await self.propose(task, replicas, change, within, close=close, shown=shown)
        return decided.value

    async def propose(
        self,
        task: str,
        replicas: Sequence[PeerID],
        change: Change,
        within: float,
        *,
        close: int = 0,
        first: Ballot | None = None,
        shown: bytes = b"",
        worker: Callable[[], PeerID | None] = lambda: None,
        asked: Callable[[], object] | None = None,
    ) -> Decided:
        """Like :meth:`change`, and tell also with which ballot the value was decided.

        :param first: the ballot to begin with: the reserved one, see :meth:`create`.
        :param worker: tells, when ``change`` was called, who is asked at once where it is a
            replica, see :func:`nearest`.
        :param asked: called when replicas were asked for the first time, and what they were asked
            has not left yet: it has to be sent by this.
        """
        if (before := self._turns.get(task)) is not None:
            before.end()
        turn = self._turns[task] = _Turn(
            self._clock, self._alarms, lambda: self._turns.pop(task, None)
        )
        try:
            return await self._tries(
                turn, task, replicas, change, within, close, first, shown, worker, asked
            )
        except Exception:
            # Whoever waited does so no more, or the change cannot be made.
            turn.end()
            raise

    def stop(self) -> None:
        """Send nothing more; who waits for a change is told that nothing is known of it."""
        for turn in list(self._turns.values()):
            turn.end()
        self._alarms.tidy()

    async def _tries(
        self,
        turn: _Turn,
        task: str,
        replicas: Sequence[PeerID],
        change: Change,
        within: float,
        close: int,
        ballot: Ballot | None,
        shown: bytes,
        worker: Callable[[], PeerID | None],
        asked: Callable[[], object] | None,
    ) -> Decided:
        place = replicas.index(self._own)
        deadline = self._clock.seconds() + within
        held = self._held.pop(task, None)
        counter = 0 if held is None else held.ballot.counter
        if held is not None and not close:
            ballot = held.ballot
        else:
            held = None
        beaten = BEATEN

        def ask(place: int, request: Request) -> Deferred[Answer]:
            return self._ask(replicas[place], task, request, shown)

        while True:
            if ballot is None:
                counter += 1
                ballot = Ballot(counter, place)
            proposal = Proposal(len(replicas), ballot, change, close=close, held=held)
            near: Collection[int] | None = None
            if len(replicas) > 2 and isinstance(proposal.request, Accept):
                near = {replicas.index(each) for each in nearest(replicas, self._own, worker())}
            if len(replicas) == 1:
                outcome = await turn.run_alone(proposal, ask, deadline, asked)
            else:
                proposing = turn.run(proposal, ask, near, deadline)
                if asked is not None:
                    asked()
                elif ballot != RESERVED:
                    self._send_now()
                outcome = await proposing
            asked = None
            if isinstance(outcome, Decided):
                self._hold(task, outcome.held)
                return outcome
            wait = beaten * self._rng.random()
            if isinstance(outcome, Beaten):
                counter = max(counter, outcome.ballot.counter)
                beaten = min(2 * beaten, MAX_BEATEN)
            elif isinstance(outcome, Early):
                wait = outcome.seconds
            if outcome is None or wait >= deadline - self._clock.seconds():
                raise NoMajority(
                    f"no majority of the {len(replicas)} replicas of {task} within {within:g} s"
                )
            await turn.sleep(wait)
            ballot = held = None

    def _hold(self, task: str, held: Held | None) -> None:
        if held is None:
            return
        self._held[task] = held
        if len(self._held) > MAX_HELD:
            self._held.popitem(last=False)


class _Turn:
    """One change of a register: its rounds, and what it waits for between them.

    :param ended: called once, when nothing of it is left.
    """

    _log = Logger()

    def __init__(self, clock: IReactorTime, alarms: Alarms, ended: Callable[[], object]) -> None:
        self._clock = clock
        self._alarms = alarms
        self._ended = ended
        self._round: _Round | None = None
        self._asking: Deferred[Answer] | None = None
        self._sleep: Deferred[None] | None = None
        self._over = False

    def run(
        self,
        proposal: Proposal,
        ask: Callable[[int, Request], Deferred[Answer]],
        near: Collection[int] | None,
        deadline: float,
    ) -> Deferred[Outcome | None]:
        """Propose, and go on after that until each replica has heard of what was decided."""
        made = self._round = _Round(
            self._clock, self._alarms, proposal, ask, near, self._round_ended
        )
        return made.start(deadline)

    async def run_alone(
        self,
        proposal: Proposal,
        ask: Callable[[int, Request], Deferred[Answer]],
        deadline: float,
        asked: Callable[[], object] | None,
    ) -> Outcome | None:
        """Propose where this node is the only replica: all that is waited for is its disk."""
        left = max(0.0, deadline - self._clock.seconds())
        alarm = self._alarms.call_later(left, self.end)
        try:
            while proposal.outcome is None:
                self._asking = ask(0, proposal.request)
                if asked is not None:
                    asked()
                    asked = None
                try:
                    answer = await self._asking
                except CancelledError:
                    raise
                except Exception as error:  # noqa: BLE001 - as of a replica that is another node
                    if not isinstance(error, BzzzError):
                        self._log.failure("This node's replica could not be asked")
                    # The disk may be there again in a while.
                    await self.sleep(RESEND)
                else:
                    proposal.receive(0, answer)
        except (CancelledError, NoMajority):
            if not self._over:
                raise
            return None
        finally:
            alarm.cancel()
            self._asking = None
        if isinstance(proposal.outcome, Decided):
            self.end()
        return proposal.outcome

    async def sleep(self, seconds: float) -> None:
        """Wait between two rounds.

        :raises NoMajority: the change is not wanted any more.
        """
        self._sleep = deferLater(self._clock, seconds)
        try:
            await self._sleep
        except CancelledError:
            if self._over:
                raise NoMajority("another change of the register began, or none is to be") from None
            raise
        finally:
            self._sleep = None

    def end(self) -> None:
        """Send nothing more, and tell who waits."""
        if self._over:
            return
        self._over = True
        self._ended()
        # The two know each other: what is over is to be gone without the garbage collector.
        last, self._round = self._round, None
        if last is not None:
            last.stop()
        for waiting in (self._asking, self._sleep):
            if waiting is not None:
                waiting.cancel()

    def _round_ended(self) -> None:
        if self._round is not None and self._round.decided:
            self.end()


class _Round:
    """One proposal on the wire, until it has ended and every replica has heard of it.

    :param near: the places of those that are asked at once; None for all.
    """

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        alarms: Alarms,
        proposal: Proposal,
        ask: Callable[[int, Request], Deferred[Answer]],
        near: Collection[int] | None,
        ended: Callable[[], None],
    ) -> None:
        self._clock = clock
        self._alarms = alarms
        self._proposal = proposal
        self._ask = ask
        self._ended = ended
        self._outcome: Deferred[Outcome | None] | None = None
        self._asked: set[int] = set()
        self._sent: Request | None = None
        self._until = 0.0
        self._alarm: Alarm | None = None
        self._waking: Alarm | None = None
        # Those that are asked later.
        self._resting: set[int] = set()
        if near is not None:
            self._resting.update(set(proposal.unanswered()).difference(near))
        self._again = 0
        self._stopped = False

    @property
    def decided(self) -> bool:
        """Whether what it proposed, or read, is decided."""
        return isinstance(self._proposal.outcome, Decided)

    def start(self, deadline: float) -> Deferred[Outcome | None]:
        """Fires with how it ended, or None at the deadline or when another one began."""
        waiting: Deferred[Outcome | None] = Deferred()
        self._outcome = waiting
        self._until = deadline
        if self._resting:
            left = 2 * REST - self._clock.seconds() % REST
            self._waking = self._alarms.call_later(left, self._rested)
        self._resend()
        self._look()
        return waiting

    def stop(self) -> None:
        """Send nothing more."""
        if self._stopped:
            return
        self._stopped = True
        for alarm in (self._alarm, self._waking):
            if alarm is not None:
                alarm.cancel()
        self._ended()
        self._tell(None)

    def _late(self) -> None:
        if self._outcome is not None:
            self.stop()
        else:
            self._resend()

    def _resend(self) -> None:
        """Ask those who have not answered and are not being asked."""
        if self._stopped:
            return
        if self._outcome is not None and self._sent is not None:
            # Those who have not answered by now may be gone, and the others are not enough.
            self._proposal.give_up()
            if self._proposal.outcome is not None:
                self._look()
                return
        if self._outcome is None:
            self._again += 1
            if self._again > LAGGING:
                self.stop()
                return
        self._plan()
        self._send()

    def _plan(self) -> None:
        """Wait for answers, until they are asked for again or it is too late for them."""
        wait = RESEND * (1 + self._again)
        left = self._until - self._clock.seconds()
        if self._outcome is not None and left <= wait:
            self._alarm = self._alarms.call_later(max(0.0, left), self._late)
        else:
            self._alarm = self._alarms.call_later(wait, self._resend)

    def _send(self) -> None:
        request = self._proposal.request
        if request is not self._sent:
            self._sent = request
            self._asked.clear()
        # This node last, which mostly is the first of them: the others take longer.
        for place in reversed(self._proposal.unanswered()):
            if place in self._asked or self._stopped or self._proposal.request is not request:
                continue
            if place in self._resting:
                continue
            self._asked.add(place)
            asking = self._ask(place, request)
            asking.addCallbacks(
                self._answered, self._lost, callbackArgs=(place,), errbackArgs=(place, request)
            )

    def _rested(self) -> None:
        if self._outcome is not None:
            self._wake()
        elif self._resting:
            left = 2 * REST_DECIDED - self._clock.seconds() % REST_DECIDED
            self._waking = self._alarms.call_later(left, self._wake)

    def _wake(self) -> None:
        """Ask those that rest."""
        if self._resting and not self._stopped:
            self._resting.clear()
            self._send()

    def _answered(self, answer: Answer, place: int) -> None:
        if self._stopped:
            return
        try:
            self._proposal.receive(place, answer)
            if not isinstance(answer, Accepted):
                self._wake()
            self._look()
        except Exception:  # noqa: BLE001 - a change is not to wait for ever, whatever is wrong
            self._broken(Failure())

    def _lost(self, failure: Failure, place: int, request: Request) -> None:
        if failure.check(BzzzError) is None:
            self._log.failure("A replica could not be asked", failure)
        if request is self._sent:
            # The others first: who has just failed is asked again in a while.
            self._wake()
            self._asked.discard(place)

    def _broken(self, failure: Failure) -> None:
        """The change itself failed, or there is a mistake here: whoever waits is to know."""
        waiting, self._outcome = self._outcome, None
        self.stop()
        if waiting is not None:
            waiting.errback(failure)
        else:
            self._log.failure("A replica's answer could not be taken", failure)

    def _look(self) -> None:
        outcome = self._proposal.outcome
        if outcome is None:
            if self._proposal.request is not self._sent:
                self._send()
            return
        self._tell(outcome)
        # Others are to have the value too. What was only read they are not sent: it is decided.
        written = self.decided and isinstance(self._proposal.request, Accept)
        if not written or self._proposal.is_answered:
            self.stop()

    def _tell(self, outcome: Outcome | None) -> None:
        waiting, self._outcome = self._outcome, None
        if waiting is not None:
            waiting.callback(outcome)
