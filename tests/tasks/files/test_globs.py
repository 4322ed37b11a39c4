"""Patterns of what is wanted below a directory."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from bzzz.tasks.files.errors import PackError
from bzzz.tasks.files.globs import Globs


def wanted(pattern: str, path: str) -> bool:
    """Whether a path is wanted, or a directory that it is in."""
    globs = Globs([pattern])
    position = globs.start
    if globs.wanted(position):
        return True
    for name in path.split("/"):
        position = globs.step(position, name)
        if globs.wanted(position):
            return True
    return False


class GlobsTests(SynchronousTestCase):
    """What patterns match."""

    def test_matches(self) -> None:
        """Each pattern has what it stands for, and nothing else."""
        for pattern, path, expected in (
            ("a", "a", True),
            ("a", "b", False),
            ("a", "a/b", True),
            ("a", "b/a", False),
            ("*.o", "x.o", True),
            ("*.o", "d/x.o", False),
            ("*", ".hidden", True),
            ("a?", "ab", True),
            ("a[0-9]", "a7", True),
            ("a[0-9]", "ax", False),
            ("a/*/c", "a/b/c", True),
            ("a/*/c", "a/b/d/c", False),
            ("**/c", "c", True),
            ("**/c", "a/b/c", True),
            ("**", "anything/at all", True),
            ("a/**", "a/b/c", True),
            ("a/**", "b", False),
            ("a/**/z", "a/z", True),
            ("a/**/z", "a/b/c/z", True),
            ("a/**/z", "a/b/c/y", False),
            ("**/a/**/z", "x/a/y/z", True),
            ("a**", "axy", True),
            ("./a/", "a", True),
            ("A", "a", False),
        ):
            self.assertEqual(wanted(pattern, path), expected, f"{pattern} {path}")

    def test_prunes(self) -> None:
        """A directory in which nothing can match has no position."""
        globs = Globs(["a/b", "c/**/d"])
        self.assertFalse(globs.step(globs.start, "x"))
        self.assertTrue(globs.step(globs.start, "a"))
        self.assertFalse(globs.step(globs.step(globs.start, "a"), "x"))

    def test_outside(self) -> None:
        """A pattern that does not stay below the directory is refused."""
        for pattern in ("/etc/*", "../x", "a/../../x", "", "a\0", "/".join(["a"] * 65)):
            with self.assertRaises(PackError):
                Globs([pattern])

    def test_slow(self) -> None:
        """A pattern that is made to be slow is not: no position is looked at twice."""
        self.assertFalse(wanted("/".join(["**", "a"] * 30), "/".join(["a"] * 29)))
