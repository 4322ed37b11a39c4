"""The client of the control socket, and what it says when nobody is there."""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

import bzzz
from bzzz.cli import client
from bzzz.cli.client import NodeClient, NodeError, NoNode


class ClientTests(SynchronousTestCase):
    """On real sockets, because what can go wrong is theirs."""

    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory(prefix="bzzz-")
        self.addCleanup(directory.cleanup)
        self.path = Path(directory.name) / "control.sock"

    def serve(self, answer: bytes) -> None:
        """Answer one connection with ``answer`` and close it."""
        listening = socket.socket(socket.AF_UNIX)
        self.addCleanup(listening.close)
        listening.bind(str(self.path))
        listening.listen()
        listening.settimeout(10)

        def run() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

        thread = threading.Thread(target=run)
        thread.start()
        self.addCleanup(thread.join)

    def why(self, ask: Callable[[], object]) -> str:
        return str(self.assertRaises(NoNode, ask))

    def get(self) -> object:
        return NodeClient(self.path).get("status", 5.0)

    def test_answer(self) -> None:
        """JSON that came over the socket."""
        self.serve(b'HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n{"a": 1}')
        self.assertEqual(self.get(), {"a": 1})

    def test_nobody(self) -> None:
        """No socket, and one that a crash has left, are no node."""
        self.assertIn("Start one with: twistd -n bzzz", self.why(self.get))
        left = socket.socket(socket.AF_UNIX)
        left.bind(str(self.path))
        left.close()
        self.assertIn("Start one with: twistd -n bzzz", self.why(self.get))

    def test_too_long(self) -> None:
        """A path that no socket can have is no node either."""
        client = NodeClient(Path("/tmp") / ("x" * 200))
        self.assertIn("xxx", self.why(lambda: client.get("status")))

    def test_broken_off(self) -> None:
        """A node that goes in the middle of its answer is told from one that is not there."""
        self.serve(b"")
        self.assertIn("broke off", self.why(self.get))

    def test_cut_short(self) -> None:
        """An answer that is not whole is none."""
        self.serve(b'HTTP/1.1 200 OK\r\nContent-Length: 80\r\n\r\n{"a": 1}')
        self.assertIn("broke off", self.why(self.get))

    def test_somebody_else(self) -> None:
        """Another program behind the socket is said to be one."""
        self.serve(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
        self.assertIn("no Bzzz node", self.why(self.get))
        self.path.unlink()
        self.serve(b"220 mail.example ESMTP\r\n")
        self.assertIn("broke off", self.why(self.get))

    def test_error(self) -> None:
        """An error of the node has its code, also one that is not from the API."""
        self.serve(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 2\r\n\r\nno")
        error = self.assertRaises(NodeError, self.get)
        self.assertEqual((error.code, str(error)), ("unknown", "the node answered 502 Bad Gateway"))

    def test_lines(self) -> None:
        """Lines come one by one, and end where the node was killed."""
        self.serve(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n{}\na\r\n3\r\nb\nc\r\n"
        )
        lines = list(NodeClient(self.path).lines("events", follow=True))
        self.assertEqual(lines[:2], ["{}", "ab"])

    def test_follow(self) -> None:
        """Who follows waits for the next line for as long as it takes; who does not, does not."""
        made: list[client._Connection] = []

        class Kept(client._Connection):
            def connect(self) -> None:
                super().connect()
                made.append(self)

        self.patch(client, "_Connection", Kept)
        for follow, limit in ((True, None), (False, client.TIMEOUT)):
            self.serve(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\na\nb\n")
            lines = NodeClient(self.path).lines("events", follow=follow)
            self.assertEqual(next(lines), "a")
            self.assertEqual(made[-1].unix.gettimeout(), limit)
            self.assertEqual(list(lines), ["b"])
            self.path.unlink()


class ProgramTests(SynchronousTestCase):
    """The program as a whole."""

    def run_python(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments],
            capture_output=True,
            text=True,
            check=False,
            env={"PYTHONPATH": str(Path(bzzz.__file__).parent.parent), "HOME": "/nonexistent"},
        )

    def test_no_node(self) -> None:
        """One line on stderr and exit code 3."""
        ran = self.run_python("-m", "bzzz.cli", "--runtime-dir", "/nonexistent", "status")
        self.assertEqual(
            (ran.returncode, ran.stdout, ran.stderr),
            (
                3,
                "",
                "No node is running here (/nonexistent/control.sock). "
                "Start one with: twistd -n bzzz --runtime-dir /nonexistent\n",
            ),
        )

    def test_starts_without_twisted(self) -> None:
        """Neither Twisted nor rich nor msgspec is loaded to start, which keeps completion quick."""
        ran = self.run_python(
            "-c",
            "import sys, bzzz.cli.main; "
            "print({'twisted', 'rich', 'msgspec', 'http', 'nacl'} & set(sys.modules))",
        )
        self.assertEqual(ran.stdout, "{'http'}\n")
