"""What a node can do: the document that travels as the data of a ``capability_broadcast``.

Enters: what was detected and configured here, or the data of a peer's broadcast, already checked
against the types and caps below. Leaves: the document, and a summary of it in one line for people.
Strings hold no control characters and no bidirectional overrides, so that what a peer says can be
shown on a terminal as it is.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

__all__ = [
    "EVERYTHING",
    "CapabilityDocument",
    "Gpu",
    "OwnerRules",
    "Resources",
    "ServiceState",
    "gibibytes",
    "printable",
]

# Terminals act on C0 and C1 controls, and show text in a false order after U+202A-202E and
# U+2066-2069; U+2028 and U+2029 end lines in some log viewers.
SHOWABLE = r"^[^\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]*\Z"

# Names of nodes, capabilities, label keys are at most 63 characters here; other implementations
# may be more generous, so that this is twice as much.
MAX_NAME = 128

# Values of labels (255 here), names of models with registry and digest, multiaddrs.
MAX_TEXT = 512

# Entries of the lists. A machine has far fewer; a list longer than this is no description of one.
MAX_CAPABILITIES = 256
MAX_MODELS = 512
MAX_GPUS = 64
MAX_RUNTIMES = 32
MAX_LABELS = 64
MAX_ADDRESSES = 32

# Entries of an owner's rules: what somebody writes into a configuration.
MAX_COMMANDS = 64
MAX_SUBMITTERS = 64
MAX_PROFILES = 16

# Facts about the service's unit.
MAX_SERVICE = 32

# Numbers are kept within what SQLite and Go's int64 hold.
MAX_NUMBER = 2**63 - 1

Name = Annotated[str, Meta(max_length=MAX_NAME, pattern=SHOWABLE)]
Text = Annotated[str, Meta(max_length=MAX_TEXT, pattern=SHOWABLE)]
Count = Annotated[int, Meta(ge=0, le=MAX_NUMBER)]
Number = Annotated[int, Meta(ge=-MAX_NUMBER, le=MAX_NUMBER)]
ServiceState = Annotated[
    dict[Name, Text | Number | float | bool | None], Meta(max_length=MAX_SERVICE)
]

# Models and GPUs named in a summary, before "+3" stands for the rest: a log line of a full
# workstation stays within the width of a terminal.
SUMMARY_NAMES = 3

# What is left out of a GPU's name in a summary: it is in each of them.
GPU_PREFIXES = ("NVIDIA ", "AMD ", "Intel ", "GeForce ", "Radeon ")


class Gpu(msgspec.Struct, frozen=True, kw_only=True):
    """A graphics processor.

    :ivar name: as its driver or the list of PCI devices has it.
    :ivar vendor: ``nvidia``, ``amd`` or ``intel``.
    :ivar memory_bytes: of its own; 0 where it has none or it is not known.
    """

    name: Text = ""
    vendor: Name = ""
    memory_bytes: Count = 0


class Resources(msgspec.Struct, frozen=True, kw_only=True):
    """What the node's machine has, within the limits set on the node; 0 where it is not known.

    :ivar cpu_cores: that the node may use.
    :ivar memory_bytes: that the node may use.
    :ivar gpus: one entry each.
    :ivar disk_bytes: of the file system with the state directory.
    :ivar disk_free_bytes: available there to an ordinary user.
    """

    cpu_cores: Count = 0
    memory_bytes: Count = 0
    gpus: Annotated[tuple[Gpu, ...], Meta(max_length=MAX_GPUS)] = ()
    disk_bytes: Count = 0
    disk_free_bytes: Count = 0


class OwnerRules(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the owner of a machine forbids tasks there, and offers them.

    :ivar forbidden_commands: patterns, in which ``*`` is anything, for the first word of a command
        and for what is behind its last slash.
    :ivar forbidden_submitters: names of users and of machines, and peer IDs.
    :ivar profiles: names of the sandboxes that a task may have; all where there are none.
    :ivar cpus: cores that tasks may have together; null: all of the machine's.
    :ivar memory: bytes, likewise.
    :ivar gpus: how many graphics processors, likewise.
    """

    forbidden_commands: Annotated[tuple[Text, ...], Meta(max_length=MAX_COMMANDS)] = ()
    forbidden_submitters: Annotated[tuple[Name, ...], Meta(max_length=MAX_SUBMITTERS)] = ()
    profiles: Annotated[tuple[Name, ...], Meta(max_length=MAX_PROFILES)] = ()
    cpus: Annotated[float, Meta(ge=0, le=65536)] | None = None
    memory: Count | None = None
    gpus: Annotated[int, Meta(ge=0, le=MAX_GPUS)] | None = None


# Of an owner who forbids nothing.
EVERYTHING = OwnerRules()


class CapabilityDocument(msgspec.Struct, frozen=True, kw_only=True):
    """What one node can do.

    :ivar node_id: its peer ID; Go nodes send ``<peer.ID 12*aBcDeF>``.
    :ivar name: what its owner calls it.
    :ivar version: of the program that it runs.
    :ivar capabilities: names, such as ``gpu`` or ``docker``.
    :ivar models: names of language models that it can run.
    :ivar specialization: what it is best at, in one word.
    :ivar resources: what its machine has.
    :ivar labels: what its owner says of it.
    :ivar os: the operating system's name.
    :ivar arch: the processor's architecture, such as ``x86_64``.
    :ivar python: the version of Python that it runs on.
    :ivar runtimes: container runtimes.
    :ivar service: the state of its systemd unit; None where it does not run as a service.
    :ivar addresses: multiaddrs that it listens on.
    :ivar rules: what its owner lets tasks do there. It goes by them itself, whatever it is offered.
    """

    node_id: Name
    name: Name = ""
    version: Name = ""
    capabilities: Annotated[tuple[Name, ...], Meta(max_length=MAX_CAPABILITIES)] = ()
    models: Annotated[tuple[Text, ...], Meta(max_length=MAX_MODELS)] = ()
    specialization: Name = ""
    resources: Resources = Resources()
    labels: Annotated[dict[Name, Text], Meta(max_length=MAX_LABELS)] = {}
    os: Text = ""
    arch: Name = ""
    python: Name = ""
    runtimes: Annotated[tuple[Name, ...], Meta(max_length=MAX_RUNTIMES)] = ()
    service: ServiceState | None = None
    addresses: Annotated[tuple[Text, ...], Meta(max_length=MAX_ADDRESSES)] = ()
    rules: OwnerRules = EVERYTHING

    def same_as(self, other: CapabilityDocument) -> bool:
        """Whether both say the same, apart from the free space, which changes all the time."""
        return not self.changed_since(other)

    def changed_since(self, other: CapabilityDocument) -> list[str]:
        """The fields that say something else than in ``other``, apart from the free space."""
        changed = [
            name for name in self.__struct_fields__ if getattr(self, name) != getattr(other, name)
        ]
        if "resources" in changed and self._steady_resources() == other._steady_resources():
            changed.remove("resources")
        return changed

    def _steady_resources(self) -> Resources:
        return msgspec.structs.replace(self.resources, disk_free_bytes=0)

    def describe(self) -> str:
        """A summary for people: ``8 cores, 31 GiB, RTX 4090 24 GiB, ollama: codellama``."""
        resources = self.resources
        parts = []
        if resources.cpu_cores:
            parts.append(f"{resources.cpu_cores} core{'s' if resources.cpu_cores > 1 else ''}")
        if resources.memory_bytes:
            parts.append(gibibytes(resources.memory_bytes))
        parts.extend(_gpus(resources.gpus))
        if not parts and self.capabilities:
            # A node that tells no hardware, as those in Go, tells at least these.
            parts.append(_some(self.capabilities))
        if self.models:
            source = "ollama" if "ollama" in self.capabilities else "models"
            names = [model.removesuffix(":latest") for model in self.models]
            parts.append(f"{source}: {_some(names)}")
        return ", ".join(parts) or "nothing in particular"


def gibibytes(number: int) -> str:
    """A size in the unit that memory is sold in: ``31 GiB``, ``0.5 GiB``."""
    size = number / 2**30
    return f"{size:.0f} GiB" if size >= 10 or abs(size - round(size)) < 0.05 else f"{size:.1f} GiB"


def _gpus(gpus: tuple[Gpu, ...]) -> list[str]:
    counts: dict[str, int] = {}
    for gpu in gpus:
        name = gpu.name or gpu.vendor or "GPU"
        for prefix in GPU_PREFIXES:
            name = name.removeprefix(prefix)
        if gpu.memory_bytes:
            name = f"{name} {gibibytes(gpu.memory_bytes)}"
        counts[name] = counts.get(name, 0) + 1
    shown = [f"{count}x {name}" if count > 1 else name for name, count in counts.items()]
    rest = len(shown) - SUMMARY_NAMES
    return shown if rest <= 0 else [*shown[:SUMMARY_NAMES], f"+{rest} GPUs"]


def _some(names: tuple[str, ...] | list[str]) -> str:
    rest = len(names) - SUMMARY_NAMES
    shown = ", ".join(names[:SUMMARY_NAMES])
    return f"{shown} +{rest}" if rest > 0 else shown


def printable(text: str, limit: int) -> str:
    """Any text as something to show: controls escaped, and cut after ``limit`` characters."""
    cut = text[:limit]
    shown = "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in cut
    )
    return shown if len(text) <= limit else shown + "…"
