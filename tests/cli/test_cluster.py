"""The commands about the cluster, against the control API of a node with a real one."""

from __future__ import annotations

import json
from pathlib import Path

from bzzz.cli import cluster
from bzzz.trust.statements import Role
from bzzz.web import requests
from tests.cli.cluster_case import ACACIA, IRONWOOD, REFUSED, UNCLAIMED, ClusterCase
from tests.web.clusters import Home, done


class ClusterCommandTests(ClusterCase):
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


class NoNodeTests(ClusterCase):
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
