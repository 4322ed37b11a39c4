"""Which replicas are asked at once: the same for who changes a record and for who runs the task."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from bzzz.tasks.nearest import nearest
from bzzz.tasks.proposer import majority
from tests.tasks.fakes import peer

THREE = [peer(each) for each in ("walnut", "ironwood", "acacia")]
WALNUT, IRONWOOD, ACACIA = THREE
HAZEL = peer("hazel")


class NearestTests(SynchronousTestCase):
    """Of three, and of fewer."""

    def test_worker(self) -> None:
        """A worker that is a replica is one of them."""
        self.assertEqual(nearest(THREE, WALNUT, ACACIA), {WALNUT, ACACIA})
        self.assertEqual(nearest(THREE, ACACIA, IRONWOOD), {ACACIA, IRONWOOD})

    def test_another_worker(self) -> None:
        """Else it is the first of the others, as when nobody runs it or the proposer does."""
        for worker in (HAZEL, None, WALNUT):
            self.assertEqual(nearest(THREE, WALNUT, worker), {WALNUT, IRONWOOD})
        self.assertEqual(nearest(THREE, IRONWOOD, HAZEL), {IRONWOOD, WALNUT})

    def test_few(self) -> None:
        """Of one or two replicas all are needed."""
        self.assertEqual(nearest([WALNUT], WALNUT, HAZEL), {WALNUT})
        self.assertEqual(nearest(THREE[:2], WALNUT, None), {WALNUT, IRONWOOD})

    @given(st.integers(1, 7), st.integers(0, 6), st.integers(0, 7))
    def test_majority(self, count: int, proposer: int, worker: int) -> None:
        """They are a majority with the proposer and the worker, and no more than that."""
        everybody = [peer(f"m{number}") for number in range(8)]
        replicas = everybody[:count]
        first = replicas[proposer % count]
        near = nearest(replicas, first, everybody[worker])
        wanted = {first, everybody[worker]}.intersection(replicas)
        self.assertLessEqual(wanted, near)
        self.assertLessEqual(near, {*replicas})
        self.assertEqual(len(near), max(majority(count), len(wanted)))
