"""The control API of the cluster, over HTTP with bytes in place of a socket."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from bzzz.identity.peer_id import PeerID
from bzzz.trust.statements import Right, Role
from bzzz.web import cluster_schema
from tests.trust.rosters import TIME, key
from tests.web.clusters import Home
from tests.web.routes_case import RoutesCase

ACACIA, IRONWOOD = key("acacia").peer_id, key("ironwood").peer_id


class ClusterTests(RoutesCase):
    """Founding, showing and leaving."""

    def test_unclaimed(self) -> None:
        """A node in no cluster says so, and refuses what needs one, with what to do."""
        self.assertEqual(self.get("cluster"), {"cluster": None})
        self.assertEqual(self.get("members"), {"cluster": None, "members": [], "revoked": []})
        self.assertEqual(self.get("invitations"), {"invitations": []})
        for path, body in (
            ("members", {"peer_id": str(ACACIA), "name": "acacia"}),
            ("members/rename", {"member": "acacia", "name": "oak"}),
            ("members/revoke", {"member": "acacia"}),
            ("leave", {}),
            ("invitations", {}),
            ("tokens", {}),
        ):
            said = self.refused(409, "unclaimed", path, body)
            self.assertIn("bzzz cluster create NAME", said)
        for path in ("roster", "members/acacia"):
            answer = self.ask("GET", path)
            self.assertEqual((answer.status, answer.json()["error"]["code"]), (409, "unclaimed"))

    def test_create(self) -> None:
        """Who founds a cluster is its admin, under the node's own name or another."""
        answer = self.post("cluster", {"name": "my homelab"})["cluster"]
        self.assertRegex(answer.pop("id"), "^[0-9a-f]{64}$")
        self.assertEqual(
            answer,
            {
                "name": "my homelab",
                "members": 1,
                "role": "admin",
                "revoked": False,
                "name_here": "walnut",
            },
        )
        self.assertEqual(self.get("cluster")["cluster"]["name_here"], "walnut")
        other = Home("oak")
        self.post("cluster", {"name": "another", "node": "beech"}, other)
        self.assertEqual(self.get("cluster", other)["cluster"]["name_here"], "beech")

    def test_create_is_kept(self) -> None:
        """A cluster is on disk when it is answered."""
        self.post("cluster", {"name": "homelab"})
        self.assertEqual(self.home.disk.kept, self.home.statements())

    def test_create_twice(self) -> None:
        """A member founds nothing."""
        self.home.found()
        said = self.refused(409, "already_member", "cluster", {"name": "second"})
        self.assertIn("homelab: bzzz leave comes first", said)

    def test_bad_names(self) -> None:
        """What cannot be a name is said to be none, and is no failure of the node."""
        for body in ({"name": ""}, {"name": "a\nb"}, {"name": "a", "node": "x y"}):
            self.refused(400, "bad_argument", "cluster", body)
        self.home.found()
        self.home.admit("acacia")
        for path, body in (
            ("members", {"peer_id": str(IRONWOOD), "name": "iron wood"}),
            ("members/rename", {"member": "acacia", "name": "-"}),
            ("members/revoke", {"member": "acacia", "reason": "x\x1b"}),
        ):
            self.refused(400, "bad_argument", path, body)

    def test_revoked(self) -> None:
        """A node that was revoked says so, and may leave."""
        self.home.found()
        other = self.home.admit("acacia")
        self.post("members/revoke", {"member": "acacia"})
        self.home.news_to(other)
        shown = self.get("cluster", other)["cluster"]
        self.assertEqual(
            (shown["revoked"], shown["role"], shown["name_here"], shown["members"]),
            (True, None, None, 1),
        )

    def test_leave(self) -> None:
        """A member leaves; the answer has how many were told."""
        self.home.found()
        other = self.home.admit("acacia")
        other.told = 1
        self.assertEqual(self.post("leave", {}, other), {"cluster": "homelab", "told": 1})
        self.assertEqual(self.get("cluster", other), {"cluster": None})

    def test_last_admin(self) -> None:
        """The only admin leaves no members behind, unless it is forced."""
        self.home.found()
        self.home.admit("acacia")
        said = self.refused(409, "last_admin", "leave", {})
        self.assertIn("bzzz admit acacia --role admin", said)
        self.assertIn("bzzz leave --force", said)
        self.assertIsNotNone(self.home.cluster.roster)
        self.post("leave", {"force": True})
        self.assertIsNone(self.home.cluster.roster)

    def test_admins_that_may_leave(self) -> None:
        """An admin who is not the only one may leave, and so may one that is alone."""
        self.home.found()
        self.home.admit("acacia", Role.ADMIN)
        self.post("leave", {})
        alone = Home("oak")
        alone.found()
        self.post("leave", {}, alone)


class MemberTests(RoutesCase):
    """Who is in, and as what."""

    def setUp(self) -> None:
        super().setUp()
        self.home.found()

    def test_members(self) -> None:
        """All members by name, with what they may do and whether they are linked."""
        self.home.admit("acacia", Role.RUN_ONLY)
        self.home.connected.add(ACACIA)
        answer = self.get("members")
        self.assertEqual((answer["cluster"], answer["revoked"]), ("homelab", []))
        acacia, walnut = answer["members"]
        self.assertEqual(
            acacia,
            {
                "name": "acacia",
                "peer_id": str(ACACIA),
                "short_id": ACACIA.short,
                "role": "run-only",
                "rights": ["run"],
                "connected": True,
                "self": False,
                "admitted_by": str(self.home.peer_id),
                "admitted_by_name": "walnut",
                "since": TIME,
            },
        )
        self.assertEqual(
            (walnut["self"], walnut["connected"], walnut["rights"]),
            (True, True, ["administer", "submit", "run"]),
        )
        self.home.connected.clear()
        self.assertFalse(self.get("members")["members"][0]["connected"])

    def test_revoked_members(self) -> None:
        """Who was put out is listed with its last name, by whom, and why."""
        self.home.admit("acacia")
        self.post("members/rename", {"member": "acacia", "name": "maple"})
        self.post("members/revoke", {"member": "maple", "reason": "it was sold"})
        answer = self.get("members")
        self.assertEqual(len(answer["members"]), 1)
        self.assertEqual(
            answer["revoked"],
            [
                {
                    "peer_id": str(ACACIA),
                    "short_id": ACACIA.short,
                    "name": "maple",
                    "by": str(self.home.peer_id),
                    "by_name": "walnut",
                    "time": TIME,
                    "reason": "it was sold",
                }
            ],
        )

    def test_one_member(self) -> None:
        """A member is found by its name, its short ID, its ID or a beginning."""
        self.home.admit("acacia")
        for text in (
            "acacia",
            ACACIA.short,
            str(ACACIA),
            str(ACACIA)[:20],
            str(ACACIA)[8:13],
            "ac",
        ):
            self.assertEqual(self.get(f"members/{text}")["peer_id"], str(ACACIA))

    def test_no_such_member(self) -> None:
        """Nobody of that name is 404, with whom there is; who was revoked is told as that."""
        self.home.admit("acacia")
        answer = self.ask("GET", "members/oak")
        self.assertEqual(answer.status, 404)
        self.assertEqual(
            answer.json()["error"],
            {
                "code": "no_such_member",
                "message": "no member of homelab is called 'oak' (there are acacia, walnut)",
            },
        )
        self.post("members/revoke", {"member": "acacia"})
        said = self.refused(404, "no_such_member", "members/revoke", {"member": str(ACACIA)})
        self.assertIn("is no member of homelab any more", said)

    def test_a_link_decides_nothing(self) -> None:
        """Of two that may be meant nobody is revoked because the other is off."""
        self.home.admit("acacia")
        self.home.admit("acorn")
        self.home.connected.add(ACACIA)
        said = self.refused(409, "ambiguous_member", "members/revoke", {"member": "ac"})
        self.assertIn("acacia", said)
        self.assertIn("acorn", said)
        self.assertEqual(len(self.get("members")["members"]), 3)

    def test_admit(self) -> None:
        """A peer is let in by its ID, as a member if nothing else is said."""
        body = {"peer_id": str(ACACIA), "name": "acacia"}
        answer = self.post("members", body)
        self.assertEqual((answer["cluster"], answer["new"]), ("homelab", True))
        self.assertEqual((answer["member"]["name"], answer["member"]["role"]), ("acacia", "member"))
        self.assertFalse(self.post("members", body)["new"])
        self.assertEqual(self.home.disk.kept, self.home.statements())

    def test_another_role(self) -> None:
        """A member gets another role and keeps its name; it may be named by its name."""
        self.home.admit("acacia")
        answer = self.post("members", {"peer_id": "acacia", "role": "admin"})
        self.assertEqual(
            (answer["new"], answer["member"]["role"], answer["member"]["name"]),
            (False, "admin", "acacia"),
        )
        answer = self.post("members", {"peer_id": str(ACACIA), "name": "maple"})
        self.assertEqual((answer["member"]["role"], answer["member"]["name"]), ("admin", "maple"))

    def test_a_name_that_is_a_peer_id(self) -> None:
        """A member that calls itself by another peer's ID is not meant by that."""
        other = self.home.admit("acacia")
        self.post("members/rename", {"member": "acacia", "name": str(IRONWOOD)}, other)
        other.news_to(self.home)
        answer = self.post("members", {"peer_id": str(IRONWOOD), "name": "iron", "role": "admin"})
        self.assertEqual((answer["new"], answer["member"]["peer_id"]), (True, str(IRONWOOD)))
        self.assertEqual(self.home.cluster.member_of().members[ACACIA].role, Role.MEMBER)

    def test_a_name_that_is_a_short_id(self) -> None:
        """When a member calls itself by another's short ID nobody's role is changed by that."""
        other = self.home.admit("acacia")
        self.home.admit("ironwood")
        self.post("members/rename", {"member": "acacia", "name": IRONWOOD.short}, other)
        other.news_to(self.home)
        body = {"peer_id": IRONWOOD.short, "role": "admin"}
        said = self.refused(409, "ambiguous_member", "members", body)
        self.assertIn(str(ACACIA), said)
        self.assertIn(str(IRONWOOD), said)
        answer = self.post("members", {"peer_id": ACACIA.short, "role": "run-only"})
        self.assertEqual(answer["member"]["peer_id"], str(ACACIA))

    def test_admit_nobody(self) -> None:
        """What is no peer ID of a node is refused with why; so is a peer without a name."""
        for text in ("oak", "12D3KooW", "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N", ""):
            said = self.refused(400, "bad_argument", "members", {"peer_id": text, "name": "oak"})
            self.assertIn("bzzz id tells it", said)
        self.refused(400, "bad_argument", "members", {"peer_id": str(ACACIA)})
        self.refused(
            400, "bad_body", "members", {"peer_id": str(ACACIA), "name": "a", "role": "king"}
        )

    def test_name_taken(self) -> None:
        """Two members have not one name."""
        self.home.admit("acacia")
        for path, body in (
            ("members", {"peer_id": str(IRONWOOD), "name": "acacia"}),
            ("members/rename", {"member": "walnut", "name": "acacia"}),
        ):
            self.refused(409, "name_taken", path, body)

    def test_this_node(self) -> None:
        """A node neither admits nor revokes itself; it can rename itself."""
        own = str(self.home.peer_id)
        self.refused(409, "own_node", "members", {"peer_id": own, "role": "member"})
        said = self.refused(409, "own_node", "members/revoke", {"member": "walnut"})
        self.assertIn("bzzz leave", said)
        answer = self.post("members/rename", {"member": "walnut", "name": "oak"})
        self.assertEqual((answer["was"], answer["member"]["name"]), ("walnut", "oak"))

    def test_not_admin(self) -> None:
        """A member changes nothing but its own name, and is told who can."""
        other = self.home.admit("acacia")
        for path, body in (
            ("members", {"peer_id": str(IRONWOOD), "name": "ironwood"}),
            ("members/rename", {"member": "walnut", "name": "oak"}),
            ("members/revoke", {"member": "walnut"}),
            ("invitations", {}),
            ("tokens", {}),
        ):
            said = self.refused(409, "not_admin", path, body, other)
            self.assertIn("ask on one that is: walnut", said)
        self.post("members/rename", {"member": "acacia", "name": "maple"}, other)

    def test_meanwhile(self) -> None:
        """What others say of the same member while that is written to disk is what is told."""
        self.home.admit("acacia")
        cluster = self.home.cluster
        rename, revoke = cluster.rename, cluster.revoke

        async def renamed_and_revoked(peer: PeerID, name: str) -> None:
            await rename(peer, name)
            await revoke(peer)

        self.patch(cluster, "rename", renamed_and_revoked)
        body: dict[str, str] = {"member": "acacia", "name": "oak"}
        said = self.refused(409, "no_such_member", "members/rename", body)
        self.assertIn("acacia was revoked while", said)
        self.home.admit("acacia")

        async def revoked_and_admitted(peer: PeerID, reason: str) -> None:
            await revoke(peer, reason)
            await cluster.admit(peer, "acacia", Role.MEMBER)

        self.patch(cluster, "revoke", revoked_and_admitted)
        said = self.refused(409, "still_member", "members/revoke", {"member": "acacia"})
        self.assertIn("admitted again", said)

    def test_revoke(self) -> None:
        """Who is revoked is none any more, at once and on disk."""
        self.home.admit("acacia")
        answer = self.post("members/revoke", {"member": "acacia"})
        self.assertEqual(answer["revoked"]["name"], "acacia")
        self.assertFalse(self.home.cluster.admission.admits(ACACIA))
        self.assertEqual(self.home.disk.kept, self.home.statements())


class RosterFileTests(RoutesCase):
    """Export and import."""

    def test_carried(self) -> None:
        """A node that was admitted becomes a member by the roster in a file."""
        self.home.found()
        self.post("members", {"peer_id": str(ACACIA), "name": "acacia"})
        other = Home("acacia")
        exported = self.get("roster")
        answer = self.post("roster", exported, other)
        self.assertEqual(answer, {"cluster": "homelab", "members": 2, "joined": True, "new": 2})
        self.assertEqual(other.statements(), self.home.statements())
        self.assertEqual(self.post("roster", exported, other)["new"], 0)

    def test_news(self) -> None:
        """A member learns what is new in a file."""
        self.home.found()
        other = self.home.admit("acacia")
        self.post("members", {"peer_id": str(IRONWOOD), "name": "ironwood"})
        answer = self.post("roster", self.get("roster"), other)
        self.assertEqual((answer["joined"], answer["new"], answer["members"]), (False, 1, 3))

    def test_refused(self) -> None:
        """A roster without this node, of another cluster, damaged or of a later form is none."""
        self.home.found()
        exported = self.get("roster")
        other = Home("acacia")
        self.refused(409, "not_on_roster", "roster", exported, other)
        other.found("elsewhere")
        self.refused(409, "already_member", "roster", exported, other)
        for damaged in (
            {**exported, "format": "bzzz-roster-9", "more": 1},
            {**exported, "statements": ["!"]},
            {**exported, "statements": []},
            {**exported, "statements": [exported["statements"][0][:-8] + "AAAAAAA="]},
        ):
            self.refused(409, "not_a_roster", "roster", damaged, Home("oak"))
        self.refused(400, "bad_body", "roster", {"format": "bzzz-roster-1"})


class SchemaTests(SynchronousTestCase):
    """The fields that are promised."""

    def test_roles(self) -> None:
        """What the manual says of roles is so."""
        said = cluster_schema.MemberInfo.__doc__ or ""
        for role in Role:
            self.assertIn(f"``{role}``", said)
        for right in Right:
            self.assertIn(f"``{right.name.lower()}``", said)
