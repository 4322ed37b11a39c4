"""What is read from the environment that systemd makes."""

from __future__ import annotations

import os

from twisted.trial.unittest import SynchronousTestCase

from bzzz.systemd.environment import Environment, find_systemd

PID = 4242


def stderr(device: int, inode: int) -> os.stat_result:
    return os.stat_result((0o140777, inode, device, 1, 0, 0, 0, 0, 0, 0))


class EnvironmentTests(SynchronousTestCase):
    """find_systemd()"""

    def find(
        self, parent: int = 1, status: os.stat_result | None = None, **environ: str
    ) -> Environment:
        return find_systemd(environ, PID, parent, status)

    def test_nothing(self) -> None:
        """A process whose environment says nothing was not started by systemd."""
        self.assertEqual(self.find(), Environment())

    def test_started_by_systemd(self) -> None:
        """SYSTEMD_EXEC_PID counts when it is this process."""
        self.assertTrue(self.find(parent=77, SYSTEMD_EXEC_PID=str(PID)).supervised)

    def test_shell_of_a_desktop(self) -> None:
        """What a shell has inherited from the service that it was started from does not count."""
        inherited = {"SYSTEMD_EXEC_PID": "100", "INVOCATION_ID": "ab" * 16}
        for parent in (77, 1):
            self.assertFalse(find_systemd(inherited, PID, parent, None).supervised)

    def test_old_systemd(self) -> None:
        """Before systemd 248 its own children are those with an INVOCATION_ID and parent 1."""
        self.assertTrue(self.find(parent=1, INVOCATION_ID="ab" * 16).supervised)
        self.assertFalse(self.find(parent=77, INVOCATION_ID="ab" * 16).supervised)

    def test_started_by_a_shell_of_the_unit(self) -> None:
        """A shell that the unit runs, and that waits for the node, is as good."""
        self.assertTrue(self.find(parent=77, SYSTEMD_EXEC_PID="77").supervised)

    def test_notify_socket_of_another(self) -> None:
        """What a process below another service has inherited is not used."""
        inherited = {"NOTIFY_SOCKET": "/run/systemd/notify", "SYSTEMD_EXEC_PID": "55"}
        found = find_systemd(inherited, PID, 77, None)
        self.assertEqual((found.supervised, found.notify_socket), (False, ""))

    def test_notify_socket(self) -> None:
        """Whoever sets NOTIFY_SOCKET waits for notifications."""
        found = self.find(parent=77, NOTIFY_SOCKET="/run/systemd/notify")
        self.assertEqual((found.supervised, found.notify_socket), (True, "/run/systemd/notify"))

    def test_watchdog(self) -> None:
        """The watchdog's time counts for the process that it is set for; nonsense is none."""
        self.assertEqual(self.find(WATCHDOG_USEC="30000000").watchdog_seconds, 30.0)
        ours = self.find(WATCHDOG_USEC="500000", WATCHDOG_PID=str(PID))
        self.assertEqual(ours.watchdog_seconds, 0.5)
        self.assertIsNone(self.find(WATCHDOG_USEC="30000000", WATCHDOG_PID="1").watchdog_seconds)
        for nonsense in ("", "0", "-5", "soon", "1e6"):
            self.assertIsNone(self.find(WATCHDOG_USEC=nonsense).watchdog_seconds)

    def test_journal(self) -> None:
        """The journal gets standard error when that is the stream which JOURNAL_STREAM names."""
        self.assertTrue(self.find(status=stderr(9, 1234), JOURNAL_STREAM="9:1234").journal)
        self.assertFalse(self.find(status=stderr(9, 1235), JOURNAL_STREAM="9:1234").journal)
        self.assertFalse(self.find(status=None, JOURNAL_STREAM="9:1234").journal)
        self.assertFalse(self.find(status=stderr(9, 1234)).journal)
