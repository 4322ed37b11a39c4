"""The end of the demonstration: the three nodes become a cluster, and run a task each.

Enters: what asks each node. Leaves: lines for people, as it goes on.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator, Sequence

from bzzz.cli.client import NodeClient

__all__ = ["NotRun", "run_tasks"]

# Seconds until the three are one cluster, and for each task.
PATIENCE = 30.0

# Seconds between two looks.
AGAIN = 0.1

COMMAND = ("sh", "-c", 'echo "process $$ of task $BZZZ_TASK"')


class NotRun(Exception):
    """A task did not run; says why."""


def run_tasks(clients: Sequence[tuple[str, NodeClient]]) -> Iterator[str]:
    """Make the nodes a cluster, and run a task on each, submitted at another one.

    :param clients: names of the nodes, and what asks them.
    :raises NotRun: it does not work.
    :raises NoNode: a node does not answer.
    :raises NodeError: a node refuses.
    """
    _, first = clients[0]
    first.post("cluster", {"name": "demo"})
    token = first.post("tokens", {"uses": len(clients) - 1})["token"]
    addresses = first.get("id")["addresses"]
    for name, client in clients[1:]:
        for line in client.stream("join", {"code": token, "name": name, "at": addresses}):
            if line.get("event") == "joined":
                yield f"{name} has joined the cluster demo"
    for place, (name, _) in enumerate(clients):
        submitted_at, client = clients[place - 1]
        _until_known(client, name)
        output = _run(client, name)
        yield f"{submitted_at} had {name} run a task: {output}"


def _until_known(client: NodeClient, name: str) -> None:
    """Wait until a node knows what another one can do."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        verdicts = client.post("fitting", {"command": COMMAND})["nodes"]
        if any(node["name"] == name and node["fits"] for node in verdicts):
            return
        time.sleep(AGAIN)
    raise NotRun(f"it is not known after {PATIENCE:.0f} s what {name} can do")


def _run(client: NodeClient, name: str) -> str:
    """What a task on a node has printed."""
    output = b""
    for line in client.stream("tasks", {"command": COMMAND, "on": name}):
        match line:
            case {"event": "stdout", "data": str(data)}:
                output += base64.b64decode(data)
            case {"event": "ended", "task": {"state": "done"}}:
                return output.decode("utf-8", "replace").strip()
            case {"event": "ended", "task": dict(task)}:
                raise NotRun(f"the task on {name} is {task['state']}: {task['why']}")
    raise NotRun(f"the task on {name} has not ended")
