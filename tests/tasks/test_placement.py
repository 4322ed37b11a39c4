"""Placement: who fits, who is chosen, why the others are not, and that nobody waits for ever."""

from __future__ import annotations

import fnmatch
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import msgspec
from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from bzzz.mesh.capability import CapabilityDocument, Gpu, OwnerRules, Resources
from bzzz.tasks import waiting
from bzzz.tasks.owner_rules import offered, refusals
from bzzz.tasks.placement import (
    Candidate,
    Outlook,
    Unfit,
    Wanted,
    choose,
    judge,
    outlook,
    suited,
    suits,
)
from bzzz.tasks.quarantine import Standing
from bzzz.tasks.requirements import Facts, compile
from bzzz.tasks.slots import Need, Room, Slots, Taken
from bzzz.tasks.submission import Submission, new_task_id
from bzzz.tasks.waiting import PATIENCE, Waiting

GIB = 1 << 30


def facts(cpus: int = 4, memory: int = 8 * GIB, gpus: int = 0, **fields: Any) -> Facts:
    resources = Resources(
        cpu_cores=cpus,
        memory_bytes=memory,
        gpus=(Gpu(name="RTX", vendor="nvidia", memory_bytes=24 * GIB),) * gpus,
    )
    return Facts(CapabilityDocument(node_id="n", resources=resources, **fields))


PLAIN = facts()


def member(name: str, known: Facts = PLAIN, max_tasks: int = 4, **fields: Any) -> Candidate:
    """A member that is idle, unless another room is given."""
    idle = Candidate(peer=f"peer-{name}", name=name, facts=known, max_tasks=max_tasks)
    fields.setdefault("room", idle.offered)
    return msgspec.structs.replace(idle, **fields)


def wanted(need: Need | None = None, where: str = "", on: str = "", **fields: Any) -> Wanted:
    return msgspec.structs.replace(
        Wanted(on, where, need or Need(), "default", "make", ("peer-origin",)), **fields
    )


def task(number: int) -> str:
    """IDs that sort by their number."""
    return new_task_id(number, bytes(10))


class JudgeTests(SynchronousTestCase):
    """What a member lacks for a task."""

    def judge(self, want: Wanted, candidate: Candidate) -> tuple[Unfit, ...]:
        requirement = compile(want.where)
        found = judge(want, requirement, candidate)
        standing = suits(want, requirement, candidate)
        self.assertEqual(
            suited(want, requirement, candidate, candidate.offered), not standing, found
        )
        self.assertEqual(found[: len(standing)], standing)
        return found

    def test_fits(self) -> None:
        """Nothing, where it fits."""
        self.assertEqual(self.judge(wanted(), member("walnut")), ())
        self.assertEqual(self.judge(wanted(on="peer-walnut"), member("walnut")), ())

    def test_each(self) -> None:
        """Each predicate that fails has a code, a text with what was seen, and its outlook."""
        busy = Room(0.5, 1 * GIB, 0, 2)
        for want, candidate, code, text, never in (
            (wanted(on="peer-acacia"), member("walnut"), "on", "for another member", True),
            (wanted(), member("walnut", may_run=False), "role", "its role runs no tasks", True),
            (wanted(), member("walnut", draining=True), "draining", "it is draining", False),
            (
                wanted(),
                member("walnut", standing=Standing.NONE),
                "quarantined",
                "tasks failed there that then succeeded elsewhere",
                False,
            ),
            (
                wanted(where='os == "Debian"'),
                member("walnut"),
                "where",
                'os == "Debian": false, os was ""',
                True,
            ),
            (
                wanted(Need(8.0)),
                member("walnut"),
                "cpus",
                "needs 8 cores, and it offers 4 cores to tasks",
                True,
            ),
            (
                wanted(Need(1.0, 9 * GIB)),
                member("walnut"),
                "memory",
                "needs 9 GiB, and it offers 8 GiB to tasks",
                True,
            ),
            (wanted(Need(1.0, 0, 1)), member("walnut"), "gpus", "it offers 0 GPUs", True),
            (wanted(), member("walnut", max_tasks=0), "tasks", "it is set to run no tasks", True),
            (
                wanted(),
                member("walnut", room=busy),
                "cpus_free",
                "needs 1 core, and 0.5 cores of 4 cores are free",
                False,
            ),
            (
                wanted(Need(0.5, 2 * GIB)),
                member("walnut", room=busy),
                "memory_free",
                "needs 2 GiB, and 1 GiB of 8 GiB are free",
                False,
            ),
            (
                wanted(Need(0.5, 0, 1)),
                member("walnut", facts(gpus=1), room=busy),
                "gpus_free",
                "needs 1 GPU, and 0 GPUs of 1 GPU are free",
                False,
            ),
            (
                wanted(),
                member("walnut", room=Room(4.0, 8 * GIB, 0, 0)),
                "tasks_free",
                "it runs 4 tasks, as many as it may",
                False,
            ),
            (
                wanted(),
                member("walnut", standing=Standing.TRIAL),
                "quarantined",
                "has the one task that shows whether it is well",
                False,
            ),
            (
                wanted(command="/sbin/reboot"),
                member("walnut", rules=OwnerRules(forbidden_commands=("re*",))),
                "owner_command",
                'its owner forbids the command "/sbin/reboot", by "re*"',
                True,
            ),
        ):
            (unfit,) = self.judge(want, candidate)
            self.assertEqual((unfit.code, unfit.never), (code, never))
            self.assertIn(text, unfit.text)

    def test_all(self) -> None:
        """All that fail are told, those that are for ever first."""
        want = wanted(Need(8.0, 2 * GIB), 'os == "x" && name == "y"', on="peer-acacia")
        found = self.judge(want, member("walnut", draining=True, room=Room(0.0, GIB, 0, 1)))
        codes = [unfit.code for unfit in found]
        self.assertEqual(codes, ["on", "draining", "where", "where", "cpus", "memory_free"])

    def test_outlook(self) -> None:
        """Now, where somebody lacks nothing; later, where somebody lacks nothing for ever."""
        now: tuple[Unfit, ...] = ()
        later = (Unfit("draining", "", never=False),)
        never = (Unfit("draining", "", never=False), Unfit("where", "", never=True))
        self.assertIs(outlook([never, later, now]), Outlook.NOW)
        self.assertIs(outlook([never, later]), Outlook.LATER)
        self.assertIs(outlook([never]), Outlook.NEVER)
        self.assertIs(outlook([]), Outlook.NEVER)

    def test_wanted(self) -> None:
        """A submission asks as much; tasks that ask for the same are equal."""
        submission = Submission(
            task=task(1),
            origin="peer-origin",
            replicas=("peer-origin",),
            command=("make", "-j8"),
            submitter="ada",
            cpus=2.0,
            memory=GIB,
            gpus=1,
        )
        want = Wanted.of(submission, "walnut")
        self.assertEqual(want.need, Need(2.0, GIB, 1))
        self.assertEqual(want.submitters, ("ada", "walnut", "peer-origin"))
        other = msgspec.structs.replace(submission, task=task(2), command=("make", "-j4"))
        self.assertEqual({want}, {Wanted.of(other, "walnut")})


class OwnerRulesTests(SynchronousTestCase):
    """What an owner forbids and offers."""

    def test_commands(self) -> None:
        """Patterns hold for the whole first word and for what is behind its last slash."""
        rules = OwnerRules(forbidden_commands=("docker", "/opt/*", "*.sh"))
        for command, forbidden in (
            ("docker", True),
            ("/usr/bin/docker", True),
            ("dockerd", False),
            ("/opt/x/y", True),
            ("opt", False),
            ("./run.sh", True),
            ("DOCKER", False),
        ):
            found = refusals(rules, command, (), "default")
            self.assertEqual([code for code, _ in found], ["owner_command"] * forbidden, command)

    def test_long(self) -> None:
        """A command that is longer than any path is not held against patterns, nor let through."""
        rules = OwnerRules(forbidden_commands=("x",))
        ((code, text),) = refusals(rules, "a" * 4097, (), "default")
        self.assertEqual(code, "owner_command")
        self.assertIn("longer than a path can be", text)
        self.assertEqual(refusals(rules, "a" * 4096, (), "default"), ())
        self.assertEqual(refusals(OwnerRules(), "a" * 4097, (), "default"), ())

    @settings(max_examples=300, deadline=None)
    @given(st.text("ab**", max_size=6), st.text("ab", max_size=4))
    @example("a*b*b", "ab")
    @example("a*a", "a")
    def test_patterns(self, pattern: str, command: str) -> None:
        """They match what a shell's pattern with the same signs matches."""
        rules = OwnerRules(forbidden_commands=(pattern,))
        found = bool(refusals(rules, command, (), "default"))
        self.assertEqual(found, fnmatch.fnmatchcase(command, pattern))

    def test_submitters(self) -> None:
        """A user, a machine or a peer ID that is forbidden, and which of them."""
        rules = OwnerRules(forbidden_submitters=("mallory", "peer-evil"))
        found = refusals(rules, "x", ("ada", "mallory", "peer-evil"), "default")
        self.assertEqual(found, (("owner_submitter", 'its owner runs nothing of "mallory"'),))
        self.assertEqual(refusals(rules, "x", ("ada", ""), "default"), ())

    def test_profiles(self) -> None:
        """Only those that are allowed, and all where none is named."""
        rules = OwnerRules(profiles=("default", "no-network"))
        ((code, text),) = refusals(rules, "x", (), "trusted")
        self.assertEqual(code, "owner_profile")
        self.assertIn('"trusted", but "default", "no-network"', text)
        self.assertEqual(refusals(OwnerRules(), "x", (), "trusted"), ())

    def test_offered(self) -> None:
        """No more than the machine has, and no more than its owner offers."""
        resources = facts(cpus=8, memory=32 * GIB, gpus=2).document.resources
        self.assertEqual(offered(resources, OwnerRules(), 3), Room(8.0, 32 * GIB, 2, 3))
        rules = OwnerRules(cpus=2.5, memory=64 * GIB, gpus=1)
        self.assertEqual(offered(resources, rules, 3), Room(2.5, 32 * GIB, 1, 3))
        self.assertEqual(offered(resources, OwnerRules(cpus=0, memory=0, gpus=0), 3), Room(tasks=3))

    def test_plain(self) -> None:
        """They go into a document and come out of it."""
        rules = OwnerRules(forbidden_commands=("x",), cpus=1.5)
        self.assertEqual(msgspec.json.encode(rules), b'{"forbidden_commands":["x"],"cpus":1.5}')
        self.assertEqual(msgspec.json.decode(msgspec.json.encode(rules), type=OwnerRules), rules)


class ChooseTests(SynchronousTestCase):
    """Who is chosen of those that fit."""

    def test_two(self) -> None:
        """Of two, the one of which less is taken; none of none; those that are avoided never."""
        rng = random.Random(1)
        idle, busy = member("idle", part=0.1), member("busy", part=0.9)
        for _ in range(20):
            self.assertIs(choose([busy, idle], rng), idle)
        self.assertIs(choose([busy], rng), busy)
        self.assertIsNone(choose([], rng))
        self.assertIs(choose([busy, idle], rng, {"peer-idle"}), busy)
        self.assertIsNone(choose([busy, idle], rng, {"peer-idle", "peer-busy"}))

    def test_no_herd(self) -> None:
        """Of many, the one that is idle is not everybody's, and the busiest is nobody's."""
        rng = random.Random(1)
        members = [member(str(number), part=number / 10) for number in range(10)]
        chosen = Counter(getattr(choose(members, rng), "name", "") for _ in range(2000))
        self.assertEqual(chosen["9"], 0)
        self.assertTrue(300 < chosen["0"] < 500, chosen)
        self.assertGreater(chosen["0"], chosen["5"])
        self.assertGreater(chosen["8"], 0)


class WaitingTests(SynchronousTestCase):
    """The tasks that wait."""

    def setUp(self) -> None:
        self.now = 1000.0
        self.waiting = Waiting(random.Random(1))

    def add(self, number: int, want: Wanted | None = None, priority: int = 0) -> str:
        want = want or wanted()
        self.waiting.add(task(number), want, compile(want.where), priority, self.now)
        return task(number)

    def place(self) -> list[tuple[int, str]]:
        numbers = {task(number): number for number in range(300)}
        placed: list[tuple[int, str]] = []
        more = True
        while more:
            some, more = self.waiting.place(self.now)
            placed += [(numbers[one.task], one.peer.removeprefix("peer-")) for one in some]
        return placed

    def test_at_once(self) -> None:
        """A task that fits is placed at once, and the room counts it from then on."""
        self.waiting.member(member("walnut", max_tasks=2))
        for number in range(3):
            self.add(number)
        self.assertEqual(self.place(), [(0, "walnut"), (1, "walnut")])
        self.assertEqual(len(self.waiting), 1)
        self.assertIn(task(2), self.waiting)
        self.assertEqual(self.place(), [])

    def test_order(self) -> None:
        """By priority, then age, across what they ask for."""
        big = wanted(Need(2.0))
        for number, want, priority in ((3, big, 0), (1, wanted(), 0), (2, big, 0), (4, big, 5)):
            self.add(number, want, priority)
        self.waiting.member(member("walnut", facts(cpus=64), 64))
        self.assertEqual([number for number, _ in self.place()], [4, 1, 2, 3])

    def test_smaller_passes(self) -> None:
        """Where the first does not fit, one behind it that does is placed."""
        self.add(1, wanted(Need(4.0)), 5)
        self.add(2)
        self.waiting.member(member("walnut", room=Room(2.0, GIB, 0, 2)))
        self.assertEqual(self.place(), [(2, "walnut")])

    def test_room(self) -> None:
        """It is placed when a slot becomes free, a document changes or a member comes."""
        want = wanted(where='"llama" in models')
        self.add(1, want)
        self.add(2, want)
        self.add(3, want)
        self.waiting.member(member("walnut"))
        self.assertEqual(self.place(), [])
        able = facts(models=("llama",))
        self.waiting.member(member("walnut", able, room=Room()))
        self.assertEqual(self.place(), [])
        self.waiting.member(member("walnut", able, room=Room(1.0, GIB, 0, 1)))
        self.assertEqual(self.place(), [(1, "walnut")])
        self.waiting.member(member("acacia", able, max_tasks=1))
        self.assertEqual(self.place(), [(2, "acacia")])
        self.waiting.member(member("ironwood", able, draining=True))
        self.assertEqual(self.place(), [])
        self.waiting.member(member("ironwood", able))
        self.assertEqual(self.place(), [(3, "ironwood")])

    def test_nothing_twice(self) -> None:
        """A class is looked at again only by the members that have changed."""
        judged: list[str] = []

        def spy(want: Wanted, *arguments: Any) -> bool:
            judged.append(arguments[1].name)
            return suited(want, *arguments)

        self.patch(waiting, "suited", spy)
        self.add(1, wanted(where='"llama" in models'))
        for name in ("walnut", "acacia", "ironwood"):
            self.waiting.member(member(name))
        self.place()
        self.assertEqual(sorted(judged), ["acacia", "ironwood", "walnut"])
        judged.clear()
        self.add(2, wanted(where='"llama" in models'))
        for cpus in (1.0, 2.0):
            # More room than before: the class is looked at, and what was found holds.
            self.waiting.member(member("walnut", room=Room(cpus, GIB, 0, 1)))
            self.place()
        self.assertEqual(judged, [])
        self.waiting.member(member("walnut", facts(models=("other",))))
        self.place()
        self.assertEqual(judged, ["walnut"])

    def test_offers(self) -> None:
        """What a member says before it has answered an offer does not count that one."""
        self.waiting.member(member("walnut", max_tasks=1))
        self.add(1)
        self.add(2)
        self.assertEqual(self.place(), [(1, "walnut")])
        self.waiting.member(member("walnut", max_tasks=1))
        self.assertEqual(self.place(), [])
        self.waiting.answered(task(1), "peer-walnut")
        self.waiting.member(member("walnut", max_tasks=1))
        self.assertEqual(self.place(), [(2, "walnut")])

    def test_avoid(self) -> None:
        """Who refused gets nothing for a while, or until it says what is free."""
        for name in ("walnut", "acacia"):
            self.waiting.member(member(name, max_tasks=100, known=facts(cpus=100)))
        self.waiting.avoid("peer-walnut", self.now + 5, "it is full")
        for number in range(10):
            self.add(number)
        self.assertEqual({peer for _, peer in self.place()}, {"acacia"})
        self.waiting.gone("peer-acacia")
        self.add(20)
        self.assertEqual(self.place(), [])
        self.assertEqual(self.waiting.wakes_at(), self.now + 5)
        ((_, unfits),) = self.waiting.judge(task(20), self.now)
        self.assertEqual(unfits, (Unfit("avoided", "it is full", never=False),))
        self.now += 5
        self.assertEqual(self.place(), [(20, "walnut")])
        self.waiting.avoid("peer-walnut", self.now + 5, "it is full")
        self.add(21)
        self.waiting.member(member("walnut", max_tasks=100, known=facts(cpus=100)))
        self.assertEqual(self.place(), [(21, "walnut")])

    def test_avoid_until_it_says_something(self) -> None:
        """What waited meanwhile is placed then, though no more is free than before."""
        walnut = member("walnut")
        self.waiting.member(walnut)
        self.waiting.avoid("peer-walnut", self.now + 5, "it is full")
        self.add(1)
        self.assertEqual(self.place(), [])
        self.waiting.member(walnut, said=False)
        self.assertEqual(self.place(), [])
        self.waiting.member(walnut)
        self.assertEqual(self.place(), [(1, "walnut")])

    def test_remove(self) -> None:
        """A task that was cancelled is not placed, and one that comes again is there once."""
        for number in range(3):
            self.add(number)
            self.add(number)
        self.waiting.remove(task(1))
        self.waiting.remove(task(9))
        self.waiting.member(member("walnut"))
        self.assertEqual(self.place(), [(0, "walnut"), (2, "walnut")])
        self.assertEqual((len(self.waiting), self.waiting.classes), (0, 0))

    def test_gone(self) -> None:
        """A member that is gone gets nothing, and is judged anew when it comes back."""
        self.waiting.member(member("walnut"))
        self.waiting.gone("peer-walnut")
        self.waiting.gone("peer-walnut")
        self.add(1, wanted(where='"llama" in models'))
        self.assertEqual(self.place(), [])
        self.waiting.member(member("walnut", facts(models=("llama",))))
        self.assertEqual(self.place(), [(1, "walnut")])

    def test_bits(self) -> None:
        """What was found of a member that is gone does not hold for the one that follows it."""
        self.waiting.member(member("walnut"))
        self.add(1, wanted(where='"llama" in models'))
        self.place()
        self.waiting.gone("peer-walnut")
        self.waiting.member(member("acacia", facts(models=("llama",))))
        self.waiting.member(member("ironwood"))
        self.assertEqual(self.place(), [(1, "acacia")])

    def test_one_task(self) -> None:
        """A member that comes out of quarantine gets one task, whatever it still runs, and no more
        until that has ended."""
        self.waiting.member(member("walnut", standing=Standing.NONE))
        for number in range(3):
            self.add(number)
        self.assertEqual(self.place(), [])
        running = Room(3.0, 8 * GIB, 0, 3)
        self.waiting.member(member("walnut", standing=Standing.ONE, room=running))
        self.assertEqual(self.place(), [(0, "walnut")])
        self.waiting.answered(task(0), "peer-walnut")
        self.waiting.member(member("walnut", standing=Standing.TRIAL, room=running))
        self.assertEqual(self.place(), [])
        self.waiting.member(member("walnut", room=running))
        self.assertEqual(self.place(), [(1, "walnut"), (2, "walnut")])

    def test_kept_free(self) -> None:
        """After 60 s a member keeps free what the oldest needs, and no more than that."""
        self.waiting.member(member("walnut", facts(gpus=2), 10, room=Room(2.0, 8 * GIB, 2, 9)))
        big = self.add(1, wanted(Need(4.0)))
        self.assertEqual(self.place(), [])
        self.now += PATIENCE - 1
        self.assertEqual(self.waiting.wakes_at(), self.now + 1)
        self.add(2)
        self.assertEqual(self.place(), [(2, "walnut")])
        self.now += 1
        self.add(3)
        self.assertEqual(self.place(), [])
        self.assertEqual(self.waiting.kept, {"peer-walnut": big})
        ((_, unfits),) = self.waiting.judge(task(3), self.now)
        self.assertEqual([unfit.code for unfit in unfits], ["kept"])
        self.assertIn(big, unfits[0].text)
        # It needs no graphics processor.
        self.add(4, wanted(Need(0.0, 0, 1)))
        self.assertEqual(self.place(), [(4, "walnut")])
        for number in (2, 4):
            self.waiting.answered(task(number), "peer-walnut")
        self.waiting.member(member("walnut", facts(gpus=2), 10))
        self.assertEqual(self.place(), [(1, "walnut")])
        self.assertEqual(self.waiting.kept, {})

    def test_kept_elsewhere(self) -> None:
        """Another member that has room takes it, and the one that kept some gives it to others."""
        self.waiting.member(member("walnut", room=Room(2.0, 8 * GIB, 0, 4)))
        self.add(1, wanted(Need(4.0)))
        self.now += PATIENCE
        self.add(2)
        self.assertEqual(self.place(), [])
        self.waiting.member(member("acacia"))
        self.assertEqual(self.place(), [(1, "acacia"), (2, "walnut")])

    def test_kept_by_another(self) -> None:
        """Where the member that keeps is draining, gone or changed, another one keeps."""
        for change in ("draining", "gone", "changed"):
            self.setUp()
            for name in ("walnut", "acacia"):
                self.waiting.member(member(name, room=Room(2.0, 8 * GIB, 0, 4)))
            self.add(1, wanted(Need(4.0)))
            self.now += PATIENCE
            self.place()
            (first,) = self.waiting.kept
            name = first.removeprefix("peer-")
            if change == "draining":
                self.waiting.member(member(name, draining=True))
            elif change == "gone":
                self.waiting.gone(first)
            else:
                self.waiting.member(member(name, facts(cpus=2)))
            self.assertEqual(self.waiting.kept, {})
            self.now = self.waiting.wakes_at()
            self.place()
            (second,) = self.waiting.kept
            self.assertNotEqual(first, second)

    def test_cancelled(self) -> None:
        """Nothing is kept for a task that was cancelled."""
        self.waiting.member(member("walnut", room=Room(2.0, 8 * GIB, 0, 4)))
        big = self.add(1, wanted(Need(4.0)))
        self.now += PATIENCE
        self.add(2)
        self.assertEqual(self.place(), [])
        self.waiting.remove(big)
        self.assertEqual(self.place(), [(2, "walnut")])

    def test_slices(self) -> None:
        """The work of a change is done in slices, with the same result and in the same order."""
        placed = []
        for looks in (1, 1_000_000):
            there = Waiting(random.Random(1))
            for number in range(200):
                want = wanted(Need(1.0 + number % 7, number % 50), f"resources.cpus > {number % 9}")
                there.add(task(number), want, compile(want.where), number % 3, 0.0)
            there.member(member("walnut", facts(cpus=64), 8))
            some, more = there.place(0.0, looks)
            slices = 1
            while more:
                next_ones, more = there.place(0.0, looks)
                some += next_ones
                slices += 1
            self.assertEqual(slices > 8, looks == 1)
            placed.append(some)
        self.assertEqual(len(placed[0]), 8)
        self.assertEqual(placed[0], placed[1])

    def test_change_between_slices(self) -> None:
        """What a member says between two slices is for the first whose turn it is."""
        for number, need, priority in ((1, Need(4.0), 5), (2, Need(3.0), 4), (3, Need(2.0), 0)):
            self.add(number, wanted(need), priority)
        self.waiting.member(member("walnut", room=Room(1.0, GIB, 0, 1)))
        self.assertEqual(self.waiting.place(self.now, 1), ([], True))
        self.waiting.member(member("walnut", max_tasks=1))
        self.assertEqual(self.place(), [(1, "walnut")])


class Mesh:
    """Members with slots, a queue of tasks, and tasks that run for some time."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.waiting = Waiting(self.rng)
        self.slots: dict[str, Slots] = {}
        self.members: dict[str, Candidate] = {}
        self.running: list[tuple[float, str, str]] = []
        self.needs: dict[str, Need] = {}
        self.started: dict[str, float] = {}
        self.refused = 0
        for name in ("walnut", "acacia", "ironwood"):
            candidate = member(name, facts(self.rng.choice((2, 4, 8)), gpus=self.rng.randrange(3)))
            room = candidate.offered
            self.slots[candidate.peer] = Slots(room.cpus, room.memory, range(room.gpus), room.tasks)
            self.members[candidate.peer] = candidate
            self.waiting.member(candidate)

    def submit(self, name: str, need: Need, now: float, priority: int = 0) -> None:
        self.needs[name] = need
        self.waiting.add(name, wanted(need), compile(""), priority, now)

    def step(self, now: float) -> None:
        for item in [item for item in self.running if item[0] <= now]:
            self.running.remove(item)
            self.slots[item[2]].give_back(item[1])
            self.tell(item[2])
        more = True
        while more:
            placed, more = self.waiting.place(now, 50)
            for one in placed:
                taken = self.slots[one.peer].take(one.task, self.needs[one.task])
                self.waiting.answered(one.task, one.peer)
                if isinstance(taken, Taken):
                    self.started[one.task] = now
                    over = now + self.rng.uniform(1, 10)
                    self.running.append((over, one.task, one.peer))
                else:
                    self.refused += 1

    def tell(self, peer: str) -> None:
        there = self.slots[peer]
        self.waiting.member(
            msgspec.structs.replace(self.members[peer], room=there.free, part=there.part)
        )


def stream(mesh: Mesh) -> Iterator[tuple[str, Need, int]]:
    """Small tasks of a great priority, more than there is room for."""
    number = 0
    while True:
        number += 1
        yield f"small{number}", Need(mesh.rng.choice((0.5, 1.0))), mesh.rng.choice((0, 5))


class FairnessTests(SynchronousTestCase):
    """Nobody waits for ever."""

    def starts(self, seed: int) -> tuple[dict[str, float], Mesh]:
        """When the large tasks start, of those that fit somewhere, under a stream of small ones."""
        mesh = Mesh(seed)
        small = stream(mesh)
        large: list[str] = []
        for step in range(200):
            now = float(step)
            for _ in range(6):
                name, need, priority = next(small)
                # They come faster than they are run; what is too much gives up, as people do.
                if len(mesh.waiting) < 60:
                    mesh.submit(name, need, now, priority)
            if step in (1, 2, 3):
                need = Need(mesh.rng.choice((2.0, 4.0, 8.0)), 0, mesh.rng.randrange(2))
                if any(each.offered.has(need) for each in mesh.members.values()):
                    large.append(f"large{step}")
                    mesh.submit(large[-1], need, now, -5)
            mesh.step(now)
        return {name: mesh.started.get(name, float("inf")) for name in large}, mesh

    @settings(max_examples=20, deadline=None)
    @given(st.integers(0, 1 << 32))
    def test_placed(self, seed: int) -> None:
        """Each task that fits somewhere starts, however many smaller ones come before it."""
        starts, mesh = self.starts(seed)
        for name, start in starts.items():
            # After the patience, the longest run of each of the three, and a search between.
            self.assertLess(start, PATIENCE + 3 * 20, name)
        # Room that is told at once is never given twice.
        self.assertEqual(mesh.refused, 0)
        for peer, there in mesh.slots.items():
            count = sum(item[2] == peer for item in mesh.running)
            self.assertEqual(len(there), count)

    def test_starved(self) -> None:
        """Found: a queue that keeps nothing free lets them starve."""
        self.patch(waiting, "PATIENCE", 1e9)
        waits = [start for seed in range(10) for start in self.starts(seed)[0].values()]
        self.assertIn(float("inf"), waits)

    @settings(max_examples=50, deadline=None)
    @given(st.data())
    def test_no_task_waits_beside_room(self, data: st.DataObject) -> None:
        """Whatever happens, no task waits that a member has room for, apart from what is kept."""
        there = Waiting(random.Random(1))
        now = 0.0
        number = 0
        names = ("walnut", "acacia", "ironwood")
        for _ in range(data.draw(st.integers(1, 40))):
            act = data.draw(
                st.sampled_from(["add", "add", "member", "member", "gone", "remove", "wait"])
            )
            name = data.draw(st.sampled_from(names))
            if act == "add":
                number += 1
                need = Need(float(data.draw(st.integers(1, 4))))
                want = wanted(need, data.draw(st.sampled_from(["", "resources.gpus.size() > 0"])))
                priority = data.draw(st.integers(0, 1))
                there.add(task(number), want, compile(want.where), priority, now)
            elif act == "member":
                room = Room(
                    float(data.draw(st.integers(0, 4))), GIB, 0, data.draw(st.integers(0, 3))
                )
                known = data.draw(st.sampled_from([PLAIN, WITH_GPU]))
                draining = data.draw(st.booleans())
                there.member(member(name, known, room=room, draining=draining))
            elif act == "gone":
                there.gone(f"peer-{name}")
            elif act == "remove":
                there.remove(task(data.draw(st.integers(1, number + 1))))
            else:
                now += data.draw(st.sampled_from([1.0, 30.0, 100.0]))
            more = True
            while more:
                placed, more = there.place(now, data.draw(st.integers(1, 20)))
                for one in placed:
                    there.answered(*one)
            for each in range(1, number + 1):
                for candidate, unfits in there.judge(task(each), now):
                    self.assertTrue(unfits, (task(each), candidate.name))


WITH_GPU = facts(gpus=1)
