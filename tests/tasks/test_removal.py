"""Removing what a command has left."""

from __future__ import annotations

import os
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from bzzz.tasks.removal import remove_tree

# Any user without rights.
NOBODY = 65534


class RemoveTreeTests(SynchronousTestCase):
    """What may be there."""

    def setUp(self) -> None:
        # Not an absolute path: the user without rights need not be able to go there.
        self.place = Path(self.mktemp())
        self.place.mkdir(mode=0o777)

    def make(self, path: str, *files: str) -> Path:
        directory = self.place / path
        directory.mkdir(parents=True)
        for name in files:
            (directory / name).write_text("left")
        return directory

    def test_all(self) -> None:
        """Files, directories and names of all kinds go."""
        for path in ("a/b/c", "a/b/d", "a/.0", ".0", ".1/.0", ".hidden"):
            self.make(path, "one", ".2", "two\n", "\udcff")
        os.mkfifo(self.place / "a" / "pipe")
        remove_tree(self.place)
        self.assertFalse(self.place.exists())

    def test_deep(self) -> None:
        """As many directories in each other as there are."""
        opened = os.open(self.place, os.O_RDONLY)
        for _ in range(1200):
            os.mkdir("down", dir_fd=opened)
            below = os.open("down", os.O_RDONLY, dir_fd=opened)
            os.close(opened)
            opened = below
        os.close(opened)
        remove_tree(self.place)
        self.assertFalse(self.place.exists())

    def test_links(self) -> None:
        """What links lead to stays."""
        other = Path(self.mktemp())
        (other / "directory").mkdir(parents=True)
        (other / "file").touch()
        for name in ("directory", "file", "nothing"):
            (self.place / name).symlink_to(other.absolute() / name)
        (self.make("below") / "up").symlink_to(other.absolute())
        remove_tree(self.place)
        self.assertFalse(self.place.exists())
        self.assertEqual(sorted(each.name for each in other.iterdir()), ["directory", "file"])

    def test_no_directory(self) -> None:
        """What a command has put in its place goes; a link is not followed."""
        other = Path(self.mktemp())
        other.mkdir()
        (other / "file").touch()
        place = self.place / "work"
        for make in (
            lambda: place.symlink_to(other.absolute()),
            lambda: os.mkfifo(place),
            place.touch,
        ):
            make()
            remove_tree(place)
            self.assertEqual(os.listdir(self.place), [])
        self.assertTrue((other / "file").exists())

    def test_not_there(self) -> None:
        """There may be nothing to remove."""
        remove_tree(self.place / "missing")
        self.assertTrue(self.place.exists())

    def test_modes(self) -> None:
        """Directories that their owner may neither read, write nor enter go, too."""
        deep = self.make("a/b/c", "file")
        closed = (deep, deep.parent, self.make("empty"), self.place / "a")
        if not os.geteuid():
            # Nothing is closed to root.
            for directory in (*closed, self.place, self.place.parent):
                os.chown(directory, NOBODY, -1)
        for directory in closed:
            directory.chmod(0)
        if not os.geteuid():
            os.seteuid(NOBODY)
            self.addCleanup(os.seteuid, 0)
        remove_tree(self.place)
        self.assertFalse(self.place.exists())
