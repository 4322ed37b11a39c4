"""The control API of this node's key, over HTTP with bytes in place of a socket."""

from __future__ import annotations

import re

from twisted.trial.unittest import SynchronousTestCase

from bzzz.errors import BzzzError
from bzzz.trust.cluster import ClusterError
from bzzz.trust.rotation import Rotated
from bzzz.web.api import ControlApi
from bzzz.web.identity_routes import IdentityRoutes, RotationInfo
from tests.trust.rosters import key
from tests.web.fakes import FakeNode
from tests.web.test_api import Exchange

OLD, NEW = key("walnut").peer_id, key("walnut2").peer_id


class FakeRotation:
    """Stands for a rotation.

    :ivar error: what keeps it from being done.
    """

    def __init__(self) -> None:
        self.error: BzzzError | None = None
        self.calls = 0

    async def rotate(self) -> Rotated:
        self.calls += 1
        if self.error is not None:
            raise self.error
        return Rotated(OLD, NEW, "homelab", "walnut", 3, 2, True, ("7", "9a6f"))


class IdentityRoutesTests(SynchronousTestCase):
    """``POST /v1/id/rotate``."""

    def setUp(self) -> None:
        self.rotation = FakeRotation()
        self.control = ControlApi(FakeNode(), lambda: 0.0, [IdentityRoutes(self.rotation)])
        self.addCleanup(self.control.close)

    def ask(self, method: str = "POST") -> Exchange:
        return Exchange(self.control, "/v1/id/rotate", method, b"")

    def test_rotated(self) -> None:
        """Both peer IDs, who was told, and what is void."""
        answer = self.ask()
        self.assertEqual(answer.status, 200, answer.body)
        self.assertEqual(
            answer.json(),
            {
                "old": str(OLD),
                "new": str(NEW),
                "short_id": NEW.short,
                "cluster": "homelab",
                "name": "walnut",
                "linked": 3,
                "told": 2,
                "can_prove": True,
                "void": ["7", "9a6f"],
            },
        )

    def test_refused(self) -> None:
        """What the cluster does not allow has its code, and its mend."""
        self.rotation.error = ClusterError("revoked", "this node was revoked: bzzz leave")
        answer = self.ask()
        self.assertEqual(answer.status, 409)
        self.assertEqual(
            answer.json()["error"],
            {"code": "revoked", "message": "this node was revoked: bzzz leave"},
        )

    def test_disk(self) -> None:
        """What the disk does not take is told as it is."""
        self.rotation.error = BzzzError("/state/bzzz.db: the disk is full; make room")
        answer = self.ask()
        self.assertEqual((answer.status, answer.json()["error"]["code"]), (500, "node_error"))
        self.assertIn("make room", answer.json()["error"]["message"])

    def test_only_by_post(self) -> None:
        """Looking at it changes nothing."""
        self.assertEqual(self.ask("GET").status, 405)
        self.assertEqual(self.rotation.calls, 0)

    def test_fields(self) -> None:
        """Every field that --json promises says what it means."""
        said = re.findall(r":ivar (\w+):", RotationInfo.__doc__ or "")
        self.assertEqual(said, list(RotationInfo.__struct_fields__))
