"""The client on asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from bzzz.client.aio import Client
from tests.client import contract
from tests.client.contract import Scenario
from tests.client.fake_node import ID, chunks, line, stay


class AsyncioTests(contract.ContractCase):
    """The contract, and cancellation."""

    def play(self, scenario: Scenario) -> None:
        async def main() -> None:
            await scenario(Client(self.runtime_dir))

        asyncio.run(main())

    async def pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def close(self, parts: AsyncGenerator[Any, None]) -> None:
        await parts.aclose()

    def test_cancelled(self) -> None:
        """A cancelled run hangs up."""
        begun = [chunks(line(event="id", task=ID), end=False)]
        node = self.node([*begun, stay])

        async def scenario(client: Any) -> None:
            running = asyncio.ensure_future(client.run(["make"]))
            while not node.asked:
                await self.pause(0.01)
            await self.pause(0.05)
            running.cancel()
            with self.assertRaises(asyncio.CancelledError):
                await running
            await self.hung_up(node)

        self.play(scenario)

    def test_at_once(self) -> None:
        """One client asks several things at a time."""
        answers = [chunks(line(event="id", task=ID), line(event="kept", replicas=[]))]
        node = self.node(*[answers] * 5)

        async def scenario(client: Any) -> None:
            tasks = await asyncio.gather(*(client.submit(["make"]) for _ in range(5)))
            self.assertEqual({each.id for each in tasks}, {ID})

        self.play(scenario)
        self.assertEqual(len(node.asked), 5)
