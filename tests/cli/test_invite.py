"""The commands that let machines in, against the control API of a node with a real cluster."""

from __future__ import annotations

import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from bzzz.cli import invite
from bzzz.cli.session import Session
from bzzz.errors import BzzzError
from bzzz.trust.invitations import CODE_SECONDS, MAX_USES
from bzzz.trust.statements import Role
from bzzz.web.api import ControlApi
from bzzz.web.pairing_routes import MAX_TOKEN_SECONDS
from tests.cli.cluster_case import ACACIA, IRONWOOD, ClusterCase
from tests.trust.rosters import key
from tests.web.clusters import done


class InviteCommandTests(ClusterCase):
    """invite and invitations. What joiners do is done to the node's Pairing by hand."""

    def setUp(self) -> None:
        super().setUp()
        self.machine.found()
        self.happens: Any = lambda: None
        close = ControlApi.close

        def happen_and_close(control: ControlApi) -> None:
            self.happens()
            close(control)

        self.patch(ControlApi, "close", happen_and_close)

    def invitation(self) -> Any:
        ((invitation, _),) = self.machine.pairing.open_ones()
        return invitation

    def let_in(self) -> None:
        invitation = self.invitation()
        done(self.machine.pairing.admit(invitation, "acacia", ACACIA))
        self.machine.pairing.joined(invitation, "acacia", ACACIA)

    def guess(self, times: int) -> None:
        for _ in range(times):
            self.machine.pairing.wrong_code(self.invitation(), IRONWOOD, "192.0.2.9")

    def test_joined(self) -> None:
        """What to type, for how long, each wrong guess, and who has joined."""

        def happens() -> None:
            self.guess(2)
            self.let_in()

        self.happens = happens
        lines = self.output("invite").splitlines()
        self.assertRegex(lines[2], "^    bzzz join 1-[a-z]+-[a-z]+$")
        del lines[2]
        self.assertEqual(
            lines,
            [
                "To let a machine into homelab, as member, type on that machine:",
                "",
                "",
                "The code is good for 10 min. Ctrl-C makes it void.",
                f"Wrong code from 192.0.2.9 ({IRONWOOD.short}). 2 more make the code void. If"
                " nobody has mistyped it, somebody is guessing.",
                f"Wrong code from 192.0.2.9 ({IRONWOOD.short}). 1 more makes the code void. If"
                " nobody has mistyped it, somebody is guessing.",
                f"acacia ({ACACIA.short}) has joined homelab",
            ],
        )

    def test_role(self) -> None:
        """The machine gets the role that was asked for."""
        self.happens = self.let_in
        self.output("invite", "--role", "admin")
        self.assertEqual(self.machine.cluster.member_of().members[ACACIA].role, Role.ADMIN)

    def test_void(self) -> None:
        """A code that is void is exit code 1, with why and what comes next."""
        self.happens = lambda: self.guess(3)
        result = self.run_command("invite")
        self.assertEqual(result.exit_code, 1)
        self.assertEqual(
            result.stderr,
            "The code is void: there were too many wrong guesses. For a new one: bzzz invite\n",
        )
        self.happens = lambda: self.machine.clock.advance(CODE_SECONDS + 1)
        result = self.run_command("invite")
        self.assertEqual(
            (result.exit_code, result.stderr),
            (1, "The code is void: it has expired. For a new one: bzzz invite\n"),
        )

    def test_failed(self) -> None:
        """A machine that has the code and cannot be let in is told, with why."""
        self.machine.admit("acacia")

        def happens() -> None:
            try:
                done(self.machine.pairing.admit(self.invitation(), "acacia", IRONWOOD))
            except BzzzError:
                self.guess(3)

        self.happens = happens
        said = self.run_command("invite").stdout
        self.assertIn(
            f"A machine ({IRONWOOD.short}) has not joined: acacia is the name of {ACACIA}", said
        )

    def test_unheard(self) -> None:
        """Who was admitted and may not know it is told, with what to do."""

        def happens() -> None:
            invitation = self.invitation()
            done(self.machine.pairing.admit(invitation, "acacia", ACACIA))
            self.machine.pairing.unheard(invitation, ACACIA, "the other side has hung up")
            self.guess(3)

        self.happens = happens
        said = self.run_command("invite").stdout
        self.assertIn(
            f"acacia ({ACACIA.short}) was admitted, but may not know it: the other side has hung"
            " up. The same bzzz join again on it tells it. If it is not to be in the cluster: bzzz"
            f" revoke {ACACIA.short}\n",
            said,
        )

    def test_busy(self) -> None:
        """That somebody uses up the runs is told, with who, and that a token helps."""

        def happens() -> None:
            pairing = self.machine.pairing
            for number in range(60):
                link: Any = SimpleNamespace(
                    remote_peer=IRONWOOD, remote_host=f"192.0.2.{number // 3}"
                )
                pairing.requested(self.invitation().channel, link)
            self.guess(3)

        self.happens = happens
        said = self.run_command("invite").stdout
        self.assertEqual(said.count("Somebody uses up the runs"), 1)
        self.assertIn("most of them from 192.0.2.0, 192.0.2.1, 192.0.2.2:", said)
        self.assertIn("or use a token: bzzz invite --token\n", said)

    def test_json(self) -> None:
        """With --json each thing is a line."""
        self.happens = self.let_in
        first, last = map(json.loads, self.output("invite", "--json").splitlines())
        self.assertEqual(first["channel"], "1")
        self.assertEqual((last["event"], last["name"]), ("joined", "acacia"))
        self.machine.pairing._cluster_changed()
        self.happens = lambda: self.guess(3)
        result = self.run_command("invite", "--json")
        self.assertEqual((result.exit_code, result.stderr), (1, ""))
        self.assertEqual(json.loads(result.stdout.splitlines()[-1])["event"], "void")

    def test_interrupted(self) -> None:
        """Ctrl-C makes the code void, and says so."""
        stream = Session.stream

        def interrupted(session: Session, what: str, body: object = None) -> Iterator[Any]:
            yield next(stream(session, what, body))
            raise KeyboardInterrupt

        self.patch(Session, "stream", interrupted)
        result = self.run_command("invite")
        self.assertEqual(
            (result.exit_code, result.stderr), (1, "\nInterrupted: the code is void now.\n")
        )

    def test_node_stops(self) -> None:
        """A node that stops takes the code with it."""
        result = self.run_command("invite")
        self.assertEqual(
            (result.exit_code, result.stderr),
            (
                4,
                "The node answered: the node stops. The code is void; for a new one: bzzz invite\n",
            ),
        )

    def test_token(self) -> None:
        """The token alone is on standard output, so that it can go into a file."""
        result = self.run_command("invite", "--token", "--uses", "5", "--expires", "90m")
        self.assertEqual(result.exit_code, 0)
        self.assertRegex(result.stdout, "^bzzz-join-[1-9A-Za-z]+\n$")
        self.assertEqual(
            result.stderr.splitlines(),
            [
                "This token lets 5 machines into homelab, as member, for 90 min. Whoever has it"
                " can use it: keep it secret.",
                "On each machine, put it into a file of its owner alone; then: bzzz join"
                " --token-file FILE",
            ],
        )
        ((invitation, _),) = self.machine.pairing.open_ones()
        self.assertEqual(invitation.uses, 5)

    def test_token_by_default(self) -> None:
        """A token is for one machine and a day, if nothing is said."""
        answer = self.json("invite", "--token")
        self.assertEqual((answer["uses"], answer["seconds"]), (1, 86400.0))
        said = self.run_command("invite", "--token").stderr.splitlines()
        self.assertIn("lets one machine into homelab", said[0])
        self.assertTrue(said[1].startswith("On that machine, put it into a file"), said[1])

    def test_limits(self) -> None:
        """What no token can be is a wrong command line; so are a token's options for a code."""
        self.assertEqual(invite.MAX_USES, MAX_USES)
        self.assertEqual(invite.MAX_DAYS * 86400, MAX_TOKEN_SECONDS)
        for wrong in ("0m", "24", "h", "367d", "1w", "-1h", "1.5h", "9999999999d"):
            result = self.run_command("invite", "--token", "--expires", wrong)
            self.assertEqual(result.exit_code, 2)
            self.assertIn("is no length of time such as", " ".join(result.stderr.split()))
        self.assertEqual(self.run_command("invite", "--token", "--uses", "0").exit_code, 2)
        result = self.run_command("invite", "--uses", "2")
        self.assertEqual(result.exit_code, 2)
        self.assertIn("add --token", " ".join(result.stderr.split()))
        self.assertEqual(self.machine.pairing.open_ones(), [])

    def test_invitations(self) -> None:
        """What is open, how much of it is used and how long it is good; never a secret."""
        self.assertEqual(
            self.output("invitations"), "No invitation is open. To make one: bzzz invite\n"
        )
        token = self.json("invite", "--token", "--uses", "3", "--role", "run-only")
        head, row = self.output("invitations").splitlines()
        self.assertEqual(head.split(), ["CHANNEL", "KIND", "ROLE", "USED", "GOOD", "FOR"])
        self.assertRegex(row, rf"^{token['channel']} +token +run-only +0 of 3 ")
        shown = self.output("invitations", "--json")
        self.assertEqual(json.loads(shown)["invitations"][0]["uses"], 3)
        self.assertNotIn(token["token"], shown)

    def test_used_up(self) -> None:
        """What lets in nobody new is no row: it is counted, and listed for programs."""
        first, second = (self.json("invite", "--token")["channel"] for _ in range(2))
        for name, channel in (("acacia", first), ("ironwood", second)):
            invitation = self.machine.pairing.find(channel)
            assert invitation is not None
            done(self.machine.pairing.admit(invitation, name, key(name).peer_id))
            if channel == first:
                _, row, used_up = self.output("invitations").splitlines()
                self.assertTrue(row.startswith(second))
                self.assertEqual(
                    used_up,
                    "1 more is used up, and kept until it expires; bzzz invitations --json lists"
                    " it",
                )
        self.assertEqual(
            self.output("invitations").splitlines(),
            [
                "No invitation is open. To make one: bzzz invite",
                "2 more are used up, and kept until they expire; bzzz invitations --json lists"
                " them",
            ],
        )
        listed = self.json("invitations")["invitations"]
        self.assertEqual({each["channel"] for each in listed}, {first, second})
        self.output("invitations", "withdraw", first)

    def test_withdraw(self) -> None:
        """An invitation that is withdrawn is void; one that is not there is told."""
        channel = self.json("invite", "--token")["channel"]
        self.assertEqual(
            self.output("invitations", "withdraw", channel),
            f"Invitation {channel} is void now. Machines that it has let in stay.\n",
        )
        self.assertEqual(self.machine.pairing.open_ones(), [])
        said = self.refused(4, "invitations", "withdraw", channel)
        self.assertEqual(
            said,
            f"The node answered: this node has no open invitation {channel}; bzzz invitations lists"
            " them\n",
        )
        self.refused(4, "invitations", "withdraw", "../cluster")
