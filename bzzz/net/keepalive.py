"""The kernel's own watch over a TCP connection: a machine that vanished silently is found by it.

Enters: a transport. Leaves: a connection that ends with ETIMEDOUT when the peer's kernel does not
answer. It costs this process nothing, unlike pings; and the peer's kernel answers also for a
process that is starved of CPU, so that nobody is accused. Processes that hang are found by
:mod:`bzzz.mesh.liveness`.

RFC 1122, section 4.2.3.6 (keep-alives); RFC 5482 (user timeout); Linux's tcp(7).
"""

from __future__ import annotations

import socket
from typing import Any

__all__ = ["SILENCE", "watch"]

# Seconds without a segment from the peer until its kernel is asked, and between further questions:
# the shortest there is, so that three may be lost.
IDLE = 1
INTERVAL = 1

# Seconds that the peer's kernel may be silent when it was asked, and that data may be
# unacknowledged. The one may follow the other (data that was written just before the first is
# over), and the first is looked at once a second: 4.5 + 0.5 + 4.5 is below the 10 s that are
# promised. Data is retransmitted after 0.2, 0.6, 1.4 and 3 s in this time.
SILENCE = 4.5


def watch(transport: Any) -> None:
    """Have the kernel end the connection when the peer's machine is gone.

    :param transport: an ``ITCPTransport``; one without a socket is only told to keep alive.
    """
    transport.setTcpKeepAlive(True)
    get_handle = getattr(transport, "getHandle", None)
    if get_handle is None:
        return
    handle: socket.socket = get_handle()
    for option, value in (
        (socket.TCP_KEEPIDLE, IDLE),
        (socket.TCP_KEEPINTVL, INTERVAL),
        (socket.TCP_USER_TIMEOUT, int(SILENCE * 1000)),
    ):
        handle.setsockopt(socket.IPPROTO_TCP, option, value)
