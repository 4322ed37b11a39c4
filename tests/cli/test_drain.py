"""The commands drain and undrain."""

from __future__ import annotations

import json

from twisted.internet.defer import Deferred, succeed

from bzzz.identity.peer_id import PeerID
from bzzz.mesh.availability import Availability
from bzzz.tasks.draining import Draining
from bzzz.tasks.messages import Answer, Done, Drain, Refused, Request
from bzzz.web.drain_routes import DrainRoutes
from bzzz.web.requests import Refusal
from tests.cli.node import CommandTests
from tests.tasks.fakes import FakePeers, name, peer

NAMES = {name(each): each for each in ("walnut", "acacia")}


class _Obeying(FakePeers):
    """Acacia, who answers at once.

    :ivar answer: what.
    :ivar wanted: what was wanted of her.
    """

    def __init__(self) -> None:
        super().__init__("acacia")
        self.answer: Answer = Done()
        self.wanted: list[Request] = []

    def ask(self, peer: PeerID, request: Request) -> Deferred[Answer]:
        self.wanted.append(request)
        return succeed(self.answer)


class DrainTests(CommandTests):
    """The node is walnut, and acacia is linked with it."""

    def setUp(self) -> None:
        super().setUp()
        self.availability = Availability(2, lambda: 0.0)
        self.peers = _Obeying()
        self.others: set[str] = set()
        draining = Draining(
            peer("walnut"),
            self.availability,
            self.peers,
            lambda asker: False,
            lambda each: NAMES[each],
            lambda event, **fields: None,
        )
        self.routes = (
            DrainRoutes(
                name("walnut"),
                draining,
                self.find_node,
                lambda each: NAMES[each],
                lambda each: NAMES[each] in self.others,
            ),
        )

    def find_node(self, text: str) -> str:
        found = [each for each, called in NAMES.items() if called.startswith(text)]
        if not found:
            raise Refusal(404, "no_such_member", f"no member is called '{text}'")
        return found[0]

    def test_here(self) -> None:
        """Without a name it is this machine."""
        self.assertEqual(
            self.output("drain"),
            "This machine takes no new tasks. To have it take some again: bzzz undrain\n",
        )
        self.assertEqual(self.availability.status, "draining")
        self.assertEqual(self.output("undrain"), "This machine takes tasks again.\n")
        self.assertEqual((self.availability.status, self.peers.wanted), ("ready", []))

    def test_another(self) -> None:
        """With one it is that one, which is told by its whole name."""
        self.assertEqual(
            self.output("drain", "aca"),
            "acacia takes no new tasks. To have it take some again: bzzz undrain acacia\n",
        )
        self.assertEqual(self.output("undrain", "acacia"), "acacia takes tasks again.\n")
        self.assertEqual(self.peers.wanted, [Drain(True, "4000000000"), Drain(False, "4000000000")])
        self.assertEqual(self.availability.status, "ready")

    def test_already(self) -> None:
        """Where nothing has changed that is told."""
        self.output("drain")
        again = "To have it take some again: bzzz undrain"
        self.assertEqual(
            self.output("drain"), f"This machine takes no new tasks already. {again}\n"
        )
        self.assertTrue(json.loads(self.output("drain", "--json"))["already"])
        self.output("undrain")
        self.assertEqual(self.output("undrain"), "This machine takes tasks already.\n")
        self.others = {"acacia"}
        self.assertEqual(
            self.output("drain", "acacia"), f"acacia takes no new tasks already. {again} acacia\n"
        )
        self.assertEqual(self.output("undrain", "acacia"), "acacia takes tasks again.\n")

    def test_json(self) -> None:
        """Programs get who it was."""
        for arguments, machine in ((("drain", "acacia"), "acacia"), (("undrain",), "walnut")):
            answer = json.loads(self.output(*arguments, "--json"))
            self.assertEqual(answer["name"], machine)
            self.assertEqual(answer["peer_id"], name(machine))

    def test_refused(self) -> None:
        """What the other one says is told, and that there is no other one."""
        self.peers.answer = Refused("walnut is no admin")
        for machine, words in (("acacia", "acacia refuses: walnut is no admin"), ("oak", "'oak'")):
            result = self.run_command("drain", machine)
            self.assertEqual((result.exit_code, result.stdout), (4, ""))
            self.assertIn(words, result.stderr)

    def test_nobody(self) -> None:
        """Where no node answers that is told."""
        self.node = None
        for command in ("drain", "undrain"):
            result = self.run_command(command)
            self.assertEqual(result.exit_code, 3)
            self.assertIn("No node is running", result.stderr)
