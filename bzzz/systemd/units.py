"""Units of systemd over D-Bus: how a bus is reached; the only module that imports txdbus.

Enters: which bus, and the environment that says where it is. Leaves: an authenticated connection
that said Hello, or an error in words. Spec: D-Bus Specification, "Server Addresses",
"Authentication Protocol", "Message Protocol".
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import unquote

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.error import ConnectError
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure
from txdbus.client import DBusClientConnection
from txdbus.marshal import unmarshal
from txdbus.protocol import IDBusAuthenticator
from zope.interface import implementer

from bzzz.errors import BzzzError
from bzzz.net.interfaces import Randomness
from bzzz.systemd.manager import IConnection
from bzzz.systemd.unit import Unit
from bzzz.systemd.unit_watch import UnitWatch

__all__ = ["bus_paths", "txdbus_connect", "watch_unit"]

SYSTEM_BUS = "/run/dbus/system_bus_socket"

# Bytes of a message that is read; what systemd sends here has a few thousand. A stranger on the
# bus may send 32 MB, of which txdbus makes one Python object a byte.
MAX_MESSAGE = 64 << 10

# Bytes of a socket's name that the kernel takes; Twisted's connecting raises where nobody catches
# it if there are more.
MAX_PATH = 107

# Of a message up to the length of its header fields.
_FIXED = 16

_METHOD_RETURN, _ERROR, _SIGNAL = 2, 3, 4
_DESTINATION = 6


def bus_paths(bus: str, environ: Mapping[str, str]) -> list[str]:
    """The sockets at which ``bus`` may be, in the order to try.

    A name in the abstract namespace begins with a zero byte.

    :param bus: ``system``, or ``session`` for the user's.
    :raises BzzzError: the environment does not say, or names nothing that can be used.
    """
    variable = f"DBUS_{bus.upper()}_BUS_ADDRESS"
    address = environ.get(variable)
    if not address:
        if bus == "system":
            return [SYSTEM_BUS]
        runtime = environ.get("XDG_RUNTIME_DIR")
        if not runtime:
            raise BzzzError(
                f"neither {variable} nor XDG_RUNTIME_DIR is set: the user's bus is not known"
            )
        return [f"{runtime}/bus"]
    paths = []
    for one in address.split(";"):
        transport, _, rest = one.partition(":")
        values = dict(item.partition("=")[::2] for item in rest.split(","))
        if transport == "unix" and "path" in values:
            paths.append(unquote(values["path"]))
        elif transport == "unix" and "abstract" in values:
            paths.append("\0" + unquote(values["abstract"]))
    paths = [path for path in paths if len(os.fsencode(path)) <= MAX_PATH]
    if not paths:
        raise BzzzError(
            f"{variable} is {address!r}, in which no unix:path= or unix:abstract= of at most"
            f" {MAX_PATH} bytes can be found"
        )
    return paths


def watch_unit(
    reactor: Any,
    environ: Mapping[str, str],
    pid: int,
    changed: Callable[[Unit | None], object],
    random: Randomness,
) -> UnitWatch:
    """Watches the unit of the process ``pid``; see :class:`~bzzz.systemd.unit_watch.UnitWatch`."""
    connect = txdbus_connect(reactor, environ)
    return UnitWatch(reactor, pid, changed, random=random, connect=connect)


def txdbus_connect(
    reactor: Any, environ: Mapping[str, str]
) -> Callable[[str], Deferred[IConnection]]:
    """What connects :class:`~bzzz.systemd.unit_watch.UnitWatch` to a bus.

    :param reactor: provides ``IReactorUNIX`` and ``IReactorTime``.
    :return: connects to the ``system`` or ``session`` bus; fails with
        :class:`~bzzz.errors.BzzzError`. Cancelling its Deferred closes what was opened.
    """

    def connect(bus: str) -> Deferred[IConnection]:
        return Deferred.fromCoroutine(_connect(reactor, bus, environ))

    return connect


async def _connect(reactor: Any, bus: str, environ: Mapping[str, str]) -> IConnection:
    failed = BzzzError(f"no address of the {bus} bus is known")
    for path in bus_paths(bus, environ):
        factory = _Factory()
        try:
            connection = await UNIXClientEndpoint(reactor, path).connect(factory)
        except ConnectError as error:
            failed = _unreachable(bus, path, error)
            continue
        try:
            return await factory.ready
        except BaseException:
            connection.disconnect()
            raise
    raise failed


def _unreachable(bus: str, path: str, error: ConnectError) -> BzzzError:
    shown = path.replace("\0", "@", 1)
    if error.osError == errno.ENOENT:
        package = "dbus" if bus == "system" else "dbus-user-session"
        return BzzzError(f"there is no {bus} bus at {shown}; the package {package} has one")
    if error.osError == errno.ECONNREFUSED:
        return BzzzError(f"there is no {bus} bus any more at {shown}: nobody listens there")
    if error.osError in (errno.EACCES, errno.EPERM):
        return BzzzError(f"this user may not connect to the {bus} bus at {shown}")
    # Where its queue is full Twisted only has a failure of its own.
    reason = os.strerror(error.osError) if error.osError else "it takes no connection now"
    return BzzzError(f"the {bus} bus at {shown} cannot be reached: {reason}")


@implementer(IDBusAuthenticator)
class _External:
    """Authentication by the kernel's word for who this is.

    txdbus's own goes on to a cookie file in the home directory when that is refused, which blocks,
    fails for a user without a name, and is logged at each try. It also agrees to pass file
    descriptors, and never closes those that come.
    """

    def beginAuthentication(self, protocol: Any) -> None:
        self._protocol = protocol
        self._accepted = False
        protocol.sendAuthMessage(b"AUTH EXTERNAL")

    def handleAuthMessage(self, line: bytes) -> None:
        word = line.split(b" ", 1)[0]
        if word == b"DATA":
            self._protocol.sendAuthMessage(b"DATA")
        elif word == b"OK":
            self._accepted = True
            self._protocol.sendAuthMessage(b"BEGIN")
        else:
            raise BzzzError("the bus does not accept this user (EXTERNAL authentication)")

    def authenticationSucceeded(self) -> bool:
        return self._accepted

    def getGUID(self) -> bytes:
        return b""


class _Connection(DBusClientConnection):
    """txdbus's connection, with what a stranger on the bus could do to it taken out."""

    authenticator = _External
    _buffer: bytes = b""  # of txdbus
    factory: _Factory

    def __init__(self) -> None:
        self._received = bytearray()
        self._to_skip = 0
        self._broken: Failure | None = None

    def dataReceived(self, data: bytes) -> None:
        # What is raised here would be logged as a crash, at each try, and its reason be lost.
        try:
            if self._authenticated:
                self._split(data)
            else:
                super().dataReceived(data)
        except Exception as error:  # noqa: BLE001 - txdbus raises whatever unpacking raises
            broken = error if isinstance(error, BzzzError) else None
            self._broken = Failure(
                broken or BzzzError(f"what the bus sent cannot be read: {error!r}")
            )
            self.disconnect()

    def _split(self, data: bytes) -> None:
        """Cut what came into messages.

        txdbus calls itself for each message of one read, copies all that is left for each, and
        collects messages of any length.
        """
        received = self._received
        # What came together with the end of authentication is still in txdbus's buffer.
        received += self._buffer + data
        self._buffer = b""
        while self._broken is None:
            if self._to_skip:
                skipped = min(self._to_skip, len(received))
                del received[:skipped]
                self._to_skip -= skipped
            if len(received) < _FIXED:
                return
            order = "<" if received[0] == ord("l") else ">"
            body, fields = struct.unpack_from(f"{order}4xI4xI", received)
            length = _FIXED + fields + -fields % 8 + body
            if length > MAX_MESSAGE:
                self._to_skip = length
            elif len(received) < length:
                return
            else:
                message = bytes(received[:length])
                del received[:length]
                self.rawDBusMessageReceived(message)

    def rawDBusMessageReceived(self, rawMsg: bytes) -> None:
        # Nothing is offered here, so that a call is of no use; kinds to come are to be ignored.
        if rawMsg[1] not in (_METHOD_RETURN, _ERROR, _SIGNAL):
            return
        if rawMsg[1] == _SIGNAL:
            # The bus passes on those that were asked for, of the sender that was asked for; but one
            # addressed to this connection comes from anybody, and txdbus does not look at senders.
            header = unmarshal("yyyyuua(yv)", rawMsg, 0, rawMsg[0] == ord("l"), [])[1]
            if any(code == _DESTINATION for code, _ in header[6]):
                return
        super().rawDBusMessageReceived(rawMsg)

    def connectionLost(self, reason: Failure) -> None:
        reason = self._broken or reason
        # Of one that is lost before Hello txdbus tells nobody.
        self.factory._failed(reason)
        super().connectionLost(reason)

    def disconnect(self) -> None:
        # txdbus would first send all that was written, for which a bus that is stuck never lets it.
        self.transport.abortConnection()


class _Factory(Factory):
    """Makes one connection, and has its names from txdbus, which calls them.

    :ivar ready: fires with the connection when the bus has answered Hello.
    """

    protocol = _Connection
    noisy = False

    def __init__(self) -> None:
        self.ready: Deferred[IConnection] = Deferred()

    def _ok(self, connection: IConnection) -> None:
        if not self.ready.called:
            self.ready.callback(connection)

    def _failed(self, reason: Failure) -> None:
        if not self.ready.called:
            self.ready.errback(reason)
