"""The control API of invitations and of joining, over HTTP with bytes in place of a socket."""

from __future__ import annotations

import json
import random
from typing import Any

from twisted.internet.defer import Deferred, fail, maybeDeferred
from twisted.trial.unittest import SynchronousTestCase

from bzzz.database import DatabaseError
from bzzz.errors import BzzzError
from bzzz.identity.peer_id import PeerID
from bzzz.testing.simulation import SimNode, Simulation
from bzzz.trust.cluster import Cluster
from bzzz.trust.invitations import CODE_SECONDS, MAX_OPEN, MAX_USES
from bzzz.trust.joining import SEARCH_SECONDS, Candidate, Joining
from bzzz.trust.pairing_streams import Pairing
from bzzz.trust.statements import Right, Role
from bzzz.web.api import ControlApi
from bzzz.web.cluster_routes import ClusterRoutes
from tests.trust.rosters import key
from tests.web.clusters import Home, InvitationMemory, done
from tests.web.fakes import FakeNode
from tests.web.routes_case import RoutesCase
from tests.web.test_api import SOMEBODY, Exchange

ACACIA, IRONWOOD = key("acacia").peer_id, key("ironwood").peer_id


class InvitationTests(RoutesCase):
    """Codes and tokens at the inviter. What joiners do is done to the Pairing by hand."""

    def setUp(self) -> None:
        super().setUp()
        self.home.found()

    def invited(self, body: object = None) -> Exchange:
        answer = self.ask("POST", "invitations", body or {})
        self.assertEqual(answer.status, 200, answer.body)
        return answer

    def test_code(self) -> None:
        """The first line has the code, at once; the answer goes on."""
        answer = self.invited()
        (line,) = answer.lines()
        self.assertRegex(line["code"], "^1-[a-z]+-[a-z]+$")
        self.assertEqual(
            {key: value for key, value in line.items() if key != "code"},
            {
                "cluster": "homelab",
                "channel": "1",
                "role": "member",
                "expires": "2026-11-24T01:12:03.000Z",
                "seconds": CODE_SECONDS,
            },
        )
        self.assertFalse(answer.ended)
        ((event, fields),) = self.home.recorded
        self.assertEqual((event, fields["invitation"]), ("invited", "1"))
        self.assertEqual(fields["uid"], SOMEBODY.uid)

    def test_joined(self) -> None:
        """Each wrong code is told, then who has joined; that is the end, and nothing stays open."""
        answer = self.invited({"role": "submit-only"})
        invitation = self.open_one()
        self.home.pairing.wrong_code(invitation, IRONWOOD, "192.0.2.9")
        done(self.home.pairing.admit(invitation, "acacia", ACACIA))
        self.home.pairing.joined(invitation, "acacia", ACACIA)
        _, wrong, joined = answer.lines()
        self.assertEqual(
            wrong,
            {
                "event": "wrong_code",
                "left": 2,
                "peer_id": str(IRONWOOD),
                "short_id": IRONWOOD.short,
                "host": "192.0.2.9",
            },
        )
        self.assertEqual(
            joined,
            {
                "event": "joined",
                "name": "acacia",
                "peer_id": str(ACACIA),
                "short_id": ACACIA.short,
            },
        )
        self.assertTrue(answer.ended)
        self.assertEqual(self.home.pairing.open_ones(), [])
        self.assertEqual(self.home.cluster.member_of().rights(ACACIA), {Right.SUBMIT})

    def test_void(self) -> None:
        """Three wrong codes make it void, which is the last line."""
        answer = self.invited()
        invitation = self.open_one()
        for _ in range(3):
            self.home.pairing.wrong_code(invitation, IRONWOOD, "192.0.2.9")
        lines = answer.lines()
        self.assertEqual([line.get("left") for line in lines[1:4]], [2, 1, 0])
        self.assertEqual(lines[4], {"event": "void", "reason": "there were too many wrong guesses"})
        self.assertTrue(answer.ended)

    def test_expired(self) -> None:
        """Nobody has come in time."""
        answer = self.invited()
        self.home.clock.advance(CODE_SECONDS + 1)
        self.assertEqual(answer.lines()[-1], {"event": "void", "reason": "it has expired"})
        self.assertTrue(answer.ended)

    def test_failed(self) -> None:
        """That somebody with the code could not be let in is told, and the code stays good."""
        self.home.admit("acacia")
        answer = self.invited()
        invitation = self.open_one()
        self.assertRaises(BzzzError, done, self.home.pairing.admit(invitation, "acacia", IRONWOOD))
        line = answer.lines()[-1]
        self.assertEqual((line["event"], line["short_id"]), ("failed", IRONWOOD.short))
        self.assertIn("acacia is the name of", line["reason"])
        self.assertFalse(answer.ended)
        self.assertEqual(len(self.home.pairing.open_ones()), 1)

    def test_hung_up(self) -> None:
        """Who interrupts the command has made the code void."""
        answer = self.invited()
        invitation = self.open_one()
        answer.disconnect()
        self.assertFalse(invitation.open)
        self.assertEqual(self.get("invitations"), {"invitations": []})

    def test_node_stops(self) -> None:
        """A node that stops says so, and the code is void."""
        answer = self.invited()
        self.control.close()
        self.assertEqual(answer.lines()[-1]["error"]["code"], "stopping")
        self.assertEqual(self.home.pairing.open_ones(), [])

    def test_no_admin_any_more(self) -> None:
        """Who is no admin any more has nobody to invite."""
        other = self.home.admit("acacia", Role.ADMIN)
        answer = self.ask("POST", "invitations", {}, other)
        self.post("members/revoke", {"member": "acacia"})
        self.home.news_to(other)
        self.assertEqual(answer.lines()[-1]["event"], "void")
        self.assertTrue(answer.ended)

    def test_token(self) -> None:
        """A token for so many machines and so long; it is kept on disk."""
        answer = self.post("tokens", {"role": "run-only", "uses": 5, "seconds": 3600})
        self.assertTrue(answer.pop("token").startswith("bzzz-join-"))
        channel = answer.pop("channel")
        self.assertRegex(channel, "^[0-9a-f]{16}$")
        self.assertEqual(
            answer,
            {
                "cluster": "homelab",
                "role": "run-only",
                "uses": 5,
                "expires": "2026-11-24T02:02:03.000Z",
                "seconds": 3600.0,
            },
        )
        self.assertEqual(list(self.home.tokens.kept), [channel])
        ((event, fields),) = self.home.recorded
        self.assertEqual((event, fields["invitation"]), ("invited", channel))
        self.assertEqual(fields["uid"], SOMEBODY.uid)

    def test_revoked_by_a_token(self) -> None:
        """Who was revoked, or left, does not come back by the token that has let it in."""
        token = self.post("tokens", {"uses": 2})
        invitation = self.home.pairing.find(token["channel"])
        assert invitation is not None
        done(self.home.pairing.admit(invitation, "acacia", ACACIA))
        self.post("members/revoke", {"member": "acacia"})
        self.assertRaises(BzzzError, done, self.home.pairing.admit(invitation, "acacia", ACACIA))
        self.assertFalse(self.home.cluster.admission.admits(ACACIA))
        other = Home("ironwood")
        done(self.home.pairing.admit(invitation, "ironwood", IRONWOOD))
        done(other.cluster.adopt(self.home.statements()))
        done(other.cluster.say_leaving())
        other.news_to(self.home)
        self.assertRaises(
            BzzzError, done, self.home.pairing.admit(invitation, "ironwood", IRONWOOD)
        )
        self.assertFalse(self.home.cluster.admission.admits(IRONWOOD))

    def test_bad_tokens(self) -> None:
        """A token is for some machines and some time."""
        for body in (
            {"uses": 0},
            {"uses": MAX_USES + 1},
            {"seconds": 0},
            {"seconds": -1.5},
            {"seconds": 1e12},
            {"role": "king"},
        ):
            self.refused(400, "bad_body", "tokens", body)

    def test_list(self) -> None:
        """What is open is listed without secrets, with how much of it is used."""
        answer = self.invited()
        token = self.post("tokens", {"uses": 2, "role": "admin"})
        invitation = self.home.pairing.find(token["channel"])
        assert invitation is not None
        done(self.home.pairing.admit(invitation, "acacia", ACACIA))
        shown = self.get("invitations")["invitations"]
        self.assertEqual(
            shown,
            [
                {
                    "channel": "1",
                    "kind": "code",
                    "role": "member",
                    "uses": 1,
                    "used": 0,
                    "expires": "2026-11-24T01:12:03.000Z",
                    "guesses_left": 3,
                },
                {
                    "channel": token["channel"],
                    "kind": "token",
                    "role": "admin",
                    "uses": 2,
                    "used": 1,
                    "expires": "2026-11-25T01:02:03.000Z",
                    "guesses_left": None,
                },
            ],
        )
        words = answer.lines()[0]["code"].split("-")[1:]
        self.assertFalse([word for word in words if word in json.dumps(shown)])

    def test_withdraw(self) -> None:
        """What is withdrawn is void, and who waits for it hears that."""
        answer = self.invited()
        self.assertEqual(self.ask("DELETE", "invitations/1").status, 200)
        self.assertEqual(answer.lines()[-1], {"event": "void", "reason": "it was withdrawn"})
        token = self.post("tokens", {})
        self.assertEqual(self.ask("DELETE", f"invitations/{token['channel']}").status, 200)
        self.assertEqual(self.home.tokens.kept, {})
        gone = self.ask("DELETE", "invitations/1")
        self.assertEqual((gone.status, gone.json()["error"]["code"]), (404, "no_such_invitation"))

    def test_not_withdrawn_on_disk(self) -> None:
        """That a token is void, but still on disk, is told, and it can be withdrawn again."""
        channel = self.post("tokens", {})["channel"]
        remove = self.home.tokens.remove
        self.patch(self.home.tokens, "remove", lambda _: fail(DatabaseError("no space")))
        answer = self.ask("DELETE", f"invitations/{channel}")
        self.assertEqual(answer.status, 500)
        self.assertIn("open again after a restart", answer.json()["error"]["message"])
        self.assertEqual(self.get("invitations"), {"invitations": []})
        self.patch(self.home.tokens, "remove", remove)
        self.assertEqual(self.ask("DELETE", f"invitations/{channel}").status, 200)
        self.assertEqual(self.home.tokens.kept, {})

    def test_unheard(self) -> None:
        """That a machine was admitted and may not know it is a line, and the code stays open."""
        answer = self.invited()
        invitation = self.open_one()
        done(self.home.pairing.admit(invitation, "acacia", ACACIA))
        self.home.pairing.unheard(invitation, ACACIA, "the other side has hung up")
        self.assertEqual(
            answer.lines()[-1],
            {
                "event": "admitted",
                "name": "acacia",
                "peer_id": str(ACACIA),
                "short_id": ACACIA.short,
                "reason": "the other side has hung up",
            },
        )
        self.assertFalse(answer.ended)
        self.assertTrue(invitation.open)

    def test_too_many(self) -> None:
        """So many may be open, and who wants one more is told what to do."""
        for _ in range(MAX_OPEN):
            self.post("tokens", {})
        said = self.refused(409, "invitation_refused", "tokens", {})
        self.assertIn("close one first; bzzz invitations lists them", said)

    def test_nobody_checked(self) -> None:
        """Nothing is changed, and no code made, for whom nobody has checked."""
        for method, path in (("POST", "invitations"), ("POST", "tokens"), ("POST", "leave")):
            answer = Exchange(self.control, f"/v1/{path}", method, b"{}", by=None)
            self.assertEqual(answer.status, 403)
        self.assertEqual(self.home.pairing.open_ones(), [])

    def open_one(self) -> Any:
        ((invitation, _),) = self.home.pairing.open_ones()
        return invitation


class JoinTests(RoutesCase):
    """The joiner, ``acacia``."""

    def setUp(self) -> None:
        super().setUp()
        self.home.found()
        self.joiner = Home("acacia")

    def join(self, **body: object) -> Exchange:
        return self.ask("POST", "join", body, self.joiner)

    def test_joined(self) -> None:
        """What goes on is told, and in the end who let the node in."""
        self.joiner.joining.inviter = self.home
        answer = self.join(code="7 Guitar LUNA", at=["/ip4/192.0.2.1/tcp/4001"])
        walnut = self.home.peer_id
        self.assertEqual(
            answer.lines(),
            [
                {"event": "looking", "seconds": SEARCH_SECONDS},
                {
                    "event": "asking",
                    "peer_id": str(walnut),
                    "short_id": walnut.short,
                    "address": "/ip4/192.0.2.1/tcp/4001",
                },
                {"event": "found", "peer_id": str(walnut), "short_id": walnut.short},
                {
                    "event": "joined",
                    "cluster": "homelab",
                    "name": "acacia",
                    "by": str(walnut),
                    "by_short_id": walnut.short,
                    "by_name": "walnut",
                },
            ],
        )
        self.assertTrue(answer.ended)
        secret, name, at = self.joiner.joining.asked
        self.assertEqual(
            (name, [str(each) for each in at]), ("acacia", ["/ip4/192.0.2.1/tcp/4001"])
        )
        self.assertEqual(secret.channel, "7")

    def test_another_name(self) -> None:
        """The node can have another name in the cluster than it has in its configuration."""
        self.joiner.joining.inviter = self.home
        self.assertEqual(self.join(code="7-guitar-lunar", name="oak").lines()[-1]["name"], "oak")

    def test_wrong_input(self) -> None:
        """What is no code or no address is refused before anybody is asked."""
        for body, expected in (
            ({"code": "7-guitr-lunar"}, "did you mean guitar?"),
            ({"code": "guitar"}, "a code begins with a number"),
            ({"code": "bzzz-join-xyz"}, "the token is damaged"),
            ({"code": "7-guitar-lunar", "at": ["192.0.2.1"]}, "at: 192.0.2.1: "),
            ({"code": "7-guitar-lunar", "at": ["/dns4/walnut/tcp/1"]}, "is no IP address with"),
        ):
            answer = self.join(**body)
            error = answer.json()["error"]
            self.assertEqual(error["code"], "bad_argument", error)
            self.assertIn(expected, error["message"])

    def test_bad_name(self) -> None:
        """A name that no node can have is told as that, before anybody is looked for."""
        (line,) = self.join(code="7-guitar-lunar", name="a b").lines()
        self.assertEqual(line["error"]["code"], "bad_name")

    def test_already_a_member(self) -> None:
        """A member joins nothing, and looks for nobody."""
        self.joiner.found("elsewhere")
        (line,) = self.join(code="7-guitar-lunar").lines()
        self.assertEqual(line["error"]["code"], "already_member")
        self.assertIn("bzzz leave comes first", line["error"]["message"])

    def test_nobody_found(self) -> None:
        """Where nobody is found, the last line says so, with what to do."""
        answer = self.join(code="7-guitar-lunar")
        for _ in range(200):
            self.joiner.clock.advance(0.25)
        self.assertTrue(answer.ended)
        error = answer.lines()[-1]["error"]
        self.assertEqual(error["code"], "inviter_not_found")
        self.assertIn("nobody with invitation 7 was found", error["message"])

    def test_unreachable(self) -> None:
        """An address where nobody is, is said to be one at once."""
        answer = self.join(code="7-guitar-lunar", at=["/ip4/192.0.2.1/tcp/4001"])
        error = answer.lines()[-1]["error"]
        self.assertEqual(error["code"], "unreachable")
        self.assertIn("/ip4/192.0.2.1/tcp/4001: connection refused", error["message"])

    def test_hung_up(self) -> None:
        """Who interrupts the command has ended the search, and can begin anew."""
        answer = self.join(code="7-guitar-lunar")
        (busy,) = self.join(code="7-guitar-lunar").lines()
        self.assertEqual(busy["error"]["code"], "busy")
        answer.disconnect()
        self.assertEqual(self.joiner.clock.getDelayedCalls(), [])
        again = self.join(code="7-guitar-lunar")
        self.assertEqual([line["event"] for line in again.lines()], ["looking"])


class Machine:
    """A simulated node with its control API."""

    def __init__(self, node: SimNode) -> None:
        mesh, cluster = node.mesh, node.cluster
        assert mesh is not None and isinstance(cluster, Cluster)
        self.node = node
        clock = node.host.clock
        randomness = random.Random(node.name)
        pairing = Pairing(
            mesh.swarm,
            cluster,
            InvitationMemory(),
            clock,
            clock.wall_time,
            randomness.randbytes,
            maybeDeferred,
        )
        joining = Joining(
            mesh.swarm,
            cluster,
            clock,
            randomness.randbytes,
            maybeDeferred,
            lambda: [
                Candidate(member.peer_id, tuple(member.addresses))
                for member in mesh.membership.claimed()
            ],
        )

        async def leave() -> int:
            streams = mesh.roster
            assert streams is not None
            await cluster.say_leaving()
            told = len(streams.talking)
            streams.flush()
            heard: Deferred[None] = Deferred()
            clock.callLater(0.1, heard.callback, None)
            await heard
            await cluster.forget()
            return told

        def connected(peer: PeerID) -> bool:
            return peer in mesh.swarm.links

        self.routes = ClusterRoutes(cluster, pairing, joining, lambda: node.name, connected, leave)
        self.control = ControlApi(FakeNode(), lambda: 0.0, [self.routes])


class SimulatedTests(SynchronousTestCase):
    """Nodes on a simulated network, with real links and real pairing between them."""

    def setUp(self) -> None:
        self.world = Simulation(7, 3, security="noise")
        self.world.start_all(0.0)
        self.world.run(3.0)
        self.machines = [Machine(node) for node in self.world.nodes]
        self.post(0, "cluster", {"name": "homelab"})
        # Until the others have read that it is in a cluster.
        self.world.run(3.0)

    def post(self, number: int, path: str, body: object, seconds: float = 0.5) -> Exchange:
        machine = self.machines[number]
        exchange = Exchange(machine.control, f"/v1/{path}", "POST", json.dumps(body).encode())
        self.addCleanup(machine.control.close)
        self.world.run(seconds)
        return exchange

    def members(self, number: int) -> list[tuple[str, bool]]:
        answer = Exchange(self.machines[number].control, "/v1/members").json()
        return [(each["name"], each["connected"]) for each in answer["members"]]

    def test_code(self) -> None:
        """A code that is mistyped is told on both machines; then the right one lets it in."""
        invite = self.post(0, "invitations", {})
        channel, code = invite.lines()[0]["channel"], invite.lines()[0]["code"]
        wrong = self.post(1, "join", {"code": f"{channel} zoo zoo"}, 2.0)
        self.assertEqual(wrong.lines()[-1]["error"]["code"], "wrong_code")
        self.assertEqual(invite.lines()[-1]["left"], 2)
        right = self.post(1, "join", {"code": code}, 2.0)
        self.assertEqual(right.lines()[-1]["event"], "joined")
        self.assertEqual(right.lines()[-1]["by_name"], "n0")
        self.assertEqual(invite.lines()[-1]["event"], "joined")
        self.assertEqual(invite.lines()[-1]["name"], "n1")
        self.assertTrue(invite.ended and right.ended)
        for number in (0, 1):
            self.assertEqual(self.members(number), [("n0", True), ("n1", True)])
        self.assertEqual(self.world.failures, [])

    def test_leave(self) -> None:
        """The others hear of it, and a machine that has left can be let in again."""
        token = self.post(0, "tokens", {"uses": 3}).json()["token"]
        for number in (1, 2):
            self.post(number, "join", {"code": token}, 2.0)
        self.assertEqual(self.post(1, "leave", {}).json(), {"cluster": "homelab", "told": 2})
        for number in (0, 2):
            self.assertEqual(self.members(number), [("n0", True), ("n2", True)])
        used = self.post(1, "join", {"code": token}, 3.0)
        self.assertEqual(used.lines()[-1]["error"]["code"], "used")
        token = self.post(0, "tokens", {}).json()["token"]
        again = self.post(1, "join", {"code": token}, 3.0)
        self.assertEqual(again.lines()[-1]["event"], "joined", again.lines())
        self.assertEqual(len(self.members(2)), 3)
        self.assertEqual(self.world.failures, [])

    def test_token(self) -> None:
        """One token lets in several machines, each under a name of its own."""
        token = self.post(0, "tokens", {"uses": 2}).json()["token"]
        first = self.post(1, "join", {"code": token}, 2.0)
        self.assertEqual(first.lines()[-1]["event"], "joined")
        taken = self.post(2, "join", {"code": token, "name": "n1"}, 2.0)
        error = taken.lines()[-1]["error"]
        self.assertEqual(error["code"], "name_taken")
        self.assertIn("bzzz join --name", error["message"])
        second = self.post(2, "join", {"code": token}, 2.0)
        self.assertEqual(second.lines()[-1]["event"], "joined")
        self.assertEqual(self.members(2), [("n0", True), ("n1", True), ("n2", True)])
        self.assertEqual(self.world.failures, [])
