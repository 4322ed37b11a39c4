"""What members say about tasks: questions, answers, records, and streams of output."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import msgspec
from twisted.internet.defer import Deferred, execute
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher
from twisted.python.failure import Failure

from bzzz.errors import BzzzError, RemoteProtocolError
from bzzz.identity.peer_id import PeerID
from bzzz.tasks.executors.interfaces import Ending, Over
from bzzz.tasks.messages import (
    MAX_MESSAGE,
    Found,
    Granted,
    Listed,
    Offer,
    Register,
    Renew,
    TaskCodec,
    Told,
)
from bzzz.tasks.output import OutputFiles
from bzzz.tasks.output_streams import OutputStreams, _Answering, _Asking
from bzzz.tasks.register_store import Asked
from bzzz.tasks.service import TaskService
from bzzz.tasks.submission import SIGN_PREFIX, submitted_at
from bzzz.tasks.submission import verify as verify_submission
from bzzz.tasks.value import decode_record, encode_record
from bzzz.tasks.workflows.record import SIGN_PREFIX as WORKFLOW_PREFIX
from bzzz.tasks.workflows.record import (
    decode_workflow,
    encode_workflow,
    is_workflow,
    verify_workflow,
)
from bzzz.tasks.world import TaskWorld
from bzzz.web.schema import encode as encode_answer
from bzzz.web.task_schema import task_info
from bzzz.wire.framing import FrameReader
from tests.fuzz.node_target import Findings
from tests.fuzz.registry import pieces, target, told
from tests.tasks.disks import Disk
from tests.tasks.fakes import (
    FakeExecutor,
    FakePeers,
    FakePlacer,
    FakeWorkspace,
    key,
    name,
    peer,
    submission,
    task_id,
)
from tests.tasks.test_service import MEMBERS, Rights

__all__ = ["MACHINE", "OTHER", "OTHERS", "TASK"]

# The node that is asked; its tasks; the members beside it.
MACHINE = "ironwood"
TASK, OTHER = task_id(1), task_id(2)
OTHERS = tuple(each for each in MEMBERS if each != MACHINE)

# Bytes of a frame, fewer than in life; messages of one input.
SHORT = 8192
MOST_MESSAGES = 20

_keys = {name(each): key(each) for each in MEMBERS}
_codec = TaskCodec()


def signed_anew(data: bytes, signature: bytes, prefix: bytes) -> bytes:
    """A signature of its origin, where that is a member here: what a hostile one can make."""
    try:
        origin = msgspec.msgpack.decode(data)["origin"]
        return _keys[origin].sign(prefix + data)
    except (msgspec.MsgspecError, RecursionError, UnicodeError, LookupError, TypeError):
        return signature


def record_anew(value: bytes) -> bytes:
    """The same for the value of a register, of a task or a workflow."""
    prefix = WORKFLOW_PREFIX if is_workflow(value) else SIGN_PREFIX
    try:
        *before, (data, signature), state = msgspec.msgpack.decode(value)
        signed = (data, signed_anew(data, signature, prefix))
        return msgspec.msgpack.encode([*before, signed, state])
    except (msgspec.MsgspecError, RecursionError, UnicodeError, ValueError, TypeError):
        return value


def anew(message: Any) -> Any:
    """The same for whatever a message has."""
    replace = msgspec.structs.replace
    match message:
        case Offer(signed):
            signature = signed_anew(signed.data, signed.signature, SIGN_PREFIX)
            return replace(message, signed=replace(signed, signature=signature))
        case Register(request=request) if hasattr(request, "value"):
            changed = replace(request, value=record_anew(request.value))
            return replace(message, request=changed)
        case Found(record) if record is not None:
            return Found(record_anew(record))
        case Listed(records):
            return replace(message, records=tuple(map(record_anew, records)))
        case Told(answer) if hasattr(answer, "value"):
            return Told(replace(answer, value=record_anew(answer.value)))
    return message


def read(
    data: bytes, messages_of: Callable[[bytes], Sequence[tuple[int, Any]]]
) -> list[tuple[PeerID, Any]]:
    """The messages of an input, signed anew, as far as they can be read, and whose they are: a
    frame begins with a byte that says of whom it is."""
    messages: list[tuple[PeerID, Any]] = []
    try:
        for frame in FrameReader(SHORT).receive(data):
            sender = peer(OTHERS[frame[0] % len(OTHERS)]) if frame else peer(OTHERS[0])
            messages += [(sender, anew(each)) for _, each in messages_of(frame[1:])]
    except RemoteProtocolError as error:
        told(error)
    return messages[:MOST_MESSAGES]


class World:
    """One node of five, whose disk, peers and commands are a test's."""

    def __init__(self, findings: Findings) -> None:
        self.clock = Clock()
        self.clock.advance(100.0)
        self.findings = findings
        self.peers = FakePeers(*OTHERS)
        self.executor = FakeExecutor()
        self.disk: Any = Disk()
        self.others = {peer(each): Disk() for each in OTHERS}
        self.service = TaskService(
            TaskWorld(
                clock=self.clock,
                wall_time=lambda: submitted_at(TASK) + self.clock.seconds(),
                rng=Random(1),
                random_bytes=Random(2).randbytes,
                key=key(MACHINE),
                store=self.disk,
                peers=self.peers,
                trusted=Rights(*MEMBERS),
                executor=self.executor,
                workspace=FakeWorkspace(),
                admit=lambda peer, submission: {},
                give_back=lambda task: None,
            ),
            lambda place: FakePlacer(),
        )
        self.wait(Deferred.fromCoroutine(self.service.start()))

    def wait(self, doing: Deferred[Any]) -> None:
        """It may end in an error, but in none that nobody raises on purpose."""

        def failed(failure: Failure) -> None:
            if failure.check(BzzzError) is None:
                self.findings.add(failure)

        doing.addErrback(failed)

    def keep(self, replica: PeerID, register: Register) -> Told:
        """What another replica says, which has heard of all that this node has."""
        asked = Asked(register.task, register.request)
        [answered] = self.success(self.others.setdefault(replica, Disk()).ask([asked]))
        return Told(answered.answer)

    def success(self, done: Deferred[Any]) -> Any:
        """What is there at once."""
        results: list[Any] = []
        done.addCallback(results.append)
        return results[0]

    def go_on(self) -> None:
        """Other replicas keep what they are asked to, and each worker has its lease."""
        for asker, request, answer in self.peers.take(Register):
            what: Any = request
            answer.callback(self.keep(asker, what))
        for _, request, answer in self.peers.take(Renew):
            renew: Any = request
            answer.callback(Granted((True,) * len(renew.attempts)))
        self.clock.advance(0.05)

    def end(self) -> None:
        """What runs ends, nobody answers any more, and the node stops."""
        for run in list(self.executor.runs):
            self.executor.end(run, Over(Ending.EXITED, 0))
        for _ in range(8):
            self.peers.lose()
            self.clock.advance(5.0)
        self.service.stop()
        self.peers.lose()
        self.clock.advance(60.0)


def live(data: bytes, run: Callable[[bytes, World], None]) -> None:
    """Have something happen to a node, and raise what failed in it, unheard or not."""
    findings = Findings()
    globalLogPublisher.addObserver(findings)
    gc.freeze()
    try:
        world = World(findings)
        run(data, world)
        world.end()
        del world
        gc.collect()
        findings.check()
    finally:
        gc.unfreeze()
        globalLogPublisher.removeObserver(findings)


@target
def task_questions(data: bytes) -> None:
    """A member asks: each answer is one that it can read."""

    def ask(data: bytes, world: World) -> None:
        for asker, question in read(data, _codec.read_requests):
            answering = world.service.answer(asker, question)
            if isinstance(question, Register):
                for other in list(world.others):
                    world.keep(other, question)
            answering.addCallback(_see_that_it_can_be_read)
            answering.addErrback(world.findings.add)
            world.clock.advance(0.05)
            world.go_on()

    live(data, ask)


def _see_that_it_can_be_read(answer: Any) -> None:
    frame = _codec.join([(7, _codec.encode(answer))])
    assert len(frame) <= MAX_MESSAGE
    assert _codec.read_answers(frame) == [(7, answer)]


@target
def task_answers(data: bytes) -> None:
    """Members answer whatever this node asks them, whether it is of the kind or not."""

    def answer(data: bytes, world: World) -> None:
        service = world.service
        wanted = submission(replicas=(MACHINE, "walnut", "acacia"))
        for doing in (
            service.submit(wanted, name("hazel")),
            service.find(OTHER),
            service.find_workflow(OTHER),
        ):
            world.wait(Deferred.fromCoroutine(doing))
        for _, said in read(data, _codec.read_answers):
            if world.peers.asked:
                world.peers.asked.pop(0).answer.callback(said)
            world.clock.advance(0.3)

    live(data, answer)


@target
def task_records(data: bytes) -> None:
    """The value of a register: what can be read is what it was, and can be shown."""
    for value in (data, record_anew(data)):
        try:
            if is_workflow(value):
                workflow = decode_workflow(value)
                assert decode_workflow(encode_workflow(workflow)) == workflow
                verify_workflow(workflow.signed)
                continue
            record = decode_record(value)
            assert decode_record(encode_record(record.signed, record.state)) == record
            encode_answer(task_info(record, lambda peer: peer[-6:]))
            assert verify_submission(record.signed) == record.submission
        except RemoteProtocolError as error:
            told(error)


class _Stream:
    """Stands for a stream, and for its link."""

    def __init__(self) -> None:
        self.remote_peer = peer("hazel")
        self.written = 0
        self.gone = False

    def write(self, data: bytes) -> None:
        self.written += len(data)

    def abort(self, reason: str) -> None:
        assert reason.isprintable()
        self.gone = True

    def abortConnection(self) -> None:
        self.gone = True

    loseConnection = abortConnection

    def registerProducer(self, producer: object, streaming: bool) -> None:
        pass

    def unregisterProducer(self) -> None:
        pass

    pauseProducing = resumeProducing = unregisterProducer


@target
def output_questions(data: bytes) -> None:
    """A member wants output."""
    clock, stream = Clock(), _Stream()
    swarm: Any = SimpleNamespace(handle=lambda *arguments, **options: None, links={})
    files = OutputFiles(clock, lambda *_: Path("/nonexistent"), lambda *_: False, execute)
    streams = OutputStreams(swarm, peer(MACHINE), files, lambda peer: True)
    answering: Any = _Answering(streams, stream)  # type: ignore[arg-type]  # a fake
    answering.transport = stream
    answering.connectionMade()
    for piece in pieces(data):
        if stream.gone:
            break
        answering.dataReceived(piece)
    answering.connectionLost()
    assert stream.written <= 2048
    assert not streams._count


@target
def output_parts(data: bytes) -> None:
    """A member sends output, to somebody who at times takes it later."""
    stream, waiting, got = _Stream(), list[Deferred[None]](), 0

    def take(which: int, part: bytes) -> Deferred[None] | None:
        nonlocal got
        assert which in (1, 2)
        got += len(part)
        if len(part) % 2:
            return None
        waiting.append(Deferred())
        return waiting[-1]

    asking: Any = _Asking(b"question", take)
    ends: list[object] = []
    asking.ended.addBoth(ends.append)
    asking.transport = stream
    asking.connectionMade()
    for piece in pieces(data):
        if stream.gone:
            break
        asking.dataReceived(piece)
        while waiting and len(piece) % 2:
            waiting.pop(0).callback(None)
    asking.connectionLost()
    while waiting:
        waiting.pop(0).callback(None)
    assert got <= len(data)
    assert len(ends) == 1
    if isinstance(ends[0], Failure):
        ends[0].trap(BzzzError)
