"""The control socket: one node each, private, and gone with its node."""

from __future__ import annotations

import grp
import os
import shutil
import socket
import tempfile
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase

from bzzz.errors import StateDirectoryError
from bzzz.web.api import ControlApi, ControlServer
from bzzz.web.socket import ControlSocket, bind_control_socket, pid_behind
from tests.web.fakes import FakeNode


class ShortDirectory(SynchronousTestCase):
    """A directory whose path is short enough for a socket."""

    def setUp(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="bzzz-"))
        self.addCleanup(shutil.rmtree, self.path, True)


class ControlSocketTests(ShortDirectory):
    """Who may have the socket."""

    def bind(self) -> ControlSocket:
        control = bind_control_socket(self.path)
        self.addCleanup(control.close)
        return control

    def test_private(self) -> None:
        """Only this user can connect, whatever the umask."""
        previous = os.umask(0)
        self.addCleanup(os.umask, previous)
        control = self.bind()
        self.assertEqual(control.path.stat().st_mode & 0o777, 0o600)
        self.assertEqual(pid_behind(control.path), os.getpid())

    def test_group(self) -> None:
        """In a directory that systemd made for a group its members can connect too."""
        self.path.chmod(0o750)
        systemd = {"RUNTIME_DIRECTORY": f"/run/other:{self.path}"}
        control = bind_control_socket(self.path, systemd)
        self.assertEqual(control.path.stat().st_mode & 0o777, 0o660)
        assert control.group is not None
        self.assertEqual(control.group.gid, os.getegid())
        self.assertEqual(control.group.name, grp.getgrgid(os.getegid()).gr_name)
        control.close()

    def test_no_group(self) -> None:
        """A directory that is open to a group, but not by systemd, or to others too, does not."""
        systemd = {"RUNTIME_DIRECTORY": str(self.path)}
        other = {"RUNTIME_DIRECTORY": f"{self.path}-other"}
        for mode, environ in ((0o750, {}), (0o750, other), (0o755, systemd), (0o700, systemd)):
            self.path.chmod(mode)
            control = bind_control_socket(self.path, environ)
            self.assertEqual(control.path.stat().st_mode & 0o777, 0o600)
            self.assertIsNone(control.group)
            control.close()
        self.path.chmod(0o750)
        self.patch(os, "getegid", lambda: self.path.stat().st_gid + 1)
        control = bind_control_socket(self.path, systemd)
        self.assertEqual((control.path.stat().st_mode & 0o777, control.group), (0o600, None))
        control.close()

    def test_taken(self) -> None:
        """A second node is refused and told the first's pid; the first's socket stays."""
        control = self.bind()
        error = self.assertRaises(StateDirectoryError, bind_control_socket, self.path)
        self.assertEqual(
            str(error),
            f"{self.path} is in use by the node with pid {os.getpid()}; stop that one, or give "
            "this one another --runtime-dir",
        )
        self.assertEqual(pid_behind(control.path), os.getpid())

    def test_stale(self) -> None:
        """What a crash left behind is replaced."""
        left = socket.socket(socket.AF_UNIX)
        left.bind(str(self.path / "control.sock"))
        left.close()
        self.assertIsNone(pid_behind(self.path / "control.sock"))
        self.bind()

    def test_somebody_answers(self) -> None:
        """A socket on which another program answers is left alone, though it holds no lock."""
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(self.path / "control.sock"))
            other.listen()
            self.assertRaises(StateDirectoryError, bind_control_socket, self.path)
            self.assertEqual(pid_behind(self.path / "control.sock"), os.getpid())

    def test_in_the_way(self) -> None:
        """A file in its place is not removed."""
        (self.path / "control.sock").write_text("precious")
        error = self.assertRaises(StateDirectoryError, bind_control_socket, self.path)
        self.assertIn("not a socket", str(error))
        self.assertEqual((self.path / "control.sock").read_text(), "precious")

    def test_close(self) -> None:
        """The socket goes with its node, and not that of another; twice does no harm."""
        control = bind_control_socket(self.path)
        control.close()
        control.close()
        self.assertEqual(os.listdir(self.path), [])
        control = bind_control_socket(self.path)
        control.path.unlink()
        control.path.write_text("another's")
        control.close()
        self.assertEqual(os.listdir(self.path), ["control.sock"])


class Collect(Protocol):
    """Asks once, and has all that came when the connection ends."""

    def __init__(self) -> None:
        self.received = b""
        self.done: Deferred[bytes] = Deferred()

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(b"GET /v1/id HTTP/1.0\r\n\r\n")

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.done.callback(self.received)


class ControlServerTests(TestCase):
    """The service, on a real socket."""

    def setUp(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="bzzz-"))
        self.addCleanup(shutil.rmtree, self.path, True)

    async def ask(self) -> bytes:
        endpoint = UNIXClientEndpoint(reactor, str(self.path / "control.sock"))
        client: Any = await endpoint.connect(Factory.forProtocol(Collect))
        received: bytes = await client.done
        return received

    def server(self) -> ControlServer:
        control = bind_control_socket(self.path)
        server = ControlServer(reactor, control, ControlApi(FakeNode()))
        server.startService()
        self.addCleanup(server.stopService)
        return server

    async def test_answers(self) -> None:
        """It answers while it runs, and leaves nothing behind."""
        server = self.server()
        self.assertEqual((self.path / "control.sock").stat().st_mode & 0o777, 0o600)
        self.assertIn(b'"name":"walnut"', await self.ask())
        server.stopService()
        self.assertEqual(os.listdir(self.path), [])

    async def test_again(self) -> None:
        """A node started after another has stopped has the socket."""
        self.server().stopService()
        server = self.server()
        self.assertIn(b'"name":"walnut"', await self.ask())
        server.stopService()

    def test_directory_removed(self) -> None:
        """It stops also when the directory was removed meanwhile, as at a logout."""
        server = self.server()
        shutil.rmtree(self.path)
        server.stopService()
