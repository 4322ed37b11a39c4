"""The composition root: one node's service tree, from its configuration.

Everything here is wiring. What the node does is in :mod:`bzzz.mesh.node`; this adds what belongs
to a real machine: interfaces that come and go, ports, mDNS, detection, the control socket.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from twisted.application.service import MultiService, Service
from twisted.internet.defer import Deferred, TimeoutError, succeed
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger

from bzzz import __version__
from bzzz.config import Config
from bzzz.config.changes import changes
from bzzz.discovery.address_book import AddressBook
from bzzz.discovery.bootstrap import Bootstrap, text_lookup
from bzzz.discovery.doctor import Doctor, NodeHealth
from bzzz.discovery.interfaces import IPeerSource
from bzzz.discovery.mdns import MdnsSource
from bzzz.discovery.network_interfaces import (
    InterfaceWatcher,
    Verdicts,
    listen_hosts,
    system_interfaces,
)
from bzzz.errors import BzzzError
from bzzz.events import EventLog
from bzzz.mesh import ollama
from bzzz.mesh.availability import Availability
from bzzz.mesh.commands import Commands
from bzzz.mesh.detect import Detector
from bzzz.mesh.inventory import Configured, Inventory
from bzzz.mesh.listening import Listening
from bzzz.mesh.membership import ADDRESS_BOOK
from bzzz.mesh.node import MeshNode, MeshSettings, Surroundings
from bzzz.net.background import in_background
from bzzz.net.ports import choose_ports, ephemeral_ports
from bzzz.net.tcp import TCPNetwork
from bzzz.net.turns import Turns
from bzzz.node_runs import make_executor
from bzzz.node_tasks import RULES, NodeTasks, TaskLimits, owner_rules
from bzzz.node_trust import NodeTrust, check_database
from bzzz.reload import Reload
from bzzz.state import OpenState
from bzzz.systemd.environment import Environment
from bzzz.systemd.notify import Notifier
from bzzz.systemd.supervision import Supervision, service_state
from bzzz.systemd.unit import Process, Unit
from bzzz.web.api import ControlApi, ControlServer
from bzzz.web.node_view import MeshView
from bzzz.web.schema import Finding
from bzzz.web.socket import ControlSocket
from bzzz.wire.multiaddr import Multiaddr

__all__ = ["Launch", "NodeService", "NodeTree", "make_node"]


@dataclass(frozen=True)
class Launch:
    """How the node was started, and what it can have of its process.

    :ivar systemd: how systemd started the process, if it did.
    :ivar read_config: reads the configuration again; may block.
    :ivar set_log_level: writes the log from this level on.
    :ivar restart: has the process end in order, and be started again by the same command line.
    :ivar fail: has its exit code tell that something has failed, when it ends.
    """

    systemd: Environment
    read_config: Callable[[], Config]
    set_log_level: Callable[[str], object]
    restart: Callable[[], object] = lambda: None
    fail: Callable[[], object] = lambda: None


class NodeService(Service):
    """One node on a real machine.

    :param state: the open state directory.
    """

    _log = Logger()

    def __init__(
        self,
        config: Config,
        state: OpenState,
        control: ControlSocket,
        launch: Launch,
        reactor: Any,
    ) -> None:
        self._config = config
        self._state = state
        self._reactor = reactor
        # For jitter and for whom to gossip with; a system call for each would be a cost.
        self._random = random.Random(os.urandom(32))  # nosec B311  # noqa: S311 - nothing secret comes of it
        self._stopping = False
        self._restarting = False
        self._restart = launch.restart
        self._fail = launch.fail
        self._following = False
        self._starting: Deferred[None] | None = None
        turns = Turns(reactor, time.thread_time)
        network = TCPNetwork(reactor, turns)
        world = Surroundings(reactor, network, time.time, self._random, os.urandom, turns)
        self.events = EventLog(time.time)
        self.availability = Availability(config.max_tasks, time.time)
        models = ollama.local_address(os.environ.get("OLLAMA_HOST", ""))
        commands = Commands(reactor)
        self.doctor = Doctor(self._in_thread, commands.run)
        detector = Detector(
            reactor,
            str(state.path),
            commands.run,
            lambda: Deferred.fromCoroutine(ollama.models(network, models)),
            thread=self._in_thread,
        )
        self.inventory = Inventory(
            reactor,
            self._configured(config),
            detector.detect,
            lambda: [str(address) for address in self.mesh.swarm.listen_addresses],
        )
        self.book = AddressBook(state.path / "addresses.json", reactor, time.time, self._in_thread)
        self.bootstrap = Bootstrap(self._in_thread, text_lookup(reactor))
        self.mdns = (
            MdnsSource(
                peer_id=state.peer_id,
                name=config.name,
                call_from_thread=reactor.callFromThread,
                random=self._random,
                version=__version__,
                conflict=self._conflict,
                in_touch=self._in_touch,
            )
            if config.mdns
            else None
        )
        sources: list[IPeerSource] = [self.mdns] if self.mdns is not None else []
        self.trust = NodeTrust(state, reactor, self._random, self.events.emit, self._in_thread)
        self.mesh = MeshNode(
            state.identity,
            MeshSettings(
                name=config.name,
                agent=f"bzzz-py/{__version__}",
                broadcast_interval=config.broadcast_interval,
                max_links=config.max_links,
                bootstrap=config.bootstrap,
            ),
            world,
            self.book,
            self.inventory.document,
            self.availability,
            self.events.emit,
            sources,
            self.bootstrap.resolve,
            cluster=self.trust.cluster,
        )
        self.trust.connect(self.mesh)
        self.tasks = NodeTasks(
            state,
            reactor,
            self._random,
            self.trust,
            self.availability,
            self.inventory.document,
            TaskLimits.of(config),
            self.mesh,
            self._in_thread,
            self._disk_broken,
            make_executor(config, state, reactor, self._random),
        )
        remembered = state.listen_port
        self.listening = Listening(
            reactor,
            self.mesh.swarm,
            [port for port in (config.listen_port, remembered) if port],
            lambda: choose_ports(self._random, ephemeral_ports()),
            self._remember_port,
        )
        self.inventory.on_change(self.mesh.broadcasts.changed)
        self.inventory.on_change(self.tasks.offer_changed)
        self.watcher = InterfaceWatcher(
            reactor,
            system_interfaces,
            self._in_thread,
            self._interfaces_changed,
            wanted=config.interface,
        )
        self.view = MeshView(
            self.mesh,
            config,
            self.events,
            reactor,
            time.time,
            self.inventory.document,
            self.availability,
            control.path,
            self._mdns_state,
            self._doctor,
        )
        self.supervision = self._supervision(launch.systemd)
        self._configuration = Reload(
            config,
            launch.read_config,
            self._in_thread,
            self._appliers(launch.set_log_level),
            self.supervision.reloading,
            self._reloaded,
        )
        # As the audit log has it.
        self._recorded = config
        # A wish to read the configuration again that came before the node had started.
        self._reload_wanted = False
        self.view.unit = lambda: self.supervision.unit
        self.view.config = lambda: self._configuration.config
        self.view.executor = self._executor_state
        self.view.drain_wish = self.tasks.drain_wish

    def startService(self) -> None:  # Twisted's name
        """Join the mesh, as soon as the reactor runs."""
        super().startService()
        self.supervision.start()
        self._starting = in_background(self._start(), "starting the node", self._log)

    def stopService(self) -> Deferred[None]:
        """Leave the mesh in order."""
        super().stopService()
        self._stopping = True
        return in_background(self._stop(), "stopping the node", self._log)

    def reload(self) -> None:
        """Read the configuration again: once the node has started, and not when it stops."""
        if self._stopping:
            self._log.info("The configuration is not read again: the node stops")
        elif self.view.state == "starting":
            self._reload_wanted = True
        else:
            self._configuration.reload()

    def restart(self) -> None:
        """Leave the mesh in order, for the process to be started again."""
        if not self._stopping:
            self._restarting = True
            self._restart()

    # -- inside

    def _reloaded(self) -> None:
        before, self._recorded = self._recorded, self._configuration.config
        changed = changes(before, self._recorded).now
        if changed:
            self.trust.audit.record("config_changed", keys=changed)
        if not self._stopping:
            self.supervision.ready()

    def _configured(self, config: Config) -> Configured:
        return Configured(
            node_id=str(self._state.peer_id),
            name=config.name,
            version=__version__,
            capabilities=config.capability,
            labels=config.label,
            specialization=config.specialization,
            rules=owner_rules(config),
        )

    def _supervision(self, systemd: Environment) -> Supervision:
        supervision = Supervision(
            self._reactor,
            Notifier(systemd.notify_socket, time.monotonic),
            systemd.watchdog_seconds,
            Process(os.getpid(), os.getuid(), self._config.max_links),
            self.view.status_line,
            self._unit_changed,
            self._drain,
        )
        if systemd.supervised:
            # Only here: outside systemd nothing needs D-Bus, and a node is smaller without it.
            from bzzz.systemd.units import watch_unit

            supervision.watch = watch_unit(
                self._reactor, os.environ, os.getpid(), supervision.unit_changed, self._random
            )
        return supervision

    def _drain(self, draining: bool) -> None:
        if draining:
            self.availability.leave()
        elif not self._stopping:
            self.availability.stay()

    def _unit_changed(self, unit: Unit | None) -> None:
        self.inventory.set_service(None if unit is None else dict(service_state(unit)))

    def _appliers(
        self, set_log_level: Callable[[str], object]
    ) -> Mapping[str, Callable[[Config], object]]:
        """What changes each key that a running node can change."""
        mesh = self.mesh
        return {
            "interface": lambda config: in_background(
                self.watcher.want(config.interface), "using other interfaces", self._log
            ),
            "bootstrap": lambda config: mesh.seeds.use(config.bootstrap),
            **dict.fromkeys(
                ("label", "capability", "specialization", *RULES), self._configure_inventory
            ),
            "broadcast_interval": lambda config: mesh.broadcasts.set_interval(
                config.broadcast_interval
            ),
            "max_links": self._limit_links,
            "max_tasks": self._limit_tasks,
            **dict.fromkeys(
                ("task_output_limit", "task_output_quota", "cache_quota"),
                lambda config: self.tasks.limit(TaskLimits.of(config)),
            ),
            "log_level": lambda config: set_log_level(config.log_level),
        }

    def _configure_inventory(self, config: Config) -> None:
        self.inventory.configure(self._configured(config))

    def _limit_tasks(self, config: Config) -> None:
        """More may run from now on, or no more; those that run go on."""
        self.availability.set_max_tasks(config.max_tasks)
        self.tasks.offer_changed()

    def _limit_links(self, config: Config) -> None:
        """More are linked from now on, or no more; nobody is thrown out."""
        swarm = self.mesh.swarm
        swarm.limits = replace(swarm.limits, links=config.max_links)
        self.supervision.limits_changed(config.max_links)

    def _in_thread(self, work: Callable[[], Any]) -> Deferred[Any]:
        return deferToThreadPool(self._reactor, self._reactor.getThreadPool(), work)

    async def _start(self) -> None:
        config = self._config
        self._log.info(
            "Node {name} is {peer_id}, Bzzz {version}, state in {state}",
            name=config.name,
            peer_id=str(self._state.peer_id),
            version=__version__,
            state=str(self._state.path),
        )
        await self.trust.start()
        await self.book.load()
        verdicts = await self.watcher.look()
        if self._stopping:
            return
        await self._listen(verdicts)
        self._following = True
        for entry in self.book.entries():
            self.mesh.membership.found(entry.peer_id, entry.addresses, ADDRESS_BOOK, entry.name)
        self.trust.whereabouts.look()
        # The first broadcast should already say what this node can do.
        await self.inventory.start()
        if self._stopping:
            return
        self.mesh.start()
        try:
            await self.tasks.start()
        except BzzzError as error:
            self._end(f"tasks cannot be run: {error}")
            return
        if self._stopping:
            return
        self.watcher.start()
        self.view.state = None
        self.supervision.ready()
        if self._reload_wanted:
            self.reload()

    async def _stop(self) -> None:
        self.view.state = "stopping"
        if self._restarting:
            # systemd would wait for the end of a process that says STOPPING=1, and kill it.
            self.supervision.reloading()
        else:
            self.supervision.stopping()
        self.availability.leave()
        # What this node gives to others it would not be there to offer, or to hear the end of.
        self.tasks.placing.stop()
        if self.tasks.running:
            self.supervision.more_time(True)
            await self._tasks_ended()
        await self.tasks.stop()
        self.supervision.more_time(False)
        self.listening.stop()
        self.watcher.stop()
        self.inventory.stop()
        await self.mesh.stop()
        await self.trust.stop("it is started again" if self._restarting else "")
        await self.book.close()
        self._log.info("Node {name} has left the mesh", name=self._config.name)
        await self.supervision.stop()

    def _disk_broken(self, reason: str) -> None:
        """End: what was not written may be lost, and what is read from now on may not be there."""
        self._end(f"its disk cannot be trusted any more: {reason}")

    def _end(self, reason: str) -> None:
        if not self._stopping:
            self._log.critical("The node stops, as {reason}", reason=reason)
            self._fail()
            self._reactor.stop()

    async def _tasks_ended(self) -> None:
        """Wait until the tasks that run are over and recorded, for as long as they may take."""
        count = self.tasks.running
        self._log.info(
            "{count} task{s} run{have} up to {seconds:g} s to end",
            count=count,
            s="" if count == 1 else "s",
            have="s and has" if count == 1 else " and have",
            seconds=self._config.stop_timeout,
        )
        try:
            await self.tasks.drained().addTimeout(self._config.stop_timeout, self._reactor)
        except TimeoutError:
            self._log.warn(
                "{count} task{s} had not ended and will run elsewhere",
                count=self.tasks.running,
                s="" if self.tasks.running == 1 else "s",
            )

    def _interfaces_changed(self, verdicts: Verdicts) -> None:
        if self._following and not self._stopping:
            in_background(self._listen(verdicts), "following the network interfaces", self._log)

    async def _listen(self, verdicts: Verdicts) -> None:
        """Listen on every usable address, on one port, and announce what is listened on."""
        await self.listening.use(listen_hosts(verdicts.interfaces))
        if self.listening.port is not None and self.mdns is not None:
            self.mdns.update(verdicts.interfaces, self.listening.port)
        self.book.use_interfaces(verdicts.used)
        self.inventory.look()

    def _remember_port(self, port: int) -> Deferred[None]:
        if port == self._state.listen_port:
            return succeed(None)
        return self._in_thread(partial(self._state.remember_port, port))

    def _in_touch(self, hosts: Collection[str]) -> bool:
        return self.mesh.swarm.in_touch(hosts)

    def _conflict(self, addresses: Sequence[Multiaddr]) -> None:
        self.mesh.membership.conflict(addresses)

    def _executor_state(self) -> tuple[str | None, str | None]:
        executor = self.tasks.executor
        return (executor.name, executor.reason or None) if executor.is_chosen else (None, None)

    def _mdns_state(self) -> str:
        return self.mdns.state if self.mdns is not None else "off"

    def _doctor(self) -> Deferred[Sequence[Finding]]:
        health = NodeHealth(
            verdicts=self.watcher.verdicts,
            listening=self.mesh.swarm.listen_addresses,
            mdns=None if self.mdns is None else self.mdns.states(),
            links=self.mesh.member_links,
            hosts=[member.label for member in self.mesh.hosts()],
            unreachable=self.mesh.unreachable(),
        )
        return self.doctor.examine(health).addCallback(
            lambda findings: [
                *self._executor_findings(),
                *(
                    Finding(
                        check=found.check,
                        level="info" if found.status == "unknown" else found.status,
                        message=found.what,
                        mend=found.mend,
                    )
                    for found in findings
                ),
            ]
        )

    def _executor_findings(self) -> Sequence[Finding]:
        """What runs commands, and what would do it better."""
        executor = self.tasks.executor
        if not executor.is_chosen:
            return ()
        what = f"commands of tasks are run by the {executor.name} executor"
        if executor.name == "systemd" or self._config.executor != "auto":
            return (Finding(check="executor", level="ok", message=what),)
        return (
            Finding(
                check="executor",
                level="info",
                message=f"{what}, without a sandbox of their own: {executor.reason}",
                mend="install-service.sh gives the node's user a systemd of its own (loginctl"
                " enable-linger); then restart the node",
            ),
        )


class NodeTree(MultiService):
    """The service tree of one node.

    :ivar reload: has the node read its configuration again.
    """

    def __init__(self, reload: Callable[[], None]) -> None:
        super().__init__()
        self.reload = reload


def make_node(config: Config, state: OpenState, control: ControlSocket, launch: Launch) -> NodeTree:
    """The service tree of one node.

    :raises ConfigError: the configuration cannot work on this machine.
    :raises StateDirectoryError: the database cannot be used.
    :raises IdentityError: the key that the node should have is lost.
    """
    from twisted.internet import reactor

    check_database(state)
    node = NodeService(config, state, control, launch, reactor)
    tree = NodeTree(node.reload)
    # Children stop in reverse order and all at once: the socket answers until the node has left.
    node.setServiceParent(tree)
    api = ControlApi(
        node.view,
        routes=(
            *node.trust.routes(lambda: config.name, node.restart),
            *node.tasks.routes(),
        ),
        on_request=node.trust.control_request,
        ready=lambda: node.trust.is_started,
    )
    ControlServer(reactor, control, api).setServiceParent(tree)
    return tree
