"""The audit log, the check: whether its lines are those that the node wrote.

Enters: the lines of one or several files, oldest first, and checkpoints that others keep. Leaves: a
:class:`Report` of everything that does not fit, up to which line others vouch, and what nobody can
know. docs/trust.rst, "Audit log".
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from bzzz.errors import IdentityError
from bzzz.identity.peer_id import PeerID
from bzzz.trust.audit_chain import (
    ZEROS,
    BadCheckpoint,
    DamagedLine,
    Kept,
    Line,
    hash_line,
    open_line,
)
from bzzz.trust.audit_report import Problem, Report, Vouched

__all__ = ["MAX_PROBLEMS", "verify"]

# Problems that a report lists; of a file that is something else each line is one.
MAX_PROBLEMS = 1000

# Where the signature of a line begins, and its length with what ends the line.
SIGNATURE = b',"sig":"'
SIGNATURE_LENGTH = 90


def verify(
    files: Iterable[tuple[str, Iterable[bytes]]],
    checkpoints: Sequence[Kept] = (),
    node: str | None = None,
    remembered: tuple[int, str] | None = None,
) -> Report:
    """Check a log.

    :param files: names and lines, with their newlines, oldest file first.
    :param checkpoints: what others keep; those of other nodes are left aside.
    :param node: peer ID of the node whose log it should be; None where that is not known.
    :param remembered: number and hash of a line that the node itself remembers to have written.
    """
    verifier = _Verifier(checkpoints, node, remembered)
    for name, lines in files:
        verifier.begin(name)
        for raw in lines:
            verifier.take(raw)
    return verifier.finish()


class _Verifier:
    def __init__(
        self,
        checkpoints: Sequence[Kept],
        node: str | None,
        remembered: tuple[int, str] | None,
    ) -> None:
        self._report = Report()
        self._remembered = remembered
        self._node = node
        self._checkpoints = [kept for kept in checkpoints if _is_signed(kept)]
        self._aside = len(checkpoints) - len(self._checkpoints)
        self._by_seq: dict[int, list[Kept]] = defaultdict(list)
        for kept in self._checkpoints:
            self._by_seq[kept.checkpoint.seq].append(kept)
        self._file = ""
        self._number = 0
        self._last: Line | None = None
        self._last_hash = ZEROS
        self._last_at = ("", 0)
        # Whether lines since the last good one are damaged: what follows them fits to none.
        self._damaged = False
        self._rest: tuple[str, int, bytes] | None = None
        self._successor = ""
        self._oldest = 1
        self._matched: list[tuple[Kept, tuple[str, int]]] = []
        self._contradicted: list[tuple[Kept, tuple[str, int]]] = []

    # -- lines

    def begin(self, name: str) -> None:
        """The lines of another file follow."""
        self._end_file(is_last=False)
        self._file = name
        self._number = 0

    def take(self, raw: bytes) -> None:
        """The next line of the file."""
        self._number += 1
        if not raw.endswith(b"\n"):
            self._rest = (self._file, self._number, raw)
            return
        raw = raw[:-1]
        try:
            line = open_line(raw)
        except DamagedLine as error:
            self._problem(error.kind, f"{error}: it was changed, or damaged on the disk")
            self._damaged = True
            return
        if self._is_in_place(line):
            self._accept(line, hash_line(raw))

    def _is_in_place(self, line: Line) -> bool:
        """Whether the line follows the last good one; says what is wrong."""
        last = self._last
        if last is None:
            if line.seq == 1 and line.prev != ZEROS:
                self._problem(
                    "broken", "it is line 1, but has the hash of a line before it: it was forged"
                )
            return True
        ahead = line.seq - last.seq
        follows = ahead == 1 and line.prev == self._last_hash
        if line.key not in (last.key, self._successor):
            if not follows:
                self._problem(
                    "wrong_key", f"it is signed by {line.key}, who has no say in this log"
                )
                self._damaged = True
                return False
            self._problem(
                "wrong_key",
                f"from here on {line.key} signs, and no line of {last.key} says that its key was"
                " rotated: the node's identity was replaced, or somebody else went on writing",
            )
        if ahead <= 0:
            self._problem(
                "out_of_place",
                f"it has number {line.seq} and comes after number {last.seq}: it was moved,"
                " doubled or put in",
            )
            return False
        if ahead == 1:
            if not follows:
                self._problem(
                    "broken",
                    f"it does not follow line {last.seq} before it, which is another than the one"
                    " that the node had written: that one, or this one, was exchanged",
                )
        elif not (self._damaged and ahead == 2):
            first, end = last.seq + 1, line.seq - 1
            which = f"line {end} is" if first == end else f"lines {first} to {end} are"
            words = "missing or damaged" if self._damaged else "missing"
            self._problem("missing", f"{which} {words} before this one, number {line.seq}")
        return True

    def _accept(self, line: Line, hashed: str) -> None:
        report = self._report
        if self._last is None:
            report.first_seq = line.seq
            self._first_at = (self._file, self._number)
            self._starts_damaged = self._damaged
        self._damaged = False
        if not report.keys or report.keys[-1] != line.key:
            report.keys.append(line.key)
        if line.event == "key_rotated":
            self._successor = str(line.fields.get("new_key", ""))
        elif line.event == "log_rotated":
            oldest = line.fields.get("oldest")
            self._oldest = oldest if isinstance(oldest, int) else 1
        self._last, self._last_hash = line, hashed
        self._last_at = (self._file, self._number)
        report.lines += 1
        if self._remembered is not None and self._remembered[0] == line.seq:
            if self._remembered[1] != hashed:
                self._problem(
                    "exchanged", "it is not the line that this node remembers to have written"
                )
            self._remembered = None
        for kept in self._by_seq.get(line.seq, ()):
            fits = kept.checkpoint.hash == hashed
            (self._matched if fits else self._contradicted).append((kept, self._last_at))

    def _end_file(self, is_last: bool) -> None:
        """What became of a line without its newline."""
        if self._rest is None:
            return
        (file, number, rest), self._rest = self._rest, None
        if is_last and self._could_be_cut_off(rest):
            self._report.notes.append(
                f"{file}:{number}: the line was cut off in writing: the node crashed, or is"
                " writing at this moment. It moves such a rest aside when it starts"
            )
            return
        self._file, self._number = file, number
        self._problem(
            "cut_off",
            "the file ends in the middle of a line, which a crash does not leave so: what is there"
            " is not how the next line begins",
        )
        self._damaged = True

    def _could_be_cut_off(self, rest: bytes) -> bool:
        """Whether the rest is how the node's next line would begin."""
        # Where power fails a file may have grown before what was written is in it.
        rest = rest.rstrip(b"\0")
        start = b'{"seq":'
        if self._last is not None and not self._damaged:
            start = b'{"seq":%d,"time":"' % (self._last.seq + 1)
        if not rest.startswith(start[: len(rest)]):
            return False
        signature = rest.partition(SIGNATURE)[2]
        if len(signature) < SIGNATURE_LENGTH:
            return True
        try:
            return open_line(rest).prev == self._last_hash or self._damaged
        except DamagedLine:
            return False

    def _problem(self, kind: str, message: str) -> None:
        self._problem_at((self._file, self._number), kind, message)

    def _problem_at(self, at: tuple[str, int], kind: str, message: str) -> None:
        if len(self._report.problems) < MAX_PROBLEMS:
            self._report.problems.append(Problem(at[0], at[1], kind, message))
        else:
            self._report.more_problems += 1

    # -- the end

    def finish(self) -> Report:
        """There are no more lines."""
        self._end_file(is_last=True)
        report, last = self._report, self._last
        if last is None:
            if not report.problems:
                self._problem(
                    "empty",
                    "there is no line in it: the node has written none yet, or it was emptied",
                )
            return report
        report.last_seq, report.last_time = last.seq, last.time
        self._check_beginning()
        self._check_key(last)
        if self._remembered is not None and self._remembered[0] > last.seq:
            self._problem_at(
                self._last_at,
                "cut_short",
                f"the log ends here with line {last.seq}, but this node remembers to have written"
                f" line {self._remembered[0]}: what came between was cut off",
            )
        self._check_checkpoints(last)
        self._say_unknown(last)
        return report

    _first_at = ("", 0)
    _starts_damaged = False

    def _check_beginning(self) -> None:
        first = self._report.first_seq
        if first > self._oldest and not (self._starts_damaged and first == self._oldest + 1):
            self._problem_at(
                self._first_at,
                "missing",
                f"lines {self._oldest} to {first - 1} are missing before this one, number {first}:"
                " give the older files too (audit.log.1 and so on), or they were removed",
            )

    def _check_key(self, last: Line) -> None:
        if self._node is not None and self._node not in (*self._report.keys, self._successor):
            self._problem_at(
                self._last_at,
                "wrong_key",
                f"the log is signed by {last.key} and not by {self._node}: it is another node's, or"
                " was written anew with another key",
            )

    def _check_checkpoints(self, last: Line) -> None:
        report = self._report
        keys = {*report.keys, self._successor}
        ours = [kept for kept in self._checkpoints if kept.checkpoint.node in keys]
        aside = self._aside + len(self._checkpoints) - len(ours)
        if aside:
            report.notes.append(
                f"{aside} checkpoint{'s are' if aside > 1 else ' is'} left aside: of another node,"
                " or not signed by this one"
            )
        wrong = [each for each in self._contradicted if each[0].checkpoint.node in keys]
        first_wrong = min((kept.checkpoint.seq for kept, _ in wrong), default=last.seq + 1)
        right = [
            (kept, at)
            for kept, at in self._matched
            if kept.checkpoint.node in keys and kept.checkpoint.seq < first_wrong
        ]
        if right:
            seq = max(kept.checkpoint.seq for kept, _ in right)
            best = [(kept, at) for kept, at in right if kept.checkpoint.seq == seq]
            (file, number) = best[0][1]
            by = tuple(sorted({_who(kept) for kept, _ in best}))
            report.vouched = Vouched(seq, file, number, best[0][0].checkpoint.time, by)
        if wrong:
            these = [(kept, at) for kept, at in wrong if kept.checkpoint.seq == first_wrong]
            others = len({kept.checkpoint.seq for kept, _ in wrong}) - 1
            more = f", nor do those of {others} lines after it" if others else ""
            fit = report.vouched.seq if report.vouched else 0
            self._problem_at(
                these[0][1],
                "rewritten",
                f"line {first_wrong} does not fit the checkpoint that {_all_of(these)} keeps of"
                f" {these[0][0].checkpoint.time}{more}: the log was written anew, with the node's"
                f" own key, from line {fit + 1} or a later one on",
            )
        beyond = [kept for kept in ours if kept.checkpoint.seq > last.seq]
        if beyond:
            seq = max(kept.checkpoint.seq for kept in beyond)
            these = [(kept, self._last_at) for kept in beyond if kept.checkpoint.seq == seq]
            self._problem_at(
                self._last_at,
                "cut_short",
                f"the log ends here with line {last.seq}, but {_all_of(these)} keeps a checkpoint"
                f" of line {seq}, of {these[0][0].checkpoint.time}: lines {last.seq + 1} to {seq}"
                " at least were cut off, or an older copy of the log was put in its place",
            )

    def _say_unknown(self, last: Line) -> None:
        report, vouched = self._report, self._report.vouched
        if vouched is None:
            report.unknown.append(
                "no other node vouches for any line: whoever had the node's key could have written"
                " the whole log anew, or cut off its end"
            )
        elif vouched.seq < last.seq:
            report.unknown.append(
                f"no other node vouches for lines {vouched.seq + 1} to {last.seq}: whoever had the"
                " node's key could have written them anew, or cut off others after them"
            )
        else:
            report.unknown.append(
                f"lines after number {last.seq} could have been cut off, if no checkpoint of them"
                " had been given away yet"
            )
        if report.first_seq > 1:
            report.unknown.append(f"lines before number {report.first_seq} are not in these files")
        if self._node is None:
            report.unknown.append(
                f"whose log it is: {last.key} has signed it, which was compared with nothing"
            )


def _is_signed(kept: Kept) -> bool:
    try:
        kept.checkpoint.check()
    except BadCheckpoint:
        return False
    return True


def _who(kept: Kept) -> str:
    """``walnut (aXHoUh)``."""
    try:
        short = PeerID.parse(kept.kept_by).short
    except IdentityError:
        return kept.kept_by_name or "a file"
    return f"{kept.kept_by_name} ({short})" if kept.kept_by_name else kept.kept_by


def _all_of(kept: Sequence[tuple[Kept, tuple[str, int]]]) -> str:
    return ", ".join(sorted({_who(each) for each, _ in kept}))
