"""The units of tasks, in the systemd of this node's user (``docs/tasks.rst``, "The systemd
executor").

Enters: units to start and to kill; signals. Leaves: calls of the manager over D-Bus; that a unit is
over. Spec: :manpage:`org.freedesktop.systemd1(5)`. How a bus is reached is in ``units.py``.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from bzzz.errors import BzzzError
from bzzz.net.background import in_background
from bzzz.net.backoff import Backoff
from bzzz.net.interfaces import Clock, Randomness
from bzzz.systemd.manager import IConnection, Refused, call_systemd, in_words, wait_for
from bzzz.systemd.transient_unit import properties, unit_path
from bzzz.tasks.executors.unit_interfaces import UnitEnd, UnitListener, UnitSpec

__all__ = ["TaskUnits"]

# Seconds for a connection and for each call: systemd answers in milliseconds, but not while it
# reads its unit files again.
CALL_TIMEOUT: Final = 10.0

# Seconds that a systemd has to come to its bus: the first connection starts the bus, and only then
# does systemd connect to it.
ARRIVAL: Final = 5.0

# Seconds for which a connection has to stand before the next wait begins at 1 s again.
STABLE: Final = 60.0

_SYSTEMD = "org.freedesktop.systemd1"
_MANAGER_PATH = "/org/freedesktop/systemd1"
_MANAGER = "org.freedesktop.systemd1.Manager"
_UNIT = "org.freedesktop.systemd1.Unit"
_SERVICE = "org.freedesktop.systemd1.Service"
_BUS = "org.freedesktop.DBus"
_BUS_PATH = "/org/freedesktop/DBus"
_PROPERTIES = "org.freedesktop.DBus.Properties"

# Nobody has systemd's name on the bus.
_NOBODY = ("org.freedesktop.DBus.Error.ServiceUnknown", "org.freedesktop.DBus.Error.NameHasNoOwner")

# The states of a unit that is over.
_OVER = ("inactive", "failed")

# Of the properties of a service, what tells how it ended.
_RESULT = ("Result", "ExecMainCode", "ExecMainStatus")


class _Watched:
    """A unit whose end somebody waits for.

    :ivar known: of :data:`_RESULT`, as of the last signal.
    :ivar rule: the number of what has the bus pass on its signals.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.path = unit_path(name)
        self.known: dict[str, object] = {}
        self.rule: int | None = None


class TaskUnits:
    """Implements :class:`~bzzz.tasks.executors.unit_interfaces.Units`.

    :param uid: of the user.
    :param connect: connects to the user's bus. Cancelling its Deferred has to abandon the attempt,
        and close a connection that comes all the same.
    """

    _log = Logger()

    def __init__(
        self,
        clock: Clock,
        uid: int,
        *,
        random: Randomness,
        connect: Callable[[], Deferred[IConnection]],
        call_timeout: float = CALL_TIMEOUT,
    ) -> None:
        self._clock = clock
        self._uid = uid
        self._backoff = Backoff(random=random)
        self._connect = connect
        self._call_timeout = call_timeout
        self._listener: UnitListener | None = None
        self._running: Deferred[None] | None = None
        self._connection: IConnection | None = None
        self._watched: dict[str, _Watched] = {}
        self._up = False
        self._lost: Deferred[None] | None = None
        self._arrived: Deferred[None] | None = None
        self._said = ""

    @property
    def up(self) -> bool:
        """See :class:`Units`."""
        return self._up

    def start(self, listener: UnitListener) -> None:
        """See :class:`Units`."""
        self._listener = listener
        if self._running is None:
            self._running = in_background(self._run(), "asking the user's systemd", self._log)

    def stop(self) -> Deferred[None]:
        """See :class:`Units`."""
        running, self._running = self._running, None
        if running is None:
            return succeed(None)
        self._watched.clear()
        running.cancel()
        return running

    def run(self, spec: UnitSpec) -> Deferred[None]:
        """See :class:`Units`."""
        return Deferred.fromCoroutine(self._start_unit(spec))

    def kill(self, name: str) -> None:
        """See :class:`Units`."""
        if self._up:
            in_background(self._kill(name), "killing a unit", self._log)

    def forget(self, name: str) -> None:
        """See :class:`Units`."""
        watched = self._watched.pop(name, None)
        if watched is not None:
            self._unmatch(watched)

    def names(self, prefix: str) -> Deferred[list[str]]:
        """See :class:`Units`."""
        return Deferred.fromCoroutine(self._names(prefix))

    # -- the connection

    async def _run(self) -> None:
        while True:
            began = self._clock.seconds()
            try:
                await self._stay_connected()
            except CancelledError:
                return
            except BzzzError as error:
                self._gone(str(error))
            except Exception as error:  # noqa: BLE001 - a flaw here must not end the runs
                self._log.failure("asking the user's systemd failed")
                self._gone(repr(error))
            if self._clock.seconds() - began >= STABLE:
                self._backoff.reset()
            # Clock is what it uses of IReactorTime.
            await deferLater(self._clock, self._backoff.next_delay())  # type: ignore[arg-type]  # needs callLater alone

    async def _stay_connected(self) -> None:
        """Be connected until that is lost; ends by raising alone."""
        connection = await wait_for(self._connect(), "the bus", self._clock, self._call_timeout)
        closed: Deferred[None] = Deferred()
        lost: Deferred[None] = Deferred()
        self._lost = lost
        self._connection = connection

        def disconnected(_: Any, reason: Failure) -> None:
            self._up = False
            closed.callback(None)
            if not lost.called:
                lost.errback(in_words(reason.value))

        connection.notifyOnDisconnect(disconnected)
        try:
            await self._match(
                connection,
                self._owner_changed,
                sender=_BUS,
                interface=_BUS,
                member="NameOwnerChanged",
                path=_BUS_PATH,
                arg=[(0, _SYSTEMD)],
            )
            await self._subscribe()
            before = [each for each in [*self._watched.values()] if await self._watch(each)]
            self._up = True
            if self._said:
                self._log.info("The systemd of this node's user can be asked again")
            self._said = ""
            self._tell_up()
            for watched in before:
                await self._look(watched)
            await lost
        finally:
            self._up = False
            self._connection = None
            for watched in self._watched.values():
                watched.rule = None
            # When nobody waits for it any more its failure is known.
            lost.addErrback(lambda _: None)
            if not closed.called:
                connection.disconnect()
                await closed

    async def _subscribe(self) -> None:
        """Have systemd send signals; where it comes to the bus only now, when it has."""
        arrived: Deferred[None] = Deferred()
        self._arrived = arrived
        for last in (False, True):
            try:
                await self._call(_MANAGER_PATH, _MANAGER, "Subscribe")
                return
            except Refused as error:
                if error.name == "org.freedesktop.systemd1.AlreadySubscribed":
                    return
                if last or error.name not in _NOBODY:
                    raise
                try:
                    await wait_for(arrived, "systemd", self._clock, ARRIVAL)
                except BzzzError:
                    raise error from None

    def _gone(self, reason: str) -> None:
        if reason != self._said:
            self._said = reason
            self._log.info(
                "The systemd of this node's user cannot be asked: {reason}. Trying again",
                reason=reason,
            )
        if self._listener is not None:
            self._listener.units_lost(reason)

    def _tell_up(self) -> None:
        if self._listener is not None:
            self._listener.units_up()

    def _owner_changed(self, message: Any) -> None:
        """Another manager, or the same after it was executed anew, knows no subscribers."""
        _, before, _ = message.body
        if not before:
            if self._arrived is not None and not self._arrived.called:
                self._arrived.callback(None)
        elif self._lost is not None and not self._lost.called:
            self._lost.errback(BzzzError("systemd has left the bus, or is another now"))

    # -- calls

    async def _call(
        self,
        path: str,
        interface: str,
        member: str,
        signature: str | None = None,
        body: list[Any] | None = None,
    ) -> Any:
        if self._connection is None:
            raise BzzzError(self._said or "there is no connection to the bus")
        called = call_systemd(self._connection, path, interface, member, signature, body)
        return await wait_for(called, "the user's systemd", self._clock, self._call_timeout)

    async def _match(
        self, connection: IConnection, callback: Callable[[Any], object], **rule: Any
    ) -> int:
        added = connection.addMatch(callback, mtype="signal", **rule)
        number: int = await wait_for(added, "the bus", self._clock, self._call_timeout)
        return number

    async def _start_unit(self, spec: UnitSpec) -> None:
        watched = self._watched[spec.name] = _Watched(spec.name)
        try:
            # Before it is started, as it may be over when the answer comes.
            if not await self._watch(watched):
                raise BzzzError("it was given up meanwhile")
            await self._call(
                _MANAGER_PATH,
                _MANAGER,
                "StartTransientUnit",
                "ssa(sv)a(sa(sv))",
                [
                    spec.name,
                    "fail",
                    [list(pair) for pair in properties(spec, self._uid)],
                    [],
                ],
            )
        except BaseException:
            self.forget(spec.name)
            raise

    async def _kill(self, name: str) -> None:
        try:
            await self._call(
                _MANAGER_PATH, _MANAGER, "KillUnit", "ssi", [name, "all", int(signal.SIGKILL)]
            )
        except BzzzError as error:
            # It is gone, which is what was wanted; or it is tried again by whoever wants it gone.
            self._log.debug("Unit {unit} could not be killed: {error}", unit=name, error=error)

    async def _names(self, prefix: str) -> list[str]:
        units = await self._call(
            _MANAGER_PATH, _MANAGER, "ListUnitsByPatterns", "asas", [[], [f"{prefix}*"]]
        )
        return [str(unit[0]) for unit in units if unit[3] not in _OVER]

    # -- signals

    async def _watch(self, watched: _Watched) -> bool:
        """Ask for a unit's signals; whether somebody still waits for its end."""
        if self._connection is None:
            raise BzzzError(self._said or "there is no connection to the bus")
        watched.rule = await self._match(
            self._connection,
            lambda message: self._changed(watched, message),
            sender=_SYSTEMD,
            interface=_PROPERTIES,
            member="PropertiesChanged",
            path=watched.path,
        )
        if self._watched.get(watched.name) is watched:
            return True
        self._unmatch(watched)
        return False

    def _unmatch(self, watched: _Watched) -> None:
        rule, watched.rule = watched.rule, None
        if rule is not None and self._connection is not None:
            # Not waited for: the connection may be lost meanwhile, which takes the rule with it.
            self._connection.delMatch(rule).addErrback(lambda _: None)

    def _changed(self, watched: _Watched, message: Any) -> None:
        """systemd tells of the service first, and then of the unit."""
        if message.path != watched.path or self._watched.get(watched.name) is not watched:
            return
        interface, changed, _ = message.body
        if interface == _SERVICE:
            watched.known.update({key: changed[key] for key in _RESULT if key in changed})
        elif (
            interface == _UNIT
            and changed.get("ActiveState") in _OVER
            # Else it has not been started yet.
            and changed.get("InactiveExitTimestamp") != 0
        ):
            self._over(watched)

    async def _look(self, watched: _Watched) -> None:
        """Ask what has become of a unit of which signals may have been missed."""
        try:
            state = await self._get(watched.path, _UNIT, "ActiveState")
            if state not in _OVER:
                return
            # One that is gone would be said to be a success.
            loaded = await self._get(watched.path, _UNIT, "LoadState")
            if loaded == "loaded":
                for name in _RESULT:
                    watched.known[name] = await self._get(watched.path, _SERVICE, name)
        except Refused:
            watched.known.clear()
        if self._watched.get(watched.name) is watched:
            self._over(watched)

    async def _get(self, path: str, interface: str, name: str) -> Any:
        return await self._call(path, _PROPERTIES, "Get", "ss", [interface, name])

    def _over(self, watched: _Watched) -> None:
        self.forget(watched.name)
        result, code, status = (watched.known.get(name) for name in _RESULT)
        end = UnitEnd(
            result if isinstance(result, str) else "",
            code if isinstance(code, int) else 0,
            status if isinstance(status, int) else 0,
        )
        if self._listener is not None:
            self._listener.unit_over(watched.name, end)
