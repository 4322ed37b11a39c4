"""Detection: cores, memory, disk, GPUs, runtimes and models, from files and answers of tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, execute, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from bzzz.mesh.capability import Gpu
from bzzz.mesh.commands import CommandError
from bzzz.mesh.detect import (
    Detected,
    Detector,
    Files,
    cpu_cores,
    memory_bytes,
    operating_system,
)
from bzzz.mesh.gpus import Adapters, Nvidia, adapters, parse_nvidia_smi

GIB = 1 << 30


class FakeFiles(Files):
    """A machine's files, by path."""

    def __init__(self, texts: dict[str, str] | None = None, cores: int = 8) -> None:
        self.texts = texts or {}
        self.cores = cores
        self.commands: tuple[str, ...] = ()
        self.disk_is: tuple[int, int] | OSError = (100 * GIB, 40 * GIB)

    def read_text(self, path: str) -> str:
        try:
            return self.texts[path]
        except KeyError:
            raise FileNotFoundError(path) from None

    def list_dir(self, path: str) -> list[str]:
        inside = {
            name[len(path) + 1 :].split("/")[0]
            for name in self.texts
            if name.startswith(path + "/")
        }
        return sorted(inside)

    def disk(self, path: str) -> tuple[int, int]:
        if isinstance(self.disk_is, OSError):
            raise self.disk_is
        return self.disk_is

    def which(self, name: str) -> str | None:
        return (
            name
            if name.startswith("/") and name in self.commands
            else (f"/usr/bin/{name}" if name in self.commands else None)
        )

    def affinity(self) -> int:
        return self.cores


class CoresTests(SynchronousTestCase):
    def test_affinity(self) -> None:
        """Without control groups it is the cores that the process may run on."""
        self.assertEqual(cpu_cores(FakeFiles(cores=6)), 6)

    def test_cgroup_v2(self) -> None:
        """The least quota of the group and those above it holds."""
        texts = {
            "/proc/self/cgroup": "0::/system.slice/bzzz.service\n",
            "/sys/fs/cgroup/system.slice/bzzz.service/cpu.max": "max 100000\n",
            "/sys/fs/cgroup/system.slice/cpu.max": "250000 100000\n",
        }
        self.assertEqual(cpu_cores(FakeFiles(texts)), 2)

    def test_container(self) -> None:
        """In a container the group is the root of what is mounted, whatever its path says."""
        for path in ("/", "/docker/0123"):
            texts = {
                "/proc/self/cgroup": f"0::{path}\n",
                "/sys/fs/cgroup/cpu.max": "50000 100000",
            }
            self.assertEqual(cpu_cores(FakeFiles(texts)), 1)

    def test_cgroup_v1(self) -> None:
        """Quota over period; -1 is no quota."""
        texts = {
            "/proc/self/cgroup": "4:cpu,cpuacct:/a\n1:name=systemd:/b\n",
            "/sys/fs/cgroup/cpu/a/cpu.cfs_quota_us": "300000\n",
            "/sys/fs/cgroup/cpu/a/cpu.cfs_period_us": "100000\n",
            "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        }
        self.assertEqual(cpu_cores(FakeFiles(texts)), 3)

    def test_nonsense(self) -> None:
        """What is not of the form expected counts as no quota."""
        texts = {"/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/cpu.max": "fast please\n"}
        self.assertEqual(cpu_cores(FakeFiles(texts)), 8)


class MemoryTests(SynchronousTestCase):
    def test_machine(self) -> None:
        """Without a limit it is that of the machine."""
        texts = {
            "/proc/meminfo": "MemTotal:       32715440 kB\nMemFree:  1 kB\n",
            "/proc/self/cgroup": "0::/a\n9:memory:/b\n",
            "/sys/fs/cgroup/a/memory.max": "max\n",
            "/sys/fs/cgroup/memory/b/memory.limit_in_bytes": "9223372036854771712\n",
        }
        self.assertEqual(memory_bytes(FakeFiles(texts)), 32715440 * 1024)

    def test_limits(self) -> None:
        """A limit of the control group, of either version, counts if it is less."""
        machine = {"/proc/meminfo": "MemTotal: 16777216 kB\n"}
        version_2 = {
            "/proc/self/cgroup": "0::/a/b\n",
            "/sys/fs/cgroup/a/memory.max": str(2 * GIB),
        }
        version_1 = {
            "/proc/self/cgroup": "9:memory:/a\n",
            "/sys/fs/cgroup/memory/a/memory.limit_in_bytes": str(3 * GIB),
        }
        self.assertEqual(memory_bytes(FakeFiles({**machine, **version_2})), 2 * GIB)
        self.assertEqual(memory_bytes(FakeFiles({**machine, **version_1})), 3 * GIB)

    def test_unknown(self) -> None:
        """Without any file it is not known, which is 0."""
        self.assertEqual(memory_bytes(FakeFiles()), 0)


class SystemTests(SynchronousTestCase):
    def test_name(self) -> None:
        """The name that the distribution gives itself, else the kernel's."""
        texts = {"/etc/os-release": 'ID=debian\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n'}
        self.assertEqual(operating_system(FakeFiles(texts)), "Debian GNU/Linux 12 (bookworm)")
        self.assertTrue(operating_system(FakeFiles()).startswith("Linux "))


AMD = {
    "/sys/class/drm/card1/device/vendor": "0x1002\n",
    "/sys/class/drm/card1/device/device": "0x744c\n",
    "/sys/class/drm/card1/device/mem_info_vram_total": f"{24 * GIB}\n",
    "/sys/class/drm/card1-DP-1/device/vendor": "0x1002\n",
    "/sys/class/drm/renderD128/device/vendor": "0x1002\n",
}
INTEL = {
    "/sys/class/drm/card0/device/vendor": "0x8086\n",
    "/sys/class/drm/card0/device/device": "0x9a49\n",
}
PCI_IDS = {
    "/usr/share/misc/pci.ids": (
        "# a comment\n"
        "1002  Advanced Micro Devices, Inc. [AMD/ATI]\n"
        "\t1234  Something\n"
        "\t744c  Navi 31 [Radeon RX 7900 XT/7900 XTX/7900M]\n"
        "\t\t1002 0e3b  RX 7900 GRE\n"
        "8086  Intel Corporation\n"
        "\t0001  Other\n"
    )
}


class GpuTests(SynchronousTestCase):
    def test_nvidia_smi(self) -> None:
        """Names and mebibytes, also where a name has a comma or the memory is shared."""
        self.assertEqual(
            parse_nvidia_smi(b"NVIDIA GeForce RTX 4090, 24564\nNVIDIA GB10, [N/A]\nA, B, 1024\n\n"),
            (
                Gpu(name="NVIDIA GeForce RTX 4090", vendor="nvidia", memory_bytes=24564 << 20),
                Gpu(name="NVIDIA GB10", vendor="nvidia"),
                Gpu(name="A, B", vendor="nvidia", memory_bytes=GIB),
            ),
        )
        self.assertEqual(parse_nvidia_smi(b"No devices were found\n"), ())
        self.assertEqual(parse_nvidia_smi(b"\xff\x1b[2J, 5")[0].name, "\ufffd[2J")

    def test_drm(self) -> None:
        """Cards of AMD and Intel, not their outputs, with the memory that they have."""
        found = adapters(FakeFiles({**AMD, **INTEL, **PCI_IDS}))
        self.assertEqual(
            found.others,
            (
                Gpu(name="Intel 9a49", vendor="intel"),
                Gpu(
                    name="AMD Radeon RX 7900 XT/7900 XTX/7900M",
                    vendor="amd",
                    memory_bytes=24 * GIB,
                ),
            ),
        )

    def test_product_name(self) -> None:
        """The card's own name comes before the list of PCI devices."""
        texts = {**AMD, **PCI_IDS, "/sys/class/drm/card1/device/product_name": "Instinct MI210\n"}
        self.assertEqual(adapters(FakeFiles(texts)).others[0].name, "Instinct MI210")

    def test_screens_are_no_gpus(self) -> None:
        """The screen of a virtual machine or of a server's console computes nothing."""
        for vendor in ("0x1234", "0x1af4", "0x1a03", "0x15ad", "", "garbage"):
            texts = {"/sys/class/drm/card0/device/vendor": vendor + "\n"}
            self.assertEqual(adapters(FakeFiles(texts)), Adapters())

    def test_nvidia_without_smi(self) -> None:
        """The driver's own files tell the model; the kernel's, of another driver, the vendor."""
        information = "Model: \t\t NVIDIA GeForce RTX 3060\nIRQ: 56\n"
        drm = {"/sys/class/drm/card0/device/vendor": "0x10de\n"}
        driver = {"/proc/driver/nvidia/gpus/0000:01:00.0/information": information}
        self.assertEqual(
            adapters(FakeFiles({**drm, **driver})).nvidia,
            (Gpu(name="NVIDIA GeForce RTX 3060", vendor="nvidia"),),
        )
        self.assertEqual(
            adapters(FakeFiles(drm)).nvidia, (Gpu(name="NVIDIA GPU", vendor="nvidia"),)
        )

    def test_wsl(self) -> None:
        """nvidia-smi is found where the Windows Subsystem for Linux keeps it."""
        files = FakeFiles()
        files.commands = ("/usr/lib/wsl/lib/nvidia-smi",)
        self.assertEqual(adapters(files).smi, "/usr/lib/wsl/lib/nvidia-smi")


class NvidiaTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.runs = 0
        self.output: bytes | Exception = b"RTX, 1024\n"
        self.nvidia = Nvidia(self.run_command)

    def run_command(self, argv: list[str], timeout: float) -> Deferred[bytes]:
        self.runs += 1
        return fail(self.output) if isinstance(self.output, Exception) else succeed(self.output)

    def detect(self, shown: Adapters) -> Deferred[tuple[Gpu, ...]]:
        return Deferred.fromCoroutine(self.nvidia.detect(shown))

    def test_asked_once(self) -> None:
        """It is not asked again until the kernel shows other GPUs."""
        one = Adapters(nvidia=(Gpu(name="RTX", vendor="nvidia"),), smi="/usr/bin/nvidia-smi")
        expected = (Gpu(name="RTX", vendor="nvidia", memory_bytes=GIB),)
        for _ in range(3):
            self.assertEqual(self.successResultOf(self.detect(one)), expected)
        self.assertEqual(self.runs, 1)
        self.successResultOf(self.detect(Adapters(smi="/usr/bin/nvidia-smi")))
        self.assertEqual(self.runs, 2)

    def test_asked_again_after_failure(self) -> None:
        """A failure is not remembered."""
        shown = Adapters(smi="/usr/bin/nvidia-smi")
        self.output = CommandError("no")
        self.failureResultOf(self.detect(shown), CommandError)
        self.output = b"RTX, 1024\n"
        self.assertEqual(len(self.successResultOf(self.detect(shown))), 1)

    def test_not_there(self) -> None:
        """Without the command nothing is run."""
        other = Gpu(name="x", vendor="amd")
        self.assertEqual(self.successResultOf(self.detect(Adapters(others=(other,)))), (other,))
        self.assertEqual(self.runs, 0)


class CapabilityNamesTests(SynchronousTestCase):
    def test_names(self) -> None:
        """Names follow from what was found."""
        everything = Detected(
            gpus=(Gpu(vendor="nvidia"),), runtimes=("podman", "docker"), models=()
        )
        self.assertEqual(everything.capabilities, ("docker", "gpu", "ollama", "podman", "python"))
        self.assertEqual(Detected(gpus=(Gpu(vendor="intel"),)).capabilities, ("python",))


class DetectorTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.files = FakeFiles(
            {
                "/proc/meminfo": "MemTotal: 16777216 kB\n",
                "/etc/os-release": "PRETTY_NAME=Debian\n",
                **AMD,
            }
        )
        self.files.commands = ("docker", "apptainer")
        self.models: Callable[[], Deferred[tuple[str, ...]]] = lambda: succeed(("phi3",))
        self.hanging: list[Deferred[Any]] = []
        self.thread: Callable[[Callable[[], Any]], Deferred[Any]] = execute
        self.detector = Detector(
            self.clock,
            "/var/lib/bzzz",
            lambda argv, timeout: fail(CommandError("no such command")),
            self.ask_models,
            files=self.files,
            thread=self.in_thread,
        )

    def ask_models(self) -> Deferred[tuple[str, ...]]:
        return self.models()

    def in_thread(self, work: Callable[[], Any]) -> Deferred[Any]:
        return self.thread(work)

    def detect(self) -> Deferred[Detected]:
        return Deferred.fromCoroutine(self.detector.detect())

    def test_everything(self) -> None:
        """All sources end up in one answer."""
        found = self.successResultOf(self.detect())
        self.assertEqual(
            (found.cpu_cores, found.memory_bytes, found.disk_bytes, found.disk_free_bytes),
            (8, 16 * GIB, 100 * GIB, 40 * GIB),
        )
        self.assertEqual((found.runtimes, found.models), (("docker", "apptainer"), ("phi3",)))
        self.assertEqual((found.os, found.gpus[0].vendor), ("Debian", "amd"))
        self.assertTrue(found.arch and found.python)

    def test_failing_sources(self) -> None:
        """Each source may fail without taking the others with it."""
        self.files.disk_is = OSError("gone")
        self.files.texts["/proc/meminfo"] = "MemTotal: lots\n"
        self.files.commands += ("nvidia-smi",)

        def broken() -> Deferred[tuple[str, ...]]:
            raise RuntimeError("a bug")

        self.models = broken
        found = self.successResultOf(self.detect())
        self.assertEqual((found.memory_bytes, found.disk_bytes, found.models), (0, 0, None))
        self.assertEqual((found.cpu_cores, found.gpus[0].vendor), (8, "amd"))
        self.assertEqual(self.flushLoggedErrors(), [])

    def hang(self, work: Callable[[], Any]) -> Deferred[Any]:
        hanging: Deferred[Any] = Deferred()
        self.hanging.append(hanging)
        return hanging

    def test_time_limit(self) -> None:
        """Sources that hang are left behind after five seconds, all together."""
        self.models = Deferred
        self.thread = self.hang
        detecting = self.detect()
        self.assertNoResult(detecting)
        self.clock.advance(5)
        found = self.successResultOf(detecting)
        self.assertEqual((found.cpu_cores, found.models), (0, None))
        self.assertTrue(found.python)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_threads_do_not_pile_up(self) -> None:
        """A source whose thread still hangs is not asked a second time beside it."""
        self.thread = self.hang
        for _ in range(4):
            detecting = self.detect()
            self.clock.advance(5)
            self.successResultOf(detecting)
        # The kernel's files, the disk and the runtimes, once each.
        self.assertEqual(len(self.hanging), 3)
        for hanging in self.hanging:
            hanging.errback(OSError("stale file handle"))
        self.thread = execute
        self.assertEqual(self.successResultOf(self.detect()).disk_bytes, 100 * GIB)


class RealFilesTests(SynchronousTestCase):
    def test_this_machine(self) -> None:
        """The real files give something sensible."""
        files = Files()
        self.assertGreaterEqual(cpu_cores(files), 1)
        self.assertGreater(memory_bytes(files), 1 << 26)
        total, free = files.disk("/")
        self.assertGreaterEqual(total, free)
        self.assertEqual(files.list_dir("/nonexistent"), [])
        adapters(files)
