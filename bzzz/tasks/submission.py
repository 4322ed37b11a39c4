"""What is to be run, as its origin signed it (``docs/tasks.rst``, "A task's record").

Enters: what a person wants, or bytes from a peer. Leaves: bytes with the origin's signature, or a
submission that is checked: its fields, its origin's signature, and that it is in the one form that
it can have.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from bzzz.errors import BzzzError, IdentityError, RemoteProtocolError
from bzzz.identity.keys import PrivateKey
from bzzz.identity.peer_id import PeerID

__all__ = [
    "ALPHABET",
    "DIGEST_SIZE",
    "ENV_NAME",
    "MAX_CORES",
    "MAX_COUNT",
    "MAX_GPUS",
    "MAX_PRIORITY",
    "MAX_REPLICAS",
    "MAX_RETRIES",
    "MAX_SECONDS",
    "MAX_SUBMISSION",
    "MAX_TIME",
    "MIN_LEASE",
    "TASK",
    "Cores",
    "Count",
    "Gpus",
    "Input",
    "Name",
    "Peer",
    "Priority",
    "Retries",
    "SignedSubmission",
    "Submission",
    "SubmissionError",
    "Timeout",
    "check_replicas",
    "digest",
    "is_id",
    "new_task_id",
    "peer_id",
    "read",
    "sign",
    "submitted_at",
    "verify",
]

SIGN_PREFIX: Final = b"bzzz-task-v1:"

# Bytes of a submission: a command line with its environment. Files travel by themselves.
MAX_SUBMISSION: Final = 128 << 10

# Bytes of a submission that is remembered, and how many are: those that change just now, in a few
# megabytes.
SHORT: Final = 2048
REMEMBERED: Final = 1024

# The shortest lease in seconds: three renewals fit into it on a network that is slow.
MIN_LEASE: Final = 0.5

MAX_LEASE: Final = 600.0
MAX_SECONDS: Final = 366 * 86400.0
MAX_COUNT: Final = 1 << 53

# The last second of the year 9999: what comes later is no time that could be told.
MAX_TIME: Final = 253_402_300_799
MAX_CORES: Final = 65536
MAX_GPUS: Final = 64
MAX_RETRIES: Final = 1000
MAX_PRIORITY: Final = 1000

# Words of a command line, variables, files: what a person or a program of theirs writes.
MAX_WORDS: Final = 4096
MAX_FILES: Final = 256
MAX_REPLICAS: Final = 3

# Crockford's base 32, without I, L, O and U: 130 bits, of which the first two are 0.
ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
# The same digits as int() has them; what is none of them is none there either.
_DIGITS: Final = str.maketrans(ALPHABET + "ILOU", "0123456789ABCDEFGHIJKLMNOPQRSTUV????")
# Two letters at a time.
_PAIRS: Final = tuple(first + second for first in ALPHABET for second in ALPHABET)
TASK: Final = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")
RANDOM_BYTES: Final = 10

# Bytes of what tells submissions apart.
DIGEST_SIZE: Final = 16

ENV_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

Peer = Annotated[str, Meta(max_length=128)]
Name = Annotated[str, Meta(max_length=128)]
Text = Annotated[str, Meta(max_length=MAX_SUBMISSION)]
Count = Annotated[int, Meta(ge=0, le=MAX_COUNT)]
Cores = Annotated[float, Meta(ge=0, le=MAX_CORES)]
Gpus = Annotated[int, Meta(ge=0, le=MAX_GPUS)]
Timeout = Annotated[float, Meta(ge=0, le=MAX_SECONDS)]
Retries = Annotated[int, Meta(ge=0, le=MAX_RETRIES)]
Priority = Annotated[int, Meta(ge=-MAX_PRIORITY, le=MAX_PRIORITY)]


class SubmissionError(BzzzError):
    """A submission cannot be made as it is wanted."""


class Input(Struct, frozen=True, array_like=True):
    """A file or directory that is there before the command begins.

    :ivar path: where, below the working directory.
    :ivar digest: of its manifest, in hex, see ``bzzz.tasks.files.manifest``.
    :ivar size: bytes, of all files in it.
    """

    path: Annotated[str, Meta(max_length=4096)]
    digest: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
    size: Count


class Submission(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A task as it was submitted.

    :ivar task: its ID.
    :ivar origin: peer ID of the member that it was submitted to, the first of ``replicas``. Of a
        workflow's step: of any of them.
    :ivar replicas: peer IDs of those that keep its record.
    :ivar command: what to run, and its arguments.
    :ivar name: what its submitter calls it.
    :ivar submitter: the user at the origin.
    :ivar env: variables beside those that every task has.
    :ivar where: a CEL expression over the capability document, "" for every member.
    :ivar on: peer ID of the member that it is to run on, "" for any.
    :ivar cpus: cores that are taken for it.
    :ivar memory: bytes that are taken for it, and that it may have; 0 for none counted.
    :ivar gpus: graphics processors that it has for itself.
    :ivar timeout: seconds after which an attempt is ended, 0 for none.
    :ivar retries: see :class:`~bzzz.tasks.record.Policy`.
    :ivar restart: likewise.
    :ivar priority: the greater is placed first.
    :ivar lease: seconds.
    :ivar profile: name of the sandbox.
    :ivar inputs: what is there before it begins.
    :ivar outputs: globs below the working directory, of what is kept when it has ended.
    :ivar workflow: ID of the workflow that it is a step of, or "".
    :ivar step: name of the step.
    """

    task: str
    origin: Peer
    replicas: Annotated[tuple[Peer, ...], Meta(min_length=1, max_length=MAX_REPLICAS)]
    command: Annotated[tuple[Text, ...], Meta(min_length=1, max_length=MAX_WORDS)]
    name: Name = ""
    submitter: Name = ""
    env: Annotated[dict[str, Text], Meta(max_length=MAX_WORDS)] = {}
    where: Annotated[str, Meta(max_length=4096)] = ""
    on: Peer = ""
    cpus: Cores = 1.0
    memory: Count = 0
    gpus: Gpus = 0
    timeout: Timeout = 0.0
    retries: Retries = 0
    restart: bool = True
    priority: Priority = 0
    lease: Annotated[float, Meta(ge=MIN_LEASE, le=MAX_LEASE)] = 3.0
    profile: Annotated[str, Meta(max_length=64)] = "default"
    inputs: Annotated[tuple[Input, ...], Meta(max_length=MAX_FILES)] = ()
    outputs: Annotated[
        tuple[Annotated[str, Meta(max_length=4096)], ...], Meta(max_length=MAX_FILES)
    ] = ()
    workflow: Annotated[str, Meta(max_length=26)] = ""
    step: Name = ""


class SignedSubmission(Struct, frozen=True, array_like=True):
    """A submission's bytes with the origin's signature of them."""

    data: Annotated[bytes, Meta(max_length=MAX_SUBMISSION)]
    signature: Annotated[bytes, Meta(max_length=64)]


# Fields in the order of the class, maps of strings in the order of their keys: one form.
_encoder = msgspec.msgpack.Encoder(order="deterministic")
_decoder = msgspec.msgpack.Decoder(Submission)


# Members whose peer IDs are remembered in both forms: more than there are.
@lru_cache(maxsize=4096)
def peer_id(text: str) -> PeerID:
    """A peer ID from a record.

    :raises IdentityError: it is none.
    """
    return PeerID.parse(text)


def new_task_id(milliseconds: int, random: bytes) -> str:
    """A task's ID: 48 bits of time and 80 random ones.

    :param milliseconds: since the epoch.
    :param random: ten bytes that nobody else has.
    """
    if len(random) != RANDOM_BYTES:
        raise ValueError(f"an ID has {RANDOM_BYTES} random bytes")
    number = (milliseconds & ((1 << 48) - 1)) << 80 | int.from_bytes(random, "big")
    return "".join([_PAIRS[number >> shift & 1023] for shift in range(120, -1, -10)])


def is_id(text: str) -> bool:
    """Whether it is the ID of a task or a workflow, and of a time that can be told."""
    return TASK.fullmatch(text) is not None and submitted_at(text) <= MAX_TIME


@lru_cache(maxsize=REMEMBERED)
def submitted_at(task: str) -> float:
    """When a task's ID was made, in seconds since the epoch by its origin's clock."""
    return int(task[:10].translate(_DIGITS), 32) / 1000


def sign(submission: Submission, key: PrivateKey) -> SignedSubmission:
    """Sign a submission as its origin.

    :raises SubmissionError: it is too long, or a field is not as it has to be.
    """
    data = _encoder.encode(submission)
    if len(data) > MAX_SUBMISSION:
        raise SubmissionError(
            f"the command and its environment have {len(data)} bytes, and {MAX_SUBMISSION} at most"
            " travel with a task; put what is long into a file and give it with --in"
        )
    try:
        _checked(data)
    except (msgspec.MsgspecError, RemoteProtocolError) as error:
        raise SubmissionError(f"the task cannot be submitted: {error}") from None
    return SignedSubmission(data, key.sign(SIGN_PREFIX + data))


def digest(signed: SignedSubmission) -> bytes:
    """What tells a submission from any other, one of the same task by another origin among them."""
    return _digest_short(signed) if len(signed.data) <= SHORT else _digest(signed)


def _digest(signed: SignedSubmission) -> bytes:
    return hashlib.blake2b(signed.data, key=signed.signature, digest_size=DIGEST_SIZE).digest()


_digest_short: Final = lru_cache(maxsize=REMEMBERED)(_digest)


def read(data: bytes) -> Submission:
    """Read a submission, whoever signed it.

    :raises RemoteProtocolError: it is none.
    """
    if len(data) > MAX_SUBMISSION:
        raise RemoteProtocolError(f"a submission has {len(data)} bytes", "submission_length")
    try:
        return _checked(data)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise RemoteProtocolError(
            f"a submission cannot be read: {error}", "submission_unreadable"
        ) from None


def verify(signed: SignedSubmission) -> Submission:
    """Read a submission, and see that its origin has signed it.

    :raises RemoteProtocolError: it is none, or it has not.
    """
    submission = read(signed.data)
    try:
        origin = peer_id(submission.origin)
        key = origin.public_key
        valid = key is not None and key.verify(SIGN_PREFIX + signed.data, signed.signature)
    except IdentityError as error:
        raise RemoteProtocolError(
            f"the origin of a submission is no peer: {error}", "submission_origin"
        ) from None
    if not valid:
        raise RemoteProtocolError(
            "a submission is not signed by its origin", "submission_signature"
        )
    return submission


def _checked(data: bytes) -> Submission:
    """Decode a submission and look at it, once where it is short: it is read with each change."""
    return _decode_short(data) if len(data) <= SHORT else _decode(data)


def _decode(data: bytes) -> Submission:
    submission = _decoder.decode(data)
    _check(submission)
    if _encoder.encode(submission) != data:
        raise RemoteProtocolError(
            "a submission is not in its canonical form", "submission_not_canonical"
        )
    return submission


_decode_short: Final = lru_cache(maxsize=REMEMBERED)(_decode)


def check_replicas(origin: str, replicas: Sequence[str]) -> None:
    """See that these can be the replicas of a task or a workflow.

    :raises RemoteProtocolError: they cannot.
    """
    if origin not in replicas:
        raise RemoteProtocolError(
            "the origin is not one of a task's replicas", "submission_replicas"
        )
    if len(set(replicas)) != len(replicas):
        raise RemoteProtocolError("a replica of a task is there twice", "submission_replicas")
    for each in replicas:
        _check_peer(each)


def _check_peer(each: str) -> None:
    try:
        text = str(peer_id(each))
    except IdentityError as error:
        raise RemoteProtocolError(f"{each!r} is no peer: {error}", "submission_peer") from None
    if text != each:
        # Under two names one peer would be two replicas.
        raise RemoteProtocolError(f"{each} is {text} under another name", "submission_peer")


def _check(submission: Submission) -> None:
    if not is_id(submission.task):
        raise RemoteProtocolError("a submission has no task's ID", "submission_task")
    check_replicas(submission.origin, submission.replicas)
    if submission.on:
        _check_peer(submission.on)
    for word in (*submission.command, *submission.env.values()):
        if "\0" in word:
            raise RemoteProtocolError("a word of a command has a zero byte", "submission_command")
    for name in submission.env:
        if ENV_NAME.fullmatch(name) is None:
            raise RemoteProtocolError(f"{name!r} is no name of a variable", "submission_env")
    for path in (*(each.path for each in submission.inputs), *submission.outputs):
        if not path or path.startswith("/") or "\0" in path or ".." in path.split("/"):
            raise RemoteProtocolError(
                f"{path!r} is not below the working directory", "submission_path"
            )
