"""Who asks, and who may."""

from __future__ import annotations

import os
import pwd
import socket
import struct
from collections.abc import Callable

from twisted.internet.defer import Deferred, execute, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from bzzz.web import credentials
from bzzz.web.credentials import (
    NAME_SECONDS,
    Access,
    Accounts,
    Credentials,
    ServiceGroup,
    peer_credentials,
    peer_groups,
)

ACCOUNTS = Accounts(execute)
OPERATORS = ServiceGroup(998, "bzzz")


class NamesTests(SynchronousTestCase):
    """Names of users."""

    def test_remembered(self) -> None:
        """A name is looked up once a minute at most, and some are remembered."""
        clock = Clock()
        asked: list[object] = []

        def look_up(look: Callable[[], str]) -> Deferred[str]:
            asked.append(look)
            return succeed(look())

        accounts = Accounts(look_up, clock.seconds)
        for seconds, count in ((0, 1), (NAME_SECONDS - 1, 1), (1, 2), (0, 2)):
            clock.advance(seconds)
            self.assertEqual(self.successResultOf(accounts.name_of(0)), "root")
            self.assertEqual(len(asked), count)
        self.patch(credentials, "MAX_NAMES", 3)
        for uid in range(4_000_000_000, 4_000_000_009):
            self.assertEqual(self.successResultOf(accounts.name_of(uid)), str(uid))
            self.assertLessEqual(len(accounts._names), 3)

    def test_not_found(self) -> None:
        """A look-up that fails is not remembered."""
        accounts = Accounts(lambda look: fail(RuntimeError("no thread")), Clock().seconds)
        self.failureResultOf(accounts.name_of(0), RuntimeError)
        self.assertEqual(accounts._names, {})


class Connection:
    """A socket as the kernel tells of its other end.

    :param groups: None for a kernel that does not tell.
    """

    def __init__(
        self, uid: int = 1000, gid: int = 1000, groups: tuple[int, ...] | None = ()
    ) -> None:
        self._told = {socket.SO_PEERCRED: struct.pack("=iII", 4242, uid, gid)}
        if groups is not None and credentials.SO_PEERGROUPS is not None:
            self._told[credentials.SO_PEERGROUPS] = struct.pack(f"={len(groups)}I", *groups)

    def getsockopt(self, level: int, option: int, length: int, /) -> bytes:
        if level != socket.SOL_SOCKET or option not in self._told:
            raise OSError(92, "Protocol not available")
        if len(self._told[option]) > length:
            raise OSError(34, "Numerical result out of range")
        return self._told[option]


class CredentialsTests(SynchronousTestCase):
    """What the kernel tells."""

    def test_of_a_socket(self) -> None:
        """A real socket has this process's own credentials and groups."""
        here, there = socket.socketpair()
        self.addCleanup(here.close)
        self.addCleanup(there.close)
        found = peer_credentials(here, ACCOUNTS)
        self.assertEqual(
            (found.pid, found.uid, found.gid), (os.getpid(), os.geteuid(), os.getegid())
        )
        groups = peer_groups(here)
        assert groups is not None  # Linux 4.13
        self.assertEqual(sorted(groups), sorted(os.getgroups()))

    def test_large_numbers(self) -> None:
        """Users and groups have numbers up to 2^32."""
        found = peer_credentials(Connection(4294967294, 4294967293), ACCOUNTS)
        self.assertEqual((found.uid, found.gid), (4294967294, 4294967293))

    def test_name(self) -> None:
        """The user's name is looked up when it is asked for; without one it is the number."""
        asked: list[object] = []
        accounts = Accounts(lambda look: asked.append(look) or execute(look))  # type: ignore[func-returns-value]  # append
        found = Credentials(1, 0, 0, accounts)
        self.assertEqual(asked, [])
        self.assertEqual(self.successResultOf(found.user_name()), pwd.getpwuid(0).pw_name)
        self.assertEqual(len(asked), 1)
        nobody = Credentials(1, 4_000_000_000, 0, accounts)
        self.assertEqual(self.successResultOf(nobody.user_name()), "4000000000")

    def test_shown(self) -> None:
        """What is shown of it has the numbers alone."""
        found = Credentials(4242, 1000, 1000, ACCOUNTS)
        self.assertEqual(repr(found), "Credentials(pid=4242, uid=1000, gid=1000)")


class AccessTests(SynchronousTestCase):
    """Who may ask."""

    def judge(self, access: Access, connection: Connection) -> bool | None:
        return access.judge(peer_credentials(connection, ACCOUNTS), connection)

    def test_private(self) -> None:
        """Without a group only root and the node's own user may."""
        access = Access(1000, None)
        self.assertTrue(self.judge(access, Connection(1000, 7)))
        self.assertTrue(self.judge(access, Connection(0, 0)))
        self.assertFalse(self.judge(access, Connection(1001, 1000, (1000, 998))))
        self.assertEqual(str(access), "root, the node's own user")

    def test_group(self) -> None:
        """With one, its members may too, by the process's own group or a supplementary one."""
        access = Access(997, OPERATORS)
        for uid, gid, groups, expected in (
            (997, 998, (), True),
            (0, 0, (), True),
            (1000, 998, (), True),
            (1000, 1000, (4, 24, 998), True),
            (1000, 1000, (4, 24), False),
            (1000, 1000, (), False),
            (65534, 65534, (65534,), False),
        ):
            self.assertIs(self.judge(access, Connection(uid, gid, groups)), expected)
        self.assertEqual(str(access), "root, the node's own user and members of the group bzzz")

    def test_no_groups_told(self) -> None:
        """Where the kernel does not tell the groups, or has too many, the database does."""
        me = pwd.getpwuid(os.getuid())
        ours = ServiceGroup(os.getgrouplist(me.pw_name, me.pw_gid)[-1], "ours")
        foreign = ServiceGroup(4_000_000_001, "foreign")
        for groups in (None, tuple(range(2_000_000, 2_000_300))):
            for uid, group, expected in (
                (me.pw_uid, ours, True),
                (me.pw_uid, foreign, False),
                (4_000_000_000, ours, False),
            ):
                connection = Connection(uid, 4_000_000_002, groups)
                found = Credentials(1, uid, 4_000_000_002, ACCOUNTS)
                # Root, who may run this test, is let in as that.
                self.patch(credentials, "ROOT", 4_000_000_003)
                access = Access(4_000_000_004, group)
                self.assertIsNone(access.judge(found, connection))
                self.assertIs(self.successResultOf(access.look_up(found)), expected, (uid, group))

    def test_no_option(self) -> None:
        """On an architecture where the number means something else, it is not asked for."""
        self.patch(credentials, "SO_PEERGROUPS", None)
        here, there = socket.socketpair()
        self.addCleanup(here.close)
        self.addCleanup(there.close)
        self.assertIsNone(peer_groups(here))
