"""Errors that quote a stranger."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from bzzz.errors import LONGEST, LimitExceeded, RemoteProtocolError


class ErrorTests(SynchronousTestCase):
    """What a peer wrote neither drives a terminal nor fills a log."""

    def test_line(self) -> None:
        """Its words are in one line of printable characters."""
        for said, told in (
            ("ü is 'fine'", "ü is 'fine'"),
            ("a\nb\x1b[2J\u202e", "a\\nb\\x1b[2J\\u202e"),
        ):
            self.assertEqual(str(RemoteProtocolError(said)), told)
        self.assertEqual(str(LimitExceeded("a\tb")), "a\\tb")

    def test_long(self) -> None:
        """They are cut, also where each has to be written as several."""
        for letter in ("x", "\x1b", "\U000e0001"):
            told = str(RemoteProtocolError(letter * 100_000))
            self.assertEqual((len(told), told[-3:]), (LONGEST, "..."))
        self.assertEqual(str(RemoteProtocolError("x" * LONGEST)), "x" * LONGEST)
