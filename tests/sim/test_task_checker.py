"""The checker of histories with tasks finds those that are wrong, and leaves the others alone."""

from __future__ import annotations

from typing import Any

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from bzzz.tasks import record as states
from bzzz.tasks.record import Attempt, End, Outcome, Policy, Produced, State, TaskState
from bzzz.testing.tasks.checker import RULES, check
from bzzz.testing.tasks.history import (
    Acknowledged,
    CancelWanted,
    Decided,
    Ended,
    Final,
    History,
    RetryWanted,
    Started,
    Submitted,
)

TWICE = Policy(retries=1)
ONCE = Policy(retries=0, restart=False)


class Story:
    """A history of one task, told step by step. What is decided follows the rules of records
    unless the test says something else.

    :ivar state: the last that was decided.
    """

    def __init__(self, policy: Policy = TWICE, task: str = "t") -> None:
        self.history = History()
        self.policy = policy
        self.task = task
        self.at = 0.0
        self.state = TaskState()
        self.tell(Submitted, at_most_once=policy == ONCE)

    def tell(self, kind: Any, *arguments: Any, **fields: Any) -> Story:
        self.at += 1.0
        self.history.add(kind(self.at, self.task, *arguments, **fields))
        return self

    def acknowledge(self, worker: str = "walnut") -> Story:
        """It is kept, and given to a worker where one is said."""
        self.state = states.begin(worker, "walnut")
        return self.tell(Decided, self.state).tell(Acknowledged)

    def decide(self, state: TaskState | None) -> Story:
        """The next state."""
        assert state is not None
        self.state = msgspec.structs.replace(state, version=self.state.version + 1)
        return self.tell(Decided, self.state)

    def say(self, **fields: Any) -> Story:
        """A next state that no rule makes."""
        return self.decide(msgspec.structs.replace(self.state, **fields))

    def assign(self, worker: str) -> Story:
        return self.decide(states.assign(self.state, self.state.token, worker))

    def start(self, token: int = 0, worker: str = "") -> Story:
        return self.tell(Started, token or self.state.token, worker or self.state.worker)

    def stop(self, status: int | None, token: int = 0, worker: str = "") -> Story:
        return self.tell(Ended, token or self.state.token, worker or self.state.worker, status)

    def finish(
        self, end: End, status: int | None = None, token: int = 0, worker: str = ""
    ) -> Story:
        return self.decide(
            states.finish(
                self.state,
                self.policy,
                worker or self.state.worker,
                token or self.state.token,
                end,
                status,
            )
        )

    def run(self, status: int = 0) -> Story:
        """The current attempt, from its beginning to its end in the record."""
        self.start().stop(status)
        return self.finish(End.FAILED if status else End.DONE, status)

    def lose(self) -> Story:
        return self.decide(states.lose(self.state, self.policy, self.state.token, "not heard of"))

    def refuse(self) -> Story:
        return self.decide(states.refuse(self.state, self.state.worker, self.state.token, "busy"))

    def cancel(self) -> Story:
        self.tell(CancelWanted)
        return self.decide(states.cancel(self.state))

    def retry(self) -> Story:
        self.tell(RetryWanted)
        return self.decide(states.retry(self.state, self.state.token))

    def end(self) -> Story:
        """Somebody looks at it when all is over."""
        return self.tell(Final, self.state)


class RightTests(SynchronousTestCase):
    """What may happen is not found."""

    def right(self, story: Story) -> None:
        self.assertEqual(check(story.end().history), [])

    def test_done(self) -> None:
        """A task runs, and is done."""
        self.right(Story().acknowledge().run())

    def test_waits_first(self) -> None:
        """Nobody fits at first, and one refuses."""
        self.right(Story().acknowledge("").assign("acacia").refuse().assign("walnut").run())

    def test_failed(self) -> None:
        """Its command fails, twice where it may."""
        self.right(Story().acknowledge().run(3).assign("acacia").run(4))

    def test_done_the_second_time(self) -> None:
        """Its command fails, and then does not."""
        self.right(Story().acknowledge().run(3).assign("acacia").run())

    def test_timed_out(self) -> None:
        """Its time is over, each time."""
        story = Story().acknowledge().start().stop(None).finish(End.TIMED_OUT)
        self.right(story.assign("acacia").start().stop(None).finish(End.TIMED_OUT))

    def test_lost_worker(self) -> None:
        """A worker is lost, before or after the command began, and another one does it."""
        self.right(Story().acknowledge().start().stop(None).lose().assign("acacia").run())
        self.right(Story().acknowledge().lose().assign("acacia").run())

    def test_result_of_lost_worker(self) -> None:
        """The command had ended when its worker was lost: then the result comes too late."""
        story = Story().acknowledge().start().stop(0).lose().assign("acacia").start()
        story.finish(End.DONE, 0, 1, "walnut")
        self.assertEqual(story.state.attempts[-1].end, End.STALE)
        self.right(story.stop(0).finish(End.DONE, 0))

    def test_late_word(self) -> None:
        """A late result is added when the task has ended already."""
        story = Story().acknowledge().start().stop(5).lose().assign("acacia").run()
        self.right(story.finish(End.FAILED, 5, 1, "walnut"))

    def test_lost_for_good(self) -> None:
        """What may run once is lost with its worker."""
        story = Story(ONCE).acknowledge().start().stop(None).lose()
        self.assertEqual(story.state.outcome, Outcome.LOST)
        self.right(story)

    def test_refused_and_once(self) -> None:
        """A refusal is no run."""
        self.right(Story(ONCE).acknowledge().refuse().assign("acacia").run())

    def test_many_workers_lost(self) -> None:
        """More attempts than are kept with the task."""
        story = Story(Policy(retries=40)).acknowledge()
        for number in range(20):
            story.start().stop(None).lose().assign(f"node{number}")
        self.right(story.run())

    def test_given_up_alone(self) -> None:
        """What one replica alone has ended, and nobody else has heard of, may stay so; what was
        decided, acknowledged or begun may not."""
        lost = states.lose(states.begin("walnut", "walnut"), ONCE, 1, "not heard of")
        alone = "its end is on 1 replicas"
        self.assertEqual(check(Story(ONCE).tell(Final, lost, alone).history), [])
        for story in (
            Story(ONCE).acknowledge(),
            Story(ONCE).tell(Acknowledged),
            Story(ONCE).tell(Started, 1, "walnut").tell(Ended, 1, "walnut", 0),
        ):
            (found, *_) = check(story.tell(Final, lost, alone).history)
            self.assertIn(alone, found)

    def test_cancelled(self) -> None:
        """Cancelled while it waits, while it runs, before it begins, and too late."""
        self.right(Story().acknowledge("").cancel())
        self.right(Story().acknowledge().start().cancel().stop(None).finish(End.CANCELLED))
        self.right(Story().acknowledge().cancel().finish(End.CANCELLED))
        self.right(Story().acknowledge().cancel().refuse())
        self.right(Story().acknowledge().start().cancel().stop(0).finish(End.DONE, 0))
        self.right(Story().acknowledge().start().cancel().stop(2).finish(End.FAILED, 2))
        self.right(Story().acknowledge().start().cancel().stop(None).lose())
        self.right(Story().acknowledge().run().tell(CancelWanted))

    def test_begun_anew(self) -> None:
        """Begun anew, after each kind of end."""
        self.right(Story().acknowledge().run().retry().assign("acacia").run())
        self.right(Story(ONCE).acknowledge().run(1).retry().assign("acacia").run(1))
        self.right(Story(ONCE).acknowledge().lose().retry().assign("acacia").run())
        self.right(Story().acknowledge("").cancel().retry().assign("acacia").run())
        story = Story().acknowledge().start().cancel().stop(None).finish(End.CANCELLED)
        self.right(story.retry().assign("acacia").run().retry().assign("walnut").run())

    def test_begun_anew_unheard(self) -> None:
        """What was decided in between nobody could say: they were gone."""
        story = Story().acknowledge().run().retry().assign("acacia").run(1).assign("walnut").run(1)
        for gone in ({2}, {3}, {2, 3, 4, 5}, {1, 2, 3, 4, 5}, {0, 1}):
            events = [
                event
                for event in story.history.events
                if not (isinstance(event, Decided) and event.state.version in gone)
            ]
            self.assertEqual(check(History([*events, Final(99.0, "t", story.state)])), [])

    def test_told_late(self) -> None:
        """A node says later than others what was decided, and more than one do."""
        story = Story().acknowledge()
        first = story.state
        story.run(1).tell(Decided, first)
        between = story.state
        story.assign("acacia").start().tell(Decided, between).tell(Decided, first).stop(0)
        self.right(story.finish(End.DONE, 0).tell(Decided, story.state).tell(Decided, between))

    def test_begins_before_it_is_told(self) -> None:
        """Who gave the token is gone before it could say so."""
        story = Story().acknowledge().run(1)
        story.start(2, "acacia").assign("acacia").stop(0)
        self.right(story.finish(End.DONE, 0))

    def test_not_acknowledged(self) -> None:
        """Who was not told that it is kept may find it, or not."""
        story = Story()
        self.assertEqual(check(story.tell(Final, None).history), [])
        story = Story()
        self.right(story.tell(Decided, states.begin("walnut", "walnut")).acknowledge().run())

    def test_several(self) -> None:
        """Tasks have nothing to do with each other."""
        one, other = Story(task="a").acknowledge().start(), Story(task="b").acknowledge().start()
        one.stop(0).finish(End.DONE, 0).end()
        other.stop(1).finish(End.FAILED, 1).assign("acacia").run().end()
        events = sorted(one.history.events + other.history.events, key=lambda event: event.at)
        self.assertEqual(check(History(events)), [])


class WrongTests(SynchronousTestCase):
    """What may not happen is found, and said in words."""

    def wrong(self, story: Story, *words: str) -> None:
        found = "\n".join(check(story.history))
        for each in words:
            self.assertIn(each, found)

    # -- lost

    def test_lost(self) -> None:
        """It was acknowledged, and nobody has it."""
        self.wrong(Story().acknowledge().tell(Final, None), "t: it was acknowledged and is lost")
        story = Story().tell(Acknowledged).tell(Final, None)
        self.wrong(story, "it was acknowledged and is lost")

    def test_decided_and_lost(self) -> None:
        """Nobody was told that it is kept, but it was decided, and is gone."""
        story = Story().tell(Decided, states.begin("walnut")).tell(Final, None)
        self.wrong(story, "version 0 was decided, and it is lost")

    def test_not_looked_at(self) -> None:
        """A history that was not looked at in the end shows nothing."""
        self.wrong(Story().acknowledge().run(), "nobody looked at it")

    def test_not_ended(self) -> None:
        """It waits, or runs, for ever."""
        self.wrong(Story().acknowledge("").end(), "it has not ended", "WAITING")
        self.wrong(Story().acknowledge().start().stop(None).end(), "it has not ended", "ASSIGNED")

    def test_end_on_too_few(self) -> None:
        """Its end is not where it has to be."""
        story = Story().acknowledge().run()
        self.wrong(
            story.tell(Final, story.state, "its end is on 1 replicas"),
            "it cannot be read in the end: its end is on 1 replicas",
        )

    def test_forgotten(self) -> None:
        """A state that was decided is not there in the end, but the one before."""
        story = Story().acknowledge().run().retry()
        before = story.state
        story.assign("acacia").run()
        self.wrong(story.tell(Final, before), "version 4 was decided, and 2 is the last")
        story = Story().acknowledge().start().stop(4).lose().assign("acacia").run()
        before = story.state
        story.finish(End.FAILED, 4, 1, "walnut").tell(Final, before)
        self.wrong(story, "version 4 was decided, and 3 is the last")

    # -- two at once

    def test_overlap(self) -> None:
        """The next attempt begins while the one before runs."""
        story = Story().acknowledge().start()
        story.start(2, "acacia")
        self.wrong(story, "token 2 began at 5.000 on acacia while token 1 ran on walnut")

    def test_overlap_on_one_machine(self) -> None:
        """Also on the same machine."""
        story = Story().acknowledge().start().start(2, "walnut")
        self.wrong(story, "token 2 began at 5.000 on walnut while token 1 ran on walnut")

    def test_twice(self) -> None:
        """One token begins twice, at once or one after the other, there or elsewhere."""
        words = "token 1 began twice, again at"
        self.wrong(Story().acknowledge().start().start(), words, "while token 1 ran")
        self.wrong(Story().acknowledge().start().stop(None).start(), words)
        self.wrong(Story().acknowledge().start().stop(None).start(1, "acacia"), words)

    def test_older(self) -> None:
        """An attempt begins after one with a greater token."""
        story = Story().acknowledge().lose().assign("acacia").start().stop(None)
        self.wrong(story.start(1, "walnut"), "token 1 began at 8.000 after 2")
        story.stop(None, 1, "walnut").start(3, "ironwood").stop(0, 3, "ironwood")
        self.wrong(story.start(2, "acacia"), "token 2 began at 12.000 after 3")

    # -- what runs is what is decided

    def test_runs_when_closed(self) -> None:
        """It is decided that its worker is lost, while its command runs."""
        story = Story().acknowledge().start().lose()
        self.wrong(story, "token 1 runs on walnut at 5.000", "WAITING")
        story = Story(ONCE).acknowledge().start().lose()
        self.wrong(story, "token 1 runs on walnut at 5.000", "ENDED")

    def test_runs_when_ended(self) -> None:
        """It is decided that it has ended while its command runs."""
        story = Story().acknowledge().start().cancel()
        self.wrong(story.finish(End.CANCELLED), "token 1 runs on walnut at 7.000")
        self.wrong(
            Story().acknowledge().start().say(state=State.ENDED, worker=""), "token 1 runs on"
        )

    def test_begins_when_over(self) -> None:
        """An attempt begins that was given up before."""
        story = Story().acknowledge().lose().start(1, "walnut")
        self.wrong(story, "token 1 runs on walnut at 5.000")
        story = Story().acknowledge().lose().assign("acacia").start(1, "walnut")
        self.wrong(story, "token 1 runs on walnut at 6.000")

    def test_another_worker(self) -> None:
        """A token runs on a machine that it was not given to."""
        story = Story().acknowledge().start(1, "acacia")
        self.wrong(story, "token 1 runs on acacia at 4.000", "walnut")

    def test_runs_in_the_end(self) -> None:
        """When all is over, something runs still."""
        story = Story().acknowledge().run()
        self.wrong(story.start(2, "acacia").end(), "token 2 runs on acacia at 8.000")
        story = Story().start(1, "walnut").tell(Final, None)
        self.wrong(story, "token 1 runs on walnut at 3.000")

    # -- once at most

    def test_more_than_once(self) -> None:
        """What may run once has run twice."""
        story = Story(ONCE).acknowledge().start().stop(None)
        self.wrong(story.start(2, "acacia"), "it ran 2 times at 6.000, and may 1")
        story = Story(ONCE).acknowledge().run(1).retry().assign("acacia").run(1)
        self.wrong(story.start(3, "walnut"), "it ran 3 times at 13.000, and may 2")

    def test_wanted_later(self) -> None:
        """That it was wanted anew later does not make good what ran before."""
        story = Story(ONCE).acknowledge().start().stop(None).start(2, "acacia").stop(1)
        self.wrong(story.tell(RetryWanted), "it ran 2 times at 6.000, and may 1")

    # -- one truth

    def test_two_truths(self) -> None:
        """Two nodes say something else of one version; or one does, and those who look."""
        story = Story().acknowledge().run()
        other = msgspec.structs.replace(story.state, exit_status=1)
        self.wrong(story.tell(Decided, other), "version 1 is TaskState")
        story = Story().acknowledge().run()
        self.wrong(story.tell(Final, other), "version 1 is TaskState")

    def test_other_clock(self) -> None:
        """Two changes that differ in nothing but the time are two."""
        story = Story().acknowledge().run()
        other = msgspec.structs.replace(story.state, changed=story.state.changed + 1)
        self.wrong(story.tell(Decided, other), "version 1 is TaskState")

    def test_end_changed(self) -> None:
        """An end is not replaced: by another outcome, exit status, result, token or worker."""
        for fields in (
            {"outcome": Outcome.FAILED},
            {"exit_status": 1},
            {"produced": Produced(b"other")},
            {"token": 2},
            {"by": "acacia"},
        ):
            story = Story().acknowledge().run().say(**fields)
            self.wrong(story.end(), "its end was changed")

    def test_begun_anew_unwanted(self) -> None:
        """A task that has ended waits, or runs, again, and nobody wanted it."""
        story = Story().acknowledge().run()
        again = states.retry(story.state, 1)
        self.wrong(story.decide(again), "its end was changed")
        story = Story().acknowledge().run().retry().assign("acacia").run()
        self.wrong(story.decide(states.retry(story.state, 2)), "its end was changed")

    def test_begun_anew_before_wanted(self) -> None:
        """Who wants it anew wants what comes after that."""
        story = Story().acknowledge().run()
        story.decide(states.retry(story.state, 1)).tell(RetryWanted)
        self.wrong(story.assign("acacia").run(), "its end was changed")

    def test_token_goes_back(self) -> None:
        """A token is less than the one before."""
        story = Story().acknowledge().run(1).assign("acacia").say(token=1)
        self.wrong(story, "the token went from 2 to 1")
        story = Story().acknowledge().run().retry().say(token=0)
        self.wrong(story, "the token went from 1 to 0")

    def test_cancel_forgotten(self) -> None:
        """A cancel that was recorded has no effect: it is given to another, or is not wanted."""
        story = Story().acknowledge().start().cancel().stop(None)
        story.say(state=State.WAITING, worker="", cancel=False)
        self.wrong(story, "its cancel was forgotten")
        story = Story().acknowledge().cancel().say(token=2, worker="acacia")
        self.wrong(story, "its cancel was forgotten")

    # -- results

    def test_result_of_nothing(self) -> None:
        """A result is recorded, and its command never ran, or has not ended."""
        story = Story().acknowledge().finish(End.DONE, 0)
        self.wrong(story, "is recorded, and the command gave nothing")
        story = Story().acknowledge().start().finish(End.FAILED, 1)
        self.wrong(story, "is recorded, and the command gave nothing")

    def test_result_before_the_end(self) -> None:
        """A result is recorded before its command has ended."""
        story = Story().acknowledge().start().finish(End.DONE, 0).stop(0, 1, "walnut")
        self.wrong(story.end(), "is recorded, and the command gave nothing")

    def test_other_result(self) -> None:
        """Another result is recorded than the command gave, or than there was."""
        for status, end, told in (
            (1, End.DONE, 0),
            (0, End.FAILED, 1),
            (0, End.FAILED, 0),
            (1, End.DONE, 1),
            (None, End.DONE, 0),
            (2, End.FAILED, 1),
            (0, End.TIMED_OUT, None),
        ):
            story = Story().acknowledge().start().stop(status).finish(end, told)
            self.wrong(story, f"is recorded, and the command gave {status}")

    def test_cancelled_and_done(self) -> None:
        """It is recorded as cancelled, and its command had ended by itself."""
        story = Story().acknowledge().start().stop(0).cancel().finish(End.CANCELLED)
        self.wrong(story, "is recorded, and the command gave 0")

    def test_refused_and_run(self) -> None:
        """A worker has refused what it ran."""
        story = Story().acknowledge().start().stop(0).refuse()
        self.wrong(story, "REFUSED", "is recorded, and the command gave 0")
        story = Story().acknowledge().start().stop(None).refuse()
        self.wrong(story, "REFUSED", "is recorded, and the command gave None")

    def test_other_late_word(self) -> None:
        """A late word is not what the command gave."""
        story = Story().acknowledge().start().stop(0).lose()
        story.finish(End.FAILED, 7, 1, "walnut")
        self.wrong(story, "STALE", "is recorded, and the command gave 0")

    def test_older_result(self) -> None:
        """The result is that of an older attempt, or nobody's."""
        story = Story().acknowledge().start().stop(0).lose().assign("acacia").start().stop(0)
        old = Attempt(1, "walnut", End.DONE, 0)
        story.say(
            state=State.ENDED, worker="", by="walnut", outcome=Outcome.DONE, exit_status=0,
            attempts=(*story.state.attempts, old),
        )  # fmt: skip
        self.wrong(story, "its result is not of its last token", "not each token has one end")
        story = (
            Story()
            .acknowledge("")
            .say(state=State.ENDED, outcome=Outcome.DONE, exit_status=0, by="walnut")
        )
        self.wrong(story, "its result is not of its last token")

    def test_another_end(self) -> None:
        """The task has ended otherwise than its last attempt."""
        for fields in (
            {"outcome": Outcome.DONE},
            {"exit_status": 4},
            {"by": "acacia"},
            {"outcome": Outcome.LOST},
            {"outcome": None},
        ):
            story = Story().acknowledge().start().stop(3)
            failed = states.finish(story.state, ONCE, "walnut", 1, End.FAILED, 3)
            assert failed is not None
            story.decide(msgspec.structs.replace(failed, **fields))
            self.wrong(story, "its result is not of its last token")

    def test_two_results(self) -> None:
        """Two results are recorded, and nobody wanted a second."""
        story = Story().acknowledge().run()
        second = Attempt(2, "acacia", End.DONE, 0)
        story.start(2, "acacia").stop(0, 2, "acacia")
        story.say(attempts=(*story.state.attempts, second), token=2, by="acacia")
        self.wrong(story, "two results are recorded")
        story = Story().acknowledge().run().retry().assign("acacia").run()
        story.start(3, "acacia").stop(0, 3, "acacia")
        third = Attempt(3, "acacia", End.DONE, 0)
        story.say(attempts=(*story.state.attempts, third), token=3)
        self.wrong(story, "two results are recorded")

    def test_end_of_a_token(self) -> None:
        """A token has two ends, or none."""
        story = Story().acknowledge().run(1)
        story.say(attempts=story.state.attempts * 2)
        self.wrong(story, "not each token has one end")
        story = Story().acknowledge().lose().assign("acacia").start()
        story.say(attempts=())
        self.wrong(story, "not each token has one end")
        story = Story().acknowledge().lose().assign("acacia").run()
        story.say(attempts=story.state.attempts[1:])
        self.wrong(story, "not each token has one end")

    def test_cancelled_unwanted(self) -> None:
        """It is cancelled, and nobody wanted that, or not before."""
        story = Story().acknowledge("").decide(states.cancel(TaskState()))
        self.wrong(story, "it is cancelled, and nobody wanted that")
        story = Story().acknowledge().start().stop(None).finish(End.CANCELLED).tell(CancelWanted)
        self.wrong(story.end(), "it is cancelled, and nobody wanted that")

    # -- all of it

    def test_each_rule(self) -> None:
        """Each rule finds something that no other one does."""
        alone = {
            "_lost": Story().acknowledge().tell(Final, None),
            "_overlaps": Story().start(2, "a").stop(None, 2, "a").start(1, "a").stop(None, 1, "a"),
            "_only_current": Story().acknowledge().start(1, "acacia").stop(None, 1, "acacia"),
            "_at_most_once": Story(ONCE).start(1, "a").stop(0, 1, "a").start(2, "a"),
            "_one_truth": Story().acknowledge().tell(Decided, TaskState(token=1, worker="x")),
            "_results": Story().acknowledge().finish(End.DONE, 0),
        }
        self.assertEqual([*alone], [rule.__name__ for rule in RULES])
        for rule in RULES:
            self.assertNotEqual(list(rule(alone[rule.__name__].history.events)), [])

    def test_most(self) -> None:
        """No more is told than is wanted."""
        story = Story()
        for token in range(9, 0, -1):
            story.start(token, "walnut")
        self.assertEqual(len(check(story.history, 5)), 5)
        self.assertEqual(len(check(story.history)), 20)
