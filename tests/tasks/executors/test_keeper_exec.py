"""What a shim does that no command is needed for; the rest is in ``test_keeper``."""

from __future__ import annotations

import socket

from twisted.trial.unittest import SynchronousTestCase

from bzzz.tasks.executors import keeper_exec
from bzzz.tasks.executors.keeper_exec import Refused, restrict
from bzzz.tasks.executors.keeper_shim import receive, stop_message


class RestrictTests(SynchronousTestCase):
    """Without a kernel that would restrict this process for good.

    :ivar done: what was asked of the kernel.
    """

    def setUp(self) -> None:
        self.done: list[str] = []
        for name in ("leave_network", "refuse_new_privileges"):
            self.patch(keeper_exec, name, lambda name=name: self.done.append(name))

    def test_profiles(self) -> None:
        """Each profile takes what it says, and the network goes first."""
        for profile, done in (
            ("default", ["refuse_new_privileges"]),
            ("no-network", ["leave_network", "refuse_new_privileges"]),
            ("trusted", []),
        ):
            restrict(profile)
            self.assertEqual(self.done, done)
            self.done.clear()

    def test_network_cannot_be_left(self) -> None:
        """Where no namespace can be made the command is refused, and not run with the network."""

        def leave_network() -> None:
            raise PermissionError(1, "Operation not permitted")

        self.patch(keeper_exec, "leave_network", leave_network)
        refused = self.assertRaises(Refused, restrict, "no-network")
        self.assertIsNone(refused.exit_status)
        self.assertIn("could be made (Operation not permitted)", str(refused))

    def test_unknown_profile(self) -> None:
        """A profile that there is not is refused with those that there are."""
        refused = self.assertRaises(Refused, restrict, "sandbox")
        self.assertIn("sandbox: there is none of that name, but default", str(refused))
        self.assertEqual(self.done, [])


class ReceiveTests(SynchronousTestCase):
    """The socket between keeper and shim."""

    def setUp(self) -> None:
        self.keeper, self.shim = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.addCleanup(self.keeper.close)
        self.addCleanup(self.shim.close)

    def test_message(self) -> None:
        """One message is taken at a time."""
        for grace in (1.0, 2.0):
            self.keeper.send(stop_message(grace))
        self.assertEqual(receive(self.shim, 100), stop_message(1.0))
        self.assertEqual(receive(self.shim, 100), stop_message(2.0))

    def test_gone(self) -> None:
        """A keeper that is gone says nothing more, also where it had not read all."""
        self.shim.send(b"unread")
        self.keeper.close()
        self.assertEqual([receive(self.shim, 100) for _ in range(2)], [b"", b""])
