"""Records of tasks in their registers: one change of a task at a time.

Enters: edits of a task's state. Leaves: the record that was decided. docs/tasks.rst, "The
register".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
from twisted.internet.defer import Deferred

from bzzz.errors import BzzzError
from bzzz.tasks.ballots import RESERVED, Ballot
from bzzz.tasks.proposer import Change, Decided
from bzzz.tasks.record import TaskState
from bzzz.tasks.registers import Registers
from bzzz.tasks.value import TaskRecord, decode_record, encode_record, peer_id

__all__ = ["Edit", "NoRecord", "Records"]

Edit = Callable[[TaskState], TaskState | None]
"""Is given the last state, and returns the next; None leaves it. May be called again on a newer
one, and leaves alone what has its effect already."""


class NoRecord(BzzzError):
    """A majority of the replicas has never heard of the task, or has one of other replicas."""


class Records:
    """The changes of tasks by one node.

    :param wall_time: seconds since the epoch.
    """

    def __init__(self, registers: Registers, wall_time: Callable[[], float]) -> None:
        self._registers = registers
        self._wall_time = wall_time
        # Registers that are being changed, and who waits for that.
        self._changing: dict[str, list[Deferred[None]]] = {}

    async def create(
        self,
        record: TaskRecord,
        within: float,
        *,
        fresh: bool,
        asked: Callable[[], object] | None = None,
    ) -> TaskRecord:
        """Give a task its first record, if it has none.

        :param within: seconds.
        :param fresh: whether its ID was made by this node for this call, and this node is the first
            of its replicas. Then it takes one round trip.
        :param asked: see :meth:`bzzz.tasks.registers.Registers.propose`.
        :raises NoMajority: it is not known whether it has it.
        """
        state = msgspec.structs.replace(record.state, changed=self._wall_time())
        value = encode_record(record.signed, state)
        decided = await self.propose(
            record.task,
            record.submission.replicas,
            lambda before: value if before is None else None,
            within,
            first=RESERVED if fresh else None,
            shown=value,
            worker=lambda: state.worker,
            asked=asked,
        )
        return _read(decided, record)

    async def change(
        self, record: TaskRecord, edit: Edit, within: float, *, close: int = 0
    ) -> TaskRecord:
        """Change a task's state by the last that was decided.

        :param record: any that was decided for the task; this node is one of its replicas.
        :param close: the token that has to be closed first, 0 for none.
        :param within: seconds, from when it is this change's turn.
        :raises NoMajority: it is not known whether it was changed.
        :raises NoRecord: a majority has none, or one that is for other replicas.
        """
        worker = record.state.worker

        def change(value: bytes | None) -> bytes | None:
            nonlocal worker
            edited = self._edited(value, record, edit)
            if edited is None:
                return None
            # Whom it is given to now is to have it first, or else who had it.
            worker = edited.state.worker or worker
            return encode_record(edited.signed, edited.state)

        decided = await self.propose(
            record.task,
            record.submission.replicas,
            change,
            within,
            close=close,
            shown=encode_record(record.signed, record.state),
            worker=lambda: worker,
        )
        return _read(decided, record)

    async def propose(
        self,
        register: str,
        replicas: Sequence[str],
        change: Change,
        within: float,
        *,
        close: int = 0,
        first: Ballot | None = None,
        shown: bytes,
        worker: Callable[[], str] = str,
        asked: Callable[[], object] | None = None,
    ) -> Decided:
        """Change any register, one change at a time; see
        :meth:`bzzz.tasks.registers.Registers.propose`."""
        if register not in self._changing:
            self._changing[register] = []
        else:
            # A second change of one node would end the first.
            turn: Deferred[None] = Deferred()
            self._changing[register].append(turn)
            await turn
        try:
            decided = await self._registers.propose(
                register,
                [peer_id(each) for each in replicas],
                change,
                within,
                close=close,
                first=first,
                shown=shown,
                worker=lambda: peer_id(name) if (name := worker()) in replicas else None,
                asked=asked,
            )
        except GeneratorExit:
            # It is thrown away, with all that waits for it: nothing is to go on from here.
            raise
        except BaseException:
            self._next(register)
            raise
        self._next(register)
        return decided

    def _next(self, register: str) -> None:
        """It is the turn of who has waited longest."""
        waiting = self._changing[register]
        while waiting:
            turn = waiting.pop(0)
            if not turn.called:
                turn.callback(None)
                return
        del self._changing[register]

    def _edited(self, value: bytes | None, known: TaskRecord, edit: Edit) -> TaskRecord | None:
        if value is None:
            return None
        last = decode_record(value, known=known)
        if last.submission.replicas != known.submission.replicas:
            return None
        state = edit(last.state)
        if state is None:
            return None
        state = msgspec.structs.replace(
            state, version=last.state.version + 1, changed=self._wall_time()
        )
        return TaskRecord(last.signed, last.submission, state)


def _read(decided: Decided, known: TaskRecord) -> TaskRecord:
    if decided.value is None or decided.ballot is None:
        raise NoRecord(f"there is no record of {known.task}")
    record = decode_record(decided.value, decided.ballot, known)
    if record.submission.replicas != known.submission.replicas:
        # Its origin has signed two, and given them to different members.
        raise NoRecord(f"the record of {known.task} is not for those that keep it")
    return record
