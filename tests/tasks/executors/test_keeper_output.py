"""Output of commands, from pipes to files."""

from __future__ import annotations

import os
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from bzzz.tasks.executors.keeper_output import CHUNK, READS_A_TURN, Output, open_output

CUT = b"[bzzz: the output after these %d bytes was thrown away]\n"


class OutputTests(SynchronousTestCase):
    """A pipe without a process at its other end."""

    def setUp(self) -> None:
        self.path = Path(self.mktemp())

    def make(self, limit: int) -> tuple[int, Output]:
        source, sink = os.pipe()
        os.set_blocking(source, False)
        output = Output(source, open_output(str(self.path)), limit)
        self.addCleanup(output.close)
        return sink, output

    def test_all(self) -> None:
        """What is below the limit is kept as it is, for the owner's eyes."""
        sink, output = self.make(6)
        os.write(sink, b"one\n")
        self.assertTrue(output.turn())
        os.write(sink, b"tw")
        os.close(sink)
        self.assertFalse(output.turn())
        self.assertEqual(self.path.read_bytes(), b"one\ntw")
        self.assertEqual(self.path.stat().st_mode & 0o777, 0o600)

    def test_appended(self) -> None:
        """What an attempt before this one wrote stays, and does not count."""
        self.path.write_bytes(b"before\n")
        sink, output = self.make(4)
        os.write(sink, b"now\n")
        output.turn()
        os.close(sink)
        self.assertEqual(self.path.read_bytes(), b"before\nnow\n")

    def test_cut(self) -> None:
        """One line is in the place of all that is too much, and starts a line."""
        sink, output = self.make(5)
        for data in (b"abc", b"defgh", b"ijk"):
            os.write(sink, data)
            output.turn()
        os.close(sink)
        self.assertEqual(self.path.read_bytes(), b"abcde\n" + CUT % 5)

    def test_cut_at_a_line(self) -> None:
        """Where what is kept ends with a line, none is empty."""
        sink, output = self.make(4)
        os.write(sink, b"abc\n")
        output.turn()
        self.assertEqual(self.path.read_bytes(), b"abc\n")
        os.write(sink, b"d")
        output.turn()
        os.close(sink)
        self.assertEqual(self.path.read_bytes(), b"abc\n" + CUT % 4)

    def test_bounded_turn(self) -> None:
        """A turn ends, however much there is."""
        reads = 0

        def read(fd: int, size: int) -> bytes:
            nonlocal reads
            reads += 1
            return bytes(size)

        sink, output = self.make(10)
        os.close(sink)
        self.patch(os, "read", read)
        self.assertTrue(output.turn())
        self.assertEqual(reads, READS_A_TURN)

    def test_full_disk(self) -> None:
        """Where nothing can be written any more, what comes is still taken, and it is known."""

        def write(fd: int, data: bytes) -> int:
            raise OSError(28, "No space left on device")

        sink, output = self.make(1 << 20)
        self.patch(os, "write", write)
        os.close(sink)
        self.patch(os, "read", lambda fd, size: b"x")
        self.assertTrue(output.turn())
        self.assertEqual(output.failed, "No space left on device")

    def test_short_writes(self) -> None:
        """What the file did not take at once is written again from there."""
        real = os.write
        sink, output = self.make(100)
        real(sink, b"abcdefg")
        os.close(sink)
        self.patch(os, "write", lambda fd, data: real(fd, data[:3]))
        output.turn()
        self.assertEqual(self.path.read_bytes(), b"abcdefg")

    def test_link(self) -> None:
        """A symbolic link that a task put in the place of its output is not followed."""
        self.path.symlink_to("/dev/null")
        self.assertRaises(OSError, open_output, str(self.path))

    def test_chunk(self) -> None:
        """A turn empties any pipe that an unprivileged process can make."""
        largest = int(Path("/proc/sys/fs/pipe-max-size").read_text())
        self.assertGreaterEqual(CHUNK * READS_A_TURN, min(largest, 1 << 20))
