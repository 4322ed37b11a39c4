"""The messages on ``bzzz/coordination/v1``: JSON objects ``{"type", "from", "timestamp", "data"}``.

Enters: the bytes of a pubsub message and the peer whose signature it has. Leaves: a
:class:`Received`, or a :class:`RemoteProtocolError` with one of the codes below; and the other way
round. Unknown types and fields are ignored, as are fields that are null or missing where they may
be; what has the wrong type is not. ``docs/protocol.rst`` has the tables of fields.

=================== ===============================================================================
``too_large``       more bytes than :data:`MAX_MESSAGE`, or in a broadcast :data:`MAX_BROADCAST`
``bad_json``        not one JSON object in UTF-8
``missing_field``   ``type``, ``from``, ``timestamp``, ``data`` or ``data.node_id`` is not there
``wrong_type_field`` a field is of another type, too long, too great, or has control characters
``from_mismatch``   ``from`` or ``node_id`` is not the peer who signed the message
``timestamp_invalid`` a time is not RFC 3339, nor (in ``data``) seconds since the epoch
=================== ===============================================================================
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from bzzz.errors import IdentityError, RemoteProtocolError
from bzzz.identity.peer_id import PeerID
from bzzz.mesh.availability import AvailabilityDocument, Moment
from bzzz.mesh.capability import CapabilityDocument, printable

__all__ = [
    "AVAILABILITY",
    "CAPABILITY",
    "COORDINATION_TOPIC",
    "DISCUSSION_TOPIC",
    "Document",
    "MAX_SHOWN",
    "Received",
    "decode",
    "discussion_text",
    "encode",
    "encode_news",
    "shown_type",
]

COORDINATION_TOPIC = "bzzz/coordination/v1"
DISCUSSION_TOPIC = "antennae/meta-discussion/v1"

CAPABILITY = "capability_broadcast"
AVAILABILITY = "availability_broadcast"

# Bytes of any message on the coordination topic. Go nodes put the text of a GitHub issue into a
# task_announcement, of up to 65,536 characters, which in JSON may take several bytes each.
MAX_MESSAGE = 256 << 10

# Bytes of a capability or availability broadcast. That of a workstation has 1 to 4 KiB, and every
# node keeps one of every other.
MAX_BROADCAST = 32 << 10

# Characters of a discussion message that are shown.
MAX_SHOWN = 500

# Bytes of a discussion message that are looked at for its text.
MAX_LOOKED_AT = 64 << 10

EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)

Document = CapabilityDocument | AvailabilityDocument
D = TypeVar("D", CapabilityDocument, AvailabilityDocument)


class _Envelope(msgspec.Struct):
    type: str
    sender: str = msgspec.field(name="from")
    timestamp: str
    data: msgspec.Raw


class _Outgoing(msgspec.Struct):
    type: str
    sender: str = msgspec.field(name="from")
    timestamp: datetime.datetime
    data: Document


class _News(msgspec.Struct):
    type: str
    sender: str = msgspec.field(name="from")
    timestamp: datetime.datetime
    data: Mapping[str, object]


class _Discussion(msgspec.Struct):
    type: str = ""
    data: Any = None


@dataclass(frozen=True, slots=True)
class Received:
    """A message that is as it should be.

    :ivar sender: who signed it.
    :ivar timestamp: when the sender says it was made.
    :ivar document: None where the type is not known here.
    :ivar size: of the message, in bytes.
    """

    type: str
    sender: PeerID
    timestamp: datetime.datetime
    document: Document | None
    size: int


_envelopes = msgspec.json.Decoder(_Envelope)
_anything = msgspec.json.Decoder()
_discussions = msgspec.json.Decoder(_Discussion)
_encoder = msgspec.json.Encoder()


def encode(type: str, sender: PeerID, wall_time: float, document: Document) -> bytes:
    """The message that tells ``document``.

    :param wall_time: seconds since the epoch.
    """
    moment = datetime.datetime.fromtimestamp(wall_time, datetime.UTC)
    return _encoder.encode(_Outgoing(type, str(sender), moment, document))


def encode_news(type: str, sender: PeerID, wall_time: float, data: Mapping[str, object]) -> bytes:
    """A message of a type whose data is not looked at here.

    :param wall_time: seconds since the epoch.
    """
    moment = datetime.datetime.fromtimestamp(wall_time, datetime.UTC)
    return _encoder.encode(_News(type, str(sender), moment, data))


def decode(payload: bytes, sender: PeerID) -> Received:
    """Check a message that ``sender`` signed.

    :raises RemoteProtocolError: it is not as it should be; the module's table has the codes.
    """
    if len(payload) > MAX_MESSAGE:
        raise RemoteProtocolError(
            f"a message of {len(payload)} bytes is longer than {MAX_MESSAGE}", "too_large"
        )
    try:
        envelope = _envelopes.decode(payload)
    except msgspec.ValidationError as error:
        raise _wrong(error, "the message") from error
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise RemoteProtocolError(f"the message is not JSON: {error}", "bad_json") from error
    if not _is_peer(envelope.sender, sender):
        raise RemoteProtocolError(
            f"a message signed by {sender} says it is from {printable(envelope.sender, 80)}",
            "from_mismatch",
        )
    timestamp = _moment(envelope.timestamp, "timestamp")
    document: Document | None = None
    if envelope.type == CAPABILITY:
        document = _document(envelope, payload, CapabilityDocument)
    elif envelope.type == AVAILABILITY:
        document = _document(envelope, payload, AvailabilityDocument)
    if document is not None and not _is_node_id(document.node_id, sender):
        raise RemoteProtocolError(
            f"a message signed by {sender} is about {printable(document.node_id, 80)}",
            "from_mismatch",
        )
    return Received(envelope.type, sender, timestamp, document, len(payload))


def discussion_text(payload: bytes) -> tuple[str, str]:
    """The type of a discussion message, or nothing, and its text; both fit to be shown.

    Go nodes put what is said to people into ``data.message``; anything else is shown as it is.
    """
    kind = ""
    text = payload[: 4 * MAX_SHOWN + 4].decode("utf-8", "replace")
    if len(payload) <= MAX_LOOKED_AT:
        try:
            message = _discussions.decode(payload)
            if isinstance(message.data, dict) and isinstance(message.data.get("message"), str):
                text = message.data["message"]
            elif message.data is not None:
                text = _encoder.encode(message.data).decode()
            kind = message.type
        except (msgspec.MsgspecError, UnicodeError, RecursionError, ValueError):
            pass  # no JSON, or not of this shape: its bytes are shown
    return shown_type(kind), printable(text, MAX_SHOWN)


def shown_type(type: str) -> str:
    """A message's type, fit to be shown."""
    return printable(type, 64)


def _document(envelope: _Envelope, payload: bytes, kind: type[D]) -> D:
    if len(payload) > MAX_BROADCAST:
        raise RemoteProtocolError(
            f"a {envelope.type} of {len(payload)} bytes is longer than {MAX_BROADCAST}", "too_large"
        )
    try:
        # Two steps because Go encodes a list that was never made as null, at any depth.
        fields = _without_nulls(_anything.decode(envelope.data))
        if kind is AvailabilityDocument and isinstance(fields, dict):
            _complete(fields)
        return msgspec.convert(fields, kind)
    except msgspec.ValidationError as error:
        raise _wrong(error, f"the data of a {envelope.type}") from error
    except (msgspec.DecodeError, UnicodeError, RecursionError, ValueError) as error:
        raise RemoteProtocolError(
            f"the data of a {envelope.type} is not JSON: {error}", "bad_json"
        ) from error


def _complete(fields: dict[str, Any]) -> None:
    """Times of Go nodes are whole seconds since the epoch; a status may be missing."""
    for name in ("last_activity", "timestamp"):
        if name in fields:
            fields[name] = _moment(fields[name], name)
    fields.setdefault("status", "ready" if fields.get("available_for_work") is True else "busy")


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value


def _moment(value: object, name: str) -> datetime.datetime:
    try:
        if isinstance(value, str):
            return msgspec.convert(value, Moment)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return EPOCH + datetime.timedelta(seconds=value)
    except (msgspec.ValidationError, OverflowError, ValueError) as error:
        raise RemoteProtocolError(
            f"the {name} {printable(str(value), 40)} is not a time: {error}", "timestamp_invalid"
        ) from error
    raise RemoteProtocolError(f"the {name} is not a time", "wrong_type_field")


def _is_peer(text: str, peer: PeerID) -> bool:
    if text == str(peer):
        return True
    # The same ID may be written as a CID.
    if not text.startswith("b"):
        return False
    try:
        return PeerID.parse(text) == peer
    except (IdentityError, UnicodeError):
        return False


def _is_node_id(text: str, peer: PeerID) -> bool:
    """Whether ``text`` names ``peer``: in full, or as Go nodes have it, ``<peer.ID 12*aBcDeF>``.

    The short form is no proof of anything, but the signature and ``from`` are.
    """
    return _is_peer(text, peer) or text == f"<peer.ID {str(peer)[:2]}*{peer.short}>"


def _wrong(error: msgspec.ValidationError, what: str) -> RemoteProtocolError:
    # It quotes what was found where one of a few words was expected.
    reason = printable(str(error), 200)
    if reason.startswith("Object missing required field"):
        return RemoteProtocolError(f"{what} is incomplete: {reason}", "missing_field")
    return RemoteProtocolError(f"{what} is wrong: {reason}", "wrong_type_field")
