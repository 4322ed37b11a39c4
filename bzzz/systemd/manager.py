"""One service manager, asked over one connection to a bus.

Enters: answers and signals. Leaves: the properties of the unit that a process belongs to, and, in
words, why they cannot be had. Spec: :manpage:`org.freedesktop.systemd1(5)`; D-Bus Specification,
"Message Bus Messages". What has to be done with txdbus to be safe from its bus is in ``units.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferTimeoutError
from twisted.internet.error import ConnectionClosed
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from bzzz.errors import BzzzError
from bzzz.net.interfaces import Clock
from bzzz.systemd.unit import PROPERTIES

__all__ = ["IConnection", "Refused", "ServiceManager", "call_systemd", "in_words", "wait_for"]

# Characters of an error message of somebody else's that are said.
MAX_MESSAGE = 200

_SYSTEMD = "org.freedesktop.systemd1"
_MANAGER_PATH = "/org/freedesktop/systemd1"
_MANAGER = "org.freedesktop.systemd1.Manager"
_BUS = "org.freedesktop.DBus"
_BUS_PATH = "/org/freedesktop/DBus"
_PROPERTIES = "org.freedesktop.DBus.Properties"

_REASONS = {
    "org.freedesktop.systemd1.NoUnitForPID": "systemd knows no unit of this process",
    "org.freedesktop.DBus.Error.ServiceUnknown": "there is no systemd on the bus",
    "org.freedesktop.DBus.Error.NameHasNoOwner": "there is no systemd on the bus",
    "org.freedesktop.DBus.Error.NoReply": "systemd left the bus without an answer",
    "org.freedesktop.DBus.Error.AccessDenied": "the bus does not allow it",
}
_UNKNOWN = {
    "org.freedesktop.DBus.Error.UnknownProperty",
    "org.freedesktop.DBus.Error.UnknownInterface",
}


class IConnection(Protocol):
    """What is used of :class:`txdbus.client.DBusClientConnection`, whose names these are."""

    def callRemote(
        self,
        objectPath: str,
        methodName: str,
        *,
        interface: str,
        destination: str,
        signature: str | None = None,
        body: list[Any] | None = None,
        autoStart: bool = True,
    ) -> Deferred[Any]:
        """Call a method. Fails with an exception that has ``errName`` for an error reply. Never
        fires when the connection was lost before."""

    def addMatch(
        self,
        callback: Callable[[Any], object],
        *,
        mtype: str,
        sender: str,
        interface: str,
        member: str,
        path: str,
        arg: list[tuple[int, str]] | None = None,
    ) -> Deferred[int]:
        """Call ``callback`` with each such signal."""

    def delMatch(self, rule_id: int) -> Deferred[Any]:
        """Take back what :meth:`addMatch` has given the number of."""

    def notifyOnDisconnect(self, callback: Callable[[Any, Failure], object]) -> None:
        """Call ``callback`` once the connection is closed, whoever closed it."""

    def disconnect(self) -> None:
        """Close it, without waiting for what is not sent yet."""


class Refused(BzzzError):
    """An error reply.

    :ivar name: the D-Bus name of the error.
    """

    def __init__(self, name: str, message: str) -> None:
        said = " ".join(message.split())[:MAX_MESSAGE]
        reason = _REASONS.get(name, name)
        super().__init__(f"{reason} ({said})" if said else reason)
        self.name = name


def in_words(error: BaseException | None) -> BaseException:
    """What went wrong, for people; what is not known to go wrong stays as it is."""
    if error is None or isinstance(error, ConnectionClosed):
        return BzzzError("the bus closed the connection")
    name = getattr(error, "errName", None)
    if name is not None:
        return Refused(str(name), str(getattr(error, "message", "")))
    return error


def call_systemd(
    connection: IConnection,
    path: str,
    interface: str,
    member: str,
    signature: str | None = None,
    body: list[Any] | None = None,
) -> Deferred[Any]:
    """Call a method of systemd. The bus does not start it for that, which would only say in other
    words that it is not there."""
    return connection.callRemote(
        path,
        member,
        interface=interface,
        destination=_SYSTEMD,
        signature=signature,
        body=body,
        autoStart=False,
    )


async def wait_for(asked: Deferred[Any], whose: str, clock: Clock, timeout: float) -> Any:
    """Wait for ``asked``, at most ``timeout`` seconds.

    :param whose: whose answer it is, for people.
    :raises BzzzError: it failed or took too long.
    """
    # txdbus has timeouts for calls, but on the global reactor, and none for a connection. Clock is
    # what it uses of IReactorTime.
    asked.addTimeout(timeout, clock)  # type: ignore[arg-type]  # needs callLater alone
    try:
        return await asked
    except DeferTimeoutError:
        raise BzzzError(f"no answer of {whose} within {timeout:g} s") from None
    except Exception as error:
        words = in_words(error)
        if words is error:
            raise
        raise words from error


class ServiceManager:
    """One service manager, over one connection.

    :ivar values: the properties of the unit, each as of the last answer or signal that had it.
        Both come in the order in which systemd sent them, so that the later is the truer.
    :param moved: called when a signal brought a value.
    :param timeout: seconds for each answer.
    :param coalesce: seconds between a signal and the news that there is something to ask for.
    """

    def __init__(
        self,
        clock: Clock,
        connection: IConnection,
        moved: Callable[[], object],
        *,
        timeout: float,
        coalesce: float,
    ) -> None:
        self.values: dict[str, object] = {}
        self._clock = clock
        self._connection = connection
        self._moved = moved
        self._timeout = timeout
        self._coalesce = coalesce
        self._matched = False
        self._subscribed = False
        self._path = ""
        self._news = False
        self._waiting: Deferred[None] | None = None
        self._timer: IDelayedCall | None = None
        self._closing = False
        self._closed: Deferred[None] = Deferred()
        connection.notifyOnDisconnect(self._lost)

    async def ask(self, pid: int) -> None:
        """Learn all there is to know about the unit of process ``pid``.

        :raises BzzzError: it cannot be learnt.
        """
        self._news = False
        if not self._matched:
            self._matched = True
            await self._match(
                self._owner_changed, _BUS, _BUS, "NameOwnerChanged", _BUS_PATH, [(0, _SYSTEMD)]
            )
            await self._match(self._reloading, _SYSTEMD, _MANAGER, "Reloading", _MANAGER_PATH)
        if not self._subscribed:
            # Before it is done, so that a new owner meanwhile is subscribed to in the next round.
            self._subscribed = True
            try:
                await self._call(_MANAGER_PATH, _MANAGER, "Subscribe")
            except Refused as error:
                # A manager that was only executed anew remembers its subscribers.
                if error.name != "org.freedesktop.systemd1.AlreadySubscribed":
                    raise
        path = await self._call(_MANAGER_PATH, _MANAGER, "GetUnitByPID", "u", [pid])
        if not isinstance(path, str) or not path.startswith("/"):
            raise BzzzError(f"systemd gave {path!r} as the path of the unit")
        if path != self._path:
            self._path = path
            # One for a path before stays: it is compared with the path of what comes.
            await self._match(
                self._properties_changed, _SYSTEMD, _PROPERTIES, "PropertiesChanged", path
            )
        # One after the other, so that no turn of the reactor decodes all the answers.
        for name, interface in PROPERTIES.items():
            try:
                value = await self._call(path, _PROPERTIES, "Get", "ss", [interface, name])
            except Refused as error:
                # An older systemd has not all of them, and a scope is no service.
                if error.name not in _UNKNOWN:
                    raise
                self.values.pop(name, None)
            else:
                self.values[name] = value

    async def news(self, longest: float) -> None:
        """Wait until there is something to ask for, or ``longest`` seconds.

        :raises BzzzError: the connection was lost.
        """
        if self._news:
            return
        self._waiting = Deferred()
        timer = self._clock.callLater(longest, self._wake)
        try:
            await self._waiting
        finally:
            self._waiting = None
            if timer.active():
                timer.cancel()

    async def close(self) -> None:
        """Close the connection, and wait until it is."""
        self._closing = True
        if self._timer is not None:
            self._timer.cancel()
        if not self._closed.called:
            self._connection.disconnect()
        await self._closed

    async def _call(
        self,
        path: str,
        interface: str,
        member: str,
        signature: str | None = None,
        body: list[Any] | None = None,
    ) -> Any:
        called = call_systemd(self._connection, path, interface, member, signature, body)
        return await wait_for(called, "systemd", self._clock, self._timeout)

    async def _match(
        self,
        callback: Callable[[Any], object],
        sender: str,
        interface: str,
        member: str,
        path: str,
        arg: list[tuple[int, str]] | None = None,
    ) -> None:
        def heard(message: Any) -> None:
            # What was read together with the message that had it closed is still delivered.
            if not self._closing:
                callback(message)

        added = self._connection.addMatch(
            heard,
            mtype="signal",
            sender=sender,
            interface=interface,
            member=member,
            path=path,
            arg=arg,
        )
        await wait_for(added, "the bus", self._clock, self._timeout)

    def _owner_changed(self, message: Any) -> None:
        # Without a new one there is nobody to ask: it is on its way, or missed at the next asking.
        if message.body[2]:
            self._subscribed = False
            self._soon()

    def _reloading(self, message: Any) -> None:
        # It begins with true, and until it ends nothing is answered.
        if not message.body[0]:
            self._soon()

    def _properties_changed(self, message: Any) -> None:
        if message.path != self._path:
            return
        interface, changed, _ = message.body
        known = {
            name: value for name, value in changed.items() if PROPERTIES.get(name) == interface
        }
        self.values.update(known)
        self._soon()
        if known:
            # Now, and not when all is read again: "deactivating" is followed by SIGTERM at once.
            self._moved()

    def _soon(self) -> None:
        if self._timer is None:
            self._timer = self._clock.callLater(self._coalesce, self._due)

    def _due(self) -> None:
        self._timer = None
        self._wake()

    def _wake(self) -> None:
        self._news = True
        if self._waiting is not None:
            self._waiting.callback(None)

    def _lost(self, _: Any, reason: Failure) -> None:
        self._closed.callback(None)
        if self._waiting is not None:
            self._waiting.errback(in_words(reason.value))
