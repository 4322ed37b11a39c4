"""What members say of the roster to each other, and what guests present of it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import msgspec
from twisted.internet.task import Clock

from bzzz.errors import RemoteProtocolError
from bzzz.trust import presenting
from bzzz.trust.presenting import Presenting
from bzzz.trust.roster_exchange import MAX_MESSAGE, RosterExchange, encode_batch
from bzzz.trust.statements import Role, SignedStatement
from bzzz.wire.framing import FrameReader
from tests.fuzz.registry import pieces, target, told
from tests.fuzz.trust_targets import check_roster
from tests.trust.guests import GuestLink, Guests, TrustedCluster
from tests.trust.rosters import admit, found, key, rename, revoke, roster_of

__all__ = ["ACACIA", "KNOWN", "LATER", "proof"]

# The roster of a cluster, and what was said there that this node has not heard yet.
FOUND = found("walnut")
IRONWOOD = admit("walnut", "ironwood", FOUND, role=Role.ADMIN)
SUMAC = admit("walnut", "sumac", IRONWOOD)
KNOWN = (FOUND, IRONWOOD, SUMAC)
ACACIA = admit("ironwood", "acacia", SUMAC)
LATER = (
    ACACIA,
    rename("ironwood", "acacia", "birch", ACACIA),
    revoke("walnut", "ironwood", IRONWOOD),
)

# Bytes of a message: fewer than in life, so that short inputs are as long as they may be.
SHORT = 4096

# Answers to one message: a batch, a question, and the own heads.
MOST_ANSWERS = 3


def messages(data: bytes) -> Iterator[bytes]:
    """Messages behind their lengths, as far as they are whole."""
    try:
        yield from FrameReader(SHORT).receive(data)
    except RemoteProtocolError as error:
        told(error)


@target
def roster_messages(data: bytes) -> None:
    """What a member says, while another one is there to hear of it."""
    exchange = RosterExchange(roster_of(*KNOWN), random.Random(1))
    one, other = (key(name).peer_id for name in ("ironwood", "sumac"))
    exchange.peer_up(one)
    exchange.peer_up(other)
    exchange.take_output()
    for message in messages(data):
        try:
            exchange.receive(one, message)
        except RemoteProtocolError as error:
            told(error)
            exchange.peer_down(one)
        output = exchange.take_output()
        assert len(output.get(one, ())) <= MOST_ANSWERS, output
        for answer in (each for answers in output.values() for each in answers):
            assert len(answer) <= MAX_MESSAGE
    news = exchange.take_news()
    assert len(exchange.roster) == len(KNOWN) + len(news)
    check_roster(exchange.roster)


def proof(*presented: SignedStatement) -> bytes:
    """What is presented."""
    return msgspec.json.encode({"statements": encode_batch(presented)})


@target
def present(data: bytes) -> None:
    """What a guest presents: what does not admit it changes nothing, and nothing of it stays."""
    clock = Clock()
    swarm: Any = Guests(clock)
    roster = roster_of(*KNOWN)
    cluster: Any = TrustedCluster(key("walnut").peer_id, roster)
    judging = Presenting(swarm, cluster, clock)
    guest = GuestLink(swarm, key("acacia").peer_id)
    talk = guest.talk(presenting.PROTOCOL)
    GuestLink(swarm, key("mallory").peer_id).talk(presenting.PROTOCOL)
    for piece in pieces(data):
        talk.hear(piece)
    if talk.error is not None:
        told(talk.error)
    for _ in range(len(data) // 64 + 2):
        clock.advance(0)
    clock.advance(presenting.TIME_LIMIT)
    assert talk.over
    assert talk.said == b""
    assert judging._current is None
    assert not judging._waiting
    assert clock.getDelayedCalls() == []
    assert len(roster) == len(KNOWN)
    if cluster.taken:
        assert roster_of(*KNOWN, *cluster.taken).admits(guest.remote_peer)
