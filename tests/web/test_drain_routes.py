"""The control API of draining."""

from __future__ import annotations

import json
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from bzzz.mesh.availability import Availability
from bzzz.tasks.draining import Draining
from bzzz.tasks.messages import Done, Drain, Refused
from bzzz.web.api import ControlApi
from bzzz.web.credentials import Credentials
from bzzz.web.drain_routes import DrainRoutes
from bzzz.web.requests import Refusal
from tests.tasks.fakes import FakePeers, name, peer
from tests.web.fakes import FakeNode
from tests.web.test_api import SOMEBODY, Exchange

NAMES = {name(each): each for each in ("walnut", "ironwood")}


class DrainRouteTests(SynchronousTestCase):
    """Walnut is asked, and ironwood is linked with it."""

    def setUp(self) -> None:
        self.availability = Availability(2, lambda: 0.0)
        self.peers = FakePeers("ironwood")
        self.others: set[str] = set()
        draining = Draining(
            peer("walnut"),
            self.availability,
            self.peers,
            lambda asker: False,
            lambda each: NAMES[each],
            lambda event, **fields: None,
        )
        routes = DrainRoutes(
            name("walnut"),
            draining,
            self.find_node,
            lambda each: NAMES[each],
            lambda each: NAMES[each] in self.others,
        )
        self.control = ControlApi(FakeNode(), lambda: 0.0, [routes])
        self.addCleanup(self.control.close)

    def find_node(self, text: str) -> str:
        if text not in NAMES.values():
            raise Refusal(404, "no_such_member", f"no member is called '{text}'")
        return name(text)

    def drain(self, by: Credentials | None = SOMEBODY, **body: Any) -> Exchange:
        return Exchange(self.control, "/v1/drain", "POST", json.dumps(body).encode(), by=by)

    def refused(self, exchange: Exchange) -> tuple[int, str, str]:
        error = exchange.json()["error"]
        return exchange.status, error["code"], error["message"]

    def test_own(self) -> None:
        """Without a name it is this node, and so with its own."""
        bodies: list[dict[str, Any]] = [{}, {"node": "walnut"}]
        for body in bodies:
            for on, status in ((True, "draining"), (False, "ready")):
                answer = self.drain(on=on, **body)
                self.assertEqual(
                    answer.json(),
                    {"name": "walnut", "peer_id": name("walnut"), "already": False},
                )
                self.assertEqual(self.availability.status, status)
        self.assertEqual(self.peers.asked, [])

    def test_already(self) -> None:
        """It is told whether it was so before: of another member as it said last."""
        for on, already in ((False, True), (True, False), (True, True), (False, False)):
            self.assertEqual(self.drain(on=on).json()["already"], already)
        self.others = {"ironwood"}
        for on in (True, False):
            answer = self.drain(on=on, node="ironwood")
            self.peers.take(Drain)[0].answer.callback(Done())
            self.assertEqual(answer.json()["already"], on)

    def test_other(self) -> None:
        """Another member is asked in the name of the user who wants it."""
        answer = self.drain(on=True, node="ironwood")
        [asked] = self.peers.take(Drain)
        self.assertEqual((asked.peer, asked.request), (peer("ironwood"), Drain(True, "4000000000")))
        asked.answer.callback(Done())
        self.assertEqual(
            answer.json(), {"name": "ironwood", "peer_id": name("ironwood"), "already": False}
        )
        self.assertEqual(self.availability.status, "ready")

    def test_refused(self) -> None:
        """What it answers is told, and so is that it cannot be asked, or does not answer."""
        answer = self.drain(on=True, node="ironwood")
        self.peers.take(Drain)[0].answer.callback(Refused("walnut is no admin"))
        self.assertEqual(
            self.refused(answer), (409, "drain_refused", "ironwood refuses: walnut is no admin")
        )
        answer = self.drain(on=True, node="ironwood")
        self.peers.lose()
        self.assertEqual(self.refused(answer)[:2], (409, "unknown"))
        self.peers.gone.add(peer("ironwood"))
        answer = self.drain(on=True, node="ironwood")
        self.assertEqual(self.refused(answer)[:2], (409, "not_linked"))
        answer = self.drain(on=True, node="oak")
        self.assertEqual(self.refused(answer)[:2], (404, "no_such_member"))

    def test_bad(self) -> None:
        """A body that is none does nothing, nor does one of somebody whom nobody has checked."""
        for body in ({}, {"on": "yes"}, {"on": True, "node": 1}, {"on": True, "who": "x"}):
            self.assertEqual(self.refused(self.drain(**body))[:2], (400, "bad_body"), body)
        self.assertEqual(self.refused(self.drain(None, on=True))[:2], (403, "not_allowed"))
        self.assertEqual((self.availability.status, self.peers.asked), ("ready", []))
