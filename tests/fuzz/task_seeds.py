"""Well-formed inputs for what members say of tasks and of files."""

from __future__ import annotations

import msgspec

from bzzz.tasks import record as states
from bzzz.tasks.ballots import Accept, Accepted, Ballot, Conflict, NotYet, Prepare, Promise
from bzzz.tasks.files.chunk_messages import get, header, missing
from bzzz.tasks.files.manifest import DIGEST_SIZE, Chunk, Directory, Entry, File, Link, encode
from bzzz.tasks.messages import (
    Answer,
    Cancel,
    Coming,
    Done,
    Drain,
    Failed,
    Find,
    Found,
    Granted,
    Hold,
    Listed,
    Listing,
    Offer,
    Refused,
    Register,
    Renew,
    Report,
    Request,
    Retry,
    Settled,
    Stop,
    Taken,
    TaskCodec,
    Told,
)
from bzzz.tasks.record import End, Outcome, Policy, Produced, TaskState
from bzzz.tasks.submission import Input
from bzzz.tasks.value import TaskRecord, encode_record
from bzzz.tasks.workflows.plan import Step, Workflow, plan
from bzzz.tasks.workflows.plan import encode as encode_plan
from bzzz.tasks.workflows.progress import begin
from bzzz.tasks.workflows.record import (
    WorkflowRecord,
    WorkflowSubmission,
    encode_workflow,
    sign_workflow,
)
from bzzz.tasks.workflows.values import Work
from bzzz.wire.framing import frame
from tests.fuzz.task_targets import MACHINE, OTHER, OTHERS, TASK
from tests.tasks.fakes import key, name, record

__all__ = ["task_seeds"]

DIGEST = "ab" * 32
PRODUCED = Produced(b"out", b"err", 3, 3, DIGEST, 7)
WHOLE = b"\0"

FILE = b"""name = "build"
max_parallel = 8
[defaults]
timeout = "10m"
env = { LANG = "C.UTF-8" }
[steps.source]
run = "tar cf source.tar ."
out = ["source.tar"]
[steps.compile]
needs = ["source"]
where = '"${{ matrix.compiler }}" in capabilities'
cpus = 2
memory = "1GiB"
run = "make CC=${{ matrix.compiler }}"
out = ["out"]
[steps.compile.matrix]
compiler = ["gcc", "clang"]
level = [0, 2]
[steps.test]
needs = ["source", "compile"]
from.source = "src"
command = ["make", "check"]
[steps.clean]
needs = ["test"]
when = "always"
run = "true"
"""


def _frames(*messages: Request | Answer, by: str = "walnut") -> bytes:
    """A frame of all of them, numbered, and whose it is."""
    codec = TaskCodec()
    numbered = [(number, codec.encode(each)) for number, each in enumerate(messages)]
    return frame(bytes([OTHERS.index(by)]) + codec.join(numbered))


def _assigned(worker: str = MACHINE) -> TaskState:
    return states.begin(name(worker), name("walnut"))


def _ended(state: TaskState) -> TaskState:
    ended = states.finish(state, Policy(), state.worker, state.token, End.DONE, 0, "", PRODUCED)
    assert ended is not None
    return ended


def _value(made: TaskRecord) -> bytes:
    return encode_record(made.signed, made.state)


def _workflow() -> tuple[str, bytes, bytes]:
    """A workflow's ID, its plan, and the value of its register."""
    step = Step(name="a", work=Work(command=("x",), outputs=("o",)), matrix={"n": ("1", "2")})
    last = Step(name="b", work=Work(command=("y",)), needs=("a",), sources={"a": "in"})
    workflow = Workflow(steps=(step, last))
    data = encode_plan(workflow)
    submission = WorkflowSubmission(
        workflow=OTHER,
        origin=name("walnut"),
        replicas=(name("walnut"), name(MACHINE)),
        submitter="anna",
        plan=data,
    )
    made = plan(workflow)
    signed = sign_workflow(submission, key("walnut"))
    value = encode_workflow(WorkflowRecord(signed, submission, made, begin(made)))
    return OTHER, data, value


def _questions() -> list[bytes]:
    """What drivers, workers and people ask."""
    ballot, then = Ballot(1, 0), Ballot(2, 0)
    made = record(_assigned(), env={"A": "b"}, inputs=(Input("in", DIGEST, 3),), where="true")
    ended = record(_ended(_assigned()))
    elsewhere = record(_assigned("hazel"))
    workflow, _, value = _workflow()
    accept = Register(TASK, Accept(ballot, _value(made), then))
    done = Register(TASK, Accept(then, _value(ended), Ballot(3, 0)))
    return [
        _frames(accept, Offer(made.signed, 1), Renew(((TASK, 1),)))
        + _frames(Stop(TASK, 1), Find(TASK), by="acacia"),
        _frames(Register(TASK, Prepare(ballot)), accept, Cancel(TASK), done)
        + _frames(Settled(((TASK, then),)), Retry(TASK, 1), Listing("", "", True, 5)),
        _frames(Register(TASK, Accept(ballot, _value(elsewhere), then)))
        + _frames(Renew(((TASK, 1),)), Hold(TASK, (DIGEST,)), by="hazel")
        + _frames(
            Report(TASK, 1, End.DONE, 0, "", PRODUCED), Report(TASK, 1, End.LOST), by="hazel"
        ),
        _frames(Register(workflow, Accept(ballot, value, then)), Find(workflow))
        + _frames(Cancel(workflow), Retry(workflow, 1), Listing(), by="larch"),
        _frames(accept, Register(TASK, Prepare(Ballot(5, 1), close=1)))
        + _frames(Find(TASK), Find(OTHER), Drain(True, "anna"), by="hazel"),
    ]


def _answers() -> list[bytes]:
    """Of replicas, workers, and whoever is asked for a record."""
    other = record(_ended(_assigned("hazel")), 2)
    _, _, value = _workflow()
    zero = Ballot(0, 0)
    return [
        _frames(
            *(Found(_value(other)),) * 2,
            Found(value),
            Told(Accepted(zero)),
            Told(Accepted(zero)),
            Taken(),
            Done(),
        ),
        _frames(
            Told(Conflict(zero, Ballot(3, 1))),
            Told(Promise(Ballot(4, 0), Ballot(3, 1), _value(record(_assigned("hazel"))), 1)),
            Told(NotYet(Ballot(4, 0), 3.0)),
            Refused("it is full", True),
            Failed("the disk is full"),
        ),
        _frames(Granted((True, False)), Listed((_value(other), value), True), Coming(3, 7)),
    ]


def _records() -> list[bytes]:
    _, _, value = _workflow()
    lost = states.lose(_assigned(), Policy(retries=1), 1, "it was not heard of")
    assert lost is not None
    full = record(
        lost,
        name="build",
        env={"A": "b"},
        where="resources.cpus > 2",
        on=name("hazel"),
        gpus=1,
        timeout=5.0,
        inputs=(Input("in", DIGEST, 3),),
        outputs=("*.o",),
    )
    cancelled = TaskState(state=states.State.ENDED, outcome=Outcome.CANCELLED, changed=1e9)
    return [_value(record()), _value(full), _value(record(cancelled)), value]


def task_seeds() -> dict[str, list[bytes]]:
    """All of them."""
    _, data, _ = _workflow()
    files: list[Entry] = [
        Directory(""),
        Directory("d"),
        File("d/f", True, 3, bytes(DIGEST_SIZE)),
        Link("d/l", "../g"),
        File("g", False, (1 << 20) + 1, bytes(2 * DIGEST_SIZE)),
    ]
    one, two = (bytes([number]) * DIGEST_SIZE for number in (1, 2))
    answers = header(Chunk(one, 5)) + b"hello" + missing(two)
    question = msgspec.msgpack.encode((TASK, 1, 0, 0, True))
    parts = b"".join(
        frame(msgspec.msgpack.encode(part)) for part in ((1, b"one"), (2, b"five"), (0, b""))
    )
    return {
        "task_questions": _questions(),
        "task_answers": _answers(),
        "task_records": _records(),
        "output_questions": [cut + frame(question) for cut in (WHOLE, b"\3")],
        "output_parts": [WHOLE + parts, b"\3" + parts, WHOLE + frame(b"\x92\x03\xc4\x01x")],
        "manifests": [encode(files)[0], encode([File("", False, 0, b"")])[0]],
        "chunk_questions": [cut + get([one, two]) + get([one]) for cut in (WHOLE, b"\7")],
        "chunk_answers": [b"\1\2\3" + cut + answers for cut in (WHOLE, b"\7")],
        "requirements": [
            b'resources.memory >= gib(8) && "docker" in capabilities',
            b"resources.gpus.exists(g, g.memory >= gib(16)) || os.startsWith('Deb')",
            b'has(labels.rack) && labels["rack"] == "a3" && !(arch in ["arm64"])',
        ],
        "workflow_files": [FILE, b"[steps.a]\nrun = 1\nneeds = ['b', 'a']\nx = 1e999\n"],
        "workflow_plans": [data],
    }
