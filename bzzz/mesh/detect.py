"""What this machine has: cores, memory, disk, GPUs, container runtimes, Ollama's models.

Enters: files under ``/proc`` and ``/sys``, the output of ``nvidia-smi``, the answer of a local
Ollama. Leaves: :class:`Detected`. A source that fails gives nothing but a debug line, a source that
hangs is left behind after :data:`TIME_LIMIT`, and no file is read in the reactor's thread.

Sources: proc(5); the kernel's Documentation/admin-guide/cgroup-v2.rst ("CPU Interface Files",
"Memory Interface Files") and cgroup-v1/memory.rst, scheduler/sched-bwc.rst; nvidia-smi(1).
"""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, DeferredList, fail
from twisted.internet.threads import deferToThread
from twisted.logger import Logger
from twisted.python.failure import Failure

from bzzz.mesh.capability import MAX_GPUS, Gpu
from bzzz.mesh.gpus import Adapters, Nvidia, adapters
from bzzz.net.interfaces import Clock

__all__ = [
    "Detected",
    "Detector",
    "Files",
    "cpu_cores",
    "memory_bytes",
    "operating_system",
]

T = TypeVar("T")

# Seconds for the whole detection. What has not answered by then is left out until the next one.
TIME_LIMIT = 5.0

# Container runtimes that are looked for in PATH.
RUNTIMES = ("docker", "podman", "containerd", "nerdctl", "apptainer")

# cgroup v1 says "no limit" with the greatest multiple of a page in an int64.
NO_LIMIT = 1 << 60


@dataclass(frozen=True)
class Detected:
    """What was found; 0 and empty where nothing was.

    :ivar models: of the local Ollama; None where none answered.
    """

    cpu_cores: int = 0
    memory_bytes: int = 0
    disk_bytes: int = 0
    disk_free_bytes: int = 0
    gpus: tuple[Gpu, ...] = ()
    runtimes: tuple[str, ...] = ()
    models: tuple[str, ...] | None = None
    os: str = ""
    arch: str = ""
    python: str = ""

    @property
    def capabilities(self) -> tuple[str, ...]:
        """The names that follow from what was found, sorted."""
        names = {"python", *self.runtimes}
        if any(gpu.vendor == "nvidia" or gpu.memory_bytes for gpu in self.gpus):
            # Graphics built into a processor, without memory of its own, runs no model.
            names.add("gpu")
        if self.models is not None:
            names.add("ollama")
        return tuple(sorted(names))


class Files:
    """The file system, as far as it is read here; tests have their own."""

    def read_text(self, path: str) -> str:
        """A small file's text. :raises OSError: it cannot be read."""
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(1 << 20)

    def list_dir(self, path: str) -> list[str]:
        """Names in a directory, sorted; none where there is no directory."""
        try:
            return sorted(os.listdir(path))
        except OSError:
            return []

    def disk(self, path: str) -> tuple[int, int]:
        """Bytes of the file system in all, and available. :raises OSError: there is none."""
        found = os.statvfs(path)
        return found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize

    def which(self, name: str) -> str | None:
        """The path of a command."""
        return shutil.which(name)

    def affinity(self) -> int:
        """Cores that this process may run on."""
        return len(os.sched_getaffinity(0))


# -- cores and memory


def cpu_cores(files: Files) -> int:
    """Cores that this process may use, with the quota of its control group; at least 1."""
    quotas = [quota for quota in (*_quotas_v2(files), *_quotas_v1(files)) if quota > 0]
    return max(1, int(min([files.affinity(), *quotas])))


def memory_bytes(files: Files) -> int:
    """Memory of the machine, or of this process's control group where that is less."""
    limits = []
    for line in _read(files, "/proc/meminfo").splitlines():
        if line.startswith("MemTotal:"):
            limits.append(int(line.split()[1]) * 1024)
    for directory in _groups(files, "", "/sys/fs/cgroup"):
        limits.extend(_number(_read(files, f"{directory}/memory.max")))
    for directory in _groups(files, "memory", "/sys/fs/cgroup/memory"):
        limits.extend(_number(_read(files, f"{directory}/memory.limit_in_bytes")))
    return min((limit for limit in limits if 0 < limit < NO_LIMIT), default=0)


def _quotas_v2(files: Files) -> Iterator[float]:
    for directory in _groups(files, "", "/sys/fs/cgroup"):
        words = _read(files, f"{directory}/cpu.max").split()
        if len(words) == 2 and words[0].isdigit() and int(words[1]) > 0:
            yield int(words[0]) / int(words[1])


def _quotas_v1(files: Files) -> Iterator[float]:
    for directory in _groups(files, "cpu", "/sys/fs/cgroup/cpu"):
        quota = _number(_read(files, f"{directory}/cpu.cfs_quota_us"))
        period = _number(_read(files, f"{directory}/cpu.cfs_period_us"))
        # A quota of -1, which is no number here, is none.
        if quota and period and period[0] > 0:
            yield quota[0] / period[0]


def _groups(files: Files, controller: str, mounted: str) -> Iterator[str]:
    """The directory of this process's control group, and those above it, whose limits hold too.

    :param controller: of cgroup v1; empty for v2.
    """
    for line in _read(files, "/proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            group = PurePosixPath(path)
            for directory in (group, *group.parents):
                yield mounted if str(directory) == "/" else f"{mounted}{directory}"


def _read(files: Files, path: str) -> str:
    """The file, or nothing: which of them exist differs from kernel to kernel."""
    try:
        return files.read_text(path)
    except OSError:
        return ""


def _number(text: str) -> list[int]:
    text = text.strip()
    return [int(text)] if text.isdigit() else []


# -- the system


def operating_system(files: Files) -> str:
    """``Debian GNU/Linux 12 (bookworm)``, else the kernel's name and release."""
    for line in _read(files, "/etc/os-release").splitlines():
        key, _, value = line.partition("=")
        if key == "PRETTY_NAME" and value.strip("\"' "):
            return value.strip("\"' ")
    return f"{platform.system()} {platform.release()}"


# -- all of it


class _Facts:
    """What files say that are never slow to read: those of the kernel, and ``/etc``.

    :ivar problems: what failed, and how.
    """

    def __init__(self, files: Files) -> None:
        self.problems: list[tuple[str, Exception]] = []
        self.cores: int = self._of("cores", lambda: cpu_cores(files), 0)
        self.memory: int = self._of("memory", lambda: memory_bytes(files), 0)
        self.system: str = self._of("operating system", lambda: operating_system(files), "")
        self.adapters = self._of("GPUs", lambda: adapters(files), Adapters())

    def _of(self, what: str, source: Callable[[], T], otherwise: T) -> T:
        try:
            return source()
        except Exception as error:  # noqa: BLE001 - one source must not take the others with it
            self.problems.append((what, error))
            return otherwise


class _Once:
    """Runs ``work`` in a thread, and never twice at a time.

    A thread that waits for a dead file server cannot be ended; were another one started for each
    detection, the reactor would run out of them.
    """

    def __init__(
        self, thread: Callable[[Callable[[], Any]], Deferred[Any]], work: Callable[[], Any]
    ) -> None:
        self._thread = thread
        self._work = work
        self._busy = False

    def __call__(self) -> Deferred[Any]:
        if self._busy:
            return fail(Failure(TimeoutError("the attempt before still hangs")))
        self._busy = True
        waiting: Deferred[Any] = Deferred()

        def done(result: Any) -> None:
            self._busy = False
            waiting.callback(result)

        # Whoever waits may give up, by cancelling, which must not make the thread look idle.
        self._thread(self._work).addBoth(done)
        return waiting


class Detector:
    """Detects all that there is, on one machine.

    :param state_dir: its file system is the disk that is told of.
    :param run: the output of a command, within a number of seconds.
    :param models: the models of the local Ollama; fails where none answers.
    :param thread: runs a function elsewhere.
    """

    _log = Logger()

    def __init__(
        self,
        clock: Clock,
        state_dir: str,
        run: Callable[[list[str], float], Deferred[bytes]],
        models: Callable[[], Deferred[tuple[str, ...]]],
        *,
        files: Files | None = None,
        thread: Callable[[Callable[[], Any]], Deferred[Any]] = deferToThread,
    ) -> None:
        files = files or Files()
        self._clock = clock
        self._nvidia = Nvidia(run)
        self._models = models
        self._facts = _Once(thread, lambda: _Facts(files))
        self._disk = _Once(thread, lambda: files.disk(state_dir))
        self._runtimes = _Once(
            thread, lambda: tuple(name for name in RUNTIMES if files.which(name) is not None)
        )

    async def detect(self) -> Detected:
        """Ask every source; ends within :data:`TIME_LIMIT` and never fails."""
        deadline = self._clock.seconds() + TIME_LIMIT

        def ask(what: str, source: Callable[[], Deferred[T]], otherwise: T) -> Deferred[T]:
            return self._bounded(what, source, otherwise, deadline - self._clock.seconds())

        models_asked = ask("Ollama models", lambda: self._optional(self._models()), None)
        facts: _Facts | None = await ask("the kernel's files", self._facts, None)
        shown = Adapters() if facts is None else facts.adapters
        for what, error in facts.problems if facts is not None else ():
            self._log.debug("Nothing detected of {what}: {reason}", what=what, reason=str(error))
        disk, runtimes, gpus, models = await _all(
            ask("disk", self._disk, (0, 0)),
            ask("container runtimes", self._runtimes, ()),
            ask(
                "GPUs",
                lambda: Deferred.fromCoroutine(self._nvidia.detect(shown)),
                (shown.nvidia + shown.others)[:MAX_GPUS],
            ),
            models_asked,
        )
        return Detected(
            cpu_cores=facts.cores if facts is not None else 0,
            memory_bytes=facts.memory if facts is not None else 0,
            disk_bytes=disk[0],
            disk_free_bytes=disk[1],
            gpus=gpus,
            runtimes=runtimes,
            models=models,
            os=facts.system if facts is not None else "",
            arch=platform.machine(),
            python=platform.python_version(),
        )

    @staticmethod
    def _optional(models: Deferred[tuple[str, ...]]) -> Deferred[tuple[str, ...] | None]:
        return models.addCallback(lambda names: names)

    def _bounded(
        self, what: str, source: Callable[[], Deferred[T]], otherwise: T, limit: float
    ) -> Deferred[T]:
        try:
            asked = source()
        except Exception:  # noqa: BLE001 - logged below, as whatever else fails
            asked = fail(Failure())
        # Clock is what it uses of IReactorTime.
        asked.addTimeout(max(0.0, limit), self._clock)  # type: ignore[arg-type]  # needs callLater alone

        def failed(failure: Failure) -> T:
            self._log.debug(
                "Nothing detected of {what}: {reason}", what=what, reason=failure.getErrorMessage()
            )
            return otherwise

        return asked.addErrback(failed)


async def _all(*asked: Deferred[Any]) -> list[Any]:
    return [result for _, result in await DeferredList(asked)]
