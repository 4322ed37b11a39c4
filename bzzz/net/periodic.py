"""A job that is done again and again, and that one failure does not end."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from bzzz.net.interfaces import Clock

__all__ = ["Periodic"]


class Periodic:
    """Runs ``body`` each ``interval`` seconds on ``clock``; a failure is logged and the next run
    comes.

    A LoopingCall waits for the Deferred of its body, so a body that never ends would stop it for
    ever: one that takes longer than ``timeout`` seconds is cancelled, and that is logged too.

    :param what: the job in words, for the log.
    """

    def __init__(
        self,
        clock: Clock,
        interval: float,
        body: Callable[[], Deferred[Any] | Coroutine[Deferred[Any], Any, Any] | None],
        what: str,
        log: Logger,
        timeout: float = 60.0,
    ) -> None:
        self._interval = interval
        self._body = body
        self._what = what
        self._log = log
        self._timeout = timeout
        self._clock = clock
        self._loop = LoopingCall(self._run)
        self._loop.clock = clock  # type: ignore[assignment]  # typed as the global reactor
        self._under_way: Deferred[Any] | None = None

    @property
    def running(self) -> bool:
        """Whether it has been started and not stopped."""
        return bool(self._loop.running)

    def start(self, now: bool = True) -> None:
        """Start; the first run is at once, or after one interval when ``now`` is false."""
        if not self._loop.running:
            # Fires when the loop is stopped; _run never fails, so nothing else ends it.
            self._loop.start(self._interval, now=now)

    def stop(self) -> None:
        """Stop, cancelling the run under way, if any. Harmless when not running."""
        if self._loop.running:
            self._loop.stop()
        if self._under_way is not None:
            self._under_way.cancel()

    def _run(self) -> Deferred[None] | None:
        try:
            work = self._body()
        except Exception:  # noqa: BLE001 - whatever one run raises, the next has to come
            self._log.failure("{what} failed", what=self._what)
            return None
        if work is None:
            return None
        deferred: Deferred[Any] = (
            work if isinstance(work, Deferred) else Deferred.fromCoroutine(work)
        )
        self._under_way = deferred
        # Clock is what it uses of IReactorTime.
        deferred.addTimeout(self._timeout, self._clock)  # type: ignore[arg-type]  # needs callLater alone

        def ended(result: Any) -> None:
            self._under_way = None
            if self._loop.running and result is not None and hasattr(result, "getTraceback"):
                self._log.failure("{what} failed", result, what=self._what)

        return deferred.addBoth(ended)
