"""What members say of files, and what they want run: manifests, chunks, requirements, workflows."""

from __future__ import annotations

import posixpath

from bzzz.errors import RemoteProtocolError
from bzzz.mesh.capability import CapabilityDocument, Gpu, Resources
from bzzz.tasks.files.chunk_messages import MAX_ASKED, AnswerReader, Requests
from bzzz.tasks.files.manifest import (
    CHUNK,
    DIGEST_SIZE,
    Link,
    Manifest,
    decode,
    encode,
    read_root,
)
from bzzz.tasks.requirements import Facts, RequirementError, compile, evaluate, explain
from bzzz.tasks.workflows.file import WorkflowFileError, parse
from bzzz.tasks.workflows.plan import Plan, read_workflow
from bzzz.tasks.workflows.plan import encode as encode_workflow
from bzzz.tasks.workflows.progress import begin
from bzzz.tasks.workflows.progress import decode as decode_progress
from bzzz.tasks.workflows.progress import encode as encode_progress
from tests.fuzz.registry import pieces, target, told

__all__ = ["FACTS"]

FACTS = Facts(
    CapabilityDocument(
        node_id="n",
        name="walnut",
        os="Debian",
        arch="x86_64",
        capabilities=("docker", "gcc"),
        models=("llama",),
        labels={"rack": "a3"},
        resources=Resources(
            cpu_cores=8,
            memory_bytes=16 << 30,
            gpus=(Gpu(name="RTX", vendor="nvidia", memory_bytes=24 << 30),),
        ),
    )
)


@target
def manifests(data: bytes) -> None:
    """A manifest's first chunk, or all of it; nothing in it leads out of its directory."""
    for read in (read_root, lambda data: decode([data])):
        try:
            manifest = read(data)
        except RemoteProtocolError as error:
            told(error)
            continue
        if isinstance(manifest, Manifest):
            assert encode(manifest.entries) == [data]
            assert sum(chunk.size for chunk in manifest.chunks()) == manifest.size
            for entry in manifest.entries:
                path = posixpath.join("/root", entry.path)
                assert posixpath.normpath(path) == path.rstrip("/")
                if isinstance(entry, Link):
                    leads = posixpath.join(posixpath.dirname(path), entry.target)
                    assert posixpath.normpath(leads).startswith("/root")


@target
def chunk_questions(data: bytes) -> None:
    """A member asks for chunks."""
    requests = Requests()
    try:
        for piece in pieces(data):
            requests.receive(piece)
            assert len(requests.waiting) <= MAX_ASKED
    except RemoteProtocolError as error:
        told(error)
    assert all(len(digest) == DIGEST_SIZE for digest in requests.waiting)


@target
def chunk_answers(data: bytes) -> None:
    """A member sends those that were asked for: the digests that the first bytes make."""
    reader = AnswerReader()
    asked = [bytes([number]) * DIGEST_SIZE for number in data[:3]]
    for digest in asked:
        reader.expect(digest)
    got: list[bytes] = []
    try:
        for piece in pieces(data[3:]):
            for digest, chunk in reader.receive(piece):
                got.append(digest)
                assert chunk is None or 0 < sum(map(len, chunk)) <= CHUNK
        assert reader.expected == len(asked) - len(got)
    except RemoteProtocolError as error:
        told(error)
    assert got == asked[: len(got)]


@target
def requirements(data: bytes) -> None:
    """An expression; one that can be asked of a machine has an answer, and a reason if it is no."""
    try:
        requirement = compile(data.decode("utf-8", "replace"))
    except RequirementError as error:
        told(error)
        return
    if not evaluate(requirement, FACTS):
        assert all(reason.isprintable() for reason in explain(requirement, FACTS))


def _check(plan: Plan) -> None:
    progress = begin(plan)
    assert decode_progress(plan, encode_progress(progress)) == progress


@target
def workflow_files(data: bytes) -> None:
    """A file; one that has no mistake is a workflow that a peer may send."""
    try:
        workflow = parse(data, "w.toml")
    except WorkflowFileError as error:
        assert error.problems
        lines = data.count(b"\n") + 1
        assert all(1 <= problem.line <= lines for problem in error.problems), str(error)
        return
    plan = read_workflow(encode_workflow(workflow))
    assert plan.workflow == workflow
    _check(plan)


@target
def workflow_plans(data: bytes) -> None:
    """A workflow as a peer sends it."""
    try:
        plan = read_workflow(data)
    except RemoteProtocolError as error:
        told(error)
        return
    _check(plan)
