"""Work that nobody waits for, and whose failure must still be seen."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

__all__ = ["after", "in_background"]


def in_background(
    work: Coroutine[Deferred[Any], Any, Any] | Deferred[Any], what: str, log: Logger
) -> Deferred[None]:
    """Start ``work``, and log what goes wrong in it with a traceback under the words ``what``.

    :return: fires with None when the work has ended, however it ended. Cancelling it cancels the
        work, which is no failure.
    """
    deferred = work if isinstance(work, Deferred) else Deferred.fromCoroutine(work)
    return deferred.addCallbacks(_ended, _failed, errbackArgs=(what, log))


def _ended(_: object) -> None:
    """What it has found is of no interest."""


def _failed(failure: Failure, what: str, log: Logger) -> None:
    if failure.check(CancelledError) is None:
        log.failure("{what} failed", failure, what=what)


def after(deferred: Deferred[None]) -> Deferred[None]:
    """Fires when ``deferred`` does, without taking its result."""
    waiting: Deferred[None] = Deferred()

    def fired(result: Any) -> Any:
        waiting.callback(None)
        return result

    deferred.addBoth(fired)
    return waiting
