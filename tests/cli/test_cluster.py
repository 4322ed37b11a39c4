"""The commands about the cluster, against the control API of a node with a real one."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import setproctitle
from click.testing import Result

from bzzz.cli import cluster, invite, join, members
from bzzz.cli.main import bzzz
from bzzz.cli.session import Session
from bzzz.errors import BzzzError
from bzzz.trust.codes import make_token
from bzzz.trust.invitations import CODE_SECONDS, MAX_USES
from bzzz.trust.statements import Role
from bzzz.web import requests
from bzzz.web.api import ControlApi
from bzzz.web.pairing_routes import MAX_TOKEN_SECONDS
from tests.cli.node import CommandTests
from tests.trust.rosters import key
from tests.web.clusters import Home, done

ACACIA, IRONWOOD = key("acacia").peer_id, key("ironwood").peer_id
WALNUT = key("walnut").peer_id

UNCLAIMED = (
    "This node is in no cluster. To found one: bzzz cluster create NAME. To join one: bzzz invite"
    " on a machine that is in it, then bzzz join CODE here"
)
REFUSED = (
    "The node answered: this node is in no cluster: bzzz cluster create NAME founds one, bzzz join"
    " CODE joins one\n"
)


class Base(CommandTests):
    """The node is ``walnut``.

    :ivar titles: what ``ps`` was made to show.
    """

    def setUp(self) -> None:
        super().setUp()
        self.use(Home())
        self.titles: list[str] = []
        self.patch(setproctitle, "setproctitle", self.titles.append)

    def use(self, home: Home) -> None:
        """Ask this node from now on."""
        self.machine = home
        self.routes = (home.routes,)

    def json(self, *arguments: str) -> Any:
        return json.loads(self.output(*arguments, "--json"))

    def refused(self, code: int, *arguments: str, **environ: str) -> str:
        """What is said on stderr by a command that ends with this code, and says nothing else."""
        result = self.run_command(*arguments, **environ)
        self.assertEqual((result.exit_code, result.stdout), (code, ""), result.stderr)
        return result.stderr

    def at_terminal(self, answer: bool) -> list[str]:
        """Have somebody there who answers so; the questions that they are asked."""
        asked: list[str] = []

        def confirm(question: str, **options: object) -> bool:
            asked.append(question)
            return answer

        self.patch(cluster, "_at_terminal", lambda: True)
        self.patch(click, "confirm", confirm)
        return asked


class ClusterCommandTests(Base):
    """create, show, export, import, leave."""

    def test_create(self) -> None:
        """Who has founded a cluster is told what comes next."""
        self.assertEqual(
            self.output("cluster", "create", "homelab").splitlines(),
            [
                "Founded homelab, with this node, walnut, as its admin.",
                "To let a machine in: bzzz invite",
            ],
        )
        self.assertEqual(
            self.refused(4, "cluster", "create", "second"),
            "The node answered: this node is a member of homelab: bzzz leave comes first\n",
        )

    def test_create_with_another_name(self) -> None:
        """The node may have another name in the cluster."""
        answer = self.json("cluster", "create", "homelab", "--name", "oak")
        self.assertEqual(answer["cluster"]["name_here"], "oak")

    def test_create_with_a_bad_name(self) -> None:
        """What cannot be a name is told as that."""
        said = self.refused(4, "cluster", "create", "homelab", "--name", "a b")
        self.assertIn("a machine's name has letters, digits and . _ -", said)

    def test_show(self) -> None:
        """The cluster in some lines, or what to do to be in one."""
        self.assertEqual(self.output("cluster", "show"), UNCLAIMED + "\n")
        self.assertEqual(self.json("cluster", "show"), {"cluster": None})
        self.machine.found()
        self.machine.admit("acacia")
        lines = self.output("cluster", "show").splitlines()
        self.assertEqual(
            [line.split(maxsplit=1) for line in lines if not line.startswith(("id", "this"))],
            [["cluster", "homelab"], ["members", "2"]],
        )
        self.assertIn("this node  walnut, admin", lines)
        self.assertEqual(self.json("cluster", "show")["cluster"]["members"], 2)

    def test_show_revoked(self) -> None:
        """A node that was revoked says so, and how to come back."""
        self.machine.found()
        other = self.machine.admit("acacia")
        done(self.machine.cluster.revoke(ACACIA))
        self.machine.news_to(other)
        self.use(other)
        said = self.output("cluster", "show")
        self.assertIn("was revoked, so no member links with it. To come back: bzzz leave", said)
        self.assertTrue(self.output("members").startswith("This node was revoked"))
        self.assertEqual(self.output("leave"), "Left homelab.\n")

    def test_without_a_cluster(self) -> None:
        """What needs a cluster says what to do, and nothing of how it was asked."""
        for command in (
            "invite",
            "invite --token",
            "cluster export",
            "revoke acacia",
            "rename acacia oak",
            f"admit {ACACIA} --name acacia",
        ):
            self.assertEqual(self.refused(4, *command.split()), REFUSED)
        self.assertEqual(self.refused(4, "leave"), UNCLAIMED + "\n")
        self.assertEqual(self.output("members"), UNCLAIMED + "\n")

    def test_export(self) -> None:
        """The roster goes to standard output, or into a file for its owner alone."""
        self.machine.found()
        self.assertEqual(json.loads(self.output("cluster", "export"))["cluster"], "homelab")
        file = Path(self.mktemp())
        for _ in range(2):
            self.assertEqual(
                self.output("cluster", "export", str(file)),
                f"Wrote the roster of homelab to {file}\n",
            )
            self.assertEqual(file.stat().st_mode & 0o777, 0o600)
            self.assertEqual(file.read_text(), self.output("cluster", "export", "-"))
            # Somebody's file of before.
            file.chmod(0o644)
        self.assertEqual(
            self.json("cluster", "export", str(file)), {"file": str(file), "cluster": "homelab"}
        )

    def test_export_to_nowhere(self) -> None:
        """A file that cannot be written is told with why."""
        self.machine.found()
        said = self.refused(1, "cluster", "export", "/nonexistent/roster")
        self.assertEqual(said, "/nonexistent/roster cannot be written: No such file or directory\n")

    def test_import(self) -> None:
        """A node that was admitted joins by the file; a member learns what is new."""
        self.machine.found()
        done(self.machine.cluster.admit(ACACIA, "acacia", Role.MEMBER))
        file = self.mktemp()
        self.output("cluster", "export", file)
        joiner = Home("acacia")
        self.use(joiner)
        self.assertEqual(
            self.output("cluster", "import", file),
            "This node is in homelab now, which has 2 members.\n",
        )
        self.assertEqual(
            self.output("cluster", "import", file),
            "Nothing in it was new. homelab has 2 members.\n",
        )

    def test_import_of_news(self) -> None:
        """What a member had not heard is counted."""
        self.machine.found()
        other = self.machine.admit("acacia")
        done(self.machine.cluster.admit(IRONWOOD, "ironwood", Role.MEMBER))
        file = self.mktemp()
        self.output("cluster", "export", file)
        self.use(other)
        self.assertEqual(
            self.output("cluster", "import", file),
            "1 statement was new. homelab has 3 members.\n",
        )
        self.assertEqual(self.json("cluster", "import", file)["new"], 0)

    def test_import_of_something_else(self) -> None:
        """What is no roster is refused before it is sent, with how to get one."""
        file = Path(self.mktemp())
        for content in (b"", b"\xff", b"{}", b"[1]", b'{"format": "toml"}', b"[" * 100_000):
            file.write_bytes(content)
            self.assertEqual(
                self.refused(1, "cluster", "import", str(file)),
                f"{file} is no whole roster of Bzzz. To write one, on a member: bzzz cluster"
                " export FILE\n",
            )
        self.assertEqual(self.asked, [])
        self.assertIn("No such file", self.refused(1, "cluster", "import", "/nonexistent"))
        file.write_text(json.dumps({"format": "bzzz-roster-1", "x": "x" * (1 << 20)}))
        self.assertIn("is too large", self.refused(1, "cluster", "import", str(file)))

    def test_import_by_a_stranger(self) -> None:
        """A node that the roster does not have is told how to get into it."""
        self.machine.found()
        file = self.mktemp()
        self.output("cluster", "export", file)
        self.use(Home("acacia"))
        said = self.refused(4, "cluster", "import", file)
        self.assertIn(f"this node, {ACACIA}, is not on the roster of homelab", said)

    def test_leave(self) -> None:
        """Who leaves is asked first, and told who has heard it."""
        self.machine.found()
        other = self.machine.admit("acacia")
        self.use(other)
        other.told = 1
        asked = self.at_terminal(False)
        self.assertEqual(self.refused(1, "leave"), "Nothing was changed.\n")
        self.assertEqual(asked, ["Leave homelab? To come back this node has to be invited again."])
        self.assertIsNotNone(other.cluster.roster)
        self.assertEqual(
            self.output("leave", "--yes"),
            "Left homelab. 1 member heard it, and tells the others.\n",
        )
        self.assertIsNone(other.cluster.roster)

    def test_leave_unheard(self) -> None:
        """Where nobody has heard it, one is told what is left to do."""
        self.machine.found()
        self.use(self.machine.admit("acacia"))
        self.assertEqual(
            self.output("leave"),
            "Left homelab. No member was linked to hear it. If it was revoked already, nothing"
            " needs to be done. Else, to take this node off their list, on an admin's machine:"
            " bzzz revoke acacia\n",
        )

    def test_leave_as_the_only_admin(self) -> None:
        """The only admin is told whom to make one, and can leave all the same."""
        self.machine.found()
        self.machine.admit("acacia")
        said = self.refused(4, "leave")
        self.assertIn("bzzz admit acacia --role admin", said)
        self.assertIn("bzzz leave --force", said)
        self.assertEqual(self.json("leave", "--force"), {"cluster": "homelab", "told": 0})

    def test_price_of_leaving(self) -> None:
        """Who is asked is told what is lost: the only admin cannot be let in again."""
        founder = self.machine
        founder.found()
        other = founder.admit("acacia")
        asked = self.at_terminal(False)
        self.refused(1, "leave", "--force")
        self.assertEqual(
            asked,
            [
                "Leave homelab? This node is its only admin: nobody will be left who can let in or"
                " revoke anybody, so this node cannot come back either."
            ],
        )
        come_back = "Leave homelab? To come back this node has to be invited again."
        self.use(other)
        self.refused(1, "leave", "--force")
        self.assertEqual(asked[1], come_back)
        founder.admit("ironwood", Role.ADMIN)
        self.use(founder)
        self.refused(1, "leave", "--force")
        self.assertEqual(asked[2], come_back)

    def test_leave_alone(self) -> None:
        """A cluster of one ends, which is said first."""
        self.machine.found()
        asked = self.at_terminal(True)
        self.assertEqual(self.output("leave"), "Left homelab. It has no members any more.\n")
        self.assertEqual(
            asked,
            ["Leave homelab? It has no other member, so it ends, and nobody can come back to it."],
        )


class MemberCommandTests(Base):
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


class InviteCommandTests(Base):
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


class JoinCommandTests(Base):
    """join, on ``acacia``."""

    def setUp(self) -> None:
        super().setUp()
        self.inviter = self.machine
        self.inviter.found()
        self.use(Home("acacia"))
        self.machine.joining.inviter = self.inviter
        self.token = make_token(WALNUT, b"channel_", lambda size: b"s" * size)

    def joined(self, result: Result, name: str = "acacia") -> None:
        self.assertEqual(
            (result.exit_code, result.stdout),
            (0, f"Joined homelab: walnut ({WALNUT.short}) let this node in as {name}\n"),
            result.stderr,
        )

    def secret(self) -> Any:
        return self.machine.joining.asked[0]

    def test_code(self) -> None:
        """Who let it in is told, and what went on before on stderr."""
        result = self.run_command("join", "7-guitar-lunar")
        self.joined(result)
        self.assertEqual(
            result.stderr.splitlines(),
            [
                "Looking for the machine that made it, for 30 s at most",
                f"Found it at 192.0.2.1:4001 ({WALNUT.short})",
            ],
        )
        self.assertEqual(self.secret().text, "7-guitar-lunar")
        # Nobody is looked for then.
        self.assertEqual(
            self.refused(4, "join", "7-guitar-lunar"),
            "The node answered: this node is a member of homelab: bzzz leave comes first\n",
        )

    def test_code_in_words(self) -> None:
        """A code may be typed as several words."""
        self.joined(self.run_command("join", "7", "Guitar", "LUNA"))
        self.assertEqual(self.secret().text, "7-guitar-lunar")

    def test_options(self) -> None:
        """--name and --at reach the node."""
        at = ("/ip4/192.0.2.1/tcp/4001", f"/ip6/2001:db8::1/tcp/4001/p2p/{WALNUT}")
        self.joined(
            self.run_command(
                "join", "7-guitar-lunar", "--name", "oak", "--at", at[0], "--at", at[1]
            ),
            "oak",
        )
        self.assertEqual(tuple(map(str, self.machine.joining.asked[2])), at)

    def test_mistyped(self) -> None:
        """A word that is in no code is told with the nearest, and nobody is asked."""
        self.assertEqual(
            self.refused(2, "join", "7-guitr-lunar"),
            "Word 1, 'guitr', is in no code: did you mean guitar?\n",
        )
        self.assertIn("has 2 words after its number", self.refused(2, "join", "7", "guitar"))
        self.assertEqual(self.asked, [])

    def test_nothing_given(self) -> None:
        """Without a code one is told where it is shown."""
        result = self.run_command("join")
        self.assertEqual(result.exit_code, 2)
        self.assertIn("bzzz invite shows it", " ".join(result.stderr.split()))

    def test_bad_addresses(self) -> None:
        """An address that cannot be dialled is a wrong command line."""
        for address in ("192.0.2.1:4001", "/ip4/192.0.2.1", "/dns4/walnut/tcp/4001"):
            result = self.run_command("join", "7-guitar-lunar", "--at", address)
            self.assertEqual(result.exit_code, 2)
            self.assertIn("bzzz id on the other machine", " ".join(result.stderr.split()))

    def test_token_in_a_file(self) -> None:
        """A token is read from a file, with the end of its line."""
        file = Path(self.mktemp())
        file.write_text(self.token.text + "\n")
        self.joined(self.run_command("join", "--token-file", str(file)))
        self.assertEqual(self.secret(), self.token)
        self.assertEqual(self.titles, [])

    def test_token_in_the_environment(self) -> None:
        """A token is taken from its variable, which is not for the configuration."""
        result = self.run_command(
            "join", BZZZ_JOIN_TOKEN=self.token.text, BZZZ_RUNTIME_DIR="/chosen"
        )
        self.joined(result)
        self.assertEqual(self.secret(), self.token)
        self.assertTrue(self.asked[0].startswith("/chosen/"), self.asked)
        self.assertEqual(self.titles, [])

    def test_what_is_typed_wins(self) -> None:
        """A code on the command line is meant, whatever the environment has."""
        self.joined(self.run_command("join", "7-guitar-lunar", BZZZ_JOIN_TOKEN=self.token.text))
        self.assertEqual(self.secret().channel, "7")

    def test_standard_input(self) -> None:
        """A dash reads standard input, which need not be a token."""
        for text, expected in ((self.token.text, self.token.channel), ("7 guitar lunar", "7")):
            self.use(Home("acacia"))
            self.inviter = Home()
            self.inviter.found()
            self.machine.joining.inviter = self.inviter
            self.patch(join, "_read", lambda file, text=text: text if file == "-" else "")
            self.joined(self.run_command("join", "-"))
            self.assertEqual(self.secret().channel, expected)

    def test_typed_at_a_terminal(self) -> None:
        """A dash at a terminal asks, and shows nothing of what is typed."""
        asked: list[dict[str, object]] = []

        def prompt(text: str, **options: object) -> str:
            asked.append(options)
            return self.token.text

        self.patch(join, "_at_terminal", lambda: True)
        self.patch(click, "prompt", prompt)
        self.joined(self.run_command("join", "-"))
        self.assertEqual(asked, [{"hide_input": True, "err": True}])

    def test_files_without_a_token(self) -> None:
        """A file that cannot be read, or has something else, is told; what is in it is not."""
        file = Path(self.mktemp())
        neither = f"{file} has no token, which bzzz invite --token makes, and no code: "
        for content, code, expected in (
            (None, 1, "cannot be read: No such file or directory"),
            (b"", 2, f"{neither}the code is missing"),
            (b"garbage\n", 2, f"{neither}a code begins with a number"),
            (b"\xff\xfe", 2, "it is not text"),
            (self.token.text[:-4].encode(), 2, f"{file}: the token is damaged, or a part is"),
            (b"x" * (1 << 20), 2, "too long"),
        ):
            if content is not None:
                file.write_bytes(content)
            said = self.refused(code, "join", "--token-file", str(file))
            self.assertIn(expected, said)
            self.assertNotIn(self.token.text[12:30], said)
        both = self.run_command("join", "7-guitar-lunar", "--token-file", str(file))
        self.assertEqual(both.exit_code, 2)

    def test_where_no_token_is(self) -> None:
        """What is no token is told with where it was: the variable, or standard input."""
        said = self.refused(2, "join", BZZZ_JOIN_TOKEN="garbage")
        self.assertTrue(said.startswith("BZZZ_JOIN_TOKEN has no token"), said)
        self.patch(join, "_read", lambda file: self.token.text[:-4])
        said = self.refused(2, "join", "-")
        self.assertTrue(said.startswith("Standard input: the token is damaged"), said)

    def test_hidden(self) -> None:
        """A token that was typed is hidden before anything else is done, be it right or not."""
        for token in (self.token.text, self.token.text[:-4]):
            self.titles.clear()
            self.run_command("join", token, "--at", "nowhere")
            self.assertEqual(self.titles, ["bzzz join"])

    def test_hidden_from_ps(self) -> None:
        """The process list does not have it, while the node is waited for."""
        directory = tempfile.TemporaryDirectory(prefix="bzzz-")
        self.addCleanup(directory.cleanup)
        listening = socket.socket(socket.AF_UNIX)
        self.addCleanup(listening.close)
        listening.bind(f"{directory.name}/control.sock")
        listening.listen()
        listening.settimeout(20)
        command = [sys.executable, "-m", "bzzz.cli", "--runtime-dir", directory.name]
        with subprocess.Popen([*command, "join", self.token.text]) as process:
            try:
                connection, _ = listening.accept()
                self.addCleanup(connection.close)
                shown = Path(f"/proc/{process.pid}/cmdline").read_bytes()
            finally:
                process.kill()
        self.assertNotIn(b"bzzz-join-", shown)
        self.assertIn(b"bzzz join", shown)

    def test_errors_of_the_node(self) -> None:
        """Why it has not joined is told in words, with what to do; exit code 4."""
        self.machine.joining.inviter = None
        result = self.run_command("join", "7-guitar-lunar", "--at", "/ip4/192.0.2.1/tcp/4001")
        self.assertEqual((result.exit_code, result.stdout), (4, ""))
        self.assertEqual(
            result.stderr.splitlines()[-1],
            "The node answered: nobody can be reached: /ip4/192.0.2.1/tcp/4001: connection refused",
        )

    def test_json(self) -> None:
        """With --json each thing is a line."""
        lines = [
            json.loads(line)
            for line in self.output("join", "7-guitar-lunar", "--json").splitlines()
        ]
        self.assertEqual(
            [line["event"] for line in lines], ["looking", "asking", "found", "joined"]
        )
        self.assertEqual(lines[-1]["by_name"], "walnut")

    def test_interrupted(self) -> None:
        """Ctrl-C ends the search; whether the node had joined by then is told."""
        stream = Session.stream

        def interrupted(session: Session, what: str, body: object = None) -> Iterator[Any]:
            yield next(stream(session, what, body))
            raise KeyboardInterrupt

        self.patch(Session, "stream", interrupted)
        result = self.run_command("join", "7-guitar-lunar")
        self.assertEqual(result.exit_code, 1)
        self.assertEqual(
            result.stderr.splitlines()[-1],
            "Interrupted, but this node had joined homelab already.",
        )
        self.use(Home("oak"))
        result = self.run_command("join", "7-guitar-lunar")
        self.assertEqual(result.stderr.splitlines()[-1], "Interrupted: this node has not joined.")


class NoNodeTests(Base):
    """Without a node."""

    def test_no_node(self) -> None:
        """Each command says how to start one; exit code 3."""
        self.node = None
        for command in (
            "cluster create homelab",
            "cluster show",
            "cluster export",
            "invite",
            "invite --token",
            "invitations",
            "invitations withdraw 7",
            "join 7-guitar-lunar",
            "members",
            f"admit {ACACIA} --name acacia",
            "rename acacia oak",
            "revoke acacia",
            "leave",
        ):
            said = self.refused(3, *command.split())
            self.assertIn("No node is running here", said)
            self.assertEqual(said.count("\n"), 1)

    def test_limit(self) -> None:
        """What the command takes of a roster is what the node does."""
        self.assertEqual(cluster.MAX_IMPORT, requests.MAX_BODY_BYTES)
