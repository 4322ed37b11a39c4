"""What happens in a pairing (:mod:`bzzz.trust.pairing`)."""

from __future__ import annotations

from dataclasses import dataclass

from bzzz.identity.peer_id import PeerID
from bzzz.trust.pairing_messages import decode_statements

__all__ = ["Admission", "Confirmed", "Joined", "Request", "WrongCode"]


@dataclass(frozen=True, slots=True)
class Request:
    """Inviter, step 1: somebody wants to pair. Answer with ``offer`` or ``refuse``.

    :ivar name: what it wants to be called; it is certain once it is :class:`Confirmed`.
    """

    channel: str
    name: str


@dataclass(frozen=True, slots=True)
class Confirmed:
    """Inviter, step 3: the joiner has the code. Answer with ``accept`` or ``refuse``."""

    name: str
    peer: PeerID


@dataclass(frozen=True, slots=True)
class WrongCode:
    """Inviter, step 3: the joiner has another code, or somebody is in between. ``refuse`` it."""


@dataclass(frozen=True, slots=True)
class Joined:
    """Inviter, step 5: the joiner has the roster on its disk."""


@dataclass(frozen=True, slots=True, repr=False)
class Admission:
    """Joiner, step 4: the inviter has the code and has admitted this node.

    :ivar encoded: the roster as it came.
    """

    peer: PeerID
    encoded: bytes

    def decode(self) -> list[bytes]:
        """The statements. May run in a thread.

        :raises RemoteProtocolError: they are not a list of texts in base64.
        """
        return decode_statements(self.encoded, self.peer)
