"""Plans: of a workflow that a peer wrote, only what a file could have said is taken."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from bzzz.errors import RemoteProtocolError
from bzzz.tasks.workflows.plan import (
    MAX_WORKFLOW,
    Source,
    Step,
    Workflow,
    WorkflowError,
    encode,
    plan,
    read_workflow,
)
from bzzz.tasks.workflows.values import Work

WORK = Work(command=("x",), outputs=("o",))


class PlanTests(SynchronousTestCase):
    """Instances and what they get."""

    def test_sources(self) -> None:
        """Files are where they were, or in a directory, one for each instance of a matrix."""
        made = plan(
            Workflow(
                steps=(
                    Step(name="a", work=WORK),
                    Step(name="b", work=WORK, matrix={"n": ("1", "2")}),
                    Step(name="none", work=Work(command=("x",))),
                    Step(
                        name="c",
                        work=WORK,
                        needs=("none", "b", "a"),
                        sources={"a": "x", "b": "y"},
                    ),
                    Step(name="d", work=WORK, needs=("b", "a"), sources={"b": None}),
                )
            )
        )
        self.assertEqual(
            made.instances[4].sources, (Source(0, "x"), Source(1, "y/1"), Source(2, "y/2"))
        )
        self.assertEqual(made.instances[5].sources, (Source(0, "."),))
        self.assertEqual(made.ranges, ((0, 1), (1, 3), (3, 4), (4, 5), (5, 6)))
        self.assertEqual(made.needs, ((), (), (), (0, 1, 2), (0, 1)))

    def test_refused(self) -> None:
        """Whatever a file's reader sees to, a peer's workflow is refused for too."""
        first = Step(name="a", work=WORK)
        for wrong in (
            {"needs": ("b",)},
            {"needs": ("c",)},
            {"name": "a"},
            {"name": "../x"},
            {"when": "never"},
            {"sources": {"a": "x"}},
            {"needs": ("a",), "sources": {"a": "../x"}},
            {"needs": ("a",), "sources": {"a": "/x"}},
            {"needs": ("a",), "sources": {"a": "x//y"}},
            {"matrix": {"n": ()}},
            {"matrix": {"n ": ("1",)}},
            {"matrix": {"n": ("1\n",)}},
            {"matrix": {"n": ("x" * 65,)}},
            {"matrix": {"n": ("x",) * 1000}},
            {"varying": {"run": "${{ matrix.n }}"}},
            {"varying": {"run": "${{ other }}"}},
            {"varying": {"what": "x"}},
            {"varying": {"in": ["/etc"]}},
            {"varying": {"cpus": [1]}},
            {"work": Work()},
            {"work": Work(command=("",))},
            {"work": Work(command=("x\0",))},
            {"work": Work(command=("x",), cpus=-1.0)},
            {"work": Work(command=("x",), timeout=float("nan"))},
            {"work": Work(command=("x",), env={"BZZZ_FENCING_TOKEN": "1"})},
            {"work": Work(command=("x",), inputs=("../x",))},
            {"work": Work(command=("x" * (90 << 10), "y" * (5 << 10)), outputs=("a" * 4097,))},
        ):
            step = Step(**{"name": "b", "work": WORK, **wrong})  # type: ignore[arg-type]  # wrong on purpose
            workflow = Workflow(steps=(first, step))
            with self.assertRaises(WorkflowError, msg=str(wrong)):
                plan(workflow)
            with self.assertRaises(RemoteProtocolError):
                read_workflow(msgspec.msgpack.encode(workflow))

    def test_expansion(self) -> None:
        """A few bytes do not become more than a node can hold."""
        step = Step(
            name="a",
            work=WORK,
            varying={"run": "x" * 20000 + "${{ matrix.n }}"},
            matrix={"n": tuple(map(str, range(1000)))},
        )
        with self.assertRaisesRegex(WorkflowError, "bytes together"):
            plan(Workflow(steps=(step,)))
        step = msgspec.structs.replace(step, varying={"run": "${{ matrix.n }}" * 51})
        with self.assertRaisesRegex(WorkflowError, "51 references for each of 1000"):
            plan(Workflow(steps=(step,)))

    def test_length(self) -> None:
        """A workflow that is too long is neither written nor read."""
        long = Workflow(steps=(Step(name="a", work=Work(command=("x" * MAX_WORKFLOW,))),))
        with self.assertRaises(WorkflowError):
            encode(long)
        with self.assertRaises(RemoteProtocolError):
            read_workflow(msgspec.msgpack.encode(long))

    @given(st.binary(max_size=100))
    def test_garbage(self, data: bytes) -> None:
        """Whatever comes is a workflow or a protocol error."""
        self.told(data)

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers(-1, 2000) | st.floats() | st.text(max_size=8),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.sampled_from(["run", "env", "cpus", "n", "a"]), inner)
            ),
            max_leaves=8,
        )
    )
    def test_types(self, value: Any) -> None:
        """Values of other types, where any may be, are told as such."""
        step = {"name": "a", "work": {"command": ["x"]}, "matrix": {"n": ["1"]}}
        for varying in (value, {"run": value}, {"env": value}, {"in": value}, {"cpus": value}):
            whole = {"steps": [{**step, "varying": varying}]}
            self.told(msgspec.msgpack.encode(whole))

    def told(self, data: bytes) -> None:
        try:
            read_workflow(data)
        except RemoteProtocolError as error:
            self.assertTrue(error.code.startswith("workflow"))
