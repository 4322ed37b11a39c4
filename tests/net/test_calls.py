"""Questions to peers and answers to theirs, over the links of two swarms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from twisted.internet.defer import Deferred, fail
from twisted.internet.protocol import Factory, Protocol
from twisted.python.failure import Failure

from bzzz.errors import RemoteProtocolError
from bzzz.identity.peer_id import PeerID
from bzzz.net import calls as calls_module
from bzzz.net.calls import AnswerLost, Calls, NotAsked
from bzzz.net.link import Link
from bzzz.net.stream import Stream
from bzzz.net.turns import BUDGET, Turns
from bzzz.wire.framing import FrameReader, frame
from tests.net.swarms import Keeper, Peer, SwarmCase

PROTOCOL = "/words/1.0.0"

encode = msgspec.msgpack.encode
decoder = msgspec.msgpack.Decoder(list[tuple[int, str]])


class Words:
    """Questions and answers are words.

    :ivar frames: sizes of the frames that were read, of questions and of answers.
    """

    protocol_id = PROTOCOL
    max_message = 1000

    def __init__(self) -> None:
        self.frames: list[int] = []

    def encode(self, message: str) -> bytes:
        return encode(message)

    def join(self, messages: Sequence[tuple[int, bytes]]) -> bytes:
        return encode([(number, msgspec.Raw(data)) for number, data in messages])

    def read_requests(self, data: bytes) -> Sequence[tuple[int, str]]:
        return self._read(data)

    def read_answers(self, data: bytes) -> Sequence[tuple[int, str]]:
        return self._read(data)

    def _read(self, data: bytes) -> Sequence[tuple[int, str]]:
        self.frames.append(len(data))
        try:
            return decoder.decode(data)
        except msgspec.MsgspecError as error:
            raise RemoteProtocolError(str(error), "words") from None


class Side:
    """A swarm that asks and answers.

    :ivar waiting: questions that came, to be answered.
    :ivar at_once: whether they are answered before anybody looks.
    """

    def __init__(self, case: SwarmCase, number: int) -> None:
        self.peer = Peer(case, number)
        self.swarm = self.peer.swarm
        self.codec = Words()
        self.waiting: list[tuple[str, Deferred[str]]] = []
        self.heard: list[tuple[PeerID, str]] = []
        self.at_once = False
        self.admitted = True
        self.calls = Calls(self.swarm, self.codec, self.answer, lambda peer: self.admitted)

    @property
    def id(self) -> PeerID:
        return self.swarm.peer_id

    def answer(self, peer: PeerID, question: str) -> Deferred[str]:
        answered: Deferred[str] = Deferred()
        self.heard.append((peer, question))
        if self.at_once:
            answered.callback(question.upper())
        else:
            self.waiting.append((question, answered))
        return answered

    def reply(self, place: int = 0) -> None:
        """Answer the question that waits there."""
        question, answered = self.waiting.pop(place)
        answered.callback(question.upper())

    def link(self, other: PeerID) -> Link:
        return self.swarm.links[other]


class CallsCase(SwarmCase):
    def setUp(self) -> None:
        super().setUp()
        self.one, self.other = Side(self, 1), Side(self, 2)
        self.connect()

    def connect(self) -> None:
        dialling = self.one.peer.dial(self.other.peer)
        self.run_for(1.0)
        self.successResultOf(dialling)

    def ask(self, *questions: str) -> list[Deferred[str]]:
        """Ask the other, and give it time to hear it."""
        asked = [self.one.calls.ask(self.other.id, question) for question in questions]
        self.run_for(0.2)
        return asked

    def raw(self, side: Side, other: Side) -> Any:
        """A stream of the protocol that the test speaks itself."""
        keeper = Keeper()
        opening = side.link(other.id).open_stream([PROTOCOL], _Given(keeper))
        self.run_for(0.2)
        self.successResultOf(opening)
        return keeper

    def answer_with(self, protocol: Protocol) -> None:
        """Have the other's streams answered by what the test gives."""
        self.other.swarm.handle(PROTOCOL, _Given(protocol))

    def downs(self, side: Side) -> list[str]:
        return [about for what, about in side.peer.told if what == "down"]

    def nothing_left(self) -> None:
        """No question is remembered, and nothing is planned, on either side."""
        self.run_for(0.0)
        for side in (self.one, self.other):
            self.assertEqual(side.calls._asking, {})
            self.assertEqual(side.calls._to_send, set())
        calls = [str(call.call) for call in self.reactor.getDelayedCalls()]
        self.assertEqual([call for call in calls if "calls." in call or "_Frames" in call], [])


class _Given(Factory):
    noisy = False

    def __init__(self, protocol: Protocol) -> None:
        self.given = protocol

    def buildProtocol(self, addr: Any) -> Protocol:
        return self.given


class Scripted(Protocol):
    """Answers the first data that comes with bytes that the test has chosen."""

    def __init__(self, says: bytes) -> None:
        self.says = says

    def dataReceived(self, data: bytes) -> None:
        transport: Any = self.transport
        transport.write(self.says)


class AnsweredTests(CallsCase):
    """What is asked is answered."""

    def test_any_order(self) -> None:
        """Each question has its own answer, in whatever order they are given."""
        asked = self.ask("a", "b", "c")
        self.assertEqual(self.other.heard, [(self.one.id, word) for word in "abc"])
        self.other.reply(1)
        self.run_for(0.2)
        self.assertEqual(self.successResultOf(asked[1]), "B")
        self.assertNoResult(asked[0])
        self.other.reply(1)
        self.other.reply(0)
        self.run_for(0.2)
        self.assertEqual([self.successResultOf(each) for each in (asked[0], asked[2])], ["A", "C"])

    def test_one_frame(self) -> None:
        """What is asked in one turn, and what is answered in one, is one frame each."""
        for _ in range(2):
            # The first before the stream is open, then on the open one.
            self.one.codec.frames.clear()
            self.other.codec.frames.clear()
            asked = self.ask("a", "b", "c", "d")
            self.assertEqual(len(self.other.codec.frames), 1)
            while self.other.waiting:
                self.other.reply()
            self.run_for(0.2)
            self.assertEqual(len(self.one.codec.frames), 1)
            for each in asked:
                self.successResultOf(each)

    def test_later_turn(self) -> None:
        """A later turn's question is a frame of its own, on the same stream."""
        self.ask("a")
        streams = self.one.link(self.other.id).stream_count
        self.ask("b")
        self.assertEqual(len(self.other.codec.frames), 2)
        self.assertEqual(self.one.link(self.other.id).stream_count, streams)

    def test_both_ways(self) -> None:
        """Either side asks; the numbers of one have nothing to do with the other's."""
        asked = self.ask("a")
        back = self.other.calls.ask(self.one.id, "b")
        self.run_for(0.2)
        self.one.reply()
        self.run_for(0.2)
        self.assertNoResult(asked[0])
        self.assertEqual(self.successResultOf(back), "B")
        self.other.reply()
        self.run_for(0.2)
        self.assertEqual(self.successResultOf(asked[0]), "A")

    def test_frames_have_room(self) -> None:
        """No frame is longer than allowed, and none of the questions and answers is missing."""
        self.other.at_once = True
        words = [("x" * (size * 37 % 900)) + str(size) for size in range(200)]
        asked = self.ask(*words)
        self.run_for(2.0)
        self.assertEqual(
            [self.successResultOf(each) for each in asked], [word.upper() for word in words]
        )
        for side in (self.one, self.other):
            self.assertGreater(len(side.codec.frames), 100)
            self.assertLessEqual(max(side.codec.frames), Words.max_message)

    def test_full_frames(self) -> None:
        """Small ones fill the frames: what is long is not sent word by word."""
        self.ask(*["word"] * 600)
        self.run_for(1.0)
        self.assertEqual(len(self.other.heard), 600)
        self.assertLess(len(self.other.codec.frames), 15)

    def test_largest(self) -> None:
        """A message that just fits into a frame is sent alone."""
        self.other.at_once = True
        word = "x" * (Words.max_message - 10)
        asked = self.ask("a", word, "b")
        self.assertEqual([len(self.successResultOf(each)) for each in asked], [1, len(word), 1])

    def test_byte_at_a_time(self) -> None:
        """However the bytes are cut."""
        whole = Stream.data_received

        def cut(stream: Stream, data: bytes) -> None:
            for byte in data:
                whole(stream, bytes([byte]))

        self.patch(Stream, "data_received", cut)
        self.other.at_once = True
        asked = self.ask(*"abc", "long" * 100)
        self.assertEqual(
            [self.successResultOf(each) for each in asked], ["A", "B", "C", "LONG" * 100]
        )

    def test_answer_fails(self) -> None:
        """A mistake in an answer is logged, and costs whoever asked no more than this stream."""
        self.patch(self.other, "answer", lambda peer, word: fail(ValueError(word)))
        self.other.calls.answer = self.other.answer
        asked = self.ask("a", "b")
        for each in asked:
            self.failureResultOf(each, AnswerLost)
        # The first ended the stream, so that the second was not looked at.
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.assertEqual(self.downs(self.one), [])
        self.other.calls.answer = lambda peer, word: Deferred()
        self.assertNoResult(self.ask("c")[0])


class AtOnceTests(CallsCase):
    """What does not wait for the end of the turn, as nothing else is under way."""

    def setUp(self) -> None:
        super().setUp()
        self.ask("first")
        self.other.reply()
        self.run_for(0.2)
        self.other.codec.frames.clear()

    def heard(self) -> list[str]:
        self.run_for(0.2)
        return [question for _, question in self.other.heard[1:]]

    def sent_by(self, side: Side, other: Side) -> list[int]:
        """One for each time that a side gives its link something to send."""
        link, sent = side.link(other.id), []
        flush = link.flush

        def flushed() -> None:
            sent.append(1)
            flush()

        self.patch(link, "flush", flushed)
        return sent

    def test_questions(self) -> None:
        """Questions are sent when that is asked for, and those that follow by themselves."""
        sent = self.sent_by(self.one, self.other)
        for question in ("a", "b"):
            self.one.calls.ask(self.other.id, question)
        self.assertEqual(sent, [])
        self.one.calls.send_now()
        self.assertEqual(sent, [1])
        self.one.calls.ask(self.other.id, "c")
        self.assertEqual(self.heard(), ["a", "b", "c"])
        self.assertEqual(len(self.other.codec.frames), 2)

    def test_questions_under_way(self) -> None:
        """While others wait for an answer they go together, at the end of the turn."""
        self.ask("a")
        sent = self.sent_by(self.one, self.other)
        for question in ("b", "c"):
            self.one.calls.ask(self.other.id, question)
            self.one.calls.send_now()
        self.assertEqual(sent, [])
        self.assertEqual(self.heard(), ["a", "b", "c"])
        self.assertEqual(len(self.other.codec.frames), 2)

    def test_nothing_to_send(self) -> None:
        """Where nothing was asked, or is gone, nothing happens."""
        sent = self.sent_by(self.one, self.other)
        self.one.calls.send_now()
        self.assertEqual(sent, [])
        self.one.calls.ask(self.other.id, "a").addErrback(lambda failure: None)
        self.one.link(self.other.id).sever("a test")
        self.one.calls.send_now()
        self.assertEqual(self.heard(), [])

    def test_lost_before(self) -> None:
        """Nothing is remembered of a link that is gone, where nobody ever sends at once."""
        asked = self.ask("a")[0]
        self.one.link(self.other.id).sever("a test")
        self.failureResultOf(asked, AnswerLost)
        self.nothing_left()

    def test_answers(self) -> None:
        """The last of the answers that are wanted leaves at once, and what waits with it."""
        self.ask("a", "b", "c")
        sent = self.sent_by(self.other, self.one)
        self.one.codec.frames.clear()
        for expected in ([], [], [1]):
            self.other.reply()
            self.assertEqual(sent, expected)
        self.run_for(0.2)
        self.assertEqual(len(self.one.codec.frames), 1)

    def test_answered_at_once(self) -> None:
        """Those that are given while the questions are read leave together."""
        self.other.at_once = True
        self.one.codec.frames.clear()
        asked = self.ask("a", "b", "c")
        self.assertEqual([self.successResultOf(each) for each in asked], ["A", "B", "C"])
        self.assertEqual(len(self.one.codec.frames), 1)


class NotAnsweredTests(CallsCase):
    """What is not, and what is known of it then."""

    def test_not_linked(self) -> None:
        """Who is not linked is not asked."""
        stranger = Side(self, 3)
        self.failureResultOf(self.one.calls.ask(stranger.id, "a"), NotAsked)
        self.nothing_left()

    def test_not_admitted(self) -> None:
        """Whom this side does not admit is not asked, however linked."""
        self.one.admitted = False
        self.failureResultOf(self.one.calls.ask(self.other.id, "a"), NotAsked)
        self.assertEqual(self.ask(), [])
        self.assertEqual(self.other.heard, [])

    def test_not_spoken(self) -> None:
        """A peer without the protocol was not asked, and keeps its link."""
        plain = Peer(self, 3)
        self.one.peer.dial(plain)
        self.run_for(1.0)
        link = self.one.link(plain.swarm.peer_id)
        before = link.stream_count
        asked = [self.one.calls.ask(plain.swarm.peer_id, word) for word in "ab"]
        self.run_for(1.0)
        for each in asked:
            self.failureResultOf(each, NotAsked)
        self.assertEqual((link.stream_count, link.closed), (before, False))
        self.nothing_left()

    def test_refused(self) -> None:
        """A peer that does not admit this side hears nothing, and the link stays.

        The stream was agreed on before it was refused, so whether it heard is not known here.
        """
        self.other.admitted = False
        self.failureResultOf(self.ask("a")[0], AnswerLost)
        self.assertEqual((self.other.heard, self.downs(self.one)), ([], []))
        self.nothing_left()
        self.other.admitted = True
        self.ask("b")
        self.assertEqual(self.other.heard, [(self.one.id, "b")])

    def test_not_admitted_since(self) -> None:
        """Who is admitted no more is answered no more, on an open stream neither."""
        before = self.ask("a")
        self.other.admitted = False
        after = self.ask("b")
        self.assertEqual(len(self.other.heard), 1)
        for asked in before + after:
            self.failureResultOf(asked, AnswerLost)

    def test_link_lost(self) -> None:
        """What was sent may have been acted on; what waits for the stream to open was not sent."""
        sent = self.ask("a")[0]
        self.other.link(self.one.id).abort("gone")
        self.run_for(0.2)
        self.failureResultOf(sent, AnswerLost)
        self.connect()
        opening = self.one.calls.ask(self.other.id, "b")
        self.one.link(self.other.id).abort("gone")
        self.run_for(0.2)
        self.failureResultOf(opening, NotAsked)
        self.assertEqual(self.other.heard, [(self.one.id, "a")])
        self.nothing_left()

    def test_closing_link(self) -> None:
        """On a link that is being closed nobody is asked, and nobody waits for it."""
        link = self.one.link(self.other.id)
        link.close("this node is stopping")
        self.assertIs(self.one.swarm.links.get(self.other.id), link)
        for word in "ab":
            self.failureResultOf(self.one.calls.ask(self.other.id, word), NotAsked)
        self.run_for(3.0)
        self.nothing_left()

    def test_asked_again_when_lost(self) -> None:
        """Who asks again while it is told of the loss is told as much, and nothing goes round."""
        told: list[type[BaseException] | None] = []

        def again(failure: Failure) -> None:
            told.append(failure.type)
            if len(told) < 3:
                self.one.calls.ask(self.other.id, "again").addErrback(again)

        self.ask("a")[0].addErrback(again)
        self.one.link(self.other.id).abort("gone")
        self.run_for(1.0)
        self.assertEqual(told, [AnswerLost, NotAsked, NotAsked])
        self.nothing_left()

    def test_replaced_link(self) -> None:
        """An answer to what was asked over an earlier link is for no question of the next."""
        before = self.ask("old")[0]
        self.one.link(self.other.id).abort("gone")
        self.run_for(0.2)
        self.failureResultOf(before, AnswerLost)
        self.connect()
        after = self.ask("new")[0]
        self.other.reply(0)
        self.run_for(0.2)
        self.assertNoResult(after)
        self.other.reply(0)
        self.run_for(0.2)
        self.assertEqual(self.successResultOf(after), "NEW")

    def test_two_links(self) -> None:
        """When a link takes the place of another that still lives, the next question goes over it,
        and what was asked over the first is answered there."""
        first = self.ask("a")[0]
        old = self.one.link(self.other.id)
        del self.one.swarm.links[self.other.id]
        self.connect()
        self.assertIsNot(self.one.link(self.other.id), old)
        second = self.ask("b")[0]
        self.other.reply()
        self.other.reply()
        self.run_for(0.2)
        self.assertEqual(self.successResultOf(second), "B")
        self.assertIn(first.called, (True, False))
        if not old.closed:
            self.assertEqual(self.successResultOf(first), "A")
        else:
            self.failureResultOf(first, AnswerLost)

    def test_stream_ended_by_peer(self) -> None:
        """A peer that ends the stream in order has not answered either; the next is a new one."""
        self.answer_with(_Ends())
        self.failureResultOf(self.ask("a")[0], AnswerLost)
        self.nothing_left()
        self.assertEqual(self.downs(self.one), [])

    def test_nobody_waits(self) -> None:
        """Who has cancelled a question is not told, and the answer is no offence."""
        asked = self.ask("a", "b")
        asked[0].cancel()
        self.failureResultOf(asked[0])
        self.other.reply()
        self.other.reply()
        self.run_for(0.2)
        self.assertEqual(self.successResultOf(asked[1]), "B")
        self.assertEqual(self.downs(self.one), [])


class _Ends(Protocol):
    def dataReceived(self, data: bytes) -> None:
        transport: Any = self.transport
        transport.loseConnection()


class GarbageTests(CallsCase):
    """Who breaks the rules loses the link."""

    def offended(self, asked: list[Deferred[str]], says: str) -> None:
        for each in asked:
            self.failureResultOf(each, AnswerLost)
        self.assertEqual(len(self.downs(self.one)), 1)
        self.assertIn(says, self.downs(self.one)[0])
        self.nothing_left()

    def test_questions(self) -> None:
        """Questions that cannot be read."""
        for wrong in (b"\xc1", frame(b"\xc1"), frame(encode([(0, 1)])), frame(encode("a"))):
            with self.subTest(wrong=wrong):
                raw = self.raw(self.other, self.one)
                raw.transport.write(wrong + b"\x00" * 300)
                self.run_for(1.0)
                self.assertIsNotNone(raw.lost)
                self.assertNotIn(self.other.id, self.one.swarm.links)
                self.assertEqual(self.one.heard, [])
                self.connect()

    def test_long_question(self) -> None:
        """A frame that is announced to be longer than any is not waited for."""
        raw = self.raw(self.other, self.one)
        raw.transport.write(frame(b"x" * (Words.max_message + 1))[:5])
        self.run_for(0.2)
        self.assertIn("message_too_long", self.downs(self.one)[0])
        self.nothing_left()

    def test_answers(self) -> None:
        """An answer that cannot be read; what was asked may have been acted on."""
        self.answer_with(Scripted(frame(b"\xc1")))
        self.offended(self.ask("a", "b"), "(words)")

    def test_long_answer(self) -> None:
        """An answer that is announced to be too long."""
        self.answer_with(Scripted(b"\xff\xff\xff\x7f"))
        self.offended(self.ask("a"), "message_too_long")

    def test_no_question(self) -> None:
        """An answer to what was never asked; what came before it in the frame counts."""
        self.answer_with(Scripted(frame(encode([(1, "B"), (7, "?"), (0, "A")]))))
        asked = self.ask("a", "b")
        self.assertEqual(self.successResultOf(asked[1]), "B")
        self.offended(asked[:1], "an answer to no question (no_question)")

    def test_answered_twice(self) -> None:
        """A second answer to one question."""
        self.answer_with(Scripted(frame(encode([(0, "A"), (0, "A")]))))
        asked = self.ask("a", "b")
        self.successResultOf(asked[0])
        self.offended(asked[1:], "no_question")

    def test_answer_before_question(self) -> None:
        """A peer that answers as soon as the stream is open, by guessing the number."""

        class Hasty(Protocol):
            def connectionMade(self) -> None:
                transport: Any = self.transport
                transport.write(frame(encode([(3, "D")])))

        self.answer_with(Hasty())
        self.offended(self.ask("a"), "no_question")

    def test_number_twice(self) -> None:
        """A peer that gives two questions one number gets two answers with it."""
        self.one.at_once = True
        raw = self.raw(self.other, self.one)
        raw.transport.write(frame(encode([(5, "a"), (5, "b")])))
        self.run_for(0.2)
        [message] = FrameReader(1000).receive(raw.data)
        self.assertEqual(decoder.decode(message), [(5, "A"), (5, "B")])

    def test_questions_before_garbage(self) -> None:
        """Of what came in the same bytes as garbage nothing is answered."""
        raw = self.raw(self.other, self.one)
        raw.transport.write(frame(encode([(0, "a")])) + frame(b"\xc1"))
        self.run_for(0.2)
        self.assertEqual(self.one.heard, [])


class LimitTests(CallsCase):
    """How much of it there may be."""

    def test_answering(self) -> None:
        """No more questions are read than are being answered; each answer lets the next in."""
        self.patch(calls_module, "MAX_ANSWERING", 3)
        asked = self.ask(*"abcdefgh")
        self.assertEqual([word for word, _ in self.other.waiting], [*"abc"])
        self.other.reply(1)
        self.run_for(0.2)
        self.assertEqual([word for word, _ in self.other.waiting], [*"acd"])
        while self.other.waiting:
            self.other.reply()
            self.run_for(0.2)
        self.assertEqual("".join(self.successResultOf(each) for each in asked), "ABCDEFGH")
        later = self.ask("i")[0]
        self.other.reply()
        self.run_for(0.2)
        self.assertEqual(self.successResultOf(later), "I")

    def test_backpressure(self) -> None:
        """What is not read waits at whoever asks, and is read when there is room."""
        self.patch(calls_module, "MAX_ANSWERING", 3)
        words = [f"{number} " + "x" * 900 for number in range(2000)]
        asked = self.ask(*words)
        self.run_for(5.0)
        stream = self.one.calls._asking[self.other.id]._frames.stream
        assert stream is not None
        self.assertGreater(stream.pending_bytes, 100_000)
        self.assertEqual(len(self.other.heard), 3)
        self.other.at_once = True
        while self.other.waiting:
            self.other.reply()
        self.run_for(30.0)
        self.assertEqual(
            [self.successResultOf(each) for each in asked[:3]], [word.upper() for word in words[:3]]
        )
        for each in asked:
            self.successResultOf(each)
        self.assertEqual(stream.pending_bytes, 0)

    def test_asked(self) -> None:
        """So many questions wait for one peer; after an answer there is room again."""
        self.patch(calls_module, "MAX_ASKED", 3)
        asked = self.ask(*"abc")
        self.failureResultOf(self.one.calls.ask(self.other.id, "d"), NotAsked)
        self.other.reply()
        self.run_for(0.2)
        self.assertEqual(self.successResultOf(asked[0]), "A")
        self.assertNoResult(self.ask("e")[0])
        self.assertEqual([word for _, word in self.other.heard], [*"abce"])

    def test_waiting(self) -> None:
        """A peer that does not read is asked no more once so many bytes wait for it."""
        self.patch(calls_module, "MAX_WAITING", 10_000)
        keeper = Keeper()
        self.answer_with(keeper)
        [first] = self.ask("a")
        transport: Any = keeper.transport
        transport.pauseProducing()
        asked: list[Deferred[str]] = []
        for _ in range(5000):
            asked += self.ask("x" * 900)
            if asked[-1].called:
                break
        self.failureResultOf(asked.pop(), NotAsked)
        self.assertLess(len(asked), 4000)
        self.assertNoResult(asked[-1])
        self.one.link(self.other.id).abort("gone")
        self.run_for(0.2)
        for each in [first, *asked]:
            self.failureResultOf(each, AnswerLost)

    def test_answers_not_read(self) -> None:
        """A peer that asks and does not read the answers is not answered without end."""
        self.patch(calls_module, "MAX_WAITING", 10_000)
        self.one.calls.answer = lambda peer, word: _now("y" * 900)
        raw = self.raw(self.other, self.one)
        raw.transport.pauseProducing()
        for number in range(3000):
            raw.transport.write(frame(encode([(number, "a")])))
            self.run_for(0.001)
        self.run_for(1.0)
        link = self.one.link(self.other.id)
        self.assertLess(max(each.pending_bytes for each in link._streams.values()), 500_000)

    def test_one_place_in_line(self) -> None:
        """However many questions a peer has, it stands in line for a turn once."""
        spent = 0.0
        longest = 0
        link = self.one.link(self.other.id)
        turns = link.turns = Turns(self.one.peer.host.clock, lambda: spent)

        def answer(peer: PeerID, word: str) -> Deferred[str]:
            nonlocal spent, longest
            spent += BUDGET / 4
            longest = max(longest, len(turns._waiting))
            return _now(word.upper())

        self.one.calls.answer = answer
        raw = self.raw(self.other, self.one)
        raw.transport.write(frame(encode([(number, "a") for number in range(100)])))
        self.run_for(0.5)
        frames = FrameReader(1000).receive(raw.data)
        self.assertEqual(sum(len(decoder.decode(each)) for each in frames), 100)
        self.assertLessEqual(longest, 1)

    def test_turns(self) -> None:
        """Questions that do not fit into a turn are answered in the next ones, all of them."""
        spent = 0.0
        clock = self.one.peer.host.clock
        self.one.link(self.other.id).turns = Turns(clock, lambda: spent)
        heard: list[float] = []

        def answer(peer: PeerID, word: str) -> Deferred[str]:
            nonlocal spent
            spent += BUDGET / 2
            heard.append(clock.seconds())
            return Deferred()

        self.one.calls.answer = answer
        raw = self.raw(self.other, self.one)
        raw.transport.write(frame(encode([(number, "a") for number in range(20)])))
        self.run_for(0.5)
        self.assertEqual(len(heard), 20)

    def test_lost_in_line(self) -> None:
        """A link that ends while its questions wait for a turn leaves none of them behind."""
        spent = 0.0
        self.one.link(self.other.id).turns = Turns(self.one.peer.host.clock, lambda: spent)
        link = self.one.link(self.other.id)

        def answer(peer: PeerID, word: str) -> Deferred[str]:
            nonlocal spent
            spent += BUDGET
            link.sever("gone")
            return Deferred()

        heard = self.one.heard

        def heard_first(peer: PeerID, word: str) -> Deferred[str]:
            heard.append((peer, word))
            return answer(peer, word)

        self.one.calls.answer = heard_first
        raw = self.raw(self.other, self.one)
        raw.transport.write(frame(encode([(number, "a") for number in range(20)])))
        self.run_for(0.5)
        self.assertEqual(len(heard), 1)
        self.nothing_left()

    def test_rate(self) -> None:
        """Who opens one stream after the other is refused those that are too many."""
        raws = [Keeper() for _ in range(20)]
        for raw in raws:
            self.other.link(self.one.id).open_stream([PROTOCOL], _Given(raw))
        self.run_for(1.0)
        self.assertEqual(sum(raw.lost is not None for raw in raws), 20 - calls_module.RATE.burst)
        self.assertEqual(self.downs(self.one), [])


def _now(word: str) -> Deferred[str]:
    answered: Deferred[str] = Deferred()
    answered.callback(word)
    return answered
