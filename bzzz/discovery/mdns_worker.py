"""The thread in which mDNS is done, with an asyncio loop, which zeroconf needs.

Enters: what is to be announced where. Leaves: calls of a :class:`Hearer`, in the reactor's thread
through ``call_from_thread``; it is the only way out of here.
"""

from __future__ import annotations

import asyncio
import errno
import threading
from collections import deque
from collections.abc import Callable, Collection, Container, Iterable
from typing import Any, Protocol

from twisted.python.failure import Failure
from zeroconf import Zeroconf

from bzzz.discovery import mdns_interface, mdns_records
from bzzz.discovery.mdns_interface import MdnsInterface
from bzzz.discovery.mdns_records import SERVICE, Announced, Heard
from bzzz.identity.peer_id import PeerID
from bzzz.net.backoff import Backoff
from bzzz.net.interfaces import Randomness
from bzzz.wire.multiaddr import Multiaddr

__all__ = ["RETRY", "Hearer", "MdnsWorker"]

# Seconds until an interface that did not work is tried again: at first soon, for an IPv6 address
# takes 2 s to become usable.
FIRST_RETRY = 3.0
RETRY = 30.0

# Seconds for goodbyes and for closing the sockets at the end.
CLOSING = 0.8

# Names kept that this node announced itself under; each change of an interface takes a new one, and
# packets under the old one come back for a second.
OWN_NAMES = 64

_BUSY_MEND = (
    "another program holds UDP port 5353 for itself alone: find it with bzzz doctor; for"
    " avahi-daemon set disallow-other-stacks=no in /etc/avahi/avahi-daemon.conf"
)


class Hearer(Protocol):
    """What is called in the reactor's thread."""

    def worker_heard(self, interface: str, peer: Heard) -> None:
        """A peer was heard."""

    def worker_gone(self, interface: str, peer: PeerID) -> None:
        """A peer said goodbye."""

    def worker_copied(self, interface: str, addresses: tuple[Multiaddr, ...]) -> None:
        """Another host announces our peer ID."""

    def worker_problem(self, interface: str, what: str, mend: str) -> None:
        """An interface does not work, or, with nothing in ``what``, works again."""

    def worker_failed(self, what: str) -> None:
        """A callback in the thread failed."""

    def worker_ended(self, failure: Failure | None) -> None:
        """The thread is about to end."""


class MdnsWorker:
    """The thread, and everything in it. An :class:`~bzzz.discovery.mdns_interface.Ear`.

    :ivar open: what is at work, by interface; for reading by others.
    """

    def __init__(
        self,
        peer_id: PeerID,
        name: str,
        version: str,
        random: Randomness,
        call_from_thread: Callable[..., Any],
        source: Hearer,
        open_zeroconf: Callable[[Announced], Zeroconf],
        in_touch: Callable[[Collection[str]], bool],
    ) -> None:
        self.open: dict[str, MdnsInterface] = {}
        self._peer_id = peer_id
        self._name = name
        self._version = version
        self._random = random
        self._call_from_thread = call_from_thread
        self._source = source
        self._open_zeroconf = open_zeroconf
        self._in_touch = in_touch
        self._own_names: deque[str] = deque(maxlen=OWN_NAMES)
        # Replaced as a whole by the reactor's thread, so that this one always reads a whole.
        self._wanted: dict[str, Announced] = {}
        self._running: frozenset[str] = frozenset()
        self._were_running: frozenset[str] = frozenset()
        # When to try again those that do not work, and what they were last tried with.
        self._retry: dict[str, float] = {}
        self._backoff: dict[str, Backoff] = {}
        self._tried: dict[str, Announced] = {}
        self._stopping = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._changed: asyncio.Event | None = None

    # -- called in the reactor's thread

    def start(self) -> None:
        """Start the thread."""
        threading.Thread(target=self._run, name="bzzz-mdns", daemon=True).start()

    def want(self, wanted: dict[str, Announced], running: frozenset[str]) -> None:
        """Be at work on these interfaces."""
        self._wanted = wanted
        self._running = running
        self._wake()

    def stop(self) -> None:
        """End the thread, in order."""
        self._stopping = True
        self._wake()

    def _wake(self) -> None:
        loop, changed = self._loop, self._changed
        if loop is not None and changed is not None:
            try:
                loop.call_soon_threadsafe(changed.set)
            except RuntimeError:
                # It has just been closed: there is nobody to be woken.
                pass

    # -- called in the thread

    def _run(self) -> None:
        failure = None
        try:
            asyncio.run(self._main())
        except Exception:  # noqa: BLE001 - whatever it is, the reactor's side logs it
            failure = Failure()
        self._call_from_thread(self._source.worker_ended, failure)

    async def _main(self) -> None:
        self._changed = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(self._failed)
        while not self._stopping:
            self._changed.clear()
            await self._reconcile()
            delay = None
            if self._retry:
                delay = max(0.0, min(self._retry.values()) - self._loop.time())
            try:
                await asyncio.wait_for(self._changed.wait(), delay)
            except TimeoutError:
                pass
        await self._close(list(self.open))

    async def _reconcile(self) -> None:
        wanted = self._wanted
        running, were_running = self._running, self._were_running
        self._were_running = running
        await self._close(
            [name for name, each in self.open.items() if wanted.get(name) != each.announced]
        )
        now = asyncio.get_running_loop().time()
        for name in set(self._tried) - set(wanted):
            del self._tried[name]
            self._retry.pop(name, None)
            self._backoff.pop(name, None)
        for name, announced in wanted.items():
            interface = self.open.get(name)
            # Multicast may get through now: a cable that was pulled out is in again.
            again = name in running and name not in were_running
            if name in self._retry and self._tried.get(name) == announced and not again:
                if now < self._retry[name]:
                    continue
                again = True
            self._retry.pop(name, None)
            self._tried[name] = announced
            if interface is None:
                await self._open_interface(announced)
            elif again:
                await interface.repair()
                interface.refresh()

    async def _open_interface(self, announced: Announced) -> None:
        zeroconf: Zeroconf | None = None
        try:
            zeroconf = self._open_zeroconf(announced)
            await zeroconf.async_wait_for_start()
            if not zeroconf.engine.senders:
                raise OSError("it takes no multicast")
            mdns_interface.only_this_interface(zeroconf, announced)
        except Exception as error:  # noqa: BLE001 - told to people, tried again
            if zeroconf is not None:
                zeroconf.close()
            self.problem(announced.interface, _reason(error), _mend(error))
            return
        label = mdns_records.peer_name(self._random)
        self._own_names.append(f"{label}.{SERVICE}")
        loop = asyncio.get_running_loop()
        interface = MdnsInterface(
            zeroconf,
            announced,
            peer_id=self._peer_id,
            name=self._name,
            version=self._version,
            label=label,
            own_names=self._own_names,
            own_addresses=self._own_addresses,
            in_touch=self._in_touch,
            ear=self,
            random=self._random,
            now=loop.time,
            call_later=loop.call_later,
        )
        self.open[announced.interface] = interface
        interface.start()
        if interface.incomplete:
            self._try_again(announced.interface)

    async def _close(self, names: Iterable[str]) -> None:
        closing = [self.open.pop(name).close() for name in names]
        if closing:
            try:
                await asyncio.wait_for(asyncio.gather(*closing, return_exceptions=True), CLOSING)
            except TimeoutError:
                # The sockets go with the process.
                pass

    def _own_addresses(self) -> Container[Multiaddr]:
        return {address for each in self._wanted.values() for address in each.addresses}

    def _try_again(self, interface: str) -> None:
        """Have :meth:`_reconcile` look at the interface again later."""
        if self._loop is None or self._changed is None:
            return
        backoff = self._backoff.get(interface)
        if backoff is None:
            backoff = Backoff(FIRST_RETRY, cap=RETRY, random=self._random)
            self._backoff[interface] = backoff
        self._retry[interface] = self._loop.time() + backoff.next_delay()
        # For the wait to get its limit.
        self._changed.set()

    def _failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Something in a callback of zeroconf's failed; the loop goes on."""
        self._call_from_thread(
            self._source.worker_failed, str(context.get("exception") or context.get("message"))
        )

    # -- as an Ear

    def heard(self, interface: str, peer: Heard) -> None:
        """See :class:`~bzzz.discovery.mdns_interface.Ear`."""
        self._call_from_thread(self._source.worker_heard, interface, peer)

    def gone(self, interface: str, peer: PeerID) -> None:
        """See :class:`~bzzz.discovery.mdns_interface.Ear`."""
        self._call_from_thread(self._source.worker_gone, interface, peer)

    def copied(self, interface: str, addresses: tuple[Multiaddr, ...]) -> None:
        """See :class:`~bzzz.discovery.mdns_interface.Ear`."""
        self._call_from_thread(self._source.worker_copied, interface, addresses)

    def problem(self, interface: str, what: str, mend: str) -> None:
        """See :class:`~bzzz.discovery.mdns_interface.Ear`."""
        if what:
            self._try_again(interface)
        elif interface not in self.open or not self.open[interface].incomplete:
            self._retry.pop(interface, None)
            self._backoff.pop(interface, None)
        self._call_from_thread(self._source.worker_problem, interface, what, mend)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        return "UDP port 5353 is in use"
    return str(error) or type(error).__name__


def _mend(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        return _BUSY_MEND
    return "look at the interface with bzzz doctor, or name another node by --bootstrap"
