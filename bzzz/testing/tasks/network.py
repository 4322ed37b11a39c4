"""Links between simulated nodes, for what they ask each other about tasks.

Messages are encoded and decoded as on the wire, delayed, and in order from one node to another. A
link that is cut is noticed late: what was asked over it until then waits, and then fails.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from random import Random
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.python.failure import Failure

from bzzz.identity.peer_id import PeerID
from bzzz.net.calls import AnswerLost, NotAsked
from bzzz.tasks.messages import Answer, Request, TaskCodec
from bzzz.testing.clock import SimReactor

__all__ = ["SimPeers", "TaskNetwork"]

# Seconds that a message takes, and how long one may be held up by packets that were lost.
DELAY = 0.004
HELD_UP = 1.5

# Seconds until what did not arrive is sent again.
SENT_AGAIN = 0.3

# Seconds until two nodes that can reach each other are linked, and until a silent link is given up.
LINKED = 1.0
SILENT = 8.0

CODEC = TaskCodec()


class _Link:
    """Two nodes that are linked."""

    def __init__(self) -> None:
        self.up = True
        self.waiting: dict[int, tuple[SimPeers, Deferred[Answer]]] = {}
        self.arrives: dict[PeerID, float] = {}


class SimPeers:
    """Implements :class:`bzzz.tasks.interfaces.Peers` for one process.

    :ivar answer: answers what others ask; to be set before the node joins.
    :ivar links_changed: called when it has other links than before; likewise.
    """

    def __init__(
        self,
        network: TaskNetwork,
        own: PeerID,
        clock: Any,
    ) -> None:
        self.network = network
        self.own = own
        self.clock = clock
        self.answer: Callable[[PeerID, Request], Deferred[Answer]]
        self.links_changed: Callable[[], None]

    def linked(self) -> Collection[PeerID]:
        """See :class:`Peers`."""
        return self.network.linked(self.own)

    def ask(self, peer: PeerID, request: Request) -> Deferred[Answer]:
        """See :class:`Peers`."""
        return self.network.ask(self, peer, request)

    def send_now(self) -> None:
        """It is under way already."""


class TaskNetwork:
    """All links.

    :ivar loss: share of the messages that are held up.
    """

    def __init__(self, reactor: SimReactor, rng: Random) -> None:
        self._reactor = reactor
        self._rng = rng
        self.loss = 0.0
        self._nodes: dict[PeerID, SimPeers] = {}
        self._links: dict[frozenset[PeerID], _Link] = {}
        self._planned: set[frozenset[PeerID]] = set()
        self._groups: dict[PeerID, int] = {}
        self._number = 0

    def join(self, peers: SimPeers) -> None:
        """A process has started."""
        self._nodes[peers.own] = peers
        for other in self._nodes:
            if other != peers.own:
                self._plan_link(frozenset((peers.own, other)))

    def leave(self, peer: PeerID, silently: bool) -> None:
        """A process has ended; its kernel says so to the others, unless it is gone, too."""
        self._nodes.pop(peer, None)
        for pair, link in list(self._links.items()):
            if peer in pair:
                wait = SILENT * self._rng.random() if silently else 0.05 * self._rng.random()
                self._reactor.callLater(wait, self._down, pair, link)

    def partition(self, group: Collection[PeerID]) -> None:
        """Cut these off from the others."""
        self._groups = dict.fromkeys(group, 1)
        for pair, link in list(self._links.items()):
            if not self._reach(*pair):
                wait = SILENT * (0.3 + 0.7 * self._rng.random())
                self._reactor.callLater(wait, self._down_if_cut, pair, link)

    def heal(self) -> None:
        """Let all reach all."""
        self._groups = {}
        peers = sorted(self._nodes)
        for place, one in enumerate(peers):
            for other in peers[place + 1 :]:
                self._plan_link(frozenset((one, other)))

    def reset(self) -> None:
        """Break a link; it is made again."""
        if self._links:
            pair = self._rng.choice(sorted(self._links, key=sorted))
            self._down(pair, self._links[pair])

    def linked(self, peer: PeerID) -> Collection[PeerID]:
        """The nodes that one has links with."""
        return [other for pair in self._links if peer in pair for other in pair if other != peer]

    def ask(self, source: SimPeers, peer: PeerID, request: Request) -> Deferred[Answer]:
        """Ask over a link."""
        link = self._links.get(frozenset((source.own, peer)))
        if link is None or source.clock.crashed:
            return fail(NotAsked(f"{peer} is not linked"))
        data = CODEC.join([(0, CODEC.encode(request))])
        self._number += 1
        number = self._number
        asked: Deferred[Answer] = Deferred()
        link.waiting[number] = (source, asked)
        self._send(link, source.own, peer, lambda: self._arrived(link, number, source, peer, data))
        return asked

    # -- inside

    def _send(self, link: _Link, source: PeerID, peer: PeerID, arrive: Callable[[], None]) -> None:
        draw = self._rng.random
        delay = DELAY * draw()
        if draw() < self.loss:
            delay += HELD_UP * draw()
        at = max(self._reactor.now + delay, link.arrives.get(peer, 0.0))
        link.arrives[peer] = at

        def due() -> None:
            # What is under way when the network is cut is sent again, as long as the link lasts.
            if link.up and self._reach(source, peer):
                arrive()
            elif link.up:
                self._reactor.callLater(SENT_AGAIN, due)

        self._reactor.callLater(at - self._reactor.now, due)

    def _arrived(
        self, link: _Link, number: int, source: SimPeers, peer: PeerID, data: bytes
    ) -> None:
        node = self._nodes.get(peer)
        if node is None or node.clock.crashed:
            return
        [(_, request)] = CODEC.read_requests(data)

        def answered(answer: Answer | Failure) -> None:
            if isinstance(answer, Failure):
                raise answer.value or RuntimeError("an answer failed")
            answer_data = CODEC.join([(0, CODEC.encode(answer))])
            self._send(
                link, peer, source.own, lambda: self._told(link, number, source, answer_data)
            )

        # Through the node's own clock, so that one that is starved answers late.
        node.clock.callLater(0, lambda: node.answer(source.own, request).addBoth(answered))

    def _told(self, link: _Link, number: int, source: SimPeers, data: bytes) -> None:
        _, asked = link.waiting.pop(number, (None, None))
        if asked is not None:
            [(_, answer)] = CODEC.read_answers(data)
            source.clock.callLater(0, asked.callback, answer)

    def _reach(self, one: PeerID, other: PeerID) -> bool:
        return self._groups.get(one, 0) == self._groups.get(other, 0)

    def _plan_link(self, pair: frozenset[PeerID]) -> None:
        if pair not in self._planned and pair not in self._links:
            self._planned.add(pair)
            self._reactor.callLater(LINKED * self._rng.random(), self._up, pair)

    def _up(self, pair: frozenset[PeerID]) -> None:
        self._planned.discard(pair)
        one, other = sorted(pair)
        if one not in self._nodes or other not in self._nodes or not self._reach(one, other):
            return
        if pair not in self._links:
            self._links[pair] = _Link()
            self._tell(pair)

    def _down_if_cut(self, pair: frozenset[PeerID], link: _Link) -> None:
        if not self._reach(*pair):
            self._down(pair, link)

    def _down(self, pair: frozenset[PeerID], link: _Link) -> None:
        if self._links.get(pair) is not link:
            return
        del self._links[pair]
        link.up = False
        for source, asked in link.waiting.values():
            source.clock.callLater(0, asked.errback, AnswerLost("the link was lost"))
        link.waiting.clear()
        self._tell(pair)
        if self._reach(*pair):
            self._plan_link(pair)

    def _tell(self, pair: frozenset[PeerID]) -> None:
        for peer in sorted(pair):
            node = self._nodes.get(peer)
            if node is not None:
                node.clock.callLater(0, node.links_changed)
