"""One pubsub message: signing, verifying, and the ID that copies of it are known by.

Enters: what to publish, or a message of a received RPC. Leaves: a signed or verified
:class:`Message`, with the bytes that carry it in an RPC. libp2p specs: pubsub/README.md "The
Message", "Message Identification" and "Message Signing", policy ``StrictSign``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from bzzz.errors import IdentityError, RemoteProtocolError
from bzzz.identity.keys import PrivateKey, PublicKey
from bzzz.identity.peer_id import PeerID
from bzzz.wire import varint
from bzzz.wire.pb import rpc_pb2

__all__ = ["Authors", "Message", "Sendable", "message_id", "published", "sign", "split"]

# What a signature covers, before the message itself.
SIGN_PREFIX = b"libp2p-pubsub:"

# A sequence number is a 64-bit big-endian unsigned integer.
SEQNO_SIZE = 8

# Bytes of an Ed25519 peer ID are 38 and of a hashed one 34; nothing longer is worth hashing.
MAX_PEER_ID_SIZE = 64

# What Python adds to the bytes of a message that is kept to be sent: its ID, the objects, places in
# dicts. Measured with tracemalloc.
OVERHEAD = 512

# An Ed25519 signature is 64 bytes and an RSA one of 8192 bits is 1024; a public key is smaller.
MAX_SIGNATURE_SIZE = 1024


@dataclass(frozen=True, slots=True)
class Sendable:
    """A message as others are sent it; see :class:`Message`."""

    id: bytes
    origin: PeerID
    topic: str
    encoded: bytes

    @property
    def cost(self) -> int:
        """Bytes of memory, about."""
        return len(self.encoded) + OVERHEAD


@dataclass(frozen=True, slots=True)
class Message:
    """A message whose signature was verified, or that this node signed.

    :ivar id: the author's peer ID and the sequence number, as go-libp2p has it by default.
    :ivar origin: the author, who signed it; not who forwarded it.
    :ivar encoded: an RPC that publishes it and does nothing else.
    """

    id: bytes
    origin: PeerID
    seqno: int
    topic: str
    data: bytes
    encoded: bytes

    def sendable(self) -> Sendable:
        """What is kept of it for others, without the data, which ``encoded`` has too."""
        return Sendable(self.id, self.origin, self.topic, self.encoded)

    def __repr__(self) -> str:
        return f"<Message {self.seqno} of {self.origin} on {self.topic}, {len(self.data)} bytes>"


def message_id(author: bytes, seqno: bytes) -> bytes:
    """The ID of a message."""
    return author + seqno


def published(body: bytes) -> bytes:
    """An RPC with one message in it, which is encoded as ``body``.

    RPCs can be joined end to end, as protobuf has it for repeated fields.
    """
    return b"\x12" + varint.encode(len(body)) + body


def split(rpc: bytes, messages: int) -> Iterator[bytes]:
    """RPCs of at most so many messages each that say together what ``rpc`` says, in its order.

    What is no RPC comes back as it is.
    """
    try:
        whole = rpc_pb2.RPC.FromString(rpc)
    except (DecodeError, ValueError):
        yield rpc
        return
    count = len(whole.publish)
    if count <= messages:
        # It may be large, and is decoded once more while this waits.
        del whole
        yield rpc
        return
    if whole.subscriptions:
        yield rpc_pb2.RPC(subscriptions=whole.subscriptions).SerializeToString()
    for start in range(0, count, messages):
        part = rpc_pb2.RPC(publish=whole.publish[start : start + messages])
        yield part.SerializeToString()
    if whole.HasField("control"):
        yield rpc_pb2.RPC(control=whole.control).SerializeToString()


def sign(key: PrivateKey, topic: str, data: bytes, seqno: int) -> Message:
    """A new message of this node.

    Its ``key`` field is left out: an Ed25519 peer ID holds the key.
    """
    author = key.peer_id
    number = seqno.to_bytes(SEQNO_SIZE, "big")
    wire = rpc_pb2.Message(data=data, seqno=number, topic=topic)
    setattr(wire, "from", author.bytes)
    signed = wire.SerializeToString(deterministic=True)
    wire.signature = key.sign(SIGN_PREFIX + signed)
    body = wire.SerializeToString(deterministic=True)
    return Message(message_id(author.bytes, number), author, seqno, topic, data, published(body))


class Authors:
    """Verifies messages, remembering the keys of authors it has met.

    :param limit: how many; the one met first goes, and is decoded again when it comes back.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._known: dict[bytes, tuple[PeerID, PublicKey]] = {}

    def verify(self, wire: rpc_pb2.Message) -> Message:
        """Check who wrote the message. ``wire`` loses its signature and key in this.

        :raises RemoteProtocolError: it breaks StrictSign, with a code that says how.
        """
        author: bytes = getattr(wire, "from")
        seqno = wire.seqno
        if not author:
            raise RemoteProtocolError("the message names no author", "from_missing")
        if len(seqno) != SEQNO_SIZE:
            raise RemoteProtocolError(
                f"the message's sequence number has {len(seqno)} bytes, not {SEQNO_SIZE}",
                "seqno_invalid" if seqno else "seqno_missing",
            )
        signature = wire.signature
        if not signature:
            raise RemoteProtocolError("the message is not signed", "signature_missing")
        if len(signature) > MAX_SIGNATURE_SIZE:
            raise RemoteProtocolError("the message's signature is too long", "signature_invalid")
        known = self._known.get(author)
        peer, public = known if known is not None else self._meet(author, wire.key)
        key = wire.key
        if key and key != public.encode():
            raise RemoteProtocolError(
                f"the message has a key that is not its author's, {peer}", "key_mismatch"
            )
        encoded = published(wire.SerializeToString(deterministic=True))
        # Everything else stays, also fields unknown here: the signature covers them.
        wire.ClearField("signature")
        wire.ClearField("key")
        if not public.verify(SIGN_PREFIX + wire.SerializeToString(deterministic=True), signature):
            raise RemoteProtocolError(
                f"the message's signature is not that of its author, {peer}", "signature_invalid"
            )
        if known is None:
            # Only who proved to own a key takes a place.
            if len(self._known) >= self._limit:
                del self._known[next(iter(self._known))]
            self._known[author] = (peer, public)
        return Message(
            author + seqno,
            peer,
            int.from_bytes(seqno, "big"),
            wire.topic,
            wire.data,
            encoded,
        )

    def _meet(self, author: bytes, key: bytes) -> tuple[PeerID, PublicKey]:
        if len(author) > MAX_PEER_ID_SIZE:
            raise RemoteProtocolError("the message's author is no peer ID", "from_invalid")
        try:
            peer = PeerID(author)
        except IdentityError as error:
            raise RemoteProtocolError(
                f"the message's author is no peer ID: {error}", "from_invalid"
            ) from error
        try:
            public = peer.public_key
            if public is None and key:
                public = PublicKey.decode(key)
        except IdentityError as error:
            raise RemoteProtocolError(
                f"the message of {peer} cannot be verified: {error}", "key_unsupported"
            ) from error
        if public is None:
            raise RemoteProtocolError(
                f"the message of {peer} comes without the key to verify it", "key_missing"
            )
        if public.peer_id != peer:
            raise RemoteProtocolError(
                f"the message has a key that is not its author's, {peer}", "key_mismatch"
            )
        return peer, public
