"""``twistd`` with an executor that does nothing: what tasks cost without a process for each.

For measurements alone: no configuration has it. Nothing is run, so no directory is made either.

python -m benchmarks.peers.bzzz_tasks --nodaemon bzzz ...
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.scripts.twistd import run as run_twistd
from zope.interface import implementer

from bzzz import node_runs, node_tasks
from bzzz.tasks.executors.interfaces import Ending, IExecutor, Over, Run
from bzzz.tasks.record import Produced
from bzzz.tasks.submission import Submission

__all__ = ["NoExecutor", "NoFiles", "main"]


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


class NoFiles:
    """A workspace without files, for what is not run."""

    def __init__(self, directory: Path, *others: object) -> None:
        self._directory = directory
        self.share: object = None

    def start(self) -> Deferred[None]:
        return succeed(None)

    def directory_of(self, task: str, token: int) -> Path:
        """Where there is nothing."""
        return self._directory / f"{task}.{token}"

    def prepare(self, submission: Submission, token: int, env: dict[str, str]) -> Deferred[Run]:
        return succeed(
            Run(
                key=f"{submission.task}.{token}",
                argv=submission.command,
                env=env,
                directory="/",
                stdout="",
                stderr="",
            )
        )

    def collect(self, submission: Submission, token: int) -> Deferred[Produced]:
        return succeed(Produced(b"", b"", 0, 0))

    def clean(self, task: str, token: int) -> None:
        """Nothing is left."""


def main() -> None:
    """Run twistd."""
    # It is what the configuration has the node take for the process executor.
    setattr(node_runs, "ProcessExecutor", NoExecutor)  # noqa: B010 - a class in a class's place
    setattr(node_tasks, "AttemptFiles", NoFiles)  # noqa: B010 - likewise
    sys.argv[0] = "twistd"
    run_twistd()


if __name__ == "__main__":
    main()
