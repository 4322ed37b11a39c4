"""Log events as entries of systemd's journal, with their priority and fields.

Enters: events of :mod:`twisted.logger`. Leaves: a datagram an entry to journald, or lines with
``<N>`` before them to a file where journald cannot be reached. Sending never waits: what does not
go at once is kept, up to a limit, and goes later; what is beyond it is counted, and told.
Spec: https://systemd.io/JOURNAL_NATIVE_PROTOCOL/, :manpage:`systemd.journal-fields(7)`,
:manpage:`sd-daemon(3)`.
"""

from __future__ import annotations

import array
import errno
import fcntl
import os
import select
import socket
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping

from twisted.logger import ILogObserver, LogEvent, LogLevel
from zope.interface import implementer

__all__ = [
    "JOURNAL_SOCKET",
    "JournalObserver",
    "JournalSocket",
    "encode_entry",
    "entry_of",
    "writer",
]

JOURNAL_SOCKET = "/run/systemd/journal/socket"

# syslog(3) numbers them so; sd-daemon(3) writes them before a line.
PRIORITIES = {
    LogLevel.debug: 7,
    LogLevel.info: 6,
    LogLevel.warn: 4,
    LogLevel.error: 3,
    LogLevel.critical: 2,
}

# Keys of log events that are fields of an entry, so that `journalctl PEER_ID=...` finds them.
FIELDS = {"peer_id": "PEER_ID", "task_id": "TASK_ID", "event": "EVENT", "log_namespace": "LOGGER"}

# Entries that wait for journald, and their bytes: a node at info writes two lines in 30 s, and one
# that meets fifty others 150 in a second; journald may be stopped that long.
MAX_WAITING = 1000
MAX_WAITING_BYTES = 4 << 20

# Bytes of one entry's message. A traceback has a few thousand.
MAX_MESSAGE = 1 << 20

# Seconds until what waits is tried again.
RETRY = 0.2

# How often, and how many seconds each time, journald is waited for at the end of the process.
WAITS = 10
WAIT = 0.1

# Bytes that a pipe takes without waiting if it takes any (POSIX's PIPE_BUF, and Linux's).
PIPE_BUFFER = 4096

# The kernel's buffer for what journald has not read. 212 KiB is its default.
SEND_BUFFER = 1 << 20

Fields = Mapping[str, str]


def encode_entry(fields: Fields) -> bytes:
    """Fields in the native protocol: a line each, or with its length before one of many lines."""
    parts = []
    for name, value in fields.items():
        # A lone surrogate, as of a file name that is no UTF-8, must not cost the entry.
        data = value.encode("utf-8", "backslashreplace")
        if b"\n" in data:
            parts.append(b"%b\n%b%b\n" % (name.encode(), len(data).to_bytes(8, "little"), data))
        else:
            parts.append(b"%b=%b\n" % (name.encode(), data))
    return b"".join(parts)


def entry_of(event: LogEvent, message: str) -> dict[str, str]:
    """The fields of an event's entry.

    :param message: its words, with a traceback if it has one.
    """
    level = event.get("log_level", LogLevel.info)
    entry = {
        "MESSAGE": message[:MAX_MESSAGE],
        "PRIORITY": str(PRIORITIES.get(level, 6)),
        "SYSLOG_IDENTIFIER": "bzzz",
    }
    for key, field in FIELDS.items():
        # Others than texts have no place there, and their conversion could fail.
        value = event.get(key)
        if isinstance(value, str) and value:
            entry[field] = value
    return entry | _place(str(event.get("log_namespace", "")))


def _place(namespace: str) -> dict[str, str]:
    """Where the event was logged: the first frame of the module that its logger belongs to.

    None is found for events that were kept until the log began, and for those of a logger whose
    namespace is no module; they go without.
    """
    frame = sys._getframe(1)
    for _ in range(16):
        back = frame.f_back
        if back is None:
            return {}
        frame = back
        module = frame.f_globals.get("__name__", "")
        if module and (namespace == module or namespace.startswith(f"{module}.")):
            code = frame.f_code
            return {
                "CODE_FILE": code.co_filename,
                "CODE_LINE": str(frame.f_lineno),
                "CODE_FUNC": code.co_qualname,
            }
    return {}


def writer(descriptor: int) -> Callable[[bytes], bool]:
    """What writes to a descriptor as long as that does not wait; see :class:`JournalObserver`."""

    def write(data: bytes) -> bool:
        poll = select.poll()
        poll.register(descriptor, select.POLLOUT)
        view = memoryview(data)
        try:
            while view:
                if not any(event & select.POLLOUT for _, event in poll.poll(0)):
                    return False
                view = view[os.write(descriptor, view[:PIPE_BUFFER]) :]
        except OSError:
            return False  # closed, or nobody reads it any more
        return True

    return write


class JournalSocket:
    """Sends datagrams to journald without waiting."""

    def __init__(self, path: str = JOURNAL_SOCKET) -> None:
        self._path = path
        self._socket: socket.socket | None = None

    def wait(self, seconds: float) -> None:
        """Wait until journald takes something, at most so long."""
        if self._socket is not None:
            poll = select.poll()
            poll.register(self._socket, select.POLLOUT)
            poll.poll(seconds * 1000)

    def send(self, data: bytes) -> None:
        """Send an entry; one that is too large for a datagram as a sealed memfd.

        :raises BlockingIOError: journald does not keep up; try again later.
        :raises OSError: journald cannot be reached.
        """
        try:
            self._send(data)
        except BlockingIOError:
            raise
        except OSError as error:
            if error.errno in {errno.EMSGSIZE, errno.ENOBUFS}:
                self._send_file(data)
                return
            # The socket that it was connected to is gone; there may be a new one.
            self.close()
            self._send(data)

    def close(self) -> None:
        """Close the socket; the next send opens another."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _connected(self) -> socket.socket:
        if self._socket is None:
            made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            try:
                made.setblocking(False)
                made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
                made.connect(self._path)
            except BaseException:
                made.close()
                raise
            self._socket = made
        return self._socket

    def _send(self, data: bytes) -> None:
        self._connected().send(data)

    def _send_file(self, data: bytes) -> None:
        descriptor = os.memfd_create("journal-entry", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            # journald maps the file, and takes none that could change under it.
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))]
            self._connected().sendmsg([b""], rights)
        finally:
            os.close(descriptor)


@implementer(ILogObserver)
class JournalObserver:
    """Sends each event to the journal.

    :param words: the text of an event; None for one without.
    :param later: calls a function after so many seconds; may itself be called in any thread.
    :param fallback: writes the lines that journald cannot be given, with ``<N>`` before each;
        returns whether it could.
    """

    def __init__(
        self,
        words: Callable[[LogEvent], str | None],
        later: Callable[[float, Callable[[], None]], object],
        fallback: Callable[[bytes], bool],
        journal: JournalSocket | None = None,
    ) -> None:
        self._words = words
        self._later = later
        self._fallback = fallback
        self._journal = journal or JournalSocket()
        # Events come from every thread.
        self._lock = threading.RLock()
        self._waiting: deque[tuple[bytes, dict[str, str]]] = deque()
        self._bytes = 0
        self._dropped = 0
        self._retrying = False
        self._flushing = False
        self._finishing = False
        self._waits = 0

    def __call__(self, event: LogEvent) -> None:
        message = self._words(event)
        if message is None:
            return
        entry = entry_of(event, message)
        with self._lock:
            self._keep(entry)
            self._flush()

    def finish(self) -> None:
        """From now on there is no reactor to try again: wait a little, and then write elsewhere."""
        with self._lock:
            self._finishing = True
            self._waits = WAITS
            self._flush()

    def _keep(self, entry: dict[str, str]) -> None:
        data = encode_entry(entry)
        if len(self._waiting) >= MAX_WAITING or self._bytes + len(data) > MAX_WAITING_BYTES:
            self._dropped += 1
            return
        self._waiting.append((data, entry))
        self._bytes += len(data)

    def _flush(self) -> None:
        # Whatever is garbage may log its end in the middle of this, in this thread.
        if self._flushing:
            return
        self._flushing = True
        try:
            self._send_waiting()
        finally:
            self._flushing = False

    def _send_waiting(self) -> None:
        while self._waiting:
            data, entry = self._waiting[0]
            delivered = self._deliver(data, entry)
            if delivered is None:
                return
            self._waiting.popleft()
            self._bytes -= len(data)
            if not delivered:
                self._dropped += 1
        if self._dropped:
            lost = _lost(self._dropped)
            if self._deliver(encode_entry(lost), lost):
                self._dropped = 0

    def _deliver(self, data: bytes, entry: dict[str, str]) -> bool | None:
        """Whether an entry went somewhere; None if it is to be tried again later."""
        while True:
            try:
                self._journal.send(data)
            except BlockingIOError:
                if self._waits:
                    self._waits -= 1
                    self._journal.wait(WAIT)
                    continue
                if not self._finishing:
                    self._again()
                    return None
                return self._write(entry)
            except OSError:
                return self._write(entry)
            return True

    def _write(self, entry: dict[str, str]) -> bool:
        prefix = f"<{entry['PRIORITY']}>"
        lines = "".join(f"{prefix}{line}\n" for line in entry["MESSAGE"].split("\n"))
        return self._fallback(lines.encode("utf-8", "backslashreplace"))

    def _again(self) -> None:
        if not self._retrying:
            self._retrying = True
            self._later(RETRY, self._retry)

    def _retry(self) -> None:
        with self._lock:
            self._retrying = False
            self._flush()


def _lost(count: int) -> dict[str, str]:
    return {
        "MESSAGE": f"{count} log lines were lost: journald did not take them in time",
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "bzzz",
    }
