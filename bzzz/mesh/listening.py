"""Listening on every usable address of the machine, on one port.

Enters: the addresses to listen on, as they come and go. Leaves: listening sockets of the swarm, and
the port, chosen once.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Sequence

from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from bzzz.net.background import in_background
from bzzz.net.interfaces import Clock
from bzzz.net.swarm import Swarm

__all__ = ["Listening"]

# Seconds until an address that could not be listened on is tried again. The kernel takes 1-2 s to
# check that a new IPv6 address is nobody else's.
RETRY = 2.0
LONGEST_RETRY = 60.0

# What says that another port may be had where this one cannot.
TAKEN = frozenset((errno.EADDRINUSE, errno.EACCES))


class Listening:
    """Which addresses are listened on.

    :param wanted: ports that are taken if they can be had: the one configured, the one remembered.
    :param spare: any other ports.
    :param chosen: is told the port.
    :ivar port: the port; None until one was to be had.
    """

    _log = Logger()

    def __init__(
        self,
        clock: Clock,
        swarm: Swarm,
        wanted: Sequence[int],
        spare: Callable[[], Iterable[int]],
        chosen: Callable[[int], Deferred[None]],
    ) -> None:
        self.port: int | None = None
        self._clock = clock
        self._swarm = swarm
        self._ports = tuple(wanted)
        self._spare = spare
        self._chosen = chosen
        self._hosts: frozenset[str] = frozenset()
        self._open: set[str] = set()
        self._complained: dict[str, str] = {}
        self._pause = RETRY
        self._retry: IDelayedCall | None = None
        # What changes meanwhile has to wait: two that choose a port would choose two.
        self._one_at_a_time = DeferredLock()
        self._stopped = False

    async def use(self, hosts: Iterable[str]) -> None:
        """Listen on these addresses and no others. Those that cannot be had are tried again."""
        self._hosts = frozenset(hosts)
        self._pause = RETRY
        await self._one_at_a_time.run(lambda: Deferred.fromCoroutine(self._follow()))

    def stop(self) -> None:
        """Try nothing more. What is listened on is the swarm's to close."""
        self._stopped = True
        self._cancel_retry()

    async def _follow(self) -> None:
        self._cancel_retry()
        if self._stopped:
            return
        for host in sorted(self._open - self._hosts):
            self._open.discard(host)
            if self.port is not None:
                await self._swarm.stop_listening(host, self.port)
        for host in self._complained.keys() - self._hosts:
            del self._complained[host]
        missing = sorted(self._hosts - self._open)
        if missing and self.port is None:
            await self._choose(missing)
        elif missing and self.port is not None:
            await self._extend(missing, self.port)
        if self._hosts - self._open and not self._stopped:
            self._retry = self._clock.callLater(self._pause, self._again)
            self._pause = min(self._pause * 2, LONGEST_RETRY)

    def _again(self) -> None:
        self._retry = None
        in_background(
            self._one_at_a_time.run(lambda: Deferred.fromCoroutine(self._follow())),
            "trying again to listen",
            self._log,
        )

    def _cancel_retry(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None

    async def _choose(self, hosts: Sequence[str]) -> None:
        """Take the first port that can be had on every address that is ready."""
        said = ""
        for port in dict.fromkeys((*self._ports, *self._spare())):
            failed = await self._listen(hosts, port)
            taken = [error for error in failed.values() if error.socketError.errno in TAKEN]
            if taken:
                for host in hosts:
                    if host not in failed:
                        await self._swarm.stop_listening(host, port)
                said = said or str(taken[0])
                continue
            if len(failed) == len(hosts):
                self._complain(failed)
                return
            await self._chose(port, said)
            self._open.update(host for host in hosts if host not in failed)
            self._complain(failed)
            self._log.info(
                "Listening on {addresses}",
                addresses=", ".join(str(each) for each in self._swarm.listen_addresses),
            )
            return
        self._log.error(
            "No port can be listened on: {said}. Trying again in {pause:.0f} s",
            said=said,
            pause=self._pause,
        )

    async def _chose(self, port: int, said: str) -> None:
        self.port = port
        first = next(iter(self._ports), port)
        if first != port:
            self._log.warn(
                "Port {first} cannot be had ({said}); listening on {port} from now on. Firewall "
                "rules that name {first} have to be changed",
                first=first,
                said=said,
                port=port,
            )
        await self._chosen(port)

    async def _extend(self, hosts: Sequence[str], port: int) -> None:
        """Listen on the port on more addresses."""
        failed = await self._listen(hosts, port)
        for host in hosts:
            if host not in failed:
                self._open.add(host)
                self._complained.pop(host, None)
                self._log.info("Listening on {host} port {port} too", host=host, port=port)
        self._complain(failed)

    async def _listen(self, hosts: Sequence[str], port: int) -> dict[str, CannotListenError]:
        failed = {}
        for host in hosts:
            try:
                await self._swarm.listen(host, port)
            except CannotListenError as error:
                failed[host] = error
        return failed

    def _complain(self, failed: dict[str, CannotListenError]) -> None:
        for host, error in failed.items():
            if self._complained.get(host) != str(error.socketError):
                self._complained[host] = str(error.socketError)
                self._log.warn(
                    "Cannot listen on {host}: {error}; trying again", host=host, error=error
                )
