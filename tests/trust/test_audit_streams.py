"""Checkpoints between members: who keeps them, what is judged, and what bad peers can do."""

from __future__ import annotations

import itertools
import json
import os
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from twisted.internet.defer import Deferred, ensureDeferred, execute, succeed
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.logger import LogLevel
from twisted.trial.unittest import SynchronousTestCase

from bzzz.errors import RemoteProtocolError
from bzzz.identity.keys import PrivateKey
from bzzz.identity.peer_id import PeerID
from bzzz.net.swarm import Swarm
from bzzz.testing.clock import EPOCH, NodeClock, SimReactor
from bzzz.testing.network import SimNetwork
from bzzz.trust import audit_kept
from bzzz.trust.audit import CHECKPOINT_LINES, CHECKPOINT_SECONDS, AuditLog
from bzzz.trust.audit_asking import ANSWER_SECONDS, MAX_MESSAGE, PROTOCOL
from bzzz.trust.audit_chain import Chain, Checkpoint
from bzzz.trust.audit_disk import open_files, read_lines
from bzzz.trust.audit_kept import DEBOUNCE, MAX_KEPT, KeptCheckpoints, Verdict, read_kept
from bzzz.trust.audit_streams import (
    APART,
    CONTRADICTION_AGAIN,
    KEEPERS,
    AuditStreams,
    Collected,
    keepers_of,
)
from bzzz.wire.framing import frame
from bzzz.wire.multiaddr import Multiaddr
from tests.logs import lines_at

PORT = 4001
NAMES = ("acacia", "birch", "cedar", "dogwood")


def key_of(number: int) -> PrivateKey:
    return PrivateKey.from_seed(number.to_bytes(32, "big"))


def said(key: PrivateKey, seq: int, time: float = 0.0, what: str = "a") -> Checkpoint:
    """What a node says of its log."""
    made = Chain(key, seq, (what * 64)[:64]).checkpoint(EPOCH + time)
    assert made is not None
    return made


class KeepersTests(SynchronousTestCase):
    """Who keeps whose."""

    def setUp(self) -> None:
        self.peers = [key_of(number).peer_id for number in range(50)]

    def test_two(self) -> None:
        """A node has two keepers, or as many as there are, and is never its own."""
        for peer in self.peers:
            keepers = keepers_of(peer, self.peers)
            self.assertEqual(len(set(keepers)), KEEPERS)
            self.assertNotIn(peer, keepers)
        first, second = self.peers[:2]
        self.assertEqual(keepers_of(first, [first, second]), [second])
        self.assertEqual(keepers_of(first, []), [])

    def test_stable(self) -> None:
        """They do not depend on the order; one that goes is replaced, and the other stays."""
        own, *others = self.peers
        first, second = keepers_of(own, others)
        self.assertEqual(keepers_of(own, reversed(others)), [first, second])
        others.remove(first)
        self.assertEqual(keepers_of(own, others)[0], second)
        for other in list(others):
            if other != second:
                others.remove(other)
                self.assertIn(second, keepers_of(own, others))

    def test_even(self) -> None:
        """Nobody keeps those of many more than others do."""
        load = Counter(keeper for peer in self.peers for keeper in keepers_of(peer, self.peers))
        self.assertLess(max(load.values()), 4 * KEEPERS)


class KeptCase(SynchronousTestCase):
    """Checkpoints that are kept, on a virtual clock."""

    def in_thread(self, call: Callable[[], Any]) -> Deferred[Any]:
        return execute(call)

    def setUp(self) -> None:
        self.clock = Clock()
        self.path = Path(self.mktemp()) / "checkpoints.json"
        self.path.parent.mkdir(parents=True)
        self.patch(os, "fsync", lambda file: None)
        self.errors = lines_at(self, LogLevel.error)

    def kept(self) -> KeptCheckpoints:
        made = KeptCheckpoints(
            self.path,
            key_of(0).peer_id,
            self.clock,
            lambda: EPOCH + self.clock.seconds(),
            self.in_thread,
            {key_of(0).peer_id: "acacia", key_of(1).peer_id: "birch"}.get,  # type: ignore[arg-type]  # the others are not asked about
        )
        self.successResultOf(made.load())
        return made

    def seqs(self, kept: KeptCheckpoints, number: int = 1) -> list[int]:
        return [each.checkpoint.seq for each in kept.of(str(key_of(number).peer_id))]


class JudgeTests(KeptCase):
    """What is thought of a checkpoint."""

    def in_thread(self, call: Callable[[], Any]) -> Deferred[Any]:
        return succeed(None)  # the file is not what is tested here

    def test_verdicts(self) -> None:
        """New, known, late, and what cannot be of a log that only grew."""
        kept = self.kept()
        birch = key_of(1)
        ten, twenty = said(birch, 10, 10), said(birch, 20, 20)
        self.assertEqual(kept.take(ten), (Verdict.NEW, ten))
        self.assertEqual(kept.take(ten), (Verdict.KNOWN, ten))
        self.assertEqual(kept.take(said(birch, 10, 15)), (Verdict.KNOWN, ten))
        self.assertEqual(kept.take(twenty), (Verdict.NEW, twenty))
        self.assertEqual(kept.take(said(birch, 15, 15)), (Verdict.LATE, twenty))
        # The same number with another hash, and a number that the log had passed already.
        self.assertEqual(kept.take(said(birch, 20, 30, "b")), (Verdict.CONTRADICTION, twenty))
        self.assertEqual(kept.take(said(birch, 10, 1, "b")), (Verdict.CONTRADICTION, ten))
        self.assertEqual(kept.take(said(birch, 15, 30)), (Verdict.CONTRADICTION, twenty))
        self.assertEqual(self.seqs(kept), [10, 20])
        self.assertEqual(kept.take(said(key_of(2), 1))[0], Verdict.NEW)

    def test_thinned_out(self) -> None:
        """Of many the newest are close together, the oldest far apart, the first one stays."""
        kept = self.kept()
        for number in range(1, 5000):
            self.clock.advance(60)
            kept.take(said(key_of(1), number, number * 60))
        seqs = self.seqs(kept)
        self.assertEqual((len(seqs), seqs[0], seqs[-1]), (MAX_KEPT, 1, 4999))
        self.assertLess(seqs[-1] - seqs[-5], 20)
        ages = [5000 - seq for seq in seqs]
        for older, newer in itertools.pairwise(ages[1:]):
            self.assertLess(older - newer, 0.6 * older + 2)

    def test_burst(self) -> None:
        """A burst of new ones does not push out those of before."""
        kept = self.kept()
        for number in range(1, 1000):
            self.clock.advance(60)
            kept.take(said(key_of(1), number, number * 60))
        before = self.seqs(kept)
        for number in range(1000, 3000):
            self.clock.advance(0.01)
            kept.take(said(key_of(1), number, number * 60))
        left = set(before) & set(self.seqs(kept))
        self.assertGreater(len(left), len(before) * 2 // 3)
        self.assertIn(999, left)

    def test_many_nodes(self) -> None:
        """Beyond so many nodes the one that gave none for longest is forgotten."""
        self.patch(audit_kept, "MAX_NODES", 3)
        kept = self.kept()
        for number in (1, 2, 3, 1, 4):
            self.clock.advance(1)
            kept.take(said(key_of(number), int(self.clock.seconds())))
        self.assertEqual([bool(self.seqs(kept, number)) for number in range(1, 5)], [1, 0, 1, 1])


class FileTests(KeptCase):
    """The file of them."""

    def test_survives(self) -> None:
        """What is kept is there after a restart, in a file of its user's alone, with names."""
        kept = self.kept()
        kept.take(said(key_of(1), 10))
        self.assertFalse(self.path.exists())
        self.clock.advance(DEBOUNCE)
        self.assertEqual(self.path.stat().st_mode & 0o777, 0o600)
        kept.take(said(key_of(1), 20))
        self.successResultOf(kept.close())
        self.assertEqual(self.seqs(self.kept()), [10, 20])
        (first, _) = read_kept(self.path)
        self.assertEqual(
            (first.node_name, first.kept_by, first.kept_by_name, first.received),
            ("birch", str(key_of(0).peer_id), "acacia", "2026-01-01T00:00:00.000Z"),
        )
        self.assertEqual(os.listdir(self.path.parent), ["checkpoints.json"])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_damaged(self) -> None:
        """A damaged file is put aside whole, and said."""
        for number, damage in enumerate((b"{", b"\xff", b'{"version": 99}', b"[" * 100_000), 1):
            self.path.write_bytes(damage)
            self.assertEqual(self.seqs(self.kept()), [])
            aside = self.path.with_name(f"checkpoints.json.damaged-{number}")
            self.assertEqual(aside.read_bytes(), damage)
            self.assertIn(str(aside), self.errors[-1])

    def test_full_disk(self) -> None:
        """A write that fails is said once, leaves the old file, and is made up for."""
        kept = self.kept()
        kept.take(said(key_of(1), 10))
        self.clock.advance(DEBOUNCE)
        before = self.path.read_bytes()
        with mock.patch("os.fsync", side_effect=OSError(28, "No space left on device")):
            for seq in (20, 30):
                kept.take(said(key_of(1), seq))
                self.clock.advance(DEBOUNCE)
        self.assertEqual(self.path.read_bytes(), before)
        self.assertEqual(len(self.errors), 1)
        self.successResultOf(kept.close())
        self.assertEqual(self.seqs(self.kept()), [10, 20, 30])

    def test_unreadable(self) -> None:
        """A file that cannot be read is left alone, and said."""
        self.path.mkdir()
        self.kept()
        self.assertIn("cannot be read", self.errors[0])


class Node:
    """A member with a log, on a simulated host."""

    def __init__(self, case: StreamsCase, number: int, audits: bool = True) -> None:
        self.case = case
        self.key = key_of(number)
        self.name = NAMES[number - 1]
        self.peer_id = self.key.peer_id
        self.directory = case.directory / self.name
        self.directory.mkdir(exist_ok=True)
        self.host = case.network.add_host(NodeClock(case.reactor))
        self.clock = self.host.clock
        self.swarm = Swarm(
            self.key,
            self.clock,
            case.network.of(self.host),
            random.Random(number).randbytes,
            "test/1",
            self.name,
        )
        self.log = AuditLog(
            self.directory / "audit.log", self.key, self.clock, self.wall_time, execute
        )
        self.kept = KeptCheckpoints(
            self.directory / "checkpoints.json",
            self.peer_id,
            self.clock,
            self.wall_time,
            execute,
            case.name_of,
        )
        if audits:
            self.streams = AuditStreams(
                self.swarm,
                self.peer_id,
                self.log,
                self.kept,
                self.clock,
                case.members.__contains__,
                case.name_of,
            )
            self.swarm.add_observer(self.streams)
        case.members.add(self.peer_id)
        case.successResultOf(self.log.start())
        case.successResultOf(ensureDeferred(self.swarm.listen(self.host.address, PORT)))

    def wall_time(self) -> float:
        return EPOCH + self.case.reactor.now

    def record(self, count: int) -> None:
        for _ in range(count):
            self.log.record("started")

    def keeps_of(self, other: Node) -> list[int]:
        return [each.checkpoint.seq for each in self.kept.of(str(other.peer_id))]

    def events(self) -> list[dict[str, Any]]:
        found = []
        for _, file in open_files(self.directory / "audit.log"):
            with file:
                found += [json.loads(line) for line in read_lines(file)]
        return found

    def contradictions(self) -> list[dict[str, Any]]:
        return [each["fields"] for each in self.events() if each["event"] == "audit_contradiction"]


class StreamsCase(SynchronousTestCase):
    """Members that are linked."""

    def setUp(self) -> None:
        self.reactor = SimReactor(random.Random(1))
        self.network = SimNetwork(self.reactor, random.Random(1), 0.01, jitter=0.0)
        self.directory = Path(self.mktemp())
        self.directory.mkdir(parents=True)
        self.members: set[PeerID] = set()
        self.errors = lines_at(self, LogLevel.error)
        self.warnings = lines_at(self, LogLevel.warn)
        # The disk of the machine that runs tests is not what is tested.
        self.patch(os, "fdatasync", lambda file: None)
        self.patch(os, "fsync", lambda file: None)

    def name_of(self, peer: PeerID) -> str:
        known = {key_of(number).peer_id: name for number, name in enumerate(NAMES, 1)}
        return known.get(peer, "")

    def run_for(self, seconds: float) -> None:
        self.reactor.run_until(self.reactor.now + seconds)

    def link(self, *nodes: Node) -> None:
        """Link the first to all others."""
        for other in nodes[1:]:
            nodes[0].swarm.dial([Multiaddr.tcp(other.host.address, PORT)], other.peer_id)
        self.run_for(0.5)

    def collected(self, node: Node, of: Node) -> Collected:
        found: list[Collected] = []
        node.streams.collect(of.peer_id).addCallback(found.append)
        self.run_for(ANSWER_SECONDS + 1)
        return found[0]


class GivingTests(StreamsCase):
    """When checkpoints go to whom."""

    def test_after_so_many_seconds(self) -> None:
        """A line is in a checkpoint after a minute at the latest; without lines there is none."""
        one, two = Node(self, 1), Node(self, 2)
        self.link(one, two)
        self.run_for(CHECKPOINT_SECONDS - 1)
        self.assertEqual(two.keeps_of(one), [])
        self.run_for(1)
        self.assertEqual(two.keeps_of(one), [1])
        self.assertEqual(one.keeps_of(two), [1])
        self.run_for(10 * CHECKPOINT_SECONDS)
        self.assertEqual(two.keeps_of(one), [1])
        one.record(3)
        self.run_for(CHECKPOINT_SECONDS + 1)
        self.assertEqual(two.keeps_of(one), [1, 4])
        self.assertEqual((self.errors, self.warnings), ([], []))

    def test_after_so_many_lines(self) -> None:
        """Many lines do not wait for the minute, but for one of before that was just made."""
        one, two = Node(self, 1), Node(self, 2)
        self.link(one, two)
        one.record(CHECKPOINT_LINES)
        self.run_for(0.5)
        (first,) = two.keeps_of(one)
        self.assertGreaterEqual(first, CHECKPOINT_LINES)
        one.record(10 * CHECKPOINT_LINES)
        self.run_for(APART + 0.5)
        self.assertEqual(two.keeps_of(one), [first, 1 + 11 * CHECKPOINT_LINES])

    def test_two_keepers(self) -> None:
        """Of several linked members two get it, those that the hash chooses."""
        nodes = [Node(self, number) for number in range(1, 5)]
        one = nodes[0]
        self.link(*nodes)
        self.run_for(CHECKPOINT_SECONDS + 1)
        chosen = keepers_of(one.peer_id, [each.peer_id for each in nodes[1:]])
        for each in nodes[1:]:
            self.assertEqual(bool(each.keeps_of(one)), each.peer_id in chosen)

    def test_keeper_goes(self) -> None:
        """When a keeper goes, another linked member gets the latest at once."""
        nodes = [Node(self, number) for number in range(1, 5)]
        one, others = nodes[0], nodes[1:]
        self.link(*nodes)
        self.run_for(CHECKPOINT_SECONDS + 1)
        first, _ = one.streams.keepers()
        (spare,) = (each for each in others if each.peer_id not in one.streams.keepers())
        one.swarm.links[first].close("test")
        self.run_for(1)
        self.assertEqual(spare.keeps_of(one), [1])

    def test_who_comes_later(self) -> None:
        """Who is linked later gets the latest at once."""
        one, two = Node(self, 1), Node(self, 2)
        self.run_for(CHECKPOINT_SECONDS + 1)
        self.link(one, two)
        self.assertEqual(two.keeps_of(one), [1])

    def test_who_comes_back(self) -> None:
        """Who was away gets the latest again: it may have crashed before that was on its disk."""
        one, two = Node(self, 1), Node(self, 2)
        self.link(one, two)
        self.run_for(CHECKPOINT_SECONDS + 1)
        asked: list[PeerID] = []
        answer = two.streams.answer

        def listen(message: bytes, asker: PeerID) -> bytes:
            asked.append(asker)
            return answer(message, asker)

        two.streams.answer = listen  # type: ignore[method-assign]  # and answers
        one.swarm.links[two.peer_id].abort("test")
        self.run_for(1)
        self.link(one, two)
        self.assertEqual(asked, [one.peer_id])

    def test_members_alone(self) -> None:
        """Who is no member is given nothing, and its questions are not answered."""
        one, two = Node(self, 1), Node(self, 2)
        self.members.discard(two.peer_id)
        self.link(one, two)
        self.run_for(CHECKPOINT_SECONDS + 1)
        self.assertEqual((two.keeps_of(one), one.keeps_of(two)), ([], []))

    def test_not_spoken(self) -> None:
        """Who does not speak this is not asked."""
        one, two = Node(self, 1), Node(self, 2, audits=False)
        self.link(one, two)
        self.run_for(CHECKPOINT_SECONDS + 1)
        self.assertEqual(one.streams.keepers(), [])

    def test_keeper_is_silent(self) -> None:
        """A keeper that does not answer is given it again a minute later."""
        one, two = Node(self, 1), Node(self, 2, audits=False)
        silent: list[Protocol] = []

        def build(address: object) -> Protocol:
            silent.append(Protocol())
            return silent[-1]

        two.swarm.handle(PROTOCOL, _factory(build))
        self.link(one, two)
        self.run_for(CHECKPOINT_SECONDS + 1)
        self.assertEqual(len(silent), 1)
        self.run_for(ANSWER_SECONDS + CHECKPOINT_SECONDS)
        self.assertEqual(len(silent), 2)
        self.assertEqual(len(one.swarm.links), 1)

    def test_stopped(self) -> None:
        """After the stop nothing is given away."""
        one, two = Node(self, 1), Node(self, 2)
        self.link(one, two)
        one.streams.stop()
        one.record(100)
        self.run_for(2 * CHECKPOINT_SECONDS)
        self.assertEqual(two.keeps_of(one), [])

    def test_rotated_key(self) -> None:
        """Checkpoints of a new key are not given over links of the old one."""
        one, two = Node(self, 1), Node(self, 2)
        self.link(one, two)
        one.log.rotate_key(key_of(9))
        self.run_for(CHECKPOINT_SECONDS + 1)
        self.assertEqual(two.keeps_of(one), [])
        self.assertEqual((self.warnings, len(one.swarm.links)), ([], 1))


class ContradictionTests(StreamsCase):
    """Logs that are not what they were."""

    def begin(self) -> tuple[Node, Node]:
        """A node whose keeper has a checkpoint of its tenth line, and that has stopped."""
        one, two = Node(self, 1), Node(self, 2)
        one.record(9)
        self.link(one, two)
        self.run_for(CHECKPOINT_SECONDS + 1)
        self.assertEqual(two.keeps_of(one), [10])
        one.streams.stop()
        self.successResultOf(one.log.close())
        one.swarm.links[two.peer_id].abort("test")
        self.run_for(1)
        return one, two

    def restart(self, keeper: Node) -> Node:
        again = Node(self, 1)
        self.link(again, keeper)
        return again

    def check(self, again: Node, keeper: Node, seq: int) -> None:
        """Both sides have said it, once, in their own logs and in that for people."""
        self.run_for(10 * CHECKPOINT_SECONDS)
        for each in (again, keeper):
            (fields,) = each.contradictions()
            self.assertEqual(
                (fields["node"], fields["kept_by"], fields["kept_seq"]),
                (str(again.peer_id), str(keeper.peer_id), 10),
            )
        self.assertEqual(len(self.errors), 2, self.errors)
        self.assertIn(
            f"audit log of acacia ({again.peer_id.short}) contradicts itself: its line {seq}",
            self.errors[0],
        )
        self.assertIn(
            f"birch ({keeper.peer_id.short}) keeps a checkpoint of line 10", self.errors[1]
        )
        # What is kept is not given up for what contradicts it.
        self.assertEqual(keeper.keeps_of(again)[0], 10)

    def test_older_copy(self) -> None:
        """An older copy of the state directory is told on both sides with the first checkpoint."""
        one, two = self.begin()
        path = one.directory / "audit.log"
        path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:4]))
        (one.directory / "audit.head").unlink()
        again = self.restart(two)
        again.record(1)
        self.check(again, two, 5)

    def test_written_anew(self) -> None:
        """So is a log that was written anew and is as long as the old one."""
        one, two = self.begin()
        chain = Chain(one.key)
        lines = [chain.append("stopped", {}, EPOCH) for _ in range(9)]
        (one.directory / "audit.log").write_bytes(b"".join(lines))
        (one.directory / "audit.head").unlink()
        again = self.restart(two)
        again.record(1)
        self.check(again, two, 10)

    def test_told_again(self) -> None:
        """It is told again after an hour, as long as it lasts."""
        _, two = self.begin()
        for _ in range(3):
            two.streams.answer(
                msgspec.json.encode({"checkpoint": said(key_of(1), 10, 0, "b")}), key_of(1).peer_id
            )
        self.assertEqual(len(two.contradictions()), 1)
        self.run_for(CONTRADICTION_AGAIN)
        two.streams.answer(
            msgspec.json.encode({"checkpoint": said(key_of(1), 10, 0, "b")}), key_of(1).peer_id
        )
        self.assertEqual(len(two.contradictions()), 2)

    def test_restart(self) -> None:
        """A node that is just restarted contradicts nothing."""
        _, two = self.begin()
        again = self.restart(two)
        again.record(1)
        self.run_for(CHECKPOINT_SECONDS + 1)
        self.assertEqual(two.keeps_of(again), [10, 11])
        self.assertEqual(self.errors, [])


class AskingTests(StreamsCase):
    """Who is asked for what others keep."""

    def test_collected(self) -> None:
        """Every linked member is asked, and this node adds what it keeps itself."""
        nodes = [Node(self, number) for number in range(1, 5)]
        one, two = nodes[:2]
        self.link(*nodes)
        self.link(two, *nodes[2:])
        self.run_for(CHECKPOINT_SECONDS + 1)
        for asker in (one, two):
            found = self.collected(asker, one)
            self.assertEqual((found.node, found.asked, found.answered), (str(one.peer_id), 3, 3))
            by = {each.kept_by_name for each in found.checkpoints}
            self.assertEqual(by, {self.name_of(peer) for peer in one.streams.keepers()}, asker.name)
            for each in found.checkpoints:
                each.checkpoint.check()
                self.assertEqual(each.node_name, "acacia")
                self.assertRegex(each.received, "^2026-01-01T00:01:00")
        self.assertEqual(self.collected(one, two).asked, 3)

    def test_as_json(self) -> None:
        """The answer is what the control API and the command exchange."""
        one, two = Node(self, 1), Node(self, 2)
        self.link(one, two)
        self.run_for(CHECKPOINT_SECONDS + 1)
        document = json.loads(msgspec.json.encode(self.collected(one, one)))
        self.assertEqual(list(document), ["node", "checkpoints", "asked", "answered"])
        self.assertEqual(
            list(document["checkpoints"][0]),
            ["checkpoint", "node_name", "kept_by", "kept_by_name", "received"],
        )

    def test_alone(self) -> None:
        """Without links nobody is asked."""
        one = Node(self, 1)
        found = self.collected(one, one)
        self.assertEqual((found.asked, found.checkpoints), (0, []))


class BadPeerTests(StreamsCase):
    """What bad peers can do."""

    def setUp(self) -> None:
        super().setUp()
        self.one, self.two = Node(self, 1), Node(self, 2)
        self.reasons: list[str] = []
        self.one.streams.link_down = (  # type: ignore[method-assign]  # listens to why
            lambda link, reason: self.reasons.append(reason)
        )
        self.link(self.one, self.two)

    def ask(self, message: bytes) -> Recorder:
        """Have birch say something to acacia."""
        recorder = Recorder(message)
        link = self.two.swarm.links[self.one.peer_id]
        opened: Deferred[Any] = link.open_stream([PROTOCOL], _factory(lambda address: recorder))
        opened.addErrback(lambda failure: None)
        self.run_for(1)
        return recorder

    def assert_dropped(self, code: str) -> None:
        self.assertEqual(self.one.swarm.links, {})
        (reason,) = self.reasons
        self.assertTrue(reason.endswith(f"({code})"), reason)
        self.assertEqual(len(self.warnings), 1)
        self.assertIn("birch", self.warnings[0])
        self.assertTrue(self.warnings[0].isprintable())

    def question(self, checkpoint: Checkpoint) -> bytes:
        return frame(msgspec.json.encode({"checkpoint": checkpoint}))

    def test_answered(self) -> None:
        """Who asks in order is answered, in pieces too, and the stream ends."""
        question = self.question(said(self.two.key, 10))
        recorder = self.ask(question[:5])
        recorder.write(question[5:])
        self.run_for(1)
        self.assertEqual(recorder.received, frame(b'{"kept":true}'))
        self.assertTrue(recorder.lost)

    def test_unreadable(self) -> None:
        """Who says what cannot be read loses the link."""
        self.ask(frame(b'{"\x1b[2J": 1, "checkpoint": 7}'))
        self.assert_dropped("audit_bad_message")

    def test_nothing(self) -> None:
        """So does who asks for nothing."""
        self.ask(frame(b"{}"))
        self.assert_dropped("audit_bad_message")

    def test_too_long(self) -> None:
        """So does who announces more than a message may have."""
        self.ask(frame(bytes(MAX_MESSAGE + 1))[:10])
        self.assert_dropped("message_too_long")

    def test_of_another(self) -> None:
        """So does who gives a checkpoint of another node, however well it is signed."""
        self.ask(self.question(said(key_of(3), 10)))
        self.assert_dropped("audit_not_its_own")
        self.assertEqual(self.one.kept.of(str(key_of(3).peer_id)), [])

    def test_not_signed(self) -> None:
        """So does who gives one that it has not signed."""
        self.ask(self.question(replace(said(self.two.key, 10), seq=11)))
        self.assert_dropped("audit_bad_signature")
        self.assertEqual(self.one.keeps_of(self.two), [])

    def test_silent(self) -> None:
        """A stream on which nobody asks is reset in time; the link stays."""
        recorder = self.ask(b"")
        self.run_for(ANSWER_SECONDS)
        self.assertTrue(recorder.lost)
        self.assertEqual(len(self.one.swarm.links), 1)

    def test_flood(self) -> None:
        """Who gives checkpoints without end loses the link, and what was kept before stays."""
        for seq in range(10, 2000):
            link = self.two.swarm.links.get(self.one.peer_id)
            if link is None:
                break
            recorder = Recorder(self.question(said(self.two.key, seq)))
            opened: Deferred[Any] = link.open_stream([PROTOCOL], _factory(_always(recorder)))
            opened.addErrback(lambda failure: None)
            self.run_for(0.01)
        self.run_for(1)
        self.assertEqual(self.one.swarm.links, {})
        self.assertEqual(self.one.keeps_of(self.two)[0], 10)
        self.assertLess(max(self.one.keeps_of(self.two)), 150)

    def answered_with(self, answer: bytes) -> None:
        """Have birch answer this to whatever acacia asks."""
        streams = self.two.streams
        streams.answer = lambda message, asker: answer  # type: ignore[method-assign]  # a liar
        self.one.record(CHECKPOINT_LINES)
        self.run_for(1)

    def test_wrong_answers(self) -> None:
        """A keeper whose answer cannot be read loses the link."""
        self.answered_with(b"[]")
        self.assert_dropped("audit_bad_message")

    def test_false_contradictions(self) -> None:
        """A keeper that sees a contradiction where there is none loses the link."""
        true = said(self.one.key, 99)
        for claimed in (
            replace(true, hash="0" * 64),
            said(key_of(3), 99),
            said(self.one.key, 1),
        ):
            with self.assertRaises(RemoteProtocolError):
                self.one.streams._is_contradicted(self.two.peer_id, said(self.one.key, 10), claimed)
        given = {"kept": False, "contradicts": replace(true, hash="0" * 64)}
        self.answered_with(msgspec.json.encode(given))
        self.assert_dropped("audit_bad_signature")
        self.assertEqual((self.errors, self.one.contradictions()), ([], []))

    def test_forged_answers(self) -> None:
        """Who hands out checkpoints that nobody signed loses the link; those of others count."""
        forged = {"checkpoint": replace(said(self.one.key, 99), seq=100)}
        self.two.streams.answer = (  # type: ignore[method-assign]  # a liar
            lambda message, asker: msgspec.json.encode({"checkpoints": [forged]})
        )
        found = self.collected(self.one, self.one)
        self.assertEqual((found.asked, found.answered, found.checkpoints), (1, 0, []))
        self.assert_dropped("audit_bad_signature")

    def test_many_answers(self) -> None:
        """No more is taken from an answer than a node keeps, and nothing of other nodes."""
        many = [
            {"checkpoint": said(self.one.key, seq), "received": "x" * 30} for seq in range(1, 60)
        ]
        many.insert(0, {"checkpoint": said(key_of(3), 5)})
        self.two.streams.answer = (  # type: ignore[method-assign]  # a liar
            lambda message, asker: msgspec.json.encode({"checkpoints": many})
        )
        found = self.collected(self.one, self.one)
        self.assertEqual(len(found.checkpoints), MAX_KEPT - 1)
        self.assertLess(len(found.checkpoints[0].received), 30)

    @given(
        st.binary()
        | st.dictionaries(
            st.sampled_from(["checkpoint", "of", "x"]),
            st.none() | st.text() | st.integers() | st.just({"node": "x", "seq": 1}),
        ).map(lambda document: json.dumps(document).encode())
    )
    def test_any_bytes(self, message: bytes) -> None:
        """Any message is answered or refused, in one short line."""
        try:
            self.one.streams.answer(message, self.two.peer_id)
        except RemoteProtocolError as error:
            self.assertTrue(str(error).isprintable())
            self.assertLess(len(str(error)), 400)

    def test_whole_answer_fits(self) -> None:
        """All that is kept of a node fits into a message."""
        for seq in range(1, MAX_KEPT + 1):
            self.one.kept.take(said(self.two.key, 2**52 + seq))
        question = msgspec.json.encode({"of": str(self.two.peer_id)})
        answer = self.one.streams.answer(question, self.two.peer_id)
        self.assertEqual(answer.count(b'"sig"'), MAX_KEPT)
        self.assertLess(len(answer), MAX_MESSAGE)


class Recorder(Protocol):
    """Says something, and keeps what comes back."""

    def __init__(self, message: bytes) -> None:
        self.received = b""
        self.lost = False
        self._message = message

    def connectionMade(self) -> None:
        self.write(self._message)

    def write(self, data: bytes) -> None:
        transport: Any = self.transport
        transport.write(data)

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Any = None) -> None:
        self.lost = True


class _Builds(Factory):
    noisy = False

    def __init__(self, build: Callable[[Any], Protocol]) -> None:
        self.buildProtocol = build  # type: ignore[assignment,method-assign]  # a function will do


def _factory(build: Callable[[Any], Protocol]) -> Factory:
    return _Builds(build)


def _always(protocol: Protocol) -> Callable[[Any], Protocol]:
    return lambda address: protocol
