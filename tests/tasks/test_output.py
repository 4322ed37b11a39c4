"""What attempts print, from their files, and over links to other members."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from twisted.internet.defer import CancelledError, Deferred, execute
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from bzzz.errors import RemoteProtocolError, StreamReset
from bzzz.tasks import output_streams
from bzzz.tasks.output import LOOK, PART, NoOutput, OutputFiles
from bzzz.tasks.output_streams import MAX_STREAMS, PROTOCOL, OutputStreams
from bzzz.wire.framing import FrameReader, frame
from tests.tasks.fakes import task_id
from tests.tasks.files.nodes import FilesCase, Node, Talk

TASK = task_id()
OTHER = task_id(2)


class Attempts:
    """Attempts on one machine.

    :ivar running: those that run.
    """

    def __init__(self, clock: Any, place: Path) -> None:
        self.place = place
        self.running: set[tuple[str, int]] = set()
        self.files = OutputFiles(
            clock, self.directory_of, lambda task, token: (task, token) in self.running, execute
        )

    def directory_of(self, task: str, token: int) -> Path:
        return self.place / f"{task}.{token}"

    def start(self, task: str = TASK, token: int = 1) -> None:
        self.running.add((task, token))

    def prints(self, which: str, data: bytes, task: str = TASK, token: int = 1) -> None:
        directory = self.directory_of(task, token)
        directory.mkdir(parents=True, exist_ok=True)
        with (directory / which).open("ab") as file:
            file.write(data)

    def over(self, task: str = TASK, token: int = 1) -> None:
        self.running.discard((task, token))
        self.files.over(task, token)


class Sink:
    """Takes output; what it waits for is in ``waiting`` once it is slow."""

    def __init__(self) -> None:
        self.got = {1: b"", 2: b""}
        self.parts: list[tuple[int, int]] = []
        self.slow = False
        self.waiting: list[Deferred[None]] = []

    def __call__(self, which: int, data: bytes) -> Deferred[None] | None:
        self.got[which] += data
        self.parts.append((which, len(data)))
        if not self.slow:
            return None
        waiting: Deferred[None] = Deferred()
        self.waiting.append(waiting)
        return waiting


class OutputFileTests(SynchronousTestCase):
    """The files of one machine."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.place = Path(self.mktemp())
        self.attempts = Attempts(self.clock, self.place)
        self.sink = Sink()

    def send(self, follow: bool, *offsets: int, sink: Sink | None = None) -> Deferred[None]:
        out, err = offsets or (0, 0)
        sending = self.attempts.files.send(TASK, 1, (out, err), follow, sink or self.sink)
        return Deferred.fromCoroutine(sending)

    def test_none(self) -> None:
        """Where there is no output, that is an error; not yet, while the attempt runs."""
        self.failureResultOf(self.send(False), NoOutput)
        self.failureResultOf(self.send(True), NoOutput)
        self.attempts.start()
        self.successResultOf(self.send(False))
        self.assertEqual(self.sink.parts, [])

    def test_all(self) -> None:
        """All of both, in parts, taking turns."""
        self.attempts.prints("stdout", bytes(2 * PART + 1))
        self.attempts.prints("stderr", bytes(PART + 1))
        self.successResultOf(self.send(True))
        self.assertEqual(self.sink.parts, [(1, PART), (2, PART), (1, PART), (2, 1), (1, 1)])

    def test_offsets(self) -> None:
        """From the bytes on that are known; one that is beyond the end gives nothing."""
        self.attempts.prints("stdout", b"0123")
        self.attempts.prints("stderr", b"abcd")
        self.successResultOf(self.send(False, 2, 9))
        self.assertEqual(self.sink.got, {1: b"23", 2: b""})

    def test_follow(self) -> None:
        """What comes while the attempt runs is sent soon, and what came last before the end."""
        self.attempts.start()
        sending = self.send(True)
        for data in (b"one", b"two"):
            self.clock.pump([LOOK] * 5)
            self.attempts.prints("stdout", data)
            self.clock.advance(LOOK)
            self.assertTrue(self.sink.got[1].endswith(data))
        self.attempts.prints("stderr", b"last")
        self.assertNoResult(sending)
        self.attempts.over()
        self.successResultOf(sending)
        self.assertEqual(self.sink.got, {1: b"onetwo", 2: b"last"})
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.attempts.files._waiting, {})

    def test_not_followed(self) -> None:
        """Without ``follow`` what there is, though more will come."""
        self.attempts.start()
        self.attempts.prints("stdout", b"so far")
        self.successResultOf(self.send(False))
        self.assertEqual(self.sink.got[1], b"so far")

    def test_end_for_all(self) -> None:
        """All who follow an attempt hear of its end at once, and those of another one do not."""
        self.attempts.start()
        self.attempts.start(OTHER)
        other = self.attempts.files.send(OTHER, 1, (0, 0), True, self.sink)
        others = Deferred.fromCoroutine(other)
        self.attempts.prints("stdout", b"x")
        following = [self.send(True, sink=Sink()) for _ in range(5)]
        self.attempts.over()
        for each in following:
            self.successResultOf(each)
        self.assertNoResult(others)
        others.cancel()
        self.failureResultOf(others, CancelledError)

    def test_slow_sink(self) -> None:
        """No more is read than the sink takes."""
        self.attempts.prints("stdout", bytes(3 * PART))
        self.sink.slow = True
        sending = self.send(False)
        for count in (1, 2, 3):
            self.assertEqual(len(self.sink.parts), count)
            self.sink.waiting.pop().callback(None)
        self.successResultOf(sending)

    def test_cancelled(self) -> None:
        """Who follows no more leaves nothing."""
        self.attempts.start()
        following = [self.send(True) for _ in range(3)]
        for each in following:
            each.cancel()
            self.failureResultOf(each, CancelledError)
        self.assertEqual(self.attempts.files._waiting, {})
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_unreadable(self) -> None:
        """A file that cannot be read is told as that, with its path."""
        (self.attempts.directory_of(TASK, 1) / "stdout").mkdir(parents=True)
        failure = self.failureResultOf(self.send(False), NoOutput)
        self.assertIn("stdout cannot be read", failure.getErrorMessage())

    def test_replaced(self) -> None:
        """Neither a link nor a pipe in the place of a file is followed or waited for."""
        directory = self.attempts.directory_of(TASK, 1)
        directory.mkdir(parents=True)
        (directory / "secret").write_text("key")
        for make in (
            lambda: (directory / "stdout").symlink_to("secret"),
            lambda: os.mkfifo(directory / "stdout"),
        ):
            make()
            failure = self.failureResultOf(self.send(False), NoOutput)
            self.assertIn("stdout cannot be read", failure.getErrorMessage())
            (directory / "stdout").unlink()
        self.assertEqual(self.sink.parts, [])


class StreamCase(FilesCase):
    """Acacia asks birch."""

    def setUp(self) -> None:
        super().setUp()
        self.acacia, self.birch = Node(self, 1, False), Node(self, 2, False)
        self.attempts = {each: self.attempts_of(each) for each in (self.acacia, self.birch)}
        self.admitted = True
        self.streams = self.streams_of(self.acacia)
        self.sink = Sink()

    def attempts_of(self, node: Node) -> Attempts:
        return Attempts(node.host.clock, self.place / f"output-{node.name}")

    def streams_of(self, node: Node) -> OutputStreams:
        return OutputStreams(
            node.swarm, node.peer_id, self.attempts[node].files, lambda peer: self.admitted
        )

    def get(self, follow: bool = True, *offsets: int, of: Node | None = None) -> Deferred[None]:
        out, err = offsets or (0, 0)
        asked = (of or self.birch).peer_id
        return self.streams.get(asked, TASK, 1, (out, err), follow, self.sink)


class StreamTests(StreamCase):
    """Over a link."""

    def setUp(self) -> None:
        super().setUp()
        self.answering = self.streams_of(self.birch)
        self.link(self.acacia, self.birch)
        self.there = self.attempts[self.birch]

    def ask(self, *data: bytes) -> Talk:
        """A stream on which the test asks."""
        talk = Talk()

        class Talks(Factory):
            noisy = False

            def buildProtocol(self, addr: Any) -> Protocol:
                return talk

        link = self.acacia.swarm.links[self.birch.peer_id]
        link.open_stream([PROTOCOL], Talks()).addErrback(lambda failure: None)
        self.run_for(0.1)
        for each in data:
            if talk.transport is not None:
                talk.transport.write(each)
        self.run_for(0.1)
        return talk

    def question(self, *fields: object) -> bytes:
        return frame(msgspec.msgpack.encode(fields or (TASK, 1, 0, 0, False)))

    def test_get(self) -> None:
        """What is there comes, then what is printed later, until the attempt is over."""
        self.there.start()
        self.there.prints("stdout", bytes(5 * PART) + b"one")
        self.there.prints("stderr", b"two")
        got = self.get(True, 5 * PART, 1)
        self.run_for(1)
        self.assertEqual(self.sink.got, {1: b"one", 2: b"wo"})
        self.there.prints("stdout", b"more")
        self.run_for(1)
        self.assertEqual(self.sink.got[1], b"onemore")
        self.assertNoResult(got)
        self.there.over()
        self.run_for(1)
        self.successResultOf(got)
        self.assertEqual(self.answering._count, {})

    def test_own(self) -> None:
        """This node's own is read from its disk."""
        self.attempts[self.acacia].prints("stdout", b"mine")
        self.successResultOf(self.get(of=self.acacia))
        self.assertEqual(self.sink.got[1], b"mine")

    def test_none(self) -> None:
        """What is not there, and who is not linked, is told as that."""
        got = self.get()
        self.run_for(1)
        failure = self.failureResultOf(got, NoOutput)
        self.assertIn(f"attempt 1 of task {TASK} is not here", failure.getErrorMessage())
        failure = self.failureResultOf(self.get(of=Node(self, 3, False)), NoOutput)
        self.assertIn("not linked", failure.getErrorMessage())

    def test_not_admitted(self) -> None:
        """Who may not have it gets none."""
        self.admitted = False
        self.there.prints("stdout", b"secret")
        got = self.get()
        self.run_for(1)
        self.failureResultOf(got)
        self.assertEqual(self.sink.parts, [])

    def test_slow(self) -> None:
        """Who does not take it gets no more than what fills the link; then all of it."""
        size = 200 * PART
        self.there.prints("stdout", random.Random(1).randbytes(size))
        self.sink.slow = True
        got = self.get()
        self.run_for(2)
        self.assertEqual(len(self.sink.parts), 1)
        self.sink.slow = False
        self.sink.waiting.pop().callback(None)
        self.run_for(5)
        self.successResultOf(got)
        self.assertEqual(self.sink.got[1], random.Random(1).randbytes(size))

    def test_sender_waits(self) -> None:
        """The file is read only as fast as the asker takes it."""
        self.there.prints("stdout", bytes(500 * PART))
        read: list[int] = []
        send = output_streams._Answering._send

        def count(answering: Any, which: int, data: bytes) -> Deferred[None] | None:
            read.append(len(data))
            return send(answering, which, data)

        self.patch(output_streams._Answering, "_send", count)
        self.sink.slow = True
        self.get()
        self.run_for(5)
        self.assertLess(len(read), 100)

    def test_cancelled(self) -> None:
        """Who stops asking ends the stream at the other end, too."""
        self.there.start()
        got = self.get()
        self.run_for(1)
        self.assertEqual(list(self.answering._count.values()), [1])
        got.cancel()
        self.failureResultOf(got, CancelledError)
        self.run_for(1)
        self.assertEqual(self.answering._count, {})
        self.assertEqual(self.there.files._waiting, {})

    def test_cancelled_at_once(self) -> None:
        """Likewise before the stream is open."""
        self.there.start()
        got = self.get()
        got.cancel()
        self.failureResultOf(got, CancelledError)
        self.run_for(1)
        self.assertEqual(self.answering._count, {})

    def test_link_lost(self) -> None:
        """A link that breaks is told at both ends, and nothing is left."""
        self.there.start()
        got = self.get()
        self.run_for(1)
        self.acacia.swarm.links[self.birch.peer_id].abort("the test")
        self.run_for(1)
        self.failureResultOf(got, StreamReset)
        self.assertEqual((self.answering._count, self.there.files._waiting), ({}, {}))

    def test_link_lost_while_waiting(self) -> None:
        """What came before the link broke is taken first."""
        self.there.start()
        self.there.prints("stdout", b"one")
        self.sink.slow = True
        got = self.get()
        self.run_for(1)
        self.acacia.swarm.links[self.birch.peer_id].abort("the test")
        self.run_for(1)
        self.assertNoResult(got)
        self.sink.waiting.pop().callback(None)
        self.failureResultOf(got, StreamReset)

    def test_bad_questions(self) -> None:
        """Who asks for what cannot be loses the link."""
        good = self.question()
        for wrong in (
            frame(b"\xc1"),
            frame(b""),
            self.question(TASK, 1, 0, 0),
            self.question("../../etc/passwd", 1, 0, 0, False),
            self.question(TASK, -1, 0, 0, False),
            self.question(TASK, 1, -1, 0, False),
            self.question(TASK, 1, 0, 1 << 60, False),
            self.question(TASK, 1, 0, 0, 1),
            good + good,
            b"\xff\xff\x03" + bytes(10),
        ):
            self.there.running.clear()
            self.ask(wrong)
            self.assertNotIn(self.birch.peer_id, self.acacia.swarm.links, wrong)
            self.assertEqual(self.answering._count, {})
            self.run_for(70)
            self.link(self.acacia, self.birch)

    def test_good_question(self) -> None:
        """The same one byte at a time is answered, and the link stays."""
        self.there.prints("stdout", b"one")
        talk = self.ask(*(bytes([byte]) for byte in self.question()))
        parts = list(FrameReader(100).receive(talk.data))
        self.assertEqual([msgspec.msgpack.decode(part) for part in parts], [[1, b"one"], [0, b""]])
        self.assertIn(self.birch.peer_id, self.acacia.swarm.links)

    def test_too_many(self) -> None:
        """One peer has so many streams at a time, and again when one of them has ended."""
        self.patch(output_streams, "MAX_STREAMS", 3)
        self.assertGreater(MAX_STREAMS, 3)
        self.there.start()
        got = [self.get() for _ in range(4)]
        self.run_for(1)
        for each in got[:3]:
            self.assertNoResult(each)
        self.failureResultOf(got[3], StreamReset)
        got[0].addErrback(lambda failure: None).cancel()
        self.run_for(1)
        again = self.get()
        self.run_for(1)
        self.assertNoResult(again)
        for each in (*got[1:3], again):
            each.addErrback(lambda failure: None)


class WrongAnswerTests(StreamCase):
    """Birch answers what no node does."""

    def answers(self, data: Callable[[], bytes]) -> None:
        """What is said to each question."""

        class Talks(Factory):
            noisy = False

            def buildProtocol(self, addr: Any) -> Protocol:
                talk = Talk()
                talk.on_data = lambda talk: talk.transport.write(data())
                return talk

        self.birch.swarm.handle(PROTOCOL, Talks())
        self.link(self.acacia, self.birch)

    def part(self, *fields: object) -> bytes:
        return frame(msgspec.msgpack.encode(fields))

    WRONG = (
        frame(b"\xc1"),
        frame(b""),
        frame(msgspec.msgpack.encode((4, b""))),
        frame(msgspec.msgpack.encode((-1, b""))),
        frame(msgspec.msgpack.encode((1, "text"))),
        frame(msgspec.msgpack.encode((1,))),
        b"\xff\xff\xff\x7f",
    )

    def test_wrong(self) -> None:
        """It is an error, after what was right."""
        wrong = [b""]
        self.answers(lambda: self.part(1, b"right") + wrong[0])
        for wrong[0] in self.WRONG:
            self.sink = Sink()
            got = self.get()
            self.run_for(1)
            self.failureResultOf(got, RemoteProtocolError)
        # Nobody takes it for a mistake of this node's.
        self.assertEqual(self.errors, [])

    def test_wrong_while_waiting(self) -> None:
        """Likewise where the sink takes its time: nobody waits for ever."""
        wrong = [b""]
        self.answers(lambda: self.part(1, b"right") + wrong[0])
        for wrong[0] in self.WRONG:
            self.sink = Sink()
            self.sink.slow = True
            got = self.get()
            self.run_for(1)
            for waiting in self.sink.waiting:
                waiting.callback(None)
            self.run_for(1)
            self.failureResultOf(got, RemoteProtocolError, StreamReset)

    def test_reason(self) -> None:
        """A reason that is no text is shown as well as it can be."""
        self.answers(lambda: self.part(3, b"no \xff more"))
        got = self.get()
        self.run_for(1)
        self.assertEqual(self.failureResultOf(got, NoOutput).getErrorMessage(), "no \ufffd more")

    def test_after_the_end(self) -> None:
        """What comes after the end is not taken."""
        self.answers(lambda: self.part(1, b"a") + self.part(0, b"") + self.part(1, b"b"))
        got = self.get()
        self.run_for(1)
        self.successResultOf(got)
        self.assertEqual(self.sink.got[1], b"a")
