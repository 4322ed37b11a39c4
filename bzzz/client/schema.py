"""What a node answers, as typed values.

Enters: JSON of the control API. Leaves: frozen Structs, with the fields of :mod:`bzzz.web.schema`,
:mod:`bzzz.web.cluster_schema` and :mod:`bzzz.web.task_schema`. Those are the contract; importing
them loads Twisted and the node's keys, which a program that asks a node has no use for. Fields that
this version does not know are ignored, and those that a node does not tell have a default: either
may be of another version.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from bzzz.client.errors import TaskFailed
from bzzz.mesh.capability import CapabilityDocument
from bzzz.web.cluster_schema import MemberInfo

if TYPE_CHECKING:
    from bzzz.client.errors import ClientError

__all__ = [
    "AttemptInfo",
    "Availability",
    "CapabilityDocument",
    "MemberInfo",
    "NodeDocument",
    "NodeResult",
    "NodeVerdict",
    "Output",
    "Result",
    "Status",
    "Stream",
    "TaskInfo",
    "TaskList",
    "UnfitInfo",
]

Stream = Literal["stdout", "stderr"]

#: A part of what a task prints: where, and what.
Output = tuple[Stream, bytes]

# Of a task that has not ended.
OPEN = frozenset({"waiting", "running"})


class AttemptInfo(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt that is over.

    :ivar end: ``done``, ``failed``, ``timed_out``, ``cancelled``, ``lost`` and others.
    """

    token: int
    worker: str
    worker_name: str = ""
    end: str = ""
    exit_status: int | None = None
    reason: str = ""


class TaskInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A task.

    :ivar state: ``waiting`` or ``running``; when it has ended ``done``, ``failed``, ``timed_out``,
        ``cancelled`` or ``lost``.
    :ivar cancel: whether a cancel is wanted.
    :ivar why: what it waits for, or how it ended.
    :ivar submitted: when, RFC 3339, by the clock of its origin.
    :ivar changed: when its record was changed last.
    :ivar worker: peer ID of where it runs, or of whose result it has.
    :ivar token: its greatest fencing token, which is the number of its attempts.
    :ivar attempts: the last of those that are over.
    :ivar replicas: peer IDs of the nodes that keep it.
    :ivar stdout_size: bytes; None where they are not known.
    """

    id: str
    state: str
    name: str = ""
    command: tuple[str, ...] = ()
    cancel: bool = False
    exit_status: int | None = None
    why: str = ""
    submitted: str = ""
    changed: str = ""
    origin: str = ""
    origin_name: str = ""
    submitter: str = ""
    worker: str = ""
    worker_name: str = ""
    token: int = 0
    attempts: tuple[AttemptInfo, ...] = ()
    replicas: tuple[str, ...] = ()
    replica_names: tuple[str, ...] = ()
    where: str = ""
    cpus: float = 1.0
    memory: int = 0
    gpus: int = 0
    timeout: float = 0.0
    retries: int = 0
    restart: bool = True
    priority: int = 0
    profile: str = "default"
    workflow: str = ""
    step: str = ""
    stdout_size: int | None = None
    stderr_size: int | None = None
    outputs: str = ""
    outputs_size: int = 0

    @property
    def has_ended(self) -> bool:
        """Whether it has, so that only a retry changes it."""
        return self.state not in OPEN


class TaskList(msgspec.Struct, frozen=True, kw_only=True):
    """Tasks of the cluster, the newest first.

    :ivar more: whether there are more than were asked for.
    :ivar asked: how many other members were.
    :ivar answered: how many of them answered; the tasks of others may be missing.
    :ivar unreadable: IDs of tasks that are kept, and whose records cannot be read.
    """

    tasks: tuple[TaskInfo, ...]
    more: bool = False
    asked: int = 0
    answered: int = 0
    unreadable: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[TaskInfo]:
        return iter(self.tasks)

    def __len__(self) -> int:
        return len(self.tasks)


class UnfitInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What a node lacks for a task.

    :ivar never: whether it would lack it with nothing else to do.
    """

    code: str
    text: str
    never: bool = False


class NodeVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a task could run on a node now, and if not, why."""

    peer_id: str
    name: str
    fits: bool
    unfit: tuple[UnfitInfo, ...] = ()

    @property
    def could(self) -> bool:
        """Whether it could run there, now or later."""
        return not any(each.never for each in self.unfit)


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """How a task ended.

    :ivar exit_status: of its command; None where it has none, such as of a task that was lost.
    :ivar stdout: what the attempt printed whose end it is, up to ``max_output`` bytes.
    :ivar stderr: likewise.
    :ivar truncated: whether it printed more than that.
    """

    exit_status: int | None
    stdout: bytes
    stderr: bytes
    task: TaskInfo
    truncated: bool = False

    @property
    def succeeded(self) -> bool:
        """Whether it ended with exit status 0."""
        return self.task.state == "done"

    def check(self) -> Result:
        """This result, if the task succeeded.

        :raises TaskFailed: it did not.
        """
        if self.succeeded:
            return self
        task = self.task
        match task.state:
            case "timed_out":
                said = f"took longer than {task.timeout:g} s"
            case "failed" if self.exit_status is not None:
                said = f"ended with exit status {self.exit_status}"
            case "failed":
                said = "failed"
            case "cancelled":
                said = "was cancelled"
            case _:
                said = f"was {task.state}"
        where = f" on {task.worker_name}" if task.worker_name else ""
        why = f": {task.why}" if task.why else ""
        raise TaskFailed(f"task {task.id} {said}{where}{why}", self)


class NodeResult(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a command on one of several nodes.

    :ivar result: None where there is none.
    :ivar error: why there is none.
    """

    name: str
    peer_id: str
    result: Result | None
    error: ClientError | None = None


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """The node that is asked; the fields are those of ``bzzz status --json``."""

    name: str
    peer_id: str
    short_id: str = ""
    version: str = ""
    state: str = ""
    pid: int = 0
    started: str = ""
    uptime_seconds: float = 0.0
    listen_addresses: tuple[str, ...] = ()
    peers_connected: int = 0
    peers_known: int = 0
    max_links: int = 0
    mdns: str = ""
    available_for_work: bool | None = None
    control_socket: str | None = None
    state_dir: str | None = None
    reactor_lag_seconds: float | None = None
    cluster: str | None = None
    role: str | None = None
    guest_links: int = 0
    guest_peers: int = 0
    executor: str | None = None
    executor_reason: str | None = None
    unit: Mapping[str, Any] | None = None
    draining: Mapping[str, Any] | None = None


class Availability(msgspec.Struct, frozen=True, kw_only=True):
    """How busy a node said that it is.

    :ivar available_for_work: whether it would take one more task.
    :ivar status: ``ready``, ``working``, ``busy`` or ``draining``.
    :ivar timestamp: when it said so.
    :ivar room: what is free for tasks; None of one that does not tell.
    """

    node_id: str
    available_for_work: bool = False
    current_tasks: int = 0
    max_tasks: int = 0
    status: str = ""
    last_activity: str | None = None
    timestamp: str | None = None
    room: Any = None


class NodeDocument(msgspec.Struct, frozen=True, kw_only=True):
    """What a node says that it can do, and how busy it is.

    :ivar is_self: whether it is the node that is asked.
    :ivar state: as in ``bzzz peers``; None of the node that is asked.
    :ivar summary: what it can do, in a line for people.
    :ivar capabilities: None until they were heard.
    :ivar availability: likewise.
    """

    peer_id: str
    short_id: str = ""
    name: str | None = None
    is_self: bool = msgspec.field(name="self", default=False)
    state: str | None = None
    received: str | None = None
    summary: str | None = None
    capabilities: CapabilityDocument | None = None
    availability: Availability | None = None
