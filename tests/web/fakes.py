"""A node as the control API sees it, without a node."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, succeed

from bzzz.events import EventLog
from bzzz.mesh.availability import AvailabilityDocument
from bzzz.mesh.capability import CapabilityDocument, Resources
from bzzz.web.schema import ConfigEntry, Finding, NodeDocument, PeerInfo, Status

WALNUT = "12D3KooWEeVXdHkXtUp2ewzdqD56gDJCCuMGNAqoJrJ7CKaXHoUh"
IRONWOOD = "12D3KooWK99VoVxNE7XzyBwXEzW7xhK7Gpv85r9F3V3fyKSUKPH5"
ACACIA = "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA"
EARLY = "2026-11-24T01:00:00.000Z"


class FakeNode:
    """Implements :class:`bzzz.web.view.NodeView` with two peers, of which one is linked."""

    def __init__(self) -> None:
        self.now = 1_795_482_123.0
        self.log = EventLog(lambda: self.now)
        self.findings: Deferred[Sequence[Finding]] = succeed(
            [
                Finding(check="interfaces", level="ok", message="eth0 is used"),
                Finding(
                    check="multicast",
                    level="warning",
                    message="nothing came back on eth0",
                    mend="let UDP port 5353 through the firewall",
                ),
            ]
        )

    def status(self) -> Status:
        return Status(
            name="walnut",
            peer_id=WALNUT,
            short_id=WALNUT[-6:],
            version="0.1.0",
            state="connected",
            pid=4242,
            started=EARLY,
            uptime_seconds=123.0,
            listen_addresses=["/ip4/192.0.2.1/tcp/40001"],
            peers_connected=1,
            peers_known=2,
            max_links=256,
            mdns="on",
            available_for_work=True,
            control_socket="/run/user/1000/bzzz/control.sock",
            reactor_lag_seconds=0.001,
        )

    def peers(self) -> Sequence[PeerInfo]:
        return [
            PeerInfo(
                peer_id=IRONWOOD,
                short_id=IRONWOOD[-6:],
                name="ironwood",
                state="connected",
                since=EARLY,
                address="/ip4/192.0.2.2/tcp/40002",
                addresses=["/ip4/192.0.2.2/tcp/40002"],
                sources=["mdns"],
                direction="outbound",
                agent="bzzz-py/0.1.0",
                rtt_seconds=0.000234,
                capabilities=["docker"],
                summary="8 cores, 31 GiB",
                available_for_work=True,
            ),
            PeerInfo(
                peer_id=ACACIA,
                short_id=ACACIA[-6:],
                name="acacia",
                state="lost",
                since=EARLY,
                reason="no answer to pings for 6 s",
                attempts=3,
                next_dial_seconds=4.5,
            ),
        ]

    def capabilities(self) -> Sequence[NodeDocument]:
        def document(name: str, peer_id: str, mine: bool = False) -> NodeDocument:
            return NodeDocument(
                peer_id=peer_id,
                short_id=peer_id[-6:],
                name=name,
                is_self=mine,
                state=None if mine else "connected",
                received=EARLY,
                summary="8 cores, 31 GiB",
                capabilities=CapabilityDocument(
                    node_id=peer_id,
                    name=name,
                    capabilities=("docker",),
                    resources=Resources(cpu_cores=8, memory_bytes=33_000_000_000),
                    labels={"rack": "a3"},
                ),
                availability=AvailabilityDocument(
                    node_id=peer_id, available_for_work=True, status="ready", max_tasks=8
                ),
            )

        return [document("ironwood", IRONWOOD), document("walnut", WALNUT, True)]

    def recent_events(self) -> Sequence[bytes]:
        return self.log.recent_lines()

    def subscribe_events(self, callback: Callable[[dict[str, Any]], object]) -> Callable[[], None]:
        return self.log.subscribe(callback)

    def config_entries(self) -> Sequence[ConfigEntry]:
        return [
            ConfigEntry(key="name", value="walnut", source="flag --name"),
            ConfigEntry(key="max_links", value=256, source="default"),
            ConfigEntry(key="label", value={"rack": "a3"}, source="/etc/bzzz/bzzz.toml:3"),
        ]

    def doctor(self) -> Deferred[Sequence[Finding]]:
        return self.findings
