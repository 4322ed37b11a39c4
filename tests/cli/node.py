"""The ``bzzz`` command against the control API of a fake node, without a socket between them."""

from __future__ import annotations

import http.client
import io
from collections.abc import Sequence
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


class _Answer:
    """Stands for the socket that a response is read from."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(io.BytesIO(self._content))


class CommandTests(SynchronousTestCase):
    """Runs commands.

    :ivar node: what they ask; None for nobody.
    :ivar routes: of the control API, beside those that every node has.
    """

    node: FakeNode | None
    routes: Sequence[Routes] = ()

    def setUp(self) -> None:
        self.node = FakeNode()
        # Whatever is installed on this machine.
        self.patch(session, "SYSTEM_UNIT", Path("/nonexistent"))
        self.asked: list[str] = []
        self.refusal: OSError = FileNotFoundError()
        self.home = str(Path(self.mktemp()).absolute())
        case = self

        class Connection:
            sock = None

            def __init__(self, path: Path, timeout: float | None) -> None:
                self.path = path

            def request(
                self, method: str, url: str, body: bytes | None, headers: dict[str, str]
            ) -> None:
                if case.node is None:
                    raise case.refusal
                case.asked.append(f"{self.path} {url}")
                control = ControlApi(case.node, lambda: 0.0, case.routes)
                kind = headers.get("Content-Type")
                kinds = () if kind is None else (f"Content-Type: {kind}",)
                exchange = Exchange(control, url, method, body or b"", *kinds)
                control.close()
                self.answer = exchange.transport.value()

            def getresponse(self) -> http.client.HTTPResponse:
                response = http.client.HTTPResponse(_Answer(self.answer))  # type: ignore[arg-type]
                response.begin()
                return response

            def wait_for_ever(self) -> None:
                pass

            def close(self) -> None:
                pass

        self.patch(client, "_Connection", Connection)

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
