"""Watching a unit over a real message bus, private to the test, on which the test is systemd."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.logger import LogLevel
from twisted.trial.unittest import TestCase
from txdbus import client, marshal, message
from txdbus.error import RemoteError

from bzzz.errors import BzzzError
from bzzz.systemd.unit import Unit
from bzzz.systemd.unit_watch import UnitWatch
from bzzz.systemd.units import txdbus_connect
from tests.logs import lines_at
from tests.needs import find_tool, needs, without_tools
from tests.systemd.test_unit import GIVEN

reactor: Any = global_reactor

SYSTEMD = "org.freedesktop.systemd1"
MANAGER = "/org/freedesktop/systemd1"
PATH = f"{MANAGER}/unit/bzzz_2eservice"

# Seconds for an answer in these tests. What is not slow on purpose takes a few milliseconds.
CALL_TIMEOUT = 1.0
PATIENCE = 8.0

# A bus as it is for a user, but for what a test denies.
CONFIG = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-BUS Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>session</type>
  <listen>unix:path={path}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/>
    <allow eavesdrop="true"/>
    <allow own="*"/>
    {denied}
  </policy>
</busconfig>
"""

# The types that systemd documents.
TYPES = {
    "MainPID": marshal.UInt32,
    "NRestarts": marshal.UInt32,
    "ExecMainStartTimestamp": marshal.UInt64,
    "WatchdogUSec": marshal.UInt64,
    "LimitNOFILESoft": marshal.UInt64,
    "LimitNPROCSoft": marshal.UInt64,
    "MemoryCurrent": marshal.UInt64,
    "MemoryMax": marshal.UInt64,
}


class Soon:
    """Randomness that makes each wait short, so that a test does not take as long as a bus."""

    def random(self) -> float:
        return 0.0

    def uniform(self, a: float, b: float) -> float:
        return 0.1

    def randbytes(self, n: int) -> bytes:
        return bytes(n)


class Bus:
    """A dbus-daemon of the test's own, on a socket that stays the same."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "bus"
        self._config = directory / "bus.conf"
        self._daemon: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"unix:path={self.path}"

    def start(self, denied: str = "") -> None:
        self._config.write_text(CONFIG.format(path=self.path, denied=denied))
        tool = find_tool("dbus-daemon")
        assert tool is not None
        log = self._config.with_name("log")
        with log.open("ab") as stderr:
            self._daemon = subprocess.Popen(
                [tool, "--nofork", f"--config-file={self._config}", "--print-address=1"],
                stdout=subprocess.PIPE,
                stderr=stderr,
            )
        assert self._daemon.stdout is not None
        # It writes its address when it listens.
        assert b"unix:path=" in self._daemon.stdout.readline(), log.read_text()

    def send_signal(self, number: int) -> None:
        assert self._daemon is not None
        self._daemon.send_signal(number)

    def kill(self) -> None:
        if self._daemon is not None:
            self._daemon.kill()
            self._daemon.wait(10)
            assert self._daemon.stdout is not None
            self._daemon.stdout.close()
            self._daemon = None


class FakeSystemd(client.DBusClientConnection):
    """Somebody who can own systemd's name on a bus, and answers as it would.

    :ivar errors: by method, or by property: the name of the error that it is answered with.
    :ivar silent: methods and properties that get no answer.
    """

    def connectionAuthenticated(self) -> None:
        self.properties = {**GIVEN, "MainPID": os.getpid()}
        self.errors: dict[str, str] = {}
        self.silent: set[str] = set()
        self.unanswered: list[Any] = []
        self.asked: list[str] = []
        self.askers: set[str] = set()
        super().connectionAuthenticated()

    def methodCallReceived(self, mcall: Any) -> None:
        key = mcall.body[1] if mcall.member == "Get" else mcall.member
        self.asked.append(key)
        self.askers.add(mcall.sender)
        if key in self.silent:
            self.unanswered.append(mcall)
        elif key in self.errors:
            self._send(
                message.ErrorMessage(
                    self.errors[key], mcall.serial, mcall.sender, "s", ["in other words"]
                )
            )
        elif key == "Subscribe":
            self._send(message.MethodReturnMessage(mcall.serial, destination=mcall.sender))
        elif key == "GetUnitByPID":
            path = PATH if mcall.body == [os.getpid()] else f"{PATH}x"
            self._send(message.MethodReturnMessage(mcall.serial, [path], mcall.sender, "o"))
        else:
            value = self.typed(key, self.properties[key])
            self._send(message.MethodReturnMessage(mcall.serial, [value], mcall.sender, "v"))

    @staticmethod
    def typed(name: str, value: Any) -> Any:
        return TYPES[name](value) if name in TYPES and type(value) is int else value

    def _send(self, made: Any) -> None:
        self.sendMessage(made)

    def answer_late(self) -> None:
        self.silent.clear()
        for mcall in self.unanswered:
            self.methodCallReceived(mcall)
        self.unanswered.clear()

    def moved(self, destination: str | None = None, **changed: Any) -> None:
        values = {name: self.typed(name, value) for name, value in changed.items()}
        self._send(
            message.SignalMessage(
                PATH,
                "PropertiesChanged",
                "org.freedesktop.DBus.Properties",
                destination,
                "sa{sv}as",
                [f"{SYSTEMD}.Unit", values, []],
            )
        )


@needs(without_tools("dbus-daemon"))
class RealBusTests(TestCase):
    timeout = 30

    async def asynchronous(self) -> None:
        """A bus, and systemd on it."""
        directory = Path(tempfile.mkdtemp(prefix="bzzz-bus-"))
        self.addCleanup(shutil.rmtree, directory)
        self.bus = Bus(directory)
        self.addCleanup(self.bus.kill)
        self.environ = {"DBUS_SYSTEM_BUS_ADDRESS": self.bus.address}
        self.told: list[Unit | None] = []
        self.warnings = lines_at(self, LogLevel.warn)
        self.infos = lines_at(self, LogLevel.info)
        self.watch = UnitWatch(
            reactor,
            os.getpid(),
            self.told.append,
            random=Soon(),
            connect=txdbus_connect(reactor, self.environ),
            call_timeout=CALL_TIMEOUT,
            coalesce=0.05,
        )
        self.addCleanup(self.watch.stop)
        self.bus.start()
        self.systemd = await self.join()

    def setUp(self) -> Deferred[None]:  # type: ignore[override]  # trial waits for it
        return Deferred.fromCoroutine(self.asynchronous())

    async def join(self, named: bool = True) -> FakeSystemd:
        """Another connection to the bus, which is systemd or just somebody."""
        factory = client.DBusClientFactory()
        factory.protocol = FakeSystemd
        factory.noisy = False
        await UNIXClientEndpoint(reactor, str(self.bus.path)).connect(factory)
        joined = cast(FakeSystemd, await factory.getConnection())

        def leave() -> Deferred[None]:
            left: Deferred[None] = Deferred()
            if joined.transport.connected:
                joined.notifyOnDisconnect(lambda *_: left.callback(None))
                joined.disconnect()
            else:
                left.callback(None)
            return left

        self.addCleanup(leave)
        if named:
            await joined.requestBusName(SYSTEMD)
        return joined

    async def until(self, found: Callable[[], object], what: str) -> None:
        end = reactor.seconds() + PATIENCE
        while not found():
            if reactor.seconds() > end:
                self.fail(f"after {PATIENCE:g} s still not: {what}; {self.watch.problem!r}")
            await deferLater(reactor, 0.01)

    async def known(self) -> Unit:
        self.watch.start()
        await self.until(lambda: self.told, "the unit known")
        assert self.watch.unit is not None
        return self.watch.unit

    async def again(self) -> None:
        """Until it could be asked again after a failure."""
        await self.until(lambda: self.infos, "asked again")
        self.assertEqual(self.watch.problem, "")

    def last(self) -> Unit:
        unit = self.told[-1]
        assert unit is not None
        return unit

    async def test_known(self) -> None:
        """The unit is known as systemd has it, with each number of its documented type."""
        unit = await self.known()
        self.assertEqual(unit, Unit.from_properties(self.systemd.properties))
        self.assertEqual(unit.memory_bytes, GIVEN["MemoryCurrent"])
        self.assertEqual(self.systemd.asked[:2], ["Subscribe", "GetUnitByPID"])
        self.assertEqual(self.warnings + self.infos, [])

    async def test_changes(self) -> None:
        """A signal of systemd changes the unit, and has all of it read again."""
        await self.known()
        self.systemd.properties.update(ActiveState="deactivating", SubState="stop-sigterm")
        self.systemd.moved(ActiveState="deactivating")
        await self.until(lambda: self.last().sub_state == "stop-sigterm", "read again")
        self.assertEqual(
            [unit and (unit.active_state, unit.sub_state) for unit in self.told],
            [("active", "running"), ("deactivating", "running"), ("deactivating", "stop-sigterm")],
        )

    async def test_no_unit(self) -> None:
        """A process without a unit is said once, and asked for until it has one."""
        self.systemd.errors["GetUnitByPID"] = f"{SYSTEMD}.NoUnitForPID"
        self.watch.start()
        await self.until(lambda: self.systemd.asked.count("GetUnitByPID") > 3, "some tries")
        self.assertEqual(
            self.watch.problem, "systemd knows no unit of this process (in other words)"
        )
        self.assertEqual(len(self.warnings), 1)
        self.assertEqual(self.told, [])
        self.systemd.errors.clear()
        await self.again()
        self.assertEqual(len(self.told), 1)

    async def test_denied(self) -> None:
        """A bus whose policy does not allow to ask is said once, and asked for ever."""
        self.bus.kill()
        self.bus.start(
            f'<deny send_interface="{SYSTEMD}.Manager" send_member="GetUnitByPID"'
            f' send_destination="{SYSTEMD}"/>'
        )
        self.systemd = await self.join()
        self.watch.start()
        await self.until(lambda: self.systemd.asked.count("Subscribe") > 3, "some tries")
        self.assertTrue(self.watch.problem.startswith("the bus does not allow it ("))
        self.assertEqual(len(self.warnings), 1)

    async def test_nobody(self) -> None:
        """A bus without systemd is said once; when it comes, it is asked."""
        await self.systemd.releaseBusName(SYSTEMD)
        self.watch.start()
        await self.until(lambda: self.warnings, "said")
        self.assertTrue(self.watch.problem.startswith("there is no systemd on the bus"))
        await self.systemd.requestBusName(SYSTEMD)
        await self.again()
        self.assertEqual(len(self.warnings), 1)

    async def test_slow(self) -> None:
        """An answer that does not come in time fails the try; when it comes late, nothing does."""
        self.systemd.silent.add("SubState")
        self.watch.start()
        await self.until(lambda: self.warnings, "said")
        self.assertEqual(self.watch.problem, f"no answer of systemd within {CALL_TIMEOUT:g} s")
        self.systemd.answer_late()
        await self.again()
        self.assertEqual(len(self.told), 1)
        self.assertEqual(len(self.warnings), 1)

    async def test_new_owner(self) -> None:
        """The name of systemd on another connection: it is subscribed to and asked."""
        await self.known()
        await self.systemd.releaseBusName(SYSTEMD)
        other = await self.join()
        other.properties["NRestarts"] = 7
        await self.until(lambda: self.last().restarts == 7, "asked the new one")
        self.assertEqual(other.asked[:2], ["Subscribe", "GetUnitByPID"])
        other.moved(ActiveState="deactivating")
        await self.until(lambda: self.last().active_state == "deactivating", "heard the new one")
        # What was systemd before is nobody now.
        self.systemd.moved(ActiveState="failed")
        await deferLater(reactor, 0.1)
        self.assertNotIn("failed", [unit and unit.active_state for unit in self.told])
        self.assertEqual(self.warnings, [])

    async def test_bus_restarted(self) -> None:
        """A bus that is killed and started again is found again, and said once each."""
        await self.known()
        self.bus.kill()
        await self.until(lambda: self.told[-1] is None, "not known any more")
        self.assertIn("nobody listens there", self.watch.problem)
        self.bus.start()
        self.systemd = await self.join()
        await self.until(lambda: self.told[-1] is not None, "known again")
        self.systemd.moved(ActiveState="deactivating")
        await self.until(lambda: self.last().active_state == "deactivating", "heard again")
        reasons = [line.split(": ", 1)[1].split(".")[0] for line in self.warnings]
        self.assertIn("nobody listens there", reasons[0])
        self.assertIn(": the bus closed the connection. Asking again", self.infos[0])
        self.assertEqual(len(reasons), len(set(reasons)))
        self.assertEqual(self.watch.problem, "")

    async def test_no_socket(self) -> None:
        """A bus whose socket is not there is named."""
        self.bus.path.rename(self.bus.path.with_name("moved"))
        self.watch.start()
        await self.until(lambda: self.warnings, "said")
        self.assertEqual(
            self.watch.problem,
            f"there is no system bus at {self.bus.path}; the package dbus has one",
        )

    async def test_wrong_type(self) -> None:
        """An answer of a type that is not documented is named, and asked for again."""
        self.systemd.properties["MainPID"] = "4711"
        self.watch.start()
        await self.until(lambda: self.warnings, "said")
        self.assertIn("'4711' as MainPID of the unit, where int", self.watch.problem)
        self.systemd.properties["MainPID"] = os.getpid()
        await self.again()

    async def test_stranger(self) -> None:
        """Somebody else on the bus cannot pass for systemd, whether he speaks to all or to us."""
        await self.known()
        stranger = await self.join(named=False)
        (ours,) = self.systemd.askers
        stranger.moved(ActiveState="deactivating")
        stranger.moved(ours, ActiveState="deactivating")
        # What came before these is heard before them.
        self.systemd.moved(SubState="reload")
        await self.until(lambda: self.last().sub_state == "reload", "heard systemd")
        await deferLater(reactor, 0.1)
        self.assertEqual({unit and unit.active_state for unit in self.told}, {"active"})

    async def test_huge(self) -> None:
        """Megabytes of a stranger's do not occupy the reactor, and cost no connection."""
        await self.known()
        stranger = await self.join(named=False)
        (ours,) = self.systemd.askers
        made = message.SignalMessage("/p", "Huge", "org.example.I", ours, "s", ["x" * (8 << 20)])
        stranger.sendMessage(made)
        began = reactor.seconds()
        self.systemd.moved(SubState="reload")
        await self.until(lambda: self.last().sub_state == "reload", "heard systemd")
        self.assertLess(reactor.seconds() - began, 5)
        self.assertEqual(self.watch.problem, "")

    async def test_user(self) -> None:
        """A service of a user's manager is asked for on the user's bus, which may be missing."""
        self.systemd.properties["Id"] = "user@1000.service"
        self.watch.start()
        await self.until(lambda: self.warnings, "said")
        self.assertIn("this node is a service of user@1000.service", self.watch.problem)
        self.assertIn("neither DBUS_SESSION_BUS_ADDRESS nor XDG_RUNTIME_DIR", self.watch.problem)
        directory = self.bus.path.parent / "user"
        directory.mkdir()
        theirs = Bus(directory)
        self.addCleanup(theirs.kill)
        theirs.start()
        self.environ["XDG_RUNTIME_DIR"] = str(directory)
        self.bus, system = theirs, self.bus
        self.addCleanup(system.kill)
        await self.join()
        await self.again()
        self.assertTrue(self.last().user)
        self.assertEqual(self.last().id, "bzzz.service")

    # -- stopping; trial finds what is left in the reactor

    async def stopped(self) -> None:
        began = reactor.seconds()
        await self.watch.stop()
        self.assertLess(reactor.seconds() - began, 0.5)
        self.assertEqual(self.warnings, [])
        self.assertEqual(self.told[1:], [])

    async def test_stop_connecting(self) -> None:
        """Stopped while a bus that is stuck does not say Hello."""
        self.bus.send_signal(signal.SIGSTOP)
        self.addCleanup(self.bus.send_signal, signal.SIGCONT)
        self.watch.start()
        await deferLater(reactor, 0.1)
        await self.stopped()

    async def test_stop_asking(self) -> None:
        """Stopped while systemd does not answer."""
        self.systemd.silent.add("SubState")
        self.watch.start()
        await self.until(lambda: self.systemd.unanswered, "asked")
        await self.stopped()
        self.systemd.answer_late()

    async def test_stop_watching(self) -> None:
        """Stopped while it watches, the connection is closed, as the bus says too."""
        await self.known()
        (ours,) = self.systemd.askers
        await self.stopped()
        with self.assertRaisesRegex(RemoteError, "NameHasNoOwner"):
            await self.systemd.getNameOwner(ours)

    async def test_stop_stuck(self) -> None:
        """Stopped while the bus is stuck: nothing is waited for."""
        await self.known()
        self.bus.send_signal(signal.SIGSTOP)
        self.addCleanup(self.bus.send_signal, signal.SIGCONT)
        await self.stopped()

    async def test_stuck(self) -> None:
        """A bus that is stuck fails the try in time, and is used again when it goes on."""
        self.bus.send_signal(signal.SIGSTOP)
        self.watch.start()
        await self.until(lambda: self.warnings, "said")
        self.assertEqual(self.watch.problem, f"no answer of the bus within {CALL_TIMEOUT:g} s")
        self.bus.send_signal(signal.SIGCONT)
        await self.again()


class Rude(Protocol):
    """What is at the socket of a bus, and is none."""

    transport: Any

    def connectionMade(self) -> None:
        self.transport.write(b"HELO rude\r\n")


class NoBusTests(TestCase):
    timeout = 10

    async def problem(self, factory: Factory) -> str:
        directory = Path(tempfile.mkdtemp(prefix="bzzz-bus-"))
        self.addCleanup(shutil.rmtree, directory)
        factory.noisy = False
        port = reactor.listenUNIX(str(directory / "bus"), factory)
        self.addCleanup(port.stopListening)
        environ = {"DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={directory}/bus"}
        watch = UnitWatch(
            reactor,
            os.getpid(),
            lambda _: None,
            random=Soon(),
            connect=txdbus_connect(reactor, environ),
            call_timeout=0.2,
        )
        self.addCleanup(watch.stop)
        watch.start()
        while not watch.problem:
            await deferLater(reactor, 0.01)
        return watch.problem

    async def test_full(self) -> None:
        """A socket whose queue is full is an error in words, at once."""
        directory = Path(tempfile.mkdtemp(prefix="bzzz-bus-"))
        self.addCleanup(shutil.rmtree, directory)
        path = str(directory / "bus")
        listening, filling = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
        self.addCleanup(listening.close)
        self.addCleanup(filling.close)
        listening.bind(path)
        listening.listen(0)
        filling.connect(path)
        connect = txdbus_connect(reactor, {"DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={path}"})
        with self.assertRaises(BzzzError) as raised:
            await connect("system")
        self.assertEqual(
            str(raised.exception),
            f"the system bus at {path} cannot be reached: it takes no connection now",
        )

    async def test_closes(self) -> None:
        """What accepts and closes at once is an error that says so, not one that nobody hears."""

        class Closes(Protocol):
            transport: Any

            def connectionMade(self) -> None:
                self.transport.loseConnection()

        said = await self.problem(Factory.forProtocol(Closes))
        self.assertEqual(said, "the bus closed the connection")

    async def test_rude(self) -> None:
        """What speaks another protocol is given up, without a traceback in the log."""
        said = await self.problem(Factory.forProtocol(Rude))
        self.assertIn("does not accept this user", said)

    async def test_silent(self) -> None:
        """What never says anything is waited for no longer than any answer."""
        said = await self.problem(Factory.forProtocol(Protocol))
        self.assertEqual(said, "no answer of the bus within 0.2 s")
