"""Submissions: the one form that they have, who signed them, and what is refused of them."""

from __future__ import annotations

import base64
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from bzzz.errors import RemoteProtocolError
from bzzz.events import rfc3339
from bzzz.tasks.submission import (
    MAX_SUBMISSION,
    MAX_TIME,
    TASK,
    Input,
    SignedSubmission,
    Submission,
    SubmissionError,
    is_id,
    new_task_id,
    read,
    sign,
    submitted_at,
    verify,
)
from tests.tasks.fakes import key, name, peer, submission, task_id

DIGEST = "0123456789abcdef" * 4


def encoded(**fields: Any) -> bytes:
    """What a peer may send that has these fields, whatever they are: in the order of the class."""
    raw = {**msgspec.msgpack.decode(sign(submission(), key("walnut")).data), **fields}
    order = [*Submission.__struct_fields__, *fields]
    raw = {field: raw[field] for field in order if field in raw}
    pairs = b"".join(msgspec.msgpack.encode(each) for pair in raw.items() for each in pair)
    # The head of a map of up to 65535, which is what structs have.
    return b"\xde" + len(raw).to_bytes(2, "big") + pairs


def alias(machine: str) -> str:
    """The other text of a peer ID, a CIDv1."""
    data = base64.b32encode(b"\x01\x72" + peer(machine).bytes).decode().lower().rstrip("=")
    return f"b{data}"


class TaskIDTests(SynchronousTestCase):
    """IDs of tasks."""

    def test_time(self) -> None:
        """They say when they were made, and sort by that."""
        early, late = new_task_id(1_700_000_000_123, b"\xff" * 10), new_task_id(2**47, bytes(10))
        self.assertAlmostEqual(submitted_at(early), 1_700_000_000.123)
        self.assertLess(early, late)
        self.assertLess(new_task_id(5, bytes(10)), new_task_id(5, b"\x01" * 10))

    @given(st.integers(0, 2**48 - 1), st.binary(min_size=10, max_size=10))
    def test_form(self, milliseconds: int, random: bytes) -> None:
        """Each is one that is taken for an ID."""
        made = new_task_id(milliseconds, random)
        self.assertIsNotNone(TASK.fullmatch(made))
        self.assertEqual(round(submitted_at(made) * 1000), milliseconds)

    def test_not_random_enough(self) -> None:
        """Fewer bytes are a mistake of ours."""
        self.assertRaises(ValueError, new_task_id, 1, b"short")


class SignedTests(SynchronousTestCase):
    """What is signed, and read again."""

    def test_round(self) -> None:
        """All fields come back as they were."""
        wanted = submission(
            command=("sh", "-c", "echo $A", ""),
            name="build",
            submitter="ann",
            env={"B": "2", "A": "1"},
            where='os == "linux"',
            on=name("hazel"),
            cpus=0.5,
            memory=1 << 30,
            gpus=2,
            timeout=60.0,
            retries=3,
            restart=False,
            priority=-7,
            lease=1.5,
            profile="no-network",
            inputs=(Input("src/a", DIGEST, 12),),
            outputs=("out/*.o",),
            workflow=task_id(7),
            step="link",
        )
        self.assertEqual(verify(sign(wanted, key("walnut"))), wanted)

    def test_one_form(self) -> None:
        """The order in which variables were given makes no difference."""
        one = sign(submission(env={"A": "1", "B": "2"}), key("walnut"))
        other = sign(submission(env={"B": "2", "A": "1"}), key("walnut"))
        self.assertEqual(one, other)

    def test_each_byte(self) -> None:
        """No byte may be another one, of the submission or of its signature."""
        signed = sign(submission(), key("walnut"))
        for place in range(len(signed.data)):
            data = bytearray(signed.data)
            data[place] ^= 1
            self.assertRaises(
                RemoteProtocolError, verify, SignedSubmission(bytes(data), signed.signature)
            )
        for place in range(64):
            signature = bytearray(signed.signature)
            signature[place] ^= 1
            self.assertRaises(
                RemoteProtocolError, verify, SignedSubmission(signed.data, bytes(signature))
            )

    def test_by_another(self) -> None:
        """Nobody signs in another's name, nor with less than a signature."""
        signed = sign(submission(), key("acacia"))
        self.assertRaises(RemoteProtocolError, verify, signed)
        for signature in (b"", signed.signature[:-1]):
            error = self.assertRaises(
                RemoteProtocolError, verify, SignedSubmission(signed.data, signature)
            )
            self.assertEqual(error.code, "submission_signature")

    def test_for_something_else(self) -> None:
        """A signature of the same bytes for another use is none."""
        data = sign(submission(), key("walnut")).data
        for prefix in (b"", b"bzzz-workflow-v1:"):
            signature = key("walnut").sign(prefix + data)
            self.assertRaises(RemoteProtocolError, verify, SignedSubmission(data, signature))

    def test_origin_without_key(self) -> None:
        """An origin whose peer ID has no key in it can have signed nothing."""
        hashed = "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N"
        data = encoded(origin=hashed, replicas=[hashed])
        self.assertRaises(RemoteProtocolError, verify, SignedSubmission(data, bytes(64)))


class RefusedTests(SynchronousTestCase):
    """What no member takes, whoever signed it."""

    def refused(self, code: str, **fields: Any) -> None:
        error = self.assertRaises(RemoteProtocolError, read, encoded(**fields))
        self.assertEqual(error.code, code, fields)

    def test_as_it_is(self) -> None:
        """What the others differ from is taken."""
        self.assertEqual(encoded(), sign(submission(), key("walnut")).data)
        read(encoded(gpus=2, cpus=2.0, env={"A": "1"}, outputs=["out"], on=name("hazel")))

    def test_task(self) -> None:
        """An ID that is none."""
        known = task_id()
        for task in ("", known[:-1], known + "0", "8" + known[1:], "I" * 26, known + "\n"):
            self.refused("submission_task", task=task)

    def test_replicas(self) -> None:
        """Replicas without the origin, one that is there twice, none, or too many."""
        walnut, ironwood = name("walnut"), name("ironwood")
        self.refused("submission_replicas", replicas=[ironwood])
        self.refused("submission_replicas", replicas=[walnut, ironwood, ironwood])
        self.refused("submission_unreadable", replicas=[])
        self.refused(
            "submission_unreadable",
            replicas=[name(each) for each in ("walnut", "ironwood", "acacia", "hazel")],
        )

    def test_no_peers(self) -> None:
        """Replicas, an origin, or a worker, that are no peers."""
        self.refused("submission_peer", replicas=[name("walnut"), "nobody"])
        self.refused("submission_peer", origin="nobody", replicas=["nobody"])
        self.refused("submission_peer", on="nobody")

    def test_one_name(self) -> None:
        """One peer under two names would be a majority by itself."""
        self.refused("submission_peer", replicas=[name("walnut"), alias("walnut")])
        self.refused("submission_peer", origin=alias("walnut"), replicas=[alias("walnut")])

    def test_words(self) -> None:
        """Words that no command can be given."""
        self.refused("submission_command", command=["sh", "a\0b"])
        self.refused("submission_command", env={"A": "a\0b"})
        self.refused("submission_unreadable", command=[])
        self.refused("submission_unreadable", command=["x"] * 5000)
        for wrong in ("", "1A", "A-B", "A=B", "Ä", "A\n"):
            self.refused("submission_env", env={wrong: "1"})

    def test_paths(self) -> None:
        """Paths that lead out of the working directory."""
        for wrong in ("", "/etc/passwd", "..", "a/../../b", "../a", "a/..", "a\0b"):
            self.refused("submission_path", outputs=[wrong])
            self.refused("submission_path", inputs=[[wrong, DIGEST, 1]])

    def test_numbers(self) -> None:
        """Numbers that are none, or out of bounds."""
        nan, inf = float("nan"), float("inf")
        for field, values in {
            "cpus": (-1.0, nan, inf, 1e9),
            "memory": (-1, 1 << 60),
            "gpus": (-1, 65),
            "timeout": (-1.0, nan, inf, 1e10),
            "retries": (-1, 1001),
            "priority": (-1001, 1001),
            "lease": (0.0, 0.4, 601.0, nan, inf),
        }.items():
            for value in values:
                self.refused("submission_unreadable", **{field: value})

    def test_other_forms(self) -> None:
        """What says the same in other bytes: a default, an integer for a float, another order."""
        self.refused("submission_not_canonical", gpus=0)
        self.refused("submission_not_canonical", cpus=2)
        self.refused("submission_not_canonical", env={"B": "1", "A": "1"})
        whole = encoded()
        fields = msgspec.msgpack.decode(whole)
        pairs = [b"".join(map(msgspec.msgpack.encode, pair)) for pair in fields.items()]
        for other in (
            whole[:3] + b"".join(reversed(pairs)),
            b"\x84" + whole[3:],
            b"\xdf\x00\x00" + whole[1:],
        ):
            self.assertEqual(msgspec.msgpack.decode(other), fields)
            error = self.assertRaises(RemoteProtocolError, read, other)
            self.assertEqual(error.code, "submission_not_canonical")

    def test_garbage(self) -> None:
        """Unknown fields, other types, bytes that are nothing."""
        self.refused("submission_unreadable", shell=True)
        self.refused("submission_unreadable", command="make")
        for data in (b"", b"\xc1", b"\x80", b"\x91" * 5000, encoded() + b"\x00"):
            self.assertRaises(RemoteProtocolError, read, data)
        error = self.assertRaises(RemoteProtocolError, read, bytes(MAX_SUBMISSION + 1))
        self.assertEqual(error.code, "submission_length")

    def test_time_that_cannot_be_told(self) -> None:
        """An ID of after the year 9999 is none: no listing that has it could be shown."""
        for milliseconds, good in ((MAX_TIME * 1000, True), (MAX_TIME * 1000 + 1000, False)):
            task = new_task_id(milliseconds, bytes(10))
            self.assertEqual(is_id(task), good)
            wanted = msgspec.structs.replace(submission(), task=task)
            if good:
                sign(wanted, key("walnut"))
                rfc3339(submitted_at(task))
            else:
                self.assertRaises(SubmissionError, sign, wanted, key("walnut"))

    @given(st.binary(max_size=200))
    def test_any_bytes(self, data: bytes) -> None:
        """Whatever comes, it is an error that is meant: nobody makes a submission by chance."""
        self.assertRaises(RemoteProtocolError, read, data)

    def test_told_to_people(self) -> None:
        """Who submits is told what is wrong before anything is signed."""
        for fields, words in (
            ({"command": ("sh", "\0")}, "zero byte"),
            ({"lease": 0.1}, "lease"),
            ({"outputs": ("../x",)}, "not below the working directory"),
            ({"env": {"A": "x" * MAX_SUBMISSION}}, "--in"),
            ({"env": {"A B": "x"}}, "no name of a variable"),
        ):
            error = self.assertRaises(SubmissionError, sign, submission(**fields), key("walnut"))
            self.assertIn(words, str(error))

    def test_longest(self) -> None:
        """The longest that is signed is read."""
        over = len(sign(submission(env={"A": "x" * 70_000}), key("walnut")).data) - 70_000
        signed = sign(submission(env={"A": "x" * (MAX_SUBMISSION - over)}), key("walnut"))
        self.assertEqual(len(signed.data), MAX_SUBMISSION)
        verify(signed)
