"""Telling and listening, on topics in memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
from twisted.internet.task import Clock
from twisted.logger import LogLevel, formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from bzzz.identity.peer_id import PeerID
from bzzz.mesh import line_limit, messages
from bzzz.mesh.availability import Availability, AvailabilityDocument
from bzzz.mesh.broadcasts import APART, Broadcasts
from bzzz.mesh.capability import CapabilityDocument, Resources
from bzzz.mesh.line_limit import LINES, LINES_APART
from bzzz.mesh.messages import AVAILABILITY, CAPABILITY, COORDINATION_TOPIC, DISCUSSION_TOPIC
from bzzz.mesh.pubsub import ValidationResult
from bzzz.wire.gossip_message import Message

ME, WALNUT, GO = (PeerID(b"\x00\x24\x08\x01\x12\x20" + bytes([n]) * 32) for n in (1, 2, 3))
WALL = 1_790_000_000.0


class FakeTopics:
    """Pubsub without a network: what is published is kept, what is delivered is as from peers."""

    def __init__(self) -> None:
        self.published: list[tuple[str, dict[str, Any]]] = []
        self.direct: list[tuple[PeerID, Message]] = []
        self.topics: dict[str, tuple[Any, Any]] = {}
        self.subscribed: list[Callable[[PeerID, str], object]] = []
        self.peers: tuple[PeerID, ...] = (WALNUT, GO)
        self.fails: Exception | None = None
        self.seqno = 0

    def subscribe(self, topic: str, validator: Any, on_message: Any) -> None:
        self.topics[topic] = (validator, on_message)

    def publish(self, topic: str, data: bytes) -> Message:
        if self.fails is not None:
            raise self.fails
        self.published.append((topic, json.loads(data)))
        return self.message(topic, data, ME)

    def send_directly(self, peer: PeerID, message: Message) -> None:
        self.direct.append((peer, message))

    def on_peer_subscribed(self, callback: Callable[[PeerID, str], object]) -> None:
        self.subscribed.append(callback)

    def topic_peers(self, topic: str) -> tuple[PeerID, ...]:
        return self.peers

    def message(self, topic: str, data: bytes, origin: PeerID) -> Message:
        self.seqno += 1
        return Message(b"%d" % self.seqno, origin, self.seqno, topic, data, b"")

    def deliver(
        self, topic: str, data: bytes, origin: PeerID, sender: PeerID | None = None
    ) -> ValidationResult:
        message = self.message(topic, data, origin)
        validator, on_message = self.topics[topic]
        result = validator(message, sender or origin)
        assert isinstance(result, ValidationResult)
        if result in (ValidationResult.ACCEPT, ValidationResult.UNHURRIED):
            on_message(message, sender or origin)
        return result

    def kinds(self) -> list[str]:
        return [message["type"] for _, message in self.published]


class Base(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.topics = FakeTopics()
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.updates: list[PeerID] = []
        self.document = CapabilityDocument(
            node_id=str(ME), name="me", resources=Resources(cpu_cores=8, memory_bytes=1 << 35)
        )
        self.availability = Availability(4, self.wall_time)
        self.broadcasts = Broadcasts(
            pubsub=self.topics,
            clock=self.clock,
            wall_time=self.wall_time,
            interval=30.0,
            peer_id=ME,
            document=lambda: self.document,
            availability=self.availability,
            emit=lambda event, **fields: self.events.append((event, fields)),
            name_of=lambda peer: "acacia" if peer == GO else "",
            on_update=self.updates.append,
        )
        self.lines: list[tuple[LogLevel, str]] = []
        observer: Any = self.observe
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)

    def wall_time(self) -> float:
        return WALL + self.clock.seconds()

    def observe(self, event: dict[str, Any]) -> None:
        if event.get("log_namespace", "").startswith("bzzz."):
            self.lines.append((event["log_level"], formatEvent(event)))

    def at(self, level: LogLevel) -> list[str]:
        lines = [line for found, line in self.lines if found is level]
        self.lines.clear()
        return lines

    def rename(self, name: str) -> None:
        self.document = msgspec.structs.replace(self.document, name=name)
        self.broadcasts.changed()


class TellingTests(Base):
    def test_at_start_and_each_interval(self) -> None:
        """Both kinds are told at the start and each interval, on the coordination topic."""
        self.broadcasts.start()
        self.assertEqual(self.topics.kinds(), [CAPABILITY, AVAILABILITY])
        self.assertEqual({topic for topic, _ in self.topics.published}, {COORDINATION_TOPIC})
        self.clock.advance(30)
        self.assertEqual(self.topics.kinds(), [CAPABILITY, AVAILABILITY] * 2)
        first, later = self.topics.published[0][1], self.topics.published[2][1]
        self.assertEqual(first["from"], str(ME))
        self.assertLess(first["timestamp"], later["timestamp"])

    def test_another_interval(self) -> None:
        """Another interval counts from when it is set."""
        self.broadcasts.set_interval(20.0)
        self.assertEqual(self.topics.published, [])
        self.broadcasts.start()
        self.clock.advance(10)
        self.broadcasts.set_interval(5.0)
        self.assertEqual(len(self.topics.published), 2)
        self.clock.advance(5)
        self.assertEqual(len(self.topics.published), 4)

    def test_one_line_a_tick(self) -> None:
        """Each tick writes one line at info, with what it is about; the document is at debug."""
        self.broadcasts.start()
        self.at(LogLevel.info)
        self.clock.advance(30)
        self.assertEqual(
            [line for level, line in self.lines if level is LogLevel.info],
            ["capability_broadcast sent: 8 cores, 32 GiB to 2 peers"],
        )
        self.assertTrue(any('"cpu_cores":8' in line for line in self.at(LogLevel.debug)))

    def test_change(self) -> None:
        """A change is told at once, and what is no change is not."""
        self.broadcasts.start()
        self.clock.advance(10)
        self.topics.published.clear()
        self.rename("other")
        self.assertEqual([m["data"]["name"] for _, m in self.topics.published], ["other"])
        self.clock.advance(1)
        self.rename("other")
        self.document = msgspec.structs.replace(
            self.document, resources=Resources(cpu_cores=8, memory_bytes=1 << 35, disk_free_bytes=7)
        )
        self.broadcasts.changed()
        self.assertEqual(len(self.topics.published), 1)

    def test_many_changes(self) -> None:
        """Changes in a row are told together, the last of them not later than it has to be."""
        self.broadcasts.start()
        self.clock.advance(10)
        self.topics.published.clear()
        for number in range(50):
            self.rename(f"name-{number}")
            self.clock.advance(APART / 100)
        self.assertEqual([m["data"]["name"] for _, m in self.topics.published], ["name-0"])
        self.clock.advance(APART)
        self.assertEqual(
            [m["data"]["name"] for _, m in self.topics.published], ["name-0", "name-49"]
        )

    def test_changed_back(self) -> None:
        """A change that is undone before it was told is none."""
        self.broadcasts.start()
        self.rename("other")
        self.rename("me")
        self.topics.published.clear()
        self.clock.advance(1)
        self.assertEqual(self.topics.published, [])

    def test_availability(self) -> None:
        """A change of availability is told at once too, and is a line at info."""
        self.broadcasts.start()
        self.clock.advance(1)
        self.at(LogLevel.info)
        self.availability.task_started()
        self.assertEqual(
            self.at(LogLevel.info),
            ["availability_broadcast sent: working, 1 of 4 tasks to 2 peers"],
        )
        self.assertEqual(self.topics.kinds()[-1], AVAILABILITY)

    def test_new_peer(self) -> None:
        """A peer that enters the topic is sent the latest of both, and nobody else is."""
        self.topics.subscribed[0](WALNUT, COORDINATION_TOPIC)
        self.assertEqual(self.topics.direct, [])
        self.broadcasts.start()
        self.clock.advance(1)
        self.rename("other")
        self.topics.published.clear()
        self.topics.subscribed[0](WALNUT, COORDINATION_TOPIC)
        self.topics.subscribed[0](WALNUT, DISCUSSION_TOPIC)
        sent = [(peer, json.loads(message.data)) for peer, message in self.topics.direct]
        self.assertEqual([peer for peer, _ in sent], [WALNUT, WALNUT])
        self.assertEqual([m["type"] for _, m in sent], [CAPABILITY, AVAILABILITY])
        self.assertEqual(sent[0][1]["data"]["name"], "other")
        self.assertEqual(self.topics.published, [])

    def test_failure(self) -> None:
        """A tick that fails is logged, and the next one comes."""
        self.topics.fails = RuntimeError("a bug")
        self.broadcasts.start()
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 2)
        self.topics.fails = None
        self.clock.advance(30)
        self.assertEqual(self.topics.kinds(), [CAPABILITY, AVAILABILITY])

    def test_document_that_fails(self) -> None:
        """A document that cannot be made does not keep the availability from being told."""

        def broken() -> CapabilityDocument:
            raise RuntimeError("a bug")

        broadcasts = Broadcasts(
            pubsub=self.topics,
            clock=self.clock,
            wall_time=self.wall_time,
            interval=30.0,
            peer_id=ME,
            document=broken,
            availability=self.availability,
            emit=lambda event, **fields: None,
        )
        broadcasts.start()
        self.assertEqual(self.topics.kinds(), [AVAILABILITY])
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_stop(self) -> None:
        """After the stop nothing is told, and no timer is left."""
        self.broadcasts.start()
        self.rename("other")
        self.broadcasts.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.topics.published.clear()
        self.rename("third")
        self.availability.drain()
        self.topics.subscribed[0](WALNUT, COORDINATION_TOPIC)
        self.assertEqual((self.topics.published, self.topics.direct), ([], []))

    def test_events(self) -> None:
        """What is sent is an event."""
        self.broadcasts.start()
        self.assertEqual(
            self.events[0],
            (
                "capability_broadcast",
                {"direction": "sent", "summary": "8 cores, 32 GiB", "peers": 2, "changed": True},
            ),
        )


class ListeningTests(Base):
    def setUp(self) -> None:
        super().setUp()
        self.broadcasts.start()
        self.clock.advance(5)
        self.lines.clear()
        self.events.clear()

    def hear(self, origin: PeerID = WALNUT, at: float = 0.0, **fields: Any) -> ValidationResult:
        document = CapabilityDocument(node_id=str(origin), **{"name": "walnut", **fields})
        payload = messages.encode(CAPABILITY, origin, self.wall_time() + at, document)
        return self.topics.deliver(COORDINATION_TOPIC, payload, origin)

    def test_first(self) -> None:
        """A first broadcast is kept, told to the membership, and a line at info."""
        self.assertIs(
            self.hear(resources=Resources(cpu_cores=4), models=("phi3",)),
            ValidationResult.UNHURRIED,
        )
        self.assertEqual(self.broadcasts.documents[WALNUT].models, ("phi3",))
        self.assertEqual(self.updates, [WALNUT])
        self.assertEqual(
            self.at(LogLevel.info),
            [f"capability_broadcast from {WALNUT.short} (walnut): 4 cores, models: phi3"],
        )
        self.assertEqual(self.broadcasts.heard.received_at(WALNUT), WALL + 5)

    def test_news(self) -> None:
        """What a known peer says anew is for all at once; what all know already may wait."""
        self.hear()
        self.clock.advance(30)
        self.assertIs(self.hear(), ValidationResult.UNHURRIED)
        self.assertIs(self.hear(models=("phi3",)), ValidationResult.ACCEPT)
        self.assertIs(self.hear(models=("phi3",)), ValidationResult.UNHURRIED)
        # It was said before, and comes late.
        self.assertIs(self.hear(at=-10.0), ValidationResult.UNHURRIED)
        self.assertEqual(self.broadcasts.documents[WALNUT].models, ("phi3",))

    def test_what_changed(self) -> None:
        """The line says what changed, because the summary may be the same as before."""
        self.hear()
        self.at(LogLevel.info)
        self.clock.advance(30)
        self.hear(labels={"rack": "a3"}, service={"unit": "bzzz.service"})
        (line,) = [line for line in self.at(LogLevel.info) if " from " in line]
        self.assertTrue(line.endswith("; changed: labels, service"), line)

    def test_event(self) -> None:
        """Each one received is an event, with the document if it changed."""
        self.hear()
        event, fields = self.events[0]
        self.assertEqual(event, "capability_broadcast")
        self.assertEqual(
            (fields["direction"], fields["peer_id"], fields["name"], fields["changed"]),
            ("received", str(WALNUT), "walnut", True),
        )
        self.assertEqual(fields["document"]["node_id"], str(WALNUT))
        self.clock.advance(30)
        self.events.clear()
        self.hear()
        _, fields = self.events[-1]
        self.assertEqual((fields["changed"], "document" in fields), (False, False))

    def test_repeats(self) -> None:
        """Unchanged repeats are at debug, with the same words; changes at info again."""
        self.hear()
        self.clock.advance(30)
        self.lines.clear()
        self.hear(resources=Resources(disk_free_bytes=5))
        self.assertTrue(
            any(line.startswith("capability_broadcast from") for line in self.at(LogLevel.debug))
        )
        self.clock.advance(29)
        self.lines.clear()
        self.hear(models=("phi3",))
        self.assertEqual(len(self.at(LogLevel.info)), 1)

    def test_flapping(self) -> None:
        """A peer that changes all the time does not fill the log."""
        for number in range(100):
            self.hear(name=f"n{number}")
        self.assertEqual(len(self.at(LogLevel.info)), LINES)
        self.assertEqual(self.broadcasts.documents[WALNUT].name, "n99")
        self.clock.advance(LINES_APART)
        self.hear(name="later")
        self.hear(name="at once")
        self.assertEqual(len(self.at(LogLevel.info)), 1)

    def test_kinds_have_lines_of_their_own(self) -> None:
        """Capabilities that change all the time do not hide the availability, when it changes."""
        for number in range(100):
            self.hear(name=f"n{number}")
        self.at(LogLevel.info)
        for status in ("ready", "draining"):
            document = AvailabilityDocument(node_id=str(WALNUT), status=status)
            payload = messages.encode(AVAILABILITY, WALNUT, self.wall_time(), document)
            self.topics.deliver(COORDINATION_TOPIC, payload, WALNUT)
        self.assertEqual(
            self.at(LogLevel.info),
            [f"availability_broadcast from {WALNUT.short} (n99): draining, 0 of 0 tasks"],
        )

    def test_lines_are_bounded(self) -> None:
        """Of how many peers it is remembered what was written has a cap."""
        self.patch(line_limit, "MAX_SUBJECTS", 2)
        for number in range(10, 20):
            self.hear(origin=PeerID(b"\x00\x24\x08\x01\x12\x20" + bytes([number]) * 32))
        self.assertEqual(len(self.broadcasts._lines), 2)
        self.assertEqual(len(self.broadcasts.documents), 10)

    def test_older(self) -> None:
        """A message older than the last of the same peer changes nothing."""
        self.hear(name="new")
        self.hear(name="old", at=-1)
        self.assertEqual(self.broadcasts.documents[WALNUT].name, "new")
        self.assertEqual(self.updates, [WALNUT])

    def test_go_node(self) -> None:
        """A Go node's broadcasts are understood, and its name comes from elsewhere."""
        short = f"<peer.ID {str(GO)[:2]}*{GO.short}>"
        for kind, data in (
            (CAPABILITY, {"capabilities": ["general"], "models": None}),
            (AVAILABILITY, {"available_for_work": True, "max_tasks": 3, "timestamp": 1764000000}),
        ):
            message = {
                "type": kind,
                "from": str(GO),
                "timestamp": "2026-11-24T01:02:03.123456789Z",
                "data": {"node_id": short, **data},
            }
            self.clock.advance(1)
            self.lines.clear()
            self.assertIs(
                self.topics.deliver(COORDINATION_TOPIC, json.dumps(message).encode(), GO),
                ValidationResult.ACCEPT,
            )
            self.assertEqual(len(self.at(LogLevel.info)), kind == CAPABILITY)
        self.assertEqual(self.broadcasts.documents[GO].capabilities, ("general",))
        self.assertEqual(self.broadcasts.availabilities[GO].status, "ready")
        self.assertEqual(self.events[-1][1]["name"], "acacia")

    def test_wrong(self) -> None:
        """A wrong message is counted, and held against its author alone."""
        payload = messages.encode(CAPABILITY, GO, WALL, CapabilityDocument(node_id=str(GO)))
        deliver = self.topics.deliver
        self.assertIs(deliver(COORDINATION_TOPIC, payload, WALNUT), ValidationResult.REJECT)
        self.assertIs(deliver(COORDINATION_TOPIC, b"{", WALNUT), ValidationResult.REJECT)
        self.assertIs(deliver(COORDINATION_TOPIC, b"{", WALNUT, GO), ValidationResult.IGNORE)
        self.assertEqual(self.broadcasts.rejected, {"from_mismatch": 1, "bad_json": 2})
        self.assertEqual((self.broadcasts.documents, len(self.at(LogLevel.warn))), ({}, 3))
        for _ in range(100):
            deliver(COORDINATION_TOPIC, b"{", WALNUT)
        self.assertLess(len(self.at(LogLevel.warn)), LINES)

    def test_other_types(self) -> None:
        """Types that are not known here are forwarded, and told at debug."""
        message = {
            "type": "task_\x1b[2J",
            "from": str(GO),
            "timestamp": "2026-11-24T01:02:03Z",
            "data": {},
        }
        result = self.topics.deliver(COORDINATION_TOPIC, json.dumps(message).encode(), GO)
        self.assertIs(result, ValidationResult.ACCEPT)
        self.assertTrue(all(line.isprintable() for _, line in self.lines))
        self.assertEqual(self.updates, [])

    def test_own(self) -> None:
        """An echo of this node's own is not taken for a peer."""
        self.assertIs(self.hear(origin=ME), ValidationResult.UNHURRIED)
        self.assertEqual(self.broadcasts.documents, {})

    def test_forget(self) -> None:
        """A peer that is no member any more is not remembered."""
        self.hear()
        self.broadcasts.forget(WALNUT)
        self.assertEqual(self.broadcasts.documents, {})

    def test_discussion(self) -> None:
        """What is said in the discussion is shown, shortened and fit to be shown."""
        payload = json.dumps(
            {"type": "meta_discussion", "from": str(GO), "data": {"message": "Hm?\n" + "x" * 900}}
        ).encode()
        result = self.topics.deliver(DISCUSSION_TOPIC, payload, GO)
        self.assertIs(result, ValidationResult.ACCEPT)
        shown = "Hm?\\n" + "x" * 496 + "…"
        self.assertEqual(
            self.at(LogLevel.info), [f"meta_discussion from {GO.short} (acacia): {shown}"]
        )
        self.assertEqual(
            self.events[-1],
            (
                "discussion",
                {
                    "peer_id": str(GO),
                    "name": "acacia",
                    "type": "meta_discussion",
                    "text": shown,
                },
            ),
        )

    def test_discussion_flood(self) -> None:
        """Many messages in the discussion do not fill the log; all are events."""
        for _ in range(100):
            self.topics.deliver(DISCUSSION_TOPIC, b"hello", GO)
        self.assertEqual(len(self.at(LogLevel.info)), LINES)
        self.assertEqual(len(self.events), 100)
