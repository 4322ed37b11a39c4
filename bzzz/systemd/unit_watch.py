"""What systemd says about the unit that this process belongs to, over D-Bus.

Enters: a connection to a bus. Leaves: a :class:`~bzzz.systemd.unit.Unit` each time that it changed,
and, in words, why systemd cannot be asked. ``docs/systemd.rst`` has the states. How one manager is
asked is in ``manager.py``, how a bus is reached in ``units.py``.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.task import deferLater
from twisted.logger import Logger

from bzzz.errors import BzzzError
from bzzz.net.background import in_background
from bzzz.net.backoff import Backoff
from bzzz.net.interfaces import Clock, Randomness
from bzzz.systemd.manager import IConnection, ServiceManager, wait_for
from bzzz.systemd.unit import Unit

__all__ = ["UnitWatch"]

# Seconds for a connection and for each call: systemd answers in milliseconds, but not while it
# reads its unit files again.
CALL_TIMEOUT = 10.0

# Seconds after which it is asked without a signal, because some properties send none.
REFRESH = 60.0

# Seconds between a signal and asking: one change of state sends several.
COALESCE = 0.1

# Seconds for which asking has to go well before the next wait begins at 1 s again. What answers and
# fails by turns is not asked each second.
STABLE = 60.0


def _gist(reason: str) -> str:
    """What makes two reasons the same: not the number of a connection, which a bus that refuses
    puts into its message and which is another at each try."""
    return re.sub(r"\d+", "#", reason)


class UnitWatch:
    """Knows the unit of a process, for as long as a service manager can be asked.

    :param pid: the process.
    :param changed: called with the unit whenever it differs from what was said before in more than
        its use of memory, and with None when it was known and a second try in a row to ask failed.
        None says nothing about the service.
    :param connect: connects to the ``system`` bus, or to the user's by ``session``. Cancelling its
        Deferred has to abandon the attempt, and close a connection that comes all the same.
    """

    _log = Logger()

    def __init__(
        self,
        clock: Clock,
        pid: int,
        changed: Callable[[Unit | None], object],
        *,
        random: Randomness,
        connect: Callable[[str], Deferred[IConnection]],
        call_timeout: float = CALL_TIMEOUT,
        refresh: float = REFRESH,
        coalesce: float = COALESCE,
    ) -> None:
        self._clock = clock
        self._pid = pid
        self._changed = changed
        self._backoff = Backoff(random=random)
        self._connect = connect
        self._call_timeout = call_timeout
        self._refresh = refresh
        self._coalesce = coalesce
        self._running: Deferred[None] | None = None
        self._telling = False
        self._unit: Unit | None = None
        self._problem = ""
        self._said: set[str] = set()
        self._failures = 0
        self._answering_since: float | None = None

    @property
    def unit(self) -> Unit | None:
        """What was last heard; None before the first answer and when it cannot be asked."""
        return self._unit

    @property
    def problem(self) -> str:
        """Why it cannot be asked now, for people; empty if it can."""
        return self._problem

    def start(self) -> None:
        """Start to ask. Harmless when it was started before."""
        if self._running is None:
            self._running = in_background(self._run(), "watching the unit", self._log)

    def stop(self) -> Deferred[None]:
        """Stop asking; what was last heard stays. Harmless when it was not started.

        :return: fires when the connection is closed.
        """
        running, self._running = self._running, None
        if running is None:
            return succeed(None)
        if self._telling:
            # Called by ``changed``: what runs can only be cancelled once it waits for something.
            self._clock.callLater(0, running.cancel)
        else:
            running.cancel()
        return running

    async def _run(self) -> None:
        while True:
            try:
                await self._watch()
            except CancelledError:
                return
            except BzzzError as error:
                self._failed(str(error))
            except Exception as error:  # noqa: BLE001 - a flaw here must not end the watch
                if _gist(repr(error)) not in self._said:
                    self._log.failure("asking systemd failed")
                self._failed(repr(error))
            # Clock is what it uses of IReactorTime.
            await deferLater(self._clock, self._backoff.next_delay())  # type: ignore[arg-type]  # needs callLater alone

    async def _watch(self) -> None:
        """Watch until it fails; ends by raising alone."""
        owner = await self._watch_on("system", user=False)
        try:
            await self._watch_on("session", user=True)
        except BzzzError as error:
            raise BzzzError(f"this node is a service of {owner}, and there: {error}") from error

    async def _watch_on(self, bus: str, *, user: bool) -> str:
        """Watch on one bus until it fails, or until the unit proves to be a user's manager.

        :return: the name of that unit.
        """
        connection = await wait_for(self._connect(bus), "the bus", self._clock, self._call_timeout)
        known = False

        def moved() -> None:
            if known:
                try:
                    self._tell(Unit.from_properties(manager.values, user=user))
                except BzzzError:
                    pass  # asking, which follows each signal, says what is wrong with it

        manager = ServiceManager(
            self._clock, connection, moved, timeout=self._call_timeout, coalesce=self._coalesce
        )
        try:
            while True:
                await manager.ask(self._pid)
                unit = Unit.from_properties(manager.values, user=user)
                if not user and re.fullmatch(r"user@\d+\.service", unit.id):
                    return unit.id
                if not unit.id.endswith(".service"):
                    raise BzzzError(f"this process belongs to {unit.id!r}, which is no service")
                known = True
                self._answered(unit)
                await manager.news(self._refresh)
        finally:
            await manager.close()

    def _answered(self, unit: Unit) -> None:
        now = self._clock.seconds()
        if self._answering_since is None:
            self._answering_since = now
        elif now - self._answering_since >= STABLE:
            self._backoff.reset()
        if self._problem:
            self._log.info("systemd can be asked about {unit} again", unit=unit.id)
        self._problem = ""
        self._said.clear()
        self._failures = 0
        self._tell(unit)

    def _failed(self, reason: str) -> None:
        self._answering_since = None
        self._problem = reason
        self._failures += 1
        # A bus or a systemd that is restarted is back at the first try: nothing to warn of.
        if self._failures == 1 and self._unit is not None:
            self._log.info(
                "systemd cannot be asked about the unit of this node at the moment: {reason}."
                " Asking again",
                reason=reason,
            )
            return
        if _gist(reason) not in self._said:
            self._said.add(_gist(reason))
            self._log.warn(
                "systemd cannot be asked about the unit of this node: {reason}. The node does"
                " without, and asks again for ever",
                reason=reason,
            )
        self._tell(None)

    def _tell(self, unit: Unit | None) -> None:
        before, self._unit = self._unit, unit
        if unit == before:
            return
        self._telling = True
        try:
            self._changed(unit)
        except Exception:  # noqa: BLE001 - whatever is made of it, the watch goes on
            self._log.failure("telling that the unit changed failed")
        finally:
            self._telling = False
