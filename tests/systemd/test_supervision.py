"""A node under systemd: what it tells, and what it makes of its unit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.logger import LogLevel
from twisted.trial.unittest import SynchronousTestCase

from bzzz.systemd.notify import Notifier
from bzzz.systemd.supervision import EXTEND_INTERVAL, Supervision, service_state
from bzzz.systemd.unit import Process, Unit
from tests.logs import lines_at

PID = 4242
UNIT = Unit(
    id="bzzz.service",
    type="simple",
    active_state="active",
    sub_state="running",
    main_pid=PID,
    file_state="enabled",
    notify_access="main",
)


class FakeWatch:
    """Stands for the watch of the unit."""

    started = False
    stopped = False
    unit: Unit | None = None

    def start(self) -> None:
        self.started = True

    def stop(self) -> Deferred[None]:
        self.stopped = True
        return succeed(None)


class SupervisionTests(SynchronousTestCase):
    """Supervision."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.sent: list[str] = []
        self.units: list[Unit | None] = []
        self.drained = 0
        self.full = False
        self.status = "walnut: 0 peers, 0 tasks, ready"

    def make(self, path: str = "/run/notify", watchdog: float | None = 30.0) -> Supervision:
        def drain(draining: bool) -> None:
            self.drained += 1 if draining else -1

        def send(path: str, data: bytes) -> None:
            if self.full:
                raise BlockingIOError
            self.sent.append(data.decode())

        notifier = Notifier(path, self.clock.seconds, send)
        return Supervision(
            self.clock,
            notifier,
            watchdog,
            Process(PID, 1000, 256),
            lambda: self.status,
            self.units.append,
            drain,
        )

    def pass_seconds(self, seconds: int) -> list[str]:
        """What is sent meanwhile."""
        self.sent.clear()
        self.clock.pump([0.5] * (2 * seconds))
        return self.sent

    def test_watchdog(self) -> None:
        """The watchdog is fed at half of its time, until the node has stopped."""
        supervision = self.make()
        supervision.start()
        self.assertEqual(self.sent.count("WATCHDOG=1"), 1)
        self.assertEqual(self.pass_seconds(60).count("WATCHDOG=1"), 4)
        supervision.stopping()
        self.assertEqual(self.pass_seconds(30).count("WATCHDOG=1"), 2)
        self.successResultOf(supervision.stop())
        self.assertEqual(self.pass_seconds(60), [])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_no_watchdog(self) -> None:
        """Without a watchdog nothing is fed."""
        self.make(watchdog=None).start()
        self.assertNotIn("WATCHDOG=1", self.pass_seconds(60))

    def test_status(self) -> None:
        """The status is told when it says something else, at most once a second."""
        self.make(watchdog=None).start()
        self.assertEqual(self.sent, ["STATUS=walnut: 0 peers, 0 tasks, ready"])
        self.assertEqual(self.pass_seconds(10), [])
        self.status = "walnut: 1 peer, 0 tasks, ready"
        self.clock.advance(0.2)
        self.status = "walnut: 2 peers, 0 tasks, ready"
        self.assertEqual(self.pass_seconds(10), ["STATUS=walnut: 2 peers, 0 tasks, ready"])

    def test_status_that_was_not_taken(self) -> None:
        """A status that systemd did not take is told again."""
        self.full = True
        self.make(watchdog=None).start()
        self.full = False
        self.assertEqual(self.pass_seconds(10), ["STATUS=walnut: 0 peers, 0 tasks, ready"])

    def test_outside_systemd(self) -> None:
        """Outside systemd nothing is done at all."""
        supervision = self.make(path="", watchdog=None)
        supervision.start()
        supervision.ready()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        supervision.stopping()
        self.successResultOf(supervision.stop())
        self.assertEqual(self.sent, [])

    def test_more_time(self) -> None:
        """While tasks run on, systemd is asked for time again before it is over."""
        supervision = self.make(watchdog=None)
        supervision.more_time(True)
        asked = self.pass_seconds(int(3 * EXTEND_INTERVAL))
        self.assertEqual(asked, ["EXTEND_TIMEOUT_USEC=15000000"] * 3)
        supervision.more_time(False)
        self.assertEqual(self.pass_seconds(60), [])

    def test_watch(self) -> None:
        """The unit is followed from the start until the node has stopped."""
        supervision = self.make()
        watch = supervision.watch = FakeWatch()
        supervision.start()
        self.assertTrue(watch.started)
        self.successResultOf(supervision.stop())
        self.assertTrue(watch.stopped)

    def test_unit(self) -> None:
        """Each change of the unit is passed on, and so is that it is not known any more."""
        supervision = self.make()
        supervision.unit_changed(UNIT)
        self.assertEqual(supervision.unit, UNIT)
        supervision.unit_changed(None)
        self.assertEqual(self.units, [UNIT, None])

    def test_deactivating(self) -> None:
        """The node drains once when systemd begins to stop it, and no more if it goes on."""
        supervision = self.make()
        supervision.unit_changed(UNIT)
        self.assertEqual(self.drained, 0)
        stopping = replace(UNIT, active_state="deactivating", sub_state="stop-sigterm")
        supervision.unit_changed(stopping)
        supervision.unit_changed(replace(stopping, restarts=1))
        self.assertEqual(self.drained, 1)
        supervision.unit_changed(UNIT)
        self.assertEqual(self.drained, 0)

    def test_contradictions_are_said_once(self) -> None:
        """What is wrong with the unit is an error with its mend, once until it was right again."""
        errors = lines_at(self, LogLevel.error)
        supervision = self.make()
        forking = replace(UNIT, type="forking")
        for unit in (forking, replace(forking, restarts=1)):
            supervision.unit_changed(unit)
        self.assertEqual(len(errors), 1)
        self.assertIn("Type=forking", errors[0])
        self.assertIn("Type=simple", errors[0])
        supervision.unit_changed(UNIT)
        supervision.unit_changed(forking)
        self.assertEqual(len(errors), 2)

    def test_changed_on_disk(self) -> None:
        """A unit file that systemd has not read again is a warning."""
        warnings = lines_at(self, LogLevel.warn)
        self.make().unit_changed(replace(UNIT, needs_daemon_reload=True))
        self.assertEqual(len(warnings), 1)
        self.assertIn("daemon-reload", warnings[0])

    def test_more_links_than_files(self) -> None:
        """A reload that raises max_links above what the unit allows is an error at once."""
        errors = lines_at(self, LogLevel.error)
        supervision = self.make()
        supervision.unit_changed(replace(UNIT, limit_files=1024))
        self.assertEqual(errors, [])
        supervision.limits_changed(4096)
        self.assertEqual(len(errors), 1)
        self.assertIn("LimitNOFILE", errors[0])

    def test_service_state(self) -> None:
        """What others are told fits into a capability document."""
        told: dict[str, Any] = dict(service_state(replace(UNIT, restarts=2)))
        self.assertEqual(told["unit"], "bzzz.service")
        self.assertEqual(told["active_state"], "active")
        self.assertEqual(told["restarts"], 2)
        reloading = replace(UNIT, restarts=2, active_state="reloading", sub_state="reload")
        self.assertEqual(service_state(reloading), told)
        self.assertEqual(told["file_state"], "enabled")
