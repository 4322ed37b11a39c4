"""Telling the topic what becomes of tasks, for foreign nodes and monitors (``docs/protocol.rst``).

Enters: records that were decided. Leaves: messages, of those that this node has decided itself. No
more than some a second: each costs every node a signature, and nothing depends on them.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from typing import Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from bzzz.mesh.capability import printable
from bzzz.net.token_bucket import TokenBucket
from bzzz.tasks.record import State
from bzzz.tasks.value import TaskRecord

__all__ = ["BURST", "PER_SECOND", "Announcing"]

# Messages that may follow each other at once, and then a second.
BURST: Final = 40
PER_SECOND: Final = 20

# Seconds after which what happened meanwhile is told together, in one frame.
TOGETHER: Final = 0.25

# Characters of a title and of a reason.
MAX_TEXT: Final = 200


class Announcing:
    """Tells of tasks.

    :param own: this node's peer ID.
    :param tell: tells everybody in the topic a message of a type.
    """

    _log = Logger()

    def __init__(
        self,
        own: str,
        clock: IReactorTime,
        tell: Callable[[str, Mapping[str, object]], object],
    ) -> None:
        self._own = own
        self._clock = clock
        self._tell = tell
        self._bucket = TokenBucket(BURST, PER_SECOND)
        self._waiting: list[tuple[str, Mapping[str, object]]] = []
        self._telling: IDelayedCall | None = None

    def stop(self) -> None:
        """Tell nothing more."""
        if self._telling is not None and self._telling.active():
            self._telling.cancel()
        self._waiting.clear()

    def decided(self, record: TaskRecord) -> None:
        """A record was decided, by this node or by another one."""
        replicas = record.submission.replicas
        place = record.ballot.place
        if place >= len(replicas) or replicas[place] != self._own:
            return
        if not self._bucket.take(self._clock.seconds()):
            return
        state = record.state
        if not state.version:
            self._send("task_announcement", record, _announcement(record))
        if state.state is State.ASSIGNED:
            self._send("task_claim", record, {"claimed_by": state.worker, "token": state.token})
        elif state.state is State.ENDED:
            self._send("task_complete", record, _end(record))
        elif state.version:
            message = printable(state.why, MAX_TEXT)
            self._send("task_progress", record, {"state": "waiting", "message": message})

    def _send(self, kind: str, record: TaskRecord, data: Mapping[str, object]) -> None:
        self._waiting.append((kind, {"task_id": record.task, "node_id": self._own, **data}))
        if self._telling is None:
            self._telling = self._clock.callLater(TOGETHER, self._tell_all)

    def _tell_all(self) -> None:
        self._telling = None
        waiting, self._waiting = self._waiting, []
        for kind, data in waiting:
            self._tell(kind, data)


def _announcement(record: TaskRecord) -> Mapping[str, object]:
    submission = record.submission
    title = submission.name or shlex.join(submission.command)
    return {
        "title": printable(title, MAX_TEXT),
        "submitted_by": submission.submitter,
        "requirements": submission.where,
    }


def _end(record: TaskRecord) -> Mapping[str, object]:
    state = record.state
    return {
        "outcome": "" if state.outcome is None else state.outcome.value,
        "exit_status": state.exit_status,
        "completed_by": state.by,
        "message": printable(state.why, MAX_TEXT),
    }
