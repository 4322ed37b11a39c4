"""What members ask of each other about tasks: ``/bzzz/task/1.0.0`` (``docs/tasks.rst``).

Enters and leaves: frames without their lengths, and what they say. A frame has as many requests,
or answers, as came in one turn; each with a number that its answer has too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from bzzz.errors import RemoteProtocolError
from bzzz.mesh.capability import SHOWABLE
from bzzz.tasks.ballots import (
    Accept,
    Accepted,
    Ballot,
    Conflict,
    NotYet,
    Prepare,
    Promise,
    Unknown,
)
from bzzz.tasks.record import MAX_REASON, End, Produced
from bzzz.tasks.register_messages import MAX_VALUE, check_answer, check_request
from bzzz.tasks.submission import DIGEST_SIZE, MAX_FILES, TASK, SignedSubmission

__all__ = [
    "MAX_LISTED",
    "MAX_MESSAGE",
    "MAX_RENEWED",
    "MAX_USER",
    "PROTOCOL",
    "Retry",
    "Answer",
    "Cancel",
    "Coming",
    "Done",
    "Drain",
    "Failed",
    "Find",
    "Found",
    "Granted",
    "Hold",
    "Listed",
    "Listing",
    "Offer",
    "Refused",
    "Register",
    "Renew",
    "Report",
    "Request",
    "Settled",
    "Stop",
    "Taken",
    "Told",
    "TaskCodec",
]

PROTOCOL: Final = "/bzzz/task/1.0.0"

# Bytes of a frame. Who sends begins another one before a further message would pass it.
MAX_MESSAGE: Final = 1 << 20

# Leases that are renewed by one message: a node runs fewer tasks.
MAX_RENEWED: Final = 4096

# Records that one answer has: a page of a listing.
MAX_LISTED: Final = 500

# Characters of the name of a user who wants something done on another member.
MAX_USER: Final = 128

Task = Annotated[str, Meta(pattern=TASK.pattern + r"\Z")]
Token = Annotated[int, Meta(ge=0, le=1 << 53)]
Text = Annotated[str, Meta(max_length=MAX_REASON)]
Value = Annotated[bytes, Meta(max_length=MAX_VALUE)]
Digest = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
Size = Annotated[int, Meta(ge=0, le=1 << 53)]


class Register(Struct, frozen=True, array_like=True, tag=1):
    """To a replica: a request to the register of a task. Answered by :class:`Told`.

    :ivar record: with a prepare that was answered by :class:`~bzzz.tasks.ballots.Unknown`: the
        value that the asker goes by. The replica looks at its submission only.
    """

    task: Task
    request: Prepare | Accept
    record: Value = b""


class Renew(Struct, frozen=True, array_like=True, tag=2):
    """From a worker to a replica: it wants the leases of these attempts. Answered by
    :class:`Granted`."""

    attempts: Annotated[tuple[tuple[Task, Token], ...], Meta(max_length=MAX_RENEWED)]


class Offer(Struct, frozen=True, array_like=True, tag=3):
    """From a driver to a worker: the token is decided to be its. Sent once. Answered by
    :class:`Taken` or :class:`Refused`."""

    signed: SignedSubmission
    token: Token


class Stop(Struct, frozen=True, array_like=True, tag=4):
    """From a driver to a worker: a cancel is recorded. Answered by :class:`Done`."""

    task: Task
    token: Token


class Report(Struct, frozen=True, array_like=True, tag=5):
    """From a worker to a replica: an attempt is over. Answered by :class:`Done` when the record
    says so, or that it came too late.

    :ivar end: any but ``STALE``.
    :ivar submission: :func:`~bzzz.tasks.submission.digest` of what it was offered with. A submitter
        could have a task of its own with the ID of another's run there.
    """

    task: Task
    token: Token
    end: End
    exit_status: Annotated[int, Meta(ge=0, le=255)] | None = None
    reason: Text = ""
    produced: Produced | None = None
    submission: Annotated[bytes, Meta(max_length=DIGEST_SIZE)] = b""


class Find(Struct, frozen=True, array_like=True, tag=6):
    """To any member: the record of a task, if it has one. Answered by :class:`Found`."""

    task: Task


class Cancel(Struct, frozen=True, array_like=True, tag=7):
    """To a replica: the task's end is wanted. Answered by :class:`Found`."""

    task: Task


class Retry(Struct, frozen=True, array_like=True, tag=8):
    """To a replica: begin anew a task that ended with this as its greatest token. Answered by
    :class:`Found`."""

    task: Task
    token: Token


class Listing(Struct, frozen=True, array_like=True, tag=9):
    """To any member: the newest records that it has, before a task's ID where one is given.
    Answered by :class:`Listed`.

    :ivar ended: whether those of tasks that have ended are wanted, too.
    :ivar since: no ID below it; "" for all.
    """

    before: Annotated[str, Meta(max_length=26)] = ""
    since: Annotated[str, Meta(max_length=26)] = ""
    ended: bool = True
    most: Annotated[int, Meta(ge=1, le=MAX_LISTED)] = 100


class Settled(Struct, frozen=True, array_like=True, tag=10):
    """To a replica: records of ended tasks that were decided, with the ballots that they were
    decided with. Answered by :class:`Done`."""

    tasks: Annotated[tuple[tuple[Task, Ballot], ...], Meta(max_length=MAX_RENEWED)]


class Hold(Struct, frozen=True, array_like=True, tag=11):
    """To a replica: get these files, as the asker has them, and keep them. From the origin, before
    a task is submitted that reads them; from a worker, before it reports that it has put them out.
    Answered by :class:`Done` when a power cut does not cost them any more, by :class:`Coming` until
    then: it is asked again.

    :ivar files: digests of manifests, in hex.
    """

    task: Task
    files: Annotated[tuple[Digest, ...], Meta(min_length=1, max_length=MAX_FILES)]


class Drain(Struct, frozen=True, array_like=True, tag=12):
    """To any member: take no new tasks, or take tasks again. Answered by :class:`Done`, or by
    :class:`Refused` where the asker is no admin.

    :ivar on: whether to take none.
    :ivar user: who wants it, as the asker says.
    """

    on: bool
    user: Annotated[str, Meta(max_length=MAX_USER, pattern=SHOWABLE)] = ""


class Told(Struct, frozen=True, array_like=True, tag=1):
    """A replica's answer, of what is on its disk."""

    answer: Promise | Accepted | Conflict | NotYet | Unknown


class Granted(Struct, frozen=True, array_like=True, tag=2):
    """Which leases were granted, in the order in which they were asked for."""

    granted: Annotated[tuple[bool, ...], Meta(max_length=MAX_RENEWED)]


class Taken(Struct, frozen=True, array_like=True, tag=3):
    """The worker has counted the attempt in, and begins it when it has its lease."""


class Refused(Struct, frozen=True, array_like=True, tag=4):
    """The worker does not begin it, and has not.

    :ivar for_good: whether it will not take this task later either.
    """

    reason: Text
    for_good: bool = False


class Done(Struct, frozen=True, array_like=True, tag=5):
    """It is done, or was before."""


class Found(Struct, frozen=True, array_like=True, tag=6):
    """A record; None where there is none here."""

    record: Value | None


class Listed(Struct, frozen=True, array_like=True, tag=7):
    """Records, the newest first.

    :ivar more: whether there are more before the last.
    :ivar unreadable: tasks whose records are there and cannot be read.
    """

    records: Annotated[tuple[Value, ...], Meta(max_length=MAX_LISTED)]
    more: bool = False
    unreadable: Annotated[tuple[Task, ...], Meta(max_length=MAX_LISTED)] = ()


class Failed(Struct, frozen=True, array_like=True, tag=8):
    """It could not be done here, such as because the disk is full. Nothing is known of it.

    :ivar reason: for people.
    """

    reason: Text


class Coming(Struct, frozen=True, array_like=True, tag=9):
    """Files are on their way.

    :ivar done: bytes that are here.
    :ivar total: bytes that there are, as far as that is known.
    """

    done: Size
    total: Size


Request = (
    Register
    | Renew
    | Offer
    | Stop
    | Report
    | Find
    | Cancel
    | Retry
    | Listing
    | Settled
    | Hold
    | Drain
)
Answer = Told | Granted | Taken | Refused | Done | Found | Listed | Failed | Coming

_requests = msgspec.msgpack.Decoder(list[tuple[int, Request]])
_answers = msgspec.msgpack.Decoder(list[tuple[int, Answer]])
_encoder = msgspec.msgpack.Encoder()

# What msgspec raises for bytes that are wrong, or nested too deeply.
_UNREADABLE = (msgspec.MsgspecError, RecursionError, UnicodeError)


class TaskCodec:
    """The codec of the protocol, for :class:`bzzz.net.calls.Calls`."""

    protocol_id = PROTOCOL
    max_message = MAX_MESSAGE

    def encode(self, message: Request | Answer) -> bytes:
        """One message, without its number."""
        return _encoder.encode(message)

    def join(self, messages: Sequence[tuple[int, bytes]]) -> bytes:
        """A frame of encoded messages."""
        return _encoder.encode([(number, msgspec.Raw(data)) for number, data in messages])

    def read_requests(self, data: bytes) -> Sequence[tuple[int, Request]]:
        """Read a frame of requests.

        :raises RemoteProtocolError: it is none.
        """
        try:
            requests = _requests.decode(data)
        except _UNREADABLE as error:
            raise RemoteProtocolError(f"requests about tasks cannot be read: {error}") from None
        for _, request in requests:
            if isinstance(request, Register):
                check_request(request.request)
                if request.record and isinstance(request.request, Accept):
                    raise RemoteProtocolError("an accept comes with a second record")
            elif isinstance(request, Report) and request.end is End.STALE:
                raise RemoteProtocolError("a worker reports an end that is not its to tell")
        return requests

    def read_answers(self, data: bytes) -> Sequence[tuple[int, Answer]]:
        """Read a frame of answers.

        :raises RemoteProtocolError: it is none.
        """
        try:
            answers = _answers.decode(data)
        except _UNREADABLE as error:
            raise RemoteProtocolError(f"answers about tasks cannot be read: {error}") from None
        for _, answer in answers:
            if isinstance(answer, Told):
                check_answer(answer.answer)
        return answers
