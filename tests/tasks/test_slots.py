"""Slots: nothing of a machine is given twice."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from bzzz.mesh.capability import Gpu
from bzzz.tasks.slots import (
    Need,
    Room,
    Short,
    Slots,
    Taken,
    gpu_environment,
    usable_gpus,
)

GIB = 1 << 30

needs = st.builds(
    Need,
    st.sampled_from([1 / 3, 0.1, 0.0001, 0.0, 1.0, 2.0, 5.0]),
    st.sampled_from([0, 0, 1, 3 * GIB, 9 * GIB]),
    st.sampled_from([0, 0, 0, 1, 2, 3]),
)
# More is taken than anything else, so that there is something to be short of.
take = st.tuples(st.just("take"), st.integers(0, 9), needs)
steps = st.lists(
    st.one_of(
        take,
        take,
        take,
        st.tuples(st.just("give"), st.integers(0, 9)),
        st.tuples(st.just("max"), st.integers(1, 6)),
        st.tuples(st.just("gpus"), st.integers(0, 2)),
        st.tuples(st.just("keep"), st.integers(0, 9), needs),
        st.tuples(st.just("let go"), st.integers(0, 9)),
    ),
    max_size=60,
)


def slots(cpus: float = 4.0, memory: int = 8 * GIB, gpus: int = 2, max_tasks: int = 4) -> Slots:
    return Slots(cpus, memory, range(gpus), max_tasks)


def offer(
    there: Slots, cpus: float = 4.0, memory: int = 8 * GIB, gpus: int = 2, max_tasks: int = 4
) -> None:
    there.offer(cpus, memory, range(gpus), max_tasks)


class SlotsTests(SynchronousTestCase):
    """What a task takes, and what is told where there is not as much."""

    def short(self, there: Slots, need: Need) -> Short:
        answer = there.take("new", need)
        assert isinstance(answer, Short), answer
        return answer

    def test_take(self) -> None:
        """What is taken is free no more, and is when it was given back."""
        there = slots()
        self.assertEqual(there.take("a", Need(1.5, GIB, 1)), Taken((0,)))
        self.assertEqual(there.free, Room(2.5, 7 * GIB, 1, 3))
        self.assertTrue(there.give_back("a"))
        self.assertEqual(there.free, there.offered)
        self.assertFalse(there.give_back("a"))

    def test_again(self) -> None:
        """An offer that comes twice takes once; another one under the same key is a bug."""
        there = slots()
        self.assertEqual(there.take("a", Need(gpus=2)), Taken((0, 1)))
        self.assertEqual(there.take("a", Need(gpus=2)), Taken((0, 1)))
        self.assertEqual(len(there), 1)
        self.assertRaises(ValueError, there.take, "a", Need(gpus=1))

    def test_fractions(self) -> None:
        """Ten tenths of a core are a core, and there is no eleventh."""
        there = slots(cpus=1.0, max_tasks=100)
        for name in range(10):
            self.assertIsInstance(there.take(str(name), Need(0.1)), Taken)
        self.assertIsInstance(there.take("more", Need(0.1)), Short)
        self.assertIsInstance(there.take("tiny", Need(0.00001)), Short)
        self.assertIsInstance(there.take("nothing", Need(0.0)), Taken)

    def test_never(self) -> None:
        """What the machine has not in all is told apart from what is not free."""
        there = slots()
        there.take("a", Need(3.0, 6 * GIB, 2))
        for need, reason, never in (
            (Need(8.0), "needs 8 cores, and it offers 4 cores to tasks", True),
            (Need(1, 16 * GIB), "needs 16 GiB, and it offers 8 GiB to tasks", True),
            (Need(1, 0, 3), "needs 3 GPUs, and it offers 2 GPUs to tasks", True),
            (Need(2.5), "needs 2.5 cores, and 1 core of 4 cores are free", False),
            (Need(1, 3 * GIB), "needs 3 GiB, and 2 GiB of 8 GiB are free", False),
            (Need(1, 0, 1), "needs 1 GPU, and 0 GPUs of 2 GPUs are free", False),
        ):
            self.assertEqual(self.short(there, need), Short(reason, never))
        self.assertEqual(len(there), 1)

    def test_max_tasks(self) -> None:
        """Fewer tasks than run may be allowed; those that run go on, and no new one begins."""
        there = slots()
        there.take("a", Need())
        there.take("b", Need())
        offer(there, max_tasks=1)
        self.assertEqual(there.free.tasks, 0)
        self.assertEqual(self.short(there, Need()).reason, "it runs 1 tasks, as many as it may")
        self.assertEqual(there.part, 1.0)
        there.give_back("a")
        there.give_back("b")
        self.assertIsInstance(there.take("c", Need()), Taken)
        offer(there, max_tasks=0)
        self.assertTrue(self.short(there, Need()).never)

    def test_offer(self) -> None:
        """Less, or more, may be offered than before; what is taken stays, and is given once."""
        there = slots()
        first = there.take("a", Need(3.0, 6 * GIB, 1))
        self.assertEqual(first, Taken((0,)))
        offer(there, cpus=2.0, memory=4 * GIB, gpus=1)
        self.assertEqual((there.free, len(there)), (Room(0.0, 0, 0, 3), 1))
        self.assertTrue(self.short(there, Need(3.0)).never)
        offer(there, cpus=8.0, gpus=3)
        self.assertEqual(there.free, Room(5.0, 2 * GIB, 2, 3))
        self.assertEqual(there.take("b", Need(1.0, 0, 2)), Taken((1, 2)))
        self.assertTrue(there.give_back("a"))
        self.assertEqual(there.take("c", Need(1.0, 0, 1)), Taken((0,)))
        self.assertRaises(ValueError, there.offer, 1.0, 0, (1, 1), 1)

    def test_offer_less_than_is_kept_for(self) -> None:
        """Nothing is kept for what is not offered any more."""
        there = slots()
        there.take("a", Need(1.0))
        self.assertTrue(there.keep_free("big", Need(4.0)))
        offer(there, cpus=3.0)
        self.assertIsInstance(there.take("b", Need(1.0)), Taken)

    def test_part(self) -> None:
        """The part that is taken is that of what is most taken."""
        there = slots()
        self.assertEqual(there.part, 0.0)
        there.take("a", Need(1.0, 6 * GIB))
        self.assertEqual(there.part, 0.75)

    def test_keep_free(self) -> None:
        """What one task waits for is given to no other, and what it does not need is."""
        there = slots()
        there.take("a", Need(2.0))
        self.assertTrue(there.keep_free("big", Need(4.0)))
        self.assertFalse(there.keep_free("bigger", Need(4.0)))
        self.assertIn("kept for big", self.short(there, Need(1.0)).reason)
        self.assertIsInstance(there.take("gpu", Need(0.0, 0, 1)), Taken)
        there.give_back("a")
        self.assertIn("kept for big", self.short(there, Need(1.0)).reason)
        self.assertIsInstance(there.take("big", Need(4.0)), Taken)
        there.give_back("big")
        self.assertIsInstance(there.take("new", Need(1.0)), Taken)

    def test_let_go(self) -> None:
        """It is not kept when it is not wanted any more, nor where it can never be had."""
        there = slots()
        self.assertFalse(there.keep_free("big", Need(5.0)))
        there.keep_free("big", Need(4.0))
        there.let_go("other")
        self.short(there, Need(1.0))
        there.let_go("big")
        self.assertIsInstance(there.take("new", Need(1.0)), Taken)

    @settings(max_examples=300, deadline=None)
    @given(steps)
    def test_never_oversubscribed(self, steps: list[tuple[object, ...]]) -> None:
        """Whatever is taken and given back, it is what there is at most, and each once."""
        there = slots()
        held: dict[str, tuple[Need, Taken]] = {}
        allowed, offered = 4, 2
        for name, *arguments in steps:
            key = str(arguments[0])
            if name == "take":
                need = arguments[1]
                assert isinstance(need, Need)
                if key in held:
                    continue
                answer = there.take(key, need)
                if isinstance(answer, Taken):
                    self.assertLess(len(held), allowed)
                    held[key] = (need, answer)
                    self.assertEqual(len(answer.gpus), need.gpus)
            elif name == "give":
                self.assertEqual(there.give_back(key), held.pop(key, None) is not None)
            elif name == "max":
                assert isinstance(arguments[0], int)
                allowed = arguments[0]
                offer(there, gpus=offered, max_tasks=allowed)
            elif name == "gpus":
                assert isinstance(arguments[0], int)
                offered = arguments[0]
                offer(there, gpus=offered, max_tasks=allowed)
            elif name == "keep":
                assert isinstance(arguments[1], Need)
                there.keep_free(key, arguments[1])
            else:
                there.let_go(key)
            self.check(there, held, offered)
        for key in held:
            there.give_back(key)
        self.assertEqual(there.free, there.offered)

    def check(self, there: Slots, held: dict[str, tuple[Need, Taken]], offered: int) -> None:
        cpus = sum(need.cpus for need, _ in held.values())
        memory = sum(need.memory for need, _ in held.values())
        gpus = [index for _, taken in held.values() for index in taken.gpus]
        self.assertLessEqual(cpus, 4.0 + 1e-9)
        self.assertLessEqual(memory, 8 * GIB)
        self.assertEqual(len(set(gpus)), len(gpus))
        self.assertLessEqual(set(gpus), {0, 1})
        self.assertEqual(len(there), len(held))
        self.assertEqual(there.free.memory, 8 * GIB - memory)
        self.assertEqual(there.free.gpus, len(set(range(offered)) - set(gpus)))
        self.assertLessEqual(abs(there.free.cpus - (4.0 - cpus)), 0.01)
        self.assertTrue(0.0 <= there.part <= 1.0)

    @given(needs, needs)
    def test_room(self, need: Need, taken: Need) -> None:
        """A room has a need exactly where it lacks nothing of it."""
        room = Room(4.0, 8 * GIB, 2, 4).without(taken)
        self.assertEqual(room.has(need), not room.lacks(need))


NVIDIA = Gpu(vendor="nvidia", memory_bytes=24 * GIB)
SMALL = Gpu(vendor="nvidia", memory_bytes=8 * GIB)
AMD = Gpu(vendor="amd", memory_bytes=16 * GIB)
BUILT_IN = Gpu(vendor="intel")


class GpuTests(SynchronousTestCase):
    """Which graphics processors a task is given, and which it sees."""

    def test_usable(self) -> None:
        """Those with most memory come first; graphics without memory of its own is none."""
        self.assertEqual(usable_gpus([BUILT_IN, SMALL, NVIDIA, AMD, NVIDIA]), (2, 4, 3, 1))
        self.assertEqual(usable_gpus([Gpu(vendor="nvidia")]), (0,))

    def test_order(self) -> None:
        """They are taken in the order in which they were offered, also after one came back."""
        there = Slots(4.0, 0, usable_gpus([SMALL, NVIDIA]), 4)
        self.assertEqual(there.take("a", Need(gpus=1)), Taken((1,)))
        self.assertEqual(there.take("b", Need(gpus=1)), Taken((0,)))
        there.give_back("a")
        self.assertEqual(there.take("c", Need(gpus=1)), Taken((1,)))
        self.assertRaises(ValueError, Slots, 1.0, 0, [0, 0], 1)

    def test_none(self) -> None:
        """A task that took none sees none."""
        environment = gpu_environment([NVIDIA, AMD], ())
        for name in ("CUDA", "NVIDIA", "ROCR", "HIP"):
            self.assertEqual(environment[f"{name}_VISIBLE_DEVICES"], "")

    def test_by_vendor(self) -> None:
        """Each runtime counts those of its vendor alone, and HIP those that ROCm has left."""
        gpus = [BUILT_IN, AMD, NVIDIA, AMD, NVIDIA, AMD]
        environment = gpu_environment(gpus, (3, 4, 5))
        self.assertEqual(environment["CUDA_VISIBLE_DEVICES"], "1")
        self.assertEqual(environment["NVIDIA_VISIBLE_DEVICES"], "1")
        self.assertEqual(environment["ROCR_VISIBLE_DEVICES"], "1,2")
        self.assertEqual(environment["HIP_VISIBLE_DEVICES"], "0,1")
        self.assertEqual(environment["CUDA_DEVICE_ORDER"], "PCI_BUS_ID")
