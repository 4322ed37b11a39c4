"""Multicast DNS as a source of peers: what the reactor sees of it.

Enters: the interfaces in use and the port, and again whenever they change. Leaves: the peers that
are heard. The work is done by :class:`bzzz.discovery.mdns_interface.MdnsInterface`, one for each
interface, in a thread with an asyncio loop of its own, which zeroconf needs; so it works with every
reactor. What comes from there reaches the reactor only through ``call_from_thread``.

mDNS often fails in real networks: another program holds the port, the access point drops multicast,
an interface is not ready. Each is said once with its mend, tried again at most 30 s apart, and
nothing else of the node waits for it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure
from zeroconf import Zeroconf
from zope.interface import implementer

from bzzz.discovery import mdns_interface, mdns_records
from bzzz.discovery.interfaces import FoundPeer, IPeerSource
from bzzz.discovery.mdns_records import Announced, Heard
from bzzz.discovery.mdns_worker import RETRY, MdnsWorker
from bzzz.discovery.network_interfaces import NetworkInterface
from bzzz.identity.peer_id import PeerID
from bzzz.net.interfaces import Randomness
from bzzz.wire.multiaddr import Multiaddr

__all__ = ["MdnsSource", "MdnsState"]


@dataclass(frozen=True, slots=True)
class MdnsState:
    """How mDNS does on one interface, for people.

    :ivar problem: why it does not work, or nothing.
    :ivar peers: others announced there now.
    :ivar ignored: announcements passed over, by reason.
    """

    interface: str
    problem: str
    peers: int
    ignored: tuple[tuple[str, int], ...]


@implementer(IPeerSource)
class MdnsSource:
    """Announces this node and finds others on the local networks.

    :param name: of this node, for people.
    :param call_from_thread: calls a function in the reactor's thread
        (``reactor.callFromThread``).
    :param lost: called when a peer says goodbye. A hint only: anybody can send one.
    :param conflict: called with the addresses when another host announces our peer ID.
    :param in_touch: whether a connection is up between one of these IP addresses of this node and
        another. Called in the thread.
    :param open_zeroconf: makes an instance for one interface.
    """

    _log = Logger()

    def __init__(
        self,
        peer_id: PeerID,
        name: str,
        call_from_thread: Callable[..., Any],
        random: Randomness,
        *,
        version: str = "",
        lost: Callable[[PeerID], None] | None = None,
        conflict: Callable[[tuple[Multiaddr, ...]], None] | None = None,
        in_touch: Callable[[Collection[str]], bool] = lambda hosts: False,
        open_zeroconf: Callable[[Announced], Zeroconf] = mdns_interface.open_zeroconf,
    ) -> None:
        self._worker = MdnsWorker(
            peer_id, name, version, random, call_from_thread, self, open_zeroconf, in_touch
        )
        self._lost = lost
        self._conflict = conflict
        self._found: Callable[[FoundPeer], None] | None = None
        self._stopped: Deferred[None] | None = None
        self._announced: dict[str, Announced] = {}
        self._problems: dict[str, str] = {}

    def update(self, interfaces: Iterable[NetworkInterface], port: int) -> None:
        """Announce a node that listens on ``port``, on these interfaces from now on.

        Only those that are used and have multicast take part. To be called before or after
        :meth:`start`, and each time that anything of it changes.
        """
        interfaces = tuple(interfaces)
        self._announced = {
            announced.interface: announced
            for interface in interfaces
            if (announced := mdns_records.announced_on(interface, port)) is not None
        }
        running = frozenset(interface.name for interface in interfaces if interface.running)
        for name in set(self._problems) - set(self._announced):
            del self._problems[name]
        self._worker.want(self._announced, running)

    def start(self, found: Callable[[FoundPeer], None]) -> Deferred[None]:
        """See :meth:`IPeerSource.start`. Not again after :meth:`stop`."""
        self._found = found
        self._worker.start()
        return succeed(None)

    def stop(self) -> Deferred[None]:
        """See :meth:`IPeerSource.stop`: says goodbye on all interfaces."""
        if self._found is None:
            return succeed(None)
        self._found = None
        stopped = self._stopped = Deferred()
        self._worker.stop()
        return stopped

    @property
    def state(self) -> str:
        """``on``, or ``failed: `` and why it works nowhere."""
        if self._announced and any(name not in self._problems for name in self._announced):
            return "on"
        if not self._announced:
            return "failed: no interface in use has multicast"
        return "failed: " + "; ".join(
            f"{what} ({interface})" for interface, what in self._problems.items()
        )

    def states(self) -> list[MdnsState]:
        """How it does on each interface."""
        states = []
        for name in self._announced:
            # Read while the other thread may write: a number may be a moment old.
            interface = self._worker.open.get(name)
            states.append(
                MdnsState(
                    name,
                    self._problems.get(name, ""),
                    interface.peers if interface is not None else 0,
                    tuple(sorted(interface.counts.items())) if interface is not None else (),
                )
            )
        return states

    def __str__(self) -> str:
        if not self._announced:
            return "mDNS on no interface"
        return "mDNS on " + ", ".join(
            f"{state.interface} ({state.problem or f'{state.peers} peers heard'})"
            for state in self.states()
        )

    # -- called by the worker, in the reactor's thread

    def worker_heard(self, interface: str, peer: Heard) -> None:
        """A peer was heard."""
        if self._found is not None:
            self._found(FoundPeer(peer.peer_id, peer.addresses, "mdns", peer.name))

    def worker_gone(self, interface: str, peer: PeerID) -> None:
        """A peer said goodbye."""
        if self._found is not None and self._lost is not None:
            self._lost(peer)

    def worker_copied(self, interface: str, addresses: tuple[Multiaddr, ...]) -> None:
        """Another host announces our peer ID."""
        if self._found is not None and self._conflict is not None:
            self._conflict(addresses)

    def worker_problem(self, interface: str, what: str, mend: str) -> None:
        """An interface does not work, or works again."""
        if interface not in self._announced:
            return
        before = self._problems.get(interface, "")
        if what == before:
            return
        if not what:
            del self._problems[interface]
            self._log.info("mDNS works on {interface} now", interface=interface)
            return
        self._problems[interface] = what
        self._log.warn(
            "mDNS does not work on {interface}: {what}. Mend: {mend}. Trying again, at"
            " most {seconds:.0f} s apart",
            interface=interface,
            what=what,
            mend=mend,
            seconds=RETRY,
        )

    def worker_failed(self, what: str) -> None:
        """A callback in the thread failed."""
        self._log.error("Something in zeroconf failed: {what}", what=what)

    def worker_ended(self, failure: Failure | None) -> None:
        """The thread is about to end."""
        if failure is not None:
            self._log.failure("The mDNS thread failed; mDNS is off from now on", failure)
            self._problems = dict.fromkeys(self._announced, "its thread failed")
        stopped, self._stopped = self._stopped, None
        if stopped is not None:
            stopped.callback(None)
