"""``bzzz id`` and ``bzzz id rotate``, against the control API of a fake node."""

from __future__ import annotations

import json
import time

import msgspec

from bzzz.cli import cluster, identity
from bzzz.trust.cluster import ClusterError
from bzzz.trust.rotation import Rotated
from bzzz.web.identity_routes import IdentityRoutes
from bzzz.web.schema import Status
from tests.cli.node import CommandTests
from tests.trust.rosters import key
from tests.web.fakes import WALNUT, FakeNode

OLD, NEW = key("walnut").peer_id, key("walnut2").peer_id


class RestartingNode(FakeNode):
    """A node that is asked for another key, and is started again.

    :ivar now_is: what it says of itself.
    :ivar rotated: what comes of it, unless it is an ``error``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now_is = super().status()
        self.error: ClusterError | None = None
        self.rotated = Rotated(OLD, NEW, "homelab", "walnut", 2, 2, True, ())

    def status(self) -> Status:
        return self.now_is

    async def rotate(self) -> Rotated:
        if self.error is not None:
            raise self.error
        return self.rotated


class IdentityTests(CommandTests):
    """What the commands print."""

    def setUp(self) -> None:
        super().setUp()
        self.machine = RestartingNode()
        self.node = self.machine
        self.routes = (IdentityRoutes(self.machine),)
        self.clock = 0.0
        self.steps: list[Status | None] = []
        self.patch(time, "monotonic", lambda: self.clock)
        self.patch(time, "sleep", self.sleep)
        status = self.machine.now_is
        self.stopping = msgspec.structs.replace(status, state="stopping")
        back = msgspec.structs.replace(status, peer_id=str(NEW), started="2026-11-24T01:05:00.000Z")
        self.starting = msgspec.structs.replace(back, state="starting")
        self.back = back

    def sleep(self, seconds: float) -> None:
        self.clock += seconds
        if self.steps:
            state = self.steps.pop(0)
            self.node = None if state is None else self.machine
            self.machine.now_is = state or self.machine.now_is

    def becomes(self, *states: Status | None) -> None:
        """What the node answers at each look; None for nothing."""

        self.steps = list(states)

    def test_shown(self) -> None:
        """Without a command it is the peer ID and the addresses, as ever."""
        expected = [WALNUT, f"/ip4/192.0.2.1/tcp/40001/p2p/{WALNUT}"]
        self.assertEqual(self.output("id").splitlines(), expected)
        self.assertEqual(json.loads(self.output("id", "--json"))["peer_id"], WALNUT)

    def test_rotated(self) -> None:
        """It waits until the node is up with the new key, and says who it was and is."""
        self.becomes(self.stopping, None, None, self.starting, self.back)
        self.assertEqual(
            self.output("id", "rotate").splitlines(),
            [
                f"This node is {NEW} now.",
                f"It was {OLD}.",
                "It is still walnut in homelab, in its role.",
                "2 members heard of it, and tell the others.",
            ],
        )
        self.assertEqual(self.steps, [])

    def test_json(self) -> None:
        """With --json, before or after the command, it is the node's answer."""
        for arguments in (("id", "rotate", "--json"), ("id", "--json", "rotate")):
            self.becomes(self.back)
            answer = json.loads(self.output(*arguments))
            self.assertEqual((answer["old"], answer["new"]), (str(OLD), str(NEW)))
            self.machine.now_is = self.stopping

    def told(self, rotated: Rotated) -> list[str]:
        self.machine.rotated = rotated
        self.machine.now_is = self.stopping
        self.becomes(self.back)
        return self.output("id", "rotate").splitlines()[2:]

    def test_who_was_told(self) -> None:
        """What is still to come, or to be done, is said."""
        self.assertEqual(self.told(Rotated(OLD, NEW, "", "", 0, 0, True, ())), [])
        lines = self.told(Rotated(OLD, NEW, "homelab", "walnut", 0, 0, True, ("7",)))
        self.assertIn("each is shown a proof", lines[1])
        self.assertIn("Its invitation 7 is void", lines[2])
        lines = self.told(Rotated(OLD, NEW, "homelab", "walnut", 1, 0, False, ("7", "9a")))
        self.assertIn("bzzz cluster export here and bzzz cluster import there", lines[1])
        self.assertIn("Its invitations 7, 9a are void", lines[2])
        lines = self.told(Rotated(OLD, NEW, "homelab", "walnut", 2, 1, True, ()))
        self.assertEqual(lines[1], "1 member heard of it, and tells the others.")

    def test_refused(self) -> None:
        """What the node refuses is told, and nothing is waited for."""
        self.machine.error = ClusterError("revoked", "this node was revoked: bzzz leave")
        result = self.run_command("id", "rotate")
        self.assertEqual((result.exit_code, result.stdout), (4, ""))
        self.assertEqual(result.stderr, "The node answered: this node was revoked: bzzz leave\n")
        self.assertEqual(self.clock, 0.0)

    def test_still_the_old_one(self) -> None:
        """A node that was started again with its old key has not been rotated."""
        old = msgspec.structs.replace(self.machine.now_is, started=self.back.started)
        self.becomes(self.stopping, None, old)
        result = self.run_command("id", "rotate")
        self.assertEqual((result.exit_code, result.stdout), (4, ""))
        self.assertIn(f"is still {WALNUT}: its log", result.stderr)

    def test_does_not_come_back(self) -> None:
        """A node that stays away is told of, with who it will be."""
        self.becomes(self.stopping, None)
        result = self.run_command("id", "rotate")
        self.assertEqual((result.exit_code, result.stdout), (3, ""))
        self.assertIn(f"It is {NEW} as soon as it starts", result.stderr)
        self.assertAlmostEqual(self.clock, identity.BACK_TIMEOUT, delta=1.0)

    def test_asks_first(self) -> None:
        """Somebody at a terminal is asked, and may say no."""
        self.patch(cluster, "_at_terminal", lambda: True)
        result = self.run_command("id", "rotate")
        self.assertEqual((result.exit_code, result.stdout), (1, ""))
        self.assertIn("It gets another peer ID, and is started again.", result.stderr)
        self.becomes(self.back)
        self.assertIn(str(NEW), self.output("id", "rotate", "--yes"))
