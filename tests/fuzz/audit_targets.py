"""Audit logs: files that anybody may have written, and what members say of each other's logs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from bzzz.errors import RemoteProtocolError
from bzzz.trust.audit import AuditLog
from bzzz.trust.audit_asking import MAX_MESSAGE, Found, Given, decode
from bzzz.trust.audit_chain import MAX_LINE, BadCheckpoint, Chain, Checkpoint, Kept, open_line
from bzzz.trust.audit_events import clean
from bzzz.trust.audit_kept import MAX_KEPT, KeptCheckpoints
from bzzz.trust.audit_streams import AuditStreams
from bzzz.trust.audit_verify import verify
from tests.fuzz.registry import OURS, THEIRS, target, told

START = 1_795_482_123.0


def log_of(count: int) -> bytes:
    """What a node has written."""
    chain = Chain(OURS)
    return b"".join(
        chain.append("admitted", {"name": "walnut", "peer_id": None}, START + number)
        for number in range(count)
    )


def checkpoint_of(key: Any, seq: int) -> Checkpoint:
    """What a node says of its log."""
    made = Chain(key, seq, "a" * 64).checkpoint(START + seq)
    assert made is not None
    return made


WHOLE = log_of(20)
KEPT = [Kept(checkpoint_of(OURS, 3), "ours", str(THEIRS.peer_id), "theirs")]


@target
def audit_lines(data: bytes) -> None:
    """A file: whatever is not the beginning of what the node wrote is found."""
    parts = data.split(b"\n")
    lines = [part + b"\n" for part in parts[:-1]] + ([parts[-1]] if parts[-1] else [])
    report = verify([("audit.log", lines)], (), str(OURS.peer_id))
    for problem in report.problems:
        assert problem.message.isprintable(), problem
        assert 0 <= problem.line <= max(1, len(lines)), problem
    if report.whole:
        begun = b"".join(line for line in lines if line.endswith(b"\n"))
        assert WHOLE.startswith(begun), begun
    assert not verify([("audit.log", lines)], KEPT, str(OURS.peer_id)).vouched


@target
def audit_fields(data: bytes) -> None:
    """What is told of an event: it is written, and read again as it was."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        value = data.decode("utf-8", "surrogateescape")
    fields = clean("config_changed", {"keys": value, "by": str(value)})
    line = Chain(OURS).append("config_changed", fields, START)
    assert len(line) < MAX_LINE
    assert open_line(line[:-1]).fields == fields


class Nowhere:
    """A swarm and a link of which only what checkpoints need of them is here."""

    remote_peer = THEIRS.peer_id

    def handle(self, protocol_id: str, factory: object, rate: object) -> None:
        """Nobody will open streams."""


def never(call: object) -> Deferred[Any]:
    """A disk that takes its time."""
    return Deferred()


def streams() -> tuple[AuditStreams, KeptCheckpoints]:
    """A node that keeps one checkpoint of the peer."""
    clock = Clock()
    nowhere: Any = Nowhere()
    path = Path("nowhere")
    log = AuditLog(path, OURS, clock, lambda: START, never)
    kept = KeptCheckpoints(path, OURS.peer_id, clock, lambda: START, never)
    kept.take(checkpoint_of(THEIRS, 10))
    return AuditStreams(nowhere, OURS.peer_id, log, kept, clock, lambda peer: True), kept


@target
def audit_questions(data: bytes) -> None:
    """A checkpoint to keep, or a question for those of a node."""
    asked, kept = streams()
    try:
        assert len(asked.answer(data, THEIRS.peer_id)) <= MAX_MESSAGE
    except RemoteProtocolError as error:
        told(error)
    assert 1 <= len(kept.of(str(THEIRS.peer_id))) <= MAX_KEPT


@target
def audit_answers(data: bytes) -> None:
    """The answers to both."""
    asking, _ = streams()
    try:
        given = decode(data, Given, THEIRS.peer_id)
        if given.contradicts is not None:
            ours = checkpoint_of(OURS, 10)
            asking._is_contradicted(THEIRS.peer_id, ours, given.contradicts)
    except RemoteProtocolError as error:
        told(error)
    try:
        for each in decode(data, Found, THEIRS.peer_id).checkpoints:
            each.checkpoint.check()
    except (RemoteProtocolError, BadCheckpoint) as error:
        told(error)


def encoded(what: object) -> bytes:
    """A message."""
    return msgspec.json.encode(what)
