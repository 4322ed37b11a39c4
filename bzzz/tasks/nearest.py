"""Which replicas hear at once of what becomes of a task: a majority, which is all that it takes.

The others hear of it a moment later, of many tasks in one message, and of a short task only how it
ended. docs/tasks.rst, "The register" and "Leases".
"""

from __future__ import annotations

from collections.abc import Sequence

from bzzz.identity.peer_id import PeerID
from bzzz.tasks.proposer import majority

__all__ = ["nearest"]


def nearest(replicas: Sequence[PeerID], proposer: PeerID, worker: PeerID | None) -> set[PeerID]:
    """A majority of the replicas: who changes the record and who runs the task, where they are
    among them, and the first of the others.

    Both reckon it by themselves: whom the proposer has not asked to keep the record cannot grant
    the worker a lease.
    """
    most = majority(len(replicas))
    if most == len(replicas):
        return set(replicas)
    near = {each for each in replicas if each in (proposer, worker)}
    for each in replicas:
        if len(near) >= most:
            break
        near.add(each)
    return near
