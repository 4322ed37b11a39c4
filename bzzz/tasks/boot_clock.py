"""A clock that goes on while the machine sleeps, for leases (``docs/tasks.rst``, "Leases").

Enters: a reactor. Leaves: the same, with the seconds of ``CLOCK_BOOTTIME`` (clock_gettime(2)).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from zope.interface import implementer

__all__ = ["BootClock", "boot_seconds"]


# Seconds since the machine was started, those in which it slept with them. Not a function of
# Python: it is asked thirty times for each task.
boot_seconds: Final = partial(time.clock_gettime, time.CLOCK_BOOTTIME)


@implementer(IReactorTime)
class BootClock:
    """Calls are made by a reactor, which counts no sleep: after one they come late.

    :param seconds: what to tell; for tests.
    """

    def __init__(self, reactor: IReactorTime, seconds: Callable[[], float] = boot_seconds) -> None:
        self._reactor = reactor
        self.seconds = seconds

    def callLater(
        self, delay: float, callable: Callable[..., Any], *args: object, **kwargs: object
    ) -> IDelayedCall:
        """See :class:`IReactorTime`. The call's ``getTime`` is of the reactor."""
        return self._reactor.callLater(delay, callable, *args, **kwargs)

    def getDelayedCalls(self) -> Sequence[IDelayedCall]:
        """See :class:`IReactorTime`."""
        return self._reactor.getDelayedCalls()
