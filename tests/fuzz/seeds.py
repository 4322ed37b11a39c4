"""Writes ``corpus/``: a few well-formed inputs for each target, for the fuzzer to begin with.

python -m tests.fuzz.seeds
"""

from __future__ import annotations

import base64
import json
from pathlib import Path

from bzzz.discovery.mdns_records import Announced, announcement, peer_service
from bzzz.identity.keys import PrivateKey
from bzzz.mesh.messages import AVAILABILITY, CAPABILITY
from bzzz.trust.codes import make_token
from bzzz.wire import varint
from bzzz.wire.framing import frame
from bzzz.wire.identify import Identify
from bzzz.wire.multiaddr import Multiaddr
from bzzz.wire.multistream import encode_line
from bzzz.wire.noise import HandshakeXX, NoiseXX
from bzzz.wire.pb import rpc_pb2
from bzzz.wire.plaintext import PlaintextChannel
from bzzz.wire.yamux_frame import ACK, DATA, FIN, GO_AWAY, HEADER, PING, RST, SYN, WINDOW_UPDATE
from tests.fuzz.audit_targets import WHOLE as AUDIT_LOG
from tests.fuzz.audit_targets import checkpoint_of, encoded
from tests.fuzz.mesh_targets import signed
from tests.fuzz.node_target import (
    AGAIN,
    ANSWER,
    CONNECT,
    ENDING,
    HANG_UP,
    JAM,
    RAW,
    RESET,
    SPOKEN,
    TURN,
    WAIT,
    encode_step,
)
from tests.fuzz.pairing_targets import MESSAGES, ROSTER
from tests.fuzz.registry import (
    EPHEMERAL,
    OURS,
    STATIC,
    STREAM_PROTOCOL,
    THEIRS,
    TOPIC,
    fixed_bytes,
)
from tests.fuzz.task_seeds import task_seeds
from tests.fuzz.trust_seeds import trust_seeds
from tests.fuzz.trust_targets import history

OTHER = PrivateKey.from_seed(b"v" * 32).peer_id

CORPUS = Path(__file__).parent / "corpus"

ADDRESS = f"/ip4/192.0.2.7/tcp/40123/p2p/{THEIRS.peer_id}"
ADDRESSES = (
    ADDRESS,
    "/ip6/fe80::1/tcp/40123",
    "/ip6zone/eth0/ip6/fe80::1/tcp/4001",
    "/dns4/walnut.example/tcp/4001",
    "/ip4/192.0.2.7/udp/4001/quic-v1",
    f"/ip4/192.0.2.1/tcp/4001/p2p/{THEIRS.peer_id}/p2p-circuit",
)

# A configuration file with a value of each kind, and with mistakes.
CONFIGS = [
    b'name = "walnut"\nlisten_port = 4001\nmdns = false\nbroadcast_interval = "30s"\n'
    b'state_dir = "/s"\ncapability = ["a"]\nlog_level = "debug"\ninterface = ["lo"]\n'
    b'bootstrap = ["/dns/walnut.lan/tcp/40001"]\n[label]\nrack = "a3"\n',
    b'nmae = "walnut"\nlisten_port = 70000\ninterface = [1]\n"\\u001b[2J" = 1979-05-27\n',
]

# Nothing is cut.
WHOLE = b"\0"

Seeds = dict[str, list[bytes]]


def rpc_seeds() -> list[bytes]:
    """RPCs of all kinds."""
    rpc = rpc_pb2.RPC()
    rpc.subscriptions.add(subscribe=True, topicid=TOPIC)
    rpc.subscriptions.add(subscribe=False, topicid="other")
    ids = [THEIRS.peer_id.bytes + number.to_bytes(8, "big") for number in range(3)]
    rpc.control.ihave.add(topicID=TOPIC, messageIDs=ids)
    rpc.control.iwant.add(messageIDs=ids)
    rpc.control.graft.add(topicID=TOPIC)
    rpc.control.prune.add(topicID=TOPIC, backoff=60)
    rpc.control.idontwant.add(messageIDs=ids)
    control = frame(rpc.SerializeToString())
    said = b"".join(frame(signed(b"%cmessage" % first, first)) for first in b"ripa")
    return [control, control + said, said]


def yamux_seeds() -> list[bytes]:
    """Frames in the life of a few streams, for a session that accepts odd or even ones."""
    lives = []
    for stream in (1, 2):
        lives.append(
            HEADER.pack(WINDOW_UPDATE, SYN, stream, 0)
            + HEADER.pack(DATA, 0, stream, 5)
            + b"hello"
            + HEADER.pack(WINDOW_UPDATE, ACK, stream, 4096)
            + HEADER.pack(DATA, FIN, stream, 0)
            + HEADER.pack(PING, SYN, 0, 7)
            + HEADER.pack(PING, ACK, 0, 0)
            + HEADER.pack(DATA, SYN, stream + 2, 2)
            + b"hi"
            + HEADER.pack(WINDOW_UPDATE, RST, stream + 2, 0)
        )
    return [*lives, HEADER.pack(GO_AWAY, 0, 0, 0), HEADER.pack(DATA, SYN, 1, 0xFFFFFFFF)]


def stream_seeds() -> list[bytes]:
    """The same with a negotiation on the stream."""
    proposal = encode_line("/multistream/1.0.0") + encode_line(STREAM_PROTOCOL)
    return [
        HEADER.pack(DATA, SYN, stream, len(proposal) + 4)
        + proposal
        + b"data"
        + HEADER.pack(WINDOW_UPDATE, FIN, stream, 0)
        for stream in (1, 2)
    ]


def noise_seeds() -> list[bytes]:
    """The messages of a handshake with the keys of the targets, as far as they can be foretold."""
    ours = NoiseXX(False, THEIRS, None, ("/yamux/1.0.0",), fixed_bytes)
    first = HandshakeXX(True, STATIC, EPHEMERAL).write(b"")
    ours.receive_message(first)
    second = ours.take_message()
    assert second is not None
    return [WHOLE + first, WHOLE + second]


def topic_seeds() -> list[bytes]:
    """Messages as nodes publish them."""
    peer = str(THEIRS.peer_id)
    now = "2026-01-02T03:04:05Z"
    capability = {
        "node_id": peer,
        "name": "walnut",
        "version": "0.1.0",
        "capabilities": ["general"],
        "models": ["llama3"],
        "specialization": "general",
        "resources": {"cpu_cores": 8, "memory_mb": 64000, "gpus": [], "disk_mb": 1000},
        "labels": {"rack": "1"},
        "os": "linux",
        "arch": "x86_64",
    }
    availability = {
        "node_id": peer,
        "available_for_work": True,
        "current_tasks": 0,
        "max_tasks": 3,
        "status": "ready",
        "last_activity": now,
        "timestamp": now,
    }
    documents = ((CAPABILITY, capability), (AVAILABILITY, availability), ("x", {"message": "hi"}))
    return [
        json.dumps({"type": kind, "from": peer, "timestamp": now, "data": data}).encode()
        for kind, data in documents
    ]


def mdns_seeds() -> list[bytes]:
    """Announcements of a peer."""
    announced = Announced("eth0", 2, False, (Multiaddr.tcp("192.0.2.7", 40123),), "192.0.2.7", True)
    service = peer_service("a" * 32, announced, THEIRS.peer_id, "walnut")
    return announcement(service).packets()


def node_seeds() -> list[bytes]:
    """A peer that does what peers do; one that waits long between it; one that ends early."""
    who = Identify(
        public_key=THEIRS.public,
        listen_addrs=(Multiaddr.parse(ADDRESSES[0]),),
        protocols=SPOKEN,
        name="ironwood",
    )
    said = frame(who.encode())
    answer = json.dumps({"peers": [{"id": str(OTHER), "name": "acacia", "addresses": ADDRESSES}]})
    told = frame(answer.encode())
    question = frame(b'{"have": ""}')
    topics = [frame(signed(message, seqno)) for seqno, message in enumerate(topic_seeds(), 1)]
    gossip = [encode_step(3, rpc_seeds()[0]), *(encode_step(AGAIN, rpc) for rpc in topics)]
    # In the order in which the node opens streams: to send RPCs, for a ping, to ask who it is
    # talking to, and a moment later for the peers that this one knows.
    answers = [
        encode_step(ANSWER, b""),
        encode_step(ANSWER, fixed_bytes(32)),
        encode_step(ANSWER | ENDING, said),
        encode_step(WAIT | 64, b""),
        encode_step(ANSWER | ENDING, told),
    ]
    opened = [(0, b""), (1, said), (2, bytes(32)), (4, question)]
    return [
        b"".join([*answers, *gossip, *(encode_step(kind | ENDING, text) for kind, text in opened)]),
        b"".join(piece + encode_step(WAIT | 128, b"") for piece in (*gossip, *answers)),
        b"".join(encode_step(kind | RESET, text) for kind, text in opened),
        encode_step(RAW, yamux_seeds()[0]) + encode_step(WAIT, b"") + encode_step(RAW, b"\0" * 12),
        b"".join(encode_step(WAIT | wait << 6, b"") for wait in (0, 1, 2, 3, 3)),
        b"".join(
            encode_step(JAM, b"") + piece + encode_step(2, bytes(1000)) + encode_step(WAIT, b"")
            for piece in (*gossip, *answers)
        ),
        b"".join(
            encode_step(kind | who << 6, b"")
            for who in (0, 1, 2)
            for kind in (CONNECT, WAIT, 2, TURN, AGAIN, HANG_UP, TURN)
        ),
    ]


def pairing_seeds() -> Seeds:
    """The messages of a pairing, by the side that they come to; refusals; a code and a token."""
    token = make_token(THEIRS.peer_id, bytes(range(8)), fixed_bytes).text
    refusals = [b'{"error":"busy"}', b'{"error":"other","words":"why"}']
    return {
        "pairing_inviter": MESSAGES[::2],
        "pairing_joiner": MESSAGES[1::2] + refusals,
        "pairing_rosters": [ROSTER],
        "pairing_codes": [b"7-guitar-lunar", b"12 Guit luna", b"7-gitar-lunar"],
        "pairing_tokens": [token.encode(), token.removeprefix("bzzz-join-").encode()],
    }


def audit_seeds() -> Seeds:
    """A log, whole, cut off and damaged; checkpoints that are given, asked for and contradicted."""
    ours, theirs = checkpoint_of(OURS, 12), checkpoint_of(THEIRS, 12)
    lines = AUDIT_LOG.splitlines(keepends=True)
    answers = [{"kept": True}, {"kept": False, "contradicts": ours}]
    return {
        "audit_lines": [
            AUDIT_LOG,
            AUDIT_LOG[:2000],
            b"".join(lines[:3] + lines[5:7] + lines[4:6]),
            AUDIT_LOG.replace(b"walnut", b"acacia", 2),
        ],
        "audit_fields": [b'"walnut"', b'["name", "mdns"]', b"1e400", b"\xff\x1b[2J"],
        "audit_questions": [
            encoded({"checkpoint": theirs}),
            encoded({"checkpoint": checkpoint_of(THEIRS, 3)}),
            encoded({"of": str(THEIRS.peer_id)}),
        ],
        "audit_answers": [
            *map(encoded, answers),
            encoded({"checkpoints": [{"checkpoint": ours, "received": ours.time}]}),
        ],
    }


def roster_seeds() -> Seeds:
    """Admits, a revoke beside an admit, names, rotations; as steps, statements and bodies."""
    histories = [
        # In a chain: admins, one of them revoked and admitted again, a name, a new key.
        bytes.fromhex("00000100 00000200 00010201 00000200 00020302 00010403"),
        # At the same time: an accomplice of a revoked admin, and his.
        bytes.fromhex("00000100 00000200 00000101 08010300 08030400 00000202"),
        # Two rotations of one key.
        bytes.fromhex("00000110 00010303 04010403 00000200"),
        # Roles that differ, and a rotation with what they have in common.
        bytes.fromhex("00000100 00000220 04010230 00020403 00000402"),
    ]
    said = [history(steps) for steps in histories]
    return {
        "statements": [each.encode() for each in [*said[0], *said[2][-2:]]],
        "rosters": [b"\n".join(each.body for each in statements) for statements in said],
        "roster_histories": histories,
    }


def seeds() -> Seeds:
    """All of them."""
    text = f"dnsaddr={ADDRESS}".encode()
    name = b"name=walnut"
    texts = bytes([len(text)]) + text + bytes([len(name)]) + name
    negotiation = encode_line("/multistream/1.0.0") + encode_line(STREAM_PROTOCOL)
    exchange = b"".join(PlaintextChannel(THEIRS, None).take_output())
    noise_start = encode_line("/multistream/1.0.0") + encode_line("/noise")
    plain_start = encode_line("/multistream/1.0.0") + encode_line("/plaintext/2.0.0")
    muxer = encode_line("/multistream/1.0.0") + encode_line("/yamux/1.0.0")
    handshake = [piece[1:] for piece in noise_seeds()]
    prefixed = [len(message).to_bytes(2, "big") + message for message in handshake]
    who = Identify(
        protocol_version="ipfs/0.1.0",
        agent_version="bzzz-py/0.1.0",
        public_key=THEIRS.public,
        listen_addrs=tuple(Multiaddr.parse(address) for address in ADDRESSES[:2]),
        observed_addr=Multiaddr.parse(ADDRESSES[0]),
        protocols=("/ipfs/ping/1.0.0", STREAM_PROTOCOL),
        name="walnut",
    ).encode()
    payload = NoiseXX(True, THEIRS, None, ("/yamux/1.0.0",), lambda size: STATIC[:size])._payload
    answer = {"peers": [{"id": str(THEIRS.peer_id), "name": "walnut", "addresses": [ADDRESS]}]}
    tails = base64.b64encode(THEIRS.peer_id.bytes[-6:]).decode()
    message = rpc_pb2.Message(data=b"data", seqno=(1).to_bytes(8, "big"))
    return {
        "varints": [varint.encode(value) for value in (0, 127, 128, 2**63 - 1)],
        "framing": [WHOLE + frame(b"one") + frame(b"two"), b"\3" + frame(b"in pieces")],
        "identities": [
            THEIRS.public.encode(),
            THEIRS.peer_id.bytes,
            str(THEIRS.peer_id).encode(),
        ],
        "multiaddrs": [Multiaddr.parse(text).encode() for text in ADDRESSES]
        + [text.encode() for text in ADDRESSES],
        "multistream": [WHOLE + negotiation, b"\5" + negotiation + b"rest"],
        "identify": [who],
        "noise_handshake": noise_seeds(),
        "noise_payload": [payload],
        "noise_channel": [WHOLE + piece for piece in prefixed],
        "plaintext": [WHOLE + exchange + b"rest", b"\7" + exchange],
        "yamux": [cut + frames for frames in yamux_seeds() for cut in (WHOLE, b"\5")],
        "connection_raw": [
            WHOLE + plain_start + exchange + muxer + frames for frames in stream_seeds()
        ]
        + [WHOLE + noise_start + piece for piece in prefixed],
        "connection_noise": [WHOLE + frames for frames in stream_seeds()],
        "connection_plaintext": [
            cut + frames for frames in stream_seeds() + yamux_seeds() for cut in (WHOLE, b"\7")
        ],
        "gossip_rpcs": rpc_seeds(),
        "gossip_messages": [message.SerializeToString()],
        "peers_question": [json.dumps({"have": tails}).encode()],
        "peers_answer": [json.dumps(answer).encode()],
        "topic_messages": topic_seeds(),
        "mdns_texts": [texts],
        "mdns_packets": mdns_seeds(),
        "config_files": CONFIGS,
        "node": node_seeds(),
        **pairing_seeds(),
        **audit_seeds(),
        **trust_seeds(),
        **roster_seeds(),
        **task_seeds(),
    }


def write() -> None:
    """Write them to their files."""
    for name, inputs in seeds().items():
        directory = CORPUS / name
        directory.mkdir(parents=True, exist_ok=True)
        for number, data in enumerate(inputs):
            (directory / f"seed-{number}").write_bytes(data)


if __name__ == "__main__":
    write()
