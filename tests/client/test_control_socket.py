"""Which node a program asks."""

from __future__ import annotations

import os
import socket
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from bzzz.cli import session
from bzzz.cli.session import Session
from bzzz.client import control_socket as module
from bzzz.client.control_socket import control_socket


class ControlSocketTests(SynchronousTestCase):
    """The user's own node, else the system's; the command is asked beside it."""

    def setUp(self) -> None:
        # Short, as a socket's path has to be.
        directory = tempfile.TemporaryDirectory(prefix="bzzz-")
        self.addCleanup(directory.cleanup)
        self.base = Path(directory.name)
        self.own = self.base / "bzzz"
        self.own.mkdir(mode=0o700)
        self.there(self.base / "nothing", self.base / "no-unit")

    def there(self, system: Path, unit: Path) -> None:
        """What the system has."""
        for each in (module, session):
            self.patch(each, "SYSTEM_SOCKET", system)
            self.patch(each, "SYSTEM_UNIT", unit)

    def listen(self, path: Path) -> Path:
        listening = socket.socket(socket.AF_UNIX)
        self.addCleanup(listening.close)
        listening.bind(str(path))
        return path

    def asked(self, runtime_dir: Path | None = None, **environ: str) -> Path:
        """The socket that both ask."""
        clean = {"HOME": str(self.base), "XDG_RUNTIME_DIR": str(self.base), **environ}
        self.patch(os, "environ", clean)
        found = control_socket(runtime_dir, clean, os.geteuid())
        self.assertEqual(found.path, Session(runtime_dir).socket())
        return found.path

    def test_given(self) -> None:
        """A runtime directory that is given, and one that is configured, are the user's word."""
        self.assertEqual(self.asked(Path("/x/y")), Path("/x/y/control.sock"))
        self.listen(self.base / "nothing")
        self.assertEqual(self.asked(BZZZ_RUNTIME_DIR="/x/z"), Path("/x/z/control.sock"))

    def test_own(self) -> None:
        """The user's own node is asked before the system's, if it is theirs alone."""
        system = self.listen(self.base / "nothing")
        self.assertEqual(self.asked(), system)
        own = self.listen(self.own / "control.sock")
        self.assertEqual(self.asked(), own)
        self.own.chmod(0o770)
        self.assertEqual(self.asked(), system)
        self.own.chmod(0o702)
        self.assertEqual(self.asked(), system)

    def test_nobody(self) -> None:
        """Where there is none it is the user's own that is to be started, or the service."""
        self.assertEqual(self.asked(), self.own / "control.sock")
        self.there(self.base / "nothing", Path(__file__))
        self.assertEqual(self.asked(), self.base / "nothing")
        found = control_socket(None, os.environ, os.geteuid())
        self.assertTrue(found.start.startswith("sudo systemctl start bzzz"), found.start)

    def test_wrong_configuration(self) -> None:
        """What is wrong with the configuration is not for this to say."""
        self.assertEqual(self.asked(BZZZ_MAX_LINKS="many"), self.own / "control.sock")

    def test_group(self) -> None:
        """Where the service lets in a group, it is named."""
        system = self.listen(self.own / "control.sock")
        self.there(system, Path(__file__))
        found = control_socket(None, {"XDG_RUNTIME_DIR": "/nonexistent"}, os.geteuid())
        self.assertEqual((found.path, found.join()), (system, None))
        self.own.chmod(0o750)
        self.assertIn("sudo usermod -aG ", str(found.join()))
        self.assertIsNone(control_socket("/x", {}, os.geteuid()).join())
