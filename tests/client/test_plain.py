"""The client that blocks."""

from __future__ import annotations

import time
from collections.abc import Coroutine, Generator
from typing import Any

from bzzz.client import Client, Task
from tests.client import contract
from tests.client.contract import Scenario


class Awaited:
    """Gives what blocks the shape of what is awaited."""

    def __init__(self, real: Any) -> None:
        self._real = real

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._real, name)
        if not callable(found):
            return found
        if name == "output":
            return lambda *args, **options: Parts(found(*args, **options))

        async def call(*args: Any, **options: Any) -> Any:
            result = found(*args, **options)
            return Awaited(result) if isinstance(result, Task) else result

        return call


class Parts:
    """Output likewise."""

    def __init__(self, real: Generator[Any, None, None]) -> None:
        self.real = real

    def __aiter__(self) -> Parts:
        return self

    async def __anext__(self) -> Any:
        try:
            return next(self.real)
        except StopIteration:
            raise StopAsyncIteration from None


class PlainTests(contract.ContractCase):
    """The contract."""

    def play(self, scenario: Scenario) -> None:
        played: Any = scenario(Awaited(Client(self.runtime_dir)))
        finish(played)

    async def pause(self, seconds: float) -> None:
        time.sleep(seconds)

    async def close(self, parts: Parts) -> None:
        parts.real.close()


def finish(work: Coroutine[Any, Any, None]) -> None:
    """Run what never suspends."""
    try:
        work.send(None)
    except StopIteration:
        return
    raise AssertionError("it was suspended")
