"""What a transport holds, given to the kernel at once.

A transport of Twisted waits for a turn of the reactor to send what is written to it. Where somebody
waits for the last of it at the other end, that turn is all that they wait for.
"""

from __future__ import annotations

from twisted.internet.abstract import FileDescriptor

__all__ = ["send_now"]


def send_now(transport: object) -> bool:
    """Have the kernel take what the transport holds.

    It is left to the reactor where the kernel did not take all before, where the transport is being
    closed, and where it is not one of the kernel's.

    :return: False where that failed: the transport goes on asking, and the reactor will find out.
    """
    if not isinstance(transport, FileDescriptor):
        return True
    if transport.disconnecting or transport.producerPaused or transport.dataBuffer:
        return True
    return transport.doWrite() is None
