"""Messages that everybody has from their author are told of, not pushed."""

from __future__ import annotations

import itertools

from twisted.trial.unittest import SynchronousTestCase

from bzzz.wire.gossip_message import Message, sign
from bzzz.wire.gossip_params import FLOODSUB, GossipParams
from tests.wire.gossip_network import TOPIC, Lab, Network

PARAMS = GossipParams()


class PostponedTests(SynchronousTestCase):
    """A core in a mesh with peers 0 to 4."""

    def setUp(self) -> None:
        self.lab = Lab(5)
        self.lab.beat(10)
        self.lab.sent()

    def hear(
        self, number: int, author: int, data: bytes = b"me", unhurried: bool = True
    ) -> Message:
        """A message of an author comes from a peer and is valid."""
        message = sign(self.lab.keys[author], TOPIC, data, self.lab.core.counts["messages"] + 1)
        self.lab.say(number, message=message)
        self.lab.core.accept(message.id, self.lab.now, unhurried)
        return message

    def pushed(self) -> set[int]:
        """Who is sent messages."""
        sent = self.lab.sent()
        return {self.lab.ids.index(peer) for peer, rpc in sent.items() if rpc.publish}

    def told(self, beats: int) -> dict[int, list[bytes]]:
        """Which IDs peers are told in the next heartbeats."""
        told: dict[int, list[bytes]] = {}
        for peer, rpc in self.lab.beat(beats).items():
            for ihave in rpc.control.ihave:
                told.setdefault(self.lab.ids.index(peer), []).extend(ihave.messageIDs)
        return told

    def test_told_later(self) -> None:
        """It is pushed to nobody; later the mesh is told of it once, and can ask for it."""
        message = self.hear(0, 0)
        self.assertEqual(self.pushed(), set())
        self.assertEqual(self.told(PARAMS.postponed_ticks - 1), {})
        told = self.told(1)
        self.assertGreaterEqual(set(told), {1, 2, 3, 4})
        self.assertTrue(all(ids == [message.id] for ids in told.values()))
        self.lab.say(2, iwant=[message.id])
        self.assertEqual(self.pushed(), {2})
        self.assertEqual(self.lab.core.sizes()["postponed"], 0)
        self.assertEqual(self.told(2 * PARAMS.postponed_ticks), {})

    def test_outside_the_mesh(self) -> None:
        """Some others are told too, and those who asked before always."""
        self.lab = Lab(45)
        self.lab.beat(10)
        self.lab.sent()
        members = {self.lab.ids.index(peer) for peer in self.lab.core.mesh_peers(TOPIC)}
        outside = [number for number in range(1, 45) if number not in members]
        lonely = outside[:8]
        for number in lonely:
            message = self.hear(0, 0)
            while not self.told(1):
                pass
            self.lab.say(number, iwant=[message.id])
        for _ in range(3):
            self.hear(0, 0)
            told = set(self.told(2 * PARAMS.postponed_ticks))
            self.assertLessEqual(members - {0} | set(lonely), told)
            self.assertEqual(len(told - members - set(lonely)), PARAMS.d_lazy)

    def test_told_together(self) -> None:
        """What comes in successive heartbeats is told of by one IHAVE."""
        self.lab.beat(1)
        messages = []
        for number in (0, 1, 2, 3, 0):
            messages.append(self.hear(number, number).id)
            self.lab.beat(1)
        told = self.told(PARAMS.postponed_ticks)
        self.assertEqual(told[4], messages)

    def test_from_others(self) -> None:
        """So it is with what comes by way of others."""
        message = self.hear(0, 3)
        self.assertEqual(self.pushed(), set())
        self.assertEqual(self.told(PARAMS.postponed_ticks)[1], [message.id])

    def newcomer(self) -> None:
        """A peer is linked anew."""
        self.lab.core.remove_peer(self.lab.ids[4], self.lab.now)
        self.lab.add(4)
        self.lab.sent()

    def test_forming(self) -> None:
        """While peers keep coming nobody is told; soon after the last came, all are."""
        message = self.hear(0, 0)
        for _ in range(2 * PARAMS.postponed_ticks):
            self.newcomer()
            self.assertEqual(self.told(1), {})
        self.assertEqual(self.told(PARAMS.calm_ticks - 2), {})
        self.assertEqual(self.told(PARAMS.postponed_ticks)[1], [message.id])

    def test_forming_for_ever(self) -> None:
        """Who lacks it is told in the end, even if peers never stop coming."""
        message = self.hear(0, 0)
        for _ in range(PARAMS.max_postponed_ticks - 1):
            self.newcomer()
            self.assertEqual(self.told(1), {})
        self.newcomer()
        self.assertEqual(self.told(1)[1], [message.id])

    def test_not_of_other_messages(self) -> None:
        """What the application does not call unhurried is pushed."""
        self.hear(0, 0, unhurried=False)
        self.assertEqual(self.pushed(), {1, 2, 3, 4})

    def test_floodsub(self) -> None:
        """Peers that cannot be told are sent it."""
        self.lab.core.remove_peer(self.lab.ids[4], self.lab.now)
        self.lab.add(4, FLOODSUB)
        self.hear(0, 0)
        self.assertEqual(self.pushed(), {4})

    def test_bounded(self) -> None:
        """When too much waits, the rest is pushed at once, and nothing is lost."""
        large = bytes(PARAMS.max_postponed_bytes // 2)
        self.hear(0, 0, large)
        self.assertEqual(self.pushed(), set())
        self.hear(0, 0, large)
        self.assertEqual(self.pushed(), {1, 2, 3, 4})
        self.told(PARAMS.postponed_ticks)
        self.hear(0, 0, large)
        self.assertEqual(self.pushed(), set())

    def test_congested(self) -> None:
        """Members of the mesh that take slowly, and so are told nothing, are sent it."""
        message = self.hear(0, 0)
        for slow in (0, 2):
            self.lab.core.set_congested(self.lab.ids[slow], True)
        sent = self.lab.beat(PARAMS.postponed_ticks)
        self.assertEqual(
            {self.lab.ids.index(peer) for peer, rpc in sent.items() if rpc.publish}, {2}
        )
        told = {
            self.lab.ids.index(peer)
            for peer, rpc in sent.items()
            if any(message.id in ihave.messageIDs for ihave in rpc.control.ihave)
        }
        self.assertEqual(told, {1, 3, 4})

    def test_author_gone(self) -> None:
        """What a peer said before its link was lost is told of all the same."""
        message = self.hear(0, 0)
        self.lab.core.remove_peer(self.lab.ids[0], self.lab.now)
        self.assertEqual(self.told(PARAMS.postponed_ticks)[1], [message.id])


class HubTests(SynchronousTestCase):
    """Nodes that are linked to one only, more than its mesh has room for."""

    def test_hub(self) -> None:
        """After some intervals each hears whatever any other says."""
        network = Network(41, unhurried=True)
        for number in range(1, 41):
            network.link(number, 0)
        network.subscribe_all()
        network.pass_time(20)
        for interval in range(12):
            for number in range(1, 41):
                network.publish(number, b"%d %d" % (number, interval))
                if number % 2:
                    network.pass_time(1)
            network.pass_time(10)
        network.pass_time(PARAMS.max_postponed_ticks)
        for number in range(1, 41):
            heard = {message.data for message in network.delivered[number]}
            missed = [
                author
                for author in range(1, 41)
                if author != number and b"%d 11" % author not in heard
            ]
            self.assertEqual(missed, [], number)


class LineTests(SynchronousTestCase):
    """Nodes of which each is linked to the next only."""

    def test_line(self) -> None:
        """All hear it, each once, and from one to the next it takes no longer than is promised."""
        network = Network(5, unhurried=True)
        for number in range(4):
            network.link(number, number + 1)
        network.subscribe_all()
        network.pass_time(20)
        network.publish(0, b"me")
        heard: list[int] = []
        for second in range(5 * PARAMS.max_postponed_ticks):
            got = network.got(b"me")
            heard.extend([second] * (len(got) - len(heard)))
            network.pass_time(1)
        # The author's own application is not told.
        self.assertEqual(len(heard), 4, heard)
        self.assertEqual(heard[0], 0)
        for before, after in itertools.pairwise(heard):
            self.assertLessEqual(after - before, PARAMS.postponed_ticks + 1)
        self.assertTrue(all(len(messages) == 1 for messages in network.delivered[1:]))
