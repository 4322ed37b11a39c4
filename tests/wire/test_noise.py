"""The Noise handshake: published vectors, and what a peer may do wrong in it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from bzzz.errors import LocalProtocolError, RemoteProtocolError
from bzzz.identity.keys import PrivateKey
from bzzz.wire.noise import SIGNATURE_PREFIX, CipherState, HandshakeXX, NoiseXX
from bzzz.wire.pb import noise_pb2

VECTORS = json.loads((Path(__file__).parent / "vectors" / "noise_xx.json").read_text())["vectors"]
WALNUT, IRONWOOD = PrivateKey(b"w" * 32), PrivateKey(b"i" * 32)
YAMUX = "/yamux/1.0.0"


def counting() -> Callable[[int], bytes]:
    """Deterministic bytes, different at each call."""
    count = 0

    def take(size: int) -> bytes:
        nonlocal count
        count += 1
        return bytes((count,)) * size

    return take


def pair() -> tuple[NoiseXX, NoiseXX]:
    randomness = counting()
    return (
        NoiseXX(True, WALNUT, IRONWOOD.peer_id, [YAMUX], randomness),
        NoiseXX(False, IRONWOOD, None, [YAMUX, "/mplex"], randomness),
    )


def message(noise: NoiseXX) -> bytes:
    taken = noise.take_message()
    assert taken is not None
    return taken


class VectorTests(SynchronousTestCase):
    """The cacophony vector of Noise_XX_25519_ChaChaPoly_SHA256."""

    def test_vectors(self) -> None:
        """Every message of the handshake and after it is the published one, in both directions."""
        self.assertTrue(VECTORS)
        for vector in VECTORS:
            sides = [
                HandshakeXX(
                    initiator,
                    bytes.fromhex(vector[f"{who}_static"]),
                    bytes.fromhex(vector[f"{who}_ephemeral"]),
                    bytes.fromhex(vector[f"{who}_prologue"]),
                )
                for initiator, who in ((True, "init"), (False, "resp"))
            ]
            ciphers: list[tuple[CipherState, CipherState]] = []
            for number, said in enumerate(vector["messages"]):
                payload = bytes.fromhex(said["payload"])
                ciphertext = bytes.fromhex(said["ciphertext"])
                writer = number % 2
                if number < 3:
                    self.assertEqual(sides[writer].write(payload), ciphertext)
                    self.assertEqual(sides[1 - writer].read(ciphertext), payload)
                    continue
                if not ciphers:
                    for side in sides:
                        self.assertTrue(side.complete)
                        self.assertEqual(side.handshake_hash.hex(), vector["handshake_hash"])
                    ciphers = [side.split() for side in sides]
                self.assertEqual(ciphers[writer][0].encrypt(payload), ciphertext)
                self.assertEqual(ciphers[1 - writer][1].decrypt(ciphertext), payload)


class HandshakeTests(SynchronousTestCase):
    """The handshake with libp2p's payloads."""

    def test_both_know_each_other(self) -> None:
        """After three messages both know who the other is and what muxers it offers."""
        initiator, responder = pair()
        self.assertIsNone(responder.take_message())
        responder.receive_message(message(initiator))
        self.assertIsNone(initiator.take_message())
        initiator.receive_message(message(responder))
        responder.receive_message(message(initiator))
        self.assertTrue(initiator.complete and responder.complete)
        self.assertEqual(initiator.remote_peer, IRONWOOD.peer_id)
        self.assertEqual(responder.remote_peer, WALNUT.peer_id)
        self.assertEqual(initiator.remote_muxers, (YAMUX, "/mplex"))
        self.assertEqual(responder.remote_muxers, (YAMUX,))
        self.assertEqual(initiator.handshake_hash, responder.handshake_hash)
        (send, receive), (send_back, receive_there) = initiator.split(), responder.split()
        self.assertEqual(receive_there.decrypt(send.encrypt(b"there")), b"there")
        self.assertEqual(receive.decrypt(send_back.encrypt(b"and back")), b"and back")

    def test_wrong_peer(self) -> None:
        """A dialled peer that proves to be another one is refused."""
        randomness = counting()
        initiator = NoiseXX(True, WALNUT, WALNUT.peer_id, [], randomness)
        responder = NoiseXX(False, IRONWOOD, None, [], randomness)
        responder.receive_message(message(initiator))
        error = self.assertRaises(
            RemoteProtocolError, initiator.receive_message, message(responder)
        )
        self.assertEqual(error.code, "peer_id_mismatch")
        self.assertIn(str(IRONWOOD.peer_id), str(error))

    def test_every_altered_byte_is_found(self) -> None:
        """No byte of the encrypted messages can be altered unnoticed."""
        initiator, responder = pair()
        responder.receive_message(message(initiator))
        second = message(responder)
        for position in range(0, len(second), 7):
            altered = bytearray(second)
            altered[position] ^= 1
            again, _ = pair()
            message(again)
            self.assertRaises(RemoteProtocolError, again.receive_message, bytes(altered))

    def test_out_of_turn(self) -> None:
        """A message out of turn, or after the end, is the peer's error."""
        initiator, responder = pair()
        first = message(initiator)
        self.assertRaises(RemoteProtocolError, pair()[0].receive_message, first)
        responder.receive_message(first)
        self.assertRaises(RemoteProtocolError, responder.receive_message, first)
        initiator.receive_message(message(responder))
        responder.receive_message(message(initiator))
        error = self.assertRaises(RemoteProtocolError, responder.receive_message, first)
        self.assertEqual(error.code, "noise_out_of_turn")

    def test_asked_too_early(self) -> None:
        """Asking for what is not known yet is this side's own error."""
        initiator, _ = pair()
        self.assertRaises(LocalProtocolError, initiator.split)
        self.assertRaises(LocalProtocolError, lambda: initiator.remote_key)

    def _second_message(self, payload: bytes) -> RemoteProtocolError:
        """What the initiator says to a responder whose payload is ``payload``."""
        initiator = NoiseXX(True, WALNUT, None, [], counting())
        responder = HandshakeXX(False, b"s" * 32, b"e" * 32)
        responder.read(message(initiator))
        return self.assertRaises(
            RemoteProtocolError, initiator.receive_message, responder.write(payload)
        )

    def test_payloads(self) -> None:
        """Each way in which an identity is not proved has its own code."""
        static = HandshakeXX(False, b"s" * 32, b"e" * 32).static_public
        signature = IRONWOOD.sign(SIGNATURE_PREFIX + static)
        encoded = IRONWOOD.public.encode()
        payload = noise_pb2.NoiseHandshakePayload
        for said, code in (
            (b"\xff\xff", "noise_bad_payload"),
            (b"", "noise_no_identity"),
            (payload(identity_key=b"\x08\x00\x12\x00").SerializeToString(), "identity_unsupported"),
            (payload(identity_key=encoded).SerializeToString(), "noise_bad_signature"),
            (
                payload(
                    identity_key=WALNUT.public.encode(), identity_sig=signature
                ).SerializeToString(),
                "noise_bad_signature",
            ),
            (
                payload(
                    identity_key=encoded, identity_sig=IRONWOOD.sign(static)
                ).SerializeToString(),
                "noise_bad_signature",
            ),
        ):
            self.assertEqual(self._second_message(said).code, code)

    def test_low_order_key(self) -> None:
        """A key that would make the shared secret public is refused."""
        _, responder = pair()
        responder.receive_message(b"\0" * 32)
        error = self.assertRaises(RemoteProtocolError, responder.take_message)
        self.assertEqual(error.code, "noise_bad_key")

    @given(st.binary(max_size=300))
    def test_anything(self, data: bytes) -> None:
        """Bytes of any kind are a message or a RemoteProtocolError."""
        initiator, responder = pair()
        first = message(initiator)
        for side in (responder, initiator):
            try:
                side.receive_message(data)
            except RemoteProtocolError:
                pass
        self.assertEqual(len(first), 32)


class CipherTests(SynchronousTestCase):
    """The transport phase."""

    def test_order_and_replay(self) -> None:
        """A message that is repeated, left out or altered cannot be decrypted."""
        send, receive = CipherState(b"k" * 32), CipherState(b"k" * 32)
        one, two = send.encrypt(b"one"), send.encrypt(b"two")
        self.assertEqual(receive.decrypt(one), b"one")
        for wrong in (one, two[:-1], b"", two + b"x"):
            again = CipherState(b"k" * 32)
            again.decrypt(one)
            self.assertRaises(RemoteProtocolError, again.decrypt, wrong)
        self.assertEqual(receive.decrypt(two), b"two")
