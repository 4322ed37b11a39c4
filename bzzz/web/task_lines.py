"""Lines that tell of a task: where it runs, what it prints, how it ended.

Enters: a task's record, and the news of it. Leaves: lines to who asked, no faster than they are
read. Their form is in :mod:`bzzz.web.task_routes`.
"""

from __future__ import annotations

import base64
from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from bzzz.tasks.following import Following
from bzzz.tasks.output_streams import OutputStreams
from bzzz.tasks.record import State
from bzzz.tasks.service import TaskService
from bzzz.tasks.value import TaskRecord, peer_id
from bzzz.web.stream import LineStream
from bzzz.web.task_schema import task_info

__all__ = ["TaskLines"]


class TaskLines:
    """Tells of tasks.

    :param clock: for following.
    :param name_of: what the member with a peer ID is called.
    """

    def __init__(
        self,
        clock: IReactorTime,
        service: TaskService,
        outputs: OutputStreams,
        name_of: Callable[[str], str],
    ) -> None:
        self._clock = clock
        self._service = service
        self._outputs = outputs
        self._name_of = name_of

    async def follow(self, lines: LineStream, record: TaskRecord) -> None:
        """Tell of a task until it has ended.

        :raises BzzzError: nobody knows of it any more.
        """
        last: tuple[object, ...] = ()

        def told(record: TaskRecord) -> None:
            nonlocal last
            state = record.state
            line: tuple[object, ...]
            if state.state is State.WAITING:
                line = ("waiting", state.why)
            elif state.state is State.ASSIGNED:
                line = ("running", state.worker, state.token)
            else:
                return
            if line == last:
                return
            last = line
            if state.state is State.WAITING:
                lines.send({"event": "waiting", "why": state.why})
            else:
                name = self._name_of(state.worker)
                lines.send(
                    {
                        "event": "running",
                        "worker": state.worker,
                        "worker_name": name,
                        "token": state.token,
                        # Who refused it has not begun it.
                        "begun": state.failed + state.lost,
                    }
                )

        following = Following(self._clock, self._service, self._outputs, told, _output_to(lines))
        ended = await following.follow(record)
        lines.send({"event": "ended", "task": task_info(ended, self._name_of)})
        await lines.ready()

    async def output(self, lines: LineStream, record: TaskRecord) -> None:
        """Tell what the attempt that runs has printed until now.

        :raises BzzzError: it cannot be had.
        """
        state = record.state
        if state.state is State.ASSIGNED:
            worker = peer_id(state.worker)
            await self._outputs.get(
                worker, record.task, state.token, (0, 0), False, _output_to(lines)
            )


def _output_to(lines: LineStream) -> Callable[[int, bytes], Deferred[None] | None]:
    def sink(which: int, data: bytes) -> Deferred[None] | None:
        event = "stdout" if which == 1 else "stderr"
        lines.send({"event": event, "data": base64.b64encode(data).decode()})
        return lines.ready()

    return sink
