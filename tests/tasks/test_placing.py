"""Finding workers: what is free on members as tasks come and go, and who gets one to be tried."""

from __future__ import annotations

from random import Random
from typing import Any

import msgspec
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from bzzz.tasks import record as states
from bzzz.tasks.placement import Candidate
from bzzz.tasks.placing import AVOID_SILENT, SILENT, Placing
from bzzz.tasks.quarantine import FAILURES, FIRST
from bzzz.tasks.record import End, Policy, TaskState
from bzzz.tasks.slots import Room
from bzzz.tasks.value import TaskRecord
from tests.tasks.fakes import name, record
from tests.tasks.test_placement import facts, member

MEMBERS = ("hazel", "acacia")


class PlacingCase(SynchronousTestCase):
    """One node's placing among two members.

    :ivar given: which task was given to whom, in this order.
    :ivar takes: whether the driver takes what is given.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.machines: dict[str, Candidate] = {
            name(each): msgspec.structs.replace(member(each, facts(cpus=4)), peer=name(each))
            for each in MEMBERS
        }
        self.given: list[tuple[int, str]] = []
        self.takes = True
        self.records: dict[int, TaskRecord] = {}
        self.placing = Placing(
            self.clock, Random(1), self.place, self.machines.get, self.names().__getitem__
        )
        self.addCleanup(self.placing.stop)
        for each in MEMBERS:
            self.placing.member_changed(name(each))

    def names(self) -> dict[str, str]:
        return {name(each): each for each in (*MEMBERS, "walnut", "ironwood")}

    def place(self, task: str, peer: str) -> bool:
        number = next(each for each, known in self.records.items() if known.task == task)
        self.given.append((number, self.names()[peer]))
        return self.takes

    # -- what a driver does

    def want(self, number: int, **fields: Any) -> None:
        """A task waits, and is looked at."""
        self.records[number] = record(None, number, **fields)
        self.placing.want(self.records[number])
        self.clock.advance(0)

    def assign(self, number: int, machine: str, mine: bool = True) -> None:
        """It is recorded that a machine has a task."""
        before = self.records[number]
        state = states.assign(before.state, before.state.token, name(machine))
        self.change(number, state)
        record = self.records[number]
        self.placing.assigned(record.submission, record.state.token, record.state.worker, mine)

    def finish(self, number: int, end: End) -> None:
        """The attempt is over, and that is decided."""
        state = self.records[number].state
        if end is End.LOST:
            after = states.lose(state, Policy(), state.token, "")
        elif end is End.REFUSED:
            after = states.refuse(state, state.worker, state.token, "it is full")
        else:
            after = states.finish(state, Policy(retries=9), state.worker, state.token, end, 1)
        self.change(number, after)
        self.placing.over(self.records[number].task)

    def change(self, number: int, state: TaskState | None) -> None:
        assert state is not None
        self.records[number] = msgspec.structs.replace(self.records[number], state=state)

    def ran(self, number: int, machine: str, end: End) -> None:
        """A task was run, by whomever it was placed."""
        self.records.setdefault(number, record(None, number))
        self.assign(number, machine)
        self.finish(number, end)
        self.placing.ended(self.records[number])

    def quarantine(self, machine: str = "hazel", other: str = "acacia") -> None:
        """A member is quarantined: tasks fail there that succeed elsewhere."""
        for number in range(100, 100 + FAILURES):
            self.ran(number, machine, End.FAILED)
            self.ran(number, other, End.DONE)
        self.assertEqual(list(self.placing.quarantined), [name(machine)])
        self.flushLoggedErrors()


class TrialTests(PlacingCase):
    """What a member gets that was in quarantine."""

    def setUp(self) -> None:
        super().setUp()
        self.quarantine()
        # From here on nobody else is there to be given anything.
        del self.machines[name("acacia")]
        self.placing.member_changed(name("acacia"))

    def test_when_it_is_over(self) -> None:
        """It gets one at that moment, also when it says nothing, and no other."""
        for number in range(1, 4):
            self.want(number)
        self.clock.advance(FIRST - 1)
        self.assertEqual(self.given, [])
        self.clock.advance(1)
        self.clock.advance(0)
        self.assertEqual(self.given, [(1, "hazel")])

    def waits(self) -> None:
        """Three tasks wait, and the quarantine is over."""
        self.clock.advance(FIRST)
        for number in range(1, 4):
            self.want(number)
        self.assertEqual(self.given, [(1, "hazel")])

    def test_until_it_is_recorded(self) -> None:
        """What it says between is no reason to give it another one."""
        self.waits()
        for _ in range(3):
            self.placing.member_changed(name("hazel"))
            self.clock.advance(1)
        self.assertEqual(self.given, [(1, "hazel")])
        self.assign(1, "hazel")
        self.clock.advance(60)
        self.assertEqual(self.given, [(1, "hazel")])

    def test_success(self) -> None:
        """It gets as many as it has room for."""
        self.waits()
        self.ran(1, "hazel", End.DONE)
        self.clock.advance(0)
        self.assertEqual(self.given[1:], [(2, "hazel"), (3, "hazel")])

    def test_failure(self) -> None:
        """It gets nothing for twice as long, then one again."""
        self.waits()
        self.ran(1, "hazel", End.FAILED)
        self.assertEqual(self.placing.quarantined, {name("hazel"): 2 * FIRST})
        self.clock.pump([1.0] * int(2 * FIRST - 1))
        self.assertEqual(self.given, [(1, "hazel")])
        self.clock.pump([1.0] * 2)
        self.assertEqual(self.given, [(1, "hazel"), (2, "hazel")])

    def test_failure_of_before(self) -> None:
        """The task that tries it counts, not one that it had begun before."""
        self.records[50] = record(None, 50)
        self.assign(50, "hazel")
        self.waits()
        self.assign(1, "hazel")
        self.finish(50, End.FAILED)
        self.placing.ended(self.records[50])
        self.clock.advance(10)
        self.assertEqual((self.placing.quarantined, self.given), ({}, [(1, "hazel")]))

    def test_nothing_learnt(self) -> None:
        """A refusal, a lost worker and a cancel say nothing of it: it gets another one."""
        self.waits()
        self.assign(1, "hazel")
        self.placing.refused(self.records[1].submission, name("hazel"), "it is full", False)
        self.finish(1, End.REFUSED)
        self.clock.pump([0.5] * 4)
        self.assertEqual(self.given[1:], [(2, "hazel")])
        self.ran(2, "hazel", End.LOST)
        self.clock.advance(0)
        self.assertEqual(self.given[2:], [(3, "hazel")])
        self.want(4)
        self.ran(3, "hazel", End.CANCELLED)
        self.clock.advance(0)
        self.assertEqual(self.given[3:], [(4, "hazel")])

    def test_cancelled_before(self) -> None:
        """One that was cancelled before it was recorded where it runs does not count either."""
        self.waits()
        self.change(1, states.cancel(self.records[1].state))
        self.placing.ended(self.records[1])
        self.clock.advance(0)
        self.assertEqual(self.given[1:], [(2, "hazel")])

    def test_not_placed(self) -> None:
        """One that the driver could not give it does not count, nor one that went elsewhere."""
        self.takes = False
        self.clock.advance(FIRST)
        self.want(1)
        self.takes = True
        self.want(2)
        self.assertEqual(self.given, [(1, "hazel"), (2, "hazel")])
        self.assign(2, "acacia")
        self.want(3)
        self.assertEqual(self.given[2:], [(3, "hazel")])
        self.placing.want(self.records[3])
        self.clock.advance(0)
        self.assertEqual(self.given[3:], [(3, "hazel")])

    def test_by_another(self) -> None:
        """The one may be given to it by another driver, while it waits here as well."""
        self.clock.advance(FIRST)
        self.takes = False
        self.want(1)
        self.takes = True
        self.given.clear()
        self.assign(1, "hazel")
        self.placing.drop(self.records[1].task)
        self.want(2)
        self.assertEqual(self.given, [])
        ((_, (unfit,)),) = self.placing.why(record().submission)
        self.assertEqual(unfit.code, "quarantined")

    def test_suggest(self) -> None:
        """It is not suggested for a new task: before one is recorded, others would be as well."""
        self.clock.advance(FIRST)
        wanted = record(None, 1).submission
        self.assertEqual(self.placing.suggest(wanted), "")
        self.want(1)
        self.assertEqual(self.given, [(1, "hazel")])
        self.ran(1, "hazel", End.DONE)
        self.assertEqual(self.placing.suggest(wanted), name("hazel"))

    def test_undecided(self) -> None:
        """A failure is counted as soon as the task waits again, though others recorded it."""
        self.waits()
        self.assign(1, "hazel")
        self.finish(1, End.FAILED)
        self.placing.want(self.records[1])
        self.clock.advance(0)
        self.assertEqual(self.given, [(1, "hazel")])
        self.assertEqual(self.placing.quarantined, {name("hazel"): 2 * FIRST})


class RoomTests(PlacingCase):
    """What is free, as far as this node knows."""

    def test_given_and_over(self) -> None:
        """What a member was given since it said what is free is taken, until it is over."""
        del self.machines[name("acacia")]
        self.placing.member_changed(name("acacia"))
        for number in range(1, 7):
            self.want(number)
        self.assertEqual([number for number, _ in self.given], [1, 2, 3, 4])
        for number in range(1, 5):
            self.assign(number, "hazel")
        self.clock.advance(0)
        self.assertEqual(self.placing.suggest(record(None, 9).submission), "")
        self.ran_out(1)
        self.assertEqual([number for number, _ in self.given], [1, 2, 3, 4, 5])
        # What it counts itself when it says something is not free a second time when it is over.
        full = msgspec.structs.replace(
            self.machines[name("hazel")], room=msgspec.structs.replace(self.room, tasks=0, cpus=0.0)
        )
        self.machines[name("hazel")] = full
        self.assign(5, "hazel")
        self.placing.member_changed(name("hazel"))
        self.ran_out(2)
        self.assertEqual([number for number, _ in self.given], [1, 2, 3, 4, 5, 6])

    @property
    def room(self) -> Any:
        return self.machines[name("hazel")].offered

    def ran_out(self, number: int) -> None:
        self.finish(number, End.DONE)
        self.placing.ended(self.records[number])
        self.clock.advance(0)

    def test_given_by_others(self) -> None:
        """What another node has given to a member is in what the member says, and in that alone:
        that may come before this node's replica has the record."""
        del self.machines[name("acacia")]
        self.placing.member_changed(name("acacia"))
        half = msgspec.structs.replace(self.room, tasks=1, cpus=1.0)
        known = msgspec.structs.replace(self.machines[name("hazel")], room=half)
        self.machines[name("hazel")] = known
        self.placing.member_changed(name("hazel"))
        self.records[1] = record(None, 1)
        self.assign(1, "hazel", mine=False)
        self.assertEqual(self.placing.suggest(record(None, 9).submission), name("hazel"))
        self.finish(1, End.DONE)
        self.want(2)
        self.want(3)
        self.assertEqual(self.given, [(2, "hazel")])

    def test_could_run(self) -> None:
        """A task could run where it suits a member, though that is full or busy; else not."""
        small, large = record(None, 1, cpus=1.0), record(None, 2, cpus=9.0)
        for number in range(3, 7):
            self.records[number] = record(None, number, cpus=4.0)
            self.assign(number, MEMBERS[number % 2])
        self.assertTrue(self.placing.could_run(small.submission))
        self.assertFalse(self.placing.could_run(large.submission))
        for each in MEMBERS:
            known = self.machines[name(each)]
            self.machines[name(each)] = msgspec.structs.replace(known, draining=True)
            self.placing.member_changed(name(each))
        self.assertTrue(self.placing.could_run(small.submission))
        for each in MEMBERS:
            del self.machines[name(each)]
            self.placing.member_changed(name(each))
        self.assertFalse(self.placing.could_run(small.submission))

    def test_counted(self) -> None:
        """What was taken and given back, again and again, leaves what there was."""
        taken = [record(None, number, cpus=0.1 * number) for number in range(1, 8)]
        before = self.free()
        for _ in range(3):
            for each in taken:
                self.placing.assigned(each.submission, 1, name("hazel"), True)
            self.assertAlmostEqual(self.free().cpus, before.cpus - 2.8)
            self.placing.member_changed(name("hazel"))
            for each in taken:
                self.placing.over(each.task)
            self.assertEqual(self.free(), before)

    def free(self) -> Room:
        """What is free on hazel."""
        judged = self.placing.why(record(None, 99, cpus=0.0).submission)
        return next(each.room for each, _ in judged if each.peer == name("hazel"))

    def test_own(self) -> None:
        """A member that can be described at any time is when that is of use."""
        described: list[str] = []

        def describe(peer: str) -> Candidate | None:
            described.append(peer)
            return self.machines.get(peer)

        self.patch(self.placing, "_describe", describe)
        half = msgspec.structs.replace(self.room, cpus=2.0)
        self.machines[name("hazel")] = msgspec.structs.replace(
            self.machines[name("hazel")], room=half
        )
        for _ in range(3):
            self.placing.own_changed(name("hazel"))
        self.assertEqual(described, [])
        self.assertEqual(self.free().cpus, 2.0)
        self.assertEqual(described, [name("hazel")])

    def test_own_has_room(self) -> None:
        """Where tasks wait it is described at once."""
        for each in MEMBERS:
            known = self.machines[name(each)]
            full = msgspec.structs.replace(self.room, cpus=0.0)
            self.machines[name(each)] = msgspec.structs.replace(known, room=full)
            self.placing.own_changed(name(each))
        self.want(1)
        self.assertEqual(self.given, [])
        known = self.machines[name("acacia")]
        self.machines[name("acacia")] = msgspec.structs.replace(known, room=known.offered)
        self.placing.own_changed(name("acacia"))
        self.clock.advance(0)
        self.assertEqual(self.given, [(1, "acacia")])

    def test_refused(self) -> None:
        """Who refused gets nothing for a second; what it lacks is told."""
        del self.machines[name("acacia")]
        self.placing.member_changed(name("acacia"))
        self.want(1)
        self.assign(1, "hazel")
        self.placing.refused(self.records[1].submission, name("hazel"), "it is full", False)
        self.finish(1, End.REFUSED)
        self.placing.want(self.records[1])
        self.clock.advance(0.5)
        self.assertEqual(self.given, [(1, "hazel")])
        ((_, (unfit,)),) = self.placing.why(self.records[1].submission)
        self.assertEqual(unfit.code, "avoided")
        self.clock.advance(1)
        self.assertEqual(self.given, [(1, "hazel"), (1, "hazel")])

    def test_refused_as_one_had_ended_before(self) -> None:
        """A member may say that a task is over before that is recorded, and then has no more free
        than it says: that is found out once."""
        del self.machines[name("acacia")]
        self.placing.member_changed(name("acacia"))
        for number in (1, 2):
            self.want(number)
            self.assign(number, "hazel")
        one = msgspec.structs.replace(self.room, tasks=1, cpus=1.0)
        known = msgspec.structs.replace(self.machines[name("hazel")], room=one)
        self.machines[name("hazel")] = known
        self.placing.member_changed(name("hazel"))
        self.ran_out(1)
        self.given.clear()
        for number in (3, 4):
            self.want(number)
            self.assign(number, "hazel")
        self.assertEqual(self.given, [(3, "hazel"), (4, "hazel")])
        self.placing.refused(self.records[4].submission, name("hazel"), "it is full", False)
        self.finish(4, End.REFUSED)
        self.placing.want(self.records[4])
        self.clock.pump([1.0] * 5)
        self.assertEqual(self.given, [(3, "hazel"), (4, "hazel")])
        self.ran_out(3)
        self.assertEqual(self.given[2:], [(4, "hazel")])

    def test_refused_and_free(self) -> None:
        """What it says itself is free counts at once."""
        self.test_refused()
        self.placing.refused(self.records[1].submission, name("hazel"), "it is full", False)
        self.want(2)
        self.placing.member_changed(name("hazel"))
        self.clock.advance(0)
        self.assertEqual(self.given[2:], [(2, "hazel")])

    def test_not_heard_of(self) -> None:
        """Whose attempt was given up in silence gets nothing while its link seems to be there."""
        self.want(1)
        silent = self.given[0][1]
        (other,) = {*MEMBERS} - {silent}
        self.assign(1, silent)
        self.finish(1, End.LOST)
        self.placing.lost(name(silent))
        self.placing.want(self.records[1])
        self.clock.advance(0)
        self.assertEqual(self.given[1:], [(1, other)])
        for number in range(2, 12):
            submission = record(None, number).submission
            self.assertEqual(self.placing.suggest(submission), name(other))
        told = {each.peer: unfit for each, unfit in self.placing.why(submission)}
        self.assertEqual(told[name(other)], ())
        self.assertEqual([unfit.text for unfit in told[name(silent)]], [SILENT])

    def test_heard_of_again(self) -> None:
        """It gets what waits for it as soon as it says something, or after a while."""
        for wait, says in ((1.0, True), (AVOID_SILENT, False)):
            self.given.clear()
            self.placing.lost(name("hazel"))
            self.want(1, on=name("hazel"))
            self.clock.advance(wait - 0.1)
            self.assertEqual(self.given, [])
            if says:
                self.placing.member_changed(name("hazel"))
            self.clock.advance(0.1)
            self.assertEqual(self.given, [(1, "hazel")])


class StopTests(PlacingCase):
    """A node that stops."""

    def test_nothing_more(self) -> None:
        """Nothing is placed, whatever happens then, and nobody is suggested."""
        self.records[1] = record(None, 1)
        self.placing.want(self.records[1])
        self.placing.stop()
        self.want(2)
        for each in MEMBERS:
            self.placing.member_changed(name(each))
        self.ran(3, "hazel", End.DONE)
        self.clock.advance(100)
        self.assertEqual((self.given, self.clock.getDelayedCalls()), ([], []))
        self.assertEqual(self.placing.suggest(record(None, 4).submission), "")
