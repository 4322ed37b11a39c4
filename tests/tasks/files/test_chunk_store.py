"""Chunks on disk: whole or not there, within a quota, whatever fails."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from bzzz.tasks.files import chunk_store
from bzzz.tasks.files.chunk_store import BLOCK, NEW, ChunkStore, Hold
from bzzz.tasks.files.errors import ChunkMissing, StoreError, WrongChunk
from bzzz.tasks.files.manifest import CHUNK, Chunk, digest_of

ONE, TWO, THREE, FOUR = (bytes([number]) * 100 for number in range(1, 5))


class StoreCase(SynchronousTestCase):
    """A store of three small chunks."""

    def setUp(self) -> None:
        self.place = Path(self.mktemp())
        self.store = self.opened()

    def opened(self, quota: int = 3 * BLOCK) -> ChunkStore:
        store = ChunkStore(self.place, quota)
        store.open()
        return store

    def path(self, data: bytes) -> Path:
        name = digest_of(data).hex()
        return self.place / name[:2] / name[2:]

    def there(self) -> list[bytes]:
        """Which of the chunks are there, on the disk and as far as is known."""
        known = [data for data in (ONE, TWO, THREE, FOUR) if self.store.has(digest_of(data))]
        self.assertEqual(
            known, [data for data in (ONE, TWO, THREE, FOUR) if self.path(data).exists()]
        )
        self.assertEqual(self.store.used, BLOCK * len(known))
        return known


class KeepingTests(StoreCase):
    """What is kept and read."""

    def test_round_trip(self) -> None:
        """A chunk is read as it was kept, by its digest, from a file of its owner's alone."""
        for data in (ONE, os.urandom(CHUNK)):
            store = self.opened(2 * CHUNK)
            digest = store.put(data)
            self.assertEqual(digest, digest_of(data))
            self.assertEqual(store.get(digest), data)
            self.assertEqual(self.path(data).stat().st_mode & 0o777, 0o600)
            self.assertEqual(os.listdir(self.place / NEW), [])

    def test_twice(self) -> None:
        """The same chunk is kept once."""
        self.store.put(ONE)
        self.store.put(ONE)
        self.assertEqual(self.there(), [ONE])

    def test_wrong(self) -> None:
        """A chunk that is not what it is called is not kept."""
        with self.assertRaises(WrongChunk):
            self.store.put(ONE, digest=digest_of(TWO))
        self.assertEqual(self.there(), [])

    def test_no_chunk(self) -> None:
        """Nothing, and more than a chunk, is a mistake here."""
        for data in (b"", bytes(CHUNK + 1)):
            with self.assertRaises(ValueError):
                self.store.put(data)

    def test_missing(self) -> None:
        """One that is not there is said to be missing, also if its file was removed."""
        self.store.put(ONE)
        self.path(ONE).unlink()
        for data in (ONE, TWO):
            with self.assertRaises(ChunkMissing):
                self.store.get(digest_of(data))
        self.assertEqual(self.there(), [])

    def test_changed(self) -> None:
        """One whose file was changed is noticed when it is read, dropped, and can be kept again."""
        for change in (b"x", ONE[:50], ONE + b"x"):
            digest = self.store.put(ONE)
            self.assertEqual(self.store.get(digest), ONE)
            self.path(ONE).write_bytes(change)
            with self.assertRaisesRegex(ChunkMissing, "damaged"):
                self.store.get(digest)
            self.assertEqual(self.there(), [])

    def test_changed_before(self) -> None:
        """One that was changed before a start is noticed when it is read first."""
        digest = self.store.put(ONE)
        self.path(ONE).write_bytes(TWO)
        self.store = self.opened()
        with self.assertRaisesRegex(ChunkMissing, "damaged"):
            self.store.get(digest)

    def test_verified_once(self) -> None:
        """One that is as it was when it was verified is not verified again."""
        digest = self.store.put(ONE)
        self.store = self.opened()
        looked: list[bytes] = []

        def look(data: bytes) -> bytes:
            looked.append(data)
            return digest_of(data)

        self.patch(chunk_store, "digest_of", look)
        for _ in range(3):
            self.store.get(digest)
        self.assertEqual(len(looked), 1)

    def test_link(self) -> None:
        """A link in the place of a chunk is not followed."""
        digest = self.store.put(ONE)
        other = self.place / "other"
        self.path(ONE).rename(other)
        self.path(ONE).symlink_to(other.absolute())
        with self.assertRaises(StoreError):
            self.store.get(digest)


class QuotaTests(StoreCase):
    """What is dropped for others."""

    def test_least_recently_used(self) -> None:
        """The one that was not used for longest goes first."""
        for data in (ONE, TWO, THREE):
            self.store.put(data)
        self.store.get(digest_of(ONE))
        self.store.put(FOUR)
        self.assertEqual(self.there(), [ONE, THREE, FOUR])

    def test_held(self) -> None:
        """One that is held stays, until nobody holds it any more."""
        first, second = Hold(), Hold()
        digest = self.store.put(ONE, first)
        self.store.hold(second, [digest])
        for data in (TWO, THREE, FOUR):
            self.store.put(data)
        self.assertEqual(self.there(), [ONE, THREE, FOUR])
        self.store.release(first)
        self.store.put(TWO)
        self.assertEqual(self.there(), [ONE, TWO, FOUR])
        self.store.release(second)
        for data in (THREE, FOUR, TWO):
            self.store.put(data)
        self.assertEqual(self.there(), [TWO, THREE, FOUR])

    def test_held_before(self) -> None:
        """One that is held before it comes stays when it is there; those that lack are told."""
        hold = Hold()
        self.store.put(TWO)
        digests = [digest_of(ONE), digest_of(TWO)]
        self.assertEqual(self.store.hold(hold, digests), digests[:1])
        for data in (ONE, THREE, FOUR):
            self.store.put(data)
        self.assertEqual(self.there(), [ONE, TWO, FOUR])

    def test_ended(self) -> None:
        """A hold that has ended holds nothing again, as when a thread was late."""
        hold = Hold()
        self.store.release(hold)
        self.store.put(ONE, hold)
        self.store.hold(hold, [digest_of(ONE)])
        for data in (TWO, THREE, FOUR):
            self.store.put(data)
        self.assertEqual(self.there(), [TWO, THREE, FOUR])

    def test_full(self) -> None:
        """When all that is there is held, the next one is refused, with what to do."""
        hold = Hold()
        for data in (ONE, TWO, THREE):
            self.store.put(data, hold)
        with self.assertRaisesRegex(StoreError, "greater quota"):
            self.store.put(FOUR)
        self.assertEqual(self.there(), [ONE, TWO, THREE])
        self.store.release(hold)
        self.store.put(FOUR)
        self.assertEqual(self.there(), [TWO, THREE, FOUR])

    def test_check_room(self) -> None:
        """It is known before whether there will be room beside what is held."""
        hold = Hold()
        self.store.put(ONE, hold)
        self.store.put(TWO)
        chunks = [Chunk(digest_of(data), len(data)) for data in (ONE, TWO, THREE, FOUR)]
        self.store.check_room(chunks[:3])
        with self.assertRaisesRegex(StoreError, "greater quota"):
            self.store.check_room(chunks)

    def test_many(self) -> None:
        """Beyond so many chunks it is as beyond the quota."""
        self.patch(chunk_store, "MAX_CHUNKS", 2)
        for data in (ONE, TWO, THREE):
            self.store.put(data)
        self.assertEqual(self.there(), [TWO, THREE])

    def test_limit(self) -> None:
        """A smaller quota drops the oldest at once, but not what is held; a greater one gives room
        again."""
        hold = Hold()
        self.store.put(ONE, hold)
        for data in (TWO, THREE):
            self.store.put(data)
        self.store.limit(2 * BLOCK)
        self.assertEqual(self.there(), [ONE, THREE])
        self.store.limit(0)
        self.assertEqual(self.there(), [ONE])
        with self.assertRaisesRegex(StoreError, "cache_quota"):
            self.store.put(TWO)
        self.store.limit(2 * BLOCK)
        self.store.put(TWO)
        self.assertEqual(self.there(), [ONE, TWO])

    def test_smaller_quota(self) -> None:
        """With a smaller quota at the next start the oldest are dropped."""
        for age, data in enumerate((THREE, ONE, TWO)):
            self.store.put(data)
            os.utime(self.path(data), (1000 + age, 1000 + age))
        self.store = self.opened(2 * BLOCK)
        self.assertEqual(self.there(), [ONE, TWO])


class FailureTests(StoreCase):
    """Disks and crashes."""

    def test_full_disk(self) -> None:
        """A full disk is said in plain words, leaves no half file, and costs no quota."""
        write = os.write
        for reason, number in (
            ("the disk is full; make room", errno.ENOSPC),
            ("the disk fails", errno.EIO),
            ("read-only", errno.EROFS),
        ):
            halves: list[int] = []

            def fail(
                file: int, data: bytes, number: int = number, halves: list[int] = halves
            ) -> int:
                if not halves:
                    halves.append(write(file, data[:10]))
                    return halves[0]
                raise OSError(number, os.strerror(number))

            self.patch(os, "write", fail)
            with self.assertRaisesRegex(StoreError, f"{self.place}: .*{reason}"):
                self.store.put(ONE)
            self.assertEqual(os.listdir(self.place / NEW), [])
            self.assertEqual(self.there(), [])
        self.patch(os, "write", write)
        self.store.put(ONE)
        self.assertEqual(self.there(), [ONE])

    def test_crash(self) -> None:
        """What a crash left half written is gone after the start; what was whole is there."""
        self.store.put(ONE)
        (self.place / NEW / "7").write_bytes(b"half")
        self.path(TWO).parent.mkdir(exist_ok=True)
        self.path(TWO).touch()
        self.store = self.opened()
        self.assertEqual(self.there(), [ONE])
        self.assertEqual(os.listdir(self.place / NEW), [])
        self.assertEqual(self.store.get(digest_of(ONE)), ONE)

    def test_crash_anywhere(self) -> None:
        """A crash at any call to the system leaves a store that opens, with it or without."""

        class Crash(BaseException):
            pass

        for name in ("open", "write", "replace", "close"):
            real = getattr(os, name)
            for when in ("before", "after"):

                def crash(*arguments: Any, real: Any = real, when: str = when, **more: Any) -> Any:
                    if when == "after":
                        real(*arguments, **more)
                    raise Crash

                patched = self.patch(os, name, crash)
                with self.assertRaises(Crash):
                    self.store.put(TWO)
                patched.restore()
                self.store = self.opened()
                self.assertIn(self.there(), ([], [TWO]))
                self.store.drop(digest_of(TWO))
                self.store.put(TWO)
                self.assertEqual(self.store.get(digest_of(TWO)), TWO)
                self.store.drop(digest_of(TWO))

    def test_cannot_open(self) -> None:
        """A directory that cannot be used is named."""
        self.place = Path(self.mktemp())
        self.place.write_text("a file")
        with self.assertRaisesRegex(StoreError, str(self.place)):
            self.opened()

    def test_foreign_files(self) -> None:
        """What is no chunk is left alone, and does not count."""
        self.store.put(ONE)
        (self.place / "README").write_text("x")
        (self.place / "zz").mkdir()
        self.path(ONE).with_name("notes").write_text("x")
        self.store = self.opened()
        self.assertEqual(self.there(), [ONE])
        self.assertTrue(self.path(ONE).with_name("notes").exists())

    def test_removed(self) -> None:
        """A directory of chunks that somebody removed is made again."""
        self.store.put(ONE)
        self.path(ONE).unlink()
        self.path(ONE).parent.rmdir()
        with self.assertRaises(ChunkMissing):
            self.store.get(digest_of(ONE))
        self.store.put(ONE)
        self.assertEqual(self.there(), [ONE])


class SyncTests(StoreCase):
    """What a task counts on outlives a power cut."""

    def setUp(self) -> None:
        super().setUp()
        self.calls: list[str] = []
        real = os.fsync

        def fsync(descriptor: int) -> None:
            self.calls.append(os.readlink(f"/proc/self/fd/{descriptor}"))
            real(descriptor)

        self.patch(os, "fsync", fsync)

    def synced(self) -> list[Path]:
        calls, self.calls = self.calls, []
        return [Path(each).relative_to(self.place.absolute()) for each in calls]

    def test_synced(self) -> None:
        """A chunk is synced once, and its name with the directories that it is in."""
        digests = [self.store.put(ONE), self.store.put(TWO)]
        self.assertEqual(self.synced(), [])
        names = [self.path(data).relative_to(self.place) for data in (ONE, TWO)]
        self.store.sync(digests)
        self.assertEqual(self.synced(), names)
        self.store.sync(digests)
        self.assertEqual(self.synced(), [])
        self.store.sync_names(digests)
        self.assertEqual(self.synced(), [*sorted({name.parent for name in names}), Path(".")])

    def test_came_again(self) -> None:
        """A chunk that was dropped and came again is synced again."""
        digest = self.store.put(ONE)
        self.store.sync([digest])
        self.store.drop(digest)
        self.synced()
        self.store.put(ONE)
        self.store.sync([digest])
        self.assertEqual(len(self.synced()), 1)

    def test_missing(self) -> None:
        """What is not there is not synced, also where its file was removed."""
        with self.assertRaises(ChunkMissing):
            self.store.sync([digest_of(TWO)])
        self.store.put(ONE)
        self.path(ONE).unlink()
        with self.assertRaises(ChunkMissing):
            self.store.sync([digest_of(ONE)])
        self.assertEqual(self.there(), [])

    def test_from_before(self) -> None:
        """A chunk from before the start, of which a power cut has left other bytes, is dropped."""
        digest = self.store.put(ONE)
        self.path(ONE).write_bytes(bytes(len(ONE)))
        self.store = self.opened()
        with self.assertRaises(ChunkMissing):
            self.store.sync([digest])
        self.assertEqual((self.there(), self.synced()), ([], []))

    def test_disk_fails(self) -> None:
        """A chunk whose sync has failed is dropped: a second one would say nothing of it."""
        digest = self.store.put(ONE)

        def fail(descriptor: int) -> None:
            raise OSError(errno.EIO, "it fails")

        self.patch(os, "fsync", fail)
        with self.assertRaisesRegex(StoreError, "the disk fails"):
            self.store.sync_names([digest])
        with self.assertRaisesRegex(StoreError, "the disk fails"):
            self.store.sync([digest])
        self.assertEqual(self.there(), [])
