"""What comes to a pairing: its messages, to both sides, and what people type and paste."""

from __future__ import annotations

import copy
import json

from bzzz.errors import RemoteProtocolError
from bzzz.trust.codes import InvalidCode, parse_code, parse_token
from bzzz.trust.pairing import (
    Admission,
    Confirmed,
    Inviter,
    Joiner,
    PairingRefused,
    State,
    encode_statements,
)
from bzzz.trust.pairing_messages import MAX_CODE
from tests.fuzz.registry import OURS, THEIRS, fixed_bytes, target, told

PASSWORD = b"7-guitar-lunar"
HASH = b"h" * 32
ROSTER = encode_statements([b"found", b"admit"])

# One side in each state in which it waits for a message; and the messages of a whole run.
INVITERS: list[Inviter] = []
JOINERS: list[Joiner] = []
MESSAGES: list[bytes] = []


def prepare() -> None:
    """Go through a run, and keep what there is on the way."""
    joiner = Joiner(THEIRS.peer_id, OURS.peer_id, "7", PASSWORD, "acacia", HASH, fixed_bytes)
    inviter = Inviter(OURS.peer_id, THEIRS.peer_id, HASH, fixed_bytes)
    MESSAGES.append(joiner.begin())
    JOINERS.append(joiner_as_it_is(joiner))
    INVITERS.append(copy.copy(inviter))
    inviter.receive(MESSAGES[-1])
    MESSAGES.append(inviter.offer(PASSWORD))
    INVITERS.append(copy.copy(inviter))
    joiner.receive(MESSAGES[-1])
    JOINERS.append(joiner_as_it_is(joiner))
    MESSAGES.append(joiner.confirm())
    JOINERS.append(joiner_as_it_is(joiner))
    inviter.receive(MESSAGES[-1])
    MESSAGES.append(inviter.accept(ROSTER))
    INVITERS.append(copy.copy(inviter))
    joiner.receive(MESSAGES[-1])
    JOINERS.append(joiner_as_it_is(joiner))
    MESSAGES.append(joiner.joined())


def joiner_as_it_is(joiner: Joiner) -> Joiner:
    """A copy that can go on by itself."""
    copied = copy.copy(joiner)
    if copied._spake is not None:
        copied._spake = copy.copy(copied._spake)
        copied._spake._spake = copy.copy(copied._spake._spake)
    return copied


prepare()


def said(message: bytes) -> str:
    """The confirmation in a message, however that is written."""
    confirm: str = json.loads(message)["confirm"]
    return confirm


@target
def pairing_inviter(data: bytes) -> None:
    """A message of a joiner, in each state: nobody without the code is confirmed."""
    for kept in INVITERS:
        inviter = copy.copy(kept)
        try:
            event = inviter.receive(data)
        except RemoteProtocolError as error:
            told(error)
            assert inviter.state is State.FAILED
            continue
        assert not isinstance(event, Confirmed) or said(data) == said(MESSAGES[2])
        if inviter.state is State.REQUESTED:
            inviter.offer(PASSWORD)


@target
def pairing_joiner(data: bytes) -> None:
    """A message of an inviter, in each state: nobody admits without the code, or too early."""
    for kept in JOINERS:
        joiner = joiner_as_it_is(kept)
        try:
            event = joiner.receive(data)
        except RemoteProtocolError as error:
            told(error)
            assert joiner.state is State.FAILED
        except PairingRefused as error:
            told(error)
            assert len(str(error)) < 500
            assert len(error.code) <= MAX_CODE
        else:
            # Before message 3 nothing is judged.
            assert not isinstance(event, Admission) or kept.state is State.CONFIRMED
            assert not isinstance(event, Admission) or event.encoded == ROSTER


@target
def pairing_rosters(data: bytes) -> None:
    """The roster of an inviter that has the code."""
    try:
        Admission(THEIRS.peer_id, data).decode()
    except RemoteProtocolError as error:
        told(error)


@target
def pairing_codes(data: bytes) -> None:
    """What somebody types."""
    try:
        found = parse_code(data.decode("utf-8", "surrogateescape"))
    except InvalidCode as error:
        told(error)
        assert len(str(error)) < 300
    else:
        assert parse_code(found.text) == found


@target
def pairing_tokens(data: bytes) -> None:
    """What somebody pastes, behind what a token begins with and as it is."""
    text = data.decode("utf-8", "surrogateescape")
    for pasted in (text, "bzzz-join-" + text):
        try:
            found = parse_token(pasted)
        except InvalidCode as error:
            told(error)
            assert len(str(error)) < 300
        else:
            assert parse_token(found.text) == found
