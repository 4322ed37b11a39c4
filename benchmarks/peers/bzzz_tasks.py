"""``twistd`` with an executor that does nothing: what tasks cost without a process for each.

python -m benchmarks.peers.bzzz_tasks --nodaemon bzzz ...
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.scripts.twistd import run as run_twistd
from zope.interface import implementer

from bzzz import node_tasks
from bzzz.tasks.executors.interfaces import Ending, IExecutor, Over, Run

__all__ = ["NoExecutor", "main"]


@implementer(IExecutor)
class NoExecutor:
    """Says at once that each command has ended well."""

    name = "none"

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    def start(self, run: Run, until: float, over: Callable[[Over], object]) -> None:
        self._reactor.callLater(0, over, Over(Ending.EXITED, 0))

    def extend(self, key: str, until: float) -> None:
        """Nothing runs."""

    def stop(self, key: str, grace: float) -> None:
        """Nothing runs."""

    def close(self) -> Deferred[None]:
        return succeed(None)


def main() -> None:
    """Run twistd."""
    setattr(node_tasks, "ProcessExecutor", NoExecutor)  # noqa: B010 - a class in a class's place
    sys.argv[0] = "twistd"
    run_twistd()


if __name__ == "__main__":
    main()
