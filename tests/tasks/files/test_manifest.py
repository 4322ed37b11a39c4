"""Manifests: one form, and what a hostile one can do, which is nothing."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from bzzz.errors import RemoteProtocolError
from bzzz.tasks.files import manifest as manifests
from bzzz.tasks.files.errors import PackError
from bzzz.tasks.files.manifest import (
    CHUNK,
    DIGEST_SIZE,
    MAX_ENTRIES,
    Chunk,
    Directory,
    Entry,
    File,
    Link,
    Manifest,
    Parts,
    decode,
    digest_of,
    encode,
    read_root,
)
from bzzz.tasks.files.names import (
    MAX_DEPTH,
    MAX_NAME,
    MAX_PATH,
    target_of,
    wrong_path,
    wrong_target,
)

ROOT = Directory("")

names = st.sampled_from("abc") | st.text(
    st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=8
).filter(lambda name: name not in {".", ".."})


@st.composite
def trees(draw: st.DrawFn) -> list[Entry]:
    """Entries that a directory may have."""
    directories = [""]
    entries: dict[str, Entry] = {"": ROOT}
    for _ in range(draw(st.integers(0, 12))):
        parent = draw(st.sampled_from(directories))
        path = f"{parent}/{draw(names)}" if parent else draw(names)
        if path in entries:
            continue
        kind = draw(st.sampled_from("dfl"))
        if kind == "d":
            entries[path] = Directory(path)
            directories.append(path)
        elif kind == "f":
            size = draw(st.integers(0, 3 * CHUNK))
            count = -(-size // CHUNK)
            digests = draw(st.binary(min_size=count * 32, max_size=count * 32))
            entries[path] = File(path, draw(st.booleans()), size, digests)
        else:
            up = draw(st.integers(0, path.count("/")))
            below = draw(st.lists(names, min_size=1, max_size=3))
            entries[path] = Link(path, "../" * up + "/".join(below))
    return list(entries.values())


def packed(*entries: Entry) -> bytes:
    """Entries as they are, whatever they are."""
    return msgspec.msgpack.encode(Manifest(entries))


class RoundTripTests(SynchronousTestCase):
    """What was packed is what is read."""

    @given(trees())
    def test_any_tree(self, entries: list[Entry]) -> None:
        """A tree is read as it was written, in the order of paths."""
        (data,) = encode(entries)
        root = read_root(data)
        assert isinstance(root, Manifest)
        self.assertCountEqual(root.entries, entries)
        paths = [entry.path.encode() for entry in root.entries]
        self.assertEqual(paths, sorted(paths))

    @given(trees(), st.randoms())
    def test_one_form(self, entries: list[Entry], random: object) -> None:
        """The order in which entries were found does not matter."""
        before = encode(entries)
        random.shuffle(entries)  # type: ignore[attr-defined]  # hypothesis's has no type
        self.assertEqual(encode(entries), before)

    def test_chunks(self) -> None:
        """A file's chunks have their sizes: full ones, and the rest."""
        digests = [bytes([number]) * 32 for number in range(3)]
        entries: list[Entry] = [
            ROOT,
            File("a", False, 2 * CHUNK + 5, b"".join(digests)),
            File("b", True, 0, b""),
        ]
        root = read_root(encode(entries)[0])
        assert isinstance(root, Manifest)
        sizes = (CHUNK, CHUNK, 5)
        self.assertEqual(list(root.chunks()), list(map(Chunk, digests, sizes)))
        self.assertEqual((root.size, root.files), (2 * CHUNK + 5, 2))

    def test_one_file(self) -> None:
        """A single file is a manifest's root."""
        entry = File("", True, 1, b"x" * 32)
        self.assertEqual(read_root(encode([entry])[0]), Manifest((entry,)))

    def test_long(self) -> None:
        """A long one is in parts, whose digests are in its first chunk."""
        entries: list[Entry] = [
            ROOT,
            *(File(f"{number:0200}", False, 0, b"") for number in range(6000)),
        ]
        first, *parts = encode(entries)
        root = read_root(first)
        assert isinstance(root, Parts)
        self.assertEqual(root.size, sum(map(len, parts)))
        self.assertEqual(root.digests, b"".join(map(digest_of, parts)))
        self.assertEqual([len(part) for part in parts[:-1]], [CHUNK] * (len(parts) - 1))
        self.assertEqual(list(decode(parts).entries), entries)

    def test_too_many(self) -> None:
        """More entries than there may be are refused, with what to do."""
        self.patch(manifests, "MAX_ENTRIES", 3)
        entries: list[Entry] = [ROOT, *(Directory(str(number)) for number in range(3))]
        with self.assertRaisesRegex(PackError, "archive"):
            encode(entries)


class HostileTests(SynchronousTestCase):
    """What is refused, and by what code."""

    def refused(self, data: bytes, code: str) -> None:
        with self.assertRaises(RemoteProtocolError) as raised:
            read_root(data)
        self.assertEqual(raised.exception.code, code)

    @given(st.binary(max_size=200))
    def test_any_bytes(self, data: bytes) -> None:
        """Any bytes are read or refused, and what is read is in its one form."""
        try:
            root = read_root(data)
        except RemoteProtocolError:
            return
        self.assertEqual(msgspec.msgpack.encode(root), data)

    @given(trees(), st.data())
    def test_one_byte_else(self, entries: list[Entry], data: st.DataObject) -> None:
        """With one byte else it is another manifest, or none."""
        (whole,) = encode(entries)
        place = data.draw(st.integers(0, len(whole) - 1))
        byte = data.draw(st.integers(0, 255))
        other = whole[:place] + bytes([byte]) + whole[place + 1 :]
        try:
            root = read_root(other)
        except RemoteProtocolError:
            return
        self.assertEqual(msgspec.msgpack.encode(root), other)

    def test_paths(self) -> None:
        """Paths that lead elsewhere, or to nothing."""
        for path in ("/etc/passwd", "..", "../x", "a/../../x", "a//b", "a/", ".", "./a", "a\0b"):
            self.refused(packed(ROOT, Directory("a"), File(path, False, 0, b"")), "manifest_path")
        long = ["n" * (MAX_NAME + 1), "/".join(["d"] * (MAX_DEPTH + 2)), "n/" * MAX_PATH]
        for path in long:
            self.refused(packed(ROOT, File(path, False, 0, b"")), "manifest_path")

    def test_twice(self) -> None:
        """The same path twice, of whatever kinds, or out of its order."""
        for other in (Directory("a"), Link("a", "b"), File("a", True, 0, b"")):
            self.refused(packed(ROOT, File("a", False, 0, b""), other), "manifest_order")
        self.refused(packed(ROOT, Directory("b"), Directory("a")), "manifest_order")

    def test_no_directory(self) -> None:
        """What is below a file, below a link, or below nothing."""
        below = File("a/b", False, 0, b"")
        self.refused(packed(ROOT, File("a", False, 0, b""), below), "manifest_parent")
        self.refused(packed(ROOT, Link("a", "c"), below), "manifest_parent")
        self.refused(packed(ROOT, below), "manifest_parent")
        self.refused(packed(File("", False, 0, b""), Directory("a")), "manifest_parent")

    def test_links(self) -> None:
        """Links that lead outside, or may by way of others."""
        for target in ("/etc", "..", "../x", "../../x", "a/..", "a/../../..", "", "x/.", "x\0y"):
            self.refused(packed(ROOT, Directory("a"), Link("l", target)), "manifest_link")
        self.refused(packed(ROOT, Directory("a"), Link("a/l", "../../x")), "manifest_link")

    def test_root(self) -> None:
        """A root that is a link, has a name, or is not there."""
        for entries in ((), (Link("", "a"),), (Directory("a"),)):
            self.refused(packed(*entries), "manifest_root")

    def test_digests(self) -> None:
        """More or fewer chunks than a size has."""
        for size, digests in ((0, b"x" * 32), (1, b""), (1, b"x" * 31), (CHUNK + 1, b"x" * 32)):
            self.refused(packed(ROOT, File("a", False, size, digests)), "manifest_digests")
        root = msgspec.msgpack.encode(Parts(CHUNK + 1, b"x" * DIGEST_SIZE))
        self.refused(root, "manifest_digests")

    def test_other_form(self) -> None:
        """The same content in another form, which would have another digest."""
        data = packed(ROOT, Directory("a"))
        # A list of two with its length in four bytes.
        longer = data.replace(b"manifest\x92", b"manifest\xdd\0\0\0\2")
        self.assertNotEqual(longer, data)
        self.refused(longer, "manifest_not_canonical")
        for more in (b"\0", data):
            self.refused(data + more, "manifest_unreadable")

    def test_many(self) -> None:
        """More entries than there may be are noticed before they are read."""
        head = packed(ROOT)[:10]
        for count in (MAX_ENTRIES + 1, (1 << 32) - 1):
            self.refused(head + b"\xdd" + count.to_bytes(4, "big"), "manifest_entries")

    def test_parts(self) -> None:
        """Parts that are parts, or that need not be."""
        with self.assertRaises(RemoteProtocolError) as raised:
            decode([msgspec.msgpack.encode(Parts(CHUNK + 1, b"x" * 64))])
        self.assertEqual(raised.exception.code, "manifest_nested")
        with self.assertRaises(RemoteProtocolError) as raised:
            decode([packed(ROOT)])
        self.assertEqual(raised.exception.code, "manifest_not_canonical")


class LinkTests(SynchronousTestCase):
    """No chain of links that are allowed leads outside."""

    @given(trees())
    def test_never_outside(self, entries: list[Entry]) -> None:
        """On a real disk every link of a tree that is allowed leads below its root."""
        place = Path(self.mktemp()).absolute()
        root = place / "root"
        root.mkdir(parents=True)
        try:
            for entry in sorted(entries, key=lambda entry: entry.path.encode()):
                if isinstance(entry, Directory):
                    (root / entry.path).mkdir(exist_ok=True)
                elif isinstance(entry, Link):
                    self.assertEqual(wrong_target(entry.path, entry.target), "")
                    os.symlink(entry.target, root / entry.path)
            for entry in entries:
                resolved = os.path.realpath(root / entry.path)
                self.assertEqual(os.path.commonpath([resolved, root]), str(root))
        finally:
            shutil.rmtree(place)

    def test_through_another(self) -> None:
        """A link that goes up after it went through another one is refused: it escapes."""
        self.assertEqual(wrong_target("a/b/c/up", "../../.."), "")
        self.assertEqual(wrong_target("x", "a/b/c/up/../.."), "it leads up again after a name")

    def test_target_of(self) -> None:
        """What changes nothing is left out of a target; what may is not."""
        for raw, target in (
            ("./a", "a"),
            ("a//b/", "a/b"),
            ("../a/.", "../a"),
            ("/a/./b", "/a/./b"),
            ("a/../b", "a/../b"),
        ):
            self.assertEqual(target_of(raw), target)

    def test_not_utf8(self) -> None:
        """A name that is not UTF-8 has no place in a manifest."""
        self.assertEqual(wrong_path(os.fsdecode(b"\xff")), "its name is not UTF-8")
