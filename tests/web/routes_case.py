"""Requests to the control API of one node and its cluster."""

from __future__ import annotations

import json
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from bzzz.web.api import ControlApi
from tests.web.clusters import Home
from tests.web.fakes import FakeNode
from tests.web.test_api import Exchange

__all__ = ["RoutesCase"]


class RoutesCase(SynchronousTestCase):
    """One node, ``walnut``."""

    def setUp(self) -> None:
        self.home = Home()
        self.control = self.control_of(self.home)

    def control_of(self, home: Home) -> ControlApi:
        control = ControlApi(FakeNode(), lambda: 0.0, [home.routes])
        self.addCleanup(control.close)
        return control

    def ask(
        self, method: str, path: str, body: object = None, home: Home | None = None
    ) -> Exchange:
        control = self.control if home is None else self.control_of(home)
        sent = b"" if body is None else json.dumps(body).encode()
        return Exchange(control, f"/v1/{path}", method, sent)

    def get(self, path: str, home: Home | None = None) -> Any:
        answer = self.ask("GET", path, None, home)
        self.assertEqual(answer.status, 200, answer.body)
        return answer.json()

    def post(self, path: str, body: object, home: Home | None = None) -> Any:
        answer = self.ask("POST", path, body, home)
        self.assertEqual(answer.status, 200, answer.body)
        return answer.json()

    def refused(
        self, status: int, code: str, path: str, body: object, home: Home | None = None
    ) -> str:
        """What a request is refused with."""
        answer = self.ask("POST", path, body, home)
        error = answer.json()["error"]
        self.assertEqual((answer.status, error["code"]), (status, code), error)
        message: str = error["message"]
        return message
