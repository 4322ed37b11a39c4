"""The state of a task, and the changes that a driver may make to it (``docs/tasks.rst``).

Enters: a state, and what happened. Leaves: the next state, or None where the register is to be
left as it is, because what happened is of an attempt that is not the current one, or of a task that
has ended. Each function here is applied inside a change of the register, so it sees the last state
there is, and is called again on a newer one when another driver was faster.
"""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from bzzz.tasks.submission import MAX_TIME, Count, Peer

__all__ = [
    "ATTEMPTS_KEPT",
    "Attempt",
    "MAX_LOST",
    "MAX_REASON",
    "End",
    "Outcome",
    "Policy",
    "Produced",
    "State",
    "TaskState",
    "assign",
    "begin",
    "cancel",
    "finish",
    "lose",
    "refuse",
    "retry",
    "shorten",
]

# Attempts whose end is kept with the task; of a task that has had more, the last.
ATTEMPTS_KEPT: Final = 16

# Bytes of the end of each output that are kept with the task: what a person looks at first when it
# failed, and all there is once its worker is gone.
TAIL: Final = 2048

# Characters of a reason. A person reads the first lines, and the record has room for the reasons of
# all attempts that it keeps: register_messages.MAX_VALUE.
MAX_REASON: Final = 2000

# Lost workers after which a task is not restarted any more: it may be what they died of.
MAX_LOST: Final = 4


Reason = Annotated[str, Meta(max_length=MAX_REASON)]
ExitStatus = Annotated[int, Meta(ge=0, le=255)]


class State(Enum):
    """Where a task is."""

    WAITING = "waiting"
    ASSIGNED = "assigned"
    ENDED = "ended"


class Outcome(Enum):
    """How a task ended.

    ``LOST``: its worker was lost, and it may not be run again.
    """

    DONE = "done"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"
    LOST = "lost"


class End(Enum):
    """How an attempt ended.

    ``STALE``: its result came when another attempt, or none, was the current one.
    """

    DONE = "done"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"
    LOST = "lost"
    REFUSED = "refused"
    STALE = "stale"


class Attempt(Struct, frozen=True, omit_defaults=True):
    """An attempt that is over.

    :ivar worker: peer ID.
    :ivar exit_status: of the command; None where it gave none.
    :ivar reason: for people.
    """

    token: Count
    worker: Peer
    end: End
    exit_status: ExitStatus | None = None
    reason: Reason = ""


class Produced(Struct, frozen=True, omit_defaults=True):
    """What an attempt has left.

    :ivar stdout: the last :data:`TAIL` bytes of its standard output.
    :ivar stderr: likewise of standard error.
    :ivar stdout_size: bytes of all of it.
    :ivar outputs: digest of the manifest of the files that it put out, in hex; "" for none.
    :ivar outputs_size: bytes of these files.
    """

    stdout: Annotated[bytes, Meta(max_length=TAIL)] = b""
    stderr: Annotated[bytes, Meta(max_length=TAIL)] = b""
    stdout_size: Annotated[int, Meta(ge=0)] = 0
    stderr_size: Annotated[int, Meta(ge=0)] = 0
    outputs: Annotated[str, Meta(pattern=r"^([0-9a-f]{64})?\Z")] = ""
    outputs_size: Annotated[int, Meta(ge=0)] = 0


class Policy(Struct, frozen=True):
    """What the submission says of attempts that fail.

    :ivar retries: attempts that may follow one whose command failed or ran out of time, or whose
        worker was lost.
    :ivar restart: whether a lost worker's attempt is followed by another one without a retry left.
    """

    retries: int = 0
    restart: bool = True


class TaskState(Struct, frozen=True, omit_defaults=True):
    """What changes of a task's record.

    :ivar token: the greatest that was given; the current attempt's where the task is assigned.
    :ivar version: counts the changes.
    :ivar worker: peer ID of whom it is assigned to, "" otherwise.
    :ivar driver: peer ID of who has assigned it, and offers it to the worker, once.
    :ivar failed: attempts that took a retry, since the task was last begun anew.
    :ivar lost: attempts whose worker was lost, since then.
    :ivar cancel: whether its end is wanted.
    :ivar why: what it waits for, or how it ended, for people.
    :ivar by: peer ID of whose result it is, once it has ended with one.
    :ivar produced: what that result's attempt has left.
    :ivar changed: when, in seconds since the epoch, by the clock of who changed it.
    """

    state: State = State.WAITING
    token: Count = 0
    version: Count = 0
    worker: Peer = ""
    driver: Peer = ""
    failed: Count = 0
    lost: Count = 0
    cancel: bool = False
    outcome: Outcome | None = None
    exit_status: ExitStatus | None = None
    why: Reason = ""
    by: Peer = ""
    produced: Produced | None = None
    changed: Annotated[float, Meta(ge=0, le=MAX_TIME)] = 0.0
    attempts: Annotated[tuple[Attempt, ...], Meta(max_length=ATTEMPTS_KEPT)] = ()


def begin(worker: str = "", driver: str = "") -> TaskState:
    """The first state, assigned to ``worker`` where one is known that fits."""
    waiting = TaskState()
    return _assigned(waiting, worker, driver) if worker else waiting


def assign(state: TaskState, token: int, worker: str, driver: str = "") -> TaskState | None:
    """Give a waiting task to a worker, with the token after ``token``, if that is the greatest.

    :param driver: who offers it to the worker. Nobody else may: an offer that is made twice could
        begin one attempt twice, where the worker was restarted between them.
    """
    if state.state is not State.WAITING or state.cancel or state.token != token:
        return None
    return _assigned(state, worker, driver)


def refuse(state: TaskState, worker: str, token: int, reason: str) -> TaskState | None:
    """The worker did not begin: the task waits again, and nothing counts against it."""
    if not _current(state, token) or worker != state.worker:
        return None
    over = Attempt(token, state.worker, End.REFUSED, reason=shorten(reason))
    if state.cancel:
        return _ended(state, over, Outcome.CANCELLED)
    return _waiting(state, over, failed=state.failed)


def finish(
    state: TaskState,
    policy: Policy,
    worker: str,
    token: int,
    end: End,
    exit_status: int | None = None,
    reason: str = "",
    produced: Produced | None = None,
) -> TaskState | None:
    """A worker's word that an attempt is over.

    The word of an attempt that is not the current one is kept as such, once, and changes nothing
    else.

    :param end: ``DONE``, ``FAILED``, ``TIMED_OUT`` or ``CANCELLED``.
    :raises ValueError: for an end that is no worker's to tell.
    """
    if end not in _OUTCOMES:
        raise ValueError(f"{end.value} is no end that a worker tells")
    over = Attempt(token, worker, end, exit_status, shorten(reason))
    if not _current(state, token) or worker != state.worker:
        return _stale(state, over)
    if end is End.DONE:
        return _ended(state, over, Outcome.DONE, produced)
    if end is End.CANCELLED or state.cancel:
        return _ended(state, over, Outcome.CANCELLED, produced)
    if state.failed < policy.retries:
        return _waiting(state, over, failed=state.failed + 1)
    return _ended(state, over, _OUTCOMES[end], produced)


def lose(state: TaskState, policy: Policy, token: int, reason: str) -> TaskState | None:
    """The current attempt's token was closed, as its worker was not heard of.

    It takes a retry. Where none is left the task is restarted all the same, if it may be, until it
    has lost :data:`MAX_LOST` workers.
    """
    if not _current(state, token):
        return None
    over = Attempt(token, state.worker, End.LOST, reason=shorten(reason))
    state = msgspec.structs.replace(state, lost=state.lost + 1)
    if state.cancel:
        return _ended(state, over, Outcome.CANCELLED)
    if state.failed < policy.retries:
        return _waiting(state, over, failed=state.failed + 1)
    if policy.restart and state.lost < MAX_LOST:
        return _waiting(state, over, failed=state.failed)
    return _ended(state, over, Outcome.LOST)


def cancel(state: TaskState) -> TaskState | None:
    """End a waiting task, and want the end of one that is assigned."""
    if state.state is State.ENDED or state.cancel:
        return None
    if state.state is State.ASSIGNED:
        return msgspec.structs.replace(state, cancel=True)
    return msgspec.structs.replace(
        state, state=State.ENDED, cancel=True, outcome=Outcome.CANCELLED, why=""
    )


def retry(state: TaskState, token: int) -> TaskState | None:
    """Begin anew a task that ended with ``token`` as its greatest; its tokens go on from there.

    A task that was never assigned before it ended may be begun anew more than once by one wish.
    """
    if state.state is not State.ENDED or state.token != token:
        return None
    return TaskState(token=state.token, version=state.version, attempts=state.attempts)


def shorten(reason: str) -> str:
    """As much of a reason as a record and a message have room for, in UTF-8 in any case: it may
    have the name of a file in it."""
    return reason[:MAX_REASON].encode(errors="replace").decode()


_OUTCOMES: Final = {
    End.DONE: Outcome.DONE,
    End.FAILED: Outcome.FAILED,
    End.TIMED_OUT: Outcome.TIMED_OUT,
    End.CANCELLED: Outcome.CANCELLED,
}


def _current(state: TaskState, token: int) -> bool:
    return state.state is State.ASSIGNED and state.token == token


def _kept(state: TaskState, over: Attempt) -> tuple[Attempt, ...]:
    return (*state.attempts, over)[-ATTEMPTS_KEPT:]


def _assigned(state: TaskState, worker: str, driver: str) -> TaskState:
    return msgspec.structs.replace(
        state, state=State.ASSIGNED, token=state.token + 1, worker=worker, driver=driver, why=""
    )


def _waiting(state: TaskState, over: Attempt, *, failed: int) -> TaskState:
    return msgspec.structs.replace(
        state,
        state=State.WAITING,
        worker="",
        driver="",
        failed=failed,
        why=over.reason,
        attempts=_kept(state, over),
    )


def _ended(
    state: TaskState, over: Attempt, outcome: Outcome, produced: Produced | None = None
) -> TaskState:
    return msgspec.structs.replace(
        state,
        state=State.ENDED,
        worker="",
        driver="",
        by=over.worker,
        produced=produced,
        outcome=outcome,
        exit_status=over.exit_status,
        why=over.reason,
        attempts=_kept(state, over),
    )


def _stale(state: TaskState, over: Attempt) -> TaskState | None:
    # Of the attempts that are remembered, whose end was not told by the worker; once for each. A
    # word that comes twice, as it does when an answer is lost, and one that is made up leave no
    # trace.
    ends = {
        one.end for one in state.attempts if (one.token, one.worker) == (over.token, over.worker)
    }
    if not ends or ends - {End.LOST, End.REFUSED}:
        return None
    stale = Attempt(over.token, over.worker, End.STALE, over.exit_status, over.reason)
    return msgspec.structs.replace(state, attempts=_kept(state, stale))
