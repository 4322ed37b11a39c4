"""The run of every check: who runs beside whom, what is shown, and what is counted."""

from __future__ import annotations

import io
import sys

from twisted.trial.unittest import SynchronousTestCase

from tests.run import Counts, Lane, Section, Shown, lanes, run_all


def says(text: str, *, code: int = 0) -> Section:
    """A section that prints a line, and ends."""
    return Section((sys.executable, "-c", f"print({text!r}); raise SystemExit({code})"))


KNOWN = {"unit": says("one"), "cluster": says("two"), "docs": says("three", code=1)}


class LaneTests(SynchronousTestCase):
    """Sections that run at the same time."""

    def names(self, wanted: list[str], cores: int) -> list[list[str]]:
        return [list(lane.counts) for lane in lanes(KNOWN, wanted, cores, io.StringIO())]

    def test_beside(self) -> None:
        """The cluster tests have a lane of their own where there is a core for it, and a reason."""
        every = ["unit", "cluster", "docs"]
        self.assertEqual(self.names(every, 2), [["unit", "docs"], ["cluster"]])
        self.assertEqual(self.names(every, 1), [every])
        self.assertEqual(self.names(["cluster"], 2), [["cluster"]])
        self.assertEqual(self.names(["docs", "unit"], 2), [["docs", "unit"]])

    def test_shown(self) -> None:
        """Lines of two lanes are not mixed, and each result is counted."""
        out = io.StringIO()
        every = lanes(KNOWN, list(KNOWN), 2, out)
        run_all(every)
        shown = [line for line in out.getvalue().splitlines() if line]
        said = [line for line in shown if not line.startswith("=== ")]
        self.assertEqual(said, ["one", "three", "two"])
        self.assertEqual(
            [lane.counts for lane in every],
            [{"unit": Counts(passed=1), "docs": Counts(failed=1)}, {"cluster": Counts(passed=1)}],
        )

    def test_not_run(self) -> None:
        """A section of which no result is known has failed, whatever kept it from having one."""
        lane = Lane(KNOWN, ["unit", "docs"], io.StringIO())
        lane.interrupt()
        lane.run()
        self.assertEqual(set(lane.counts.values()), {Counts(failed=1)})

    def test_held(self) -> None:
        """Lines that are held back come in their order, before those that follow."""
        out = io.StringIO()
        shown = Shown(out)
        shown.hold()
        shown.write("1\n")
        shown.write("2\n")
        self.assertEqual(out.getvalue(), "")
        shown.release()
        shown.write("3\n")
        self.assertEqual(out.getvalue(), "1\n2\n3\n")
