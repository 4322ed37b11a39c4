"""Following a task from anywhere: what its record says, and what its attempts print.

Enters: a task. Leaves: its records as they change, the output of each attempt as it comes, and at
last the record of its end. docs/tasks.rst, "Output".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from twisted.internet.defer import Deferred, DeferredQueue, TimeoutError
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from bzzz.errors import BzzzError
from bzzz.net.background import after
from bzzz.tasks.finding import NoSuchTask
from bzzz.tasks.output import Sink
from bzzz.tasks.output_streams import OutputStreams
from bzzz.tasks.record import State
from bzzz.tasks.service import TaskService
from bzzz.tasks.value import TaskRecord, peer_id

__all__ = ["Following"]

# Seconds between two looks at a task that this node does not keep.
POLL: Final = 1.0

# Seconds without a word of those that keep it, after which it is followed no more.
SILENCE: Final = 60.0

# Seconds that an attempt runs before its output is asked for: what ends sooner mostly has it in its
# record, and nobody sees so short a delay.
BEGIN_OUTPUT: Final = 0.1

# Seconds between two tries to get the output of an attempt, which may not have begun.
TRY_AGAIN: Final = 0.1

# Seconds for the last of the output after the task has ended.
LAST_OUTPUT: Final = 10.0


class Following:
    """Follows one task.

    :param told: is given each newer record.
    :param sink: is given the output.
    """

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        service: TaskService,
        outputs: OutputStreams,
        told: Callable[[TaskRecord], object],
        sink: Sink | None,
    ) -> None:
        self._clock = clock
        self._service = service
        self._outputs = outputs
        self._told = told
        self._sink = sink
        self._records: DeferredQueue[tuple[TaskRecord, bool]] = DeferredQueue()
        self._getting: Deferred[None] | None = None
        # What begins to get it soon.
        self._beginning: tuple[IDelayedCall, Callable[[], None]] | None = None
        self._napping: Deferred[None] | None = None
        self._is_over = False
        self._token = 0
        self._received = [0, 0]

    async def follow(self, record: TaskRecord) -> TaskRecord:
        """Follow a task until it has ended.

        :raises NoSuchTask: nobody has it any more.
        """
        task = record.task
        keeps = self._service.keeps(record)
        end = self._service.watch(task, self._put)
        try:
            # Read again, as it may have changed since.
            last = await self._service.find(task)
            settled = not keeps or last.ballot == record.ballot
            while True:
                self._told(last)
                self._get(last)
                if last.has_ended and (settled or not keeps):
                    await self._last_output(last)
                    return last
                if keeps:
                    last, settled = await self._next(last)
                else:
                    last = await self._polled(last)
        finally:
            end()
            self._get_no_more()

    # -- inside

    def _put(self, record: TaskRecord, settled: bool) -> None:
        self._records.put((record, settled))

    async def _next(self, last: TaskRecord) -> tuple[TaskRecord, bool]:
        """The next that the replica is told, or what it has after a while: an end that was settled
        before anybody listened is not told again."""
        waiting = self._records.get()
        waiting.addTimeout(POLL, self._clock)
        try:
            return await waiting
        except TimeoutError:
            record = await self._service.find(last.task)
            return record, not self._service.driver.known(last.task)

    async def _polled(self, last: TaskRecord) -> TaskRecord:
        heard = self._clock.seconds()
        while True:
            await self._sleep(POLL)
            try:
                # A cluster has many members, of which one may hang.
                record = await self._service.find(last.task, last.submission.replicas)
            except NoSuchTask:
                # Links come back; the task is there since somebody asked for it.
                if self._clock.seconds() >= heard + SILENCE:
                    raise
                continue
            heard = self._clock.seconds()
            if record.state != last.state:
                return record

    def _get(self, record: TaskRecord) -> None:
        """Get the output of a new attempt, in the place of one that is over."""
        state = record.state
        if self._sink is None or state.state is not State.ASSIGNED or state.token == self._token:
            return
        self._get_no_more()
        self._token = state.token
        self._received = [0, 0]
        begin = partial(self._begin, record, self._sink)
        self._beginning = (self._clock.callLater(BEGIN_OUTPUT, begin), begin)

    def _begin(self, record: TaskRecord, sink: Sink) -> None:
        self._beginning = None
        self._getting = Deferred.fromCoroutine(self._output(record, sink))
        self._getting.addErrback(lambda failure: None)

    def _get_no_more(self) -> None:
        if self._beginning is not None:
            self._beginning[0].cancel()
            self._beginning = None
        if self._getting is not None:
            self._getting.cancel()
            self._getting = None

    async def _output(self, record: TaskRecord, sink: Sink) -> None:
        """The output of an attempt, again from where it broke off as often as it does."""

        def counted(which: int, data: bytes) -> Deferred[None] | None:
            self._received[which - 1] += len(data)
            return sink(which, data)

        state = record.state
        while True:
            try:
                await self._outputs.get(
                    peer_id(state.worker),
                    record.task,
                    state.token,
                    (self._received[0], self._received[1]),
                    True,
                    counted,
                )
            except BzzzError:
                if self._is_over:
                    return
                await self._nap(TRY_AGAIN)
                continue
            return

    async def _nap(self, seconds: float) -> None:
        """Until the output is asked for: at once when the task has ended."""
        napping = self._napping = Deferred()
        call = self._clock.callLater(seconds, napping.callback, None)
        try:
            await napping
        finally:
            self._napping = None
            if call.active():
                call.cancel()

    async def _last_output(self, record: TaskRecord) -> None:
        """Wait for the rest, unless the record has it; so it may when its worker does not tell it
        any more."""
        self._is_over = True
        if self._sink is None:
            return
        if record.state.by and record.state.token != self._token:
            # This attempt had ended before anybody heard that it began.
            self._received = [0, 0]
            self._get_no_more()
            if not self._is_all_in(record):
                await self._once(record)
        elif self._is_all_in(record):
            self._get_no_more()
        else:
            await self._rest()
        for which, missing, tail in self._missing(record):
            if 0 < missing <= len(tail):
                written = self._sink(which, tail[-missing:])
                if written is not None:
                    await written

    async def _rest(self) -> None:
        """Have what is got come to its end."""
        if self._beginning is not None:
            call, begin = self._beginning
            call.cancel()
            begin()
        if self._napping is not None:
            self._napping.callback(None)
        if self._getting is not None:
            waiting = after(self._getting)
            waiting.addTimeout(LAST_OUTPUT, self._clock)
            try:
                await waiting
            except TimeoutError:
                self._get_no_more()

    def _missing(self, record: TaskRecord) -> Sequence[tuple[int, int, bytes]]:
        """How many bytes of each output were not received, with what the record has of it."""
        produced = record.state.produced
        if produced is None:
            return ()
        return (
            (1, produced.stdout_size - self._received[0], produced.stdout),
            (2, produced.stderr_size - self._received[1], produced.stderr),
        )

    def _is_all_in(self, record: TaskRecord) -> bool:
        """Whether the record has all that was not received."""
        return record.state.produced is not None and all(
            missing <= len(tail) for _, missing, tail in self._missing(record)
        )

    async def _once(self, record: TaskRecord) -> None:
        state = record.state
        sink = self._sink
        if sink is None:
            return

        def counted(which: int, data: bytes) -> Deferred[None] | None:
            self._received[which - 1] += len(data)
            return sink(which, data)

        try:
            await self._outputs.get(
                peer_id(state.by), record.task, state.token, (0, 0), False, counted
            )
        except BzzzError as error:
            self._log.debug("The output of {task}: {error}", task=record.task, error=error)

    def _sleep(self, seconds: float) -> Deferred[None]:
        slept: Deferred[None] = Deferred()
        self._clock.callLater(seconds, slept.callback, None)
        return slept
