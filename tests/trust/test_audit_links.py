"""What the audit log is told of links."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bzzz.identity.keys import PrivateKey
from bzzz.net import guests
from bzzz.net.guests import REPLACED
from bzzz.net.link import Link
from bzzz.net.swarm import SIMULTANEOUS
from bzzz.trust.admission import Admission
from bzzz.trust.audit_events import clean
from bzzz.trust.audit_links import LinkAudit
from bzzz.trust.roster import Roster
from bzzz.trust.statements import Admit, Found, Revoke, Role, sign
from tests.net import swarms
from tests.net.swarms import Peer, SwarmCase
from tests.trust.rosters import NONCE, TIME, roster_of

# The keys of tests.net.swarms.
NUMBERS = {"oak": 1, "elm": 2, "fir": 3}


def key(name: str) -> PrivateKey:
    """The key of a machine."""
    return PrivateKey.from_seed(bytes([NUMBERS[name]]) * 32)


OAK, OAK_ID, ELM_ID = key("oak"), key("oak").peer_id, key("elm").peer_id
FOUND = sign(OAK, Found(OAK_ID, (), TIME, "home", "oak", NONCE))
ELM = sign(OAK, Admit(OAK_ID, (FOUND.id,), TIME, ELM_ID, "elm", Role.MEMBER))
REVOKED = sign(OAK, Revoke(OAK_ID, (ELM.id,), TIME, ELM_ID, ""))


class FakeCluster:
    """The cluster of a node, as its links see it."""

    def __init__(self, name: str) -> None:
        self.admission = Admission(key(name).peer_id)
        self._changed: list[Callable[[], object]] = []

    def on_change(self, callback: Callable[[], object]) -> None:
        self._changed.append(callback)

    def use(self, roster: Roster | None) -> None:
        self.admission.roster = roster
        for callback in self._changed:
            callback()


class LinkAuditTests(SwarmCase):
    """LinkAudit"""

    def setUp(self) -> None:
        super().setUp()
        self.recorded: list[dict[str, Any]] = []
        cluster: Any = FakeCluster("oak")
        self.cluster = cluster
        self.oak = self.peer("oak", self.cluster.admission)
        self.cluster.on_change(self.oak.swarm.gate_changed)
        self.audit = LinkAudit(self.oak.swarm, cluster, self.record)
        self.elm = self.peer("elm")

    def peer(self, name: str, gate: Any = None) -> Peer:
        """A machine of that name."""
        return Peer(self, NUMBERS[name], gate)

    def record(self, event: str, **fields: object) -> None:
        self.recorded.append({"event": event, **clean(event, fields)})

    def taken(self) -> list[dict[str, Any]]:
        taken, self.recorded[:] = self.recorded[:], []
        return taken

    def link(self, peer: Peer) -> Link:
        dialled = peer.dial(self.oak, guest_ok=True)
        self.run_for(1)
        link: Link = self.successResultOf(dialled)
        return link

    def address(self, peer: Peer) -> str:
        swarm = self.oak.swarm
        link = swarm.link_to(peer.swarm.peer_id)
        return str(link and link.remote_multiaddr)

    def test_member(self) -> None:
        """A member's link is told when it comes and when it goes, with name, address and reason."""
        self.cluster.use(roster_of(FOUND, ELM))
        link = self.link(self.elm)
        about = {
            "event": "link_member",
            "peer_id": str(ELM_ID),
            "name": "elm",
            "address": self.address(self.elm),
        }
        self.assertEqual(self.taken(), [{**about, "state": "up"}])
        self.assertIn("/ip4/", about["address"])
        link.close("a test")
        self.run_for(1)
        (down,) = self.taken()
        self.assertNotEqual(down.pop("reason"), "")
        self.assertEqual(down, {**about, "state": "down"})

    def test_replaced(self) -> None:
        """Another link in the place of one is no event."""
        self.cluster.use(roster_of(FOUND, ELM))
        self.link(self.elm)
        self.run_for(SIMULTANEOUS + 1)
        self.link(self.elm)
        self.run_for(5)
        self.assertEqual([each["state"] for each in self.taken()], ["up"])

    def test_revoked(self) -> None:
        """Who is revoked is told with the name that it had, and refused when it comes again."""
        self.cluster.use(roster_of(FOUND, ELM))
        self.link(self.elm)
        self.taken()
        self.cluster.use(roster_of(FOUND, ELM, REVOKED))
        (down,) = self.taken()
        self.assertEqual(
            (down["state"], down["name"], down["reason"]), ("down", "elm", "revoked by oak")
        )
        self.run_for(2)
        self.link(self.elm)
        (refused,) = self.taken()
        self.assertEqual(
            (refused["event"], refused["peer_id"], refused["reason"], refused["address"]),
            (
                "guest_refused",
                str(ELM_ID),
                "revoked by oak",
                self.address(self.elm),
            ),
        )

    def test_unclaimed(self) -> None:
        """A node in no cluster tells nothing; links that it has when it joins are told then."""
        self.link(self.elm)
        self.assertEqual(self.taken(), [])
        self.cluster.use(roster_of(FOUND, ELM))
        self.cluster.use(roster_of(FOUND, ELM))
        self.assertEqual(
            [(each["event"], each["state"]) for each in self.taken()], [("link_member", "up")]
        )
        self.cluster.use(None)
        self.elm.swarm.links[self.oak.swarm.peer_id].close("a test")
        self.run_for(1)
        self.assertEqual(self.taken(), [])

    def test_guests(self) -> None:
        """A stranger is told of when it comes, and when another one takes its place."""
        self.patch(guests, "MAX_GUESTS", 1)
        self.cluster.use(roster_of(FOUND))
        fir = self.peer("fir")
        self.link(self.elm)
        self.link(fir)
        self.assertEqual(
            [(each["event"], each["peer_id"], each["reason"]) for each in self.taken()],
            [
                ("guest_refused", str(ELM_ID), "not a member of home"),
                ("guest_refused", str(ELM_ID), REPLACED),
                ("guest_refused", str(key("fir").peer_id), "not a member of home"),
            ],
        )

    def test_no_room(self) -> None:
        """One for whom there is no place is told of once, with that reason."""
        self.patch(guests, "MAX_GUESTS", 1)
        self.cluster.use(roster_of(FOUND))
        self.link(self.elm)
        for link in self.oak.swarm.guests.values():
            self.oak.swarm.hold_guest(link)
        self.taken()
        self.link(self.peer("fir"))
        (refused,) = self.taken()
        self.assertEqual(refused["reason"], "this node has as many guests as it takes")

    def test_own_dials(self) -> None:
        """Whom this node dials itself, to pair with it, it does not refuse."""
        self.cluster.use(roster_of(FOUND))
        fir = self.peer("fir", swarms.Roster(OAK_ID))
        self.oak.dial(fir, guest_ok=True)
        self.run_for(1)
        self.assertEqual(list(self.oak.swarm.guests), [fir.swarm.peer_id])
        self.assertEqual(self.taken(), [])
