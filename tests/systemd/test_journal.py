"""Log events as entries of the journal."""

from __future__ import annotations

import array
import errno
import os
import socket
import struct
from collections.abc import Callable

from twisted.logger import Logger
from twisted.trial.unittest import SynchronousTestCase

from bzzz.log import log_text
from bzzz.systemd import journal
from bzzz.systemd.journal import JournalObserver, JournalSocket, encode_entry


def decode(data: bytes) -> dict[str, str]:
    """The fields of a datagram of the native protocol."""
    fields = {}
    while data:
        line, data = data.split(b"\n", 1)
        name, equals, value = line.partition(b"=")
        if not equals:
            (size,) = struct.unpack("<Q", data[:8])
            value, data = data[8 : 8 + size], data[8 + size + 1 :]
        fields[name.decode()] = value.decode()
    return fields


class FakeSocket(JournalSocket):
    """Takes entries, or refuses them with ``error``."""

    def __init__(self) -> None:
        super().__init__("/nonexistent")
        self.error: OSError | None = None
        self.sent: list[dict[str, str]] = []

    def send(self, data: bytes) -> None:
        if self.error is not None:
            raise self.error
        self.sent.append(decode(data))


class EncodingTests(SynchronousTestCase):
    """The native protocol."""

    def test_example(self) -> None:
        """The specification's form: a line for a short field, the length before a long one."""
        data = encode_entry({"PRIORITY": "3", "MESSAGE": "one\ntwo", "PEER_ID": "é"})
        self.assertEqual(
            data,
            b"PRIORITY=3\nMESSAGE\n\x07\0\0\0\0\0\0\0one\ntwo\nPEER_ID=" + "é".encode() + b"\n",
        )
        self.assertEqual(decode(data), {"PRIORITY": "3", "MESSAGE": "one\ntwo", "PEER_ID": "é"})


class ObserverTests(SynchronousTestCase):
    """What becomes of an event."""

    def setUp(self) -> None:
        self.socket = FakeSocket()
        self.later: list[tuple[float, Callable[[], None]]] = []
        self.fallback = b""
        self.closed = False
        self.observer = JournalObserver(
            log_text, lambda *call: self.later.append(call), self.write, self.socket
        )
        self.log = Logger(__name__, observer=self.observer)

    def write(self, data: bytes) -> bool:
        if not self.closed:
            self.fallback += data
        return not self.closed

    def test_fields(self) -> None:
        """Priority, peer, event, logger and place are fields of their own."""
        self.log.info("Connected to {label}", label="x", peer_id="12D3", event="connected")
        (entry,) = self.socket.sent
        self.assertEqual(entry["MESSAGE"], "Connected to x")
        self.assertEqual(entry["PRIORITY"], "6")
        self.assertEqual(entry["PEER_ID"], "12D3")
        self.assertEqual(entry["EVENT"], "connected")
        self.assertEqual(entry["LOGGER"], __name__)
        self.assertEqual(entry["SYSLOG_IDENTIFIER"], "bzzz")
        self.assertTrue(entry["CODE_FILE"].endswith("test_journal.py"))
        self.assertEqual(entry["CODE_FUNC"], "ObserverTests.test_fields")
        self.assertTrue(entry["CODE_LINE"].isdecimal())

    def test_no_false_place(self) -> None:
        """An event that is told later than it happened has no place, rather than a wrong one."""
        self.observer({"log_format": "early", "log_namespace": "elsewhere", "log_time": 0.0})
        self.assertNotIn("CODE_FILE", self.socket.sent[0])

    def test_priorities(self) -> None:
        """The levels are syslog's."""
        for write in (self.log.debug, self.log.info, self.log.warn, self.log.error):
            write("x")
        self.log.critical("x")
        self.assertEqual([entry["PRIORITY"] for entry in self.socket.sent], list("76432"))

    def test_traceback_is_one_entry(self) -> None:
        """A failure is one entry with its traceback."""
        try:
            raise ValueError("wrong")
        except ValueError:
            self.log.failure("it broke")
        (entry,) = self.socket.sent
        self.assertTrue(entry["MESSAGE"].startswith("it broke\n"))
        self.assertIn("ValueError: wrong", entry["MESSAGE"])

    def test_no_forged_fields(self) -> None:
        """What a peer puts into a name cannot become a field."""
        self.log.info("{name}", name="a\nPRIORITY=0\nb", peer_id="x\nPRIORITY=1")
        (entry,) = self.socket.sent
        self.assertEqual(entry["PRIORITY"], "6")
        self.assertEqual(entry["MESSAGE"], "a\n\tPRIORITY=0\n\tb")
        self.assertEqual(entry["PEER_ID"], "x\nPRIORITY=1")

    def test_kept_until_journald_takes_it(self) -> None:
        """What does not go at once goes later, in order; one retry is under way at a time."""
        self.socket.error = BlockingIOError()
        self.log.info("one")
        self.log.info("two")
        self.assertEqual(len(self.later), 1)
        self.later.pop()[1]()
        self.assertEqual(len(self.later), 1)
        self.socket.error = None
        self.later.pop()[1]()
        self.log.info("three")
        self.assertEqual([e["MESSAGE"] for e in self.socket.sent], ["one", "two", "three"])
        self.assertEqual(self.later, [])

    def test_lost_lines_are_told(self) -> None:
        """Beyond the limit lines are dropped, and their number is told."""
        self.patch(journal, "MAX_WAITING", 3)
        self.socket.error = BlockingIOError()
        for number in range(5):
            self.log.info("{n}", n=number)
        self.socket.error = None
        self.later.pop()[1]()
        messages = [entry["MESSAGE"] for entry in self.socket.sent]
        self.assertEqual(messages[:3], ["0", "1", "2"])
        self.assertEqual(
            messages[3:], ["2 log lines were lost: journald did not take them in time"]
        )
        self.assertEqual(self.fallback, b"")

    def test_bytes_are_limited_too(self) -> None:
        """A few long lines are as much as many short ones."""
        self.patch(journal, "MAX_WAITING_BYTES", 2000)
        self.socket.error = BlockingIOError()
        for _ in range(5):
            self.log.info("x" * 900)
        self.socket.error = None
        self.later.pop()[1]()
        self.assertEqual(len(self.socket.sent), 2)

    def test_fallback(self) -> None:
        """Without journald's socket lines have systemd's prefixes, each line of a text its own."""
        self.socket.error = FileNotFoundError()
        self.log.error("one\ntwo")
        self.log.info("three")
        self.assertEqual(self.fallback, b"<3>one\n<3>\ttwo\n<6>three\n")
        self.assertEqual(self.later, [])

    def test_closed_fallback(self) -> None:
        """Lines that nobody takes are counted, and the count is told once somebody does."""
        self.socket.error = FileNotFoundError()
        self.closed = True
        self.log.error("nobody hears")
        self.log.error("nor this")
        self.assertEqual(self.later, [])
        self.socket.error = None
        self.log.info("here again")
        messages = [entry["MESSAGE"] for entry in self.socket.sent]
        self.assertEqual(messages[0], "here again")
        self.assertIn("2 log lines were lost", messages[1])

    def test_logged_in_the_middle(self) -> None:
        """What is logged while an entry is sent, as garbage may at any time, is sent after it."""
        send = self.socket.send

        def interrupted(data: bytes) -> None:
            if not self.socket.sent:
                self.socket.sent.append({})
                self.log.error("in the middle")
                self.socket.sent.clear()
                self.patch(self.socket, "send", send)
            send(data)

        self.patch(self.socket, "send", interrupted)
        self.log.info("one")
        self.log.info("two")
        messages = [entry["MESSAGE"] for entry in self.socket.sent]
        self.assertEqual(messages, ["one", "in the middle", "two"])

    def test_at_the_end(self) -> None:
        """Without a reactor journald is waited for a little, and then lines go elsewhere."""
        waited: list[float] = []
        self.patch(self.socket, "wait", waited.append)
        self.socket.error = BlockingIOError()
        self.log.info("one")
        self.observer.finish()
        self.log.info("two")
        self.assertEqual(self.fallback, b"<6>one\n<6>two\n")
        self.assertEqual(waited, [journal.WAIT] * journal.WAITS)
        self.socket.error = None
        self.log.info("three")
        self.assertEqual([entry["MESSAGE"] for entry in self.socket.sent], ["three"])

    def test_lone_surrogate(self) -> None:
        """A text that is no Unicode, such as the name of a file, does not cost the entry."""
        self.log.info("{path}", path="a\ud800b\udcff")
        self.assertEqual(self.socket.sent[0]["MESSAGE"], "a\\ud800b\\udcff")


class WriterTests(SynchronousTestCase):
    """writer(), with a pipe of the kernel."""

    def test_writes(self) -> None:
        """What the pipe takes is written."""
        reader, end = os.pipe()
        self.addCleanup(os.close, reader)
        self.assertTrue(journal.writer(end)(b"x" * 10_000))
        self.assertEqual(os.read(reader, 20_000), b"x" * 10_000)
        os.close(end)
        self.assertFalse(journal.writer(end)(b"x"))

    def test_never_waits(self) -> None:
        """A pipe that nobody empties is not waited for."""
        reader, end = os.pipe()
        self.addCleanup(os.close, reader)
        self.addCleanup(os.close, end)
        self.assertFalse(journal.writer(end)(b"x" * (1 << 20)))


class SocketTests(SynchronousTestCase):
    """JournalSocket, with a socket of the kernel that stands for journald's."""

    def setUp(self) -> None:
        self.path = f"\0bzzz-test-journal-{os.getpid()}"
        self.receiver = self.listen()
        self.sender = JournalSocket(self.path)
        self.addCleanup(self.sender.close)

    def listen(self) -> socket.socket:
        receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(receiver.close)
        receiver.bind(self.path)
        receiver.setblocking(False)
        return receiver

    def test_small(self) -> None:
        """An entry is a datagram."""
        self.sender.send(b"MESSAGE=x\n")
        self.assertEqual(self.receiver.recv(100), b"MESSAGE=x\n")

    def test_large(self) -> None:
        """One that is too large is a sealed file, passed with an empty datagram."""
        data = encode_entry({"MESSAGE": "x" * (4 << 20)})
        self.sender.send(data)
        content, ancillary, _, _ = self.receiver.recvmsg(100, socket.CMSG_SPACE(4))
        self.assertEqual(content, b"")
        ((level, kind, rights),) = ancillary
        self.assertEqual((level, kind), (socket.SOL_SOCKET, socket.SCM_RIGHTS))
        (descriptor,) = array.array("i", rights)
        self.addCleanup(os.close, descriptor)
        self.assertEqual(os.pread(descriptor, len(data) + 1, 0), data)
        with self.assertRaises(OSError) as raised:
            os.write(descriptor, b"changed")
        self.assertEqual(raised.exception.errno, errno.EPERM)

    def test_full(self) -> None:
        """A journald that does not read is no wait."""
        with self.assertRaises(BlockingIOError):
            for _ in range(100_000):
                self.sender.send(b"MESSAGE=x\n")

    def test_new_socket(self) -> None:
        """When journald's socket was made anew, the next entry goes there."""
        self.sender.send(b"MESSAGE=1\n")
        self.receiver.close()
        self.receiver = self.listen()
        self.sender.send(b"MESSAGE=2\n")
        self.assertEqual(self.receiver.recv(100), b"MESSAGE=2\n")

    def test_gone(self) -> None:
        """Without a socket it is an error."""
        self.receiver.close()
        self.assertRaises(OSError, self.sender.send, b"MESSAGE=x\n")
