"""A question and its answer, on a network in memory with a clock of its own."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from bzzz.client import NoNode, NotAllowed, Refused, conversation
from bzzz.client.conversation import TIMEOUT, Conversation
from bzzz.client.core import ASKING, CHANGING, Core
from bzzz.client.idle import IDLE_SECONDS
from tests.client.fake_node import ID, chunks, error, line, task, whole


@dataclass
class Net:
    """Answers each connection by parts; after None nothing comes any more."""

    answers: list[list[bytes | OSError | None]]
    refuses: OSError | None = None
    seconds: float = 0.0
    slept: list[float] = field(default_factory=list)
    opened: int = 0
    closed: int = 0
    asked: list[bytes] = field(default_factory=list)
    process: int = 1
    silent: bool = True
    breaks: OSError | None = None

    async def connect(self, path: Path, timeout: float) -> Pipe:
        if self.refuses is not None:
            raise self.refuses
        self.opened += 1
        return Pipe(self, self.answers.pop(0))

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)

    def now(self) -> float:
        return self.seconds

    def owner(self) -> object:
        return self.process


class Pipe:
    def __init__(self, net: Net, parts: list[bytes | OSError | None]) -> None:
        self._net = net
        self._parts = parts
        self._open = True

    async def send(self, data: bytes) -> None:
        if self._net.breaks is not None:
            raise self._net.breaks
        self._net.asked.append(data)

    async def receive(self, timeout: float | None) -> bytes:
        part = self._parts.pop(0) if self._parts else b""
        if part is None:
            if timeout is None:
                raise AssertionError("it waits for ever")
            self._net.seconds += timeout
            raise TimeoutError
        if isinstance(part, OSError):
            raise part
        # Each part is a second in coming.
        self._net.seconds += 1.0
        return part

    def close(self) -> None:
        self._net.closed += self._open
        self._open = False

    def silent(self) -> bool:
        return self._net.silent

    def drop(self) -> None:
        self.close()


@dataclass
class Where:
    path: Path = Path("/run/bzzz/control.sock")
    start: str = "start it"

    def join(self) -> str | None:
        return "join"


def done(work: Coroutine[Any, Any, Any]) -> Any:
    """What comes of it, as the network suspends nobody."""
    try:
        work.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it was suspended")


class ConversationCase(SynchronousTestCase):
    """Questions on such a network."""

    def core(self, *answers: list[bytes | OSError | None], **options: Any) -> Core:
        where = options.pop("where", Where())
        self.net = Net(list(answers), **options)
        return Core(Conversation(self.net, where))

    def fails(self, kind: type[Exception], work: Coroutine[Any, Any, Any]) -> Any:
        error = self.assertRaises(kind, done, work)
        self.assertEqual(self.net.closed, self.net.opened)
        return error


class ConversationTests(ConversationCase):
    """Each ends, and its connection with it."""

    def test_closed(self) -> None:
        """A connection is for one question, if the node says so."""
        core = self.core([whole({"members": []})], [chunks(line(event="ended", task=task()))])
        self.assertEqual(done(core.members()), ())
        done(core.wait(ID, None, 0))
        self.assertEqual((self.net.opened, self.net.closed), (2, 2))

    def test_silent(self) -> None:
        """Who does not answer in time is told of; a change may take longer than a question."""
        for ask, seconds in (
            (lambda core: core.status(), TIMEOUT),
            (lambda core: core.info(ID), ASKING),
            (lambda core: core.cancel(ID), CHANGING),
            (lambda core: core.submit(["x"], {}), TIMEOUT),
        ):
            core = self.core([None])
            self.assertIn("does not answer", str(self.fails(NoNode, ask(core))))
            self.assertEqual(self.net.seconds, seconds)

    def test_silent_in_the_middle(self) -> None:
        """The whole of an answer has to come in time, and not only each part."""
        answer = whole({"members": []})
        parts: list[bytes | OSError | None] = [answer[at : at + 1] for at in range(len(answer))]
        core = self.core(parts)
        self.assertIn("does not answer", str(self.fails(NoNode, core.members())))

    def test_lines_may_take_long(self) -> None:
        """A line may be long in coming, once the answer has begun."""
        parts: list[bytes | OSError | None] = [chunks(end=False)]
        parts += [b"2\r\n{}\r\n", b"1\r\n\n\r\n"] * 20
        parts.append(chunks(line(event="ended", task=task())).partition(b"\r\n\r\n")[2])
        core = self.core(parts)
        self.assertTrue(done(core.wait(ID, None, 0)).succeeded)
        self.assertGreater(self.net.seconds, 2 * TIMEOUT)

    def test_deadline(self) -> None:
        """A wait ends at its own time, whatever comes."""
        parts: list[bytes | OSError | None] = [chunks(end=False), *[b"3\r\n{}\n\r\n"] * 100]
        core = self.core(parts)
        self.fails(TimeoutError, core.wait(ID, 5.0, 0))
        self.assertLessEqual(self.net.seconds, 6.0)

    def test_starting_for_ever(self) -> None:
        """In the end it is said what the node said."""
        starting = error("starting", "wait", "503 Service Unavailable")
        answers: list[list[bytes | OSError | None]] = [[starting] for _ in range(1000)]
        core = self.core(*answers)
        self.assertEqual(self.fails(Refused, core.status()).code, "starting")
        self.assertEqual(self.net.opened, conversation.TRIES)
        self.assertEqual(self.net.slept, [conversation.AGAIN] * (conversation.TRIES - 1))

    def test_not_allowed(self) -> None:
        """Another user's node is told from none, with what to do."""
        core = self.core(refuses=PermissionError())
        refused = self.fails(NotAllowed, core.status())
        self.assertIn("with sudo, or join", str(refused))

    def test_other_errors(self) -> None:
        """Whatever the system says is told."""
        self.assertIn(
            "cannot be asked: too many",
            str(self.fails(NoNode, self.core(refuses=OSError("too many")).status())),
        )
        self.assertIn(
            "not answer", str(self.fails(NoNode, self.core(refuses=TimeoutError()).status()))
        )
        core = self.core([], breaks=BrokenPipeError("it broke"))
        self.assertIn("broke off: it broke", str(self.fails(NoNode, core.status())))
        core = self.core([ConnectionResetError("reset")])
        self.assertIn("broke off: reset", str(self.fails(NoNode, core.status())))

    def test_long_path(self) -> None:
        """A path that no socket can have is no node either."""
        core = self.core(where=Where(Path("/" + "x" * conversation.MAX_PATH)))
        self.assertIn("too long", str(self.fails(NoNode, core.status())))

    def test_too_much(self) -> None:
        """A question that a node does not take is not sent, an answer without an end not kept."""
        core = self.core()
        refused = self.fails(Refused, core.submit(["x" * conversation.MAX_BODY], {}))
        self.assertEqual((refused.code, self.net.opened), ("too_large", 0))
        self.patch(conversation, "MAX_ANSWER", 100)
        core = self.core([b"HTTP/1.1 200 OK\r\n\r\n", b" " * 101, None])
        self.assertIn("more than 100 bytes", str(self.fails(NoNode, core.status())))


STAYS = whole({"members": []}, keep=True)
TOLD = chunks(line(event="ended", task=task()), keep=True)


class KeptTests(ConversationCase):
    """Several questions on one connection."""

    def counts(self) -> tuple[int, int]:
        """How many connections there were, and how many of them are closed."""
        return self.net.opened, self.net.closed

    def test_kept(self) -> None:
        """A connection carries one question after the other, of whatever kind, also after one that
        was refused."""
        refused = error("ambiguous_task", keep=True)
        core = self.core([STAYS, TOLD, refused, TOLD, STAYS])
        done(core.members())
        done(core.run(["x"], {}, False, 0))
        self.assertRaises(Refused, done, core.info(ID))
        done(core.wait(ID, None, 0))
        done(core.members())
        self.assertEqual((self.counts(), len(self.net.asked)), ((1, 0), 5))

    def test_not_whole(self) -> None:
        """What was not read to its end is hung up on."""
        ended = line(event="ended", task=task())
        answers: tuple[list[bytes | OSError | None], ...] = (
            [chunks(ended, end=False, keep=True), STAYS],
            [TOLD + b"x", STAYS],
            [whole({"members": 7}, keep=True), STAYS],
            [chunks(b"no line\n", keep=True), STAYS],
        )
        for at, answer in enumerate(answers):
            core = self.core(answer, [STAYS])
            with contextlib.suppress(NoNode):
                done(core.members() if at == 2 else core.wait(ID, None, 0))
            self.assertEqual(self.counts(), (1, 1))
            done(core.members())
            self.assertEqual(self.counts(), (2, 1))

    def test_given_once(self) -> None:
        """Closing an answer again does not keep its connection twice: two would ask on it."""
        core = self.core([TOLD, TOLD], [TOLD])
        first = done(core.output(ID, True))
        self.assertIsNone(done(first.next()))
        first.close()
        first.close()
        done(core.output(ID, True))
        self.assertEqual(self.counts(), (1, 0))
        done(core.output(ID, True))
        self.assertEqual(self.counts(), (2, 0))

    def test_closed_by_now(self) -> None:
        """Nothing is sent on a connection on which the node has closed, or said something."""
        core = self.core([STAYS, STAYS], [TOLD])
        done(core.members())
        self.net.silent = False
        done(core.run(["x"], {}, False, 0))
        self.assertEqual((self.counts(), len(self.net.asked)), ((2, 1), 2))

    def test_ended_meanwhile(self) -> None:
        """A GET is asked again, on a new connection, where the node went before a byte."""
        for end in (b"", ConnectionResetError("reset")):
            core = self.core([STAYS, end], [STAYS])
            done(core.members())
            self.assertEqual(done(core.members()), ())
            self.assertEqual((self.counts(), len(self.net.asked)), ((2, 1), 3))

    def test_asked_again_once(self) -> None:
        """Not on another one that waits, which may have ended as well, and not a third time."""
        core = self.core([TOLD, b""], [TOLD, b""], [b""], [STAYS])
        for each in [done(core.output(ID, True)) for _ in range(2)]:
            each.close()
        self.assertEqual(self.counts(), (2, 0))
        self.assertIn("broke off", str(self.assertRaises(NoNode, done, core.members())))
        self.assertEqual((self.counts(), len(self.net.asked)), ((3, 2), 4))

    def test_not_known(self) -> None:
        """What may have been done is not asked again: a POST, what was answered in part, or what
        is not answered in time."""
        for answer, ask in (
            (b"", lambda core: core.run(["x"], {}, False, 0)),
            (ConnectionResetError("reset"), lambda core: core.cancel(ID)),
        ):
            core = self.core([STAYS, answer], [TOLD])
            done(core.members())
            self.assertIn("broke off", str(self.fails(NoNode, ask(core))))
            self.assertEqual(self.counts(), (1, 1))
        core = self.core([STAYS, b"H"], [STAYS])
        done(core.members())
        self.assertIn("broke off", str(self.fails(NoNode, core.members())))
        core = self.core([STAYS, None], [STAYS])
        done(core.members())
        self.assertIn("does not answer", str(self.fails(NoNode, core.members())))

    def test_new_is_not_asked_again(self) -> None:
        """A node that ends a new connection has gone."""
        core = self.core([b""], [STAYS])
        self.assertIn("broke off", str(self.fails(NoNode, core.members())))
        self.assertEqual(self.counts(), (1, 1))

    def test_too_old(self) -> None:
        """A connection is not used long after its answer."""
        core = self.core([STAYS, STAYS], [STAYS])
        done(core.members())
        self.net.seconds += IDLE_SECONDS
        done(core.members())
        self.assertEqual(self.counts(), (1, 0))
        self.net.seconds += IDLE_SECONDS + 0.1
        done(core.members())
        self.assertEqual(self.counts(), (2, 1))

    def test_forked(self) -> None:
        """A child does not ask on its parent's connection, also if it was busy at the fork."""
        core = self.core([STAYS, STAYS], [TOLD], [STAYS])
        done(core.members())
        self.net.process = 2
        lines = done(core.output(ID, True))
        self.assertEqual(self.counts(), (2, 1))
        self.net.process = 3
        lines.close()
        done(core.members())
        self.assertEqual((self.counts(), len(self.net.asked)), ((3, 2), 3))

    def test_over(self) -> None:
        """A client that is closed, or gone, leaves no connection; a closed one can be used."""
        core = self.core([STAYS], [STAYS])
        done(core.members())
        core.close()
        self.assertEqual(self.counts(), (1, 1))
        done(core.members())
        self.assertEqual(self.counts(), (2, 1))
        del core
        gc.collect()
        self.assertEqual(self.counts(), (2, 2))
