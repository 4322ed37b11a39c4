"""The control API of many tasks that are submitted by one question.

Enters: what is wanted, all of it at once. Leaves: lines that tell of each task by its place in the
question. docs/tasks.rst.

======================= ==========================================================================
POST /v1/tasks/many     ``{"tasks": [Wanted, ...]}``, see :class:`~bzzz.web.submitting.Wanted`;
                        answered by lines
======================= ==========================================================================

Each line has the ``place`` of its task, from 0:

============== ===================================================================================
``id``         ``task``: its ID, before anything else is done
``kept``       ``replicas``: names of the nodes that keep it; it is durable
``stdout``     ``data``: a part of its output, in base64, once it has ended
``stderr``     likewise
``ended``      ``task``: TaskInfo. Of one with ``"follow": false``, ``kept`` is the last line
``refused``    ``code``, ``message``: an error as of ``POST /v1/tasks``, of this task alone, and its
               last line
============== ===================================================================================

So many as :data:`AT_ONCE` are submitted and have not ended at one time. Who hangs up ends the
telling, and what has not begun is not submitted.
"""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Final

from msgspec import Meta
from twisted.internet.defer import CancelledError, Deferred, DeferredLock
from twisted.internet.interfaces import IReactorTime

from bzzz.errors import BzzzError
from bzzz.tasks.ends import Ends
from bzzz.tasks.following import Following
from bzzz.tasks.output_streams import OutputStreams
from bzzz.tasks.placement import Wanted as Needed
from bzzz.tasks.service import TaskService
from bzzz.tasks.submission import Submission
from bzzz.tasks.value import TaskRecord
from bzzz.web.credentials import Credentials
from bzzz.web.requests import Body, Refusal
from bzzz.web.routes import RouteTable
from bzzz.web.stream import LineStream
from bzzz.web.submitting import Submitting, Wanted
from bzzz.web.task_schema import task_info

__all__ = ["AT_ONCE", "ManyRoutes"]

# Tasks of one question; with the shortest commands they are as much as a body may have.
MAX_MANY: Final = 10_000

# Of those, how many are under way at one time: as many as a few machines run, and few enough for
# other questions to be answered in between.
AT_ONCE: Final = 256

# Lines of one turn, after which it is seen whether the client reads them.
MAX_SAID: Final = 100

# Tasks that begin in one turn of the reactor, which takes a few milliseconds.
SLICE: Final = 8


class Many(Body, frozen=True):
    """What ``POST /v1/tasks/many`` takes."""

    tasks: Annotated[tuple[Wanted, ...], Meta(min_length=1, max_length=MAX_MANY)]


class ManyRoutes:
    """The route."""

    def __init__(
        self,
        clock: IReactorTime,
        service: TaskService,
        submitting: Submitting,
        outputs: OutputStreams,
        name_of: Callable[[str], str],
    ) -> None:
        self._clock = clock
        self._service = service
        self._submitting = submitting
        self._outputs = outputs
        self._name_of = name_of

    def add_to(self, table: RouteTable) -> None:
        """Put it into the table."""
        table.stream("/v1/tasks/many", self.submit, Many)

    async def submit(self, lines: LineStream, by: Credentials, body: Many) -> None:
        submitter = await by.user_name()
        ends = Ends(self._clock, self._service)
        telling = _Telling(self._clock, lines)
        many = _Submitted(
            self._clock,
            self._submitting,
            ends,
            telling,
            self._rest,
            self._name_of,
            submitter,
            body.tasks,
        )
        try:
            await many.all()
            telling.flush()
        finally:
            ends.close()

    async def _rest(self, place: int, record: TaskRecord, telling: _Telling) -> None:
        """Tell what an ended task has printed, which is mostly in its record."""

        def sink(which: int, data: bytes) -> Deferred[None]:
            event = "stdout" if which == 1 else "stderr"
            telling.say(place, event, data=base64.b64encode(data).decode())
            return telling.room()

        produced = record.state.produced
        if produced is None or produced.stdout_size or produced.stderr_size:
            # One after the other, so that little waits for a client that reads slowly.
            await telling.printing.acquire()
            try:
                following = Following(
                    self._clock, self._service, self._outputs, lambda record: None, sink
                )
                await following.follow(record)
            finally:
                telling.printing.release()


class _Telling:
    """Lines, those of one turn together.

    :ivar printing: held by the task whose output is told.
    """

    def __init__(self, clock: IReactorTime, lines: LineStream) -> None:
        self._clock = clock
        self._lines = lines
        self._waiting: list[object] = []
        self.printing = DeferredLock()

    def say(self, place: int, event: str, **fields: object) -> None:
        if not self._waiting:
            self._clock.callLater(0, self.flush)
        self._waiting.append({"event": event, "place": place, **fields})

    def flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        self._lines.send_all(waiting)

    def room(self) -> Deferred[None]:
        """Fires when the client has read most of what was said."""
        if len(self._waiting) > MAX_SAID:
            self.flush()
        return self._lines.ready()


Rest = Callable[[int, TaskRecord, _Telling], Awaitable[None]]


class _Submitted:
    """The tasks of one question.

    :param rest: tells the output of a task that has ended.
    """

    def __init__(
        self,
        clock: IReactorTime,
        submitting: Submitting,
        ends: Ends,
        telling: _Telling,
        rest: Rest,
        name_of: Callable[[str], str],
        submitter: str,
        wanted: Sequence[Wanted],
    ) -> None:
        self._clock = clock
        self._submitting = submitting
        self._ends = ends
        self._telling = telling
        self._rest = rest
        self._name_of = name_of
        self._submitter = submitter
        self._count = len(wanted)
        self._wanted = iter(enumerate(wanted))
        # Needs of which it is known that some node can have them.
        self._can_run: set[Needed] = set()
        self._turns: list[Deferred[None]] = []

    async def all(self) -> None:
        """Submit them, and wait for their ends."""
        workers = [Deferred.fromCoroutine(self._some()) for _ in range(min(AT_ONCE, self._count))]
        try:
            for each in workers:
                await each
        finally:
            for each in workers:
                each.addErrback(lambda failure: failure.trap(CancelledError))
                each.cancel()

    async def _some(self) -> None:
        for place, wanted in self._wanted:
            await self._turn()
            try:
                await self._one(place, wanted)
            except Refusal as refusal:
                self._telling.say(place, "refused", code=refusal.code, message=str(refusal))
            except BzzzError as error:
                self._telling.say(place, "refused", code="node_error", message=str(error))
            room = self._telling.room()
            if not room.called:
                await room

    async def _one(self, place: int, wanted: Wanted) -> None:
        submission = self._submitting.submission(wanted, self._submitter)
        if not wanted.wait:
            self._see_that_it_can_run(submission)
        task = submission.task
        self._telling.say(place, "id", task=task)
        ending = self._ends.ended(task) if wanted.follow else None
        try:
            kept = await self._submitting.submit(submission)
            replicas = [self._name_of(each) for each in kept.submission.replicas]
            self._telling.say(place, "kept", replicas=replicas)
            if ending is not None:
                ended = await ending
                await self._rest(place, ended, self._telling)
                self._telling.say(place, "ended", task=task_info(ended, self._name_of))
        finally:
            self._ends.forget(task)

    def _see_that_it_can_run(self, submission: Submission) -> None:
        """Once for all that need the same."""
        needed = Needed.of(submission)
        if needed not in self._can_run:
            self._submitting.see_that_it_can_run(submission)
            self._can_run.add(needed)

    def _turn(self) -> Deferred[None]:
        """Fires when the next may begin: some in each turn of the reactor."""
        if not self._turns:
            self._clock.callLater(0, self._serve)
        turn: Deferred[None] = Deferred()
        self._turns.append(turn)
        return turn

    def _serve(self) -> None:
        turns, self._turns = self._turns[:SLICE], self._turns[SLICE:]
        if self._turns:
            self._clock.callLater(0, self._serve)
        for turn in turns:
            if not turn.called:
                turn.callback(None)
