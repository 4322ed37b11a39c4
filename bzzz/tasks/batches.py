"""Short work on the disk for many tasks at once.

Enters: functions. Leaves: what they return. What comes while a thread is busy is done by the next
call of it together: each change of the thread costs more than most of these functions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

__all__ = ["Batches"]

T = TypeVar("T")


class Batches:
    """Calls functions one after the other, in a thread.

    :param in_thread: calls one function in a thread.
    """

    def __init__(self, in_thread: Callable[[Callable[[], Any]], Deferred[Any]]) -> None:
        self._in_thread = in_thread
        self._waiting: list[tuple[Callable[[], Any], Deferred[Any]]] = []
        self._is_busy = False

    def __call__(self, work: Callable[[], T]) -> Deferred[T]:
        """What ``work`` returns or raises. It has to be short: others wait for it."""
        result: Deferred[T] = Deferred()
        self._waiting.append((work, result))
        if not self._is_busy:
            self._begin()
        return result

    def _begin(self) -> None:
        batch, self._waiting = self._waiting, []
        self._is_busy = bool(batch)
        if batch:
            working = self._in_thread(lambda: [_result_of(work) for work, _ in batch])
            working.addCallbacks(self._done, self._failed, (batch,), errbackArgs=(batch,))

    def _done(
        self, results: Sequence[Any], batch: Sequence[tuple[Callable[[], Any], Deferred[Any]]]
    ) -> None:
        self._begin()
        for result, (_, waiting) in zip(results, batch, strict=True):
            # With a Failure this is its errback.
            waiting.callback(result)

    def _failed(
        self, failure: Failure, batch: Sequence[tuple[Callable[[], Any], Deferred[Any]]]
    ) -> None:
        """There is no thread any more."""
        self._begin()
        for _, waiting in batch:
            waiting.errback(failure)


def _result_of(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except Exception:  # noqa: BLE001 - it is whoever waits for the result that is told
        return Failure()
