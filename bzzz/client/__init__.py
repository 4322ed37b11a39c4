"""What a program asks of a node: to run tasks, and what the cluster can do.

The same names for three kinds of programs. One that waits for each answer::

    from bzzz.client import Client

    client = Client()
    result = client.run(["uname", "-n"], cpus=2, where='"docker" in capabilities')
    print(result.stdout.decode(), result.task.worker_name)

One on asyncio::

    import asyncio
    from bzzz.client.aio import Client

    async def main():
        client = Client()
        task = await client.submit(["make", "-j8"], cpus=8, memory="4GiB")
        async for stream, data in task.output():
            print(stream, data)
        result = await task.wait()

    asyncio.run(main())

One on Twisted, whose methods return Deferreds::

    from twisted.internet.task import react
    from bzzz.client.tx import Client

    def main(reactor):
        running = Client(reactor).run(["true"], check=True)
        return running.addCallback(lambda result: print(result.task.worker_name))

    react(main)

Layers, each of which knows those below it alone:

============= ======================================================================================
plain, aio,   the network, and the names
tx
core          pure: what can be asked
conversation  pure: a question and its answer, over whatever carries bytes
idle          pure: the connections that wait for the next question
lines, http   pure: bytes in, lines and parts of a body out
============= ======================================================================================

Nothing of Twisted or asyncio is loaded but by the module that is for it.
"""

from __future__ import annotations

from bzzz.client.errors import ClientError, NoNode, NotAllowed, Refused, TaskFailed
from bzzz.client.plain import Client, Task
from bzzz.client.schema import (
    AttemptInfo,
    Availability,
    CapabilityDocument,
    MemberInfo,
    NodeDocument,
    NodeResult,
    NodeVerdict,
    Result,
    Status,
    TaskInfo,
    TaskList,
    UnfitInfo,
)
from bzzz.client.wanted import Options

__all__ = [
    "Client",
    "Task",
    "Options",
    "Result",
    "TaskInfo",
    "TaskList",
    "AttemptInfo",
    "NodeResult",
    "NodeVerdict",
    "UnfitInfo",
    "Status",
    "MemberInfo",
    "NodeDocument",
    "CapabilityDocument",
    "Availability",
    "ClientError",
    "NoNode",
    "NotAllowed",
    "Refused",
    "TaskFailed",
]
