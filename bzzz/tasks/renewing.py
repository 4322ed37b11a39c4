"""What a replica answers workers that want leases (``docs/tasks.rst``, "Leases").

Enters: renewals. Leaves: which are granted. A task is offered to its worker while its first record
is still on the way to the replicas' disks, so the first renewal may be here before what it is
granted by: it is answered when that is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime

from bzzz.net.alarms import Alarms
from bzzz.tasks.messages import Answer, Granted
from bzzz.tasks.replica import Replica

__all__ = ["WRITTEN", "Renewing"]

# Seconds that a renewal waits for a write. A worker that has no lease yet asks again after as many.
WRITTEN: Final = 0.1


class Renewing:
    """Answers for one replica."""

    def __init__(self, clock: IReactorTime, replica: Replica) -> None:
        self._alarms = Alarms(clock)
        self._replica = replica

    def answer(self, worker: str, attempts: Sequence[tuple[str, int]]) -> Deferred[Answer]:
        """Grant what can be. It does not fail.

        :param worker: its peer ID, which its link has proved.
        :param attempts: tasks and tokens.
        """
        granted = self._grant(worker, attempts)
        being_written = [
            writing
            for (task, _), is_granted in zip(attempts, granted.granted, strict=True)
            if not is_granted and (writing := self._replica.accepting(task)) is not None
        ]
        if not being_written:
            return succeed(granted)
        answered: Deferred[Answer] = Deferred()
        left = len(being_written)

        def written(_: None) -> None:
            nonlocal left
            left -= 1
            if left == 0 and alarm.active:
                alarm.ring()

        alarm = self._alarms.call_later(
            WRITTEN, lambda: answered.callback(self._grant(worker, attempts))
        )
        for writing in being_written:
            writing.addCallback(written)
        return answered

    def stop(self) -> None:
        """Nothing more is answered."""
        self._alarms.tidy()

    def _grant(self, worker: str, attempts: Sequence[tuple[str, int]]) -> Granted:
        renew = self._replica.renew
        return Granted(tuple(renew(task, worker, token) for task, token in attempts))
