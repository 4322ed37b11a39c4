"""Connections that wait for the next question, and what the kernel says of one."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from bzzz.client.idle import IDLE_SECONDS, MAX_IDLE, Idle
from bzzz.client.kept_socket import owner, silent
from bzzz.web.site import BETWEEN_QUESTIONS


@dataclass
class Line:
    """A connection."""

    name: str = ""
    quiet: bool = True
    dropped: int = 0

    def silent(self) -> bool:
        return self.quiet

    def drop(self) -> None:
        self.dropped += 1


class IdleTests(SynchronousTestCase):
    """Those of one client."""

    def setUp(self) -> None:
        self.idle: Idle[Line] = Idle()

    def test_newest(self) -> None:
        """The one that was used last is used next, by one alone."""
        lines = [Line("first"), Line("second")]
        for each in lines:
            self.idle.give(each, 1.0, "me")
        self.assertEqual([self.idle.take(1.0, "me") for _ in range(3)], [*reversed(lines), None])
        self.assertEqual([each.dropped for each in lines], [0, 0])

    def test_few(self) -> None:
        """Of more than a few the oldest are closed."""
        lines = [Line(str(at)) for at in range(MAX_IDLE + 2)]
        for each in lines:
            self.idle.give(each, 1.0, "me")
        self.assertEqual([each.dropped for each in lines], [1, 1] + [0] * MAX_IDLE)
        self.assertEqual(len(self.idle), MAX_IDLE)

    def test_not_usable(self) -> None:
        """One that is too old, of another clock, of another process or not silent is closed, and
        the next one taken."""
        for wrong, since, by in (
            (Line(), 10.0 - IDLE_SECONDS - 0.1, "me"),
            (Line(), 10.1, "me"),
            (Line(), 10.0, "parent"),
            (Line(quiet=False), 10.0, "me"),
        ):
            good = Line()
            self.idle.give(good, 10.0 - IDLE_SECONDS, "me")
            self.idle.give(wrong, since, by)
            self.assertIs(self.idle.take(10.0, "me"), good)
            self.assertEqual((wrong.dropped, good.dropped, len(self.idle)), (1, 0, 0))

    def test_close(self) -> None:
        """All are closed, once."""
        lines = [Line(), Line()]
        for each in lines:
            self.idle.give(each, 1.0, "me")
        self.idle.close()
        self.idle.close()
        self.assertEqual([each.dropped for each in lines], [1, 1])
        self.assertIsNone(self.idle.take(1.0, "me"))

    def test_sooner_than_the_node(self) -> None:
        """A client gives one up long before the node does."""
        self.assertLessEqual(3 * IDLE_SECONDS, BETWEEN_QUESTIONS)


class KeptSocketTests(SynchronousTestCase):
    """What the kernel says."""

    def look(self, found: bytes | OSError) -> bool:
        asked: list[int] = []

        class Told:
            def recv(self, size: int, flags: int) -> bytes:
                asked.append(flags)
                if isinstance(found, OSError):
                    raise found
                return found[:size]

        told: Any = Told()
        quiet = silent(told)
        # It takes nothing away, and does not wait.
        self.assertEqual(asked, [socket.MSG_PEEK | socket.MSG_DONTWAIT])
        return quiet

    def test_silent(self) -> None:
        """Nothing to read is silence; an end, bytes and a broken connection are none."""
        self.assertTrue(self.look(BlockingIOError()))
        for found in (b"", b"HTTP", ConnectionResetError()):
            self.assertFalse(self.look(found))

    def test_owner(self) -> None:
        """Another process is another owner, and so is another user."""
        mine = owner()
        self.assertEqual(owner(), mine)
        for what in ("getpid", "geteuid"):
            self.patch(os, what, lambda: 4_000_000_000)
            other, mine = mine, owner()
            self.assertNotEqual(mine, other)
