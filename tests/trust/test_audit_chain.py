"""Lines of the audit log, and what a check of them finds: each tampering, with its line."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Sequence
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from twisted.trial.unittest import SynchronousTestCase

from bzzz.identity.keys import PrivateKey
from bzzz.identity.peer_id import PeerID
from bzzz.trust.audit_chain import (
    MAX_LINE,
    ZEROS,
    BadCheckpoint,
    Chain,
    Checkpoint,
    DamagedLine,
    Kept,
    hash_line,
    open_line,
    read_line,
    rfc3339,
)
from bzzz.trust.audit_events import EVENTS, MAX_ITEMS, MAX_TEXT, clean
from bzzz.trust.audit_report import Problem, Report, Vouched
from bzzz.trust.audit_verify import MAX_PROBLEMS, verify

OURS, WALNUT, ACACIA, MALLORY = (PrivateKey(letter * 32) for letter in (b"o", b"w", b"a", b"m"))
START = 1_795_482_123.0


def written(count: int, key: PrivateKey = OURS, what: str = "link_member") -> list[bytes]:
    """A log of so many lines."""
    chain = Chain(key)
    return [
        chain.append(what, {"peer_id": str(number), "state": "up"}, START + number)
        for number in range(1, count + 1)
    ]


def checkpoint(line: bytes, key: PrivateKey = OURS) -> Checkpoint:
    """A checkpoint of a line of a log."""
    raw = line[:-1]
    seq = read_line(raw).seq
    made = Chain(key, seq, hash_line(raw)).checkpoint(START + seq)
    assert made is not None
    return made


def kept(line: bytes, name: str = "walnut", by: PrivateKey = WALNUT) -> Kept:
    """The same, kept by somebody."""
    return Kept(checkpoint(line), "ours", str(by.peer_id), name, rfc3339(START))


def check(lines: Sequence[bytes], *checkpoints: Kept) -> Report:
    """The report on one file."""
    return verify([("audit.log", lines)], checkpoints, str(OURS.peer_id))


def split(content: bytes) -> list[bytes]:
    """Lines as a file has them."""
    parts = content.split(b"\n")
    return [part + b"\n" for part in parts[:-1]] + ([parts[-1]] if parts[-1] else [])


def flipped(line: bytes, at: int, bit: int) -> bytes:
    """A line with one bit changed."""
    return line[:at] + bytes([line[at] ^ (1 << bit)]) + line[at + 1 :]


class LineTests(SynchronousTestCase):
    """What a line is."""

    def test_form(self) -> None:
        """A line is JSON with its fields in order, chained by a hash and signed with a prefix."""
        first, second = written(2)
        document = json.loads(second)
        self.assertEqual(list(document), ["seq", "time", "event", "fields", "prev", "key", "sig"])
        self.assertEqual((document["seq"], document["key"]), (2, str(OURS.peer_id)))
        self.assertEqual(document["time"], "2026-11-24T01:02:05.000Z")
        self.assertEqual(document["prev"], hash_line(first[:-1]))
        self.assertEqual(json.loads(first)["prev"], ZEROS)
        self.assertEqual(open_line(second[:-1]).fields, {"peer_id": "2", "state": "up"})

    def test_signature(self) -> None:
        """The signature is of the prefix and the line without it; without the prefix it is none."""
        line = written(1)[0][:-1]
        document = json.loads(line)
        sig = base64.b64decode(document.pop("sig"))
        unsigned = json.dumps(document, separators=(",", ":")).encode()
        self.assertTrue(OURS.public.verify(b"bzzz-audit-v1:" + unsigned, sig))
        self.assertFalse(OURS.public.verify(unsigned, sig))

    def test_other_forms(self) -> None:
        """What says the same in other bytes is not what the node wrote."""
        line = written(1)[0][:-1]
        document = json.loads(line)
        for other in (
            json.dumps(document).encode(),
            line + b" ",
            line + b"\r",
            line.replace(b'"up"', b'"\\u0075p"'),
            line.replace(b'"seq":1', b'"seq":1.0'),
            line.replace(b'"seq":1', b'"seq":1,"seq":1'),
            line[:-4] + b"x" + line[-3:],
        ):
            self.assertNotEqual(other, line)
            with self.assertRaises(DamagedLine):
                open_line(other)

    def test_signed_in_another_form(self) -> None:
        """Not even the node's own signature makes another form a line, nor another name of its
        key."""
        document = json.loads(written(1)[0])
        del document["sig"]
        cid = b"\x01\x72" + OURS.peer_id.bytes
        key = "b" + base64.b32encode(cid).decode().lower().rstrip("=")
        self.assertEqual(PeerID.parse(key), OURS.peer_id)
        for changed, separators, good in (
            (document, (",", ":"), True),
            (document, (", ", ":"), False),
            ({**document, "key": key}, (",", ":"), False),
            ({"more": 1, **document}, (",", ":"), False),
        ):
            unsigned = json.dumps(changed, separators=separators).encode()
            sig = base64.b64encode(OURS.sign(b"bzzz-audit-v1:" + unsigned))
            line = unsigned[:-1] + b',"sig":"' + sig + b'"}'
            if good:
                open_line(line)
                continue
            with self.assertRaises(DamagedLine):
                open_line(line)

    def test_no_secrets_by_accident(self) -> None:
        """No event has a field whose name is that of a secret."""
        for name, kind in EVENTS.items():
            for field in kind.fields:
                for secret in ("code", "token", "password", "secret", "private", "seed", "word"):
                    self.assertNotIn(secret, field, name)
            self.assertLessEqual(set(kind.summed_by or ()), set(kind.fields))
            self.assertFalse({"count", "sig", "key"} & set(kind.fields))

    def test_longest(self) -> None:
        """Whatever fields say, a line is not longer than one that is read."""
        evil = "\U000e0001" * 1000
        for name, kind in EVENTS.items():
            lists = [field for field in kind.fields if field == "keys"]
            fields: dict[str, object] = dict.fromkeys(kind.fields, evil)
            fields |= dict.fromkeys(lists, [evil] * 1000)
            line = Chain(OURS).append(name, clean(name, fields), START)
            self.assertLess(len(line), MAX_LINE)
            open_line(line[:-1])

    @given(
        st.text()
        | st.integers()
        | st.floats()
        | st.lists(st.text())
        | st.binary()
        | st.none()
        | st.characters(categories=["Cs", "Cc", "Cf"])
    )
    def test_any_value(self, value: object) -> None:
        """Any value becomes one that can be written, read again and shown."""
        cleaned = clean("revoked", {"reason": value})
        line = Chain(OURS).append("revoked", cleaned, START)
        self.assertEqual(open_line(line[:-1]).fields, cleaned)
        reason = cleaned["reason"]
        for text in reason if isinstance(reason, list) else [reason]:
            if isinstance(text, str):
                self.assertTrue(text.isprintable())
                self.assertLessEqual(len(text), 10 * (MAX_TEXT + 1))
        self.assertLessEqual(len(reason) if isinstance(reason, list) else 0, MAX_ITEMS + 1)


class CheckpointTests(SynchronousTestCase):
    """Checkpoints."""

    def test_signed(self) -> None:
        """A checkpoint is its node's alone; none of its fields can be changed."""
        made = checkpoint(written(3)[2])
        made.check()
        self.assertEqual((made.seq, made.node), (3, str(OURS.peer_id)))
        for changed in (
            replace(made, seq=4),
            replace(made, hash="0" * 64),
            replace(made, time=rfc3339(START)),
            replace(made, node=str(WALNUT.peer_id)),
            replace(made, node="12D3Koo"),
            replace(made, sig=made.sig[:-3] + chr(ord(made.sig[-3]) + 1) + "=="),
            replace(made, sig="!" * 88),
        ):
            with self.assertRaises(BadCheckpoint):
                changed.check()

    def test_no_line(self) -> None:
        """Of a log without lines there is none."""
        self.assertIsNone(Chain(OURS).checkpoint(START))

    def test_signatures_are_apart(self) -> None:
        """A line's signature is never one of a checkpoint, nor the other way."""
        line = written(1)[0][:-1]
        made = checkpoint(written(1)[0])
        with self.assertRaises(BadCheckpoint):
            replace(made, sig=read_line(line).sig).check()


class TamperCase(SynchronousTestCase):
    """Asserts what a report says."""

    def only(self, report: Report) -> Problem:
        self.assertEqual(len(report.problems), 1, report.problems)
        return report.problems[0]

    def assert_found(self, report: Report, *places: tuple[int, str]) -> None:
        self.assertFalse(report.whole)
        self.assertEqual([(each.line, each.kind) for each in report.problems], list(places))


class TamperTests(TamperCase):
    """What was done to a file."""

    def test_whole(self) -> None:
        """What the node wrote is whole."""
        report = check(written(10))
        self.assertTrue(report.whole, report.problems)
        self.assertEqual((report.lines, report.first_seq, report.last_seq), (10, 1, 10))
        self.assertEqual(report.last_time, rfc3339(START + 10))
        self.assertEqual((report.keys, report.notes), ([str(OURS.peer_id)], []))

    @given(st.integers(1, 4), st.data())
    def test_flipped_bit(self, number: int, data: st.DataObject) -> None:
        """Any bit of any line that is flipped is found, in that line."""
        lines = written(4)
        line = lines[number - 1]
        at = data.draw(st.integers(0, len(line) - 1))
        lines[number - 1] = flipped(line, at, data.draw(st.integers(0, 7)))
        report = check(split(b"".join(lines)))
        self.assertFalse(report.whole)
        self.assertEqual(report.problems[0].line, number)

    def test_every_bit(self) -> None:
        """The same for all bits of a line in between and of the last one, newlines included."""
        first, second, third = written(3)
        for number, line in ((2, second), (3, third)):
            for at in range(len(line)):
                for bit in range(8):
                    changed = flipped(line, at, bit)
                    content = first + (changed + third if number == 2 else second + changed)
                    report = check(split(content))
                    self.assertFalse(report.whole, (number, at, bit))
                    self.assertEqual(report.problems[0].line, number, (number, at, bit))
                    if changed.find(b"\n") == len(line) - 1:
                        self.assertEqual(len(report.problems), 1, report.problems)

    def test_white_space(self) -> None:
        """White space that is put into or behind a line, and empty lines, are found."""
        lines = written(3)
        self.assert_found(check([lines[0], lines[1][:-1] + b" \n", lines[2]]), (2, "altered"))
        self.assert_found(check([lines[0], lines[1][:-1] + b"\r\n", lines[2]]), (2, "altered"))
        self.assert_found(check([lines[0], b" " + lines[1], lines[2]]), (2, "altered"))
        self.assert_found(check([lines[0], b"\n", *lines[1:]]), (2, "unreadable"))
        self.assert_found(check([*lines, b"\n"]), (4, "unreadable"))

    def test_removed(self) -> None:
        """A line that was removed is named, where it is missing."""
        lines = written(6)
        for number in range(2, 6):
            report = check(lines[: number - 1] + lines[number:])
            self.assert_found(report, (number, "missing"))
            self.assertIn(f"line {number} is missing", report.problems[0].message)
        report = check(lines[:2] + lines[4:])
        self.assert_found(report, (3, "missing"))
        self.assertIn("lines 3 to 4 are missing", report.problems[0].message)

    def test_removed_beginning(self) -> None:
        """Lines at the beginning are missed."""
        report = check(written(6)[2:])
        self.assert_found(report, (1, "missing"))
        self.assertIn("lines 1 to 2 are missing", report.problems[0].message)
        self.assertIn("lines before number 3", " ".join(report.unknown))

    def test_inserted(self) -> None:
        """A line that was put in is found, be it a copy or signed with another key."""
        lines = written(5)
        self.assert_found(check([*lines[:3], lines[1], *lines[3:]]), (4, "out_of_place"))
        foreign = Chain(MALLORY, 3, hash_line(lines[2][:-1])).append("left", {}, START)
        self.assert_found(check([*lines[:3], written(4, MALLORY)[3], *lines[3:]]), (4, "wrong_key"))
        # One that even fits is followed by the real one, which then has no place.
        report = check([*lines[:3], foreign, *lines[3:]])
        self.assertEqual(report.problems[0].line, 4)
        self.assertEqual(report.problems[0].kind, "wrong_key")

    def test_inserted_with_the_own_key(self) -> None:
        """A line that is put in and signed with the node's key leaves no place for the real one."""
        lines = written(5)
        forged = Chain(OURS, 3, hash_line(lines[2][:-1])).append("left", {}, START)
        report = check([*lines[:3], forged, *lines[3:]])
        self.assert_found(report, (5, "out_of_place"), (6, "broken"))

    def test_swapped(self) -> None:
        """Two lines that changed places are found at the first of them."""
        lines = written(6)
        lines[2], lines[3] = lines[3], lines[2]
        self.assert_found(check(lines), (3, "missing"), (4, "out_of_place"))

    def test_exchanged_with_the_own_key(self) -> None:
        """A line that was exchanged for another, well signed, does not fit the one behind it."""
        lines = written(5)
        lines[2] = Chain(OURS, 2, hash_line(lines[1][:-1])).append("left", {}, START)
        self.assert_found(check(lines), (4, "broken"))

    def test_several(self) -> None:
        """Everything that is wrong is told, not the first of it alone."""
        lines = written(10)
        lines[1] = lines[1].replace(b'"up"', b'"UP"')
        lines[6] = b"rubbish\n"
        del lines[8]
        self.assert_found(check(lines), (2, "altered"), (7, "unreadable"), (9, "missing"))
        # Rubbish in the place of one line is that line; in the place of two, one more is missing.
        lines = written(6)
        self.assert_found(
            check([*lines[:2], b"x\n", *lines[4:]]), (3, "unreadable"), (4, "missing")
        )

    def test_another_file(self) -> None:
        """A file that is something else has as many problems as fit, and a count of the rest."""
        report = check([b"x\n"] * (MAX_PROBLEMS + 5))
        self.assertEqual((len(report.problems), report.more_problems), (MAX_PROBLEMS, 5))

    def test_empty(self) -> None:
        """A log without any line is none."""
        self.assertEqual(self.only(check([])).kind, "empty")

    def test_forged_first(self) -> None:
        """A first line that speaks of one before it is told."""
        forged = Chain(OURS, 0, "1" * 64).append("started", {}, START)
        self.assert_found(check([forged]), (1, "broken"))

    @given(st.lists(st.sampled_from([*written(5), *written(5, MALLORY), b"x\n", b"y"])))
    def test_any_mixture(self, lines: list[bytes]) -> None:
        """Of any lines only an unbroken beginning of the log is whole."""
        whole = written(5)
        rest = lines[-1] if lines and not lines[-1].endswith(b"\n") else b""
        report = check(lines)
        self.assertEqual(report.whole, bool(lines) and not rest and lines == whole[: len(lines)])


class CutTests(TamperCase):
    """The end of a log."""

    def test_cut_off_in_writing(self) -> None:
        """Half a last line, as a crash leaves it, is a note and no problem, wherever it ends."""
        *lines, last = written(4)
        for length in range(1, len(last)):
            report = check([*lines, last[:length]])
            self.assertTrue(report.whole, (length, report.problems))
            self.assertIn("audit.log:4: the line was cut off in writing", report.notes[0])

    def test_zeros(self) -> None:
        """So are zeros, which a power failure leaves."""
        *lines, last = written(4)
        self.assertTrue(check([*lines, last[:20] + bytes(100)]).whole)
        self.assertTrue(check([*lines, bytes(100)]).whole)

    def test_not_by_a_crash(self) -> None:
        """What is no beginning of the next line was not left by a crash."""
        *lines, last = written(4)
        follower = Chain(OURS, 4, hash_line(last[:-1])).append("left", {}, START)
        for rest in (
            b"x",
            last[:-1] + b"\x0b",
            last[:-1] + b"  ",
            lines[2][:100],
            follower[:100],
            last.replace(b'"up"', b'"UP"')[:-1],
            written(4, OURS, "left")[3][:-1],
        ):
            self.assert_found(check([*lines, rest]), (4, "cut_off"))

    def test_in_an_older_file(self) -> None:
        """A file that another one follows does not end in the middle of a line."""
        lines = written(6)
        report = verify([("audit.log.1", [*lines[:2], lines[2][:50]]), ("audit.log", lines[3:])])
        self.assertEqual(
            [(each.file, each.line, each.kind) for each in report.problems],
            [("audit.log.1", 3, "cut_off")],
        )

    def test_truncated(self) -> None:
        """A tail that was cut off disagrees with the checkpoints of others."""
        lines = written(8)
        report = check(lines[:5], kept(lines[3]), kept(lines[6]))
        self.assert_found(report, (5, "cut_short"))
        message = report.problems[0].message
        self.assertIn("ends here with line 5", message)
        self.assertIn(f"walnut ({WALNUT.peer_id.short}) keeps a checkpoint of line 7", message)
        self.assertIn("lines 6 to 7", message)
        assert report.vouched is not None
        self.assertEqual((report.vouched.seq, report.vouched.line), (4, 4))

    def test_truncated_after_the_last_checkpoint(self) -> None:
        """What came after the last checkpoint can be cut off, and the report says from where."""
        lines = written(8)
        report = check(lines[:5], kept(lines[3]))
        self.assertTrue(report.whole)
        self.assertIn("no other node vouches for lines 5 to 5", report.unknown[0])

    def test_truncated_and_remembered(self) -> None:
        """What the node itself remembers to have written tells of a tail that is gone."""
        lines = written(8)
        files = [("audit.log", lines[:5])]
        report = verify(files, remembered=(8, hash_line(lines[7][:-1])))
        self.assert_found(report, (5, "cut_short"))
        self.assertTrue(verify(files, remembered=(5, hash_line(lines[4][:-1]))).whole)
        self.assertTrue(verify(files, remembered=(3, hash_line(lines[2][:-1]))).whole)
        self.assert_found(verify(files, remembered=(4, "0" * 64)), (4, "exchanged"))


class CheckpointsTests(TamperCase):
    """What others vouch for."""

    def test_vouched(self) -> None:
        """The last line that fits a checkpoint is told, and everybody who keeps it."""
        lines = written(9)
        report = check(
            lines,
            kept(lines[2]),
            kept(lines[5]),
            kept(lines[5], "acacia", ACACIA),
            kept(lines[5], "", MALLORY),
        )
        self.assertTrue(report.whole)
        assert report.vouched is not None
        self.assertEqual((report.vouched.seq, report.vouched.file), (6, "audit.log"))
        self.assertEqual(
            report.vouched.by,
            tuple(
                sorted(
                    (
                        f"acacia ({ACACIA.peer_id.short})",
                        f"walnut ({WALNUT.peer_id.short})",
                        str(MALLORY.peer_id),
                    )
                )
            ),
        )
        self.assertIn("lines 7 to 9", report.unknown[0])

    def test_vouched_to_the_end(self) -> None:
        """Also then more could have been cut off behind it."""
        lines = written(3)
        self.assertIn("lines after number 3", check(lines, kept(lines[2])).unknown[0])

    def test_nobody(self) -> None:
        """Without checkpoints a log that its key wrote anew cannot be told from the first."""
        report = check(written(5, OURS, "left"))
        self.assertTrue(report.whole)
        self.assertIn("no other node vouches for any line", report.unknown[0])

    def test_rewritten(self) -> None:
        """A log that was written anew with the node's own key is found at the checkpoints."""
        lines = written(9)
        chain = Chain(OURS, 4, hash_line(lines[3][:-1]))
        anew = lines[:4] + [chain.append("left", {}, START + number) for number in range(5, 12)]
        self.assertTrue(check(anew).whole)
        report = check(anew, *map(kept, (lines[1], lines[5], lines[7], anew[9])))
        self.assert_found(report, (6, "rewritten"))
        message = report.problems[0].message
        self.assertIn("line 6 does not fit the checkpoint that walnut", message)
        self.assertIn("nor do those of 1 lines after it", message)
        self.assertIn("from line 3 or a later one on", message)
        assert report.vouched is not None
        self.assertEqual(report.vouched.seq, 2)

    def test_rewritten_and_shorter(self) -> None:
        """Both are told."""
        lines = written(9)
        report = check(written(5, OURS, "left"), kept(lines[2]), kept(lines[8]))
        self.assert_found(report, (3, "rewritten"), (5, "cut_short"))

    def test_not_ours(self) -> None:
        """Checkpoints of others, and such that nobody signed, count for nothing."""
        lines = written(5)
        other = Kept(checkpoint(written(9, MALLORY)[8], MALLORY))
        within = Kept(checkpoint(written(9, MALLORY)[2], MALLORY))
        forged = Kept(replace(checkpoint(lines[3]), hash="0" * 64))
        beyond = Kept(replace(checkpoint(lines[3]), seq=99))
        report = check(lines, other, within, forged, beyond, kept(lines[1]))
        self.assertTrue(report.whole, report.problems)
        self.assertIn("4 checkpoints are left aside", report.notes[0])
        assert report.vouched is not None
        self.assertEqual(report.vouched.seq, 2)

    def test_from_a_file(self) -> None:
        """A checkpoint of which nobody says who keeps it is called that of a file."""
        lines = written(3)
        report = check(lines, Kept(checkpoint(lines[1])))
        assert report.vouched is not None
        self.assertEqual(report.vouched.by, ("a file",))


class KeyTests(TamperCase):
    """Keys that change."""

    def rotated(self, *, said: bool = True) -> list[bytes]:
        """Five lines of one key, and five of the next."""
        chain = Chain(OURS)
        lines = [chain.append("started", {}, START) for _ in range(4)]
        fields = {"new_key": str(WALNUT.peer_id)}
        lines.append(chain.append("key_rotated" if said else "left", fields, START))
        chain.key = WALNUT
        return lines + [chain.append("started", {}, START) for _ in range(5)]

    def report(self, lines: list[bytes], *checkpoints: Kept, node: PrivateKey = WALNUT) -> Report:
        return verify([("audit.log", lines)], checkpoints, str(node.peer_id))

    def test_rotated(self) -> None:
        """After a line of the old key that names it the new one signs; both give checkpoints."""
        lines = self.rotated()
        old, new = Kept(checkpoint(lines[2])), Kept(checkpoint(lines[7], WALNUT))
        report = self.report(lines, old, new)
        self.assertTrue(report.whole, report.problems)
        self.assertEqual(report.keys, [str(OURS.peer_id), str(WALNUT.peer_id)])
        self.assertEqual(report.notes, [])
        assert report.vouched is not None
        self.assertEqual(report.vouched.seq, 8)

    def test_not_said(self) -> None:
        """A key that nobody named is told once, where it begins."""
        report = self.report(self.rotated(said=False))
        self.assert_found(report, (6, "wrong_key"))
        self.assertIn("no line of", report.problems[0].message)

    def test_named_and_not_used(self) -> None:
        """A rotation that a crash undid: the old key goes on, and the new one may come later."""
        chain = Chain(OURS)
        fields = {"new_key": str(WALNUT.peer_id)}
        lines = [chain.append("key_rotated", fields, START), chain.append("started", {}, START)]
        self.assertTrue(self.report(lines, node=OURS).whole)
        self.assertTrue(self.report(lines, node=WALNUT).whole)
        chain.key = WALNUT
        lines.append(chain.append("started", {}, START))
        self.assertTrue(self.report(lines).whole)

    def test_old_key_afterwards(self) -> None:
        """Once the new key has signed, the old one has no say any more."""
        lines = self.rotated()
        lines.append(Chain(OURS, 10, hash_line(lines[-1][:-1])).append("left", {}, START))
        self.assert_found(self.report(lines), (11, "wrong_key"))

    def test_another_node(self) -> None:
        """A log of another node, or one written with another key, is told at its end."""
        report = self.report(written(3))
        self.assert_found(report, (3, "wrong_key"))
        self.assertIn(
            f"signed by {OURS.peer_id} and not by {WALNUT.peer_id}", self.only(report).message
        )

    def test_nobody_named(self) -> None:
        """Where nobody says whose log it is, that is among what cannot be known."""
        report = verify([("audit.log", written(3))])
        self.assertTrue(report.whole)
        self.assertIn(f"whose log it is: {OURS.peer_id}", report.unknown[-1])


class FilesTests(TamperCase):
    """Several files."""

    def files(self) -> list[tuple[str, list[bytes]]]:
        """Three of four lines each, the second and third of which say that they are."""
        chain = Chain(OURS)
        files: list[tuple[str, list[bytes]]] = []
        for name in ("audit.log.2", "audit.log.1", "audit.log"):
            lines = [chain.append("log_rotated", {"oldest": 1}, START)] if files else []
            lines += [chain.append("started", {}, START) for _ in range(4 - len(lines))]
            files.append((name, lines))
        return files

    def test_chain_goes_on(self) -> None:
        """The chain goes on from file to file."""
        report = verify(self.files(), node=str(OURS.peer_id))
        self.assertTrue(report.whole, report.problems)
        self.assertEqual(report.last_seq, 12)

    def test_file_missing(self) -> None:
        """A file that is missing is told in the next one; or at the beginning."""
        first, _, third = self.files()
        report = verify([first, third])
        self.assertEqual(
            [(each.file, each.line, each.kind) for each in report.problems],
            [("audit.log", 1, "missing")],
        )
        report = verify([third])
        self.assertIn("lines 1 to 8 are missing", self.only(report).message)

    def test_rotated_away(self) -> None:
        """What rotation has deleted is not missed, and nothing but that."""
        chain = Chain(OURS)
        lines = [chain.append("started", {}, START) for _ in range(4)]
        newer = [chain.append("log_rotated", {"oldest": 3}, START)]
        report = verify([("audit.log.1", lines[2:]), ("audit.log", newer)])
        self.assertTrue(report.whole, report.problems)
        self.assertIn("lines before number 3 are not in these files", report.unknown[-2])
        report = verify([("audit.log.1", lines[3:]), ("audit.log", newer)])
        self.assertIn("lines 3 to 3 are missing", self.only(report).message)


class ManualTests(SynchronousTestCase):
    """docs/trust.rst."""

    def test_events(self) -> None:
        """The manual has each event with its fields, a star for those that are summed up, and no
        other."""
        rows = re.findall(r"^``(\w+)``( \*)? +(``.*)$", section("Events"), re.MULTILINE)
        said = {
            name: (tuple(re.findall(r"``(\w+)``", text.split(";")[0])), bool(star))
            for name, star, text in rows
        }
        has = {name: (kind.fields, kind.summed_by is not None) for name, kind in EVENTS.items()}
        self.assertEqual(said, has)

    def test_report(self) -> None:
        """The manual has what a report has, for programs."""
        paragraph = (
            section("What is found").split("With ``--json`` it prints")[1].split("Its exit")[0]
        )
        names = re.findall(r"``(\w+)``", paragraph)
        names.remove("null")
        has = [each for kind in (Report, Problem, Vouched) for each in kind.__annotations__]
        self.assertEqual(sorted(names), sorted(["whole", *has]))

    def test_fields(self) -> None:
        """The manual has the fields of a line in their order."""
        document = json.loads(written(1)[0])
        table = section("Audit log").split("The files")[0]
        self.assertEqual(re.findall(r"^``(\w+)`` ", table, re.MULTILINE), list(document))


def section(title: str) -> str:
    """The text below a heading, to the next of the kind."""
    text = (Path(__file__).parents[2] / "docs" / "trust.rst").read_text("utf-8")
    found = re.search(rf"^{title}\n([-~])\1+\n(.*?)(?=^\S[^\n]*\n\1\1\1|\Z)", text, re.M | re.S)
    assert found is not None
    return found[2]
