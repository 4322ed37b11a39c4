"""Files between members: fetched from whoever has them, over links that break."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import msgspec
from twisted.internet.defer import CancelledError, Deferred

from bzzz.tasks.files import chunk_asking, chunk_streams
from bzzz.tasks.files.chunk_asking import ANSWER_SECONDS
from bzzz.tasks.files.chunk_messages import MAX_ASKED, get, header, missing
from bzzz.tasks.files.chunk_streams import MAX_SERVED_LINK, QUIET
from bzzz.tasks.files.errors import BadManifest, ChunkMissing, Missing, PackError, StoreError
from bzzz.tasks.files.fetching import PATIENCE
from bzzz.tasks.files.files import Packed
from bzzz.tasks.files.manifest import CHUNK, Chunk, Directory, File, Manifest, digest_of
from bzzz.wire.framing import FrameReader, frame
from tests.tasks.files.nodes import FilesCase, Node, Talk

FULL_CHUNKS = 6


def digests_in(talk: Talk) -> list[bytes]:
    """All that was asked for on a stream."""
    messages = FrameReader(4096).receive(talk.data)
    return [digest for message in messages for digest in msgspec.msgpack.decode(message)[1]]


class FetchCase(FilesCase):
    """Acacia has a directory, and birch needs it."""

    def setUp(self) -> None:
        super().setUp()
        self.tree = self.place / "tree"
        self.tree.mkdir()
        self.big = os.urandom(FULL_CHUNKS * CHUNK)
        (self.tree / "big").write_bytes(self.big)
        (self.tree / "small").write_bytes(b"small")
        self.acacia, self.birch = Node(self, 1), Node(self, 2)
        self.packed: Packed = self.successResultOf(self.acacia.files.pack(self.tree))
        self.link(self.birch, self.acacia)
        self.told: list[tuple[int, int]] = []

    def fetch(self, *peers: Node, digest: str = "") -> Deferred[None]:
        ids = [peer.peer_id for peer in peers or (self.acacia,)]
        return self.birch.files.fetch(
            digest or self.packed.digest, ids, lambda *told: self.told.append(told)
        )

    def arrived(self) -> None:
        """What was fetched is what was packed."""
        into = self.place / "into"
        into.mkdir()
        self.successResultOf(self.birch.files.unpack(self.packed.digest, into, "."))
        self.assertEqual((into / "big").read_bytes(), self.big)
        self.assertEqual((into / "small").read_bytes(), b"small")

    def answering(
        self, node: Node, change: Any = lambda digest, answer: answer, chunks: Any = None
    ) -> list[Talk]:
        """Have a node answer by hand, from acacia's chunks."""
        served: dict[Talk, int] = {}

        def on_data(talk: Talk) -> None:
            asked = digests_in(talk)
            for digest in asked[served.get(talk, 0) :]:
                served[talk] = served.get(talk, 0) + 1
                data = self.successResultOf(self.acacia.files._read(digest))
                answer = change(digest, header(Chunk(digest, len(data))) + data)
                if answer and not talk.lost:
                    talk.transport.write(answer)

        return node.says(on_data)


class FetchTests(FetchCase):
    """What a fetch brings."""

    def test_all(self) -> None:
        """All chunks come, and progress is told up to the end."""
        fetched = self.fetch()
        self.run_for(2)
        self.successResultOf(fetched)
        self.assertEqual(self.told[0], (0, self.packed.size))
        self.assertEqual(self.told[-1], (self.packed.size, self.packed.size))
        self.assertEqual(self.told, sorted(self.told))
        self.assertTrue(self.successResultOf(self.birch.files.has(self.packed.digest)))
        self.arrived()
        self.assertEqual((self.warnings, self.errors), ([], []))
        self.run_for(1)
        self.assertEqual(self.birch.swarm.links[self.acacia.peer_id].stream_count, 0)

    def test_again(self) -> None:
        """What is here is not asked for again: no peer is needed."""
        self.fetch()
        self.run_for(2)
        self.told.clear()
        self.successResultOf(self.birch.files.fetch(self.packed.digest, []))

    def test_same_at_once(self) -> None:
        """Two that fetch the same ask for each chunk once."""
        talks = self.answering(self.acacia)
        first, second = self.fetch(), self.fetch()
        self.run_for(2)
        self.successResultOf(first)
        self.successResultOf(second)
        asked = [digest for talk in talks for digest in digests_in(talk)]
        self.assertEqual(len(asked), len(set(asked)))

    def test_some_here(self) -> None:
        """Chunks that another task has brought are not asked for."""
        (self.tree / "small").unlink()
        other = self.successResultOf(self.acacia.files.pack(self.tree))
        self.fetch(digest=other.digest)
        self.run_for(2)
        talks = self.answering(self.acacia)
        fetched = self.fetch()
        self.run_for(2)
        self.successResultOf(fetched)
        asked = [digest for talk in talks for digest in digests_in(talk)]
        self.assertEqual(asked, [bytes.fromhex(self.packed.digest), digest_of(b"small")])

    def test_long_list(self) -> None:
        """A manifest in parts is fetched by its first chunk."""
        for number in range(4000):
            (self.tree / f"{number:0250}").touch()
        self.packed = self.successResultOf(self.acacia.files.pack(self.tree))
        fetched = self.fetch()
        self.run_for(2)
        self.successResultOf(fetched)
        self.arrived()

    def test_slow_disk(self) -> None:
        """While the disk is behind no more is asked for and read, and nothing is lost."""
        self.patch(chunk_asking, "MAX_WRITING", 1)
        talks = self.answering(self.acacia)
        fetched = self.fetch()
        while len(talks) < 2:
            self.run_for(0.001)
        self.birch.slow = True
        self.run_for(ANSWER_SECONDS + 5)
        # One that is being written, and the next.
        self.assertEqual(len(digests_in(talks[1])), 2)
        self.assertFalse(talks[1].lost)
        while not fetched.called:
            self.run_for(0.05)
            if self.birch.waiting:
                self.birch.disk()
        self.successResultOf(fetched)
        self.birch.slow = False
        self.arrived()

    def test_not_a_digest(self) -> None:
        """What is no digest is an error of ours."""
        for digest in ("", "xyz", "00"):
            self.failureResultOf(self.birch.files.fetch(digest, []), BadManifest)

    def test_cancelled(self) -> None:
        """A fetch that nobody waits for any more ends its stream and holds nothing."""
        fetched = self.fetch()
        self.run_for(0.005)
        fetched.cancel()
        self.failureResultOf(fetched, CancelledError)
        self.run_for(1)
        self.assertEqual(self.birch.swarm.links[self.acacia.peer_id].stream_count, 0)
        self.assertEqual(self.acacia.files._streams.served, 0)
        self.assertEqual(self.birch.files._pins, {})

    def test_stopped(self) -> None:
        """When the node stops, fetches end, and nothing is called later."""
        fetched = self.fetch()
        self.run_for(0.005)
        self.birch.files.stop()
        self.failureResultOf(fetched, CancelledError)
        self.failureResultOf(self.birch.files.pack(self.tree), PackError)


class PeersTests(FetchCase):
    """Who is asked, and what becomes of it."""

    def test_next(self) -> None:
        """What one lacks the next one is asked for."""
        cedar = Node(self, 3)
        self.link(self.birch, cedar)
        fetched = self.fetch(cedar, self.acacia)
        self.run_for(2)
        self.successResultOf(fetched)
        self.arrived()

    def test_parts(self) -> None:
        """It may come from two, of which neither has all."""
        cedar = Node(self, 3)
        self.link(self.birch, cedar)
        digests = [digest_of(self.big[start : start + CHUNK]) for start in (0, CHUNK)]
        cedar.files._store.put(self.big[:CHUNK])
        self.acacia.files._store.drop(digests[0])
        fetched = self.fetch(cedar, self.acacia)
        self.run_for(2)
        self.successResultOf(fetched)
        self.arrived()

    def test_nobody(self) -> None:
        """When nobody has it, the error says what is missing and what each has said."""
        cedar, dogwood = Node(self, 3), Node(self, 4, speaks=False)
        self.link(self.birch, cedar, dogwood)
        self.acacia.files._store.drop(digest_of(b"small"))
        fetched = self.fetch(cedar, dogwood, self.acacia)
        self.run_for(2)
        words = str(self.failureResultOf(fetched, Missing).value)
        self.assertIn(f"1 chunk of 'small' of {self.packed.digest} cannot be had", words)
        self.assertIn("cedar: it lacks 7", words)
        self.assertIn("acacia: it lacks 1", words)
        self.assertIn("dogwood: ", words)
        self.assertEqual(self.birch.files._pins, {})

    def test_no_peers(self) -> None:
        """Without a peer, or with this node alone, it is said at once."""
        for peers in ((), (self.birch.peer_id,)):
            fetched = self.birch.files.fetch(self.packed.digest, peers)
            self.assertIn("nobody may have it", str(self.failureResultOf(fetched, Missing).value))

    def test_link_breaks(self) -> None:
        """A link that breaks costs what was under way: nothing else is asked for again."""
        asked: list[bytes] = []
        broken: list[Talk] = []
        count = 0

        def change(digest: bytes, answer: bytes) -> bytes:
            nonlocal count
            count += 1
            if talks[-1] in broken:
                return b""
            asked.append(digest)
            if count in {4, 7}:
                # Half of it, and then the link is gone.
                broken.append(talks[-1])
                talks[-1].transport.write(answer[: len(answer) // 2])
                self.acacia.host.clock.callLater(
                    0.05, self.acacia.swarm.links[self.birch.peer_id].abort, "test"
                )
                return b""
            return answer

        talks = self.answering(self.acacia, change)
        fetched = self.fetch()
        for _ in range(20):
            self.run_for(0.4)
            if self.acacia.peer_id not in self.birch.swarm.links:
                self.link(self.birch, self.acacia)
        self.successResultOf(fetched)
        self.arrived()
        again = len(asked) - len(set(asked))
        self.assertEqual(len(talks), 4)
        self.assertLessEqual(again, 4)

    def test_gone(self) -> None:
        """A peer that does not come back is waited for so long, and then it is said."""
        self.birch.swarm.links[self.acacia.peer_id].abort("test")
        self.run_for(0.1)
        fetched = self.fetch()
        self.run_for(PATIENCE - 3)
        self.assertNoResult(fetched)
        self.run_for(4)
        self.assertIn("acacia: it is not linked", str(self.failureResultOf(fetched, Missing).value))

    def test_comes_late(self) -> None:
        """A peer that is linked in that time is asked."""
        self.birch.swarm.links[self.acacia.peer_id].abort("test")
        self.run_for(0.1)
        fetched = self.fetch()
        self.run_for(10)
        self.link(self.birch, self.acacia)
        self.run_for(2)
        self.successResultOf(fetched)
        self.arrived()

    def test_says_nothing(self) -> None:
        """A peer that does not answer is given up, and the next one is asked."""
        cedar = Node(self, 3, speaks=False)
        talks = cedar.says(lambda talk: None)
        self.link(self.birch, cedar)
        fetched = self.fetch(cedar, self.acacia)
        self.run_for(ANSWER_SECONDS - 1)
        self.assertNoResult(fetched)
        self.run_for(3)
        self.successResultOf(fetched)
        self.assertTrue(talks[0].lost)
        self.assertIn(cedar.peer_id, self.birch.swarm.links)

    def test_drips(self) -> None:
        """Nor is one waited for that sends a byte now and then."""
        cedar = Node(self, 3, speaks=False)
        talks = cedar.says(lambda talk: None)
        self.link(self.birch, cedar)
        fetched = self.fetch(cedar, self.acacia)
        answer = header(Chunk(bytes.fromhex(self.packed.digest), 1000)) + bytes(900)
        for start in range(int(ANSWER_SECONDS) + 3):
            self.run_for(1)
            if not talks[0].lost:
                talks[0].transport.write(answer[start : start + 1])
        self.successResultOf(fetched)


class HostileTests(FetchCase):
    """Peers and manifests that lie."""

    def lies(self, change: Any, code: str) -> None:
        """Cedar lies: it loses its link, and acacia brings what it did not."""
        cedar = Node(self, 3, speaks=False)
        self.answering(cedar, change)
        self.link(self.birch, cedar)
        fetched = self.fetch(cedar, self.acacia)
        self.run_for(3)
        self.assertNotIn(cedar.peer_id, self.birch.swarm.links)
        self.assertEqual(len(self.warnings), 1)
        self.assertIn(code, self.warnings[0] + str(cedar.swarm.links))
        self.successResultOf(fetched)
        self.arrived()

    def test_corrupted(self) -> None:
        """A chunk with one bit else is noticed, and costs the link."""
        self.lies(lambda digest, answer: answer[:-1] + bytes([answer[-1] ^ 1]), "has other bytes")

    def test_other_chunk(self) -> None:
        """Another chunk than was asked for costs the link."""
        self.lies(lambda digest, answer: header(Chunk(bytes(32), 5)) + b"other", "order")

    def test_not_asked(self) -> None:
        """So does one more than was asked for."""
        self.lies(lambda digest, answer: answer * 3, "not asked for")

    def test_nonsense(self) -> None:
        """So do bytes that are no answer."""
        self.lies(lambda digest, answer: frame(b"\xc1"), "cannot be read")

    def test_wrong_sizes(self) -> None:
        """A list with wrong sizes is told of; the peer has not made it, and keeps its link."""
        store = self.acacia.files._store
        digest = store.put(b"five!")
        file = File("a", False, 7, digest)
        root = store.put(msgspec.msgpack.encode(Manifest((Directory(""), file))))
        fetched = self.fetch(digest=root.hex())
        self.run_for(2)
        self.assertIn("5 bytes is one of 7", str(self.failureResultOf(fetched, BadManifest).value))
        self.assertIn(self.acacia.peer_id, self.birch.swarm.links)

    def test_no_list(self) -> None:
        """A digest of what is no list of files is told of, and nothing else is fetched."""
        root = self.acacia.files._store.put(b"no list")
        fetched = self.fetch(digest=root.hex())
        self.run_for(2)
        self.failureResultOf(fetched, BadManifest)
        self.assertEqual(self.birch.chunks(), 1)

    def test_too_large(self) -> None:
        """What has no room is refused before it is fetched."""
        self.birch.start(quota=4 * CHUNK)
        fetched = self.fetch()
        self.run_for(2)
        self.assertIn("greater quota", str(self.failureResultOf(fetched, StoreError).value))
        self.assertEqual(self.birch.chunks(), 1)
        self.assertIn(self.acacia.peer_id, self.birch.swarm.links)

    def test_full_disk(self) -> None:
        """A full disk ends the fetch with an error, leaves no half file, and costs no link."""
        real = os.write
        written: list[int] = []

        def fail(file: int, data: Any) -> int:
            written.append(len(data))
            if len(written) > 3:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(file, data)

        self.patch(os, "write", fail)
        fetched = self.fetch()
        self.run_for(2)
        self.assertIn("the disk is full", str(self.failureResultOf(fetched, StoreError).value))
        self.assertEqual(self.birch.chunks(), 3)
        self.assertEqual(os.listdir(self.birch.place / "new"), [])
        self.assertIn(self.acacia.peer_id, self.birch.swarm.links)
        self.patch(os, "write", real)
        fetched = self.fetch()
        self.run_for(2)
        self.successResultOf(fetched)
        self.arrived()


class PinTests(FetchCase):
    """What stays."""

    def fill(self, node: Node) -> None:
        """Bring more into a cache than there is room for."""
        other = self.place / "other"
        for _ in range(2):
            other.write_bytes(os.urandom(5 * CHUNK))
            self.successResultOf(node.files.pack(other))

    def setUp(self) -> None:
        super().setUp()
        self.acacia.start(quota=14 * CHUNK)

    def has(self, node: Node) -> bool:
        return self.successResultOf(node.files.has(self.packed.digest))

    def test_pinned(self) -> None:
        """What is pinned stays as long as one needs it; what is not is dropped for others."""
        files = self.acacia.files
        self.successResultOf(files.pin(self.packed.digest))
        self.successResultOf(files.pin(self.packed.digest))
        self.fill(self.acacia)
        files.unpin(self.packed.digest)
        self.fill(self.acacia)
        self.assertTrue(self.has(self.acacia))
        files.unpin(self.packed.digest)
        self.fill(self.acacia)
        self.assertFalse(self.has(self.acacia))
        self.assertEqual(files._store._held, {})

    def test_pinned_when_told(self) -> None:
        """Who pins before its callback returns loses nothing, whatever happens until then."""
        files = self.acacia.files
        told: list[str] = []

        def pin(packed: Packed) -> None:
            told.append(packed.digest)
            self.fill(self.acacia)
            files.pin(packed.digest)

        self.acacia.slow = True
        files.pack(self.tree).addCallback(pin)
        self.acacia.slow = False
        self.acacia.disk()
        self.assertEqual(told, [self.packed.digest])
        self.fill(self.acacia)
        self.assertTrue(self.has(self.acacia))

    def test_before_it_is_here(self) -> None:
        """What is pinned before it is fetched stays when it is here."""
        self.birch.start(quota=14 * CHUNK)
        self.successResultOf(self.birch.files.pin(self.packed.digest))
        fetched = self.fetch()
        self.run_for(2)
        self.successResultOf(fetched)
        self.fill(self.birch)
        self.assertTrue(self.has(self.birch))
        self.birch.files.unpin(self.packed.digest)
        self.fill(self.birch)
        self.assertFalse(self.has(self.birch))

    def test_while_it_comes(self) -> None:
        """What a fetch has brought is not dropped before it has all."""
        self.birch.start(quota=9 * CHUNK)
        self.birch.slow = True
        fetched = self.fetch()
        for _ in range(12):
            self.run_for(0.1)
            if self.birch.waiting:
                self.birch.disk()
        self.assertNoResult(fetched)
        self.birch.slow = False
        other = self.place / "other"
        other.write_bytes(os.urandom(4 * CHUNK))
        self.birch.files.pack(other).addErrback(lambda failure: failure.trap(StoreError))
        self.birch.disk(len(self.birch.waiting))
        self.run_for(2)
        self.successResultOf(fetched)
        self.assertTrue(self.has(self.birch))

    def test_not_here(self) -> None:
        """What is not here is not, and cannot be unpacked."""
        self.assertFalse(self.has(self.birch))
        self.failureResultOf(
            self.birch.files.unpack(self.packed.digest, self.place, "x"), ChunkMissing
        )

    def test_collect(self) -> None:
        """What a task left is packed by patterns."""
        packed = self.successResultOf(self.acacia.files.collect(self.tree, ["s*", "*.log"]))
        self.assertEqual((packed.size, packed.files, packed.unmatched), (5, 1, ("*.log",)))
        self.failureResultOf(self.acacia.files.collect(self.tree, ["../*"]), PackError)


class ServingTests(FetchCase):
    """The end that has chunks, and peers that misuse it."""

    def test_byte_at_a_time(self) -> None:
        """A request may come byte by byte; what is not here is said to be missing."""
        talk = self.open(self.birch, self.acacia)
        for byte in get([bytes(32), digest_of(b"small"), bytes(32)]):
            talk.transport.write(bytes([byte]))
            self.run_for(0.01)
        small = digest_of(b"small")
        self.assertEqual(
            talk.data, missing(bytes(32)) + header(Chunk(small, 5)) + b"small" + missing(bytes(32))
        )

    def test_does_not_read(self) -> None:
        """For a peer that reads nothing two chunks are read, and after a while it is reset."""
        reads: list[bytes] = []
        real = self.acacia.files._store.get

        def read(digest: bytes) -> bytes:
            reads.append(digest)
            return real(digest)

        self.patch(self.acacia.files._store, "get", read)
        talk = self.open(self.birch, self.acacia)
        talk.transport.pauseProducing()
        starts = range(0, len(self.big), CHUNK)
        talk.transport.write(get([digest_of(self.big[start : start + CHUNK]) for start in starts]))
        self.run_for(QUIET - 1)
        self.assertEqual(len(reads), 2)
        self.assertFalse(talk.lost)
        self.run_for(2)
        self.assertTrue(talk.lost)
        self.assertEqual(self.acacia.files._streams.served, 0)
        self.assertIn(self.acacia.peer_id, self.birch.swarm.links)

    def test_asks_nothing(self) -> None:
        """A stream on which nothing is asked is reset after a while."""
        talk = self.open(self.birch, self.acacia)
        self.run_for(QUIET + 1)
        self.assertTrue(talk.lost)

    def test_asks_too_much(self) -> None:
        """Who asks on and on loses the link."""
        talk = self.open(self.birch, self.acacia)
        talk.transport.pauseProducing()
        digest = digest_of(self.big[:CHUNK])
        for _ in range(MAX_ASKED // 64 + 2):
            talk.transport.write(get([digest] * 64))
        self.run_for(1)
        self.assertNotIn(self.acacia.peer_id, self.birch.swarm.links)
        self.assertIn("not waited for", self.warnings[0])

    def test_nonsense(self) -> None:
        """Who asks for what is no request loses the link."""
        talk = self.open(self.birch, self.acacia)
        talk.transport.write(frame(b"\xc1"))
        self.run_for(1)
        self.assertNotIn(self.acacia.peer_id, self.birch.swarm.links)

    def test_ends(self) -> None:
        """When the asker ends the stream, in order or in the midst of a chunk, nothing is left."""
        for last in (b"small", self.big[:CHUNK]):
            talk = self.open(self.birch, self.acacia)
            talk.transport.write(get([digest_of(last)]))
            if last != b"small":
                talk.transport.pauseProducing()
            self.run_for(0.1)
            talk.transport.loseConnection()
            self.run_for(1)
            self.assertEqual(self.acacia.files._streams.served, 0)
            self.assertEqual(self.birch.swarm.links[self.acacia.peer_id].stream_count, 0)

    def test_too_many(self) -> None:
        """Beyond so many streams of a link, or of all, the new one is reset; others go on."""
        talks = [self.open(self.birch, self.acacia) for _ in range(MAX_SERVED_LINK)]
        self.assertEqual([talk.lost for talk in talks], [False] * MAX_SERVED_LINK)
        self.open(self.birch, self.acacia)
        self.assertEqual(self.acacia.files._streams.served, MAX_SERVED_LINK)
        talks[0].transport.abortConnection()
        self.run_for(0.1)
        self.patch(chunk_streams, "MAX_SERVED", MAX_SERVED_LINK - 1)
        self.open(self.birch, self.acacia)
        self.assertEqual(self.acacia.files._streams.served, MAX_SERVED_LINK - 1)

    def test_not_admitted(self) -> None:
        """Who is no member gets nothing."""
        del self.members[self.birch.peer_id]
        fetched = self.fetch()
        self.run_for(PATIENCE + 2)
        self.failureResultOf(fetched, Missing)
        self.assertEqual(self.birch.chunks(), 0)

    def test_damaged_here(self) -> None:
        """A chunk that was damaged on the disk is not sent, but said to be missing."""
        name = digest_of(b"small").hex()
        Path(self.acacia.place, name[:2], name[2:]).write_bytes(b"smell")
        fetched = self.fetch()
        self.run_for(2)
        self.failureResultOf(fetched, Missing)
        self.assertIn(self.acacia.peer_id, self.birch.swarm.links)

    def test_disk_fails(self) -> None:
        """A disk that fails is told here, and there it is missing."""

        def fail(digest: bytes) -> bytes:
            raise StoreError("the disk fails")

        self.patch(self.acacia.files._store, "get", fail)
        fetched = self.fetch()
        self.run_for(2)
        self.failureResultOf(fetched, Missing)
        self.assertEqual(self.errors, ["A chunk is not given: the disk fails"])
