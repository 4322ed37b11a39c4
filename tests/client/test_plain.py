"""The client that blocks."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Coroutine, Generator
from typing import Any

from bzzz.client import Client, Task
from tests.client import contract
from tests.client.contract import NODE, Scenario
from tests.client.fake_node import NEXT, FakeNode, stay, whole


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
    """The contract, a while, and threads."""

    def play(self, scenario: Scenario) -> None:
        played: Any = scenario(Awaited(Client(self.runtime_dir)))
        finish(played)

    async def pause(self, seconds: float) -> None:
        time.sleep(seconds)

    async def close(self, parts: Parts) -> None:
        parts.real.close()

    def test_context(self) -> None:
        """A client can be had for a while."""
        node = self.node([whole(NODE, keep=True), stay])
        with Client(self.runtime_dir) as client:
            client.status()
            self.assertFalse(node.left.is_set())
        node.close()
        self.assertTrue(node.left.is_set())

    def test_threads(self) -> None:
        """No connection is used by two threads at once: each has the answer to its question."""
        asking = threading.Barrier(2)

        def later(connection: socket.socket) -> bool:
            asking.wait(10)
            return False

        node = self.node(
            [whole(NODE, keep=True), NEXT, later, whole({**NODE, "name": "first"})],
        )
        second = FakeNode(self.runtime_dir / "second.sock")
        self.addCleanup(second.close)
        client = Client(self.runtime_dir)
        client.status()
        names: list[str] = []
        thread = threading.Thread(target=lambda: names.append(client.status().name))
        thread.start()
        while len(node.asked) < 2:
            time.sleep(0.01)
        # The one that waited is under way, and so this one connects.
        self.path.unlink()
        (self.runtime_dir / "second.sock").rename(self.path)
        second.serve([whole({**NODE, "name": "second"})])
        names.append(client.status().name)
        asking.wait(10)
        thread.join(10)
        self.assertEqual(names, ["second", "first"])


def finish(work: Coroutine[Any, Any, None]) -> None:
    """Run what never suspends."""
    try:
        work.send(None)
    except StopIteration:
        return
    raise AssertionError("it was suspended")
