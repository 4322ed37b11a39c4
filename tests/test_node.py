"""The composition root: what a running node can change, and what it tells systemd."""

from __future__ import annotations

import os
import random
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from bzzz.config import OPTIONS, Config
from bzzz.node import Launch, NodeService
from bzzz.state import StateDirectory
from bzzz.systemd.environment import Environment
from bzzz.systemd.unit import Unit
from bzzz.wire.multiaddr import Multiaddr


class NodeServiceTests(SynchronousTestCase):
    """NodeService, made and not started."""

    def setUp(self) -> None:
        self.levels: list[str] = []
        directory = Path(self.mktemp()).absolute()
        self.config = Config(
            name="walnut", state_dir=directory, runtime_dir=directory, mdns=False, max_tasks=2
        )
        state = StateDirectory(directory, random.Random(1).randbytes).open()
        self.addCleanup(state.close)
        control: Any = self
        self.path = directory / "control.sock"
        launch = Launch(Environment(), lambda: self.config, self.levels.append)
        self.node = NodeService(self.config, state, control, launch, MemoryReactorClock())

    def apply(self, **changed: Any) -> None:
        """Have the node read a configuration with these changes."""
        config = replace(self.config, **changed)
        reload = self.node._configuration
        self.patch(reload, "_read", lambda: config)
        self.patch(reload, "_in_thread", lambda read: _fired(read()))
        self.node.reload()

    def test_every_live_option_is_applied(self) -> None:
        """The options that the manual says a reload changes are those that the node can change."""
        live = {option.key for option in OPTIONS if option.live}
        self.assertEqual(set(self.node._appliers(self.levels.append)), live)

    def test_applied(self) -> None:
        """Each of them reaches what it is for."""
        self.node.view.state = None
        seed = Multiaddr.parse("/ip4/192.0.2.7/tcp/4001")
        self.apply(
            max_tasks=5,
            max_links=7,
            log_level="debug",
            label=MappingProxyType({"rack": "a3"}),
            capability=("vision",),
            specialization="code",
            bootstrap=(seed,),
            broadcast_interval=5.0,
        )
        node = self.node
        self.assertEqual(node.availability.max_tasks, 5)
        self.assertEqual(node.mesh.swarm.limits.links, 7)
        self.assertEqual(self.levels, ["debug"])
        document = node.inventory.document()
        self.assertEqual((document.labels, document.specialization), ({"rack": "a3"}, "code"))
        self.assertIn("vision", document.capabilities)
        self.assertEqual(node.mesh.seeds.tried(), [f"{seed} (under way)"])
        self.assertEqual(node.mesh.broadcasts._interval, 5.0)
        shown = {entry.key: entry.value for entry in node.view.config_entries()}
        self.assertEqual((shown["max_links"], node.view.status().max_links), (7, 7))

    def test_reload_before_the_start_has_ended(self) -> None:
        """A wish that comes too early is met when the node has started; a late one is not."""
        read: list[bool] = []
        self.patch(self.node._configuration, "reload", lambda: read.append(True))
        self.node.reload()
        self.assertEqual((read, self.node._reload_wanted), ([], True))
        self.node.view.state = None
        self.node.reload()
        self.assertEqual(read, [True])
        self.node._stopping = True
        self.node.reload()
        self.assertEqual(read, [True])

    def test_unit(self) -> None:
        """The unit is in the status, and others are told of it; neither outside systemd."""
        self.assertIsNone(self.node.view.status().unit)
        self.assertIsNone(self.node.inventory.document().service)
        unit = Unit(id="bzzz.service", type="simple", active_state="active", main_pid=os.getpid())
        self.node.supervision.unit_changed(unit)
        status = self.node.view.status().unit
        assert status is not None
        self.assertEqual((status.id, status.main_pid), ("bzzz.service", os.getpid()))
        service = self.node.inventory.document().service
        assert service is not None
        self.assertEqual(service["active_state"], "active")
        self.node.supervision.unit_changed(None)
        self.assertIsNone(self.node.view.status().unit)

    def test_status_line(self) -> None:
        """What `systemctl status` shows, in the states of a node."""
        view = self.node.view
        self.assertEqual(view.status_line(), "walnut: 0 peers, 0 tasks, starting")
        view.state = None
        self.assertEqual(view.status_line(), "walnut: 0 peers, 0 tasks, ready")
        self.node.availability.task_started()
        self.assertEqual(view.status_line(), "walnut: 0 peers, 1 task, working")
        self.node.supervision.unit_changed(Unit(id="bzzz.service", active_state="deactivating"))
        self.assertEqual(view.status_line(), "walnut: 0 peers, 1 task, draining")


def _fired(result: Any) -> Deferred[Any]:
    deferred: Deferred[Any] = Deferred()
    deferred.callback(result)
    return deferred
