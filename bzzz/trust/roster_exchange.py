"""``/bzzz/roster/1.0.0``, the core: which statements go to whom, so that all rosters are the same.

Enters: peers that come and go, their messages, the owner's own statements. Leaves: messages to
peers, and statements that are new here. docs/trust.rst, "Keeping rosters the same".

A message is a JSON object with some of these fields::

    heads       IDs in hex: the sender's statements that are before no other
    want, have  IDs in hex: send what is before-or-equal the wanted ones and not the had ones
    statements  base64 of signature and body, none before its parents

A peer that is behind pulls: it asks for one batch after the other, so that nobody has to hold more
than one for it.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol as Shape

import msgspec

from bzzz.errors import RemoteProtocolError
from bzzz.identity.peer_id import PeerID
from bzzz.trust.roster import MissingParents, Roster, RosterFull
from bzzz.trust.statements import SignedStatement, StatementID, decode_statement

__all__ = ["MAX_MESSAGE", "PROTOCOL", "RELAYS", "RosterExchange", "decode_batch", "encode_batch"]

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

# Statements that are wanted of one member, in several messages: more than a roster has heads of
# members that said something of themselves.
MAX_WANTED = 4096

# Statements for which there is no room that are remembered, so that they are not asked for again.
MAX_REFUSED = 4096

# Members that are told news by one to whom it was new. With three, and the author telling all that
# it is linked to, news reaches each member in few steps even if the author's links are few.
RELAYS = 3

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
    :ivar wanted: statements that it was asked for.
    :ivar fruitless: batches from it without anything new, one after the other.
    :ivar output: messages to it.
    """

    told: tuple[StatementID, ...] = ()
    has: int = 0
    wanted: set[StatementID] = field(default_factory=set)
    fruitless: int = 0
    output: list[bytes] = field(default_factory=list)


class RosterExchange:
    """Keeps one roster the same as those of the linked members.

    :param roster: of this node; statements are added to it here.
    :param random: picks whom news is passed on to.
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

    # -- peers

    def peer_up(self, peer: PeerID) -> None:
        """A member can be talked to: tell it what is here."""
        self._peers[peer] = _Peer()
        self.ask(peer)

    def peer_down(self, peer: PeerID) -> None:
        """It is gone."""
        self._peers.pop(peer, None)

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
        for state in self._peers.values():
            self._send_news(state, statements)

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
        if said.statements:
            self._take(peer, state, decode_batch(peer, said.statements))
        if heads:
            self._compare(state, heads)
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

    def _take(self, peer: PeerID, state: _Peer, statements: Sequence[SignedStatement]) -> None:
        new: list[SignedStatement] = []
        try:
            for statement in statements:
                try:
                    if self.roster.add(statement):
                        new.append(statement)
                except MissingParents:
                    state.wanted.add(statement.id)
                except RosterFull as error:
                    self.full = str(error)
                    self._refused[statement.id] = None
                    while len(self._refused) > MAX_REFUSED:
                        del self._refused[next(iter(self._refused))]
        finally:
            state.has |= self.roster.up_to(each.id for each in statements)
            self._news += new
            self._relay(peer, new)
        state.fruitless = 0 if new else state.fruitless + 1
        state.wanted = {
            each for each in state.wanted if each not in self.roster and each not in self._refused
        }
        if state.fruitless > FRUITLESS:
            state.wanted.clear()
        elif state.wanted:
            self._want(state, ())

    def _compare(self, state: _Peer, heads: Sequence[StatementID]) -> None:
        unknown = [each for each in heads if each not in self.roster and each not in self._refused]
        state.has |= self.roster.up_to(heads)
        if unknown:
            state.fruitless = 0
            self._want(state, unknown)
        if set(heads) != set(self.roster.heads) and state.told != self.roster.heads:
            self._tell_heads(state)

    def _tell_heads(self, state: _Peer) -> None:
        state.told = self.roster.heads
        for first in range(0, len(state.told), MAX_IDS):
            state.output.append(_encode(_Message(heads=_hex(state.told[first:]))))

    def _want(self, state: _Peer, wanted: Iterable[StatementID]) -> None:
        state.wanted.update(wanted)
        ordered = sorted(state.wanted)[:MAX_WANTED]
        state.wanted = set(ordered)
        want = ordered[:MAX_IDS]
        state.output.append(_encode(_Message(want=_hex(want), have=_hex(self.roster.heads))))

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
        self._send(state, _first_batch(self.roster.listed(wanted & ~state.has)))

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

    def _relay(self, source: PeerID, new: Sequence[SignedStatement]) -> None:
        if not new:
            return
        lacking = [
            state
            for peer, state in self._peers.items()
            if peer != source and any(self._lacks(state, each) for each in new)
        ]
        for _ in range(min(RELAYS, len(lacking))):
            chosen = lacking.pop(int(self._random.random() * len(lacking)))
            self._send_news(chosen, new)


def encode_batch(statements: Iterable[SignedStatement]) -> list[str]:
    """Statements as they are in messages."""
    return [base64.b64encode(each.encode()).decode() for each in statements]


def decode_batch(peer: PeerID, statements: Sequence[str]) -> list[SignedStatement]:
    """Statements out of a message.

    :raises RemoteProtocolError: one cannot be read.
    """
    try:
        return [decode_statement(base64.b64decode(each, validate=True)) for each in statements]
    except (binascii.Error, ValueError) as error:
        raise RemoteProtocolError(
            f"{peer} sent a statement that is not base64", "roster_bad_message"
        ) from error


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
    return [each.hex() for each in ids][:MAX_IDS]


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
