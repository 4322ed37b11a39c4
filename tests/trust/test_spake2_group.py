"""SPAKE2 over libsodium's group, against the package's own group; and elements that are none."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from nacl import bindings
from spake2 import SPAKE2_A, SPAKE2_B  # type: ignore[import-untyped]  # it has no types
from spake2.parameters.ed25519 import (  # type: ignore[import-untyped]  # it has no types
    ParamsEd25519,
)
from twisted.trial.unittest import SynchronousTestCase

from bzzz.trust.spake2_group import NEUTRAL, ORDER, Element, is_element, parameters

PRIME = 2**255 - 19


def counting(start: int) -> bytes:
    return bytes((start + number) % 256 for number in range(64))


def point(y: int, sign: int = 0) -> bytes:
    return (y | sign << 255).to_bytes(32, "little")


class SameBytesTests(SynchronousTestCase):
    """The package with its own group is the reference."""

    def run_both(self, password: bytes, peers: bytes, start: int) -> None:
        """One side with either group, the other as ``peers`` says."""
        sides = [
            SPAKE2_A(
                password,
                idA=b"a",
                idB=b"b",
                params=params,
                entropy_f=lambda size: counting(start)[:size],
            )
            for params in (parameters(), ParamsEd25519)
        ]
        sent = [side.start() for side in sides]
        self.assertEqual(sent[0], sent[1])
        other = SPAKE2_B(peers, idA=b"a", idB=b"b", params=ParamsEd25519)
        message = other.start()
        keys = [side.finish(message) for side in sides]
        self.assertEqual(keys[0], keys[1])
        self.assertEqual(other.finish(sent[0]) == keys[0], password == peers)

    @settings(max_examples=5, deadline=None)
    @given(st.binary(max_size=20), st.integers(0, 255))
    def test_same(self, password: bytes, start: int) -> None:
        """Messages and keys are those of the package, with the same password and another one."""
        self.run_both(password, password, start)
        self.run_both(password, password + b"x", start)

    def test_right_guess(self) -> None:
        """An element that is the password's own multiple comes to what it comes to elsewhere."""
        scalar = ParamsEd25519.group.password_to_scalar(b"lunar")
        message = b"A" + ParamsEd25519.M.scalarmult(scalar).to_bytes()
        keys = []
        for params in (parameters(), ParamsEd25519):
            side = SPAKE2_B(b"lunar", params=params, entropy_f=lambda size: counting(3)[:size])
            side.start()
            keys.append(side.finish(message))
        self.assertEqual(keys[0], keys[1])

    def test_arithmetic(self) -> None:
        """The neutral element adds nothing, and any of its multiples is itself."""
        params = parameters()
        element = params.M
        self.assertEqual(element.scalarmult(0).to_bytes(), NEUTRAL)
        self.assertEqual(params.group.Base.scalarmult(0).to_bytes(), NEUTRAL)
        self.assertEqual(element.scalarmult(ORDER + 1).to_bytes(), element.to_bytes())
        zero = element.add(element.scalarmult(-1))
        self.assertEqual(zero.to_bytes(), NEUTRAL)
        self.assertEqual(zero.scalarmult(5).to_bytes(), NEUTRAL)
        self.assertEqual(Element(NEUTRAL).add(element).to_bytes(), element.to_bytes())

    def test_as_many_multiplications(self) -> None:
        """A right guess, which comes to the neutral element, costs what a wrong one costs."""
        counts = []
        multiply = bindings.crypto_scalarmult_ed25519_noclamp
        for guess in (b"lunar", b"solar"):
            count = 0

            def counted(factor: bytes, element: bytes) -> bytes:
                nonlocal count
                count += 1
                result: bytes = multiply(factor, element)
                return result

            self.patch(bindings, "crypto_scalarmult_ed25519_noclamp", counted)
            scalar = ParamsEd25519.group.password_to_scalar(guess)
            side = SPAKE2_B(b"lunar", params=parameters())
            side.start()
            side.finish(b"A" + ParamsEd25519.M.scalarmult(scalar).to_bytes())
            counts.append(count)
        self.assertEqual(counts, [3, 3])


class ElementTests(SynchronousTestCase):
    """What a peer may send."""

    def test_elements(self) -> None:
        """Elements of the group of prime order are taken."""
        self.assertTrue(is_element(parameters().M.to_bytes()))
        self.assertTrue(is_element(parameters().group.Base.scalarmult(7).to_bytes()))

    def test_others(self) -> None:
        """Those of small order, in another form, off the curve or of another length are not."""
        wrong = {
            "neutral": point(1),
            "neutral with a sign": point(1, 1),
            "neutral, not reduced": point(1 + PRIME),
            "order 2": point(PRIME - 1),
            "order 4": point(0),
            "order 8": bytes.fromhex(
                "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"
            ),
            "not on the curve": point(2),
            "not reduced": point(3 + PRIME),
            "all ones": b"\xff" * 32,
            "empty": b"",
            "short": parameters().M.to_bytes()[:31],
            "long": parameters().M.to_bytes() + b"\0",
        }
        # On the curve, but with a part of small order in it.
        two = ParamsEd25519.group.bytes_to_element(parameters().M.to_bytes())
        from spake2.ed25519_basic import (  # type: ignore[import-untyped]  # it has no types
            bytes_to_unknown_group_element,
        )

        wrong["order 2L"] = two.add(bytes_to_unknown_group_element(point(PRIME - 1))).to_bytes()
        for what, encoded in wrong.items():
            self.assertFalse(is_element(encoded), what)
            self.assertRaises(ValueError, parameters().group.bytes_to_element, encoded)

    def test_hidden(self) -> None:
        """An element, which may be of a secret, is not shown."""
        element = parameters().M
        self.assertNotIn(element.to_bytes().hex(), repr(element))
