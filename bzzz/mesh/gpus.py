"""Graphics processors, from ``nvidia-smi`` where there is one and from ``/sys`` and ``/proc``.

Enters: ``/sys/class/drm/card*/device``, ``/proc/driver/nvidia/gpus``, the lines of ``nvidia-smi
--query-gpu=name,memory.total --format=csv,noheader,nounits``. Leaves: :class:`Gpu` documents.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from twisted.internet.defer import Deferred

from bzzz.mesh.capability import MAX_GPUS, MAX_NUMBER, MAX_TEXT, Gpu

__all__ = ["Adapters", "Nvidia", "adapters", "parse_nvidia_smi"]

# PCI vendors whose display adapters can compute. The others are virtual machines' screens and the
# consoles of servers' management controllers.
VENDORS = {"0x10de": "nvidia", "0x1002": "amd", "0x8086": "intel"}
SHOWN = {"nvidia": "NVIDIA", "amd": "AMD", "intel": "Intel"}

# Where nvidia-smi is beside PATH: the Windows Subsystem for Linux keeps it there.
NVIDIA_SMI = ("nvidia-smi", "/usr/lib/wsl/lib/nvidia-smi")

# The names of PCI devices (Debian: pciutils; Fedora: hwdata).
PCI_IDS = ("/usr/share/misc/pci.ids", "/usr/share/hwdata/pci.ids")

# Seconds that nvidia-smi may take; where the driver has to be loaded first it takes two.
SMI_TIME_LIMIT = 4.5


class GpuFiles(Protocol):
    """What is used of the file system."""

    def read_text(self, path: str) -> str:
        """A file's text. :raises OSError: it cannot be read."""

    def list_dir(self, path: str) -> list[str]:
        """Names in a directory, sorted; none where there is no directory."""

    def which(self, name: str) -> str | None:
        """The path of a command."""


@dataclass(frozen=True)
class Adapters:
    """What the kernel shows.

    :ivar nvidia: of NVIDIA, without their memory, which only nvidia-smi tells.
    :ivar others: all the others.
    :ivar smi: the path of nvidia-smi, where there is one.
    """

    nvidia: tuple[Gpu, ...] = ()
    others: tuple[Gpu, ...] = ()
    smi: str | None = None


def adapters(files: GpuFiles) -> Adapters:
    """What the kernel shows; blocks on files."""
    by_driver = [
        Gpu(
            name=_model(_read(files, f"/proc/driver/nvidia/gpus/{slot}/information")),
            vendor="nvidia",
        )
        for slot in files.list_dir("/proc/driver/nvidia/gpus")
    ]
    nvidia: list[Gpu] = []
    others: list[Gpu] = []
    for card in files.list_dir("/sys/class/drm"):
        # card0-HDMI-A-1 and the like are its outputs.
        if re.fullmatch(r"card[0-9]+", card) is None:
            continue
        device = f"/sys/class/drm/{card}/device"
        vendor = VENDORS.get(_read(files, f"{device}/vendor").strip())
        if vendor is None:
            continue
        memory = _read(files, f"{device}/mem_info_vram_total").strip()
        gpu = Gpu(
            name=_name(files, device, vendor),
            vendor=vendor,
            memory_bytes=min(int(memory), MAX_NUMBER) if memory.isdigit() else 0,
        )
        (nvidia if vendor == "nvidia" else others).append(gpu)
    smi = next((path for path in map(files.which, NVIDIA_SMI) if path is not None), None)
    return Adapters(tuple(by_driver or nvidia)[:MAX_GPUS], tuple(others)[:MAX_GPUS], smi)


def parse_nvidia_smi(output: bytes) -> tuple[Gpu, ...]:
    """The GPUs of lines such as ``NVIDIA GeForce RTX 4090, 24564`` (MiB)."""
    gpus = []
    for line in output.decode("utf-8", "replace").splitlines():
        name, comma, memory = line.rpartition(",")
        if comma and name.strip():
            # Where processor and GPU share the memory, it is [N/A].
            mebibytes = int(memory) if memory.strip().isdigit() else 0
            gpus.append(
                Gpu(
                    name=_clean(name),
                    vendor="nvidia",
                    memory_bytes=min(mebibytes << 20, MAX_NUMBER),
                )
            )
    return tuple(gpus[:MAX_GPUS])


class Nvidia:
    """Asks nvidia-smi, and not again while the kernel shows the same GPUs.

    It takes a tenth of a second to two seconds of CPU time, which each minute would be more than
    all the rest of an idle node.

    :param run: the output of a command, within a number of seconds.
    """

    def __init__(self, run: Callable[[list[str], float], Deferred[bytes]]) -> None:
        self._run = run
        self._known: tuple[Adapters, tuple[Gpu, ...]] | None = None

    async def detect(self, shown: Adapters) -> tuple[Gpu, ...]:
        """All GPUs, with their memory."""
        if shown.smi is None:
            return (shown.nvidia + shown.others)[:MAX_GPUS]
        if self._known is None or self._known[0] != shown:
            output = await self._run(
                [shown.smi, "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"],
                SMI_TIME_LIMIT,
            )
            self._known = (shown, parse_nvidia_smi(output))
        return (self._known[1] + shown.others)[:MAX_GPUS]


def _model(information: str) -> str:
    """The model in ``/proc/driver/nvidia/gpus/*/information``."""
    for line in information.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "Model" and value.strip():
            return _clean(value)
    return "NVIDIA GPU"


def _name(files: GpuFiles, device: str, vendor: str) -> str:
    product = _read(files, f"{device}/product_name").strip()
    if product:
        return _clean(product)
    number = _read(files, f"{device}/device").strip().removeprefix("0x")
    pci_vendor = next(key for key, value in VENDORS.items() if value == vendor)
    for path in PCI_IDS:
        found = _pci_name(_read(files, path), pci_vendor.removeprefix("0x"), number)
        if found:
            return _clean(f"{SHOWN[vendor]} {found}")
    return _clean(f"{SHOWN[vendor]} {number or 'GPU'}")


def _pci_name(ids: str, vendor: str, device: str) -> str:
    """``Radeon RX 7900 XTX`` of ``Navi 31 [Radeon RX 7900 XTX]`` in the list of PCI IDs."""
    start = ids.find(f"\n{vendor}  ")
    if start < 0 or not device:
        return ""
    for line in ids[start + 1 :].split("\n")[1:]:
        if line and not line.startswith(("\t", "#")):
            return ""  # the next vendor
        if line.startswith(f"\t{device}  "):
            name = line.split("  ", 1)[1]
            bracketed = re.search(r"\[(.+)\]", name)
            return bracketed[1] if bracketed else name
    return ""


def _clean(text: str) -> str:
    return "".join(c for c in " ".join(text.split()) if c.isprintable())[:MAX_TEXT]


def _read(files: GpuFiles, path: str) -> str:
    try:
        return files.read_text(path)
    except OSError:
        return ""
