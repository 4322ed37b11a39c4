"""How things are written for people."""

from __future__ import annotations

import datetime

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from bzzz.cli.text import ago, as_json, duration, milliseconds, place, plain, safe, table

NOW = datetime.datetime(2026, 11, 24, 1, 2, 3, tzinfo=datetime.UTC)


class TextTests(SynchronousTestCase):
    """Times, tables, and what strangers put into names."""

    def test_durations(self) -> None:
        """The largest unit that is full."""
        for seconds, text in (
            *((-1, "0 s"), (0.4, "0 s"), (59.9, "59 s"), (60, "1 min"), (3599, "59 min")),
            *((3600, "1 h"), (86399, "23 h"), (86400, "1 day"), (200000, "2 days")),
        ):
            self.assertEqual(duration(seconds), text)

    def test_ago(self) -> None:
        """How long ago it was; nothing for never, and the text itself where it is no time."""
        self.assertEqual(ago("2026-11-24T00:59:00.000Z", NOW), "3 min ago")
        self.assertEqual(ago("2026-11-24T01:02:03.000Z", NOW), "just now")
        self.assertEqual(ago("2026-11-25T00:00:00Z", NOW), "just now")
        self.assertEqual(ago(None), "")
        self.assertEqual(ago("yesterday"), "yesterday")
        self.assertEqual(ago("2026-11-24T01:02:03"), "2026-11-24T01:02:03")

    def test_milliseconds(self) -> None:
        """With two digits; nothing where it is not known."""
        self.assertEqual(milliseconds(0.000234), "0.23 ms")
        self.assertEqual(milliseconds(None), "")

    def test_place(self) -> None:
        """Addresses over TCP as people know them, others as they are."""
        self.assertEqual(place("/ip4/192.0.2.1/tcp/4001"), "192.0.2.1:4001")
        self.assertEqual(place("/ip6/fe80::1/tcp/4001"), "[fe80::1]:4001")
        self.assertEqual(place("/dns/walnut.lan/tcp/4001"), "walnut.lan:4001")
        self.assertEqual(place("/ip4/192.0.2.1/udp/1"), "/ip4/192.0.2.1/udp/1")
        self.assertEqual(place(None), "")

    def test_table(self) -> None:
        """Columns are as wide as they need, without spaces at the end, however wide that is."""
        lines = plain(table(("a", "b"), [("x" * 300, "[red]y"), ("", None)]))
        self.assertEqual(lines[1], "x" * 300 + "  [red]y")
        self.assertEqual(lines[0], "A" + " " * 301 + "B")
        self.assertEqual(lines[2], "")

    @given(st.text())
    def test_safe(self, text: str) -> None:
        """No text has a control left, and JSON means the same after it was made safe."""
        self.assertNotRegex(safe(text), "[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
        import json

        self.assertEqual(json.loads(as_json({"a": text})), {"a": text})
