"""The client on asyncio."""

from __future__ import annotations

import asyncio
import gc
import warnings
from collections.abc import AsyncGenerator
from typing import Any

from bzzz.client.aio import Client
from tests.client import contract
from tests.client.contract import Scenario
from tests.client.fake_node import ID, NEXT, chunks, line, stay, whole


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

    def test_loops(self) -> None:
        """A connection that waits outlives its loop, serves the next one, and is closed with the
        client, without a warning."""
        status = whole({"name": "walnut", "peer_id": "x"}, keep=True)
        node = self.node([status, NEXT, status, stay])
        client = Client(self.runtime_dir)
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            for _ in range(2):
                asyncio.run(client.status(), debug=True)
            self.assertEqual((len(node.asked), node.left.is_set()), (2, False))
            del client
            gc.collect()
        node.close()
        self.assertTrue(node.left.is_set())
        self.assertEqual([str(each.message) for each in warned], [])

    def test_context(self) -> None:
        """A client can be had for a while."""
        node = self.node([whole({"name": "walnut", "peer_id": "x"}, keep=True), stay])

        async def main() -> None:
            async with Client(self.runtime_dir) as client:
                await client.status()
            await self.hung_up(node)

        asyncio.run(main())

    def test_at_once(self) -> None:
        """One client asks several things at a time."""
        answers = [chunks(line(event="id", task=ID), line(event="kept", replicas=[]))]
        node = self.node(*[answers] * 5)

        async def scenario(client: Any) -> None:
            tasks = await asyncio.gather(*(client.submit(["make"]) for _ in range(5)))
            self.assertEqual({each.id for each in tasks}, {ID})

        self.play(scenario)
        self.assertEqual(len(node.asked), 5)
