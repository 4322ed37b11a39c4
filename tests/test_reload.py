"""The configuration, read again while the node runs."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import LogLevel
from twisted.trial.unittest import SynchronousTestCase

from bzzz.config import OPTIONS, Config
from bzzz.config.changes import changes
from bzzz.errors import ConfigError
from bzzz.reload import Reload
from tests.logs import lines_at


class ChangesTests(SynchronousTestCase):
    """changes()"""

    def test_now_and_later(self) -> None:
        """What can change in a running node does; the rest keeps its value and its source."""
        old = Config(name="walnut", max_tasks=1, sources={"name": "f:1", "max_tasks": "f:2"})
        new = Config(
            name="hazel", max_tasks=4, sources={"name": "f:1", "max_tasks": "f:3", "mdns": "f:4"}
        )
        found = changes(old, new)
        self.assertEqual((found.now, found.later), (("max_tasks",), ("name",)))
        self.assertEqual((found.config.name, found.config.max_tasks), ("walnut", 4))
        self.assertEqual(
            dict(found.config.sources), {"name": "f:1", "max_tasks": "f:3", "mdns": "f:4"}
        )

    def test_nothing(self) -> None:
        """The same again changes nothing."""
        found = changes(Config(), Config())
        self.assertEqual((found.now, found.later), ((), ()))


class ReloadTests(SynchronousTestCase):
    """Reload"""

    def setUp(self) -> None:
        self.config: Config | ConfigError = Config(name="walnut")
        self.reading: list[Deferred[Any]] = []
        self.done: list[str] = []
        self.reload = Reload(
            Config(name="walnut", max_tasks=3),
            lambda: self.fail("read in the reactor's thread"),
            self.in_thread,
            {option.key: self.applier(option.key) for option in OPTIONS if option.live},
            lambda: self.done.append("begin"),
            lambda: self.done.append("end"),
        )

    def in_thread(self, read: Any) -> Deferred[Config]:
        self.reading.append(Deferred())
        return self.reading[-1]

    def applier(self, key: str) -> Any:
        return lambda config: self.done.append(f"{key}={getattr(config, key)}")

    def test_changed(self) -> None:
        """What changed is applied, between the beginning and the end that systemd is told."""
        infos = lines_at(self, LogLevel.info)
        self.reload.reload()
        self.assertEqual(self.done, ["begin"])
        self.reading[0].callback(Config(name="walnut", max_tasks=5))
        self.assertEqual(self.done, ["begin", "max_tasks=5", "end"])
        self.assertEqual(self.reload.config.max_tasks, 5)
        self.assertEqual(infos, ["The configuration was read again: max_tasks changed"])

    def test_wrong(self) -> None:
        """A wrong configuration is an error, and the node is as it was."""
        errors = lines_at(self, LogLevel.error)
        self.reload.reload()
        self.reading[0].errback(ConfigError("/etc/bzzz/bzzz.toml:1: unknown key 'nmae'"))
        self.assertEqual(self.done, ["begin", "end"])
        self.assertEqual(self.reload.config.max_tasks, 3)
        (error,) = errors
        self.assertIn("/etc/bzzz/bzzz.toml:1: unknown key 'nmae'", error)
        self.assertIn("runs on as before", error)

    def test_needs_a_restart(self) -> None:
        """What a running node cannot change is named, and stays as it is in effect."""
        warnings = lines_at(self, LogLevel.warn)
        self.reload.reload()
        self.reading[0].callback(Config(name="hazel", max_tasks=3))
        self.assertEqual(self.reload.config.name, "walnut")
        (warning,) = warnings
        self.assertTrue(warning.startswith("name changed"), warning)

    def test_again_meanwhile(self) -> None:
        """A wish during a reading is met by one more reading after it, however many came."""
        self.reload.reload()
        self.reload.reload()
        self.reload.reload()
        self.assertEqual(len(self.reading), 1)
        self.reading[0].callback(self.reload.config)
        self.assertEqual(len(self.reading), 2)
        self.reading[1].callback(self.reload.config)
        self.assertEqual(len(self.reading), 2)
        self.assertEqual(self.done, ["begin", "end"] * 2)

    def test_a_bug_is_logged(self) -> None:
        """An unforeseen failure is logged, systemd is told of the end, and the next one works."""
        self.reload.reload()
        self.reading[0].errback(ValueError("a bug"))
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.assertEqual(self.done, ["begin", "end"])
        self.reload.reload()
        self.assertEqual(len(self.reading), 2)

    def test_a_change_that_fails(self) -> None:
        """What cannot be changed keeps its value and is said; the rest is changed all the same."""
        self.reload._appliers = {
            **self.reload._appliers,
            "max_links": lambda config: 1 // 0,
        }
        self.reload.reload()
        self.reading[0].callback(Config(name="walnut", max_links=7, max_tasks=5))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(self.done, ["begin", "max_tasks=5", "end"])
        self.assertEqual((self.reload.config.max_links, self.reload.config.max_tasks), (256, 5))
        # It is tried again the next time.
        self.reload.reload()
        self.reading[1].callback(Config(name="walnut", max_links=7, max_tasks=5))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_shared_appliers(self) -> None:
        """What several keys share is applied once."""
        applied: list[Config] = []
        config = replace(self.reload.config)
        reload = Reload(
            config,
            lambda: config,
            self.in_thread,
            dict.fromkeys(("label", "capability", "specialization"), applied.append),
            lambda: None,
            lambda: None,
        )
        reload.reload()
        self.reading[0].callback(
            replace(config, label=MappingProxyType({"a": "b"}), capability=("x",))
        )
        self.assertEqual(len(applied), 1)
