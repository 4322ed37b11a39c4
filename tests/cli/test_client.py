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

    def serve(self, *answers: bytes, stay: bool = False) -> None:
        """Answer a connection with each and close it, or ``stay`` until the client does."""
        listening = socket.socket(socket.AF_UNIX)
        self.addCleanup(listening.close)
        listening.bind(str(self.path))
        listening.listen()
        listening.settimeout(10)

        def run() -> None:
            for answer in answers:
                connection, _ = listening.accept()
                with connection:
                    self.asked = connection.recv(65536)
                    # The body comes in a piece of its own.
                    if b"Content-Type:" in self.asked and self.asked.endswith(b"\r\n\r\n"):
                        self.asked += connection.recv(65536)
                    connection.sendall(answer)
                    self.left = stay and connection.recv(1) == b""

        thread = threading.Thread(target=run)
        thread.start()
        self.addCleanup(thread.join)
        self.served = thread

    def why(self, ask: Callable[[], object]) -> str:
        return str(self.assertRaises(NoNode, ask))

    def get(self) -> object:
        return NodeClient(self.path).get("status", 5.0)

    def test_starting(self) -> None:
        """A node that is starting is asked again, with all that it was given."""
        slept: list[float] = []
        told = b'{"error": {"code": "starting", "message": "wait"}}'
        head = (
            b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
        )
        starting = head % len(told) + told
        self.serve(starting, starting, b'HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n{"a": 1}')
        asking = NodeClient(self.path, sleep=slept.append)
        self.assertEqual(asking.post("cluster", {"name": "lab"}, 5.0), {"a": 1})
        self.assertEqual(slept, [client.AGAIN] * 2)
        self.assertTrue(self.asked.startswith(b"POST /v1/cluster "))
        self.assertTrue(self.asked.endswith(b'{"name": "lab"}'))

    def test_starting_for_ever(self) -> None:
        """In the end it is said what the node said."""
        self.patch(client, "TRIES", 1)
        told = b'{"error": {"code": "starting", "message": "wait"}}'
        self.serve(b"HTTP/1.1 503 No\r\nContent-Length: %d\r\n\r\n" % len(told) + told)
        error = self.assertRaises(NodeError, self.get)
        self.assertEqual((error.code, str(error)), ("starting", "wait"))

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

    def test_post(self) -> None:
        """A body goes as JSON, and the answer is what the node says."""
        self.serve(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        self.assertEqual(NodeClient(self.path).post("invitations", {"role": "admin"}), {})
        head, _, body = self.asked.partition(b"\r\n\r\n")
        self.assertTrue(head.startswith(b"POST /v1/invitations HTTP/1.1\r\n"), head)
        self.assertIn(b"\r\nContent-Type: application/json\r\n", head + b"\r\n")
        self.assertEqual(body, b'{"role": "admin"}')

    def test_without_a_body(self) -> None:
        """DELETE, and POST without a body, send none."""
        client = NodeClient(self.path)
        for method, ask in ((b"DELETE", client.delete), (b"POST", client.post)):
            self.serve(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnull")
            self.assertIsNone(ask("invitations/7"))
            head, _, body = self.asked.partition(b"\r\n\r\n")
            self.assertTrue(head.startswith(method + b" /v1/invitations/7 HTTP/1.1\r\n"), head)
            self.assertNotIn(b"Content-Type", head)
            self.assertEqual(body, b"")
            self.path.unlink()

    def test_errors_of_all(self) -> None:
        """Whatever is asked, an error of the node and a node that is not there are told alike."""
        client = NodeClient(self.path)
        error = b'{"error": {"code": "busy", "message": "not now"}}'
        for ask in (
            lambda: client.post("join", {}),
            lambda: client.delete("join"),
            lambda: list(client.stream("join", {})),
            lambda: list(client.lines("events", follow=True)),
        ):
            self.assertIn("Start one with: twistd -n bzzz", self.why(ask))
            self.serve(b"HTTP/1.1 409 Conflict\r\nContent-Length: %d\r\n\r\n" % len(error) + error)
            refusal = self.assertRaises(NodeError, ask)
            self.assertEqual((refusal.code, str(refusal)), ("busy", "not now"))
            self.path.unlink()
            self.serve(b"")
            self.assertIn("broke off", self.why(ask))
            self.path.unlink()

    def stream(self, *lines: bytes, whole: bool = True, stay: bool = False) -> None:
        """Answer with these lines, each in a chunk."""
        chunks = [b"%x\r\n%s\r\n" % (len(line), line) for line in lines]
        end = [b"0\r\n\r\n"] if whole else []
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        self.serve(b"".join([head, *chunks, *end]), stay=stay)

    def test_stream(self) -> None:
        """Lines are decoded as they come, and the end of the answer is the end."""
        self.stream(b'{"step"', b": 1}", b'\n{"error": "is a word here"}\n[', b"2]\n")
        found = list(NodeClient(self.path).stream("join", {"code": "7-guitar-lunar"}))
        self.assertEqual(found, [{"step": 1}, {"error": "is a word here"}, [2]])
        self.assertTrue(self.asked.startswith(b"POST /v1/join HTTP/1.1\r\n"))
        self.assertTrue(self.asked.endswith(b'{"code": "7-guitar-lunar"}'))

    def test_stream_that_fails(self) -> None:
        """A last line that is an error is raised, after the lines before it."""
        self.stream(b'{"step": 1}\n', b'{"error": {"code": "wrong_code", "message": "no"}}\n')
        found = NodeClient(self.path).stream("join")
        self.assertEqual(next(found), {"step": 1})
        error = self.assertRaises(NodeError, next, found)
        self.assertEqual((error.code, str(error)), ("wrong_code", "no"))

    def test_stream_cut_short(self) -> None:
        """A node that was killed in the middle is no end of the answer."""
        self.stream(b'{"step": 1}\n', whole=False)
        found = NodeClient(self.path).stream("join")
        self.assertEqual(next(found), {"step": 1})
        self.assertIn("broke off", self.why(lambda: next(found)))

    def test_stream_of_somebody_else(self) -> None:
        """Lines that are not JSON are not from a node."""
        for line in (b"hello\n", b"\xff\n", b"[]", b"x" * (client.MAX_LINE + 1)):
            self.stream(line)
            self.assertIn("no Bzzz node", self.why(lambda: list(NodeClient(self.path).stream("x"))))
            self.path.unlink()

    def test_stream_hung_up(self) -> None:
        """Who closes the stream before its end hangs up."""
        self.stream(b'{"step": 1}\n', whole=False, stay=True)
        found = NodeClient(self.path).stream("join")
        self.assertEqual(next(found), {"step": 1})
        found.close()
        self.served.join(10)
        self.assertTrue(self.left)

    def test_follow(self) -> None:
        """Who follows waits for the next line for as long as it takes; who does not, does not."""
        limits: list[float | None] = []

        class Socket(socket.socket):
            def settimeout(self, seconds: float | None) -> None:
                limits.append(seconds)
                super().settimeout(seconds)

        self.patch(client, "_new_socket", lambda: Socket(socket.AF_UNIX))
        for follow, limit in ((True, None), (False, client.TIMEOUT)):
            self.serve(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\na\nb\n")
            lines = NodeClient(self.path).lines("events", follow=follow)
            self.assertEqual(next(lines), "a")
            self.assertEqual(limits[-1], limit)
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
        """Neither Twisted nor rich nor msgspec is loaded to start, nor what the standard library
        has for mail and TLS below its HTTP, which keeps completion quick."""
        ran = self.run_python(
            "-c",
            "import sys, bzzz.cli.main; "
            "print({'twisted', 'rich', 'msgspec', 'http', 'ssl', 'nacl'} & set(sys.modules))",
        )
        self.assertEqual(ran.stdout, "set()\n")
