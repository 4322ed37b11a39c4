"""All that tasks need of the node that they run on, and who may do what with them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from random import Random
from typing import Protocol as Shape

from twisted.internet.interfaces import IReactorTime

from bzzz.identity.keys import PrivateKey
from bzzz.identity.peer_id import PeerID
from bzzz.tasks.executors.interfaces import IExecutor
from bzzz.tasks.holding import HeldFiles
from bzzz.tasks.interfaces import Peers, Workspace
from bzzz.tasks.register_store import RegisterStore
from bzzz.tasks.worker import Admit

__all__ = ["TaskWorld", "Trusted"]


class Trusted(Shape):
    """Who may do what with tasks."""

    def members(self) -> Collection[PeerID]:
        """All members of the cluster with this node; this node alone where it is in none."""

    def may_submit(self, peer: PeerID) -> bool:
        """Whether tasks that this member has signed are run, and what it wants done with any."""

    def may_run(self, peer: PeerID) -> bool:
        """Whether this member runs tasks."""


@dataclass(frozen=True)
class TaskWorld:
    """What tasks need of a node.

    :ivar clock: whose time goes on while the machine sleeps.
    :ivar wall_time: seconds since the epoch.
    :ivar rng: for what need not be secret.
    :ivar random_bytes: fit for IDs that nobody else has.
    :ivar peers: the other members; this node itself need not be among them.
    :ivar admit: see :data:`bzzz.tasks.worker.Admit`.
    :ivar give_back: see :class:`bzzz.tasks.worker.Worker`.
    :ivar run_over: likewise.
    :ivar disk_broken: see :class:`bzzz.tasks.replica.Replica`.
    :ivar files: the cache; None where there is none, and tasks have no files.
    :ivar name_of: what the member with a peer ID is called.
    """

    clock: IReactorTime
    wall_time: Callable[[], float]
    rng: Random
    random_bytes: Callable[[int], bytes]
    key: PrivateKey
    store: RegisterStore
    peers: Peers
    trusted: Trusted
    executor: IExecutor
    workspace: Workspace
    admit: Admit
    give_back: Callable[[str], object]
    run_over: Callable[[str, int], object] = lambda task, token: None
    files: HeldFiles | None = None
    name_of: Callable[[str], str] = lambda peer: peer[-6:]
    disk_broken: Callable[[str], object] = lambda reason: None
