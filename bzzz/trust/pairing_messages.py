"""The messages of ``/bzzz/pair/1.0.0`` (``docs/trust.rst``, "Pairing").

Enters and leaves: messages without their lengths, and what they say. Whether a message is due, and
whether a confirmation is right, is the matter of :mod:`bzzz.trust.pairing`.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence

import msgspec

from bzzz.errors import BzzzError, LimitExceeded, RemoteProtocolError
from bzzz.identity.peer_id import PeerID

__all__ = [
    "CHANNEL",
    "MAX_CODE",
    "MAX_MESSAGE",
    "MAX_ROSTER",
    "MAX_WORDS",
    "Message",
    "NAME",
    "PROTOCOL",
    "PairingRefused",
    "REFUSALS",
    "base64_text",
    "decode",
    "decode_bytes",
    "decode_statements",
    "encode",
    "encode_statements",
    "refusal",
    "shown",
    "wrong",
]

PROTOCOL = "/bzzz/pair/1.0.0"

# Bytes of a message: the longest of ours is a refusal, of at most 1300 where each character of its
# words is escaped.
MAX_MESSAGE = 4096

# Bytes of message 4: the statements of a roster, of some 500 bytes each in base64.
MAX_ROSTER = 8 << 20

# Characters of a refusal's words, and of its code, that are sent and shown.
MAX_WORDS = 200
MAX_CODE = 32

# A number for a code, 16 hexadecimal digits for a token.
CHANNEL = re.compile(r"[0-9a-f]{1,16}")

# What a node may be called in the configuration.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")

# What msgspec raises for JSON that is wrong, or nested too deeply even where it is to be ignored.
UNREADABLE = (msgspec.MsgspecError, RecursionError, UnicodeError)

# What a person reads about a refusal. The words of the peer are not shown where there are these:
# it has not proved that it has the code.
REFUSALS = {
    "no_channel": "{peer} has no open invitation {channel}: if the number is right the code was "
    'used, has expired or was guessed at too often; make a new one with "bzzz invite"',
    "wrong_code": "wrong code, or somebody in between: compare it with the one that "
    '"bzzz invite" showed on {peer}; three wrong guesses make a code void. If it is void or the '
    "same, make a new one",
    "name_taken": "the cluster has a member that is called {name}: give another name with "
    '"bzzz join --name"',
    "busy": "{peer} is asked too often at the moment: try again in a minute",
    "used": "as many machines were let in by this code or token as it is for, or this one was, and "
    'is no member any more: make a new one with "bzzz invite" on {peer}',
    "roster_full": "the roster of the cluster is full, so {peer} cannot let anybody in",
    "failed": "{peer} could not let this node in: its log says why",
}


class PairingRefused(BzzzError):
    """The inviter refused; says why, and what a person can do.

    :ivar code: the peer's, a key of :data:`REFUSALS`, or any other text: escaped, at most
        :data:`MAX_CODE` characters of it.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Message(msgspec.Struct, omit_defaults=True):
    """Any message. A field that is missing is None, but ``statements`` is empty."""

    channel: str | None = None
    name: str | None = None
    spake: str | None = None
    confirm: str | None = None
    statements: msgspec.Raw = msgspec.Raw()
    joined: bool | None = None
    error: str | None = None
    words: str | None = None


# The messages, by the fields that they have.
_KINDS = {
    ("channel", "name", "spake"): "request",
    ("spake",): "offer",
    ("confirm",): "confirm",
    ("confirm", "statements"): "admission",
    ("joined",): "joined",
    ("error",): "refusal",
    ("error", "words"): "refusal",
}

_decoder = msgspec.json.Decoder(Message)
_encoder = msgspec.json.Encoder()


def decode(message: bytes, peer: PeerID, max_length: int) -> tuple[str, Message]:
    """The kind of a peer's message, and what it says.

    :raises RemoteProtocolError: it is too long, unreadable, or none of pairing.
    """
    if len(message) > max_length:
        raise LimitExceeded(
            f"{peer} sent a message of {len(message)} bytes; {max_length} are allowed",
            "pair_too_long",
        )
    try:
        said = _decoder.decode(message)
    except UNREADABLE as error:
        raise RemoteProtocolError(
            f"{peer} sent an unreadable message: {shown(str(error), MAX_WORDS)}",
            "pair_unreadable",
        ) from error
    fields = tuple(
        field
        for field in said.__struct_fields__
        if (
            memoryview(said.statements).nbytes
            if field == "statements"
            else getattr(said, field) is not None
        )
    )
    kind = _KINDS.get(fields)
    if kind is None:
        raise wrong(peer, "a message that is none of pairing")
    return kind, said


def encode(message: Message) -> bytes:
    """The message."""
    return _encoder.encode(message)


def encode_statements(statements: Sequence[bytes]) -> bytes:
    """What ``statements`` is in message 4. May run in a thread."""
    return _encoder.encode(list(statements))


def decode_statements(encoded: bytes, peer: PeerID) -> list[bytes]:
    """The statements of message 4. May run in a thread.

    :raises RemoteProtocolError: they are not a list of texts in base64.
    """
    try:
        return msgspec.json.decode(encoded, type=list[bytes])
    except UNREADABLE as error:
        raise wrong(
            peer, f"a roster that cannot be read: {shown(str(error), MAX_WORDS)}"
        ) from error


def base64_text(data: bytes) -> str:
    """The bytes, as they are in a message."""
    return base64.b64encode(data).decode()


def decode_bytes(text: str | None, size: int, peer: PeerID) -> bytes:
    """What ``text`` is the base64 of, in the only way in which that is written.

    :raises RemoteProtocolError: it is not ``size`` bytes in base64.
    """
    try:
        data = base64.b64decode(text or "", validate=True)
    except ValueError:
        data = b""
    if len(data) != size or base64_text(data) != text:
        raise wrong(peer, f"what is not {size} bytes in base64")
    return data


def refusal(said: Message, peer: PeerID, channel: str, name: str) -> PairingRefused:
    """What a person is told of a refusal."""
    code = shown(said.error or "", MAX_CODE)
    known = REFUSALS.get(said.error or "")
    if known is not None:
        return PairingRefused(code, known.format(peer=peer, channel=channel, name=name))
    words = f': "{shown(said.words, MAX_WORDS)}"' if said.words else ""
    return PairingRefused(code, f"{peer} refused ({code}){words}")


def wrong(peer: PeerID, what: str) -> RemoteProtocolError:
    """The error of a message whose fields are not what they have to be."""
    return RemoteProtocolError(f"{peer} sent {what}", "pair_bad_message")


def shown(text: str, limit: int) -> str:
    """A peer's text, to be shown: controls escaped, cut at ``limit`` characters."""
    escaped = "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text[:limit]
    )
    return escaped[:limit] if len(text) <= limit else escaped[: limit - 1] + "…"
