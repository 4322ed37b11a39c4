"""The socket between the daemon and the shim of a unit.

Enters: bytes, orders. Leaves: reports, orders as bytes. Who sends anything else is hung up on,
which ends a shim's run.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from bzzz.errors import RemoteProtocolError
from bzzz.tasks.executors.keeper_messages import Frames, Order, encode, frame
from bzzz.tasks.executors.unit_messages import Hello, UnitReport, decode_unit_report

__all__ = ["Channel"]


class Channel(Protocol):
    """One shim that has connected.

    A shim that reads nothing is told little: an extension a second at most, until its lease ends.

    :param said: called with each report.
    :param hung_up: called once, when the shim, or this side, has closed it.
    """

    _log = Logger()

    def __init__(
        self,
        said: Callable[[Channel, UnitReport], object],
        hung_up: Callable[[Channel], object],
    ) -> None:
        self._said = said
        self._hung_up = hung_up
        self._frames: Frames[UnitReport] = Frames(decode_unit_report)
        self._closed = False
        self._files: tuple[int, ...] = ()

    def hand_over(self, files: tuple[int, ...]) -> None:
        """Give descriptors, together with the next order. They are closed here when they are there.

        :param files: at most as many as the order has bytes.
        """
        self._files = files
        transport: Any = self.transport
        for file in files:
            transport.sendFileDescriptor(file)

    def tell(self, order: Order) -> None:
        """Give an order."""
        if self.transport is not None and not self._closed:
            self.transport.write(frame(encode(order)))

    def hang_up(self) -> None:
        """Close it, without waiting for what is not sent yet."""
        self._closed = True
        transport: Any = self.transport
        if transport is not None:
            transport.abortConnection()

    def dataReceived(self, data: bytes) -> None:
        """Reports, or a part of one."""
        if self._closed:
            return
        try:
            for report in self._frames.receive(data):
                if not isinstance(report, Hello):
                    self._close_files()
                self._said(self, report)
        except RemoteProtocolError as error:
            self._log.error("A shim is hung up on: {reason}", reason=str(error))
            self.hang_up()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The shim has ended, or was hung up on."""
        self._closed = True
        self._close_files()
        self._hung_up(self)

    def _close_files(self) -> None:
        files, self._files = self._files, ()
        for file in files:
            os.close(file)
