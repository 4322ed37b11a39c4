"""The Noise handshake: another implementation's bytes, and what a peer may do wrong in it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from nacl import bindings
from twisted.trial.unittest import SynchronousTestCase

from bzzz.errors import LocalProtocolError, RemoteProtocolError
from bzzz.identity.keys import PrivateKey
from bzzz.wire.noise import (
    MAX_MESSAGE,
    MAX_MUXER_TEXT,
    MAX_MUXERS,
    MAX_NONCE,
    SIGNATURE_PREFIX,
    TAG,
    CipherState,
    HandshakeXX,
    NoiseXX,
)
from bzzz.wire.pb import noise_pb2

# One file as it was published, one made for Bzzz with another implementation; each says its origin.
VECTORS = [
    vector
    for path in sorted((Path(__file__).parent / "vectors").glob("noise_xx*.json"))
    for vector in json.loads(path.read_text())["vectors"]
]
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
    """Handshakes of an independent implementation; ``vectors/noise_xx.json`` says of which."""

    def test_vectors(self) -> None:
        """Every message of the handshake and after it is the same, in both directions."""
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
                writer = ("init", "resp").index(said.get("writer", ("init", "resp")[number % 2]))
                if number < 3:
                    self.assertEqual(sides[writer].write(payload), ciphertext)
                    self.assertEqual(sides[1 - writer].read(ciphertext), payload)
                    continue
                if not ciphers:
                    for side in sides:
                        self.assertTrue(side.complete)
                        expected = vector.get("handshake_hash", side.handshake_hash.hex())
                        self.assertEqual(side.handshake_hash.hex(), expected)
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

    def test_a_refused_responder_is_told_nothing(self) -> None:
        """After a refused identity the initiator neither says its own, nor goes on."""
        randomness = counting()
        initiator = NoiseXX(True, WALNUT, WALNUT.peer_id, [], randomness)
        responder = NoiseXX(False, IRONWOOD, None, [], randomness)
        responder.receive_message(message(initiator))
        second = message(responder)
        self.assertRaises(RemoteProtocolError, initiator.receive_message, second)
        self.assertIsNone(initiator.take_message())
        self.assertRaises(RemoteProtocolError, initiator.receive_message, second)
        self.assertRaises(LocalProtocolError, initiator.split)

    def test_a_refused_initiator_gets_no_link(self) -> None:
        """After a refused identity in the last message the responder is not complete."""
        randomness = counting()
        initiator = NoiseXX(True, WALNUT, None, [], randomness)
        responder = NoiseXX(False, IRONWOOD, IRONWOOD.peer_id, [], randomness)
        responder.receive_message(message(initiator))
        initiator.receive_message(message(responder))
        error = self.assertRaises(
            RemoteProtocolError, responder.receive_message, message(initiator)
        )
        self.assertEqual(error.code, "peer_id_mismatch")
        self.assertFalse(responder.complete)
        self.assertRaises(LocalProtocolError, responder.split)
        self.assertRaises(LocalProtocolError, lambda: responder.remote_peer)

    def test_no_way_on_after_a_failure(self) -> None:
        """After a message that could not be read, not even the right one is read."""
        initiator, responder = pair()
        responder.receive_message(message(initiator))
        second = message(responder)
        error = self.assertRaises(
            RemoteProtocolError, initiator.receive_message, second[:-1] + b"\0"
        )
        self.assertEqual(error.code, "decrypt_failed")
        error = self.assertRaises(RemoteProtocolError, initiator.receive_message, second)
        self.assertEqual(error.code, "noise_out_of_turn")
        self.assertIsNone(initiator.take_message())

    def test_split_once(self) -> None:
        """A handshake is split once; the secrets that it came from are not kept."""
        initiator, responder = pair()
        responder.receive_message(message(initiator))
        initiator.receive_message(message(responder))
        self.assertRaises(LocalProtocolError, responder.split)
        responder.receive_message(message(initiator))
        for side in (initiator, responder):
            side.split()
            self.assertRaises(LocalProtocolError, side.split)
            core = side._handshake
            self.assertEqual((core._static, core._ephemeral, core._chaining_key), (b"",) * 3)

    def _altered(self, sent: bytes, make: Callable[[], NoiseXX]) -> None:
        """Refuse ``sent`` with any byte altered, cut anywhere, or with something after it."""
        wrong = [sent + b"\0"]
        for position in range(0, len(sent), 5):
            altered = bytearray(sent)
            altered[position] ^= 0x40
            wrong += [bytes(altered), sent[:position]]
        for data in wrong:
            error = self.assertRaises(RemoteProtocolError, make().receive_message, data)
            self.assertIn(error.code, ("decrypt_failed", "noise_too_short", "noise_bad_key"))

    def test_altered_messages(self) -> None:
        """No message that is encrypted can be altered, cut or extended unnoticed."""

        def waiting_for_second() -> NoiseXX:
            initiator, _ = pair()
            message(initiator)
            return initiator

        def waiting_for_third() -> NoiseXX:
            initiator, responder = pair()
            responder.receive_message(message(initiator))
            message(responder)
            return responder

        initiator, responder = pair()
        responder.receive_message(message(initiator))
        second = message(responder)
        initiator.receive_message(second)
        self._altered(second, waiting_for_second)
        self._altered(message(initiator), waiting_for_third)

    def test_first_message(self) -> None:
        """The first message is a key and nothing else: less and more are refused."""
        for data, code in (
            (b"", "noise_too_short"),
            (b"k" * 31, "noise_too_short"),
            (b"k" * 33, "noise_early_payload"),
            (b"k" * 32 + b"early data" * 10, "noise_early_payload"),
        ):
            _, responder = pair()
            error = self.assertRaises(RemoteProtocolError, responder.receive_message, data)
            self.assertEqual(error.code, code)

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
        error: RemoteProtocolError = self.assertRaises(
            RemoteProtocolError, initiator.receive_message, responder.write(payload)
        )
        return error

    def test_payloads(self) -> None:
        """Each way in which an identity is not proved has its own code."""
        static = HandshakeXX(False, b"s" * 32, b"e" * 32).static_public
        signature = IRONWOOD.sign(SIGNATURE_PREFIX + static)
        encoded = IRONWOOD.public.encode()
        payload = noise_pb2.NoiseHandshakePayload
        for said, code in (
            (b"\xff\xff", "noise_bad_payload"),
            # A muxer's name that is not UTF-8.
            (b"\x22\x03\x12\x01\xff", "noise_bad_payload"),
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
        """A key that would make the shared secret public is refused, and nothing goes on."""
        # Points of order 2, 4 and 8, which share a secret with anybody (RFC 7748, section 6.1).
        eight = "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"
        for key in (b"\0" * 32, b"\1" + b"\0" * 31, bytes.fromhex(eight)):
            _, responder = pair()
            responder.receive_message(key)
            error = self.assertRaises(RemoteProtocolError, responder.take_message)
            self.assertEqual(error.code, "noise_bad_key")
            self.assertIsNone(responder.take_message())

    def test_muxers_are_bounded(self) -> None:
        """Of a peer's muxers some are read, each to some length."""
        initiator = NoiseXX(True, WALNUT, None, [], counting())
        responder = NoiseXX(False, IRONWOOD, None, ["/m" * 1000] * 60, counting())
        responder.receive_message(message(initiator))
        initiator.receive_message(message(responder))
        self.assertEqual(len(initiator.remote_muxers), MAX_MUXERS)
        self.assertEqual({len(muxer) for muxer in initiator.remote_muxers}, {MAX_MUXER_TEXT})

    @given(st.binary(max_size=300))
    def test_anything(self, data: bytes) -> None:
        """Bytes of any kind are a message or a RemoteProtocolError."""
        initiator, responder = pair()
        message(initiator)
        for side in (responder, initiator):
            try:
                side.receive_message(data)
                side.take_message()
            except RemoteProtocolError:
                pass
            self.assertFalse(side.complete)

    @given(st.binary(max_size=200))
    def test_any_payload(self, payload: bytes) -> None:
        """A peer that encrypts bytes of any kind as its payload is refused."""
        self._second_message(payload)


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

    def test_a_failure_costs_no_nonce(self) -> None:
        """A ciphertext that failed leaves the cipher where it was (framework, section 5.1)."""
        send, receive = CipherState(b"k" * 32), CipherState(b"k" * 32)
        sealed = send.encrypt(b"said")
        self.assertRaises(RemoteProtocolError, receive.decrypt, b"x" * 20)
        self.assertEqual(receive.decrypt(sealed), b"said")

    def test_last_nonce(self) -> None:
        """The last nonce but one is used; after that each side refuses in its way."""
        send, receive = CipherState(b"k" * 32, MAX_NONCE - 1), CipherState(b"k" * 32, MAX_NONCE - 1)
        self.assertEqual(receive.decrypt(send.encrypt(b"last")), b"last")
        self.assertRaises(LocalProtocolError, send.encrypt, b"more")
        error = self.assertRaises(RemoteProtocolError, receive.decrypt, b"x" * 20)
        self.assertEqual(error.code, "noise_nonces_used_up")

    def test_key_length(self) -> None:
        """A key of the wrong length never reaches the cipher."""
        self.assertRaises(LocalProtocolError, CipherState, b"k" * 31)

    @given(st.binary(max_size=70), st.binary(max_size=70))
    def test_as_pynacl(self, plaintext: bytes, associated: bytes) -> None:
        """The cipher does what PyNaCl's own function does, with and without associated data."""
        nonce = 7
        seal = bindings.crypto_aead_chacha20poly1305_ietf_encrypt
        expected = seal(plaintext, associated, bytes(4) + nonce.to_bytes(8, "little"), b"k" * 32)
        sealed = CipherState(b"k" * 32, nonce).encrypt(plaintext, associated)
        self.assertEqual(sealed, expected)
        self.assertEqual(CipherState(b"k" * 32, nonce).decrypt(sealed, associated), plaintext)

    def test_longest_message(self) -> None:
        """The longest message is 65535 bytes with its tag."""
        plaintext = bytes(range(256)) * 256
        sealed = CipherState(b"k" * 32).encrypt(plaintext[: MAX_MESSAGE - TAG])
        self.assertEqual(len(sealed), MAX_MESSAGE)
        self.assertEqual(CipherState(b"k" * 32).decrypt(sealed), plaintext[: MAX_MESSAGE - TAG])
