"""The audit log, its writer. It blocks on the disk: it is called in a thread, one call at a time.

Enters: events. Leaves: lines on the disk, and notices of what was not as the node had left it.

================== ===============================================================================
audit.log          the lines, oldest first
audit.log.1, .2 .. older ones; the chain goes on from file to file
audit.log.damaged  rests of lines that a crash left unfinished, as they were
audit.head         number and hash of the last line, by which a log that was cut off is noticed
================== ===============================================================================
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bzzz.errors import BzzzError
from bzzz.identity.keys import PrivateKey
from bzzz.trust.audit_chain import (
    Chain,
    Line,
    Value,
    hash_line,
)
from bzzz.trust.audit_disk import (
    KEPT_FILES,
    append_to,
    end_of_lines,
    files_of,
    last_line,
    older,
    open_for_appending,
    open_for_reading,
    put_aside,
    sync_directory,
    write_all,
)

__all__ = ["HEAD_SUFFIX", "MAX_FILE", "AuditFile", "Entry", "Head", "Notice", "read_head"]

# Bytes of a file after which another is begun; the last group of lines may go beyond. A line has
# some 450, so these are 37 thousand events.
MAX_FILE = 16 << 20

NUMBERS = range(1, KEPT_FILES + 1)

# The head's name is the log's with this for its end.
HEAD_SUFFIX = ".head"

# The head: a number of 20 digits, a space, a hash, a newline.
HEAD_LENGTH = 86


@dataclass(frozen=True)
class Entry:
    """An event that is to become a line.

    :ivar time: seconds since the epoch.
    :ivar next_key: with ``key_rotated``: signs what follows.
    """

    event: str
    fields: Mapping[str, Value]
    time: float
    next_key: PrivateKey | None = None


@dataclass(frozen=True)
class Head:
    """The last line on the disk.

    :ivar seq: its number.
    :ivar hash: its hash.
    """

    seq: int
    hash: str


@dataclass(frozen=True)
class Notice:
    """The files were not as the node had left them.

    :ivar event: the event that tells of it in the log.
    :ivar fields: of the event.
    :ivar words: for people.
    """

    event: str
    fields: Mapping[str, Value]
    words: str


class AuditFile:
    """The files of one log.

    :param path: of the newest.
    :param key: signs.
    :param cluster: the ID of the node's cluster, for the first line.
    :param max_bytes: after which another file is begun.
    :ivar head_problem: why the head could not be written the last time.
    """

    def __init__(
        self, path: Path, key: PrivateKey, cluster: str = "", max_bytes: int = MAX_FILE
    ) -> None:
        self.head_problem = ""
        self._path = path
        self._head_path = path.with_suffix(HEAD_SUFFIX)
        self._key = key
        self._cluster = cluster
        self._max_bytes = max_bytes
        self._chain: Chain | None = None
        self._file = -1
        self._identity = (0, 0)
        self._size = 0
        self._torn = False
        self._notices: list[Notice] = []

    @property
    def head(self) -> Head | None:
        """The last line; None before the first."""
        chain = self._chain
        return Head(chain.seq, chain.hash) if chain is not None and chain.seq else None

    def append(self, entries: Sequence[Entry], now: float) -> list[Notice]:
        """Write lines, and wait until they are on the disk.

        All of them are written, or none is and the log is as before.

        :param now: seconds since the epoch, for lines of the log itself.
        :return: what was noticed of the files, which has its lines before these.
        :raises OSError: they cannot be written.
        """
        if not self._is_ours():
            reopened, torn = self._file >= 0, self._torn
            self.close()
            known = len(self._notices)
            self._open()
            if reopened and not torn and len(self._notices) == known:
                self._notices.append(
                    _damaged(self._path, "somebody else replaced it or wrote to it")
                )
        elif self._size >= self._max_bytes:
            self._rotate(now)
            self._open()
        noticed = [Entry(each.event, each.fields, now) for each in self._notices]
        self._write([*self._first_line(now), *noticed, *entries])
        notices, self._notices = self._notices, []
        return notices

    def close(self) -> None:
        """Close the file; the next :meth:`append` opens it again."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    # -- writing

    def _first_line(self, now: float) -> list[Entry]:
        chain = self._the_chain()
        if chain.seq:
            return []
        fields = {"node": str(chain.key.peer_id), "cluster": self._cluster}
        return [Entry("log_created", fields, now)]

    def _write(self, entries: Sequence[Entry]) -> None:
        if not entries:
            return
        chain = self._the_chain()
        left = chain.key, chain.seq, chain.hash
        try:
            data = bytearray()
            for entry in entries:
                data += chain.append(entry.event, entry.fields, entry.time)
                if entry.next_key is not None:
                    chain.key = entry.next_key
            write_all(self._file, data)
            os.fdatasync(self._file)
        except BaseException:
            chain.key, chain.seq, chain.hash = left
            # Where this fails too, the next try finds a file of another length, and mends it.
            self._torn = True
            os.ftruncate(self._file, self._size)
            self._torn = False
            raise
        self._size += len(data)
        self._key = chain.key
        self._torn = False
        self._write_head()

    def _write_head(self) -> None:
        chain = self._the_chain()
        # Not synchronised, and in its place: it may be older than the log, never newer. What is on
        # the disk is in the log whether this succeeds or not.
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            file = os.open(self._head_path, flags, 0o600)
            try:
                os.pwrite(file, b"%020d %s\n" % (chain.seq, chain.hash.encode()), 0)
            finally:
                os.close(file)
        except OSError as error:
            self.head_problem = f"{self._head_path} cannot be written: {error.strerror or error}"
        else:
            self.head_problem = ""

    def _rotate(self, now: float) -> None:
        """Make room for another file.

        That lines will be deleted is written before they are, and from the file that has them: so
        files that somebody else removed are missed, and a crash leaves a log that is whole.
        """
        names = [self._path, *(older(self._path, number) for number in NUMBERS)]
        last, _, _ = last_line(names[-1:])
        if last is not None and os.path.lexists(names[-2]):
            self._write([Entry("log_rotated", {"oldest": last.seq + 1}, now)])
        self.close()
        for number in reversed(NUMBERS):
            if os.path.lexists(names[number - 1]):
                os.replace(names[number - 1], names[number])
        sync_directory(self._path)

    def _the_chain(self) -> Chain:
        if self._chain is None:
            raise BzzzError(f"{self._path} is not open")
        return self._chain

    # -- opening

    def _is_ours(self) -> bool:
        """Whether the file is open, still under its name, and as long as the node left it."""
        if self._file < 0:
            return False
        try:
            status = self._path.lstat()
        except FileNotFoundError:
            return False
        return (status.st_dev, status.st_ino) == self._identity and status.st_size == self._size

    def _open(self) -> None:
        """Open the file, mend its end, and find out where the chain goes on."""
        known = self.head or read_head(self._head_path)
        try:
            self._open_file()
            self._mend_end()
            last, raw, where = last_line(files_of(self._path))
            while raw is not None and last is None and known is None:
                # Nothing tells where the chain was: it begins anew, and the file is kept.
                self.close()
                aside = put_aside(where)
                self._notices.append(_damaged(where, "its last line cannot be read", aside))
                self._open_file()
                last, raw, where = last_line(files_of(self._path))
            self._size = os.fstat(self._file).st_size
        except BaseException:
            self.close()
            raise
        found = Head(last.seq, hash_line(raw)) if last is not None and raw is not None else None
        if raw is not None and last is None:
            self._notices.append(_damaged(where, "its last line is not as the node wrote it"))
        elif known is not None:
            self._compare(found, known)
        if last is not None and not self._may_follow(last):
            self._notices.append(
                _damaged(where, f"it was signed by {last.key} until now, not by this node")
            )
        goes_on = found if known is None or (found and found.seq > known.seq) else known
        self._chain = Chain(self._key, goes_on.seq, goes_on.hash) if goes_on else Chain(self._key)

    def _open_file(self) -> None:
        self._file, status = open_for_appending(self._path)
        self._identity = (status.st_dev, status.st_ino)

    def _may_follow(self, last: Line) -> bool:
        ours = str(self._key.peer_id)
        rotated = last.event == "key_rotated" and last.fields.get("new_key") == ours
        return last.key == ours or rotated

    def _compare(self, found: Head | None, known: Head) -> None:
        """What the end of the log tells beside what the node remembers of it."""
        seq = 0 if found is None else found.seq
        if seq < known.seq:
            ends = f"ends with line {seq}" if seq else "has no lines"
            self._notices.append(
                Notice(
                    "log_truncated",
                    {"last": seq, "expected": known.seq},
                    f"{self._path} {ends}, and this node had written {known.seq}: the rest was cut"
                    " off or removed. The log goes on, with the gap in it; if you did not do that,"
                    " somebody else did",
                )
            )
        elif found is not None and seq == known.seq and found.hash != known.hash:
            self._notices.append(
                _damaged(self._path, "its last line is not the one that the node wrote")
            )
        # More than is remembered: a crash came between writing a line and writing its number.

    def _mend_end(self) -> None:
        """Move a line that has no end aside."""
        size = os.fstat(self._file).st_size
        end = end_of_lines(self._file, size)
        if end == size:
            return
        aside = self._path.with_name(f"{self._path.name}.damaged")
        append_to(aside, self._file, end, size)
        os.ftruncate(self._file, end)
        os.fsync(self._file)
        self._notices.append(
            Notice(
                "log_repaired",
                {"bytes": size - end, "file": aside.name},
                f"{self._path} ended in the middle of a line, as a crash leaves it; the"
                f" {size - end} bytes of it are now in {aside}",
            )
        )


def _damaged(path: Path, what: str, aside: Path | None = None) -> Notice:
    where = f"; it was put aside as {aside}" if aside else ""
    return Notice(
        "log_damaged",
        {"what": what, "file": (aside or path).name},
        f"{path}: {what}{where}. The log goes on. To see what is wrong with it: bzzz audit verify",
    )


def read_head(path: Path) -> Head | None:
    """The last line, as a node remembers it; None if that is not known. Blocks."""
    try:
        with open_for_reading(path) as file:
            content = file.read(HEAD_LENGTH + 1)
    except OSError:
        # It only helps to notice: without it the log's own end counts.
        return None
    found = re.fullmatch(rb"([0-9]{20}) ([0-9a-f]{64})\n", content)
    if found is None or not int(found[1]):
        return None
    return Head(int(found[1]), found[2].decode())
