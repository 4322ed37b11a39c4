"""What a machine offers to tasks, and that its owner's rules hold whatever it is offered."""

from __future__ import annotations

from random import Random
from typing import Any

import msgspec
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from bzzz.mesh.availability import Availability, FreeRoom
from bzzz.mesh.capability import CapabilityDocument, OwnerRules
from bzzz.tasks.messages import Refused
from bzzz.tasks.offering import Offering
from bzzz.tasks.placement import Wanted, judge
from bzzz.tasks.placing import Placing
from bzzz.tasks.requirements import compile as compile_requirement
from tests.tasks.fakes import name, peer, record, submission
from tests.tasks.test_placement import GIB, facts

NAMES = {name(each): each for each in ("walnut", "ironwood", "acacia")}


class OfferingTests(SynchronousTestCase):
    """Ironwood, with 4 cores, 8 GiB and 2 graphics processors, is offered tasks of walnut."""

    def setUp(self) -> None:
        self.availability = Availability(4, lambda: 0.0)
        self.document: CapabilityDocument = facts(gpus=2).document
        self.may_run = True
        self.changes = 0
        self.offering = Offering(
            name("ironwood"),
            lambda: self.document,
            self.availability,
            lambda: self.may_run,
            lambda each: NAMES[each],
        )
        self.availability.room = self.offering.room
        self.availability.on_change(self.count)
        self.offering.start()

    def count(self) -> None:
        self.changes += 1

    def rule(self, **rules: Any) -> None:
        """The owner has rules, or others."""
        self.document = msgspec.structs.replace(self.document, rules=OwnerRules(**rules))
        self.offering.look()

    def admit(self, number: int = 1, **wanted: Any) -> Refused | dict[str, str]:
        return self.offering.admit(peer("walnut"), submission(number, **wanted))

    def refused(self, number: int = 1, **wanted: Any) -> Refused:
        answer = self.admit(number, **wanted)
        assert isinstance(answer, Refused), answer
        self.assertEqual(self.availability.current_tasks, 0)
        return answer

    def test_taken(self) -> None:
        """What a task asks for is counted until it is given back, and told of."""
        answer = self.admit(cpus=3.0, memory=2 * GIB, gpus=1)
        assert isinstance(answer, dict)
        self.assertEqual(answer["CUDA_VISIBLE_DEVICES"], "0")
        self.assertEqual(self.availability.current_tasks, 1)
        self.assertEqual(self.offering.room(), FreeRoom(cpus=1.0, memory_bytes=6 * GIB, gpus=1))
        short = self.admit(2, cpus=2.0)
        self.assertEqual(
            short, Refused("needs 2 cores, and 1 core of 4 cores are free", for_good=False)
        )
        self.offering.give_back(submission(1).task)
        self.offering.give_back(submission(1).task)
        self.assertEqual(self.availability.current_tasks, 0)
        self.assertIsInstance(self.admit(2, cpus=2.0), dict)

    def test_rules(self) -> None:
        """Each rule refuses for good, with its reason, and only what it is about."""
        for rules, wanted, reason in (
            (
                {"forbidden_commands": ("ma*",)},
                {},
                'its owner forbids the command "make", by "ma*"',
            ),
            (
                {"forbidden_commands": ("sh",)},
                {"command": ("/bin/sh", "-c", "x")},
                'its owner forbids the command "/bin/sh", by "sh"',
            ),
            (
                {"forbidden_submitters": ("eve",)},
                {"submitter": "eve"},
                'its owner runs nothing of "eve"',
            ),
            (
                {"forbidden_submitters": ("walnut",)},
                {"submitter": "ada"},
                'its owner runs nothing of "walnut"',
            ),
            (
                {"forbidden_submitters": (name("walnut"),)},
                {},
                f'its owner runs nothing of "{name("walnut")}"',
            ),
            (
                {"profiles": ("no-network",)},
                {},
                'its owner does not allow the profile "default", but "no-network"',
            ),
            ({"cpus": 0.5}, {}, "needs 1 core, and it offers 0.5 cores to tasks"),
            ({"memory": GIB}, {"memory": 2 * GIB}, "needs 2 GiB, and it offers 1 GiB to tasks"),
            ({"gpus": 0}, {"gpus": 1}, "needs 1 GPU, and it offers 0 GPUs to tasks"),
        ):
            self.rule(**rules)
            self.assertEqual(self.refused(**wanted), Refused(reason, for_good=True))
            self.rule()
            self.assertIsInstance(self.admit(**wanted), dict, wanted)
            self.offering.give_back(submission().task)
        self.rule(forbidden_commands=("cc",), forbidden_submitters=("eve",), profiles=("default",))
        self.assertIsInstance(self.admit(submitter="ada"), dict)

    def test_lasting_reason_first(self) -> None:
        """A node that is drained, too, says what stays so."""
        self.availability.drain()
        self.assertFalse(self.refused().for_good)
        self.rule(forbidden_commands=("make",))
        self.assertIn("forbids", self.refused().reason)
        self.assertTrue(self.refused().for_good)

    def test_same_as_others_say(self) -> None:
        """Others, who have heard the rules, say the same of a task."""
        self.rule(forbidden_commands=("make",), profiles=("no-network",), cpus=0.5)
        own = self.offering.candidate()
        assert own is not None
        wanted = Wanted.of(submission(), "walnut")
        codes = [unfit.code for unfit in judge(wanted, compile_requirement(""), own)]
        self.assertEqual(codes, ["owner_command", "owner_profile", "cpus"])

    def test_role(self) -> None:
        """Nothing is taken by a node whose role runs no tasks, nor while it starts."""
        self.may_run = False
        self.assertTrue(self.refused().for_good)
        starting = Offering(
            name("ironwood"), lambda: self.document, self.availability, lambda: True, str
        )
        self.assertEqual(
            starting.admit(peer("walnut"), submission()), Refused("the node is starting")
        )
        self.assertEqual((starting.room(), starting.candidate()), (None, None))
        starting.look()
        starting.give_back("x")
        self.assertFalse(starting.is_started)

    def test_problem(self) -> None:
        """While no command can be run nothing is taken, and that may pass."""
        problem = "no bus"
        self.offering.problem = lambda: problem
        self.assertEqual(self.refused(), Refused("no bus"))
        problem = ""
        self.assertNotIsInstance(self.offering.admit(peer("walnut"), submission()), Refused)

    def test_requirement(self) -> None:
        """An expression that is none refuses, and so does one that is not true here."""
        self.assertTrue(self.refused(where="cpus +").for_good)
        self.assertTrue(self.refused(where="'vision' in capabilities").for_good)

    def test_found_later(self) -> None:
        """What is detected after the start is offered, and others hear of it."""
        self.document = facts(cpus=2, gpus=0).document
        self.offering.look()
        self.assertTrue(self.refused(gpus=1).for_good)
        before = self.changes
        self.document = facts(cpus=8, gpus=1).document
        self.offering.look()
        self.assertEqual(self.changes, before + 1)
        self.offering.look()
        self.assertEqual(self.changes, before + 1)
        self.assertIsInstance(self.admit(gpus=1, cpus=5.0), dict)

    def test_less_than_runs(self) -> None:
        """What runs goes on where less is offered, and nothing more is taken."""
        self.assertIsInstance(self.admit(cpus=3.0), dict)
        self.rule(cpus=2.0)
        self.assertEqual(self.offering.room(), FreeRoom(memory_bytes=8 * GIB, gpus=2))
        answer = self.admit(2)
        self.assertEqual(
            answer, Refused("needs 1 core, and 0 cores of 2 cores are free", for_good=False)
        )
        self.availability.set_max_tasks(0)
        self.offering.look()
        answer = self.admit(3)
        assert isinstance(answer, Refused)
        self.assertTrue(answer.for_good)

    def test_free_space(self) -> None:
        """What is free on its disk changes all the time, and nobody says so; it counts as it is."""
        resources = self.document.resources

        def free(gibibytes: int) -> None:
            self.document = msgspec.structs.replace(
                self.document,
                resources=msgspec.structs.replace(resources, disk_free_bytes=gibibytes * GIB),
            )

        free(5)
        self.offering.look()
        self.assertTrue(self.refused(where="resources.disk_free > gib(50)").for_good)
        free(100)
        self.assertIsInstance(self.admit(where="resources.disk_free > gib(50)"), dict)
        own = self.offering.candidate()
        assert own is not None
        self.assertEqual(own.facts.document.resources.disk_free_bytes, 100 * GIB)
        free(5)
        self.assertIsInstance(self.admit(2, where="resources.disk_free > gib(50)"), Refused)

    def test_limit_of_tasks(self) -> None:
        """Who is told that another number of tasks may run finds it in what is offered at once."""
        seen = []

        def look() -> None:
            own = self.offering.candidate()
            assert own is not None
            seen.append((own.max_tasks, own.offered.tasks))

        self.availability.on_change(look)
        for most in (0, 4):
            self.availability.set_max_tasks(most)
            self.offering.look()
        self.assertEqual(seen, [(0, 0), (0, 0), (4, 4), (4, 4)])

    def test_waits_for_limit(self) -> None:
        """A task that waits for a node that runs none begins when the node may run some."""
        clock, given = Clock(), []

        def place(task: str, peer: str) -> bool:
            given.append(peer)
            return True

        placing = Placing(
            clock, Random(1), place, lambda _: self.offering.candidate(), NAMES.__getitem__
        )
        self.addCleanup(placing.stop)
        self.availability.on_change(lambda: placing.own_changed(name("ironwood")))
        self.availability.set_max_tasks(0)
        self.offering.look()
        placing.member_changed(name("ironwood"))
        placing.want(record(None, 1))
        clock.advance(0)
        self.assertEqual(given, [])
        self.availability.set_max_tasks(4)
        self.offering.look()
        placing.member_changed(name("ironwood"))
        clock.advance(0)
        self.assertEqual(given, [name("ironwood")])
