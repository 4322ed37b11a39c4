"""Inbound connections before it is known who they are of."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import ensureDeferred
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.logger import LogLevel
from twisted.trial.unittest import SynchronousTestCase

from bzzz.net import accepting as accepting_module
from bzzz.net.accepting import REFUND_RATE, REFUSED_AGAIN, Accepting, place_of
from bzzz.net.swarm_limits import SwarmLimits
from bzzz.net.token_bucket import Rate
from bzzz.testing.clock import NodeClock
from tests.logs import lines_at
from tests.net.swarms import PORT, Keeper, Peer, SwarmCase, always


class Pending:
    """A link in its handshake."""

    def __init__(self) -> None:
        self.aborted: list[str] = []

    def abort(self, reason: str) -> None:
        self.aborted.append(reason)


class PlaceTests(SynchronousTestCase):
    """What counts as one address, as one subnet, and as one network."""

    def test_ipv4(self) -> None:
        """An address, which is its own subnet, and a /24."""
        self.assertEqual(place_of("192.0.2.7"), ("192.0.2.7", "192.0.2.7", "192.0.2"))
        self.assertNotEqual(place_of("192.0.2.7")[2], place_of("192.0.20.7")[2])

    def test_ipv6(self) -> None:
        """An address, a /64, and a /48; the zone of a link-local address is of no account."""
        one, other = place_of("2001:db8:1:2::1"), place_of("2001:db8:1:2:ffff::9")
        self.assertNotEqual(one[0], other[0])
        self.assertEqual(one[1:], other[1:])
        near = place_of("2001:db8:1:3::1")
        self.assertNotEqual(one[1], near[1])
        self.assertEqual(one[2], near[2])
        self.assertNotEqual(one[2], place_of("2001:db8:2:2::1")[2])
        self.assertEqual(place_of("fe80::1%eth0"), place_of("fe80::1%eth1"))

    def test_mapped(self) -> None:
        """An IPv4 address that a socket of both families shows is no IPv6 address."""
        self.assertEqual(place_of("::ffff:192.0.2.7"), place_of("192.0.2.7"))


class AcceptingCase(SynchronousTestCase):
    def accepting(self, **limits: Any) -> Accepting:
        self.clock = Clock()
        return Accepting(self.clock, SwarmLimits(**limits))


class RateTests(AcceptingCase):
    """New connections of one host and of one network."""

    def test_host(self) -> None:
        """So many at once, then so many a second; other hosts do not suffer."""
        accepting = self.accepting(host_rate=Rate(3, 2.0))
        took = [accepting.takes("192.0.2.1") for _ in range(5)]
        self.assertEqual(took, [True] * 3 + [False] * 2)
        self.assertTrue(accepting.takes("192.0.2.2"))
        self.clock.advance(0.5)
        self.assertEqual([accepting.takes("192.0.2.1") for _ in range(2)], [True, False])
        self.assertEqual(accepting.counts, {"refused_host": 3})

    def test_prefix(self) -> None:
        """The hosts of a network share a bucket; one that floods alone does not empty it."""
        accepting = self.accepting(host_rate=Rate(2, 0.001), prefix_rate=Rate(6, 0.001))
        for _ in range(100):
            accepting.takes("192.0.2.1")
        took = [accepting.takes(f"192.0.2.{number}") for number in range(2, 8)]
        self.assertEqual(took, [True] * 4 + [False] * 2)
        self.assertEqual(accepting.counts, {"refused_host": 98, "refused_network": 2})
        self.assertTrue(accepting.takes("192.0.3.1"))

    def test_linked(self) -> None:
        """Strangers who use up their network's rate do not keep out who was linked from there."""
        self.patch(accepting_module, "MAX_REMEMBERED", 2)
        accepting = self.accepting(host_rate=Rate(2, 0.001), prefix_rate=Rate(1, 0.001))
        for host in ("192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.2"):
            accepting.linked(host)
        took = [accepting.takes(f"192.0.2.{number}") for number in (9, 8, 1, 2, 2, 2, 3)]
        self.assertEqual(took, [True, False, False, True, True, False, True])

    def test_refused_by_the_network_costs_the_host_nothing(self) -> None:
        """Its own token is there when the network has one again."""
        accepting = self.accepting(host_rate=Rate(1, 0.001), prefix_rate=Rate(1, 1.0))
        accepting.takes("192.0.2.1")
        self.assertFalse(accepting.takes("192.0.2.2"))
        self.clock.advance(1)
        self.assertTrue(accepting.takes("192.0.2.2"))

    def test_ipv6(self) -> None:
        """Each address of a /64 has as much as one of IPv4, and all together four times as much."""
        accepting = self.accepting(host_rate=Rate(3, 0.001), prefix_rate=Rate(15, 0.001))
        took = [accepting.takes("2001:db8::1") for _ in range(5)]
        self.assertEqual(took, [True] * 3 + [False] * 2)
        took = [accepting.takes(f"2001:db8::{number:x}") for number in range(2, 14)]
        self.assertEqual(took, [True] * 9 + [False] * 3)
        took = [accepting.takes(f"2001:db8:0:{number:x}::1") for number in range(1, 6)]
        self.assertEqual(took, [True] * 3 + [False] * 2)
        self.assertEqual(
            accepting.counts, {"refused_host": 2, "refused_subnet": 3, "refused_network": 2}
        )

    def test_linked_in_a_subnet(self) -> None:
        """A stranger who uses up the rate of a /64 keeps out nobody who was linked from there."""
        accepting = self.accepting(host_rate=Rate(2, 0.001))
        accepting.linked("2001:db8::1")
        took = [accepting.takes(f"2001:db8::9:{number:x}") for number in range(9)]
        self.assertEqual(took, [True] * 8 + [False])
        self.assertTrue(accepting.takes("2001:db8::1"))
        self.assertFalse(accepting.takes("2001:db8::2"))

    def test_a_subnet_does_not_fill_the_table(self) -> None:
        """Who takes another address for each connection pushes out nobody's empty bucket."""
        self.patch(accepting_module, "MAX_REMEMBERED", 50)
        for wide in ("2001:db8::{:x}", "2001:db8:0:{:x}::1"):
            accepting = self.accepting(host_rate=Rate(3, 0.01), prefix_rate=Rate(12, 0.01))
            self.assertEqual([accepting.takes("192.0.2.1") for _ in range(4)][2:], [True, False])
            for number in range(1, 2000):
                accepting.takes(wide.format(number))
            self.assertLess(len(accepting._hosts), 20)
            self.assertFalse(accepting.takes("192.0.2.1"))

    def test_an_empty_subnet_is_remembered(self) -> None:
        """A /64 that goes on is not forgotten for others that come, and so never begins anew."""
        self.patch(accepting_module, "MAX_REMEMBERED", 50)
        accepting = self.accepting(host_rate=Rate(1, 0.001), prefix_rate=Rate(10**6, 1.0))
        took = 0
        for number in range(1, 2000):
            took += accepting.takes(f"2001:db8::{number:x}")
            accepting.takes(f"2001:db8:1:{number:x}::1")
        self.assertEqual(took, 4)

    def test_a_mesh_on_one_address(self) -> None:
        """Connections that become links do not count, so a mesh that forms is not throttled."""
        accepting = self.accepting(host_rate=Rate(3, 0.001), prefix_rate=Rate(3, 0.001))
        for _ in range(100):
            self.assertTrue(accepting.takes("127.0.0.1"))
            accepting.admitted("127.0.0.1")
        self.assertEqual(accepting.counts, {})

    def test_not_without_end(self) -> None:
        """Who makes link after link is throttled too, in the end."""
        accepting = self.accepting()
        took = 0
        for _ in range(5000):
            if accepting.takes("192.0.2.1"):
                accepting.admitted("192.0.2.1")
                took += 1
        self.assertEqual(took, REFUND_RATE.burst + accepting._limits.host_rate.burst)

    def test_the_table_has_a_cap(self) -> None:
        """However many hosts come, so many are remembered; who floods is among them."""
        self.patch(accepting_module, "MAX_REMEMBERED", 50)
        accepting = self.accepting(host_rate=Rate(3, 0.01), prefix_rate=Rate(10**6, 1.0))
        took = 0
        for number in range(2000):
            took += accepting.takes("192.0.2.1")
            accepting.takes(f"10.0.{number >> 8}.{number & 255}")
        self.assertEqual(took, 3)
        self.assertEqual(len(accepting._hosts), 50)
        self.assertLessEqual(len(accepting._prefixes), 50)

    def test_said_once_a_minute(self) -> None:
        """One line says who it is and what to do; the next one, how many there were since."""
        accepting = self.accepting(host_rate=Rate(1, 0.001))
        lines = lines_at(self, LogLevel.warn)
        for _ in range(10):
            accepting.takes("192.0.2.1")
        (line,) = lines
        self.assertIn("1 of them since", line)
        self.assertIn("the host 192.0.2.1 opens too many (1, then 0.001 a second)", line)
        self.assertIn("firewall", line)
        self.clock.advance(REFUSED_AGAIN)
        accepting.takes("192.0.2.1")
        self.assertIn("9 of them since", lines[1])
        self.assertEqual(len(lines), 2)

    def test_names(self) -> None:
        """Networks, and IPv6 hosts, are named as an administrator writes them."""
        for limits, hosts, name in (
            ({"prefix_rate": Rate(1, 0.001)}, ["192.0.2.1"] * 2, "the network 192.0.2.0/24"),
            ({"host_rate": Rate(1, 0.001)}, ["2001:db8::1"] * 2, "the host 2001:db8::1 "),
            (
                {"host_rate": Rate(1, 0.001)},
                [f"2001:db8::{number}" for number in range(1, 6)],
                "the subnet 2001:db8::/64",
            ),
            ({"prefix_rate": Rate(1, 0.001)}, ["2001:db8::1"] * 2, "the network 2001:db8::/48"),
        ):
            lines = lines_at(self, LogLevel.warn)
            accepting = self.accepting(**limits)
            for host in hosts:
                accepting.takes(host)
            self.assertIn(name, lines[0])


class PendingTests(AcceptingCase):
    """Handshakes that are under way at the same time."""

    def start(self, accepting: Accepting, *hosts: str) -> list[Any]:
        links: list[Any] = [Pending() for _ in hosts]
        for link, host in zip(links, hosts, strict=True):
            accepting.started(link, host)
        return links

    def dropped(self, links: list[Any]) -> list[int]:
        return [number for number, link in enumerate(links) if link.aborted]

    def test_host(self) -> None:
        """A host's own oldest makes room for its next."""
        accepting = self.accepting(handshakes_per_host=2)
        links = self.start(accepting, "192.0.2.9", *["192.0.2.1"] * 4)
        self.assertEqual(self.dropped(links), [1, 2])
        self.assertEqual(list(accepting.pending), [links[0], links[3], links[4]])
        self.assertEqual(accepting.counts, {"dropped_host": 2})

    def test_hosts_of_ipv6(self) -> None:
        """A /64 is one host."""
        accepting = self.accepting(handshakes_per_host=2)
        links = self.start(accepting, *(f"2001:db8::{number}" for number in range(1, 5)))
        self.assertEqual(self.dropped(links), [0, 1])

    def test_prefix(self) -> None:
        """The oldest of a network makes room for that network's next."""
        accepting = self.accepting(handshakes_per_prefix=3)
        links = self.start(accepting, "10.0.0.1", *(f"192.0.2.{n}" for n in range(1, 6)))
        self.assertEqual(self.dropped(links), [1, 2])

    def test_all(self) -> None:
        """Where there are too many in all, the host that has most gives one up."""
        accepting = self.accepting(handshakes=4)
        links = self.start(accepting, "10.0.0.1", *["10.1.0.1"] * 3, "10.2.0.1", "10.3.0.1")
        self.assertEqual(self.dropped(links), [1, 2])

    def test_many_in_one_turn(self) -> None:
        """Each newcomer has the place of another one, though none of them has heard yet."""
        accepting = self.accepting(handshakes_per_host=3)
        links = self.start(accepting, *["192.0.2.1"] * 10)
        self.assertEqual(self.dropped(links), list(range(7)))
        self.assertEqual(len(accepting.pending), 3)
        self.assertEqual([len(link.aborted) for link in links], [1] * 7 + [0] * 3)

    def test_one_place(self) -> None:
        """The caps may be as low as one."""
        accepting = self.accepting(handshakes_per_host=1)
        links = self.start(accepting, *["192.0.2.1"] * 3)
        self.assertEqual(self.dropped(links), [0, 1])
        for link in links:
            accepting.over(link)
        self.assertEqual((accepting.pending, accepting._of_host, accepting._of_prefix), ({},) * 3)

    def test_over(self) -> None:
        """Nothing is left of a handshake that is done or given up, also if that is told twice."""
        accepting = self.accepting()
        links = self.start(accepting, "192.0.2.1", "192.0.2.1", "2001:db8::1")
        for link in links * 2:
            accepting.over(link)
        self.assertEqual((accepting.pending, accepting._of_host, accepting._of_prefix), ({},) * 3)


class SwarmTests(SwarmCase):
    """The same where connections come."""

    def test_refused(self) -> None:
        """A connection too many is closed at once, and costs nothing that would be left."""
        b = Peer(self, 2, host_rate=Rate(2, 0.001))
        other = self.network.add_host(NodeClock(self.reactor))
        keepers = [Keeper() for _ in range(4)]
        for keeper in keepers:
            factory = Factory()
            factory.noisy = False
            factory.buildProtocol = always(keeper)  # type: ignore[method-assign]  # for this test
            self.network.of(other).connect(b.host.address, PORT, factory, 5, None)
            self.run_for(0.1)
        self.assertEqual([keeper.lost is not None for keeper in keepers], [False] * 2 + [True] * 2)
        self.assertEqual(b.swarm.pending_handshakes, 2)
        self.assertEqual(len(b.host.transports), 2)

    def test_links_give_back(self) -> None:
        """A peer that comes and goes in order is not throttled, one that never finishes is."""
        a, b = Peer(self, 1), Peer(self, 2, host_rate=Rate(2, 0.001))
        for _ in range(5):
            dialled = a.dial(b)
            self.run_for(1)
            self.successResultOf(dialled).close("a test")
            self.run_for(1)
        for _ in range(5):
            dialled = a.dial(b)
            dialled.addErrback(lambda failure: None)
            self.run_for(2.5 * 0.01)
            dialled.cancel()
            self.run_for(1)
        self.assertEqual(b.swarm.accepting.counts, {"refused_host": 3})

    def test_a_link_again_and_again(self) -> None:
        """Links that only take the place of the peer's own count: nobody needs them."""
        a, b = Peer(self, 1), Peer(self, 2, host_rate=Rate(3, 0.001))
        dials = []
        for _ in range(6):
            dials.append(a.dial(b))
            dials[-1].addErrback(lambda failure: failure)
            self.run_for(10)
        for dialled in dials[4:]:
            self.failureResultOf(dialled)
        self.assertEqual(b.swarm.accepting.counts, {"refused_host": 2})

    def test_stop(self) -> None:
        """Handshakes that are under way end with the swarm."""
        b = Peer(self, 2)
        other = self.network.add_host(NodeClock(self.reactor))
        factory = Factory.forProtocol(Keeper)
        factory.noisy = False
        self.network.of(other).connect(b.host.address, PORT, factory, 5, None)
        self.run_for(0.1)
        stopped = ensureDeferred(b.swarm.stop())
        self.run_for(0.1)
        self.successResultOf(stopped)
        self.assertEqual((b.swarm.pending_handshakes, self.reactor.getDelayedCalls()), (0, []))
