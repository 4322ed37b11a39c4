"""Which inputs of a task meet."""

from __future__ import annotations

import os
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from bzzz.cli.collisions import collision


class CollisionTests(SynchronousTestCase):
    """Two directories, one and two, and a file."""

    def setUp(self) -> None:
        self.place = Path(self.mktemp()).absolute()
        for path in ("one/a", "one/sub/b", "two/c", "two/sub/d", "file"):
            (self.place / path).parent.mkdir(parents=True, exist_ok=True)
            (self.place / path).write_text("x")

    def met(self, *inputs: tuple[str, str]) -> tuple[str, ...] | None:
        found = collision([(name, self.place / path) for name, path in inputs])
        if found is None:
            return None
        return (*(str(path.relative_to(self.place)) for path in found[:2]), found.name)

    def test_apart(self) -> None:
        """Directories may meet, where what is in them does not."""
        for inputs in (
            [(".", "one"), ("b", "file")],
            [(".", "one"), ("sub/a", "file")],
            [(".", "one"), ("sub", "two")],
            [("x", "one"), ("x/sub", "two"), ("x/new/sub", "two")],
            [("x", "one"), ("xx", "one"), ("one", "file")],
            [(".", "one"), ("a", "absent")],
            [(".", "absent"), ("a", "file")],
            [(".", "file"), ("a", "file")],
        ):
            self.assertIsNone(self.met(*inputs), inputs)

    def test_meet(self) -> None:
        """A file meets whatever has its name, wherever that comes from and whichever is first."""
        for inputs, found in (
            ([(".", "one"), ("a", "file")], ("one/a", "file", "a")),
            ([("a", "file"), (".", "one")], ("one/a", "file", "a")),
            ([(".", "one"), ("sub", "file")], ("one/sub", "file", "sub")),
            ([(".", "one"), ("a/new", "file")], ("one/a", "file", "a")),
            ([("x/sub/b", "file"), ("x", "one")], ("one/sub/b", "file", "x/sub/b")),
            ([("x", "file"), ("x/y", "one")], ("file", "one", "x")),
            ([("x", "one"), ("x/sub", "one/sub")], ("one/sub/b", "one/sub/b", "x/sub/b")),
        ):
            self.assertEqual(self.met(*inputs), found, inputs)

    def test_deep(self) -> None:
        """Directories that meet are looked at down to their files."""
        (self.place / "two/sub/b").write_text("x")
        (self.place / "one/sub/d").mkdir()
        self.assertEqual(
            self.met((".", "one"), ("sub", "two/sub")), ("one/sub/b", "two/sub/b", "sub/b")
        )
        (self.place / "two/sub/b").unlink()
        self.assertEqual(
            self.met((".", "one"), ("sub", "two/sub")), ("one/sub/d", "two/sub/d", "sub/d")
        )

    def test_kinds(self) -> None:
        """A link is no directory, wherever it leads; what does not travel meets nothing."""
        os.symlink("sub", self.place / "one/link")
        os.mkfifo(self.place / "one/pipe")
        self.assertEqual(self.met((".", "one"), ("link/new", "file")), ("one/link", "file", "link"))
        self.assertIsNone(self.met((".", "one"), ("pipe", "file")))
        # But one that somebody names stands for what it leads to.
        os.symlink("one", self.place / "named")
        self.assertEqual(self.met((".", "named"), ("a", "file")), ("named/a", "file", "a"))

    def test_unreadable(self) -> None:
        """What cannot be looked at is told by who packs it."""

        def listdir(path: Path) -> list[str]:
            raise PermissionError

        self.patch(os, "listdir", listdir)
        self.assertIsNone(self.met((".", "one"), ("sub", "one/sub")))
