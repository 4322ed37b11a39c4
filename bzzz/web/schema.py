"""What the control API answers and ``bzzz --json`` prints: these fields are a promise.

Fields are added, never renamed nor removed, and a value that is not known is null. Times are RFC
3339 in UTC, durations are seconds, sizes are bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from bzzz.mesh.availability import AvailabilityDocument
from bzzz.mesh.capability import CapabilityDocument

__all__ = [
    "ConfigEntry",
    "DrainInfo",
    "Finding",
    "Identity",
    "NodeDocument",
    "PeerInfo",
    "PeerState",
    "Status",
    "UnitStatus",
    "encode",
]

NodeState = Literal["starting", "alone", "connected", "stopping"]
PeerState = Literal["discovered", "dialling", "connected", "lost", "claimed"]
Level = Literal["ok", "info", "warning", "error"]


class UnitStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The systemd unit that the node runs in, as :program:`systemctl show` has it.

    :ivar id: ``bzzz.service``.
    :ivar type: ``simple``.
    :ivar active_state: ``active``, ``reloading``, ``deactivating`` and so on.
    :ivar sub_state: ``running``, ``stop-sigterm`` and so on.
    :ivar since: when systemd started the process.
    :ivar restarts: how often systemd started it again by itself, since it was started by hand.
    :ivar main_pid: the process that systemd watches; null for none.
    :ivar memory_bytes: of all its processes; null where systemd does not count.
    :ivar file: the path of the unit file.
    :ivar file_state: ``enabled`` if it starts at boot.
    :ivar needs_daemon_reload: the file is another than systemd has read.
    """

    id: str
    type: str
    active_state: str
    sub_state: str
    since: str | None = None
    restarts: int = 0
    main_pid: int | None = None
    memory_bytes: int | None = None
    file: str | None = None
    file_state: str | None = None
    needs_daemon_reload: bool = False


class DrainInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Whose wish it is that a node takes no new tasks.

    :ivar name: the member where it was wished; null where the node is to end, which nobody has to
        wish.
    :ivar peer_id: of that member.
    :ivar user: who wished it there; null where that is not known.
    """

    name: str | None = None
    peer_id: str | None = None
    user: str | None = None


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """This node.

    :ivar name: by which people know it.
    :ivar peer_id: in base58.
    :ivar short_id: the last six characters of the peer ID, as in the log.
    :ivar version: of Bzzz.
    :ivar state: ``connected`` with at least one link on which the peer does not take this node for
        a guest, ``alone`` without.
    :ivar pid: of its process.
    :ivar started: when it did.
    :ivar uptime_seconds: since then.
    :ivar listen_addresses: multiaddrs without the peer ID.
    :ivar peers_connected: links, also those of ``guest_links``.
    :ivar peers_known: nodes known of, linked or not.
    :ivar max_links: the limit configured.
    :ivar mdns: ``on``, ``off``, or ``failed:`` and why.
    :ivar available_for_work: whether it takes tasks at this moment.
    :ivar control_socket: the path of the socket that answers.
    :ivar state_dir: the path of its state directory.
    :ivar reactor_lag_seconds: the longest that the node was late of late; starved, it is seconds.
    :ivar cluster: which it is a member of; null while it is unclaimed.
    :ivar role: in it; null while it is unclaimed, and once it was revoked.
    :ivar guest_links: how many links there are on which the peer takes this node for a guest.
    :ivar guest_peers: how many peers took this node for a guest when they last said who they are,
        linked now or not: they have not heard that it is a member, or have revoked it.
    :ivar unit: the systemd unit that it runs in; null outside systemd, and while systemd does not
        answer.
    :ivar executor: what runs the commands of tasks: ``systemd`` or ``process``; null until that is
        known.
    :ivar executor_reason: why that is not ``systemd``.
    :ivar draining: whose wish it is that it takes no new tasks; null where it takes some.
    """

    name: str
    peer_id: str
    short_id: str
    version: str
    state: NodeState
    pid: int
    started: str
    uptime_seconds: float
    listen_addresses: Sequence[str]
    peers_connected: int
    peers_known: int
    max_links: int
    mdns: str
    available_for_work: bool | None = None
    control_socket: str | None = None
    state_dir: str | None = None
    reactor_lag_seconds: float | None = None
    cluster: str | None = None
    role: str | None = None
    guest_links: int = 0
    guest_peers: int = 0
    unit: UnitStatus | None = None
    executor: str | None = None
    executor_reason: str | None = None
    draining: DrainInfo | None = None


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Who this node is.

    :ivar name: by which people know it.
    :ivar peer_id: in base58.
    :ivar short_id: the last six characters of the peer ID.
    :ivar addresses: multiaddrs with the peer ID, fit for another node's ``--bootstrap``.
    """

    name: str
    peer_id: str
    short_id: str
    addresses: Sequence[str]


class PeerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Another node.

    :ivar peer_id: in base58.
    :ivar short_id: the last six characters of the peer ID.
    :ivar name: which it gives itself; two nodes may have one name.
    :ivar state: ``discovered`` was never linked, ``lost`` was; ``claimed`` is in a cluster, and the
        node that answers is in none.
    :ivar since: when that state began.
    :ivar address: of the other end of the link.
    :ivar addresses: where it is said to be.
    :ivar sources: who says so: ``mdns``, ``bootstrap``, ``address book``, ``member`` and others.
    :ivar direction: who dialled.
    :ivar agent: its program and version.
    :ivar rtt_seconds: the round trip of the last ping.
    :ivar reason: why it was lost, or why the last dial failed.
    :ivar attempts: dials that failed since the last link.
    :ivar next_dial_seconds: from now.
    :ivar capabilities: names of what it can do.
    :ivar summary: the same for people: ``8 cores, 31 GiB, RTX 4090 24 GiB``.
    :ivar available_for_work: whether it takes tasks, by its last broadcast.
    """

    peer_id: str
    short_id: str
    name: str | None
    state: PeerState
    since: str | None = None
    address: str | None = None
    addresses: Sequence[str] = ()
    sources: Sequence[str] = ()
    direction: Literal["inbound", "outbound"] | None = None
    agent: str | None = None
    rtt_seconds: float | None = None
    reason: str | None = None
    attempts: int = 0
    next_dial_seconds: float | None = None
    capabilities: Sequence[str] = ()
    summary: str | None = None
    available_for_work: bool | None = None


class NodeDocument(msgspec.Struct, frozen=True, kw_only=True):
    """What a node says that it can do, and how busy it is.

    :ivar peer_id: in base58.
    :ivar short_id: the last six characters of the peer ID.
    :ivar name: which it gives itself.
    :ivar is_self: whether it is the node that answers.
    :ivar state: as in the list of peers; null for the node that answers.
    :ivar received: when its last broadcast came.
    :ivar summary: what it can do, in a line for people.
    :ivar capabilities: the data of its ``capability_broadcast``; null until one was heard.
    :ivar availability: the data of its ``availability_broadcast``; null until one was heard.
    """

    peer_id: str
    short_id: str
    name: str | None
    is_self: bool = msgspec.field(name="self", default=False)
    state: str | None = None
    received: str | None = None
    summary: str | None = None
    capabilities: CapabilityDocument | None = None
    availability: AvailabilityDocument | None = None


class ConfigEntry(msgspec.Struct, frozen=True, kw_only=True):
    """An effective value and where it came from.

    :ivar key: as in the file.
    :ivar value: a string, number, boolean, list or object, as the key has it.
    :ivar source: ``default``, ``flag --name``, ``environment BZZZ_NAME`` or ``FILE:LINE``.
    """

    key: str
    value: Any
    source: str


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What a check of ``bzzz doctor`` found.

    :ivar check: what was looked at, in one word: ``interfaces``, ``multicast``, ``clock``.
    :ivar level: how bad it is; ``info`` also where it cannot be told.
    :ivar message: what was found.
    :ivar mend: what to do about it.
    """

    check: str
    level: Level
    message: str
    mend: str | None = None


def encode(answer: object) -> bytes:
    """An answer as JSON with the end of its line."""
    return msgspec.json.encode(answer, enc_hook=str) + b"\n"
