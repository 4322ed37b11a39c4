"""What peers can make a swarm hold before and beside their links, in one place.

Nothing enters or leaves: these are the caps that :mod:`~bzzz.net.swarm`,
:mod:`~bzzz.net.accepting` and :mod:`~bzzz.net.dialling` keep to.
"""

from __future__ import annotations

from dataclasses import dataclass

from bzzz.net.token_bucket import Rate

__all__ = ["HOST_RATE", "PREFIX_RATE", "SwarmLimits"]

# New connections of one IP address. At once: a mesh of a hundred nodes on it, each of which has to
# try twice. From then on: what a machine needs whose nodes are restarted again and again; a
# handshake takes 1.5 ms of CPU time here, so it is 2 % of a processor. Beyond: the connection is
# closed.
HOST_RATE = Rate(256, 16.0)

# New connections of one network: four addresses that do all that they may. Beyond: as above.
PREFIX_RATE = Rate(1024, 64.0)


@dataclass(frozen=True)
class SwarmLimits:
    """Caps on what peers can make the swarm hold.

    :ivar links: peers linked at once. More are refused.
    :ivar handshakes: inbound connections whose handshake is not done. A whole mesh may dial at
        once, so it is as large as a large mesh; when it is reached the oldest of the host that has
        most is dropped, so that connections which never finish cannot keep others out.
    :ivar handshakes_per_host: those of them of one host (an IPv4 address, or an IPv6 /64): a mesh
        of a hundred nodes on one machine; then its oldest is dropped.
    :ivar handshakes_per_prefix: those of one network (an IPv4 /24 or an IPv6 /48), in which all
        nodes of a mesh may be; then its oldest is dropped.
    :ivar host_rate: new connections of one IP address, at most so many at once and so many a
        second; an IPv6 /64, in which there may be many machines, has four times as much. More are
        closed at once. One that becomes the link of a peer does not count.
    :ivar prefix_rate: new connections of one network, likewise.
    :ivar closing: links that this side closes and whose peers have not, for some seconds each; more
        are closed at once, and the peer may not hear why.
    :ivar addresses: addresses tried in one dial.
    :ivar dial_timeout: for TCP to connect, in seconds; on a LAN a SYN and one retransmission.
    """

    links: int = 256
    handshakes: int = 256
    handshakes_per_host: int = 128
    handshakes_per_prefix: int = 224
    host_rate: Rate = HOST_RATE
    prefix_rate: Rate = PREFIX_RATE
    closing: int = 256
    addresses: int = 8
    dial_timeout: float = 5.0
