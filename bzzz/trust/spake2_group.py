"""The group of SPAKE2, computed by libsodium (the ``spake2`` package; Ed25519 of RFC 8032).

Enters: scalars, and elements as their 32 bytes. Leaves: elements, and :func:`parameters` for the
classes of the ``spake2`` package, which send and derive the same bytes with it as with the
package's own group. That one is written in Python, and will not do for a password that can be
guessed:

- It is quicker when the peer's element is exactly what the password adds to it (8.3 ms instead of
  10.2): a peer that sends such a one for its guess would learn from message 2 whether that is
  right, before the guess is counted. Its time also depends on the bits of the password. Here
  all multiplications are libsodium's, whose time does not depend on their inputs, and there are
  always as many.
- It takes the neutral element in two encodings, elements in a form that is not their only one, and
  anything behind an element. Here an element has one form, and is of the group of prime order.
- It takes 10 ms for each side, and this one 0.6.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from nacl import bindings

__all__ = ["ELEMENT_LENGTH", "Element", "SodiumGroup", "is_element", "parameters"]

ELEMENT_LENGTH = 32
SCALAR_LENGTH = 32

# The order of the group that is used (RFC 8032, section 5.1).
ORDER = 2**252 + 27742317777372353535851937790883648493

# The neutral element: x = 0, y = 1.
NEUTRAL = b"\x01" + bytes(31)

# Multiplied in place of the neutral element, which libsodium refuses. Its product is not used.
STAND_IN = bindings.crypto_scalarmult_ed25519_base_noclamp(b"\x01" + bytes(31))


def is_element(encoded: bytes) -> bool:
    """Whether these bytes are an element that a peer may send.

    It is on the curve, in its only encoding, of prime order, and so not the neutral one.
    """
    return len(encoded) == ELEMENT_LENGTH and bool(
        bindings.crypto_core_ed25519_is_valid_point(bytes(encoded))
    )


class Element:
    """An element, with the methods that the ``spake2`` package calls. Has no representation."""

    __slots__ = ("_encoded",)

    def __init__(self, encoded: bytes) -> None:
        self._encoded = encoded

    def add(self, other: Element) -> Element:
        """The sum of both."""
        return Element(bindings.crypto_core_ed25519_add(self._encoded, other._encoded))

    def scalarmult(self, scalar: int) -> Element:
        """This element ``scalar`` times, which may be negative.

        The neutral element takes as long as any other one: it is what a right guess comes to.
        """
        factor = _scalar(scalar)
        if not any(factor):
            return Element(NEUTRAL)
        neutral = self._encoded == NEUTRAL
        product = bindings.crypto_scalarmult_ed25519_noclamp(
            factor, STAND_IN if neutral else self._encoded
        )
        return Element(NEUTRAL if neutral else product)

    def to_bytes(self) -> bytes:
        """The encoding."""
        return self._encoded


class _Base(Element):
    """The generator, for which libsodium has tables."""

    __slots__ = ()

    def scalarmult(self, scalar: int) -> Element:
        """The generator ``scalar`` times."""
        factor = _scalar(scalar)
        if not any(factor):
            return Element(NEUTRAL)
        return Element(bindings.crypto_scalarmult_ed25519_base_noclamp(factor))


class SodiumGroup:
    """The group, as the ``spake2`` package wants it.

    :param scalars: the package's own group, which makes scalars of passwords and random bytes.
    """

    def __init__(self, scalars: Any) -> None:
        self._scalars = scalars
        self.Base = _Base(STAND_IN)

    def password_to_scalar(self, password: bytes) -> int:
        """The scalar of a password."""
        scalar: int = self._scalars.password_to_scalar(password)
        return scalar

    def random_scalar(self, random_bytes: Callable[[int], bytes]) -> int:
        """A random scalar."""
        scalar: int = self._scalars.random_scalar(random_bytes)
        return scalar

    def bytes_to_element(self, encoded: bytes) -> Element:
        """The element that a peer sent.

        :raises ValueError: it is none; see :func:`is_element`.
        """
        if not is_element(encoded):
            raise ValueError("it is no element of the group")
        return Element(encoded)


@lru_cache(maxsize=1)
def parameters() -> Any:
    """What the classes of the ``spake2`` package take as ``params``.

    The first call imports the package, which takes 35 to 100 ms, mostly for ``cryptography``.
    """
    from spake2.parameters.ed25519 import (  # type: ignore[import-untyped]  # it has no types
        ParamsEd25519,
    )

    ours = copy.copy(ParamsEd25519)
    ours.group = SodiumGroup(ParamsEd25519.group)
    for name in ("M", "N", "S"):
        setattr(ours, name, Element(getattr(ParamsEd25519, name).to_bytes()))
    return ours


def _scalar(number: int) -> bytes:
    return (number % ORDER).to_bytes(SCALAR_LENGTH, "little")
