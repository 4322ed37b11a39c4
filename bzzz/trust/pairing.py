"""Pairing: how a node that has a code is let into a cluster (``docs/trust.rst``, "Pairing").

Enters: whole messages of ``/bzzz/pair/1.0.0``, without their lengths, and what the owner's node
decided. Leaves: messages, and events. An :class:`Inviter` or a :class:`Joiner` is for one run.

===== ========= ======================================= ==========================================
step  from      message                                 made by
===== ========= ======================================= ==========================================
1     joiner    ``{"channel", "name", "spake"}``        :meth:`Joiner.begin`
2     inviter   ``{"spake"}``                           :meth:`Inviter.offer`
3     joiner    ``{"confirm"}``                         :meth:`Joiner.confirm`
4     inviter   ``{"confirm", "statements"}``           :meth:`Inviter.accept`
5     joiner    ``{"joined": true}``                    :meth:`Joiner.joined`
2, 4  inviter   ``{"error", "words"}`` in their place   :meth:`Inviter.refuse`
===== ========= ======================================= ==========================================

``spake``, ``confirm`` and each of the statements are in base64; :mod:`bzzz.trust.pairing_keys`
says what they are. Fields that are not known are ignored.

Between steps 2 and 3 the joiner may let others go first. Nothing of the inviter's is due then: who
has a message 4 before message 3 was made has tried a guess that nobody has counted.

A peer's error is a :class:`RemoteProtocolError` with one of these codes, and ends the run:

========================= ========================================================================
``pair_too_long``         more bytes than ``max_length``
``pair_unreadable``       not one JSON object in UTF-8, or a field of another type
``pair_bad_message``      fields that make no message, or one that cannot be what it says
``pair_bad_element``      ``spake`` is no element of the group, or one of the side that got it
``pair_out_of_turn``      a message that is not due: doubled, early, or after the end
``pair_wrong_confirm``    the inviter's confirmation is wrong: it does not have the code
========================= ========================================================================

Measured on a machine with 2 cores that were busy: the joiner's step 1 takes 0.2 ms and its step 3
0.4 ms; the inviter's steps 1 and 2 take 0.7 ms. None of it needs a thread. What the first run of a
process loads does, with 35 to 100 ms: :func:`bzzz.trust.pairing_keys.prepare`. With a roster of
4 MiB, half of what is taken, :func:`encode_statements`, :meth:`Inviter.accept`, the joiner's step 4
and :meth:`Admission.decode` take 4 to 12 ms each, with 20 statements 0.04 ms at most; the first and
the last touch no state of a run, so that they can be called in a thread.
"""

from __future__ import annotations

import enum
import hmac
from collections.abc import Callable, Mapping
from typing import ClassVar

import msgspec

from bzzz.errors import LocalProtocolError, RemoteProtocolError
from bzzz.identity.peer_id import PeerID
from bzzz.trust.pairing_events import (
    Admission,
    Confirmed,
    Joined,
    Request,
    WrongCode,
)
from bzzz.trust.pairing_keys import (
    CONFIRM_LENGTH,
    SPAKE_LENGTH,
    Confirmations,
    Exchange,
    Side,
    check_message,
)
from bzzz.trust.pairing_messages import (
    CHANNEL,
    MAX_CODE,
    MAX_MESSAGE,
    MAX_ROSTER,
    MAX_WORDS,
    NAME,
    PROTOCOL,
    Message,
    PairingRefused,
    base64_text,
    decode,
    decode_bytes,
    encode,
    encode_statements,
    refusal,
    shown,
    wrong,
)

__all__ = [
    "MAX_CONFIRMS",
    "MAX_MESSAGE",
    "MAX_ROSTER",
    "PROTOCOL",
    "Admission",
    "Confirmed",
    "Inviter",
    "Joined",
    "Joiner",
    "PairingRefused",
    "Request",
    "State",
    "WrongCode",
    "encode_statements",
]

# Peers to which a joiner may send message 3 for one code without a right message 4 coming back, one
# after the other. Each of them may have made a guess, and anybody may have any number of peer IDs.
MAX_CONFIRMS = 3


class State(enum.Enum):
    """What happened last in a run."""

    IDLE = "nothing"
    REQUESTED = "message 1"
    OFFERED = "message 2"
    CONFIRMED = "message 3"
    WRONG = "message 3, with a wrong code"
    ADMITTED = "message 4"
    JOINED = "message 5"
    REFUSED = "a refusal"
    FAILED = "an error"


class _Run:
    """What both sides have: the state, and how a message is read.

    :ivar state: what happened last.
    """

    # What may happen in which state, and the state after it. What the peer does is the kind of its
    # message; what this side does has the name of the method. Some names are the same.
    _theirs: ClassVar[Mapping[tuple[State, str], State]]
    _own: ClassVar[Mapping[tuple[State, str], State]]

    def __init__(
        self,
        joiner: PeerID,
        inviter: PeerID,
        peer: PeerID,
        handshake_hash: bytes,
        random_bytes: Callable[[int], bytes],
        unbound: bool,
    ) -> None:
        if not handshake_hash and not unbound:
            raise LocalProtocolError("a link without a handshake hash is not for pairing")
        self.state = State.IDLE
        self._joiner = joiner
        self._inviter = inviter
        self._peer = peer
        self._hash = handshake_hash
        self._random_bytes = random_bytes
        self._unbound = unbound
        self._first = b""
        self._second = b""
        self._confirmations: Confirmations | None = None

    @property
    def max_length(self) -> int:
        """Bytes of the longest message that may come now."""
        return MAX_MESSAGE

    def _exchange(self, side: Side, password: bytes) -> Exchange:
        return Exchange(
            side,
            password,
            self._joiner,
            self._inviter,
            self._hash,
            self._random_bytes,
            self._unbound,
        )

    def _keys(self) -> Confirmations:
        if self._confirmations is None:
            raise LocalProtocolError("there are no keys of this pairing yet")
        return self._confirmations

    def _after(self, what: str) -> State:
        """The state after something that this side does."""
        after = self._own.get((self.state, what))
        if after is None:
            raise LocalProtocolError(f"{what} is not possible after {self.state.value}")
        return after

    def _read(self, message: bytes) -> tuple[State, str, Message]:
        """The state after the peer's message, its kind, and what it says."""
        kind, said = decode(message, self._peer, self.max_length)
        after = self._theirs.get((self.state, kind))
        if after is None:
            raise RemoteProtocolError(
                f'{self._peer} sent a message "{kind}" after {self.state.value}', "pair_out_of_turn"
            )
        return after, kind, said


class Inviter(_Run):
    """The side that has an open invitation.

    :param inviter: this node.
    :param joiner: the peer, as the link's handshake has proved it.
    :param handshake_hash: the link's.
    :param random_bytes: the kernel's, but in tests.
    :param unbound: take a link without a handshake hash: for the simulator alone.
    :raises LocalProtocolError: the link has no handshake hash.
    """

    _theirs: ClassVar[Mapping[tuple[State, str], State]] = {
        (State.IDLE, "request"): State.REQUESTED,
        (State.OFFERED, "confirm"): State.CONFIRMED,
        (State.ADMITTED, "joined"): State.JOINED,
    }
    _own: ClassVar[Mapping[tuple[State, str], State]] = {
        (State.REQUESTED, "offer"): State.OFFERED,
        (State.REQUESTED, "refuse"): State.REFUSED,
        (State.CONFIRMED, "accept"): State.ADMITTED,
        (State.CONFIRMED, "refuse"): State.REFUSED,
        (State.WRONG, "refuse"): State.REFUSED,
    }

    def __init__(
        self,
        inviter: PeerID,
        joiner: PeerID,
        handshake_hash: bytes,
        random_bytes: Callable[[int], bytes],
        *,
        unbound: bool = False,
    ) -> None:
        super().__init__(joiner, inviter, joiner, handshake_hash, random_bytes, unbound)
        self._name = ""
        self._spake = b""

    def receive(self, message: bytes) -> Request | Confirmed | WrongCode | Joined:
        """Take a message of the joiner.

        :raises RemoteProtocolError: it breaks the rules; the run is over.
        """
        try:
            after, kind, said = self._read(message)
            event: Request | Confirmed | WrongCode | Joined
            if kind == "request":
                event = self._requested(message, said)
            elif kind == "confirm":
                event = self._confirmed(said)
            else:
                event = self._joined(said)
        except RemoteProtocolError:
            self.state = State.FAILED
            raise
        self.state = State.WRONG if isinstance(event, WrongCode) else after
        return event

    def offer(self, password: bytes) -> bytes:
        """Message 2, for the invitation that the request's channel is of.

        :raises RemoteProtocolError: the joiner's SPAKE2 message is this side's.
        """
        after = self._after("offer")
        exchange = self._exchange(Side.INVITER, password)
        try:
            self._confirmations = exchange.finish(self._spake)
        except RemoteProtocolError:
            self.state = State.FAILED
            raise
        self._second = encode(Message(spake=base64_text(exchange.message)))
        self.state = after
        return self._second

    def accept(self, statements: bytes) -> bytes:
        """Message 4. The joiner is admitted, and that is on this node's disk.

        :param statements: the roster, by :func:`encode_statements`.
        """
        after = self._after("accept")
        confirm = self._keys().of_inviter(self._first, self._second, statements)
        message = encode(Message(confirm=base64_text(confirm), statements=msgspec.Raw(statements)))
        self.state = after
        self._confirmations = None
        return message

    def refuse(self, code: str, words: str = "") -> bytes:
        """A refusal in the place of message 2 or 4.

        :param code: a key of :data:`REFUSALS`.
        :param words: for a joiner that does not know the code.
        """
        self.state = self._after("refuse")
        self._confirmations = None
        return encode(Message(error=code[:MAX_CODE], words=words[:MAX_WORDS] or None))

    def _requested(self, message: bytes, said: Message) -> Request:
        channel, name = said.channel or "", said.name or ""
        if CHANNEL.fullmatch(channel) is None:
            raise wrong(self._peer, "a channel that is none")
        if NAME.fullmatch(name) is None:
            raise wrong(self._peer, f"a name that no node may have, {shown(name, MAX_CODE)}")
        self._spake = decode_bytes(said.spake, SPAKE_LENGTH, self._peer)
        check_message(self._spake, Side.JOINER, self._peer)
        self._name = name
        self._first = message
        return Request(channel, name)

    def _confirmed(self, said: Message) -> Confirmed | WrongCode:
        confirm = decode_bytes(said.confirm, CONFIRM_LENGTH, self._peer)
        if hmac.compare_digest(confirm, self._keys().of_joiner(self._first, self._second)):
            return Confirmed(self._name, self._peer)
        self._confirmations = None
        return WrongCode()

    def _joined(self, said: Message) -> Joined:
        if not said.joined:
            raise wrong(self._peer, "that it did not join")
        return Joined()


class Joiner(_Run):
    """The side that was given a code or a token.

    :param joiner: this node.
    :param inviter: the peer, as the link's handshake has proved it.
    :param channel: the code's.
    :param password: the code's.
    :param name: what this node is called.
    :param handshake_hash: the link's.
    :param random_bytes: the kernel's, but in tests.
    :param unbound: take a link without a handshake hash: for the simulator alone.
    :raises LocalProtocolError: the link has no handshake hash, or the name is none.
    :ivar guess_given: whether the inviter may have tried a guess: from message 3 on, until its own
        confirmation is right. See :data:`MAX_CONFIRMS`.
    """

    _theirs: ClassVar[Mapping[tuple[State, str], State]] = {
        (State.REQUESTED, "offer"): State.OFFERED,
        (State.REQUESTED, "refusal"): State.REFUSED,
        (State.CONFIRMED, "admission"): State.ADMITTED,
        (State.CONFIRMED, "refusal"): State.REFUSED,
    }
    _own: ClassVar[Mapping[tuple[State, str], State]] = {
        (State.IDLE, "begin"): State.REQUESTED,
        (State.OFFERED, "confirm"): State.CONFIRMED,
        (State.ADMITTED, "joined"): State.JOINED,
    }

    def __init__(
        self,
        joiner: PeerID,
        inviter: PeerID,
        channel: str,
        password: bytes,
        name: str,
        handshake_hash: bytes,
        random_bytes: Callable[[int], bytes],
        *,
        unbound: bool = False,
    ) -> None:
        super().__init__(joiner, inviter, inviter, handshake_hash, random_bytes, unbound)
        if CHANNEL.fullmatch(channel) is None:
            raise LocalProtocolError(f"{channel!r} is no channel")
        if NAME.fullmatch(name) is None:
            raise LocalProtocolError(
                f"{name!r} cannot be the name of a node: letters, digits and . _ -, at most 63, a "
                "letter or digit first"
            )
        self._channel = channel
        self._password = password
        self._name = name
        self._spake: Exchange | None = None
        self.guess_given = False

    @property
    def max_length(self) -> int:
        """Bytes of the longest message that may come now."""
        return MAX_ROSTER if self.state is State.CONFIRMED else MAX_MESSAGE

    def begin(self) -> bytes:
        """Message 1."""
        after = self._after("begin")
        self._spake = self._exchange(Side.JOINER, self._password)
        self._first = encode(
            Message(channel=self._channel, name=self._name, spake=base64_text(self._spake.message))
        )
        self.state = after
        return self._first

    def receive(self, message: bytes) -> Admission | None:
        """Take a message of the inviter.

        :return: None of message 2: :meth:`confirm` makes message 3, when the inviter's turn has
            come.
        :raises RemoteProtocolError: it breaks the rules, or the inviter does not have the code
            (``pair_wrong_confirm``); the run is over.
        :raises PairingRefused: the inviter says no; the run is over.
        """
        try:
            after, kind, said = self._read(message)
            event: Admission | None = None
            if kind == "offer":
                self._offered(message, said)
            elif kind == "admission":
                event = self._admitted(said)
            else:
                self.state = after
                self._confirmations = None
                raise refusal(said, self._peer, self._channel, self._name)
        except RemoteProtocolError:
            self.state = State.FAILED
            self._confirmations = None
            raise
        self.state = after
        return event

    def confirm(self) -> bytes:
        """Message 3, to be sent at once: from here on the inviter may know if a guess was right."""
        after = self._after("confirm")
        confirm = self._keys().of_joiner(self._first, self._second)
        self.state = after
        self.guess_given = True
        return encode(Message(confirm=base64_text(confirm)))

    def joined(self) -> bytes:
        """Message 5. The roster is on this node's disk."""
        self.state = self._after("joined")
        return encode(Message(joined=True))

    def _offered(self, message: bytes, said: Message) -> None:
        if self._spake is None:
            raise LocalProtocolError("this pairing has not begun")
        self._confirmations = self._spake.finish(decode_bytes(said.spake, SPAKE_LENGTH, self._peer))
        self._spake = None
        self._second = message

    def _admitted(self, said: Message) -> Admission:
        statements = bytes(said.statements)
        confirm = decode_bytes(said.confirm, CONFIRM_LENGTH, self._peer)
        right = self._keys().of_inviter(self._first, self._second, statements)
        self._confirmations = None
        if not hmac.compare_digest(confirm, right):
            raise RemoteProtocolError(
                f"{self._peer} does not have the code, and may have tried to guess it: make a new "
                'one with "bzzz invite"',
                "pair_wrong_confirm",
            )
        self.guess_given = False
        return Admission(self._peer, statements)
