"""The ``bzzz`` command against the control API of a fake node, without a socket between them."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result
from twisted.trial.unittest import SynchronousTestCase

from bzzz.cli import client, session
from bzzz.cli.main import bzzz
from bzzz.web.api import ControlApi
from bzzz.web.routes import Routes
from tests.web.fakes import FakeNode
from tests.web.test_api import Exchange


class _Socket:
    """A socket on which a question is answered at once.

    :param answer: gives the bytes of the answer to a method, a path, headers and a body.
    """

    def __init__(self, answer: Callable[[Path, str, str, dict[str, str], bytes], bytes]) -> None:
        self._answer = answer
        self._path = Path()
        self._answered = io.BytesIO()

    def settimeout(self, seconds: float | None) -> None:
        pass

    def connect(self, path: str) -> None:
        self._path = Path(path)

    def sendall(self, question: bytes) -> None:
        head, _, body = question.partition(b"\r\n\r\n")
        first, *fields = head.decode("ascii").split("\r\n")
        method, url, _ = first.split(" ")
        headers = dict(field.split(": ", 1) for field in fields)
        self._answered = io.BytesIO(self._answer(self._path, method, url, headers, body))

    def recv(self, size: int) -> bytes:
        return self._answered.read(size)

    def close(self) -> None:
        pass


class CommandTests(SynchronousTestCase):
    """Runs commands.

    :ivar node: what they ask; None for nobody.
    :ivar routes: of the control API, beside those that every node has.
    """

    node: FakeNode | None
    routes: Sequence[Routes] = ()

    def setUp(self) -> None:
        self.node = FakeNode()
        self.answering = threading.Lock()
        # Whatever is installed on this machine.
        self.patch(session, "SYSTEM_UNIT", Path("/nonexistent"))
        self.asked: list[str] = []
        self.refusal: OSError = FileNotFoundError()
        self.home = str(Path(self.mktemp()).absolute())
        self.patch(client, "_new_socket", lambda: _Socket(self.answer))

    def answer(
        self, path: Path, method: str, url: str, headers: dict[str, str], body: bytes
    ) -> bytes:
        """What the node answers."""
        if self.node is None:
            raise self.refusal
        kind = headers.get("Content-Type")
        kinds = () if kind is None else (f"Content-Type: {kind}",)
        # A node answers in one thread, though a command may ask from several.
        with self.answering:
            self.asked.append(f"{path} {url}")
            control = ControlApi(self.node, lambda: 0.0, self.routes)
            exchange = Exchange(control, url, method, body, *kinds)
            control.close()
            answered: bytes = exchange.transport.value()
        return answered

    def run_command(self, *arguments: str, **environ: str) -> Result:
        clean: dict[str, Any] = dict.fromkeys(("XDG_CONFIG_HOME", "BZZZ_CONFIG", "STATE_DIRECTORY"))
        clean |= {"HOME": self.home, "XDG_RUNTIME_DIR": "/run/user/1000", "COLUMNS": "40"}
        result = CliRunner().invoke(bzzz, arguments, env={**clean, **environ}, prog_name="bzzz")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    def output(self, *arguments: str) -> str:
        result = self.run_command(*arguments)
        self.assertEqual((result.exit_code, result.stderr), (0, ""))
        return result.stdout
