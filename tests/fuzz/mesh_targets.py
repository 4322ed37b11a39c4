"""What streams and packets carry: gossip, questions for peers, messages, DNS records, a file."""

from __future__ import annotations

import random
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from zeroconf._dns import DNSText
from zeroconf._protocol.incoming import DNSIncoming

from bzzz.config.load import load, problems_of_file
from bzzz.discovery.mdns_records import parse_texts, reachable
from bzzz.errors import ConfigError, RemoteProtocolError
from bzzz.identity.keys import PrivateKey
from bzzz.mesh import messages
from bzzz.mesh.peer_exchange import KnownPeer, PeerExchange
from bzzz.wire.framing import FrameReader
from bzzz.wire.gossip_message import sign
from bzzz.wire.gossip_params import PROTOCOLS, GossipParams
from bzzz.wire.gossipsub import Gossipsub, MessageReceived
from bzzz.wire.pb import rpc_pb2
from tests.fuzz.registry import OURS, THEIRS, TOPIC, pieces, target, told

# Small, so that a short input reaches them.
GOSSIP_LIMITS = GossipParams(
    max_topics_per_peer=4,
    max_topic_length=24,
    max_seen=16,
    max_cache_bytes=2000,
    max_pending=4,
    max_backoffs=4,
    max_asked=10,
    max_ihave_length=8,
    max_ihave_messages=3,
    max_idontwant_messages=6,
    max_held_bytes=1000,
    max_origins=2,
    max_rpc_size=8192,
    max_message_size=4096,
)
# -- what streams carry


def check_bounds(core: Gossipsub) -> None:
    """No table of the core is fuller than it may be."""
    sizes = core.sizes()
    assert sizes["seen"] <= GOSSIP_LIMITS.max_seen, sizes
    assert sizes["cached_bytes"] <= GOSSIP_LIMITS.max_cache_bytes, sizes
    assert sizes["pending"] <= GOSSIP_LIMITS.max_pending, sizes
    assert sizes["promises"] <= GOSSIP_LIMITS.max_asked, sizes


def gossip_core() -> Gossipsub:
    """One that is in a topic, with two peers."""
    core = Gossipsub(OURS, GOSSIP_LIMITS, random.Random(1), 1)
    for index, key in enumerate((THEIRS, PrivateKey.from_seed(b"u" * 32))):
        core.add_peer(
            key.peer_id, PROTOCOLS[index], outbound=not index, address="127.0.0.1", now=0.0
        )
    core.subscribe(TOPIC, 0.0)
    core.publish(TOPIC, b"ours", 0.0)
    core.take_rpcs()
    return core


def feed_gossip(core: Gossipsub, rpc: bytes, now: float) -> None:
    """An RPC, and what the application does with its messages."""
    for event in core.receive_rpc(THEIRS.peer_id, rpc, now):
        if isinstance(event, MessageReceived):
            verdict = event.message.data[:1]
            if verdict == b"r":
                core.reject(event.message.id)
            elif verdict == b"i":
                core.ignore(event.message.id)
            elif verdict != b"p":
                core.accept(event.message.id, now)
    check_bounds(core)


@target
def gossip_rpcs(data: bytes) -> None:
    """RPCs one after the other, with a heartbeat after each."""
    core = gossip_core()
    reader = FrameReader(GOSSIP_LIMITS.max_rpc_size)
    now = 0.0
    try:
        for rpc in reader.receive(data):
            feed_gossip(core, rpc, now)
            now += 1.0
            core.heartbeat(now)
            core.take_rpcs()
            core.peers_to_drop()
    except RemoteProtocolError as error:
        told(error)


@target
def gossip_messages(data: bytes) -> None:
    """One message whose author signed whatever it says."""
    core = gossip_core()
    try:
        wire = rpc_pb2.Message.FromString(data)
    except Exception:  # noqa: BLE001 - the fuzzer's own input, not yet the core's
        return
    wire.topic = TOPIC
    setattr(wire, "from", THEIRS.peer_id.bytes)
    wire.ClearField("signature")
    wire.ClearField("key")
    wire.signature = THEIRS.sign(b"libp2p-pubsub:" + wire.SerializeToString(deterministic=True))
    try:
        feed_gossip(core, rpc_pb2.RPC(publish=[wire]).SerializeToString(), 0.0)
    except RemoteProtocolError as error:
        told(error)
    core.heartbeat(1.0)
    core.take_rpcs()


class Nowhere:
    """A swarm and a link of which only what peer exchange needs of them is here."""

    remote_peer = THEIRS.peer_id

    def handle(self, protocol_id: str, factory: object, rate: object) -> None:
        """Nobody will open streams."""


def peer_exchange() -> PeerExchange:
    """One that knows a peer."""
    nowhere: Any = Nowhere()
    peers = (OURS.peer_id, PrivateKey.from_seed(b"v" * 32).peer_id)
    return PeerExchange(
        nowhere,
        lambda: peers,
        lambda: peers,
        lambda peer: KnownPeer(str(peer), "ironwood", ["/ip4/127.0.0.1/tcp/4001"]),
        lambda peer, name, addresses: None,
    )


@target
def peers_question(data: bytes) -> None:
    """A question for peers."""
    try:
        peer_exchange().answer(data, THEIRS.peer_id)
    except RemoteProtocolError as error:
        told(error)


@target
def peers_answer(data: bytes) -> None:
    """An answer to one."""
    link: Any = Nowhere()
    try:
        peer_exchange().answered(data, link)
    except RemoteProtocolError as error:
        told(error)


@target
def topic_messages(data: bytes) -> None:
    """What is published on the topics."""
    try:
        received = messages.decode(data, THEIRS.peer_id)
    except RemoteProtocolError as error:
        told(error)
    else:
        if received.document is not None:
            assert received.document.describe().isprintable()
            received.document.same_as(received.document)  # type: ignore[arg-type]  # one kind
            messages.encode("x", OURS.peer_id, 0.0, received.document)
    kind, text = messages.discussion_text(data)
    assert kind.isprintable()
    assert text.isprintable()


# -- discovery


def hear(texts: list[bytes]) -> None:
    """TXT records of a peer."""
    try:
        heard = parse_texts(texts)
    except RemoteProtocolError as error:
        told(error)
        return
    reachable(heard.addresses, on_loopback=False)
    assert heard.name.isprintable()


@target
def mdns_texts(data: bytes) -> None:
    """TXT records: one, or several."""
    hear([data])
    hear(list(pieces(data)))


@target
def mdns_packets(data: bytes) -> None:
    """Whole packets, read by zeroconf."""
    incoming = DNSIncoming(data)
    if incoming.valid:
        hear([record.text for record in incoming.answers() if isinstance(record, DNSText)])


def signed(payload: bytes, seqno: int = 1) -> bytes:
    """An RPC with one message of theirs."""
    return sign(THEIRS, TOPIC, payload, seqno).encoded


# -- a person's file


@target
def config_files(data: bytes) -> None:
    """A configuration file: there is a configuration, or problems in a line each."""
    with NamedTemporaryFile(prefix="bzzz-fuzz-", suffix=".toml") as file:
        file.write(data)
        file.flush()
        problems = problems_of_file(Path(file.name))
        assert all(problem.isprintable() for problem in problems), problems
        try:
            load({}, {"HOME": "/nonexistent"}, file.name)
        except ConfigError as error:
            assert problems
            assert str(error) == problems[0]
        else:
            assert not problems
