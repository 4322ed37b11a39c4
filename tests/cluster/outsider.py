"""A peer that takes all it can get: ``python -m tests.cluster.outsider DIRECTORY SECONDS [AT...]``.

Enters: a state directory, whose key it has, or makes, and whose roster it presents where there is
one; multiaddrs to dial, or else mDNS. With each peer that it finds it links again and again, and
tries every protocol that a node speaks, each round anew. Leaves: lines of JSON, each with ``time``,
in seconds since the epoch, ``event``, and the ``peer`` that it is of:

========== =========================================================================================
protocols  ``all`` that a node speaks, as its own swarm has them, and those for ``guests``
advert     mDNS told of a peer: ``name``, ``addresses``
up, down   a link: ``is_initiator``, ``reason``
unlinked   a dial has failed: ``reason``
identified what the peer says of itself: ``name``, ``addresses``, ``protocols``, ``guest``
heard      bytes came: ``protocol``, ``began`` (who has opened the stream: ``us`` or ``peer``), and
           ``data`` in base64
over       a stream has ended: ``protocol``, ``began``, ``how``: ``refused``, ``reset``, ``ended``,
           ``unlinked``, or ``silent`` where it was open to the end of its time
came       the peer has opened a stream: ``protocol``
copy       somebody else has this key
========== =========================================================================================
"""

from __future__ import annotations

import base64
import json
import os
import random
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from twisted.internet import reactor
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import deferLater, react
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure

from bzzz.config import Config
from bzzz.discovery.interfaces import FoundPeer
from bzzz.discovery.mdns import MdnsSource
from bzzz.discovery.network_interfaces import judge, listen_hosts, system_interfaces
from bzzz.errors import BzzzError, LinkClosed, NegotiationError
from bzzz.identity.keys import PrivateKey
from bzzz.identity.peer_id import PeerID
from bzzz.mesh import peer_exchange
from bzzz.mesh.messages import COORDINATION_TOPIC, DISCUSSION_TOPIC
from bzzz.net.link import Link
from bzzz.net.ping import PingService
from bzzz.net.stream import Stream
from bzzz.net.swarm import Swarm
from bzzz.net.tcp import TCPNetwork
from bzzz.node import Launch, NodeService
from bzzz.state import StateDirectory, read_key
from bzzz.systemd.environment import Environment
from bzzz.tasks import messages, output_streams
from bzzz.tasks.files import chunk_messages
from bzzz.trust import audit_asking, pairing, presenting, roster_exchange
from bzzz.trust.roster import Roster
from bzzz.trust.statements import SignedStatement, decode_statement
from bzzz.web.socket import bind_control_socket
from bzzz.wire import gossip_message, identify
from bzzz.wire.framing import frame
from bzzz.wire.gossip_params import PROTOCOLS as GOSSIP
from bzzz.wire.identify import Identify
from bzzz.wire.multiaddr import Multiaddr
from bzzz.wire.multistream import HEADER, encode_line
from bzzz.wire.pb import rpc_pb2

__all__ = ["LIST", "NAME", "spoken"]

NAME = "mallory"

# The name under which it tells of the list of protocols, which is asked for on a stream by itself.
LIST = "ls"

# Seconds between two rounds on one link, for an answer, and between two dials.
ROUND = 3.0
ANSWER = 2.0
AGAIN = 0.2

# A task that nobody has.
TASK = "0" * 26

# Well-formed, and nobody's: of 22 bits.
CHANNEL = "1"
CODE = b"1-abandon-ability"


def say(event: str, **fields: object) -> None:
    """Print a line."""
    print(json.dumps({"time": time.time(), "event": event, **fields}), flush=True)


def spoken() -> tuple[list[str], list[str]]:
    """What a node speaks with members, and what of that with guests.

    Asked of a node that was composed as the daemon's is, and never started.
    """
    with tempfile.TemporaryDirectory(prefix="bzzz-outsider-") as name:
        directory = Path(name)
        state = StateDirectory(directory).open()
        config = Config(name=NAME, state_dir=directory, runtime_dir=directory, mdns=False)
        launch = Launch(Environment(), lambda: config, lambda level: None)
        control = bind_control_socket(directory)
        try:
            swarm = NodeService(config, state, control, launch, MemoryReactorClock()).mesh.swarm
        finally:
            control.close()
            state.close()
    return list(swarm.protocols), list(swarm.guest_protocols)


class Greedy:
    """A gate that keeps every link, whatever the other side says of this one."""

    is_open = False

    def admits(self, peer: PeerID) -> bool:
        return True

    def refusal(self, peer: PeerID) -> str:
        return ""


class Hearing(Protocol):
    """A stream on which one thing is said, and everything heard."""

    transport: Stream

    def __init__(self, link: Link, protocol: str, began: str, said: bytes = b"") -> None:
        self._fields = {"peer": str(link.remote_peer), "protocol": protocol, "began": began}
        self._link = link
        self._said = said
        self._timer: IDelayedCall | None = None
        self._silent = False

    def connectionMade(self) -> None:
        if self._said:
            self.transport.write(self._said)
        # What is said on the streams of pubsub comes on others.
        if self._fields["began"] == "us" and self._fields["protocol"] not in GOSSIP:
            self._timer = self._link.clock.callLater(ANSWER, self._late)

    def dataReceived(self, data: bytes) -> None:
        say("heard", **self._fields, data=base64.b64encode(data).decode())

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        say("over", **self._fields, how="silent" if self._silent else _how(reason))

    def _late(self) -> None:
        self._silent = True
        self.transport.abortConnection()


def _how(reason: Failure) -> str:
    if reason.check(ConnectionDone):
        return "ended"
    if reason.check(NegotiationError):
        return "refused"
    return "unlinked" if reason.check(LinkClosed) else "reset"


class Building(Factory):
    """Makes the protocol of a stream from the address of its other end."""

    noisy = False

    def __init__(self, build: Callable[[Any], Protocol]) -> None:
        self._build = build

    def buildProtocol(self, addr: Any) -> Protocol:
        return self._build(addr)


class Outsider:
    """The peer.

    :param statements: the roster that it has; of a cluster of its own if it was in none.
    """

    def __init__(self, clock: Any, key: PrivateKey, statements: Sequence[SignedStatement]) -> None:
        self._clock = clock
        self._key = key
        self._statements = statements or _own_cluster(key)
        self._seqno = time.time_ns()
        self._known: dict[PeerID, tuple[Multiaddr, ...]] = {}
        self._dialling: set[PeerID] = set()
        self._over = False
        self.protocols, guests = spoken()
        say("protocols", all=self.protocols, guests=guests)
        self.swarm = Swarm(
            key, clock, TCPNetwork(clock), os.urandom, "bzzz-py/0", NAME, gate=Greedy()
        )
        PingService(self.swarm, os.urandom)
        for protocol in self.protocols:
            self.swarm.handle(protocol, self._answering(protocol))
        self.swarm.add_observer(self)
        self._mdns = MdnsSource(
            key.peer_id, NAME, clock.callFromThread, random.Random(), version="0"
        )

    async def run(self, seconds: float, addresses: Sequence[Multiaddr]) -> None:
        """Take what there is for so long."""
        verdicts = judge(system_interfaces())
        port = 0
        for host in listen_hosts(verdicts.interfaces):
            port = await self.swarm.listen(host, port)
        if addresses:
            for address in addresses:
                assert address.peer_id is not None
                self.seek(address.peer_id, (address.without_peer(),))
        else:
            self._mdns.update(verdicts.interfaces, port)
            await self._mdns.start(self._found)
        await deferLater(self._clock, seconds)
        self._over = True
        await self._mdns.stop()
        await self.swarm.stop()

    def seek(self, peer: PeerID, addresses: tuple[Multiaddr, ...]) -> None:
        """Be linked with the peer from now on."""
        self._known[peer] = addresses
        self._dial(peer)

    # -- swarm observer

    def link_up(self, link: Link) -> None:
        say("up", peer=str(link.remote_peer), is_initiator=link.is_initiator)
        self._round(link)

    def link_down(self, link: Link, reason: str) -> None:
        say("down", peer=str(link.remote_peer), reason=reason)
        self._clock.callLater(AGAIN, self._dial, link.remote_peer)

    def identified(self, link: Link, told: Identify) -> None:
        say(
            "identified",
            peer=str(link.remote_peer),
            name=told.name,
            addresses=[str(address) for address in told.listen_addrs],
            protocols=list(told.protocols),
            guest=told.guest,
        )

    def copy_found(self, address: Multiaddr | None) -> None:
        say("copy", address=str(address))

    # -- inside

    def _found(self, found: FoundPeer) -> None:
        if found.peer_id is None or found.peer_id in self._known:
            return
        addresses = [str(address) for address in found.addresses]
        say("advert", peer=str(found.peer_id), name=found.name, addresses=addresses)
        self.seek(found.peer_id, found.addresses)

    def _dial(self, peer: PeerID) -> None:
        if self._over or peer in self.swarm.links or peer in self._dialling:
            return
        if peer not in self._known:
            return
        self._dialling.add(peer)

        def ended(result: Any) -> None:
            self._dialling.discard(peer)
            if isinstance(result, Failure):
                result.trap(BzzzError)
                say("unlinked", peer=str(peer), reason=result.getErrorMessage())
                self._clock.callLater(AGAIN, self._dial, peer)

        self.swarm.dial(self._known[peer], peer).addBoth(ended)

    def _answering(self, protocol: str) -> Factory:
        """Tells of each stream that comes, and answers what a peer would go without."""
        real = self.swarm._protocols.answered.get(protocol)

        def build(address: Any) -> Any:
            say("came", peer=str(address.peer_id), protocol=protocol)
            if real is not None and protocol != identify.PUSH:
                return real.factory.buildProtocol(address)
            return Hearing(address.link, protocol, "peer")

        return Building(build)

    def _round(self, link: Link) -> None:
        """Try everything on a link, and again after a while."""
        if self._over or self.swarm.links.get(link.remote_peer) is not link:
            return
        for protocol in self.protocols:
            said = b"".join(map(frame, self._says(protocol, link)))
            if protocol == "/ipfs/ping/1.0.0":
                said = os.urandom(32)
            # What is said goes with the proposal: it is there before a refusal could be.
            opened = link.open_stream(
                [protocol],
                Building(partial(_same, Hearing(link, protocol, "us", said))),
                optimistic=True,
            )
            opened.addErrback(lambda failure: failure.trap(BzzzError))
        self._list(link)
        self._clock.callLater(ROUND, self._round, link)

    def _list(self, link: Link) -> None:
        """Ask for the list of protocols, as multistream has it."""
        if link.closed:
            return
        asking = encode_line(HEADER) + encode_line(LIST)
        stream_id = link.connection._yamux.open_stream(asking)
        stream = link._streams[stream_id] = Stream(link, stream_id)
        stream.connected(LIST, Hearing(link, LIST, "us"))
        link.flush()

    def _says(self, protocol: str, link: Link) -> Iterator[bytes]:
        """What a member would have an answer for."""
        if protocol == identify.PUSH:
            yield Identify(
                public_key=self._key.public, protocols=tuple(self.protocols), name=NAME
            ).encode()
        elif protocol == pairing.PROTOCOL:
            yield pairing.Joiner(
                self._key.peer_id,
                link.remote_peer,
                CHANNEL,
                CODE,
                NAME,
                link.connection.handshake_hash,
                os.urandom,
            ).begin()
        elif protocol == presenting.PROTOCOL:
            yield _json(statements=roster_exchange.encode_batch(self._statements))
        elif protocol == roster_exchange.PROTOCOL:
            first, last = self._statements[0].id.hex(), self._statements[-1].id.hex()
            yield _json(heads=[])
            yield _json(want=[first, last], have=[])
            yield _json(statements=roster_exchange.encode_batch(self._statements))
        elif protocol == peer_exchange.PROTOCOL:
            yield _json(have="")
        elif protocol == audit_asking.PROTOCOL:
            yield _json(of=str(link.remote_peer))
        elif protocol in GOSSIP:
            yield from self._rpcs()
        elif protocol == messages.PROTOCOL:
            codec = messages.TaskCodec()
            yield codec.join([(1, codec.encode(messages.Listing()))])
        elif protocol == output_streams.PROTOCOL:
            yield msgspec.msgpack.encode((TASK, 1, 0, 0, False))
        elif protocol == chunk_messages.PROTOCOL:
            yield msgspec.msgpack.encode(chunk_messages.Get((os.urandom(32),)))
        elif not protocol.startswith("/ipfs/"):
            # One that came after this was written.
            yield _json()

    def _rpcs(self) -> Iterator[bytes]:
        """Be in every topic, ask for every message, and spread one."""
        rpc = rpc_pb2.RPC()
        for topic in (COORDINATION_TOPIC, DISCUSSION_TOPIC):
            rpc.subscriptions.add(subscribe=True, topicid=topic)
            rpc.control.graft.add(topicID=topic)
            rpc.control.ihave.add(topicID=topic, messageIDs=[os.urandom(40)])
        rpc.control.iwant.add(messageIDs=[os.urandom(40)])
        own = str(self._key.peer_id)
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        document = {"node_id": own, "name": NAME, "version": "0", "capabilities": [NAME]}
        body = json.dumps(
            {"type": "capability_broadcast", "from": own, "timestamp": now, "data": document}
        )
        self._seqno += 1
        yield rpc.SerializeToString()
        yield gossip_message.sign(self._key, COORDINATION_TOPIC, body.encode(), self._seqno).encoded


def _same(hearing: Hearing, address: object) -> Hearing:
    return hearing


def _json(**fields: object) -> bytes:
    return json.dumps(fields).encode()


def _own_cluster(key: PrivateKey) -> Sequence[SignedStatement]:
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return Roster.found(key, "home", NAME, os.urandom(16), now).statements()


def _statements_in(directory: Path) -> list[SignedStatement]:
    """The roster in the database of a node that has stopped."""
    path = directory / "bzzz.db"
    if not path.exists():
        return []
    connection = sqlite3.connect(path)
    try:
        rows = connection.execute("SELECT data FROM roster_statements ORDER BY position").fetchall()
    finally:
        connection.close()
    return [decode_statement(bytes(row[0])) for row in rows]


async def main(clock: Any, directory: str, seconds: str, *addresses: str) -> None:
    """See the module's docstring."""
    try:
        key = read_key(Path(directory) / "identity.key")
    except FileNotFoundError:
        key = PrivateKey.generate(os.urandom)
    outsider = Outsider(clock, key, _statements_in(Path(directory)))
    await outsider.run(float(seconds), [Multiaddr.parse(each) for each in addresses])


if __name__ == "__main__":
    react(main, sys.argv[1:], _reactor=reactor)
