"""Many gossipsub cores in memory, on virtual time, with a seeded random source."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable

from bzzz.identity.keys import PrivateKey
from bzzz.identity.peer_id import PeerID
from bzzz.wire.gossip_params import GOSSIPSUB_1_2, GossipParams
from bzzz.wire.gossipsub import (
    GossipEvent,
    Gossipsub,
    Message,
    MessageReceived,
    MessageRejected,
)
from bzzz.wire.pb import rpc_pb2

TOPIC = "bzzz/coordination/v1"
ADDRESS = "127.0.0.1"


def key_of(number: int) -> PrivateKey:
    return PrivateKey.from_seed(number.to_bytes(32, "big"))


def core(number: int = 0, params: GossipParams | None = None, first_seqno: int = 1) -> Gossipsub:
    """A core with the key of ``number``."""
    return Gossipsub(
        key_of(number),
        params or GossipParams(),
        random.Random(f"gossip {number}"),
        first_seqno,
    )


def decoded(rpcs: Iterable[tuple[PeerID, bytes]]) -> dict[PeerID, rpc_pb2.RPC]:
    """RPCs by peer; those to one peer merged."""
    merged: dict[PeerID, rpc_pb2.RPC] = {}
    for peer, data in rpcs:
        merged.setdefault(peer, rpc_pb2.RPC()).MergeFromString(data)
    return merged


class Network:
    """Cores that are linked, and what they deliver.

    :ivar unhurried: how the applications accept messages.
    :ivar lose: whether an RPC from one node to another is lost.
    :ivar delivered: the messages that each node's application got.
    """

    def __init__(
        self,
        size: int,
        params: GossipParams | None = None,
        seed: object = 0,
        unhurried: bool = False,
    ) -> None:
        self.now = 0.0
        self.unhurried = unhurried
        self.random = random.Random(f"network {seed}")
        self.keys = [key_of(number + 1) for number in range(size)]
        self.nodes = [
            Gossipsub(
                key, params or GossipParams(), random.Random(f"{seed} {index}"), 1 + index * 1000
            )
            for index, key in enumerate(self.keys)
        ]
        self.ids = [key.peer_id for key in self.keys]
        self.index = {peer: index for index, peer in enumerate(self.ids)}
        self.links: set[tuple[int, int]] = set()
        self.delivered: list[list[Message]] = [[] for _ in range(size)]
        self.events: list[list[GossipEvent]] = [[] for _ in range(size)]
        self.rpcs = 0
        self.bytes = 0
        self.lose: Callable[[int, int, bytes], bool] = lambda sender, receiver, rpc: False

    def link(self, a: int, b: int, protocol: str = GOSSIPSUB_1_2) -> None:
        """``a`` dials ``b``."""
        self.links |= {(a, b), (b, a)}
        for one, other, outbound in ((a, b, True), (b, a, False)):
            self.nodes[one].add_peer(
                self.ids[other], protocol, outbound=outbound, address=ADDRESS, now=self.now
            )
        self.settle()

    def unlink(self, a: int, b: int) -> None:
        self.links -= {(a, b), (b, a)}
        self.nodes[a].remove_peer(self.ids[b], self.now)
        self.nodes[b].remove_peer(self.ids[a], self.now)

    def link_all(self, protocol: str = GOSSIPSUB_1_2) -> None:
        for a in range(len(self.nodes)):
            for b in range(a):
                self.link(a, b, protocol)

    def subscribe_all(self, topic: str = TOPIC) -> None:
        for node in self.nodes:
            node.subscribe(topic, self.now)
        self.settle()

    def settle(self) -> None:
        """Deliver RPCs until there are none."""
        waiting = deque(range(len(self.nodes)))
        while waiting:
            sender = waiting.popleft()
            for peer, rpc in self.nodes[sender].take_rpcs():
                receiver = self.index[peer]
                self.rpcs += 1
                self.bytes += len(rpc)
                if (sender, receiver) in self.links and not self.lose(sender, receiver, rpc):
                    self.receive(sender, receiver, rpc)
                    waiting.append(receiver)

    def receive(self, sender: int, receiver: int, rpc: bytes) -> None:
        """One RPC arrives; every message in it is accepted."""
        node = self.nodes[receiver]
        events = node.receive_rpc(self.ids[sender], rpc, self.now)
        self.events[receiver].extend(events)
        for event in events:
            if isinstance(event, MessageReceived):
                node.accept(event.message.id, self.now, self.unhurried)
                self.delivered[receiver].append(event.message)

    def publish(self, index: int, data: bytes, topic: str = TOPIC) -> Message:
        message = self.nodes[index].publish(topic, data, self.now)
        self.settle()
        return message

    def pass_time(self, seconds: int) -> None:
        """A heartbeat of every node each second, in random order; peers to drop are unlinked."""
        for _ in range(seconds):
            self.now += 1.0
            order = list(range(len(self.nodes)))
            self.random.shuffle(order)
            for index in order:
                self.nodes[index].heartbeat(self.now)
                for peer, _reason in self.nodes[index].peers_to_drop():
                    self.unlink(index, self.index[peer])
            self.settle()

    def got(self, data: bytes) -> list[int]:
        """Which nodes' applications got a message."""
        return [
            index
            for index, messages in enumerate(self.delivered)
            if any(message.data == data for message in messages)
        ]

    def degrees(self, topic: str = TOPIC) -> list[int]:
        return [len(node.mesh_peers(topic)) for node in self.nodes]

    def rejections(self, index: int) -> list[str]:
        return [event.code for event in self.events[index] if isinstance(event, MessageRejected)]


class Lab:
    """One core, and peers that are only their RPCs.

    :ivar core: subscribed to :data:`TOPIC`, with the key of 0.
    """

    def __init__(
        self,
        peers: int = 0,
        params: GossipParams | None = None,
        protocol: str = GOSSIPSUB_1_2,
        subscribe: bool = True,
    ) -> None:
        self.now = 0.0
        self.core = core(0, params)
        if subscribe:
            self.core.subscribe(TOPIC, 0.0)
        self.keys = [key_of(100 + number) for number in range(peers)]
        self.ids = [key.peer_id for key in self.keys]
        for number in range(peers):
            self.add(number, protocol)

    def add(
        self, number: int, protocol: str = GOSSIPSUB_1_2, *, outbound: bool = False
    ) -> dict[PeerID, rpc_pb2.RPC]:
        """The peer is linked and in the topic; what the core says to that."""
        self.core.add_peer(
            self.ids[number], protocol, outbound=outbound, address=ADDRESS, now=self.now
        )
        self.say(number, subscribe=TOPIC)
        return self.sent()

    def sent(self) -> dict[PeerID, rpc_pb2.RPC]:
        """What the core sends now, by peer."""
        return decoded(self.core.take_rpcs())

    def say(
        self,
        number: int,
        *,
        subscribe: str | None = None,
        unsubscribe: str | None = None,
        message: Message | None = None,
        graft: str | None = None,
        prune: tuple[str, int] | None = None,
        ihave: tuple[str, list[bytes]] | None = None,
        iwant: list[bytes] | None = None,
        idontwant: list[bytes] | None = None,
        raw: bytes = b"",
    ) -> list[GossipEvent]:
        """A peer sends an RPC; the events."""
        rpc = rpc_pb2.RPC()
        if subscribe is not None:
            rpc.subscriptions.add(subscribe=True, topicid=subscribe)
        if unsubscribe is not None:
            rpc.subscriptions.add(subscribe=False, topicid=unsubscribe)
        if graft is not None:
            rpc.control.graft.add(topicID=graft)
        if prune is not None:
            rpc.control.prune.add(topicID=prune[0], backoff=prune[1])
        if ihave is not None:
            rpc.control.ihave.add(topicID=ihave[0], messageIDs=ihave[1])
        if iwant is not None:
            rpc.control.iwant.add(messageIDs=iwant)
        if idontwant is not None:
            rpc.control.idontwant.add(messageIDs=idontwant)
        data = rpc.SerializeToString() + (b"" if message is None else message.encoded) + raw
        return self.core.receive_rpc(self.ids[number], data, self.now)

    def beat(self, times: int = 1) -> dict[PeerID, rpc_pb2.RPC]:
        """Heartbeats a second apart; what was sent in all."""
        rpcs: list[tuple[PeerID, bytes]] = []
        for _ in range(times):
            self.now += 1.0
            self.core.heartbeat(self.now)
            rpcs.extend(self.core.take_rpcs())
        return decoded(rpcs)

    @property
    def mesh(self) -> list[int]:
        """The numbers of the peers in the mesh."""
        return sorted(self.ids.index(peer) for peer in self.core.mesh_peers(TOPIC))

    def taint(self, number: int, messages: int) -> None:
        """The peer sends so many forged messages."""
        for count in range(messages):
            forged = rpc_pb2.RPC()
            wire = forged.publish.add(
                data=b"forged", seqno=count.to_bytes(8, "big"), topic=TOPIC, signature=bytes(64)
            )
            setattr(wire, "from", key_of(99).peer_id.bytes)
            self.core.receive_rpc(self.ids[number], forged.SerializeToString(), self.now)
