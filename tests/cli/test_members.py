"""The commands about members, against the control API of a node with a real cluster."""

from __future__ import annotations

import click

from bzzz.cli import members
from bzzz.cli.main import bzzz
from bzzz.cli.session import Session
from bzzz.trust.statements import Role
from tests.cli.cluster_case import ACACIA, IRONWOOD, WALNUT, ClusterCase
from tests.web.clusters import done


class MemberCommandTests(ClusterCase):
    """members, admit, rename, revoke."""

    def setUp(self) -> None:
        super().setUp()
        self.machine.found()

    def test_members(self) -> None:
        """A line for each: who, as what, linked or not, since when, by whom."""
        self.machine.admit("acacia")
        self.machine.admit("ironwood", Role.SUBMIT_ONLY)
        self.machine.connected.add(ACACIA)
        first, head, *rows = self.output("members").splitlines()
        self.assertEqual(first, "homelab has 3 members, 1 linked with this node")
        self.assertEqual(head.split("  ")[0], "NAME")
        self.assertRegex(rows[0], rf"^acacia +{ACACIA.short} +member +connected .* walnut$")
        self.assertRegex(rows[1], rf"^ironwood +{IRONWOOD.short} +submit-only +none .* walnut$")
        self.assertRegex(rows[2], rf"^walnut +{WALNUT.short} +admin +this node .* founder$")
        self.assertEqual(len(self.json("members")["members"]), 3)

    def test_revoked_members(self) -> None:
        """Those who were put out, or left, have a table of their own."""
        other = self.machine.admit("acacia")
        self.machine.admit("ironwood")
        done(self.machine.cluster.revoke(IRONWOOD, "sold"))
        done(other.cluster.say_leaving())
        other.news_to(self.machine)
        lines = self.output("members").splitlines()
        rows = sorted(lines[lines.index("") + 2 :])
        self.assertRegex(rows[0], rf"^acacia +{ACACIA.short} .* itself$")
        self.assertRegex(rows[1], rf"^ironwood +{IRONWOOD.short} .* walnut +sold$")

    def test_admit(self) -> None:
        """Who was let in by hand has to be given the roster."""
        self.assertEqual(
            self.output("admit", str(ACACIA), "--name", "acacia").splitlines(),
            [
                f"Admitted acacia ({ACACIA.short}) to homelab, as member.",
                "It does not know that yet. Here: bzzz cluster export FILE. Then, with FILE,"
                " there:",
                "bzzz cluster import FILE",
            ],
        )
        self.assertEqual(
            self.output("admit", "acacia", "--role", "admin"),
            f"acacia ({ACACIA.short}) is in homelab, as admin.\n",
        )
        self.assertFalse(self.json("admit", "acacia")["new"])

    def test_admit_nobody(self) -> None:
        """What is no peer ID is told as that, and a name is asked for."""
        said = self.refused(4, "admit", "oak", "--name", "oak")
        self.assertIn("'oak' is neither a member of homelab nor the peer ID of a Bzzz node", said)
        self.assertIn("give it a name", self.refused(4, "admit", str(ACACIA)))
        self.assertEqual(self.run_command("admit", str(ACACIA), "--role", "x").exit_code, 2)

    def test_rename(self) -> None:
        """The old name and the new one."""
        self.machine.admit("acacia")
        self.assertEqual(
            self.output("rename", ACACIA.short, "maple"),
            f"acacia ({ACACIA.short}) is called maple now.\n",
        )
        said = self.refused(4, "rename", "maple", "walnut")
        self.assertIn(f"walnut is the name of {WALNUT} already; give another", said)

    def test_revoke(self) -> None:
        """Without a terminal it is done; it says who was meant."""
        self.machine.admit("acacia")
        self.assertEqual(
            self.output("revoke", "aca", "--reason", "sold"),
            f"Revoked acacia ({ACACIA.short}) from homelab.\n",
        )
        self.assertEqual(self.machine.cluster.member_of().revoked[ACACIA].reason, "sold")

    def test_revoke_with_an_open_token(self) -> None:
        """Who may still come in by a token is not out: that is told."""
        self.machine.admit("acacia")
        invitation = done(self.machine.pairing.open_token(Role.MEMBER, 2, 60.0))
        result = self.run_command("revoke", "acacia")
        self.assertEqual(result.exit_code, 0)
        self.assertEqual(
            result.stderr,
            f"If that machine may have the token {invitation.channel} of this node, it can come"
            f" back under another key: bzzz invitations withdraw {invitation.channel}\n",
        )

    def test_revoke_at_a_terminal(self) -> None:
        """At a terminal it asks, with who is meant; --yes does not."""
        self.machine.admit("acacia")
        asked = self.at_terminal(False)
        self.assertEqual(self.refused(1, "revoke", "acacia"), "Nothing was changed.\n")
        self.assertEqual(
            asked,
            [
                f"Revoke acacia ({ACACIA.short})? It loses its links with all members, and comes"
                " back only if it is let in again."
            ],
        )
        self.assertTrue(self.machine.cluster.admission.admits(ACACIA))
        self.output("revoke", "acacia", "--yes")
        self.assertEqual(len(asked), 1)
        self.assertFalse(self.machine.cluster.admission.admits(ACACIA))

    def test_confirmed(self) -> None:
        """What was confirmed is done to that peer, whoever has its name by then."""
        self.machine.admit("acacia")

        def confirm(question: str, **options: object) -> bool:
            done(self.machine.cluster.rename(ACACIA, "maple"))
            self.machine.admit("ironwood")
            done(self.machine.cluster.rename(IRONWOOD, "acacia"))
            return True

        self.at_terminal(True)
        self.patch(click, "confirm", confirm)
        self.assertIn("Revoked maple", self.output("revoke", "acacia"))
        self.assertTrue(self.machine.cluster.admission.admits(IRONWOOD))

    def test_nobody_to_revoke(self) -> None:
        """A name that nobody has, and one that is not enough, are told with whom there is."""
        self.machine.admit("acacia")
        self.machine.admit("acorn")
        said = self.refused(4, "revoke", "oak")
        self.assertIn("no member of homelab is called 'oak' (there are acacia, acorn", said)
        self.assertIn("'ac' may be any of", self.refused(4, "revoke", "ac"))
        said = self.refused(4, "revoke", "walnut")
        self.assertIn("walnut is this node: it leaves by bzzz leave", said)

    def test_hostile_names(self) -> None:
        """What others wrote does not drive the terminal."""
        answer = {
            "cluster": "\x1b[2J",
            "members": [],
            "revoked": [
                {
                    "peer_id": "x",
                    "short_id": "x",
                    "name": "\x1b[2J",
                    "by": "y",
                    "by_name": None,
                    "time": "\x1b[2J",
                    "reason": "\u202e",
                }
            ],
        }
        self.patch(Session, "ask", lambda *_: answer)
        self.assertNotRegex(self.output("members"), "[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]")

    def test_completion(self) -> None:
        """Pressing Tab offers names and short IDs, and nothing without a node."""
        self.machine.admit("acacia")
        ctx = bzzz.make_context("bzzz", ["id"])

        def offered(begin: str) -> list[str]:
            param = members.revoke.params[0]
            return [item.value for item in members.complete_member(ctx, param, begin)]

        self.assertEqual(offered("ac"), ["acacia"])
        self.assertEqual(offered(WALNUT.short), [WALNUT.short])
        self.node = None
        self.assertEqual(offered("ac"), [])

    def test_roles(self) -> None:
        """The roles that the commands offer are those that there are."""
        self.assertEqual(members.ROLES, tuple(Role))
