"""The capability document and its summary."""

from __future__ import annotations

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from bzzz.mesh.capability import CapabilityDocument, Gpu, Resources, gibibytes, printable

WORKSTATION = CapabilityDocument(
    node_id="12D3KooWEeVXdHkXtUp2ewzdqD56gDJCCuMGNAqoJrJ7CKaXHoUh",
    name="walnut",
    capabilities=("docker", "gpu", "ollama", "python"),
    models=("codellama:latest",),
    resources=Resources(
        cpu_cores=8,
        memory_bytes=33_500_000_000,
        gpus=(Gpu(name="NVIDIA GeForce RTX 4090", vendor="nvidia", memory_bytes=24564 << 20),),
        disk_bytes=1 << 40,
        disk_free_bytes=1 << 39,
    ),
)


def with_resources(**changes: object) -> CapabilityDocument:
    resources = msgspec.structs.replace(WORKSTATION.resources, **changes)
    return msgspec.structs.replace(WORKSTATION, resources=resources)


class SameTests(SynchronousTestCase):
    def test_free_space_is_noise(self) -> None:
        """A document in which only the free space differs says the same."""
        self.assertTrue(WORKSTATION.same_as(with_resources(disk_free_bytes=1)))

    def test_everything_else_counts(self) -> None:
        """A model, a label, a core more or less, or a state of the service, is a change."""
        for other in (
            msgspec.structs.replace(WORKSTATION, models=()),
            msgspec.structs.replace(WORKSTATION, labels={"rack": "a"}),
            msgspec.structs.replace(WORKSTATION, service={"active_state": "active"}),
            with_resources(cpu_cores=7),
            with_resources(disk_bytes=5),
        ):
            self.assertFalse(WORKSTATION.same_as(other))

    def test_frozen(self) -> None:
        """Nobody changes a document that others hold."""
        with self.assertRaises(AttributeError):
            WORKSTATION.name = "other"  # type: ignore[misc]


class DescribeTests(SynchronousTestCase):
    def test_workstation(self) -> None:
        """Cores, memory, GPU with its memory, and models, without what all names share."""
        self.assertEqual(
            WORKSTATION.describe(), "8 cores, 31 GiB, RTX 4090 24 GiB, ollama: codellama"
        )

    def test_nothing(self) -> None:
        """A document without anything in it has a summary, too."""
        self.assertEqual(CapabilityDocument(node_id="x").describe(), "nothing in particular")

    def test_go_node(self) -> None:
        """A node that tells no hardware is described by its capabilities."""
        document = CapabilityDocument(
            node_id="x", capabilities=("general", "reasoning"), models=("phi3", "llama3.1")
        )
        self.assertEqual(document.describe(), "general, reasoning, models: phi3, llama3.1")

    def test_many(self) -> None:
        """Equal GPUs are counted, and long lists end in a number."""
        gpu = Gpu(name="AMD Radeon RX 7900 XTX", vendor="amd", memory_bytes=24 << 30)
        document = CapabilityDocument(
            node_id="x",
            models=tuple("abcde"),
            resources=Resources(cpu_cores=1, gpus=(gpu, gpu, Gpu(vendor="intel"))),
        )
        self.assertEqual(
            document.describe(), "1 core, 2x RX 7900 XTX 24 GiB, intel, models: a, b, c +2"
        )

    def test_many_kinds_of_gpu(self) -> None:
        """More than three kinds of GPU are cut."""
        gpus = tuple(Gpu(name=name) for name in "abcde")
        document = CapabilityDocument(node_id="x", resources=Resources(gpus=gpus))
        self.assertEqual(document.describe(), "a, b, c, +2 GPUs")

    def test_sizes(self) -> None:
        """Memory is told as it is sold."""
        self.assertEqual(
            [gibibytes(n) for n in (1 << 29, 1 << 30, 24564 << 20, 33_500_000_000)],
            ["0.5 GiB", "1 GiB", "24 GiB", "31 GiB"],
        )


class PrintableTests(SynchronousTestCase):
    def test_controls(self) -> None:
        """Nothing that a terminal acts on is left."""
        self.assertEqual(printable("a\x1b[31m\n\u202eb\x9b", 100), "a\\x1b[31m\\n\\u202eb\\x9b")

    def test_cut(self) -> None:
        """What is longer is cut, visibly; what fits is not."""
        self.assertEqual((printable("abc", 3), printable("abcd", 3)), ("abc", "abc…"))
