"""How busy this node is."""

from __future__ import annotations

import datetime

from twisted.trial.unittest import SynchronousTestCase

from bzzz.errors import LocalProtocolError
from bzzz.mesh.availability import Availability


class AvailabilityTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.now = 1_000_000_000.25
        self.changes = 0
        self.availability = Availability(2, lambda: self.now)
        self.availability.on_change(self.count)

    def count(self) -> None:
        self.changes += 1

    def state(self) -> tuple[str, bool]:
        return self.availability.status, self.availability.available_for_work

    def test_status(self) -> None:
        """Ready, then working, then busy when there is no room, and back."""
        self.assertEqual(self.state(), ("ready", True))
        self.availability.task_started()
        self.assertEqual(self.state(), ("working", True))
        self.availability.task_started()
        self.assertEqual(self.state(), ("busy", False))
        self.availability.task_ended()
        self.availability.task_ended()
        self.assertEqual(self.state(), ("ready", True))
        self.assertEqual(self.changes, 4)

    def test_draining(self) -> None:
        """A node that drains takes nothing, whatever room it has, and says so once."""
        self.availability.drain()
        self.availability.drain()
        self.assertEqual((self.state(), self.changes), (("draining", False), 1))
        self.availability.resume()
        self.assertEqual(self.state(), ("ready", True))

    def test_leaving(self) -> None:
        """A node that is to end drains as well, and if it stays it does what its owner wants."""
        self.availability.leave()
        self.availability.resume()
        self.assertEqual((self.state(), self.changes), (("draining", False), 1))
        self.availability.stay()
        self.assertEqual((self.state(), self.changes), (("ready", True), 2))
        self.availability.drain()
        self.availability.leave()
        self.availability.stay()
        self.assertEqual((self.state(), self.changes), (("draining", False), 3))

    def test_no_tasks(self) -> None:
        """A node set to run none is busy and never available."""
        self.availability.set_max_tasks(0)
        self.assertEqual(self.state(), ("busy", False))

    def test_too_many_ends(self) -> None:
        """An end without a start is a bug on this side, and is not counted."""
        with self.assertRaises(LocalProtocolError):
            self.availability.task_ended()
        self.assertEqual(self.availability.current_tasks, 0)

    def test_document(self) -> None:
        """The document says when something was done last and when it was made."""
        self.now += 5
        self.availability.task_started()
        self.now += 10
        document = self.availability.document("me")
        start = datetime.datetime(2001, 9, 9, 1, 46, 40, 250000, datetime.UTC)
        self.assertEqual(document.last_activity, start + datetime.timedelta(seconds=5))
        self.assertEqual(document.timestamp, start + datetime.timedelta(seconds=15))
        self.assertEqual(
            (document.node_id, document.current_tasks, document.max_tasks, document.describe()),
            ("me", 1, 2, "working, 1 of 2 tasks"),
        )

    def test_same(self) -> None:
        """Two documents that differ only in their times say the same."""
        before = self.availability.document("me")
        self.now += 10
        self.assertTrue(before.same_as(self.availability.document("me")))
        self.availability.task_started()
        self.assertFalse(before.same_as(self.availability.document("me")))
