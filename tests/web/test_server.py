"""Accepting on the control socket: whom, and what becomes of the others."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, execute
from twisted.internet.task import Clock
from twisted.internet.threads import deferToThread
from twisted.logger import LogLevel
from twisted.trial.unittest import SynchronousTestCase, TestCase

from bzzz.mesh.line_limit import LINES
from bzzz.web import server
from bzzz.web.api import ControlApi
from bzzz.web.credentials import Access, Accounts, ServiceGroup
from bzzz.web.server import Acceptor, ControlServer
from bzzz.web.socket import bind_control_socket
from tests.logs import lines_at
from tests.needs import needs, without_root
from tests.web.fakes import FakeNode
from tests.web.test_credentials import OPERATORS
from tests.web.test_credentials import Connection as Told

# Users that own nothing here.
STRANGER = 61_234
OPERATOR = 61_235
GROUP = 61_236


class Connection(Told):
    """A socket that was accepted."""

    closed = False

    def setblocking(self, flag: bool) -> None:
        assert not flag

    def fileno(self) -> int:
        return 99

    def close(self) -> None:
        self.closed = True

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self.close()


class FakeReactor(Clock):
    """A reactor that keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.readers: set[object] = set()
        self.addReader = self.readers.add
        self.removeReader = self.readers.discard
        self.adopted: list[Any] = []

    def adoptStreamConnection(self, fileno: int, family: int, factory: Any) -> None:
        assert (fileno, family) == (99, socket.AF_UNIX)
        self.adopted.append(factory.buildProtocol(None))


class Listening:
    """A listening socket."""

    def __init__(self) -> None:
        self.coming: list[Connection | OSError] = []

    def accept(self) -> tuple[Connection, str]:
        first = self.coming.pop(0)
        if isinstance(first, OSError):
            raise first
        return first, ""

    def fileno(self) -> int:
        return 98


class AcceptorTests(SynchronousTestCase):
    """Without sockets."""

    def setUp(self) -> None:
        self.reactor = FakeReactor()
        self.listening: Any = Listening()
        self.warnings = lines_at(self, LogLevel.warn)
        self.errors = lines_at(self, LogLevel.error)

    def acceptor(self, group: ServiceGroup | None = None, in_thread: Any = execute) -> Acceptor:
        site = ControlApi(FakeNode()).site(self.reactor)
        acceptor = Acceptor(
            self.reactor, self.listening, site, Access(997, group), Accounts(in_thread)
        )
        acceptor.start()
        return acceptor

    def connect(self, acceptor: Acceptor, *told: Any) -> Connection:
        connection = Connection(*told)
        self.listening.coming.append(connection)
        acceptor.doRead()
        return connection

    def test_accepted(self) -> None:
        """Who may ask is given to the site, with credentials; the own descriptor is closed."""
        connection = self.connect(self.acceptor(), 997, 997)
        (made,) = self.reactor.adopted
        found = made.requestFactory.keywords["credentials"]
        self.assertEqual((found.pid, found.uid, found.gid), (4242, 997, 997))
        self.assertTrue(connection.closed)
        self.assertEqual(self.warnings, [])

    def test_refused(self) -> None:
        """Who may not is closed, and the log says who that was."""
        connection = self.connect(self.acceptor(OPERATORS), 1000, 1000, (4, 24))
        self.assertEqual(self.reactor.adopted, [])
        self.assertTrue(connection.closed)
        self.assertEqual(
            self.warnings,
            [
                "Refused a connection to the control socket, of uid 1000, pid 4242: only root, the"
                " node's own user and members of the group bzzz may ask"
            ],
        )

    def test_refused_often(self) -> None:
        """A user who asks again and again does not fill the log, nor hides another."""
        acceptor = self.acceptor()
        for _ in range(100):
            self.connect(acceptor, 1000)
        self.assertEqual(len(self.warnings), LINES)
        self.connect(acceptor, 1001)
        self.assertIn("uid 1001", self.warnings[-1])
        self.reactor.advance(3600)
        self.connect(acceptor, 1000)
        self.assertEqual(len(self.warnings), LINES + 2)

    def test_looked_up(self) -> None:
        """Where the database of groups has to be asked, a connection waits for its answer."""
        for answer in (True, False):
            answers: list[Deferred[bool]] = []

            def later(look: object, to: list[Deferred[bool]] = answers) -> Deferred[bool]:
                to.append(Deferred())
                return to[-1]

            self.reactor.adopted.clear()
            connection = self.connect(self.acceptor(OPERATORS, later), 1000, 1000, None)
            self.assertEqual((self.reactor.adopted, connection.closed), ([], False))
            answers[0].callback(answer)
            self.assertEqual((len(self.reactor.adopted), connection.closed), (answer, True))
        self.assertEqual(len(self.warnings), 1)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_lookup_that_hangs(self) -> None:
        """A database that does not answer costs a limited number of threads and time."""
        threads: list[Deferred[bool]] = []

        def hang(look: object) -> Deferred[bool]:
            threads.append(Deferred())
            return threads[-1]

        acceptor = self.acceptor(OPERATORS, hang)
        waiting = [self.connect(acceptor, 1000, 1000, None) for _ in range(server.MAX_LOOKUPS)]
        self.assertFalse(any(each.closed for each in waiting))
        self.assertTrue(self.connect(acceptor, 1000, 1000, None).closed)
        self.assertEqual(len(self.warnings), 1)
        self.assertIn("the system's database of groups does not answer", self.warnings[0])
        self.reactor.advance(server.LOOKUP_SECONDS)
        self.assertTrue(all(each.closed for each in waiting))
        self.assertEqual(self.reactor.adopted, [])
        self.assertTrue(self.connect(acceptor, 1000, 1000, None).closed)
        self.assertEqual(len(threads), server.MAX_LOOKUPS)
        # It answers at last, when nobody waits for it any more, and is asked again.
        threads[0].callback(True)
        self.assertEqual(self.reactor.adopted, [])
        self.assertFalse(self.connect(acceptor, 1000, 1000, None).closed)

    def test_stopped(self) -> None:
        """What still waits at a stop is closed, without a word."""
        acceptor = self.acceptor(OPERATORS, lambda look: Deferred())
        connection = self.connect(acceptor, 1000, 1000, None)
        acceptor.stop()
        self.assertTrue(connection.closed)
        self.assertEqual((self.reactor.readers, self.reactor.getDelayedCalls()), (set(), []))

    def test_kernel_does_not_tell(self) -> None:
        """Without credentials nobody gets in."""
        connection = Connection()
        connection._told.clear()
        self.listening.coming.append(connection)
        self.acceptor().doRead()
        self.assertEqual((self.reactor.adopted, connection.closed), ([], True))
        self.assertIn("does not tell who asks", self.errors[0])

    def test_cannot_accept(self) -> None:
        """A system without descriptors for the node is asked again later, not in a busy loop."""
        self.listening.coming = [OSError(24, "Too many open files")] * 2
        acceptor = self.acceptor()
        acceptor.doRead()
        self.assertEqual(self.reactor.readers, set())
        self.reactor.advance(server.ACCEPT_PAUSE)
        self.assertEqual(self.reactor.readers, {acceptor})
        acceptor.doRead()
        acceptor.stop()
        self.assertEqual((self.reactor.readers, self.reactor.getDelayedCalls()), (set(), []))

    def test_left_again(self) -> None:
        """A connection that is gone before it is accepted is none."""
        self.listening.coming = [BlockingIOError(), ConnectionAbortedError()]
        acceptor = self.acceptor()
        acceptor.doRead()
        acceptor.doRead()
        self.assertEqual((self.reactor.readers, self.errors), ({acceptor}, []))


class ControlServerTests(SynchronousTestCase):
    """The service, without a socket."""

    def test_removed(self) -> None:
        """A socket that somebody removed under the node is an error, once."""
        clock = Clock()
        path = Path("/run/bzzz/control.sock")
        control: Any = type("Control", (), {"is_there": True, "path": path})()
        errors = lines_at(self, LogLevel.error)
        service = ControlServer(clock, control, ControlApi(FakeNode()))
        service._looking.start()
        clock.advance(server.LOOK_INTERVAL)
        self.assertEqual(errors, [])
        control.is_there = False
        clock.pump([server.LOOK_INTERVAL] * 3)
        self.assertEqual(len(errors), 1)
        self.assertIn(f"{path} was removed", errors[0])
        service._looking.stop()

    def test_stopped(self) -> None:
        """At a stop nothing more is asked: connections that wait for a question are closed, after
        the answers that are under way were ended."""
        steps: list[str] = []

        class Site:
            def close(self) -> None:
                steps.append("connections")

        class Answering:
            def site(self, reactor: object) -> Site:
                return Site()

            def close(self) -> None:
                steps.append("answers")

        control: Any = type(
            "Control", (), {"socket": Listening(), "group": None, "is_there": True}
        )()
        control.listen = lambda: steps.append("listen")
        control.close = lambda: steps.append("socket")
        answering: Any = Answering()
        service = ControlServer(FakeReactor(), control, answering)
        service.startService()
        service.stopService()
        service.stopService()
        self.assertEqual(steps, ["listen", "answers", "connections", "socket", "answers", "socket"])


def ask_as(path: Path, uid: int, gid: int, *groups: int) -> str:
    """What the node answers to another user, or why it does not. Blocks; only root can."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups(groups)
            os.setgid(gid)
            os.setuid(uid)
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(10)
                client.connect(str(path))
                client.sendall(b"GET /v1/id HTTP/1.0\r\n\r\n")
                os.write(writing, client.recv(65536).partition(b"\r\n")[0])
        except OSError as error:
            os.write(writing, type(error).__name__.encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as answer:
        said = answer.read().decode()
    os.waitpid(child, 0)
    return said


@needs(without_root())
class UsersTests(TestCase):
    """Several users, and the kernel between them."""

    def serve(self, mode: int, socket_mode: int | None = None) -> Path:
        """A node of the operators' group, in a directory of this mode."""
        # Not in the test's own directory, into which others may not look.
        path = Path(tempfile.mkdtemp(prefix="bzzz-"))
        self.addCleanup(shutil.rmtree, path, True)
        os.chown(path, 0, GROUP)
        path.chmod(mode)
        before = os.getegid()
        os.setegid(GROUP)
        try:
            control = bind_control_socket(path, {"RUNTIME_DIRECTORY": str(path)})
        finally:
            os.setegid(before)
        if socket_mode is not None:
            path.chmod(0o755)
            control.path.chmod(socket_mode)
        service = ControlServer(reactor, control, ControlApi(FakeNode()))
        service.startService()
        self.addCleanup(service.stopService)
        return control.path

    async def ask(self, path: Path, *user: int) -> str:
        said: str = await deferToThread(ask_as, path, *user)
        return said

    async def test_group(self) -> None:
        """A service's operators may ask, and nobody else gets as far as the socket."""
        path = self.serve(0o750)
        self.assertEqual(path.stat().st_mode & 0o777, 0o660)
        self.assertEqual(path.stat().st_gid, GROUP)
        self.assertEqual(await self.ask(path, OPERATOR, OPERATOR, GROUP), "HTTP/1.0 200 OK")
        self.assertEqual(await self.ask(path, OPERATOR, GROUP), "HTTP/1.0 200 OK")
        self.assertEqual(await self.ask(path, 0, 0), "HTTP/1.0 200 OK")
        self.assertEqual(await self.ask(path, STRANGER, STRANGER), "PermissionError")

    async def test_open_to_all(self) -> None:
        """Where somebody opened the socket to everybody, the node itself refuses strangers."""
        warnings = lines_at(self, LogLevel.warn)
        path = self.serve(0o750, 0o666)
        self.assertEqual(await self.ask(path, OPERATOR, OPERATOR, 7, GROUP), "HTTP/1.0 200 OK")
        refused = await self.ask(path, STRANGER, STRANGER, 7)
        self.assertIn(refused, ("", "ConnectionResetError", "BrokenPipeError"))
        self.assertEqual(len(warnings), 1)
        self.assertIn(f"of uid {STRANGER}, pid ", warnings[0])

    async def test_private(self) -> None:
        """With another mode of the directory the group may not ask, even if it gets there."""
        path = self.serve(0o700, 0o666)
        refused = await self.ask(path, OPERATOR, OPERATOR, GROUP)
        self.assertIn(refused, ("", "ConnectionResetError", "BrokenPipeError"))
        self.assertEqual(await self.ask(path, 0, 0), "HTTP/1.0 200 OK")
