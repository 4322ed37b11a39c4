"""Messages on the coordination topic, and what is wrong with some."""

from __future__ import annotations

import datetime
import json
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from bzzz.errors import RemoteProtocolError
from bzzz.identity.peer_id import PeerID
from bzzz.mesh import messages
from bzzz.mesh.availability import AvailabilityDocument
from bzzz.mesh.capability import EVERYTHING, CapabilityDocument, Gpu, OwnerRules, Resources

WALNUT = PeerID.parse("12D3KooWEeVXdHkXtUp2ewzdqD56gDJCCuMGNAqoJrJ7CKaXHoUh")
NOW = 1_790_000_000.123456

FULL = CapabilityDocument(
    node_id=str(WALNUT),
    name="walnut",
    version="0.1.0",
    capabilities=("gpu", "python"),
    models=("codellama:latest",),
    specialization="code",
    resources=Resources(
        cpu_cores=8,
        memory_bytes=1 << 35,
        gpus=(Gpu(name="RTX 4090", vendor="nvidia", memory_bytes=24 << 30),),
        disk_bytes=1 << 40,
        disk_free_bytes=1 << 39,
    ),
    labels={"rack": "a3"},
    os="Debian GNU/Linux 12 (bookworm)",
    arch="x86_64",
    python="3.11.2",
    runtimes=("docker",),
    service={"unit": "bzzz.service", "restarts": 0},
    addresses=("/ip4/192.0.2.7/tcp/40001",),
    rules=OwnerRules(forbidden_commands=("docker", "/opt/*"), cpus=1.5),
)


def envelope(**changes: Any) -> dict[str, Any]:
    """What a Go node of the running cluster publishes."""
    return {
        "type": "capability_broadcast",
        "from": str(WALNUT),
        "timestamp": "2026-11-24T01:02:03.123456789+11:00",
        "data": {
            "node_id": "<peer.ID 12*aXHoUh>",
            "capabilities": ["general", "reasoning"],
            "models": ["phi3", "llama3.1"],
            "version": "0.2.0",
            "specialization": "general_developer",
            "timestamp": 1764000000,
            "reason": "startup",
        },
        **changes,
    }


def availability(**changes: Any) -> dict[str, Any]:
    return envelope(
        type="availability_broadcast",
        data={
            "node_id": "<peer.ID 12*aXHoUh>",
            "available_for_work": True,
            "current_tasks": 0,
            "max_tasks": 3,
            "last_activity": 1764000000,
            "status": "ready",
            "timestamp": 1764000000,
            **changes,
        },
    )


class Base(SynchronousTestCase):
    def decode(self, message: Any) -> messages.Received:
        payload = message if isinstance(message, bytes) else json.dumps(message).encode()
        return messages.decode(payload, WALNUT)

    def assert_refused(self, code: str, message: Any) -> None:
        error = self.assertRaises(RemoteProtocolError, self.decode, message)
        self.assertEqual(error.code, code, str(error))
        self.assertTrue(str(error).isprintable(), str(error))

    def capability(self, **data: Any) -> dict[str, Any]:
        return envelope(data={"node_id": str(WALNUT), **data})


class RoundTripTests(Base):
    def test_capability(self) -> None:
        """What this node says is understood by a node like it."""
        payload = messages.encode(messages.CAPABILITY, WALNUT, NOW, FULL)
        received = self.decode(payload)
        self.assertEqual(received.document, FULL)
        self.assertEqual((received.type, received.sender), ("capability_broadcast", WALNUT))
        self.assertAlmostEqual(received.timestamp.timestamp(), NOW, places=5)

    def test_availability(self) -> None:
        """An availability comes through with its times."""
        moment = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
        document = AvailabilityDocument(
            node_id=str(WALNUT),
            available_for_work=True,
            current_tasks=1,
            max_tasks=4,
            status="working",
            last_activity=moment,
            timestamp=moment,
        )
        payload = messages.encode(messages.AVAILABILITY, WALNUT, NOW, document)
        self.assertEqual(self.decode(payload).document, document)

    def test_form(self) -> None:
        """The envelope has the four fields of DESIGN, and RFC 3339 times in UTC."""
        sent = json.loads(messages.encode(messages.CAPABILITY, WALNUT, 1_790_000_000.5, FULL))
        self.assertEqual(list(sent), ["type", "from", "timestamp", "data"])
        self.assertEqual(sent["timestamp"], "2026-09-21T14:13:20.500000Z")
        self.assertLessEqual(
            {
                "node_id",
                "name",
                "version",
                "capabilities",
                "models",
                "specialization",
                "resources",
                "labels",
                "os",
                "arch",
            },
            set(sent["data"]),
        )


class GoTests(Base):
    """A Python node has to understand the Go nodes of the running cluster."""

    def test_capability(self) -> None:
        """The short form of the peer ID, few fields, and fields that are not known here."""
        document = self.decode(envelope()).document
        assert isinstance(document, CapabilityDocument)
        self.assertEqual(document.capabilities, ("general", "reasoning"))
        self.assertEqual(document.specialization, "general_developer")
        self.assertEqual(document.resources, Resources())

    def test_null_lists(self) -> None:
        """A list that was never made is null in Go's JSON, at any depth."""
        document = self.decode(
            self.capability(models=None, labels=None, resources={"gpus": None, "cpu_cores": 4})
        ).document
        assert isinstance(document, CapabilityDocument)
        self.assertEqual((document.models, document.resources.cpu_cores), ((), 4))

    def test_availability(self) -> None:
        """Times are whole seconds since the epoch."""
        document = self.decode(availability()).document
        assert isinstance(document, AvailabilityDocument)
        moment = datetime.datetime(2025, 11, 24, 16, 0, tzinfo=datetime.UTC)
        self.assertEqual((document.last_activity, document.timestamp), (moment, moment))
        self.assertEqual((document.status, document.max_tasks), ("ready", 3))

    def test_other_types(self) -> None:
        """Types that are not known here are let through, whatever their data."""
        several: tuple[Any, ...] = ({}, None, [1], "x")
        for data in several:
            received = self.decode(envelope(type="task_announcement", data=data, hop_count=1))
            self.assertEqual((received.type, received.document), ("task_announcement", None))

    def test_status_missing(self) -> None:
        """Without a status it follows from whether the node takes work."""
        for available, status in ((True, "ready"), (False, "busy"), (None, "busy")):
            message = availability(available_for_work=available, status=None)
            document = self.decode(message).document
            assert isinstance(document, AvailabilityDocument)
            self.assertEqual(document.status, status)


class RefusalTests(Base):
    """Each code, and what it stands for."""

    def test_too_large(self) -> None:
        """Messages and broadcasts have their caps."""
        self.assert_refused("too_large", b"{" + b" " * messages.MAX_MESSAGE)
        self.assert_refused("too_large", envelope(extra="x" * messages.MAX_BROADCAST))
        issue = envelope(type="task_announcement", data={"body": "x" * 65536})
        self.assertEqual(self.decode(issue).type, "task_announcement")

    def test_bad_json(self) -> None:
        """Whatever is no JSON in UTF-8, or is nested without end."""
        for payload in (
            b"",
            b"garbage",
            b"{",
            b'{"type": "\xff"}',
            json.dumps(envelope()).encode()[:-1],
            json.dumps(envelope()).encode() + b"x",
            b'{"x":' + b"[" * 50_000,
        ):
            self.assert_refused("bad_json", payload)
        nested = json.dumps(self.capability(x=0)).replace(
            '"x": 0', '"x":' + "[" * 9000 + "]" * 9000
        )
        self.assert_refused("bad_json", nested.encode())

    def test_missing_field(self) -> None:
        """The four of the envelope, and node_id."""
        for field in ("type", "from", "timestamp", "data"):
            message = envelope()
            del message[field]
            self.assert_refused("missing_field", message)
        self.assert_refused("missing_field", envelope(data={}))
        self.assert_refused("missing_field", envelope(data={"node_id": None}))

    def test_wrong_type_field(self) -> None:
        """A known field of another type, or beyond its cap, or not fit to be shown."""
        for field, value in {
            "capabilities": "gpu",
            "models": [1],
            "labels": {"a": 1},
            "resources": [],
            "version": 2,
            "name": "x" * 129,
            "specialization": "\x1b[2J",
            "os": "a\u202eb",
            "arch": "line\n",
            "runtimes": ["x"] * 33,
            "service": {"nested": {}},
            "addresses": [["/ip4/192.0.2.1/tcp/1"]],
        }.items():
            self.assert_refused("wrong_type_field", self.capability(**{field: value}))
        for field, value in {
            "cpu_cores": -1,
            "memory_bytes": 1.5,
            "disk_bytes": 1 << 63,
            "gpus": [{"memory_bytes": "24 GiB"}],
        }.items():
            self.assert_refused("wrong_type_field", self.capability(resources={field: value}))
        for field, value in {
            "available_for_work": 1,
            "status": "\x1b[2Jasleep",
            "current_tasks": True,
            "timestamp": [],
            "last_activity": True,
        }.items():
            self.assert_refused("wrong_type_field", availability(**{field: value}))
        wrong: tuple[Any, ...] = (
            [],
            5,
            envelope(type=5),
            envelope(data=[]),
            envelope(timestamp=5),
        )
        for message in wrong:
            self.assert_refused("wrong_type_field", message)

    def test_rules(self) -> None:
        """An owner's rules are taken whole or not at all: one that was left out would be broken.
        Of one who tells none, and of what later versions add, nothing is known."""
        wrong: tuple[Any, ...] = (
            {"forbidden_commands": "docker"},
            {"forbidden_commands": ["x"] * 65},
            {"forbidden_commands": ["x" * 513]},
            {"forbidden_commands": ["\x1b[2J"]},
            {"forbidden_submitters": ["x"] * 65},
            {"forbidden_submitters": ["x" * 129]},
            {"profiles": ["x"] * 17},
            {"profiles": [1]},
            {"cpus": -1},
            {"cpus": 65537},
            {"memory": -1},
            {"memory": 1.5},
            {"gpus": 65},
            [],
        )
        for rules in wrong:
            self.assert_refused("wrong_type_field", self.capability(rules=rules))
        plain: tuple[dict[str, Any], ...] = (
            {"rules": {}},
            {"rules": None},
            {"rules": {"later": [1]}},
            {},
        )
        for some in plain:
            document = self.decode(self.capability(**some)).document
            assert isinstance(document, CapabilityDocument)
            self.assertEqual(document.rules, EVERYTHING)
        null = {"cpus": None, "forbidden_commands": None, "gpus": 0}
        document = self.decode(self.capability(rules=null)).document
        assert isinstance(document, CapabilityDocument)
        self.assertEqual(document.rules, OwnerRules(gpus=0))

    def test_from_mismatch(self) -> None:
        """Nobody speaks for another, neither in the envelope nor in the data."""
        other = "12D3KooWPjceQrSwdWXPyLLeABRXmuqt69Rg3sBYbU1Nft9HyQ6X"
        for sender in (other, "", "walnut", "b" * 500, "\x1b[2J"):
            self.assert_refused("from_mismatch", envelope(**{"from": sender}))
        for node_id in (other, "", "<peer.ID 12*HyQ6X>", "<peer.ID *aXHoUh>"):
            self.assert_refused("from_mismatch", envelope(data={"node_id": node_id}))

    def test_timestamp_invalid(self) -> None:
        """A time has to be one, with its zone."""
        for text in ("", "yesterday", "2026-11-24T01:02:03", "2026-13-01T00:00:00Z", "\x1b"):
            self.assert_refused("timestamp_invalid", envelope(timestamp=text))
        for value in (1e300, -1e300, 10**30, 10**4000, "noon"):
            self.assert_refused("timestamp_invalid", availability(last_activity=value))

    def test_own_document_keeps_the_caps(self) -> None:
        """The largest numbers and longest texts that are allowed are understood, too."""
        document = msgspec.structs.replace(
            FULL, models=tuple(f"{n:04}" + "x" * 20 for n in range(512)), name="x" * 128
        )
        payload = messages.encode(messages.CAPABILITY, WALNUT, NOW, document)
        self.assertEqual(self.decode(payload).document, document)


class TimeTests(Base):
    def test_forms(self) -> None:
        """Z, offsets, and from no to nine digits of a second, as Go has them."""
        for text, seconds in {
            "2026-11-24T00:00:00Z": 0,
            "2026-11-24T01:00:00.5+01:00": 0.5,
            "2026-11-24T00:00:00.123456789Z": 0.123457,
            "2026-11-23T19:00:00-05:00": 0,
        }.items():
            moment = self.decode(envelope(timestamp=text)).timestamp
            start = datetime.datetime(2026, 11, 24, tzinfo=datetime.UTC)
            self.assertAlmostEqual((moment - start).total_seconds(), seconds)

    def test_extremes_compare(self) -> None:
        """The first and the last moments that can be written can be compared."""
        first = self.decode(envelope(timestamp="0001-01-01T00:00:00+14:00")).timestamp
        last = self.decode(envelope(timestamp="9999-12-31T23:59:59-14:00")).timestamp
        self.assertLess(first, last)


class DiscussionTests(SynchronousTestCase):
    def test_message(self) -> None:
        """What is said to people is shown."""
        payload = json.dumps(
            {"type": "meta_discussion", "data": {"issue_id": 5, "message": "Thoughts?\n\x1b[2J"}}
        ).encode()
        self.assertEqual(
            messages.discussion_text(payload), ("meta_discussion", "Thoughts?\\n\\x1b[2J")
        )

    def test_anything(self) -> None:
        """Other data is shown as JSON, other bytes as text, and all of it cut."""
        self.assertEqual(
            messages.discussion_text(b'{"type": "vote", "data": {"yes": true}}'),
            ("vote", '{"yes":true}'),
        )
        self.assertEqual(messages.discussion_text(b"hello \xff\x00"), ("", "hello \ufffd\\x00"))
        self.assertEqual(messages.discussion_text(b"[1]"), ("", "[1]"))
        self.assertEqual(messages.discussion_text(b""), ("", ""))
        kind, text = messages.discussion_text(b"x" * 1_000_000)
        self.assertEqual((kind, text), ("", "x" * 500 + "…"))

    def test_deep(self) -> None:
        """Nesting without end is shown as the bytes that it is."""
        self.assertEqual(messages.discussion_text(b"[" * 9000)[1][:3], "[[[")


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)
FIELDS = st.sampled_from(
    [
        *CapabilityDocument.__struct_fields__,
        *AvailabilityDocument.__struct_fields__,
        "from",
        "type",
        "data",
    ]
)


class AnythingTests(Base):
    @settings(max_examples=200, deadline=None)
    @given(st.binary(max_size=200))
    def test_bytes(self, payload: bytes) -> None:
        """Any bytes are a message or a RemoteProtocolError, and can be shown."""
        try:
            self.decode(payload)
        except RemoteProtocolError:
            pass
        messages.discussion_text(payload)

    @settings(max_examples=300, deadline=None)
    @given(
        st.dictionaries(FIELDS, JSON, max_size=6),
        st.dictionaries(FIELDS, JSON, max_size=2),
        st.booleans(),
    )
    def test_values(self, data: dict[str, Any], outer: dict[str, Any], busy: bool) -> None:
        """Any values in any field are a message or a RemoteProtocolError."""
        base = availability() if busy else envelope()
        base["data"].update(data)
        base.update(outer)
        payload = json.dumps(base).encode()
        try:
            received = self.decode(payload)
        except RemoteProtocolError as error:
            self.assertTrue(str(error).isprintable())
        else:
            if received.document is not None:
                self.assertTrue(received.document.describe().isprintable())
                messages.encode(received.type, WALNUT, NOW, received.document)
        messages.discussion_text(payload)
