"""The audit log, the core: its lines, the chain that they make, and checkpoints of it.

Enters: events, their fields and times; lines as they are in a file. Leaves: lines that are signed
and linked to the one before, and what such a line says. docs/trust.rst, "Audit log".

A line is a JSON object without white space, with these fields in this order, and a newline::

    seq     from 1
    time    RFC 3339 in UTC, with milliseconds
    event   what happened
    fields  what is told of it: an object of strings, numbers, booleans, nulls, lists of strings
    prev    BLAKE2b-256 of the line before, without its newline, in hex; zeros in the first
    key     peer ID of the key that signed
    sig     base64 of the Ed25519 signature of PREFIX and the line without this field

Whoever reads a line encodes it again: there is one form of each, so that no byte can be changed.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from bzzz.errors import BzzzError, IdentityError
from bzzz.identity.keys import PrivateKey, PublicKey
from bzzz.identity.peer_id import PeerID

__all__ = [
    "MAX_LINE",
    "ZEROS",
    "BadCheckpoint",
    "Chain",
    "Checkpoint",
    "DamagedLine",
    "Kept",
    "Line",
    "Value",
    "hash_line",
    "key_of",
    "open_line",
    "read_line",
    "rfc3339",
]

# What signatures are of, so that one of a line can never pass as one of something else.
PREFIX = b"bzzz-audit-v1:"
CHECKPOINT_PREFIX = b"bzzz-audit-checkpoint-v1:"

# What the first line has for the hash of the one before.
ZEROS = "0" * 64

# Bytes of the longest line that is read, above what fields may have (bzzz.trust.audit_events).
MAX_LINE = 65536

Value = bool | int | float | str | list[str] | None

# JSON numbers are exact up to here everywhere; a line a microsecond takes three centuries to it.
_Seq = Annotated[int, msgspec.Meta(ge=1, le=2**53)]
_Time = Annotated[
    str,
    msgspec.Meta(
        pattern=r"\A[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z\Z",
        max_length=24,
    ),
]
_Hash = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z", max_length=64)]
_Peer = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
_Signature = Annotated[str, msgspec.Meta(min_length=88, max_length=88)]

# What msgspec raises for JSON that is wrong, nested too deeply, or has numbers of any size.
_UNREADABLE = (msgspec.MsgspecError, RecursionError, UnicodeError, OverflowError)

# Between what is signed and the end of a line.
_SIG = b',"sig":"'
_END = b'"}'


class DamagedLine(BzzzError):
    """A line is not one that its author wrote; says why.

    :ivar kind: a short, stable, snake_case name.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class BadCheckpoint(BzzzError):
    """A checkpoint is not signed by the node that it is of."""


class Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A line of the log; see the module for its fields."""

    seq: _Seq
    time: _Time
    event: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    fields: dict[str, Value]
    prev: _Hash
    key: _Peer
    sig: _Signature


class _Unsigned(msgspec.Struct):
    seq: int
    time: str
    event: str
    fields: Mapping[str, Value]
    prev: str
    key: str


class _Said(msgspec.Struct):
    node: str
    seq: int
    hash: str
    time: str


class Checkpoint(msgspec.Struct, frozen=True):
    """What a node says of its log, for others to keep.

    :ivar node: its peer ID.
    :ivar seq: of the line that was the last.
    :ivar hash: of that line.
    :ivar time: by the node's clock.
    :ivar sig: base64 of the node's signature of the other fields.
    """

    node: _Peer
    seq: _Seq
    hash: _Hash
    time: _Time
    sig: _Signature

    def check(self) -> None:
        """See that the node signed it.

        :raises BadCheckpoint: it did not.
        """
        try:
            key = key_of(self.node)
            signature = _signature(self.sig)
        except (IdentityError, ValueError) as error:
            raise BadCheckpoint(f"a checkpoint cannot be checked: {error}") from None
        said = _Said(self.node, self.seq, self.hash, self.time)
        if not key.verify(CHECKPOINT_PREFIX + msgspec.json.encode(said), signature):
            raise BadCheckpoint(
                f"a checkpoint of line {self.seq} is not signed by the node that it names,"
                f" {self.node}"
            )


class Kept(msgspec.Struct, frozen=True):
    """A checkpoint and who keeps it.

    :ivar checkpoint: what the node said.
    :ivar node_name: the node's name, as the keeper knows it.
    :ivar kept_by: peer ID of the node that keeps it.
    :ivar kept_by_name: that one's name.
    :ivar received: when it got it, by its own clock; RFC 3339.
    """

    checkpoint: Checkpoint
    node_name: str = ""
    kept_by: str = ""
    kept_by_name: str = ""
    received: str = ""


class Chain:
    """Writes lines that follow each other.

    :param key: signs.
    :param seq: number of the last line that was written; 0 for none.
    :param prev: that line's hash.
    :ivar seq: of the last line.
    :ivar hash: of the last line.
    """

    def __init__(self, key: PrivateKey, seq: int = 0, prev: str = ZEROS) -> None:
        self.key = key
        self.seq = seq
        self.hash = prev

    def append(self, event: str, fields: Mapping[str, Value], time: float) -> bytes:
        """The next line, with its newline.

        :param time: seconds since the epoch.
        """
        line = _Unsigned(
            self.seq + 1, rfc3339(time), event, fields, self.hash, str(self.key.peer_id)
        )
        unsigned = msgspec.json.encode(line)
        sig = base64.b64encode(self.key.sign(PREFIX + unsigned))
        raw = unsigned[:-1] + _SIG + sig + _END
        self.seq += 1
        self.hash = hash_line(raw)
        return raw + b"\n"

    def checkpoint(self, time: float) -> Checkpoint | None:
        """A checkpoint of the last line; None if there is none."""
        if not self.seq:
            return None
        said = _Said(str(self.key.peer_id), self.seq, self.hash, rfc3339(time))
        sig = self.key.sign(CHECKPOINT_PREFIX + msgspec.json.encode(said))
        return Checkpoint(said.node, said.seq, said.hash, said.time, base64.b64encode(sig).decode())


def open_line(raw: bytes) -> Line:
    """A line, without its newline, whose form and signature are right.

    :raises DamagedLine: they are not.
    """
    try:
        line = _DECODER.decode(raw)
        again = _ENCODER.encode(line)
    except _UNREADABLE:
        raise DamagedLine("unreadable", "it cannot be read as a line of the log") from None
    if again != raw:
        raise DamagedLine("altered", "it is not in the form in which a node writes it")
    try:
        key = key_of(line.key)
        signature = _signature(line.sig)
    except (IdentityError, ValueError):
        raise DamagedLine("altered", "its key or its signature cannot be read") from None
    unsigned = raw[: -len(_SIG) - len(line.sig) - len(_END)] + b"}"
    if not key.verify(PREFIX + unsigned, signature):
        raise DamagedLine("altered", "its signature does not fit what it says")
    return line


def read_line(raw: bytes) -> Line:
    """A line as it is, right or not; for showing it.

    :raises DamagedLine: it cannot be read.
    """
    try:
        return _DECODER.decode(raw)
    except _UNREADABLE:
        raise DamagedLine("unreadable", "it cannot be read as a line of the log") from None


def hash_line(raw: bytes) -> str:
    """The hash of a line, which the next one has as ``prev``."""
    return hashlib.blake2b(raw, digest_size=32).hexdigest()


def key_of(text: str) -> PublicKey:
    """The key in a peer ID that is written as a node writes it.

    :raises IdentityError: there is none, or it is written otherwise.
    """
    peer = PeerID.parse(text)
    key = peer.public_key
    if key is None or str(peer) != text:
        raise IdentityError(f"{text!r} does not hold an Ed25519 key")
    return key


def _signature(text: str) -> bytes:
    """A signature from its base64.

    :raises ValueError: it is none, or one that is written otherwise: the last character has bits
        that do not count.
    """
    signature = base64.b64decode(text, validate=True)
    if base64.b64encode(signature).decode() != text:
        raise ValueError("it is not in the form in which base64 is written")
    return signature


def rfc3339(seconds: float) -> str:
    """Seconds since the epoch as ``2026-11-24T01:02:03.456Z``."""
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


_DECODER: msgspec.json.Decoder[Line] = msgspec.json.Decoder(Line)
_ENCODER: Any = msgspec.json.Encoder()
