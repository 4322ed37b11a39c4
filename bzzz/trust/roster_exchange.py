"""``/bzzz/roster/1.0.0``, the core: which statements go to whom, so that all rosters are the same.

Enters: peers that come and go, their messages, the owner's own statements, and that time passes.
Leaves: messages to peers, and statements that are new here. docs/trust.rst, "Keeping rosters the
same".

A message is a JSON object with some of these fields::

    heads       IDs in hex: the sender's statements that are before no other
    want, have  IDs in hex: send what is before-or-equal the wanted ones and not the had ones
    statements  base64 of signature and body, none before its parents

A peer that is behind pulls: it asks for one batch after the other, so that nobody has to hold more
than one for it. It asks one peer at a time, which has a turn, and then another one: so it is sent
what it lacks about once, and nobody who is slow, silent or a liar keeps it behind.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol as Shape

import msgspec

from bzzz.errors import RemoteProtocolError
from bzzz.identity.keys import SIGNATURE_LENGTH
from bzzz.identity.peer_id import PeerID
from bzzz.trust.roster import InvalidStatement, MissingParents, Roster, RosterFull
from bzzz.trust.roster_graph import numbers_in
from bzzz.trust.statements import (
    ID_LENGTH,
    Revoke,
    Rotate,
    SignedStatement,
    StatementID,
    decode_statement,
)

__all__ = [
    "MAX_MESSAGE",
    "PROTOCOL",
    "RELAYS",
    "TICK",
    "TURN_TICKS",
    "RosterExchange",
    "decode_batch",
    "encode_batch",
]

PROTOCOL = "/bzzz/roster/1.0.0"

# Bytes of one message: a batch of statements, or one that is as long as it may be.
MAX_MESSAGE = 32768

# Statements in one batch: their signatures take 3 ms to check, so that a turn of the reactor does
# not get long.
BATCH = 24
BATCH_BYTES = 16384

# Heads that are told, wanted or had in one message. A roster has as many as admins wrote at the
# same time without knowing of each other, and one for each member that said something of itself:
# those are told in several messages.
MAX_IDS = 128

# Heads that one member told of and that are not here: more than a roster has heads of members that
# said something of themselves. Others are left out until it tells of them again.
MAX_AHEAD = 4096

# Statements for which there is no room that are remembered, so that they are not asked for again.
MAX_REFUSED = 4096

# Members that are sent news by one to whom it was new. All others that are not known to have it are
# told its ID alone, and ask: at once if it revokes somebody, else in the next tick, as in a full
# mesh nearly all have it by then. So it reaches everybody, mostly without a question.
RELAYS = 3

# Seconds between two calls of RosterExchange.tick, and how many of them make a turn: long enough
# for a member that is slow. A turn that ends too early costs one batch that comes twice.
TICK = 1.0
TURN_TICKS = 3

# Turns of a member without anything new, one after the other, after which it is asked no more until
# it tells its heads again.
MAX_SILENT = 10

# Batches without anything new after which a peer is asked no more until it has other heads: it may
# send what is here already where both have written apart, but not so much of it.
FRUITLESS = 64


class Randomness(Shape):
    """What is used of a random source."""

    def random(self) -> float:
        """A number in [0, 1)."""


class _Message(msgspec.Struct, omit_defaults=True):
    heads: list[str] = []
    want: list[str] = []
    have: list[str] = []
    statements: list[str] = []


@dataclass(eq=False)
class _Peer:
    """A member that is linked.

    :ivar told: the heads that it was told last.
    :ivar has: the set of statements that it has, with all that are before them: it said so, sent
        them, or was sent them.
    :ivar ahead: statements that it told of and that are not here, the oldest first.
    :ivar fruitless: batches from it without anything new, one after the other.
    :ivar silent: turns of it without anything new, one after the other.
    :ivar turn: its place among those who wait for a turn: when it had its last one.
    :ivar output: messages to it.
    """

    told: tuple[StatementID, ...] = ()
    has: int = 0
    ahead: dict[StatementID, None] = field(default_factory=dict)
    fruitless: int = 0
    silent: int = 0
    turn: int = 0
    output: list[bytes] = field(default_factory=list)


class RosterExchange:
    """Keeps one roster the same as those of the linked members.

    :param roster: of this node; statements are added to it here.
    :param random: picks whom news is sent on to.
    :ivar full: why a statement was not kept for want of room; empty as long as none was.
    """

    def __init__(self, roster: Roster, random: Randomness) -> None:
        self.roster = roster
        self._random = random
        self._peers: dict[PeerID, _Peer] = {}
        self._news: list[SignedStatement] = []
        self.full = ""
        # For which there is no room: they would be asked for without end.
        self._refused: dict[StatementID, None] = {}
        # Whose turn it is to send what is not here, for how many ticks, and whether it has.
        self._asked: _Peer | None = None
        self._age = 0
        self._brought = False
        self._turns = 0
        # The set of what others were not told of yet, and whether that cannot wait for a tick.
        self._untold = 0
        self._urgent = False

    # -- peers

    def peer_up(self, peer: PeerID) -> None:
        """A member can be talked to: tell it what is here."""
        self.peer_down(peer)
        # Behind those who wait, or who comes again and again would always be next.
        self._peers[peer] = _Peer(turn=self._turns)
        self.ask(peer)

    def peer_down(self, peer: PeerID) -> None:
        """It is gone; if it was asked for something, another one is."""
        state = self._peers.pop(peer, None)
        if state is not None and state is self._asked:
            self._asked = None
            self._ask_next()

    @property
    def waiting(self) -> bool:
        """Whether :meth:`tick` is to be called in :data:`TICK` seconds."""
        return self._asked is not None or bool(self._untold)

    def tick(self) -> None:
        """:data:`TICK` seconds have passed: who was asked for long enough has had its turn."""
        self._age += 1
        asked = self._asked
        if asked is not None and self._age >= TURN_TICKS:
            self._asked = None
            self._turns += 1
            asked.turn = self._turns
            if not self._brought:
                asked.silent += 1
                if asked.silent >= MAX_SILENT:
                    asked.ahead.clear()
        self._ask_next()
        self._tell_news()

    @property
    def peers(self) -> Sequence[PeerID]:
        """Those that can be talked to."""
        return tuple(self._peers)

    def ask(self, peer: PeerID) -> None:
        """Compare the rosters again."""
        state = self._peers.get(peer)
        if state is not None:
            self._tell_heads(state)

    def announce(self, statements: Sequence[SignedStatement]) -> None:
        """Tell every member of statements that were made here and are in the roster."""
        self._came(statements)
        for state in self._peers.values():
            self._send_news(state, statements)
        self._ask_next()

    def receive(self, peer: PeerID, message: bytes) -> None:
        """A member's message.

        What was new before something wrong was met is in the roster and in :meth:`take_news`.

        :raises RemoteProtocolError: it is none, or one of its statements is not well-formed.
        """
        state = self._peers.get(peer)
        if state is None:
            return
        try:
            said = msgspec.json.decode(message, type=_Message)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise RemoteProtocolError(
                f"{peer} sent an unreadable message on {PROTOCOL}", "roster_bad_message"
            ) from error
        heads = _ids(peer, said.heads)
        want, have = _ids(peer, said.want), _ids(peer, said.have)
        try:
            if said.statements:
                self._take(peer, state, said.statements)
            if heads:
                self._compare(state, heads)
        finally:
            self._ask_next()
        if want:
            self._send_wanted(state, want, have)

    def take_output(self) -> dict[PeerID, list[bytes]]:
        """Messages to be sent, by peer."""
        output = {peer: state.output for peer, state in self._peers.items() if state.output}
        for peer in output:
            self._peers[peer].output = []
        return output

    def take_news(self) -> list[SignedStatement]:
        """Statements that came from others and were new, none before its parents."""
        news, self._news = self._news, []
        return news

    # -- inside

    def _take(self, peer: PeerID, state: _Peer, texts: Sequence[str]) -> None:
        ids: list[StatementID] = []
        new: list[SignedStatement] = []
        try:
            for text in texts:
                data = _decode_base64(peer, text)
                ids.append(_id_of(data))
                # Of what is known no more is looked at: many may send the same.
                if ids[-1] not in self.roster:
                    new += self._add(state, decode_statement(data))
        except InvalidStatement as error:
            new += error.merged
            raise
        finally:
            state.has |= self.roster.up_to(ids)
            self._news += new
            self._came(new)
            # They are the last that came here.
            self._untold |= (1 << len(self.roster)) - (1 << (len(self.roster) - len(new)))
            self._urgent = self._urgent or any(
                isinstance(each.statement, Revoke | Rotate) for each in new
            )
            if state is not self._asked:
                self._relay(new)
            if self._urgent and not (state is self._asked and state.ahead):
                # What is found on the way while this node catches up waits for the end or a tick.
                self._tell_news()
        if new:
            state.fruitless = state.silent = 0
        if state is self._asked:
            self._brought = self._brought or bool(new)
            state.fruitless += not new
            if state.fruitless > FRUITLESS:
                state.ahead.clear()
            elif state.ahead:
                self._want(state)

    def _add(self, state: _Peer, statement: SignedStatement) -> list[SignedStatement]:
        try:
            return self.roster.add(statement)
        except MissingParents:
            if len(state.ahead) < MAX_AHEAD:
                state.ahead[statement.id] = None
        except RosterFull as error:
            self.full = str(error)
            self._refuse(statement.id)
        return []

    def _refuse(self, statement: StatementID) -> None:
        self._refused[statement] = None
        while len(self._refused) > MAX_REFUSED:
            del self._refused[next(iter(self._refused))]
        for state in self._peers.values():
            state.ahead.pop(statement, None)

    def _came(self, statements: Iterable[SignedStatement]) -> None:
        """They are in the roster, so those who told of them are not ahead with them any more."""
        ids = {each.id for each in statements}
        for state in self._peers.values():
            for each in state.ahead.keys() & ids:
                del state.ahead[each]
                state.has |= self.roster.up_to((each,))

    def _compare(self, state: _Peer, heads: Sequence[StatementID]) -> None:
        state.has |= self.roster.up_to(heads)
        for each in heads:
            if each not in self.roster and each not in self._refused:
                state.fruitless = 0
                if len(state.ahead) < MAX_AHEAD:
                    state.ahead[each] = None
        everything = self.roster.up_to(self.roster.heads)
        if everything & ~state.has and state.told != self.roster.heads:
            self._tell_heads(state)

    def _ask_next(self) -> None:
        """See that one of those that are ahead is asked, where there is one."""
        asked = self._asked
        if asked is not None and not asked.ahead:
            asked = self._asked = None
        others = [each for each in self._peers.values() if each.ahead and each is not asked]
        if not others:
            return
        state = min(others, key=lambda each: (each.silent, each.turn))
        # One that has been silent lately keeps no other one waiting.
        if asked is None or state.silent < asked.silent:
            self._asked, self._age, self._brought = state, 0, False
            self._want(state)

    def _want(self, state: _Peer) -> None:
        # If all the heads are news to the peer it knows some of the older ones, and need not send
        # what is before these.
        count = len(self.roster)
        older = sum(1 << (count - 1 - (1 << shift)) for shift in range((count - 1).bit_length()))
        have = [*(each.id for each in self.roster.listed(older)), *self.roster.heads]
        state.output.append(
            _encode(_Message(want=_hex(islice(state.ahead, MAX_IDS)), have=_hex(have)))
        )

    def _tell_heads(self, state: _Peer) -> None:
        state.told = self.roster.heads
        self._tell(state, state.told)

    def _tell(self, state: _Peer, heads: Sequence[StatementID]) -> None:
        for first in range(0, len(heads), MAX_IDS):
            state.output.append(_encode(_Message(heads=_hex(heads[first:]))))

    def _relay(self, new: Sequence[SignedStatement]) -> None:
        added = self.roster.up_to(each.id for each in new)
        lacking = [state for state in self._peers.values() if added & self._untold & ~state.has]
        for _ in range(min(RELAYS, len(lacking))):
            self._send_news(lacking.pop(int(self._random.random() * len(lacking))), new)

    def _tell_news(self) -> None:
        """Tell of what is new here all those who are not known to have it."""
        untold, self._untold, self._urgent = self._untold, 0, False
        heads = [
            (each, before)
            for each in self.roster.heads
            if (before := self.roster.up_to((each,)) & untold)
        ]
        for state in self._peers.values():
            if untold & ~state.has:
                self._tell(state, [each for each, before in heads if before & ~state.has])

    def _send_wanted(
        self, state: _Peer, want: Iterable[StatementID], have: Iterable[StatementID]
    ) -> None:
        """Send what the peer asks for, or the first of it: it asks again.

        What it says it has need not be known here, so what it was sent counts, too: else it would
        be sent the same again and again.
        """
        had = self.roster.up_to(have)
        wanted = self.roster.up_to(want)
        state.has |= had
        if not wanted & ~state.has:
            # It asks for what it was sent: that did not do it any good.
            state.has = had
        # Those that came here first have none of the others before them, and are found at once.
        first = sum(1 << number for number in islice(numbers_in(wanted & ~state.has), BATCH))
        self._send(state, _first_batch(self.roster.listed(first)))

    def _send_news(self, state: _Peer, statements: Sequence[SignedStatement]) -> None:
        lacking = [each for each in statements if self._lacks(state, each)]
        batch = _first_batch(lacking)
        self._send(state, batch)
        if len(batch) < len(lacking):
            # News does not wait for a question; a peer that lacks more asks for it.
            self._tell_heads(state)

    def _send(self, state: _Peer, batch: Sequence[SignedStatement]) -> None:
        if not batch:
            return
        for statement in batch:
            more = self.roster.up_to((statement.id,)) & ~state.has
            if more.bit_count() == 1:
                # It can take it, as it has all before it.
                state.has |= more
        state.output.append(_encode(_Message(statements=encode_batch(batch))))

    def _lacks(self, state: _Peer, statement: SignedStatement) -> bool:
        return bool(self.roster.up_to((statement.id,)) & ~state.has)


def encode_batch(statements: Iterable[SignedStatement]) -> list[str]:
    """Statements as they are in messages."""
    return [base64.b64encode(each.encode()).decode() for each in statements]


def decode_batch(peer: PeerID, statements: Sequence[str]) -> list[SignedStatement]:
    """Statements out of a message.

    :raises RemoteProtocolError: one cannot be read.
    """
    return [decode_statement(_decode_base64(peer, each)) for each in statements]


def _decode_base64(peer: PeerID, text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise RemoteProtocolError(
            f"{peer} sent a statement that is not base64", "roster_bad_message"
        ) from error


def _id_of(data: bytes) -> StatementID:
    """The ID of an encoded statement, which need not be one."""
    return hashlib.blake2b(data[SIGNATURE_LENGTH:], digest_size=ID_LENGTH).digest()


def _first_batch(statements: Sequence[SignedStatement]) -> list[SignedStatement]:
    batch: list[SignedStatement] = []
    size = 0
    for statement in statements[:BATCH]:
        size += len(statement.body)
        if batch and size > BATCH_BYTES:
            break
        batch.append(statement)
    return batch


def _encode(message: _Message) -> bytes:
    return msgspec.json.encode(message)


def _hex(ids: Iterable[StatementID]) -> list[str]:
    return [each.hex() for each in islice(ids, MAX_IDS)]


def _ids(peer: PeerID, texts: Sequence[str]) -> list[StatementID]:
    try:
        ids = [bytes.fromhex(each) for each in texts[:MAX_IDS]]
    except ValueError as error:
        raise RemoteProtocolError(
            f"{peer} sent an ID of a statement that is not hexadecimal", "roster_bad_message"
        ) from error
    if any(len(each) != 32 for each in ids):
        raise RemoteProtocolError(
            f"{peer} sent an ID of a statement that has not 32 bytes", "roster_bad_message"
        )
    return ids
