"""Files in and out of chunks: what is taken, what is refused, and that nothing leads outside."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from bzzz.tasks.files import packing
from bzzz.tasks.files.chunk_store import ChunkStore, Hold
from bzzz.tasks.files.errors import ChunkMissing, PackError, StoreError, UnpackError
from bzzz.tasks.files.globs import Globs
from bzzz.tasks.files.manifest import CHUNK, Directory, Entry, File, Link, Manifest, digest_of
from bzzz.tasks.files.packing import Packed, collect, pack
from bzzz.tasks.files.stored import load
from bzzz.tasks.files.unpacking import unpack


def never() -> bool:
    return False


class FilesCase(SynchronousTestCase):
    """A directory, a store, and a place to unpack to."""

    def setUp(self) -> None:
        self.place = Path(self.mktemp()).absolute()
        self.tree = self.place / "tree"
        self.into = self.place / "into"
        self.tree.mkdir(parents=True)
        self.into.mkdir()
        self.store = ChunkStore(self.place / "store", 64 << 20)
        self.store.open()

    def file(self, path: str, data: bytes = b"data") -> Path:
        made = self.tree / path
        made.parent.mkdir(parents=True, exist_ok=True)
        made.write_bytes(data)
        return made

    def pack(self, path: Path | None = None) -> Packed:
        return pack(self.store, path or self.tree, Hold(), never)

    def collect(self, *globs: str) -> Packed:
        return collect(self.store, self.tree, Globs(globs), Hold(), never)

    def manifest(self, packed: Packed) -> Manifest:
        return load(self.store, bytes.fromhex(packed.digest)).manifest

    def paths(self, packed: Packed) -> list[str]:
        return [entry.path for entry in self.manifest(packed).entries[1:]]

    def unpack(self, packed: Packed | Manifest, name: str = ".") -> None:
        manifest = packed if isinstance(packed, Manifest) else self.manifest(packed)
        unpack(self.store, manifest, self.into, name, never)

    def seen(self, root: Path) -> dict[str, Any]:
        """What is below a directory."""
        found: dict[str, Any] = {}
        for each in sorted(root.rglob("*")):
            path = str(each.relative_to(root))
            if each.is_symlink():
                found[path] = os.readlink(each)
            elif each.is_dir():
                found[path] = None
            else:
                found[path] = (each.read_bytes(), os.access(each, os.X_OK))
        return found


class RoundTripTests(FilesCase):
    """What was packed is unpacked."""

    def test_tree(self) -> None:
        """Files, their x bit, empty files, empty directories and links inside are kept."""
        self.file("a/long", os.urandom(2 * CHUNK + 10))
        self.file("a/exact", os.urandom(CHUNK))
        self.file("a/empty", b"")
        self.file("run").chmod(0o700)
        (self.tree / "nothing/in").mkdir(parents=True)
        (self.tree / "a/link").symlink_to("../run")
        (self.tree / "ä ö\n").write_text("x")
        packed = self.pack()
        self.assertEqual((packed.files, packed.skipped), (5, ()))
        self.assertEqual(packed.size, 3 * CHUNK + 10 + 4 + 1)
        self.unpack(packed, "in/put")
        self.assertEqual(self.seen(self.into / "in/put"), self.seen(self.tree))

    def test_one_file(self) -> None:
        """A file is packed by itself, and gets the name that is wanted."""
        packed = self.pack(self.file("a", b"content"))
        self.unpack(packed, "x/y")
        self.assertEqual((self.into / "x/y").read_bytes(), b"content")
        for name in (".", "", "./"):
            with self.assertRaisesRegex(UnpackError, "needs a name"):
                self.unpack(packed, name)

    def test_same_digest(self) -> None:
        """The same contents have the same digest, whatever their times, owners and other rights."""
        made = self.file("a")
        before = self.pack().digest
        os.utime(made, (1, 1))
        made.chmod(0o640)
        self.assertEqual(self.pack().digest, before)
        made.chmod(0o740)
        self.assertNotEqual(self.pack().digest, before)

    def test_root_link(self) -> None:
        """A link that was named by its owner is followed."""
        self.file("a")
        (self.place / "link").symlink_to(self.tree)
        self.assertEqual(self.pack(self.place / "link"), self.pack())

    def test_two_into_one(self) -> None:
        """Two trees can be unpacked into one directory where their files differ."""
        self.file("shared/a")
        first = self.pack()
        (self.tree / "shared/a").rename(self.tree / "shared/b")
        self.unpack(first)
        self.unpack(self.pack())
        self.assertEqual(sorted(self.seen(self.into)), ["shared", "shared/a", "shared/b"])

    def test_many_directories(self) -> None:
        """Names that sort between a directory and what is in it do not confuse."""
        for path in ("a/x", "a-b/x", "a.c/x", "a/b/x", "a/b-c/x", "b/x"):
            self.file(path, path.encode())
        self.unpack(self.pack())
        self.assertEqual(self.seen(self.into), self.seen(self.tree))

    def test_long_list(self) -> None:
        """A manifest of more than a chunk is found by its first."""
        self.patch(packing, "MAX_ENTRIES", 10_000)
        directory = self.tree / ("d" * 200)
        directory.mkdir()
        for number in range(5000):
            (directory / f"{number:040}").touch()
        packed = self.pack()
        stored = load(self.store, bytes.fromhex(packed.digest))
        self.assertGreater(len(stored.own), 2)
        self.assertEqual(packed.files, 5000)


class PackTests(FilesCase):
    """What is left out, and what is refused."""

    def refused(self, *words: str) -> None:
        with self.assertRaises(PackError) as raised:
            self.pack()
        for word in words:
            self.assertIn(word, str(raised.exception))

    def test_special(self) -> None:
        """Sockets and pipes are left out, and told."""
        self.file("a")
        os.mkfifo(self.tree / "pipe")
        os.mknod(self.tree / "socket", 0o600 | 0o140000)
        packed = self.pack()
        self.assertEqual(self.paths(packed), ["a"])
        self.assertEqual(
            list(packed.skipped),
            [f"{self.tree / name} is no file, directory or link" for name in ("pipe", "socket")],
        )

    def test_unreadable(self) -> None:
        """A file that cannot be read is an error that names it."""
        made = self.file("d/a")
        real = os.open

        def refuse(path: Any, *arguments: Any, **keywords: Any) -> int:
            if path == "a":
                raise OSError(errno.EACCES, "Permission denied")
            return real(path, *arguments, **keywords)

        self.patch(os, "open", refuse)
        self.refused(str(made), "Permission denied")
        packed = self.collect("**")
        self.assertEqual(self.paths(packed), ["d"])
        self.assertIn(f"{made} cannot be packed: it cannot be read", packed.skipped[0])

    def test_not_there(self) -> None:
        """What is not there, or neither file nor directory, is named."""
        with self.assertRaisesRegex(PackError, "nowhere cannot be read: No such file"):
            self.pack(self.place / "nowhere")
        os.mkfifo(self.place / "pipe")
        with self.assertRaisesRegex(PackError, "is no directory and no file"):
            self.pack(self.place / "pipe")

    def test_links(self) -> None:
        """A link to outside is an error that says where it leads."""
        for target in ("/etc/passwd", "../outside", "a/../../x"):
            link = self.tree / "link"
            link.symlink_to(target)
            self.refused(str(link), repr(target))
            link.unlink()

    def test_name(self) -> None:
        """A name that is not UTF-8 is an error that shows its bytes."""
        (self.tree / os.fsdecode(b"\xff")).touch()
        self.refused("\\udcff", "not UTF-8")

    def test_changes(self) -> None:
        """A file that grows, shrinks or is written while it is read is refused."""
        made = self.file("a", bytes(CHUNK + 10))
        put = self.store.put
        changes = [
            lambda: made.write_bytes(bytes(2 * CHUNK)),
            lambda: os.truncate(made, CHUNK),
            lambda: os.utime(made, (5, 5)),
        ]
        for change in changes:
            made.write_bytes(bytes(CHUNK + 10))

            def changing(data: bytes, hold: Any = None, change: Any = change) -> bytes:
                change()
                return put(data, hold)

            self.patch(self.store, "put", changing)
            self.refused(str(made), "it changed while it was read")

    def test_swapped(self) -> None:
        """A directory that becomes a link between two looks is not followed."""
        self.file("d/a")
        (self.place / "secret").mkdir()
        (self.place / "secret/key").touch()
        real = os.open

        def swap(path: Any, *arguments: Any, **keywords: Any) -> int:
            if path == "d":
                (self.tree / "d").rename(self.place / "moved")
                (self.tree / "d").symlink_to(self.place / "secret")
            return real(path, *arguments, **keywords)

        self.patch(os, "open", swap)
        self.refused(str(self.tree / "d"))

    def test_too_many(self) -> None:
        """More files than a manifest has are noticed on the way."""
        self.patch(packing, "MAX_ENTRIES", 3)
        for number in range(4):
            self.file(str(number))
        self.refused(str(self.tree), "archive")

    def test_stopped(self) -> None:
        """It ends soon when the node stops."""
        self.file("a")
        with self.assertRaisesRegex(PackError, "stopping"):
            pack(self.store, self.tree, Hold(), lambda: True)
        with self.assertRaisesRegex(PackError, "stopping"):
            collect(self.store, self.tree, Globs(["**"]), Hold(), lambda: True)

    def test_no_room(self) -> None:
        """What is larger than the cache is refused, and is not held after that."""
        self.file("a", bytes(3) + os.urandom(4 * CHUNK))
        store = ChunkStore(self.place / "small", 2 * CHUNK)
        store.open()
        hold = Hold()
        with self.assertRaisesRegex(StoreError, "greater quota"):
            pack(store, self.tree, hold, never)
        store.release(hold)
        store.put(os.urandom(CHUNK))


class CollectTests(FilesCase):
    """What a task leaves."""

    def test_globs(self) -> None:
        """What matches is there with its directories, and patterns without a match are told."""
        for path in ("out/a.txt", "out/b.bin", "out/deep/er/c.txt", "other/d.txt", "e.txt"):
            self.file(path)
        (self.tree / "out/empty").mkdir()
        packed = self.collect("out/**/*.txt", "*.txt", "*.log", "out/a.txt")
        self.assertEqual(
            self.paths(packed),
            ["e.txt", "out", "out/a.txt", "out/deep", "out/deep/er", "out/deep/er/c.txt"],
        )
        self.assertEqual(packed.unmatched, ("*.log",))
        self.assertEqual(self.paths(self.collect("out/e*")), ["out", "out/empty"])
        self.assertEqual(len(self.paths(self.collect("**"))), 10)

    def test_whole(self) -> None:
        """A directory that matches is taken whole, and patterns below it are still looked at."""
        self.file("out/a")
        packed = self.collect("out", "out/a", "out/nothing")
        self.assertEqual(self.paths(packed), ["out", "out/a"])
        self.assertEqual(packed.unmatched, ("out/nothing",))

    def test_links(self) -> None:
        """A link to outside is left out and told; none is followed, also one to inside."""
        self.file("in/a")
        (self.place / "secret").mkdir()
        (self.place / "secret/key").touch()
        (self.tree / "bad").symlink_to(self.place / "secret")
        (self.tree / "up").symlink_to("../secret")
        (self.tree / "good").symlink_to("in")
        packed = self.collect("bad/**", "bad/key", "up/*", "good", "good/a", "good/**")
        self.assertEqual(self.paths(packed), ["good"])
        self.assertEqual(packed.unmatched, ("bad/key", "up/*", "good/a"))
        self.assertEqual(len(packed.skipped), 1)
        self.assertIn("leads to an absolute path", packed.skipped[0])

    def test_told(self) -> None:
        """Of many that are left out so many are told, and how many more there are."""
        for number in range(packing.MAX_SKIPPED + 5):
            os.mkfifo(self.tree / str(number))
        packed = self.collect("**")
        self.assertEqual(len(packed.skipped), packing.MAX_SKIPPED + 1)
        self.assertEqual(packed.skipped[-1], "and 5 more")

    def test_no_directory(self) -> None:
        """Below a file nothing is collected."""
        with self.assertRaisesRegex(PackError, "is no directory"):
            collect(self.store, self.file("a"), Globs(["**"]), Hold(), never)


class UnpackTests(FilesCase):
    """What is refused, and what an enemy tries."""

    def refused(self, manifest: Manifest | Packed, *words: str, name: str = ".") -> None:
        with self.assertRaises(UnpackError) as raised:
            self.unpack(manifest, name)
        for word in words:
            self.assertIn(word, str(raised.exception))

    def made(self, *entries: Entry) -> Manifest:
        return Manifest((Directory(""), *entries))

    def a_file(self, path: str, data: bytes = b"evil") -> File:
        return File(path, False, len(data), self.store.put(data))

    def test_names(self) -> None:
        """A place that is not below the directory is refused."""
        packed = self.pack(self.file("a"))
        for name in ("/etc/x", "../x", "a/../../x", "x\0y"):
            self.refused(packed, "is no path below", name=name)
        self.assertEqual(self.seen(self.into), {})

    def test_taken(self) -> None:
        """Nothing that is there is written to."""
        self.file("a", b"new")
        (self.into / "a").write_bytes(b"old")
        self.refused(self.pack(), str(self.into / "a"), "is there already")
        self.assertEqual((self.into / "a").read_bytes(), b"old")

    def test_through_links(self) -> None:
        """No link that is there is written through, be it for a file, a directory or a parent."""
        outside = self.place / "outside"
        outside.mkdir()
        (outside / "file").write_bytes(b"mine")
        for name, target in (("l", outside), ("f", outside / "file"), ("n", outside / "new")):
            (self.into / name).symlink_to(target)
        self.refused(self.made(Directory("l"), self.a_file("l/x")), str(self.into / "l"))
        self.refused(self.made(self.a_file("f")), "is there already")
        self.refused(self.made(self.a_file("n")), "is there already")
        self.refused(self.made(Link("f", "x")), "is there already")
        self.refused(self.made(self.a_file("x")), str(self.into / "l"), name="l/deep")
        self.refused(Manifest((self.a_file(""),)), str(self.into / "l"), name="l/x")
        self.assertEqual(self.seen(outside), {"file": (b"mine", False)})

    def test_link_of_another(self) -> None:
        """A tree cannot write through a link that another one has made."""
        self.unpack(self.made(Directory("d"), Link("l", "d")))
        self.refused(self.made(Directory("l"), self.a_file("l/x")))
        self.assertEqual(self.seen(self.into), {"d": None, "l": "d"})

    def test_same_directory(self) -> None:
        """Two directories that the file system takes for one are noticed."""

        def folding(real: Any) -> Any:
            return lambda path, *rest, **more: real("a" if path == "A" else path, *rest, **more)

        self.patch(os, "open", folding(os.open))
        self.patch(os, "mkdir", folding(os.mkdir))
        self.refused(self.made(Directory("A"), Directory("a")), "are the same for this file system")

    def test_chunk_missing(self) -> None:
        """A chunk that is not there ends it, and half a file is not left."""
        data = [os.urandom(CHUNK), b"rest"]
        file = File("a", False, CHUNK + 4, b"".join(map(self.store.put, data)))
        self.store.drop(digest_of(data[1]))
        with self.assertRaises(ChunkMissing):
            self.unpack(self.made(file))
        self.assertEqual(self.seen(self.into), {})

    def test_chunk_size(self) -> None:
        """A chunk of another size than its list says ends it."""
        self.refused(
            self.made(File("a", False, 7, self.store.put(b"evil"))), "has another size than is said"
        )
        self.assertEqual(self.seen(self.into), {})

    def test_full_disk(self) -> None:
        """A full disk is told with the file's name, and half a file is not left."""

        def fail(file: int, data: Any) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        manifest = self.made(self.a_file("a"))
        self.patch(os, "write", fail)
        self.refused(manifest, str(self.into / "a"), "No space left")
        self.assertEqual(self.seen(self.into), {})

    def test_no_place(self) -> None:
        """A directory to unpack to that is not there is named."""
        self.into = self.place / "nowhere"
        self.refused(self.made(), str(self.into))

    def test_descriptors(self) -> None:
        """None stays open, whatever happened."""
        before = len(os.listdir("/proc/self/fd"))
        self.file("a/b/c")
        packed = self.pack()
        self.unpack(packed)
        self.refused(packed)
        (self.tree / "a/l").symlink_to("/etc")
        with self.assertRaises(PackError):
            self.pack()
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)

    def test_stopped(self) -> None:
        """It ends soon when the node stops."""
        with self.assertRaisesRegex(UnpackError, "stopping"):
            unpack(self.store, self.made(Directory("a")), self.into, ".", lambda: True)
