"""The composition root: one node's service tree, from its configuration.

Everything here is wiring. What the node does is in :mod:`bzzz.mesh.node`; this adds what belongs
to a real machine: interfaces that come and go, ports, mDNS, detection, the control socket.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

from twisted.application.service import IService, MultiService, Service
from twisted.internet.defer import Deferred, succeed
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger

from bzzz import __version__
from bzzz.config import Config
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
from bzzz.net.tcp import TCPNetwork
from bzzz.net.turns import Turns
from bzzz.state import OpenState
from bzzz.web.api import ControlApi, ControlServer
from bzzz.web.node_view import MeshView
from bzzz.web.schema import Finding
from bzzz.web.socket import ControlSocket
from bzzz.wire.multiaddr import Multiaddr

__all__ = ["NodeService", "choose_ports", "make_node"]

# Ports for listening, as the guide of the running cluster has them.
PORTS = range(32768, 65536)

# Random ports that are tried at a time.
PORT_TRIES = 50

# The kernel's own range for outgoing connections; a port in it may be taken when the node returns.
EPHEMERAL = "/proc/sys/net/ipv4/ip_local_port_range"


def choose_ports(rng: random.Random, ephemeral: range) -> list[int]:
    """Ports to try, outside the kernel's range for outgoing connections if that can be."""
    below = range(PORTS.start, max(PORTS.start, min(ephemeral.start, PORTS.stop)))
    above = range(min(max(ephemeral.stop, PORTS.start), PORTS.stop), PORTS.stop)
    outside = [*below, *above] if ephemeral else list(PORTS)
    return rng.sample(outside or list(PORTS), min(PORT_TRIES, len(outside or PORTS)))


def ephemeral_ports() -> range:
    """The kernel's range for outgoing connections; empty where it cannot be read."""
    try:
        with open(EPHEMERAL, encoding="ascii") as file:
            low, high = file.read().split()
        return range(int(low), int(high) + 1)
    except (OSError, ValueError):
        # Not Linux, or hidden from this process: any port is as good as another.
        return range(0)


class NodeService(Service):
    """One node on a real machine.

    :param state: the open state directory.
    """

    _log = Logger()

    def __init__(
        self, config: Config, state: OpenState, control: ControlSocket, reactor: Any
    ) -> None:
        self._config = config
        self._state = state
        self._reactor = reactor
        # For jitter and for whom to gossip with; a system call for each would be a cost.
        self._random = random.Random(os.urandom(32))  # noqa: S311 - nothing secret comes of it
        self._stopping = False
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
            Configured(
                node_id=str(state.peer_id),
                name=config.name,
                version=__version__,
                capabilities=config.capability,
                labels=config.label,
                specialization=config.specialization,
            ),
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

    def startService(self) -> None:  # Twisted's name
        """Join the mesh, as soon as the reactor runs."""
        super().startService()
        self._starting = in_background(self._start(), "starting the node", self._log)

    def stopService(self) -> Deferred[None]:
        """Leave the mesh in order."""
        super().stopService()
        self._stopping = True
        return in_background(self._stop(), "stopping the node", self._log)

    # -- inside

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
        await self.book.load()
        verdicts = await self.watcher.look()
        if self._stopping:
            return
        await self._listen(verdicts)
        self._following = True
        for entry in self.book.entries():
            self.mesh.membership.found(entry.peer_id, entry.addresses, ADDRESS_BOOK, entry.name)
        # The first broadcast should already say what this node can do.
        await self.inventory.start()
        if self._stopping:
            return
        self.mesh.start()
        self.watcher.start()
        self.view.state = None

    async def _stop(self) -> None:
        self.view.state = "stopping"
        self.listening.stop()
        self.watcher.stop()
        self.inventory.stop()
        await self.mesh.stop()
        await self.book.close()
        self._log.info("Node {name} has left the mesh", name=self._config.name)

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

    def _mdns_state(self) -> str:
        return self.mdns.state if self.mdns is not None else "off"

    def _doctor(self) -> Deferred[Sequence[Finding]]:
        health = NodeHealth(
            verdicts=self.watcher.verdicts,
            listening=self.mesh.swarm.listen_addresses,
            mdns=None if self.mdns is None else self.mdns.states(),
            links=len(self.mesh.swarm.links),
            unreachable=self.mesh.unreachable(),
        )
        return self.doctor.examine(health).addCallback(
            lambda findings: [
                Finding(
                    check=found.check,
                    level="info" if found.status == "unknown" else found.status,
                    message=found.what,
                    mend=found.mend,
                )
                for found in findings
            ]
        )


def make_node(config: Config, state: OpenState, control: ControlSocket) -> IService:
    """The service tree of one node.

    :raises ConfigError: the configuration cannot work on this machine.
    """
    from twisted.internet import reactor

    node = NodeService(config, state, control, reactor)
    tree = MultiService()
    # Children stop in reverse order and all at once: the socket answers until the node has left.
    node.setServiceParent(tree)
    ControlServer(reactor, control, ControlApi(node.view)).setServiceParent(tree)
    return tree
