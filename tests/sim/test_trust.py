"""A cluster on virtual time: who is in it, who is not, and that all agree after any fault."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.protocol import Factory, Protocol
from twisted.trial.unittest import SynchronousTestCase

from bzzz.database import DatabaseError
from bzzz.identity.peer_id import PeerID
from bzzz.mesh.member import MemberState
from bzzz.testing.clusters import ClusterSimulation
from bzzz.testing.faults import plan_faults
from bzzz.testing.simulation import SimNode
from bzzz.trust.cluster import Cluster
from bzzz.trust.joining import Candidate, Joined, JoinError, Joining
from bzzz.trust.pairing import PROTOCOL
from bzzz.trust.pairing_streams import MAX_RUNS, Pairing
from bzzz.trust.statements import Role

# As in the issue of a cluster: a revoke takes a second.
AT_ONCE = 1.0

WHOLE_WITHIN = 60.0 + 10.0 + 30.0


class NoStore:
    """Keeps no token."""

    def load(self) -> Deferred[list[Any]]:
        return succeed([])

    def put(self, channel: str, record: Any, role: Role) -> Deferred[None]:
        return succeed(None)

    def remove(self, channel: str) -> Deferred[None]:
        return succeed(None)


class ClusterCase(SynchronousTestCase):
    def formed(self, nodes: int, members: int, seed: int = 1, **options: Any) -> ClusterSimulation:
        world = ClusterSimulation(seed, nodes, members, 2, keep_history=True, **options)
        world.start_all(0.0)
        self.assertIsNotNone(world.run_until_whole(10.0), world.problems())
        return world

    def cluster(self, node: SimNode) -> Cluster:
        assert node.cluster is not None
        return node.cluster

    def linked(self, node: SimNode) -> set[PeerID]:
        assert node.mesh is not None
        return set(node.mesh.swarm.links)

    def do(self, world: ClusterSimulation, work: Any) -> Any:
        """Let time pass until the work is done."""
        done = Deferred.fromCoroutine(work)
        results: list[Any] = []
        done.addBoth(results.append)
        world.run(3.0, lambda: bool(results))
        self.assertTrue(results)
        return results[0]


class AdmissionTests(ClusterCase):
    """Members keep to themselves."""

    def test_outsider(self) -> None:
        """A node that is not on the roster is linked to nobody in the end, and hears nothing."""
        world = self.formed(5, 4)
        world.run(120.0)
        outsider = world.nodes[4]
        self.assertEqual(self.linked(outsider), set())
        self.assertEqual(world.leaks(0.0), [])
        assert outsider.mesh is not None
        states = {
            member.peer_id: member.state for member in outsider.mesh.membership.members.values()
        }
        self.assertEqual(set(states.values()), {MemberState.CLAIMED})

    def test_a_mistake_keeps_no_revoke_back(self) -> None:
        """What came before a message that this node fails at, for a bug of its own, counts."""
        world = self.formed(3, 3)
        world.run(5.0)
        one, other, gone = world.nodes
        assert other.mesh is not None
        exchange = self.cluster(other).exchange
        assert exchange is not None
        receive = exchange.receive

        def fail(peer: PeerID, message: bytes) -> None:
            receive(peer, message)
            raise ZeroDivisionError

        exchange.receive = fail  # type: ignore[method-assign]  # a bug
        self.do(world, self.cluster(one).revoke(gone.key.peer_id, ""))
        world.run(AT_ONCE)
        self.assertNotIn(gone.key.peer_id, self.linked(other))
        self.assertTrue(self.flushLoggedErrors(ZeroDivisionError))

    def test_two_outsiders(self) -> None:
        """Unclaimed nodes mesh with each other beside a cluster."""
        world = self.formed(6, 4)
        world.run(5.0)
        one, other = world.nodes[4:]
        self.assertEqual(self.linked(one), {other.key.peer_id})

    def test_admitted(self) -> None:
        """A peer ID that is admitted is linked at once, though its node knows of no roster."""
        world = self.formed(4, 3)
        world.run(5.0)
        world.adopting = False
        self.do(
            world,
            self.cluster(world.nodes[0]).admit(world.nodes[3].key.peer_id, "go", Role.MEMBER),
        )
        world.run(5.0)
        for node in world.nodes[:3]:
            self.assertIn(world.nodes[3].key.peer_id, self.linked(node))

    def test_revoked(self) -> None:
        """Within a second of a revoke nobody is linked to the revoked, who hears nothing more."""
        world = self.formed(6, 6)
        gone = world.nodes[5]
        self.do(world, self.cluster(world.nodes[0]).revoke(gone.key.peer_id, "sold"))
        world.run(AT_ONCE)
        for node in world.nodes[:5]:
            self.assertNotIn(gone.key.peer_id, self.linked(node))
        since = world.reactor.now
        world.run(120.0)
        self.assertEqual(world.leaks(since), [])
        self.assertEqual(world.problems(), [])

    def test_revoked_while_apart(self) -> None:
        """Members that were cut off at that time follow within a second of being linked again."""
        world = self.formed(6, 6)
        apart = [world.nodes[4], world.nodes[5]]
        world.network.partition([[node.host for node in apart]])
        world.run(30.0)
        gone = world.nodes[5]
        self.do(world, self.cluster(world.nodes[0]).revoke(gone.key.peer_id, ""))
        world.run(5.0)
        self.assertIn(gone.key.peer_id, self.linked(world.nodes[4]))
        world.network.heal()
        members = {node.key.peer_id for node in world.nodes[:4]}
        world.run(100.0, lambda: bool(self.linked(world.nodes[4]) & members))
        self.assertTrue(self.linked(world.nodes[4]) & members)
        world.run(AT_ONCE)
        self.assertNotIn(gone.key.peer_id, self.linked(world.nodes[4]))

    def test_revoked_by_its_own_admin(self) -> None:
        """A revoked admin cannot let anybody in that it admitted afterwards, unaware."""
        world = self.formed(6, 5)
        bad = world.nodes[1]
        world.network.partition([[bad.host]])
        world.run(30.0)
        self.do(world, self.cluster(world.nodes[0]).revoke(bad.key.peer_id, ""))
        accomplice = world.nodes[5].key.peer_id
        self.do(world, self.cluster(bad).admit(accomplice, "accomplice", Role.ADMIN))
        world.network.heal()
        world.run(100.0)
        self.assertNotIn(accomplice, world.truth().members)
        for node in (world.nodes[0], *world.nodes[2:5]):
            self.assertFalse(self.linked(node) & {accomplice, bad.key.peer_id})

    def test_proof(self) -> None:
        """Who was admitted while a member was away proves it, if nobody else is there to tell."""
        world = self.formed(4, 3)
        away = world.nodes[2]
        away.stop()
        world.run(5.0)
        new = world.nodes[3]
        self.do(world, self.cluster(world.nodes[0]).admit(new.key.peer_id, "new", Role.MEMBER))
        roster = self.cluster(world.nodes[0]).roster
        assert roster is not None
        statements = [each.encode() for each in roster.statements()]
        self.do(world, self.cluster(new).adopt(statements))
        for node in world.nodes[:2]:
            node.stop()
        world.run(5.0)
        away.start()
        world.run(30.0, lambda: new.key.peer_id in self.linked(away))
        self.assertIn(new.key.peer_id, self.linked(away))
        self.assertIn(away.key.peer_id, self.linked(new))

    def test_joins_where_it_is_linked(self) -> None:
        """A node that was linked to members before it had the roster is told news of it at once."""
        world = self.formed(4, 3)
        world.adopting = False
        new = world.nodes[3]
        assert new.mesh is not None
        assert new.mesh.roster is not None
        offered: list[object] = []
        made = new.mesh.roster.made
        new.mesh.roster.made = lambda talk: (offered.append(talk), made(talk))[1]  # type: ignore[method-assign, func-returns-value]  # counts
        self.do(world, self.cluster(world.nodes[0]).admit(new.key.peer_id, "new", Role.MEMBER))
        world.run(5.0)
        # It has no roster to talk of, and is not asked again and again.
        self.assertLessEqual(len(offered), 3)
        heard = set(world.truth().members) - {new.key.peer_id}
        assert new.mesh is not None
        self.assertEqual(set(new.mesh.broadcasts.documents), heard)
        roster = self.cluster(world.nodes[0]).roster
        assert roster is not None
        self.do(
            world,
            self.cluster(new).adopt([each.encode() for each in roster.statements()]),
        )
        self.assertEqual(set(new.mesh.broadcasts.documents), heard)
        world.run(AT_ONCE)
        assert new.mesh.roster is not None
        self.assertEqual(set(new.mesh.roster.talking), heard)

    def test_leaving(self) -> None:
        """Who leaves is unclaimed, and a member for nobody."""
        world = self.formed(4, 4)
        leaver = world.nodes[3]
        self.do(world, world.leave(leaver))
        world.run(5.0)
        self.assertIsNone(self.cluster(leaver).roster)
        self.assertEqual(leaver.statements, [])
        for node in world.nodes[:3]:
            self.assertNotIn(leaver.key.peer_id, self.linked(node))
        self.assertEqual(world.problems(), [])

    def test_leaving_tells_nothing(self) -> None:
        """Who has left does not pass on what it heard from members to those it links with then."""
        world = self.formed(5, 4)
        world.run(20.0)
        leaver, outsider = world.nodes[3], world.nodes[4]
        members = {node.key.peer_id for node in world.nodes[:3]}
        for node in world.nodes[:3]:
            assert node.mesh is not None
            node.mesh.broadcasts._capability.tell()
        world.run(0.6)
        self.do(world, world.leave(leaver))
        world.run(20.0)
        self.assertEqual(self.linked(outsider), {leaver.key.peer_id})
        for node in (leaver, outsider):
            assert node.mesh is not None
            self.assertFalse(members & set(node.mesh.broadcasts.documents))

    def test_leaving_unheard(self) -> None:
        """Who leaves has no link of before, though nobody has heard that it left."""
        world = self.formed(4, 4)
        leaver = world.nodes[3]
        assert leaver.mesh is not None
        links = list(leaver.mesh.swarm.links.values())
        self.assertEqual(len(links), 3)
        self.do(world, self.cluster(leaver).forget())
        self.assertEqual([link.closed for link in links], [True] * 3)

    def test_revoked_after_a_replaced_link(self) -> None:
        """A link that takes another's place carries news of the roster at once."""
        world = self.formed(3, 3)
        world.run(6.0)
        one, other, gone = world.nodes
        assert one.mesh is not None
        assert other.mesh is not None
        link = one.mesh.swarm.links[other.key.peer_id]
        dialler, dialled = (one, other) if link.is_initiator else (other, one)
        assert dialler.mesh is not None
        assert dialled.mesh is not None
        dialler.mesh.swarm.dial(dialled.mesh.swarm.listen_addresses, dialled.key.peer_id)
        world.run(3.0)
        self.assertIsNot(one.mesh.swarm.links[other.key.peer_id], link)
        for node, peer in ((one, other), (other, one)):
            assert node.mesh is not None
            assert node.mesh.roster is not None
            self.assertIn(peer.key.peer_id, node.mesh.roster.talking)
        self.do(world, self.cluster(one).revoke(gone.key.peer_id, ""))
        world.run(AT_ONCE)
        self.assertNotIn(gone.key.peer_id, self.linked(other))


class StarvedTests(ClusterCase):
    """A process that gets no time right after a handshake."""

    def test_is_known_later(self) -> None:
        """Each end says who it is when it is asked again, and then they talk of the roster."""
        world = ClusterSimulation(2, 12, 12, 2)
        late, starved = world.nodes[11], world.nodes[3]
        for node in world.nodes[:11]:
            world.reactor.callLater(world.random.random(), node.start)
        world.run(20.0)
        late.start()

        def both_have_it() -> bool:
            return starved.key.peer_id in self.linked(late) and late.key.peer_id in self.linked(
                starved
            )

        while not both_have_it():
            world.run(0.00001)
        assert late.mesh is not None
        link = late.mesh.swarm.links[starved.key.peer_id]
        starved.host.clock.stall(11.0)
        world.run(10.5)
        self.assertIn("n11 does not know who is linked as n3", world.problems())
        self.assertIsNotNone(world.run_until_whole(60.0), world.problems())
        self.assertIs(late.mesh.swarm.links[starved.key.peer_id], link)


class FaultTests(ClusterCase):
    """What admins do while everything fails. Many seeds are for ``python -m bzzz.testing``."""

    def test_converges(self) -> None:
        """Rosters are the same to the byte, links are those of members, and nothing leaks."""
        for seed in range(1, 7):
            world = ClusterSimulation(seed, 12, 10, 3)
            world.start_all()
            world.run(1.0)
            plan_faults(world, 30.0, 8)
            world.plan_acts(30.0, 30)
            world.run(30.001)
            self.assertIsNotNone(world.run_until_whole(WHOLE_WITHIN), (seed, world.problems()))
            since = world.reactor.now
            world.run(35.0)
            self.assertEqual(world.leaks(since), [], seed)

    def test_believes_that_it_was_revoked(self) -> None:
        """Who does not know that it was admitted again is not as it has to be, and then told."""
        world = self.formed(4, 4)
        one, back = world.nodes[0], world.nodes[3]
        self.do(world, self.cluster(one).revoke(back.key.peer_id, ""))
        roster = self.cluster(one).roster
        assert roster is not None
        world.run(5.0)
        self.cluster(back).present(list(roster.statements()))
        self.assertTrue(self.cluster(back).admission.is_revoked)
        self.assertEqual(world.problems(), [])
        self.do(world, self.cluster(one).admit(back.key.peer_id, "back", Role.MEMBER))
        self.assertIn("n3 is a member and believes that it was revoked", world.problems())
        self.assertIsNotNone(world.run_until_whole(WHOLE_WITHIN), world.problems())
        self.assertFalse(self.cluster(back).admission.is_revoked)

    def test_ended_while_leaving(self) -> None:
        """What only a node knows that ended while it left is heard when it is there again."""
        world = self.formed(4, 4)
        leaver = world.nodes[3]
        for node in world.nodes[:3]:
            world.network.cut(leaver.host, node.host)
            world.network.cut(node.host, leaver.host)
        self.do(world, self.cluster(leaver).say_leaving())
        leaver.kill()
        world.run(20.0)
        world.network.heal()
        leaver.start()
        world.run(1.0)
        self.assertTrue(self.cluster(leaver).admission.is_revoked)
        world.run(WHOLE_WITHIN)
        for node in world.nodes[:3]:
            self.assertNotIn(leaver.key.peer_id, self.cluster(node).member_of().members)
            self.assertNotIn(leaver.key.peer_id, self.linked(node))

    def test_replay(self) -> None:
        """A seed gives the same history each time."""

        def digest() -> str:
            world = ClusterSimulation(3, 8, 6, 2)
            world.start_all()
            plan_faults(world, 10.0, 4)
            world.plan_acts(10.0, 10)
            world.run(20.0)
            return world.digest

        self.assertEqual(digest(), digest())


class PairingTests(ClusterCase):
    """``bzzz invite`` and ``bzzz join`` over real streams, with Noise."""

    def setUp(self) -> None:
        self.world: ClusterSimulation = self.formed(4, 2, security="noise")
        self.world.adopting = False
        self.world.run(3.0)
        self.happened: list[tuple[str, dict[str, Any]]] = []
        self.in_thread: Any = maybeDeferred
        inviter = self.world.nodes[0]
        assert inviter.mesh is not None
        self.pairing = Pairing(
            inviter.mesh.swarm,
            self.cluster(inviter),
            NoStore(),
            inviter.host.clock,
            inviter.host.clock.wall_time,
            self.world.random.randbytes,
            maybeDeferred,
        )
        self.invitation = self.do(
            self.world,
            self.pairing.open_code(
                Role.MEMBER, lambda event, **fields: self.happened.append((event, fields))
            ),
        )

    def join(self, node: SimNode, text: str | None = None, name: str = "new") -> Any:
        results = self.begin_join(node, text, name)
        self.world.run(60.0, lambda: bool(results))
        result = results[0]
        return result.value if hasattr(result, "value") else result

    def begin_join(self, node: SimNode, text: str | None = None, name: str = "new") -> list[Any]:
        """Where what comes of it is put."""
        from bzzz.trust.codes import parse_code

        mesh = node.mesh
        assert mesh is not None
        joining = Joining(
            mesh.swarm,
            self.cluster(node),
            node.host.clock,
            self.world.random.randbytes,
            self.in_thread,
            lambda: [
                Candidate(member.peer_id, tuple(member.addresses))
                for member in mesh.membership.possible_inviters()
            ],
        )
        code = parse_code(text) if text is not None else self.invitation.secret
        results: list[Any] = []
        self.work = Deferred.fromCoroutine(
            joining.join(code, name, (), lambda event, **fields: None)
        )
        self.work.addBoth(results.append)
        return results

    def adopt_by(self, node: SimNode, before: Any) -> None:
        """Have something done before the node writes the roster to its disk."""
        adopt = self.cluster(node).adopt

        async def slow(*arguments: Any) -> Any:
            await before()
            return await adopt(*arguments)

        self.patch(self.cluster(node), "adopt", slow)

    def later(self, node: SimNode) -> Deferred[None]:
        fires: Deferred[None] = Deferred()
        node.host.clock.callLater(0.5, fires.callback, None)
        return fires

    def wrong(self) -> str:
        """A code for the same channel with other words."""
        return f"{self.invitation.channel}-abandon-ability"

    def test_join(self) -> None:
        """The right code makes a member within two seconds, and both sides say who joined."""
        node = self.world.nodes[2]
        begin = self.world.reactor.now
        joined = self.join(node)
        self.assertIsInstance(joined, Joined)
        self.assertEqual((joined.cluster, joined.name, joined.by_name), ("simulated", "new", "n0"))
        self.assertLess(self.world.reactor.now - begin, 2.0)
        self.world.run(2.0)
        self.assertEqual(self.linked(node), {each.key.peer_id for each in self.world.nodes[:2]})
        self.assertEqual(self.happened[-1][0], "joined")
        self.assertEqual(self.world.problems(), [])

    def test_wrong_code(self) -> None:
        """A wrong code admits nobody and is counted; after three the right one is void."""
        node = self.world.nodes[2]
        for left in (2, 1, 0):
            error = self.join(node, self.wrong())
            self.assertIsInstance(error, JoinError)
            self.assertEqual(error.code, "wrong_code")
            told = [fields for event, fields in self.happened if event == "wrong_code"]
            self.assertEqual(told[-1]["left"], left)
        error = self.join(node)
        self.assertEqual(error.code, "inviter_not_found")
        self.assertEqual(len(self.world.truth().members), 2)
        self.assertIn("void", [event for event, _ in self.happened])

    def test_used_once(self) -> None:
        """A code is for one machine."""
        self.assertIsInstance(self.join(self.world.nodes[2]), Joined)
        error = self.join(self.world.nodes[3], name="other")
        self.assertIsInstance(error, JoinError)
        self.assertEqual(len(self.world.truth().members), 3)

    def test_name_taken(self) -> None:
        """Two members cannot have one name; the code stays good for another try."""
        error = self.join(self.world.nodes[2], name="n1")
        self.assertEqual(error.code, "name_taken")
        self.assertIsInstance(self.join(self.world.nodes[2], name="n9"), Joined)

    def test_cut_off(self) -> None:
        """A joiner whose link breaks after it was admitted gets in with the same code."""
        node = self.world.nodes[2]
        peer = node.key.peer_id
        founder = self.cluster(self.world.nodes[0])

        def cut() -> None:
            roster = founder.roster
            if roster is not None and peer in roster.members:
                assert self.world.nodes[0].mesh is not None
                link = self.world.nodes[0].mesh.swarm.link_to(peer)
                if link is not None:
                    link.abort("cut by the test")

        founder.on_change(cut)
        error = self.join(node)
        self.assertIsInstance(error, JoinError)
        self.assertIsNone(self.cluster(node).roster)
        founder._changed.remove(cut)
        self.world.run(2.0)
        self.assertIsInstance(self.join(node), Joined)

    def test_cut_off_at_the_end(self) -> None:
        """A joiner whose link breaks while it writes the roster has joined, and says so."""
        node = self.world.nodes[2]

        async def cut() -> None:
            assert node.mesh is not None
            link = node.mesh.swarm.link_to(self.world.nodes[0].key.peer_id)
            assert link is not None
            link.abort("cut by the test")
            await self.later(node)

        self.adopt_by(node, cut)
        self.assertIsInstance(self.join(node), Joined)
        self.assertIsNotNone(self.cluster(node).roster)
        self.world.run(5.0)
        self.assertEqual(self.world.problems(), [])

    def test_disk_full(self) -> None:
        """A joiner that cannot keep the roster says why at once; the same code is good again."""
        node = self.world.nodes[2]
        full = [True]

        async def write() -> None:
            if full:
                full.clear()
                raise DatabaseError("bzzz.db: the disk is full; make room")

        self.adopt_by(node, write)
        begin = self.world.reactor.now
        error = self.join(node)
        self.assertIsInstance(error, JoinError)
        self.assertEqual(error.code, "not_kept")
        self.assertIn("the disk is full; make room; then the same bzzz join again", str(error))
        self.assertLess(self.world.reactor.now - begin, 2.0)
        self.assertIsNone(self.cluster(node).roster)
        self.world.run(2.0)
        self.assertIsInstance(self.join(node), Joined)

    def test_interrupted(self) -> None:
        """Who interrupts the command before the roster is written is no member."""
        node = self.world.nodes[2]
        decoding: list[Deferred[Any]] = []

        def in_thread(work: Any) -> Deferred[Any]:
            done = maybeDeferred(work)
            if "decode" in getattr(work, "__name__", ""):
                decoding.append(done)
                return self.later(node).addCallback(lambda _: done)
            return done

        self.in_thread = in_thread
        results = self.begin_join(node)
        self.world.run(10.0, lambda: bool(decoding))
        self.work.cancel()
        self.world.run(2.0)
        self.assertEqual(len(results), 1)
        self.assertIsNone(self.cluster(node).roster)

    def test_silent_streams(self) -> None:
        """A guest that opens streams and says nothing keeps nobody from joining."""
        inviter, guest = self.world.nodes[0], self.world.nodes[3]
        assert inviter.mesh is not None and guest.mesh is not None
        links: list[Any] = []
        guest.mesh.swarm.dial(
            inviter.mesh.swarm.listen_addresses, inviter.key.peer_id, guest_ok=True
        ).addBoth(links.append)
        self.world.run(1.0)
        for _ in range(2 * MAX_RUNS):
            opened = links[0].open_stream([PROTOCOL], Factory.forProtocol(Protocol))
            opened.addErrback(lambda _: None)
        self.world.run(0.5)
        self.assertEqual(len(self.pairing._runs), 1)
        self.assertIsInstance(self.join(self.world.nodes[2]), Joined)
