"""What of a machine is taken by tasks, so that nothing of it is given twice.

Enters: what the machine offers, and what each task needs. Leaves: which graphics processors a task
has, or in a line why there is no room for it. Cores are counted in thousandths, memory in bytes,
graphics processors one by one.

An environment says to a command which graphics processors it may use: ``CUDA_VISIBLE_DEVICES``
(CUDA C++ Programming Guide, "CUDA Environment Variables"), ``NVIDIA_VISIBLE_DEVICES`` (NVIDIA
Container Toolkit, "Specialized Configurations"), ``ROCR_VISIBLE_DEVICES`` and
``HIP_VISIBLE_DEVICES`` (ROCm, "GPU isolation techniques").
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final

from msgspec import Struct

from bzzz.mesh.capability import Gpu, gibibytes
from bzzz.tasks.submission import Submission

__all__ = [
    "Need",
    "Room",
    "Short",
    "Slots",
    "Taken",
    "gpu_environment",
    "too_little",
    "too_much",
    "usable_gpus",
]

# Cores are counted in units of which a thousand are one: sums of floats would drift.
MILLI: Final = 1000


class Need(Struct, frozen=True):
    """What a task takes.

    :ivar cpus: cores.
    :ivar memory: bytes, 0 for none counted.
    :ivar gpus: graphics processors.
    """

    cpus: float = 1.0
    memory: int = 0
    gpus: int = 0

    @classmethod
    def of(cls, submission: Submission) -> Need:
        """What a submission asks for."""
        return cls(submission.cpus, submission.memory, submission.gpus)


class Room(Struct, frozen=True):
    """What is there for tasks: all of a machine's, or what is free of it.

    :ivar cpus: cores.
    :ivar memory: bytes.
    :ivar gpus: graphics processors.
    :ivar tasks: how many more.
    """

    cpus: float = 0.0
    memory: int = 0
    gpus: int = 0
    tasks: int = 0

    def lacks(self, need: Need) -> tuple[str, ...]:
        """Which of ``tasks``, ``cpus``, ``memory`` and ``gpus`` it has too little of."""
        lacking = []
        if self.tasks < 1:
            lacking.append("tasks")
        if _milli(self.cpus) < _milli(need.cpus):
            lacking.append("cpus")
        if self.memory < need.memory:
            lacking.append("memory")
        if self.gpus < need.gpus:
            lacking.append("gpus")
        return tuple(lacking)

    def has(self, need: Need) -> bool:
        """Whether it is enough."""
        return (
            self.tasks >= 1
            and self.gpus >= need.gpus
            and self.memory >= need.memory
            # As for thousandths, which both are; this is looked at very often.
            and self.cpus > need.cpus - 1e-9
        )

    def without(self, need: Need) -> Room:
        """What is left beside a need; nothing of what there is too little of."""
        return Room(
            max(0, _milli(self.cpus) - _milli(need.cpus)) / MILLI,
            max(0, self.memory - need.memory),
            max(0, self.gpus - need.gpus),
            max(0, self.tasks - 1),
        )

    def taken_of(self, everything: Room) -> float:
        """The greatest part that is taken of any of them, from 0 to 1, where this is free."""
        if self.tasks < 1:
            return 1.0
        pairs = (
            (self.cpus, everything.cpus),
            (self.memory, everything.memory),
            (self.gpus, everything.gpus),
            (self.tasks, everything.tasks),
        )
        return max((1 - free / offered for free, offered in pairs if offered), default=1.0)

    def more_than(self, other: Room) -> bool:
        """Whether there is more of any of them."""
        return (
            self.tasks > other.tasks
            or self.cpus > other.cpus
            or self.memory > other.memory
            or self.gpus > other.gpus
        )


class Taken(Struct, frozen=True):
    """A task has its slots.

    :ivar gpus: indices of its graphics processors, ascending.
    """

    gpus: tuple[int, ...] = ()


class Short(Struct, frozen=True):
    """There is no room.

    :ivar reason: for people.
    :ivar never: whether there would be none with nothing else running either.
    """

    reason: str
    never: bool = False


class Slots:
    """What is taken, and by whom.

    :param cpus: cores that are offered.
    :param memory: bytes.
    :param gpus: indices of graphics processors, in the order in which they are given out.
    :param max_tasks: at one time.
    """

    def __init__(self, cpus: float, memory: int, gpus: Iterable[int], max_tasks: int) -> None:
        self._taken: dict[str, tuple[Need, Taken]] = {}
        self._free_gpus: list[int] = []
        self._cpus = 0
        self._memory = 0
        self._kept: tuple[str, Need] | None = None
        self.offer(cpus, memory, gpus, max_tasks)

    def __len__(self) -> int:
        return len(self._taken)

    @property
    def offered(self) -> Room:
        """All that there is."""
        return self._all

    @property
    def free(self) -> Room:
        """What is not taken."""
        return Room(
            max(0, _milli(self._all.cpus) - self._cpus) / MILLI,
            max(0, self._all.memory - self._memory),
            len(self._free_gpus),
            max(0, self._all.tasks - len(self._taken)),
        )

    @property
    def part(self) -> float:
        """The greatest part that is taken of any of them, from 0 to 1."""
        return self.free.taken_of(self._all)

    def take(self, key: str, need: Need) -> Taken | Short:
        """Take what a task needs. Who has it already keeps it.

        :param key: names the task's attempt.
        :raises ValueError: it has something else already.
        """
        there = self._taken.get(key)
        if there is not None:
            if there[0] != need:
                raise ValueError(f"{key} has other slots already")
            return there[1]
        lacking = self._all.lacks(need)
        if lacking:
            return Short(too_much(lacking[0], need, self._all), never=True)
        free = self.free
        lacking = free.lacks(need)
        if lacking:
            return Short(too_little(lacking[0], need, free, self._all))
        if self._kept is not None and self._kept[0] != key:
            # Who waits for a part of the machine does not hold up what leaves that part alone.
            lacking = free.without(self._kept[1]).lacks(need)
            if lacking:
                return Short(
                    f"what is free of its {_NAMES[lacking[0]]} is kept for {self._kept[0]}"
                )
        taken = Taken(tuple(sorted(self._free_gpus[: need.gpus])))
        del self._free_gpus[: need.gpus]
        self._cpus += _milli(need.cpus)
        self._memory += need.memory
        self._taken[key] = (need, taken)
        if self._kept is not None and self._kept[0] == key:
            self._kept = None
        return taken

    def give_back(self, key: str) -> bool:
        """What a task had is free; whether it had anything."""
        there = self._taken.pop(key, None)
        if there is None:
            return False
        need, taken = there
        self._cpus -= _milli(need.cpus)
        self._memory -= need.memory
        if taken.gpus:
            self._find_free_gpus()
        return True

    def keep_free(self, key: str, need: Need) -> bool:
        """Keep free what one task needs and what becomes free of it, until it takes it.

        Whether it is kept: the machine must have as much, and one task at a time has this.
        """
        if self._all.lacks(need) or (self._kept is not None and self._kept[0] != key):
            return False
        self._kept = (key, need)
        return True

    def let_go(self, key: str) -> None:
        """Nothing needs to be kept free for this one any more."""
        if self._kept is not None and self._kept[0] == key:
            self._kept = None

    def offer(self, cpus: float, memory: int, gpus: Iterable[int], max_tasks: int) -> None:
        """Offer so much from now on; see the class. Those that have slots keep them."""
        offered = tuple(gpus)
        if len(set(offered)) != len(offered):
            raise ValueError("a graphics processor is offered twice")
        self._gpus = offered
        self._all = Room(max(0.0, cpus), max(0, memory), len(self._gpus), max(0, max_tasks))
        self._find_free_gpus()
        if self._kept is not None and self._all.lacks(self._kept[1]):
            self._kept = None

    def _find_free_gpus(self) -> None:
        taken = {index for _, slots in self._taken.values() for index in slots.gpus}
        self._free_gpus = [index for index in self._gpus if index not in taken]


def usable_gpus(gpus: Sequence[Gpu]) -> tuple[int, ...]:
    """Indices of those that tasks can be given, in the order in which they are.

    Graphics built into a processor, without memory of its own, is none. Those with the most memory
    are given first: what a task asked of a machine's graphics processors holds for the first then.
    """
    usable = [index for index, gpu in enumerate(gpus) if gpu.vendor == "nvidia" or gpu.memory_bytes]
    return tuple(sorted(usable, key=lambda index: (-gpus[index].memory_bytes, index)))


def gpu_environment(gpus: Sequence[Gpu], taken: Iterable[int]) -> dict[str, str]:
    """The variables by which a command uses those graphics processors alone.

    :param gpus: all of the machine, in the order of its document.
    :param taken: indices among them; none of them is seen where this is empty.
    """
    wanted = set(taken)
    if not wanted:
        return dict(_NO_GPUS)
    nvidia = _indices(gpus, "nvidia", wanted)
    amd = _indices(gpus, "amd", wanted)
    return {
        # Without it CUDA counts from the fastest.
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": _joined(nvidia),
        "NVIDIA_VISIBLE_DEVICES": _joined(nvidia),
        "ROCR_VISIBLE_DEVICES": _joined(amd),
        # HIP counts among those that the runtime below it has left.
        "HIP_VISIBLE_DEVICES": _joined(range(len(amd))),
    }


# For a command that has none, as most.
_NO_GPUS: Final = {
    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    "CUDA_VISIBLE_DEVICES": "",
    "NVIDIA_VISIBLE_DEVICES": "",
    "ROCR_VISIBLE_DEVICES": "",
    "HIP_VISIBLE_DEVICES": "",
}


def _indices(gpus: Sequence[Gpu], vendor: str, wanted: set[int]) -> list[int]:
    """Places of the wanted ones among those of their vendor, as its runtime counts them."""
    of_vendor = [index for index, gpu in enumerate(gpus) if gpu.vendor == vendor]
    return [place for place, index in enumerate(of_vendor) if index in wanted]


def _joined(indices: Iterable[int]) -> str:
    return ",".join(str(index) for index in indices)


def _milli(cpus: float) -> int:
    # Up, so that a need of less than a thousandth is not nothing; 0.1 is 100 all the same.
    return math.ceil(cpus * MILLI - 1e-6)


_NAMES: Final = {
    "tasks": "tasks",
    "cpus": "cores",
    "memory": "memory",
    "gpus": "graphics processors",
}


def too_much(what: str, need: Need, offered: Room) -> str:
    """That a machine has less in all than is needed, for people.

    :param what: one of those of :meth:`Room.lacks`.
    """
    if what == "tasks":
        return "it is set to run no tasks"
    return f"needs {_amount(what, need)}, and it offers {_amount(what, offered)} to tasks"


def too_little(what: str, need: Need, free: Room, offered: Room) -> str:
    """That less is free than is needed, for people."""
    if what == "tasks":
        return f"it runs {offered.tasks} tasks, as many as it may"
    return (
        f"needs {_amount(what, need)}, and {_amount(what, free)} of {_amount(what, offered)}"
        " are free"
    )


def _amount(what: str, amounts: Need | Room) -> str:
    if what == "cpus":
        return f"{amounts.cpus:g} core{'' if amounts.cpus == 1 else 's'}"
    if what == "memory":
        if amounts.memory >= 1 << 29 or not amounts.memory:
            return gibibytes(amounts.memory)
        return f"{amounts.memory / (1 << 20):.3g} MiB"
    return f"{amounts.gpus} GPU{'' if amounts.gpus == 1 else 's'}"
