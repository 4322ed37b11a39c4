"""The ring of events and its subscribers."""

from __future__ import annotations

import datetime
import json

from twisted.trial.unittest import SynchronousTestCase

from bzzz import events
from bzzz.errors import BzzzError
from bzzz.events import EventLog, encode_event, rfc3339


class EventLogTests(SynchronousTestCase):
    """What happened, to those who ask and those who listen."""

    def log(self, capacity: int = 1000) -> EventLog:
        return EventLog(lambda: 1_795_482_123.4565, capacity)

    def test_event(self) -> None:
        """An event has its time, its name and its fields, to subscribers and to who asks later."""
        log = self.log()
        heard: list[events.Event] = []
        log.subscribe(heard.append)
        log.emit("peer_connected", name="walnut", rtt=0.25)
        expected = {
            "time": "2026-11-24T01:02:03.456Z",
            "event": "peer_connected",
            "name": "walnut",
            "rtt": 0.25,
        }
        self.assertEqual(heard, [expected])
        self.assertEqual(log.recent(), [expected])

    def test_time(self) -> None:
        """Times are RFC 3339 in UTC, with milliseconds also where they are zero."""
        self.assertEqual(rfc3339(0), "1970-01-01T00:00:00.000Z")
        # Just before the next second, at a half microsecond, in the far future, before 1970.
        for seconds in (
            0.9994,
            0.9999999,
            1732413723.456,
            1732413723.9999996,
            253402300799.5,
            -0.5,
        ):
            moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
            told = moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
            self.assertEqual(rfc3339(seconds), told)

    def test_ring(self) -> None:
        """The oldest go when the ring is full."""
        log = self.log(capacity=3)
        for number in range(5):
            log.emit("tick", number=number)
        self.assertEqual([event["number"] for event in log.recent()], [2, 3, 4])

    def test_ring_in_bytes(self) -> None:
        """Large events of peers do not add up to more than the ring's bytes."""
        log = self.log()
        for number in range(200):
            log.emit("message", number=number, document="x" * 60_000)
        kept = log.recent()
        self.assertLessEqual(sum(len(encode_event(event)) for event in kept), events.MAX_BYTES)
        self.assertEqual(kept[-1]["number"], 199)

    def test_too_large(self) -> None:
        """An event that is too large keeps its small fields and says what it was."""
        log = self.log()
        log.emit("message", sender="walnut", document={"text": "x" * 100_000})
        (event,) = log.recent()
        self.assertEqual(event["sender"], "walnut")
        self.assertNotIn("document", event)
        self.assertGreater(event["truncated_from_bytes"], 100_000)

    def test_objects_are_shown_as_text(self) -> None:
        """Objects that JSON does not know are shown as their text, and NaN as null."""

        class Peer:
            def __str__(self) -> str:
                return "12D3"

        log = self.log()
        log.emit("lost", peer=Peer(), rtt=float("nan"))
        (event,) = log.recent()
        self.assertEqual((event["peer"], event["rtt"]), ("12D3", None))
        json.loads(encode_event(event))

    def test_unsubscribe(self) -> None:
        """Who unsubscribed hears no more, also while an event is told; twice does no harm."""
        log = self.log()
        heard: list[str] = []

        def once(event: events.Event) -> None:
            heard.append(event["event"])
            stop()

        stop = log.subscribe(once)
        log.emit("a")
        log.emit("b")
        stop()
        self.assertEqual(heard, ["a"])

    def test_failing_subscriber(self) -> None:
        """A subscriber that raises is logged and dropped; the others and the emitter go on."""
        log = self.log()
        heard: list[events.Event] = []
        log.subscribe(lambda event: 1 / 0)
        log.subscribe(heard.append)
        log.emit("a")
        log.emit("b")
        self.assertEqual(len(heard), 2)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_too_many_subscribers(self) -> None:
        """More than the limit are refused; one that leaves makes room."""
        log = self.log()
        stops = [log.subscribe(lambda event: None) for _ in range(events.MAX_SUBSCRIBERS)]
        self.assertRaises(BzzzError, log.subscribe, lambda event: None)
        stops[0]()
        log.subscribe(lambda event: None)
