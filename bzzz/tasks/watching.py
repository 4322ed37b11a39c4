"""Who wants to know of newer records, of all or of one.

Enters: records, as this node learns them. Leaves: calls of those who watch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

__all__ = ["Watching"]

Watcher = TypeVar("Watcher", bound=Callable[..., Any])


class Watching(Generic[Watcher]):
    """Who watches one kind of record."""

    def __init__(self) -> None:
        self._all: list[Watcher] = []
        self._of: dict[str, list[Watcher]] = {}

    def __len__(self) -> int:
        """How many are watched by somebody."""
        return len(self._of)

    def add(self, watcher: Watcher) -> None:
        """Tell it of all."""
        self._all.append(watcher)

    def watch(self, task: str, watcher: Watcher) -> Callable[[], None]:
        """Tell it of one, until what is returned is called."""
        self._of.setdefault(task, []).append(watcher)

        def end() -> None:
            watchers = self._of.get(task, [])
            if watcher in watchers:
                watchers.remove(watcher)
            if not watchers:
                self._of.pop(task, None)

        return end

    def tell(self, task: str, *news: object) -> None:
        """There is news of it. Who watches may end that meanwhile."""
        for watcher in [*self._of.get(task, ()), *self._all]:
            watcher(*news)
