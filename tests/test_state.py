"""The state directory: what is made, what is kept, and what is refused without being touched."""

from __future__ import annotations

import base64
import fcntl
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from bzzz.errors import BzzzError, IdentityError, StateDirectoryError
from bzzz.identity.keys import PrivateKey
from bzzz.state import (
    OpenState,
    StateDirectory,
    open_runtime_directory,
    read_key,
    write_atomically,
)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


class StateDirectoryTests(SynchronousTestCase):
    """One node, one directory, one key."""

    def setUp(self) -> None:
        self.path = Path(self.mktemp()).absolute()

    def open(self) -> OpenState:
        state = StateDirectory(self.path).open()
        self.addCleanup(state.close)
        return state

    def error(self, kind: type[BzzzError]) -> str:
        message = str(self.assertRaises(kind, StateDirectory(self.path).open))
        self.assertNotIn("\n", message)
        return message

    def test_first_start(self) -> None:
        """The directory and the key are made, private to the user, and nothing else is left."""
        previous = os.umask(0)
        self.addCleanup(os.umask, previous)
        state = self.open()
        self.assertTrue(state.is_new)
        self.assertEqual(mode(self.path), 0o700)
        self.assertEqual(mode(self.path / "identity.key"), 0o600)
        self.assertEqual(sorted(os.listdir(self.path)), ["identity.key", "lock"])
        self.assertEqual((self.path / "lock").read_text(), f"{os.getpid()}\n")
        self.assertTrue(str(state.peer_id).startswith("12D3KooW"))
        self.assertIsNone(state.listen_port)

    def test_next_start(self) -> None:
        """The key and the port stay; the instance does not."""
        first = self.open()
        first.remember_port(40001)
        first.close()
        second = self.open()
        self.assertFalse(second.is_new)
        self.assertEqual(second.peer_id, first.peer_id)
        self.assertEqual(second.listen_port, 40001)
        self.assertNotEqual(second.instance, first.instance)
        self.assertEqual(mode(self.path / "listen_port"), 0o600)

    def test_randomness_is_given(self) -> None:
        """The key comes from the randomness that was given, so that a simulation can repeat it."""
        state = StateDirectory(self.path, lambda n: b"\x07" * n).open()
        self.addCleanup(state.close)
        self.assertEqual(state.identity.seed, b"\x07" * 32)

    def test_second_node(self) -> None:
        """A second node on the directory is refused and told the pid of the first."""
        self.open()
        self.assertEqual(
            self.error(StateDirectoryError),
            f"{self.path} is in use by the node with pid {os.getpid()}; stop that one, or give "
            "this one another --state-dir",
        )

    def test_lock_of_a_dead_node(self) -> None:
        """A pid that a crash left in the lock is no hindrance."""
        self.path.mkdir(mode=0o700)
        (self.path / "lock").write_text("123456789\n")
        self.open()
        self.assertEqual((self.path / "lock").read_text(), f"{os.getpid()}\n")

    def test_lock_is_not_inherited(self) -> None:
        """A program started by the node does not keep the directory locked after the node's end."""
        state = self.open()
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        try:
            state.close()
            with (self.path / "lock").open() as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            child.communicate(b"\n")

    def test_key_that_others_can_read(self) -> None:
        """A key that others can read is refused, with the command that mends it."""
        self.open().close()
        key = self.path / "identity.key"
        before = key.read_bytes()
        for bits in (0o640, 0o604, 0o660):
            key.chmod(bits)
            self.assertEqual(
                self.error(IdentityError),
                f"{key} can be read by others (mode {bits:04o}); if it was not copied, make it "
                f"private: chmod 600 {key}",
            )
        self.assertEqual(key.read_bytes(), before)

    def test_damaged_key(self) -> None:
        """A damaged key is named, never overwritten, and the directory is left unlocked."""
        self.open().close()
        key = self.path / "identity.key"
        good = key.read_bytes()
        rsa = base64.b64encode(b"\x08\x00\x12\x02ab") + b"\n"
        wrong_half = bytearray(base64.b64decode(good))
        wrong_half[-1] ^= 1
        mismatch = base64.b64encode(bytes(wrong_half))
        for damaged in (b"", good[:20], b"\xff\xfe", b"x" * 5000, rsa, mismatch, b"\0" * 93):
            key.write_bytes(damaged)
            message = self.error(IdentityError)
            self.assertTrue(message.startswith(f"{key} is damaged ("), message)
            self.assertEqual(key.read_bytes(), damaged)
        key.write_bytes(good)
        self.open()

    def test_key_that_is_no_file(self) -> None:
        """A directory or a pipe in the key's place is refused without waiting for it."""
        self.path.mkdir(mode=0o700)
        key = self.path / "identity.key"
        key.mkdir()
        self.assertIn(str(key), self.error(IdentityError))
        key.rmdir()
        os.mkfifo(key, 0o600)
        self.assertIn("is not a file", self.error(IdentityError))

    def test_cannot_be_written(self) -> None:
        """A directory that cannot be made or written is named with the reason."""
        self.path.write_text("in the way")
        self.assertIn(
            f"{self.path} cannot be written: Not a directory", self.error(StateDirectoryError)
        )
        self.path = Path("/proc/bzzz/state")
        self.assertIn("/proc/bzzz", self.error(StateDirectoryError))

    def test_writable_by_others(self) -> None:
        """A directory in which others could replace the key is refused."""
        self.path.mkdir()
        self.path.chmod(0o777)
        self.assertIn(f"chmod 700 {self.path}", self.error(StateDirectoryError))
        self.assertEqual(os.listdir(self.path), [])

    def test_damaged_port(self) -> None:
        """A remembered port that makes no sense is forgotten; the node starts."""
        state = self.open()
        for text in (
            b"",
            b"abc",
            b"0",
            b"65536",
            b"-1",
            b"\xff",
            b"9" * 10_000,
            b"0000019999999",
            b"000001" + b"0" * 5000,
        ):
            (self.path / "listen_port").write_bytes(text)
            self.assertIsNone(state.listen_port)

    def test_port_is_no_file(self) -> None:
        """What would keep a reader waiting is no port."""
        state = self.open()
        os.mkfifo(self.path / "listen_port")
        self.assertIsNone(state.listen_port)
        state.remember_port(7)
        self.assertEqual(state.listen_port, 7)

    def test_remember_port_fails(self) -> None:
        """A port that cannot be written is an error of ours, and the old one stays."""
        state = self.open()
        state.remember_port(1)
        (self.path / ".listen_port.new").mkdir()
        self.assertRaises(StateDirectoryError, state.remember_port, 2)
        self.assertEqual(state.listen_port, 1)

    def test_write_atomically_never_replaces_what_is_new(self) -> None:
        """A new file that exists after all is left as it is, and no temporary file stays."""
        self.path.mkdir()
        target = self.path / "key"
        target.write_text("old")
        self.assertRaises(FileExistsError, write_atomically, target, b"new", new=True)
        self.assertEqual(target.read_text(), "old")
        self.assertEqual(os.listdir(self.path), ["key"])

    def test_without_hard_links(self) -> None:
        """A file system without hard links still gets its key, and keeps the one it has."""

        def link(*args: object) -> None:
            raise PermissionError(1, "Operation not permitted")

        self.patch(os, "link", link)
        first = self.open()
        first.close()
        self.assertEqual(self.open().peer_id, first.peer_id)
        self.assertRaises(
            FileExistsError, write_atomically, self.path / "identity.key", b"", new=True
        )

    def test_crash_before_the_key_is_whole(self) -> None:
        """What a crash left half-written is not taken for the key."""
        self.path.mkdir(mode=0o700)
        (self.path / ".identity.key.new").write_bytes(b"CAES")
        state = self.open()
        self.assertTrue(state.is_new)
        self.assertEqual(sorted(os.listdir(self.path)), ["identity.key", "lock"])

    def test_key_format(self) -> None:
        """The file is the libp2p PrivateKey protobuf in base64, which other tools read."""
        state = self.open()
        decoded = base64.b64decode((self.path / "identity.key").read_bytes(), validate=False)
        self.assertEqual(decoded[:4], b"\x08\x01\x12\x40")
        self.assertEqual(PrivateKey.decode(decoded).peer_id, state.peer_id)


class NextIdentityTests(SynchronousTestCase):
    """The key that is to follow, and its way into the other one's place."""

    def setUp(self) -> None:
        self.path = Path(self.mktemp()).absolute()
        self.key, self.next = self.path / "identity.key", self.path / "identity.key.new"

    def open(self) -> OpenState:
        state = StateDirectory(self.path).open()
        self.addCleanup(state.close)
        return state

    def test_made(self) -> None:
        """It is another key, private to the user, beside the one that the node goes on with."""
        previous = os.umask(0)
        self.addCleanup(os.umask, previous)
        state = self.open()
        self.assertIsNone(state.next_identity())
        before = self.key.read_bytes()
        key = state.make_next_identity()
        self.assertEqual((mode(self.next), self.key.read_bytes()), (0o600, before))
        self.assertEqual(read_key(self.next).seed, key.seed)
        self.assertNotEqual(key.peer_id, state.peer_id)
        self.assertEqual(
            sorted(os.listdir(self.path)), ["identity.key", "identity.key.new", "lock"]
        )

    def test_made_once(self) -> None:
        """One that is there already is not replaced: somebody may have been told of it."""
        state = self.open()
        key = state.make_next_identity()
        self.assertEqual(state.make_next_identity().seed, key.seed)
        state.close()
        again = self.open().next_identity()
        assert again is not None
        self.assertEqual(again.seed, key.seed)

    def test_forgotten(self) -> None:
        """It is deleted, and deleting none is no error."""
        state = self.open()
        first = state.make_next_identity()
        state.forget_next_identity()
        state.forget_next_identity()
        self.assertEqual(sorted(os.listdir(self.path)), ["identity.key", "lock"])
        self.assertNotEqual(state.make_next_identity().seed, first.seed)

    def test_taken(self) -> None:
        """It takes the place of the old one, whose bytes are overwritten."""
        state = self.open()
        old, key = state.identity, state.make_next_identity()
        state.follow(key)
        self.assertEqual((state.identity, state.previous, state.peer_id), (key, old, key.peer_id))
        self.assertEqual(read_key(self.key).seed, old.seed)
        with self.key.open("rb") as file:
            length = len(file.read())
            state.take_next_identity()
            file.seek(0)
            self.assertEqual(file.read(), bytes(length))
        self.assertIsNone(state.previous)
        self.assertEqual((read_key(self.key).seed, mode(self.key)), (key.seed, 0o600))
        self.assertEqual(sorted(os.listdir(self.path)), ["identity.key", "lock"])

    def test_taken_where_it_cannot_be_overwritten(self) -> None:
        """A disk that takes no more keeps nobody from using the new key."""
        state = self.open()
        key = state.make_next_identity()

        def no_space(*arguments: object) -> int:
            raise OSError(28, "No space left on device")

        self.patch(os, "pwrite", no_space)
        state.follow(key)
        state.take_next_identity()
        self.assertEqual(read_key(self.key).seed, key.seed)

    def test_not_taken(self) -> None:
        """Where it cannot take the place, both stay, and the error names the file."""
        state = self.open()
        old = state.identity
        key = state.make_next_identity()
        state.follow(key)
        self.next.rename(self.path / "elsewhere")
        error = self.assertRaises(StateDirectoryError, state.take_next_identity)
        self.assertIn("identity.key", str(error))
        self.assertEqual(read_key(self.key).seed, old.seed)
        self.assertEqual(state.previous, old)

    def test_link(self) -> None:
        """A key that is elsewhere is not replaced, and where it is left is told."""
        state = self.open()
        self.key.rename(self.path / "elsewhere")
        self.key.symlink_to(self.path / "elsewhere")
        error = self.assertRaises(IdentityError, state.make_next_identity)
        self.assertIn(f"{self.key} is a link", str(error))
        self.assertFalse(self.next.exists())

    def test_cannot_be_written(self) -> None:
        """What is in the way of the file is an error of ours."""
        state = self.open()
        (self.path / ".identity.key.new.new").mkdir()
        self.assertRaises(StateDirectoryError, state.make_next_identity)

    def test_damaged(self) -> None:
        """A damaged one, or one that others can read, is refused as the other key is."""
        state = self.open()
        state.make_next_identity()
        self.next.chmod(0o640)
        self.assertIn("chmod 600", str(self.assertRaises(IdentityError, state.next_identity)))
        self.next.chmod(0o600)
        self.next.write_bytes(b"x")
        self.assertRaises(IdentityError, state.next_identity)
        self.assertRaises(IdentityError, state.make_next_identity)


class RuntimeDirectoryTests(SynchronousTestCase):
    """The directory of the control socket belongs to this user alone."""

    def setUp(self) -> None:
        # Not mktemp(): in a deep checkout its paths are too long for a socket.
        self.parent = tempfile.TemporaryDirectory(prefix="bzzz-")
        self.addCleanup(self.parent.cleanup)

    def path_of(self, name: str) -> Path:
        return Path(self.parent.name) / name

    def test_made(self) -> None:
        """It is made, private, and found again."""
        path = self.path_of("run")
        previous = os.umask(0)
        self.addCleanup(os.umask, previous)
        self.assertEqual(open_runtime_directory(path), path)
        self.assertEqual(mode(path), 0o700)
        open_runtime_directory(path)

    def test_refused(self) -> None:
        """A link, a file, or a directory that others can write to is not taken."""
        link = self.path_of("link")
        link.symlink_to(self.make_directory("private", 0o700))
        self.assertRaises(StateDirectoryError, open_runtime_directory, link)
        open_to_all = self.make_directory("public", 0o777)
        self.assertRaises(StateDirectoryError, open_runtime_directory, open_to_all)
        file = self.path_of("file")
        file.write_text("")
        self.assertRaises(StateDirectoryError, open_runtime_directory, file)

    def make_directory(self, name: str, bits: int) -> Path:
        path = self.path_of(name)
        path.mkdir()
        path.chmod(bits)
        return path

    def test_too_long(self) -> None:
        """A path too long for a socket is refused before anything is made."""
        path = Path("/tmp") / ("x" * 200)
        error = self.assertRaises(StateDirectoryError, open_runtime_directory, path)
        self.assertIn("too long for a socket's path", str(error))
