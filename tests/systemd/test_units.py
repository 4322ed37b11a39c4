"""Where a bus is, and connections to one, in memory."""

from __future__ import annotations

from typing import Any, cast

from twisted.internet.error import ConnectionDone
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from txdbus import marshal, message

from bzzz.errors import BzzzError
from bzzz.systemd.units import MAX_MESSAGE, SYSTEM_BUS, _Factory, bus_paths

ME = ":1.5"


class PathTests(SynchronousTestCase):
    """D-Bus Specification, "Server Addresses"."""

    def system(self, address: str) -> list[str]:
        return bus_paths("system", {"DBUS_SYSTEM_BUS_ADDRESS": address})

    def test_defaults(self) -> None:
        """The system's bus has a place of its own; the user's is in the runtime directory."""
        self.assertEqual(bus_paths("system", {}), [SYSTEM_BUS])
        self.assertEqual(bus_paths("system", {"DBUS_SYSTEM_BUS_ADDRESS": ""}), [SYSTEM_BUS])
        runtime = {"XDG_RUNTIME_DIR": "/run/user/1000"}
        self.assertEqual(bus_paths("session", runtime), ["/run/user/1000/bus"])

    def test_no_user(self) -> None:
        """Without both variables the user's bus is not known."""
        error = self.assertRaises(BzzzError, bus_paths, "session", {})
        self.assertEqual(
            str(error),
            "neither DBUS_SESSION_BUS_ADDRESS nor XDG_RUNTIME_DIR is set: the user's bus is not"
            " known",
        )

    def test_address(self) -> None:
        """A variable that is set goes before; its keys, escapes and alternatives are understood."""
        self.assertEqual(
            bus_paths(
                "session",
                {
                    "DBUS_SESSION_BUS_ADDRESS": "unix:path=/tmp/a%20b%3d,guid=12ab",
                    "XDG_RUNTIME_DIR": "/run/user/1000",
                },
            ),
            ["/tmp/a b="],
        )
        self.assertEqual(
            self.system("tcp:host=localhost,port=1;unix:guid=1,path=/a;unix:abstract=/b"),
            ["/a", "\0/b"],
        )

    def test_useless(self) -> None:
        """An address of which nothing can be used is shown, with what could be."""
        for address in (
            "tcp:host=localhost,port=1",
            "unix:tmpdir=/tmp",
            "nonsense",
            "unix:path=/" + "x" * 107,
            ";;,=,",
        ):
            error = self.assertRaises(BzzzError, self.system, address)
            self.assertIn(f"DBUS_SYSTEM_BUS_ADDRESS is {address!r}", str(error))
            self.assertIn("unix:path=", str(error))
        self.assertEqual(self.system("unix:path=/" + "x" * 106), ["/" + "x" * 106])


class Signal(message.SignalMessage):
    """A signal as the bus passes it on."""

    def __init__(self, sender: str, **how: Any) -> None:
        self.sender = sender
        super().__init__("/p", "Changed", "org.example.I", **how)


class ConnectionTests(SynchronousTestCase):
    """D-Bus Specification, "Authentication Protocol" and "Message Format"."""

    def setUp(self) -> None:
        self.factory = _Factory()
        self.connection = cast(Any, self.factory.buildProtocol(None))
        self.transport = StringTransport()
        self.connection.makeConnection(self.transport)
        self.heard: list[Any] = []

    def receive(self, data: bytes) -> None:
        self.connection.dataReceived(data)

    def sent(self) -> bytes:
        data: bytes = self.transport.value()
        self.transport.clear()
        return data

    def ready(self) -> None:
        """Through authentication and Hello, with one signal asked for."""
        self.receive(b"DATA\r\n")
        self.receive(b"OK 0123\r\n")
        self.receive(self.reply(ME, "s"))
        self.successResultOf(self.factory.ready)
        added = self.connection.addMatch(
            lambda heard: self.heard.append(heard.body), mtype="signal", interface="org.example.I"
        )
        self.receive(self.reply())
        self.successResultOf(added)
        self.sent()

    def reply(self, value: object = None, signature: str | None = None) -> bytes:
        """The answer to the last call."""
        serial = max(self.connection._pendingCalls)
        body = [value] if signature else None
        made = message.MethodReturnMessage(serial, body, ME, signature)
        return bytes(made.rawMessage)

    def signal(self, size: int = 3, destination: str | None = None) -> bytes:
        made = Signal(":1.1", signature="ay", body=[[7] * size], destination=destination)
        return bytes(made.rawMessage)

    def lost(self) -> BzzzError:
        """The reason of a connection that this side gave up."""
        self.assertTrue(self.transport.disconnected)
        self.connection.connectionLost(Failure(ConnectionDone()))
        failure = self.failureResultOf(self.factory.ready, BzzzError)
        assert isinstance(failure.value, BzzzError)
        return failure.value

    def test_authentication(self) -> None:
        """It is who the kernel says, asks for no descriptors to be passed, and then says Hello."""
        self.assertEqual(self.sent(), b"\0AUTH EXTERNAL\r\n")
        self.receive(b"DATA\r")
        self.receive(b"\n")
        self.assertEqual(self.sent(), b"DATA\r\n")
        self.receive(b"OK 0123456789abcdef\r\n")
        sent = self.sent()
        self.assertTrue(sent.startswith(b"BEGIN\r\n"))
        self.assertIn(b"Hello", sent)
        self.assertNoResult(self.factory.ready)
        self.receive(self.reply(ME, "s"))
        self.assertIs(self.successResultOf(self.factory.ready), self.connection)

    def test_refused(self) -> None:
        """A bus that does not accept this user is an error; nothing else is tried, or logged."""
        self.sent()
        self.receive(b"REJECTED EXTERNAL DBUS_COOKIE_SHA1 ANONYMOUS\r\n")
        self.assertEqual(self.sent(), b"")
        self.assertIn("does not accept this user", str(self.lost()))
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_no_bus(self) -> None:
        """What is no bus is given up."""
        self.receive(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        self.assertIn("does not accept", str(self.lost()))

    def test_endless_line(self) -> None:
        """A line of authentication that never ends is given up."""
        self.receive(b"x" * 20_000)
        self.assertTrue(self.transport.disconnecting)

    def test_lost_before_hello(self) -> None:
        """A connection that ends before Hello is answered fails."""
        self.receive(b"OK 0123\r\n")
        self.connection.connectionLost(Failure(ConnectionDone()))
        self.failureResultOf(self.factory.ready, ConnectionDone)

    def test_hello_refused(self) -> None:
        """So does one to which the bus says no."""
        self.receive(b"OK 0123\r\n")
        serial = max(self.connection._pendingCalls)
        refusal = message.ErrorMessage(
            "org.freedesktop.DBus.Error.LimitsExceeded", serial, signature="s", body=["too many"]
        )
        self.receive(refusal.rawMessage)
        failure = self.failureResultOf(self.factory.ready)
        self.assertIn("LimitsExceeded: too many", failure.getErrorMessage())

    def test_abandoned(self) -> None:
        """Hello that comes after nobody waits any more does no harm."""
        self.receive(b"OK 0123\r\n")
        hello = self.reply(ME, "s")
        self.factory.ready.cancel()
        self.failureResultOf(self.factory.ready)
        self.receive(hello)
        self.connection.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_hello_with_authentication(self) -> None:
        """What is read together with the end of authentication is not lost."""
        # Serial numbers are counted in the process: this reply takes one, Hello the next.
        hello = message.DBusMessage._nextSerial + 1
        early = message.MethodReturnMessage(hello, [ME], ME, "s")
        self.receive(b"OK 0123\r\n" + early.rawMessage)
        self.successResultOf(self.factory.ready)

    def test_many_in_one_read(self) -> None:
        """Any number of messages may come at once: the stack does not grow with it."""
        self.ready()
        self.receive(self.signal() * 3000)
        self.assertEqual(len(self.heard), 3000)
        self.assertFalse(self.transport.disconnecting)

    def test_byte_by_byte(self) -> None:
        """Messages may come in any pieces."""
        self.ready()
        for byte in self.signal() + self.signal(5):
            self.receive(bytes([byte]))
        self.assertEqual(self.heard, [[[7] * 3], [[7] * 5]])

    def test_big_endian(self) -> None:
        """The order of bytes is the sender's choice."""
        self.ready()
        fields = [[1, marshal.ObjectPath("/p")], [2, "org.example.I"], [3, "Changed"]]
        fields.append([8, marshal.Signature("u")])
        header = b"".join(
            marshal.marshal("yyyyuua(yv)", [ord("B"), 4, 1, 1, 4, 9, fields], lendian=False)[1]
        )
        header += bytes(-len(header) % 8)
        self.receive(header + (258).to_bytes(4, "big") + self.signal())
        self.assertEqual(self.heard, [[258], [[7] * 3]])

    def test_too_long(self) -> None:
        """A message above the limit is passed over, without being kept; the next is read."""
        self.ready()
        data = self.signal(MAX_MESSAGE * 4)
        for start in range(0, len(data), 4096):
            self.receive(data[start : start + 4096])
            self.assertLess(len(self.connection._received), 4096 + 16)
        self.receive(self.signal())
        self.assertEqual(self.heard, [[[7] * 3]])

    def test_of_a_stranger(self) -> None:
        """A signal that somebody sent to this very connection is not one that was asked for."""
        self.ready()
        self.receive(self.signal(destination=ME) + self.signal())
        self.assertEqual(len(self.heard), 1)

    def test_calls(self) -> None:
        """Calls of others are not answered."""
        self.ready()
        call = message.MethodCallMessage("/", "Ping", "org.freedesktop.DBus.Peer", ME)
        self.receive(call.rawMessage)
        self.assertEqual(self.sent(), b"")

    def test_unknown_kind(self) -> None:
        """A kind of message that is not known is to be ignored (Specification, "Message Types")."""
        self.ready()
        odd = bytearray(self.signal())
        odd[1] = 9
        self.receive(bytes(odd) + self.signal())
        self.assertEqual(len(self.heard), 1)

    def test_garbage(self) -> None:
        """What cannot be read ends the connection, with the reason for those who wait."""
        self.ready()
        call = self.connection.callRemote("/p", "M", interface="org.example.I")
        reasons: list[Failure] = []
        self.connection.notifyOnDisconnect(lambda _, reason: reasons.append(reason))
        broken = bytearray(self.signal())
        broken[16:24] = b"\xff" * 8
        self.receive(bytes(broken) + self.signal())
        self.assertTrue(self.transport.disconnected)
        self.receive(b"")
        self.assertEqual(self.heard, [])
        self.connection.connectionLost(Failure(ConnectionDone()))
        self.assertIn("cannot be read", str(self.failureResultOf(call, BzzzError).value))
        self.assertIn("cannot be read", str(reasons[0].value))
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_disconnect(self) -> None:
        """Closing does not wait for what was written to be taken."""
        self.ready()
        self.connection.disconnect()
        self.assertTrue(self.transport.disconnected)
