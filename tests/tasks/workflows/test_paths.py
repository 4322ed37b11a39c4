"""Paths and globs of steps: one form for each path, and no two that may meet are missed."""

from __future__ import annotations

import fnmatch
import itertools
import re

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from bzzz.tasks.files.globs import Globs
from bzzz.tasks.workflows.paths import BadPath, below, covers, normal, overlap

NAMES = ["a", "b", "ab", "ba", "aa"]
PLACES = ["/".join(names) for n in (1, 2, 3) for names in itertools.product(NAMES, repeat=n)]
PARTS = st.text("ab*?", min_size=1, max_size=3).filter(lambda part: "**" not in part)
GLOBS = st.lists(PARTS | st.just("**"), min_size=1, max_size=3).map("/".join)


def stands_for(glob: str) -> set[str]:
    """Those of the places that are put out by a glob, as a worker sees it."""
    globs = Globs([glob])
    found = set()
    for place in PLACES:
        position = globs.start
        for name in place.split("/"):
            position = globs.step(position, name)
        if globs.wanted(position):
            found.add(place)
    return found


def within(place: str, other: str) -> bool:
    return place == other or place.startswith(other + "/")


class PathTests(SynchronousTestCase):
    """Paths."""

    def test_normal(self) -> None:
        """There is one way to write a path."""
        for path, form in (
            ("src", "src"),
            ("./src//a/", "src/a"),
            (".", "."),
            ("./", "."),
            ("a..b/...", "a..b/..."),
        ):
            self.assertEqual(normal(path), form)

    def test_refused(self) -> None:
        """What is not below its directory is none."""
        for path in ("", "/", "/etc", "..", "a/../..", "a/../b", "a\nb", "a\0"):
            with self.assertRaises(BadPath):
                normal(path)

    def test_below(self) -> None:
        """A path in a directory keeps its form."""
        self.assertEqual(
            [below(".", "a"), below("d", "."), below("d", "a/b"), below(".", ".")],
            ["a", "d", "d/a/b", "."],
        )

    @given(st.text(max_size=20))
    def test_any(self, path: str) -> None:
        """What has its form keeps it."""
        try:
            form = normal(path)
        except BadPath:
            return
        self.assertEqual(normal(form), form)


class GlobTests(SynchronousTestCase):
    """Globs, against what a worker takes them for."""

    def test_by_hand(self) -> None:
        """What may be at one place, and what may not."""
        for one, other, meet in (
            ("build/*.o", "build/*.a", False),
            ("build/*.o", "build", True),
            ("build/*.o", "src/*.o", False),
            ("*.o", "a*", True),
            ("**/x", "y", True),
            ("**", "a", True),
            ("dist/3.11/*", "dist/3.12/*", False),
            ("a[bc]", "ad", True),
            ("a[bc]", "d", False),
            ("a[", "a[", True),
            (".", "x", True),
            ("*a*b", "xaybz", False),
        ):
            self.assertEqual(overlap(one, other), meet, (one, other))
            self.assertEqual(overlap(other, one), meet, (other, one))

    def test_covers(self) -> None:
        """A glob covers a path that it stands for, or that is in what it stands for."""
        for glob, path, covered in (
            ("src/*.o", "src", False),
            ("src/*", "src/main.c", True),
            ("src", "src", True),
            ("src", "src/main.c", True),
            ("src/**", "src", True),
            ("*", ".", False),
        ):
            self.assertEqual(covers(glob, path), covered, (glob, path))

    @given(GLOBS, GLOBS)
    def test_missed(self, one: str, other: str) -> None:
        """Two globs that stand for one place, or for places within each other, overlap."""
        left, right = stands_for(one), stands_for(other)
        meet = any(within(a, b) or within(b, a) for a in left for b in right)
        if meet:
            self.assertTrue(overlap(one, other))

    @given(st.text("ab*?", min_size=1, max_size=4), st.text("ab", min_size=1, max_size=4))
    def test_exact(self, glob: str, name: str) -> None:
        """Of a name without wildcards it is known for sure."""
        if "**" in glob:
            glob = re.sub(r"\*+", "*", glob)
        self.assertEqual(overlap(glob, name), fnmatch.fnmatchcase(name, glob))

    @given(GLOBS, st.sampled_from(PLACES))
    def test_covered(self, glob: str, path: str) -> None:
        """What covers a path is known."""
        if any(within(path, place) for place in stands_for(glob)):
            self.assertTrue(covers(glob, path))
