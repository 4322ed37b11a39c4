"""What a guest sends waits its turn among strangers, and has little of each."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from bzzz.net.link import GUEST_FRAMES
from tests.net import test_turns


class GuestTurnTests(SynchronousTestCase):
    """One link, whose peer is a guest."""

    def setUp(self) -> None:
        self.case = test_turns.TurnTests("test_few_frames_take_one_turn")
        self.case.setUp()
        self.case.link.is_guest = True
        self.done: list[str] = []

    def send(self, frames: int) -> None:
        self.case.send(*(self.case.opening() for _ in range(frames)))

    def test_few_frames_in_a_turn(self) -> None:
        """A guest has fewer frames acted on in a turn than a member."""
        self.send(3 * GUEST_FRAMES)
        for turn in (1, 2, 3):
            self.assertEqual(self.case.owner.opened, turn * GUEST_FRAMES)
            if turn < 3:
                self.case.turn()

    def test_among_strangers(self) -> None:
        """It waits in the queue of strangers, so that members have every other place."""
        self.send(3 * GUEST_FRAMES)
        turns = self.case.link.turns
        for name in "ab":
            turns.wait(lambda name=name: self.done.append(name))  # type: ignore[misc]  # bound at once
        turns.wait(lambda: self.done.append("A"), stranger=True)
        opened = self.case.owner.opened
        turns.wait(lambda: self.done.append(f"{self.case.owner.opened - opened}"))
        self.case.turn()
        # The guest's frames came first, as strangers do, and then they took turns.
        self.assertEqual(self.done, ["a", "A", "b", f"{GUEST_FRAMES}"])

    def test_goes_on_among_strangers(self) -> None:
        """Also when it has more to tell than fits into the turns that it had."""
        self.send(3 * GUEST_FRAMES)
        self.case.turn()
        turns = self.case.link.turns
        turns.wait(lambda: self.done.append("A"), stranger=True)
        turns.wait(lambda: self.done.append("a"))
        turns.wait(lambda: self.done.append(f"{self.case.owner.opened}"))
        self.case.turn()
        self.assertEqual(self.done, ["a", f"{3 * GUEST_FRAMES}", "A"])
