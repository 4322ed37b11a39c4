"""What a socket has to be for a second question on it."""

from __future__ import annotations

import os
import socket

__all__ = ["owner", "silent"]


def owner() -> object:
    """Who may ask on the connections that this process has.

    Not its child after a fork, as two would read one answer. Not another user either: the node
    judges who asks once for each connection.
    """
    return os.getpid(), os.geteuid()


def silent(connection: socket.socket) -> bool:
    """Whether the other end has neither closed it nor sent anything. Does not wait.

    :param connection: has no timeout, or one of 0, as Python waits for the others itself.
    """
    try:
        connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
