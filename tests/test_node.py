"""The composition root: what a running node can change, and what it tells systemd."""

from __future__ import annotations

import os
import random
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import LogLevel
from twisted.trial.unittest import SynchronousTestCase

from bzzz import __version__, node_trust
from bzzz.config import OPTIONS, Config
from bzzz.discovery.doctor import NodeHealth
from bzzz.identity.keys import PrivateKey
from bzzz.mesh.capability import EVERYTHING, OwnerRules
from bzzz.mesh.member import Member
from bzzz.net.backoff import Backoff
from bzzz.node import Launch, NodeService
from bzzz.node_tasks import owner_rules
from bzzz.state import StateDirectory
from bzzz.systemd.environment import Environment
from bzzz.systemd.unit import Unit
from bzzz.trust.audit_events import clean
from bzzz.web.credentials import Credentials
from bzzz.web.schema import DrainInfo
from bzzz.wire.multiaddr import Multiaddr
from tests.logs import lines_at


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
        limited: list[tuple[int, ...]] = []

        def limit(*limits: int) -> Deferred[None]:
            limited.append(limits)
            return succeed(None)

        for part in (self.node.tasks.files, self.node.tasks.workspace):
            self.patch(part, "limit", limit)
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
            task_forbid_command=("docker",),
            task_forbid_submitter=("eve",),
            task_profile=("trusted", "default"),
            task_cpus=1.5,
            task_memory=1 << 30,
            task_gpus=0,
            task_output_limit=5000,
            task_output_quota=1 << 21,
            cache_quota=1 << 27,
        )
        node = self.node
        self.assertEqual(
            node.inventory.document().rules,
            OwnerRules(
                forbidden_commands=("docker",),
                forbidden_submitters=("eve",),
                profiles=("trusted", "default"),
                cpus=1.5,
                memory=1 << 30,
                gpus=0,
            ),
        )
        self.assertEqual(limited, [(1 << 27,), (5000, 1 << 21)])
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

    def test_no_rules(self) -> None:
        """An owner who has configured nothing forbids nothing, and keeps nothing for others."""
        self.assertEqual(self.node.inventory.document().rules, EVERYTHING)
        everything = replace(self.config, task_profile=("trusted", "no-network", "default"))
        self.assertEqual(owner_rules(everything), EVERYTHING)

    def test_reload_is_recorded(self) -> None:
        """The audit log has the keys that a reload changed, and nothing where it changed none."""
        recorded = self.recorded()
        self.node.view.state = None
        self.apply(max_tasks=5, max_links=7)
        self.apply(max_tasks=5, max_links=7)
        self.apply(max_tasks=2, max_links=7)
        self.assertEqual(
            recorded,
            [
                ("config_changed", {"keys": ["max_links", "max_tasks"]}),
                ("config_changed", {"keys": ["max_tasks"]}),
            ],
        )

    def test_requests_are_recorded(self) -> None:
        """The audit log has who asked for what over the control socket."""
        recorded = self.recorded()
        accounts: Any = None
        self.node.trust.control_request(Credentials(7, 1000, 100, accounts), "POST /v1/cluster")
        self.assertEqual(
            recorded,
            [("control_request", {"uid": 1000, "pid": 7, "request": "POST /v1/cluster"})],
        )

    def test_invitations_are_recorded(self) -> None:
        """With the end of an invitation, and from where it was used."""
        recorded = self.recorded()
        trust = self.node.trust
        peer = self.node.mesh.swarm.peer_id
        found: Any = {"7": SimpleNamespace(expires_at=0.0)}
        self.patch(trust.pairing, "find", found.get)
        self.patch(
            trust.pairing.swarm, "link_to", lambda _: SimpleNamespace(remote_host="192.0.2.7")
        )
        trust._pairing_event("invited", invitation="7", kind="code")
        trust._pairing_event("invited", invitation="8", kind="code")
        trust._pairing_event("invitation_used", invitation="7", peer_id=str(peer))
        self.assertEqual(
            recorded,
            [
                (
                    "invited",
                    {"invitation": "7", "kind": "code", "expires": "1970-01-01T00:00:00.000Z"},
                ),
                ("invited", {"invitation": "8", "kind": "code"}),
                (
                    "invitation_used",
                    {"invitation": "7", "peer_id": str(peer), "address": "192.0.2.7"},
                ),
            ],
        )

    def test_start_and_end_are_recorded(self) -> None:
        """With the version, and with the reason of the end if the node knows one."""
        recorded = self.recorded()
        trust = self.node.trust
        for part, name in (
            (trust.database, "open"),
            (trust.database, "close"),
            (trust.audit, "start"),
            (trust.audit, "close"),
            (trust.kept, "load"),
            (trust.kept, "close"),
            (trust.cluster, "load"),
            (trust.pairing, "load"),
        ):
            self.patch(part, name, lambda: succeed(None))
        self.patch(node_trust, "drop_tokens", lambda *_: succeed(None))
        self.successResultOf(Deferred.fromCoroutine(trust.start()))
        for restarting in (False, True):
            self.node._restarting = restarting
            self.successResultOf(Deferred.fromCoroutine(self.node._stop()))
        self.assertEqual(
            recorded,
            [
                ("started", {"version": __version__, "pid": os.getpid(), "mode": "unclaimed"}),
                ("stopped", {}),
                ("stopped", {"reason": "it is started again"}),
            ],
        )

    def test_nothing_is_placed_when_it_stops(self) -> None:
        """From the first moment on, also while what runs is waited for."""
        order: list[str] = []
        tasks = self.node.tasks
        self.patch(tasks.placing, "stop", lambda: order.append("placing"))
        self.patch(type(tasks), "running", 1)

        def drained() -> Deferred[None]:
            order.append("waiting")
            return Deferred()

        self.patch(tasks, "drained", drained)
        Deferred.fromCoroutine(self.node._stop())
        self.assertEqual(order, ["placing", "waiting"])

    def recorded(self) -> list[tuple[str, dict[str, Any]]]:
        """What the audit log is told from now on, each as the log would have it."""
        recorded: list[tuple[str, dict[str, Any]]] = []

        def record(event: str, **fields: object) -> Deferred[bool]:
            recorded.append((event, clean(event, fields)))
            return succeed(True)

        self.patch(self.node.trust.audit, "record", record)
        return recorded

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

    def test_draining(self) -> None:
        """That it takes no new tasks is in the status, with whose wish that is, if it is one's."""
        node = self.node
        self.assertIsNone(node.view.status().draining)
        node.availability.leave()
        self.assertEqual(node.view.status().draining, DrainInfo())
        node.availability.stay()
        own = node.tasks._draining.ask(node.mesh.peer_id, True, "ada")
        self.successResultOf(Deferred.fromCoroutine(own))
        me = str(node.mesh.peer_id)
        self.assertEqual(
            node.view.status().draining, DrainInfo(name="walnut", peer_id=me, user="ada")
        )

    def test_executor(self) -> None:
        """Once it is known what runs commands, the status and the doctor say it."""
        node = self.node
        self.patch(node.doctor, "examine", lambda health: succeed([]))
        status = node.view.status()
        self.assertEqual((status.executor, status.executor_reason), (None, None))
        self.assertEqual(self.successResultOf(node.view.doctor()), [])
        node.tasks.executor.is_chosen = True
        node.tasks.executor.reason = "there is no bus"
        status = node.view.status()
        self.assertEqual((status.executor, status.executor_reason), ("process", "there is no bus"))
        (found,) = self.successResultOf(node.view.doctor())
        self.assertEqual((found.check, found.level), ("executor", "info"))
        self.assertIn("without a sandbox of their own: there is no bus", found.message)
        assert found.mend is not None
        self.assertIn("enable-linger", found.mend)

    def test_executor_asked_for(self) -> None:
        """Where the configuration asks for it there is nothing to mend."""
        node = self.node
        node._config = replace(self.config, executor="process")
        self.patch(node.doctor, "examine", lambda health: succeed([]))
        node.tasks.executor.is_chosen = True
        (found,) = self.successResultOf(node.view.doctor())
        self.assertEqual((found.level, found.mend), ("ok", None))

    def test_tasks_cannot_be_run(self) -> None:
        """A node that cannot run tasks as it is told to says so, and ends."""
        node = self.node
        lines = lines_at(self, LogLevel.critical)
        stopped: list[None] = []
        self.patch(node._reactor, "stop", lambda: stopped.append(None))
        node._end("tasks cannot be run: there is no bus")
        self.assertEqual(lines, ["The node stops, as tasks cannot be run: there is no bus"])
        self.assertEqual(len(stopped), 1)
        node._stopping = True
        node._end("again")
        self.assertEqual(len(stopped), 1)

    def test_doctor_of_a_guest(self) -> None:
        """The doctor is told who takes this node for a guest, and that this is no company."""
        node = self.node
        peer = PrivateKey.from_seed(b"1" * 32).peer_id
        member = Member(peer, Backoff(random=random.Random(1)), 0.0, 0.0)
        self.patch(node.mesh, "hosts", lambda: [member])
        examined: list[NodeHealth] = []

        def look(health: NodeHealth) -> Deferred[list[Any]]:
            examined.append(health)
            return succeed([])

        self.patch(node.doctor, "examine", look)
        self.successResultOf(node.view.doctor())
        self.assertEqual((examined[0].hosts, examined[0].links), ([member.label], 0))


def _fired(result: Any) -> Deferred[Any]:
    deferred: Deferred[Any] = Deferred()
    deferred.callback(result)
    return deferred
