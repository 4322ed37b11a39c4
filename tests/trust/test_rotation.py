"""Another key for a node: what it says, what it keeps, and what a crash at any moment leaves."""

from __future__ import annotations

import base64
import errno
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.task import Clock
from twisted.logger import LogLevel
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from bzzz.database import DatabaseError
from bzzz.errors import BzzzError, IdentityError
from bzzz.identity.keys import PrivateKey
from bzzz.identity.peer_id import PeerID
from bzzz.state import OpenState, StateDirectory
from bzzz.trust import rotation
from bzzz.trust.audit import AuditLog
from bzzz.trust.audit_disk import open_files, read_lines
from bzzz.trust.audit_report import Report
from bzzz.trust.audit_verify import verify
from bzzz.trust.cluster import Cluster, ClusterError
from bzzz.trust.codes import make_token
from bzzz.trust.invitations import TokenRecord
from bzzz.trust.pairing_streams import Pairing
from bzzz.trust.roster import Roster
from bzzz.trust.rotation import (
    ANSWER_SECONDS,
    LOOK_SECONDS,
    TELL_SECONDS,
    VOID,
    Rotated,
    Rotation,
    Whereabouts,
    drop_tokens,
    finish,
    settle,
)
from bzzz.trust.statements import Right, Role, Rotate, SignedStatement, decode_statement
from bzzz.wire.multiaddr import Multiaddr
from tests.logs import lines_at
from tests.trust.rosters import TIME, key
from tests.web.clusters import NOW, InvitationMemory, NoSwarm

ACACIA, IRONWOOD = key("acacia").peer_id, key("ironwood").peer_id

# Calls between any two of which a crash may come: those that change what is on the disk.
CALLS = (
    "fsync",
    "fdatasync",
    "link",
    "unlink",
    "rename",
    "replace",
    "write",
    "pwrite",
    "ftruncate",
)

# More than a rotation takes.
MOST_CALLS = 200


class Ended(BaseException):
    """The process has been killed."""


class Power:
    """Kills the process at a call that changes the disk.

    :ivar left: how many more calls succeed; None while nobody is killed.
    :ivar off: whether the process is dead, so that nothing it goes on to do is done.
    """

    def __init__(self, case: SynchronousTestCase) -> None:
        self.left: int | None = None
        self.off = False
        for name in CALLS:
            case.patch(os, name, self._guarded(name, getattr(os, name)))

    def spend(self) -> None:
        """One more call, unless the process is dead by now."""
        if self.left is not None:
            self.off = self.off or self.left == 0
            self.left -= 1
        if self.off:
            raise Ended

    def restore(self) -> None:
        """The machine is on again."""
        self.left, self.off = None, False

    def _guarded(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(*arguments: Any, **named: Any) -> Any:
            try:
                self.spend()
            except Ended:
                if name == "write" and self.left == -1:
                    # Half of it got there.
                    call(arguments[0], arguments[1][: len(arguments[1]) // 2])
                raise
            if name in {"fsync", "fdatasync"}:
                # The disk of the machine that runs tests is not what is tested.
                return None
            return call(*arguments, **named)

        return guarded


class RosterDisk:
    """Implements :class:`bzzz.trust.roster_store.RosterStore`; each change is there or not.

    :ivar kept: what is on it.
    :ivar failing: fails, after it has written or before.
    """

    def __init__(self, power: Power) -> None:
        self.kept: list[bytes] = []
        self.failing = ""
        self._power = power

    def load(self) -> Deferred[list[bytes]]:
        return succeed(list(self.kept))

    def add(self, statements: Sequence[SignedStatement]) -> Deferred[None]:
        return maybeDeferred(self._add, statements)

    def _add(self, statements: Sequence[SignedStatement]) -> None:
        self._power.spend()
        if self.failing == "before":
            raise DatabaseError("the disk is full; make room")
        self.kept += [each.encode() for each in statements if each.encode() not in self.kept]
        if self.failing == "after":
            raise DatabaseError("the disk fails")
        self._power.spend()

    def replace(self, statements: Sequence[SignedStatement]) -> Deferred[None]:
        self.kept.clear()
        return self.add(statements)

    def clear(self) -> Deferred[None]:
        self.kept.clear()
        return succeed(None)

    def roster(self) -> Roster | None:
        return Roster.load(self.kept) if self.kept else None

    def rotations(self) -> list[Rotate]:
        said = (decode_statement(each).statement for each in self.kept)
        return [each for each in said if isinstance(each, Rotate)]


class Members:
    """Implements :class:`bzzz.trust.rotation.Talk`.

    :ivar hearing: those who end the link when they are told.
    """

    def __init__(self, clock: Clock) -> None:
        self.linked: list[PeerID] = []
        self.hearing: set[PeerID] = set()
        self.flushed = 0
        self._clock = clock

    @property
    def talking(self) -> Sequence[PeerID]:
        return tuple(self.linked)

    def flush(self) -> None:
        self.flushed += 1
        for peer in self.hearing & set(self.linked):
            self._clock.callLater(LOOK_SECONDS, self.linked.remove, peer)


class Running:
    """A node as it runs: made as ``bzzz.node_trust`` makes it, with the same state directory."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.clock = Clock()
        self.restarts = 0
        # An open file is closed when its process is killed.
        self.state: OpenState = StateDirectory(machine.path, machine.random_bytes).open()
        machine.case.addCleanup(self.state.close)
        self.members = Members(self.clock)
        log = machine.path / "audit.log"
        settle(self.state, machine.disk.roster(), log)
        self.audit = AuditLog(
            log,
            self.state.previous or self.state.identity,
            self.clock,
            lambda: NOW + self.clock.seconds(),
            maybeDeferred,
        )
        swarm: Any = NoSwarm()
        self.cluster = Cluster(
            self.state.identity,
            machine.disk,
            lambda: TIME,
            machine.random_bytes,
            machine.randomness,
            lambda event, **fields: None,
            maybeDeferred,
            self.audit.record,
        )
        self.pairing = Pairing(
            swarm,
            self.cluster,
            machine.tokens,
            self.clock,
            lambda: NOW,
            machine.random_bytes,
            maybeDeferred,
            self.audit.record,
        )
        self.rotation = Rotation(
            self.state,
            self.cluster,
            self.pairing,
            self.members,
            self.clock,
            maybeDeferred,
            self._restart,
        )

    def _restart(self) -> None:
        self.restarts += 1

    async def start(self) -> None:
        if self.state.previous is not None:
            written = self.audit.rotate_key(self.state.identity)
            self.finished = Deferred.fromCoroutine(finish(self.state, written, maybeDeferred))
            self.finished.addErrback(lambda failure: failure.trap(Ended))
        await self.audit.start()
        await self.cluster.load()
        await drop_tokens(self.machine.tokens, self.cluster.peer_id, self.audit.record)
        await self.pairing.load()
        self.audit.record("started")

    async def stop(self) -> None:
        self.pairing.stop()
        self.audit.record("stopped")
        await self.audit.close()
        self.state.close()

    def rotate(self) -> Rotated:
        """Rotate, while time passes."""
        rotated: Rotated = self.machine.wait(self.rotation.rotate(), self.clock)
        return rotated


class Machine:
    """What outlives a process: a state directory, and a roster in its database."""

    def __init__(self, case: SynchronousTestCase) -> None:
        import random

        self.case = case
        self.path = Path(case.mktemp()).absolute()
        self.power = Power(case)
        self.disk = RosterDisk(self.power)
        self.tokens = InvitationMemory()
        self.randomness = random.Random(case.id())
        self.random_bytes = self.randomness.randbytes

    def wait(self, work: Any, clock: Clock | None = None) -> Any:
        """What comes of it."""
        result: list[Any] = []
        Deferred.fromCoroutine(work).addBoth(result.append)
        for _ in range(1000):
            if result or clock is None:
                break
            clock.advance(LOOK_SECONDS)
        if not result:
            raise Ended  # it waits for what a dead process does not do
        if isinstance(result[0], Failure):
            result[0].raiseException()
        return result[0]

    def start(self) -> Running:
        """Start the node."""
        running = Running(self)
        self.wait(running.start())
        return running

    def stop(self, running: Running) -> None:
        """End it in order."""
        self.wait(running.stop())

    def again(self, running: Running) -> Running:
        """End it in order and start it again."""
        self.stop(running)
        return self.start()

    def found(self) -> Running:
        """A node that is admin of a cluster of its own, with two members."""
        running = self.start()
        self.wait(running.cluster.create("homelab", "walnut"))
        for name in ("acacia", "ironwood"):
            self.wait(running.cluster.admit(key(name).peer_id, name, Role.MEMBER))
        return running

    def key_on_disk(self) -> PrivateKey:
        return PrivateKey.decode(base64.b64decode((self.path / "identity.key").read_bytes()))

    def report(self) -> Report:
        """What a check of the audit log finds."""
        opened = open_files(self.path / "audit.log")
        try:
            return verify(
                [(str(name), read_lines(file)) for name, file in opened],
                node=str(self.key_on_disk().peer_id),
            )
        finally:
            for _, file in opened:
                file.close()


class Base(SynchronousTestCase):
    def setUp(self) -> None:
        self.machine = Machine(self)

    def refused(self, code: str, running: Running) -> str:
        error = self.assertRaises(ClusterError, running.rotate)
        self.assertEqual(error.code, code)
        return str(error)

    def is_gone(self, old: PrivateKey) -> None:
        """No file has the old key."""
        for path in self.machine.path.iterdir():
            self.assertNotIn(base64.b64encode(old.encode()), path.read_bytes(), path)
        self.assertEqual(self.machine.path.joinpath("identity.key").stat().st_mode & 0o777, 0o600)
        self.assertFalse((self.machine.path / "identity.key.new").exists())


class RotationTests(Base):
    """A rotation without a crash."""

    def test_member(self) -> None:
        """The node has another peer ID, its name and its rights; the old key is gone."""
        machine = self.machine
        running = machine.found()
        old = running.state.identity
        rotated = running.rotate()
        self.assertEqual(
            (rotated.old, rotated.cluster, rotated.name), (old.peer_id, "homelab", "walnut")
        )
        # Until the start that follows nothing on the disk has been taken away.
        self.assertEqual(machine.key_on_disk().peer_id, old.peer_id)
        running = machine.again(running)
        self.assertEqual(running.cluster.peer_id, rotated.new)
        self.assertEqual(machine.key_on_disk().peer_id, rotated.new)
        roster = running.cluster.member_of()
        self.assertEqual(roster.name_of(rotated.new), "walnut")
        self.assertIn(Right.ADMINISTER, roster.rights(rotated.new))
        self.assertFalse(roster.admits(old.peer_id))
        self.is_gone(old)
        machine.wait(running.cluster.revoke(ACACIA, "it was sold"))
        report = machine.report()
        self.assertEqual((report.problems, report.notes), ([], []))
        self.assertEqual(report.keys, [str(old.peer_id), str(rotated.new)])

    def test_restarted_once(self) -> None:
        """The process is ended a moment after the answer, once."""
        running = self.machine.found()
        running.rotate()
        self.assertEqual(running.restarts, 0)
        running.clock.advance(ANSWER_SECONDS)
        self.assertEqual(running.restarts, 1)
        self.assertIn("at this moment", self.refused("busy", running))

    def test_again(self) -> None:
        """A node can be rotated as often as one likes; its log stays one chain."""
        machine = self.machine
        running = machine.found()
        keys = [running.state.identity]
        for _ in range(3):
            running.rotate()
            running = machine.again(running)
            keys.append(running.state.identity)
        self.assertEqual(len({each.peer_id for each in keys}), 4)
        for old in keys[:-1]:
            self.is_gone(old)
        report = machine.report()
        self.assertEqual(report.problems, [])
        self.assertEqual(report.keys, [str(each.peer_id) for each in keys])
        self.assertEqual(running.cluster.member_of().name_of(keys[-1].peer_id), "walnut")

    def test_renamed(self) -> None:
        """The name is that of last time, whoever gave it; so is whom the node has let in."""
        machine = self.machine
        running = machine.found()
        for name in ("oak", "elm"):
            machine.wait(running.cluster.rename(running.cluster.peer_id, name))
        machine.wait(running.cluster.admit(key("ash").peer_id, "ash", Role.RUN_ONLY))
        for _ in range(2):
            rotated = running.rotate()
            self.assertEqual(rotated.name, "elm")
            running = machine.again(running)
            names = {each.name for each in running.cluster.member_of().members.values()}
            self.assertEqual(names, {"elm", "acacia", "ironwood", "ash"})

    def test_unclaimed(self) -> None:
        """A node in no cluster has nobody to tell."""
        running = self.machine.start()
        old = running.state.identity
        rotated = running.rotate()
        self.assertEqual((rotated.cluster, rotated.linked, running.members.flushed), ("", 0, 0))
        running = self.machine.again(running)
        self.assertEqual(running.cluster.peer_id, rotated.new)
        self.is_gone(old)
        report = self.machine.report()
        self.assertEqual(report.problems, [])
        self.assertEqual(report.keys, [str(old.peer_id), str(rotated.new)])

    def test_told(self) -> None:
        """The node goes on when all have heard, or when others have had their time."""
        running = self.machine.found()
        running.members.linked = [ACACIA, IRONWOOD]
        running.members.hearing = {ACACIA, IRONWOOD}
        rotated = running.rotate()
        self.assertEqual((rotated.linked, rotated.told), (2, 2))
        self.assertLess(running.clock.seconds(), TELL_SECONDS / 2)
        running = self.machine.again(running)
        running.members.linked = [ACACIA, IRONWOOD]
        running.members.hearing = {IRONWOOD}
        rotated = running.rotate()
        self.assertEqual((rotated.linked, rotated.told), (2, 1))
        self.assertGreaterEqual(running.clock.seconds(), TELL_SECONDS)

    def test_announced(self) -> None:
        """Members are told over the links that there are, after it is on the disk."""
        running = self.machine.found()
        exchange = running.cluster.exchange
        assert exchange is not None
        exchange.peer_up(ACACIA)
        exchange.take_output()
        told: list[bool] = []
        self.patch(
            running.members,
            "flush",
            lambda: told.append(
                bool(exchange.take_output()) and bool(self.machine.disk.rotations())
            ),
        )
        running.rotate()
        self.assertEqual(told, [True])

    def test_nothing_is_said_after_it(self) -> None:
        """The old key says nothing more: what it said beside the rotation would be void."""
        running = self.machine.found()
        running.rotate()
        error = self.failureResultOf(
            Deferred.fromCoroutine(running.cluster.admit(key("oak").peer_id, "oak", Role.MEMBER)),
            ClusterError,
        )
        self.assertEqual(error.value.code, "not_admin")

    def test_revoked(self) -> None:
        """A node that was revoked is told what to do, and gets no key."""
        machine = self.machine
        running = machine.found()
        roster = running.cluster.member_of()
        machine.wait(running.cluster.admit(ACACIA, "acacia", Role.ADMIN))
        own = running.cluster.peer_id
        revoke = roster.make_revoke(key("acacia"), own, "lost", TIME)
        running.cluster.news(roster.merge([revoke]))
        self.assertIn("bzzz leave", self.refused("revoked", running))
        self.assertFalse((machine.path / "identity.key.new").exists())
        self.assertEqual(machine.disk.rotations(), [])

    def test_invitations(self) -> None:
        """What names the node by its old peer ID is void, at once and after a crash."""
        machine = self.machine
        running = machine.found()
        code = machine.wait(running.pairing.open_code(Role.MEMBER, lambda *_, **__: None))
        token = machine.wait(running.pairing.open_token(Role.MEMBER, 1, 60.0))
        rotated = running.rotate()
        self.assertEqual(set(rotated.void), {code.channel, token.channel})
        self.assertEqual((running.pairing.open_ones(), machine.tokens.kept), ([], {}))
        # A crash came before that.
        left = make_token(rotated.old, b"12345678", machine.random_bytes)
        record = TokenRecord(left.text, 1, NOW + 60.0)
        machine.tokens.kept[left.channel] = (record, Role.MEMBER)
        warnings = lines_at(self, LogLevel.warn)
        running = machine.again(running)
        self.assertEqual((running.pairing.open_ones(), machine.tokens.kept), ([], {}))
        self.assertEqual(warnings, [])
        kept = machine.wait(running.pairing.open_token(Role.MEMBER, 1, 60.0))
        running = machine.again(running)
        self.assertEqual([each.channel for each, _ in running.pairing.open_ones()], [kept.channel])
        log = (machine.path / "audit.log").read_text()
        self.assertEqual(log.count(f'"reason":"{VOID}"'), 3)

    def test_nobody_to_tell_and_no_proof(self) -> None:
        """With a roster too long for a proof somebody has to be linked."""
        running = self.machine.found()
        self.patch(rotation, "MAX_PROOF", 1000)
        self.assertIn("connect this node first", self.refused("nobody_linked", running))
        self.assertFalse((self.machine.path / "identity.key.new").exists())
        running.members.linked = [ACACIA]
        self.assertFalse(running.rotate().can_prove)

    def test_a_proof(self) -> None:
        """Who has not heard is shown all that is before the new key's admission."""
        running = self.machine.found()
        rotated = running.rotate()
        self.assertTrue(rotated.can_prove)
        running = self.machine.again(running)
        roster = running.cluster.member_of()
        own = roster.members[rotated.new].statement
        before = Roster.load([each for each in self.machine.disk.kept if b'"rotate"' not in each])
        before.merge(roster.wanted([own], []))
        self.assertEqual(before.name_of(rotated.new), "walnut")


class WhereaboutsTests(Base):
    """Where members with another key are looked for."""

    def test_where_it_was(self) -> None:
        """One that rotates is looked for where it was, once, and only then."""
        running = self.machine.found()
        roster = running.cluster.member_of()
        address = Multiaddr.parse("/ip4/192.0.2.1/tcp/40001")
        known: dict[PeerID, list[Multiaddr]] = {ACACIA: [address]}
        found: list[object] = []
        whereabouts = Whereabouts(
            running.cluster,
            lambda peer: known.get(peer, []),
            lambda *told: found.append(told),
        )
        whereabouts.look()
        self.assertEqual(found, [])
        rotations = [
            roster.make_rotate(key(name), key(f"{name}2"), TIME) for name in ("acacia", "ironwood")
        ]
        running.cluster.news(roster.merge(rotations))
        first = (key("acacia2").peer_id, [address], "acacia")
        self.assertEqual(found, [first])
        known[IRONWOOD] = [address]
        for _ in range(2):
            whereabouts.look()
        self.assertEqual(found, [first, (key("ironwood2").peer_id, [address], "ironwood")])

    def test_somebody_else(self) -> None:
        """Who was admitted by one that is out now is not looked for there."""
        running = self.machine.found()
        machine, roster = self.machine, running.cluster.member_of()
        machine.wait(running.cluster.admit(ACACIA, "acacia", Role.ADMIN))
        admitted = roster.make_admit(key("acacia"), key("oak").peer_id, "oak", Role.MEMBER, TIME)
        running.cluster.news(roster.merge([admitted]))
        machine.wait(running.cluster.revoke(ACACIA))
        self.assertTrue(roster.admits(key("oak").peer_id))
        found: list[object] = []
        address = Multiaddr.parse("/ip4/192.0.2.1/tcp/40001")
        Whereabouts(
            running.cluster, lambda peer: [address], lambda *told: found.append(told)
        ).look()
        self.assertEqual(found, [])


class TroubleTests(Base):
    """Disks that fail."""

    def test_said_in_the_same_words(self) -> None:
        """A rotation that may be on the disk is said again to the byte: two would both be void."""
        for failing in ("before", "after"):
            self.machine = Machine(self)
            running = self.machine.found()
            old = running.state.identity
            self.machine.disk.failing = failing
            self.assertRaises(DatabaseError, running.rotate)
            self.assertTrue((self.machine.path / "identity.key.new").exists())
            self.machine.disk.failing = ""
            rotated = running.rotate()
            self.assertEqual(len(self.machine.disk.rotations()), 1)
            running = self.machine.again(running)
            self.assertEqual(running.cluster.peer_id, rotated.new)
            self.assertTrue(running.cluster.member_of().admits(rotated.new))
            self.is_gone(old)

    def test_decided_by_the_disk(self) -> None:
        """Where nobody tries again the next start finds out what counts."""
        for failing in ("before", "after"):
            self.machine = Machine(self)
            running = self.machine.found()
            old = running.state.identity
            self.machine.disk.failing = failing
            self.assertRaises(DatabaseError, running.rotate)
            self.machine.disk.failing = ""
            running = self.machine.again(running)
            self.assertEqual(running.cluster.peer_id == old.peer_id, failing == "before")
            self.assertTrue(running.cluster.member_of().admits(running.cluster.peer_id))
            self.assertFalse((self.machine.path / "identity.key.new").exists())

    def test_refused_by_the_roster(self) -> None:
        """What cannot be said leaves nothing behind, and can be tried again."""
        running = self.machine.found()
        self.patch(Roster, "make_rotate", lambda *_: fail_with(BzzzError("full")))
        self.assertRaises(BzzzError, running.rotate)
        self.assertFalse((self.machine.path / "identity.key.new").exists())
        self.assertRaises(BzzzError, running.rotate)

    def test_no_room_for_the_key(self) -> None:
        """Where the key cannot be written nothing is said."""
        running = self.machine.found()
        (self.machine.path / ".identity.key.new.new").mkdir()
        self.assertRaises(BzzzError, running.rotate)
        self.assertEqual(self.machine.disk.rotations(), [])

    def test_audit_log_cannot_be_written(self) -> None:
        """The old key is kept until its last line is on the disk, however long that takes."""
        machine = self.machine
        running = machine.found()
        old = running.state.identity
        rotated = running.rotate()
        machine.stop(running)

        def no_space(*arguments: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        datasync = os.fdatasync
        self.patch(os, "fdatasync", no_space)
        running = machine.start()
        machine.stop(running)
        self.assertEqual(machine.key_on_disk().peer_id, old.peer_id)
        errors = lines_at(self, LogLevel.error)
        running = machine.start()
        self.assertEqual(running.cluster.peer_id, rotated.new)
        self.assertEqual(machine.key_on_disk().peer_id, old.peer_id)
        self.assertIn("the node's log", self.refused("unfinished", running))
        self.assertEqual(len(errors), 1)
        self.patch(os, "fdatasync", datasync)
        running.clock.advance(60.0)
        self.is_gone(old)
        self.assertEqual(machine.key_on_disk().peer_id, rotated.new)
        self.assertEqual(machine.report().problems, [])
        running.rotate()

    def test_key_cannot_be_replaced(self) -> None:
        """What cannot be done at the end of a rotation is done at the next start."""
        machine = self.machine
        running = machine.found()
        old = running.state.identity
        rotated = running.rotate()
        machine.stop(running)
        errors = lines_at(self, LogLevel.error)
        replace = os.replace

        def broken(source: Any, target: Any) -> None:
            if str(target).endswith("identity.key"):
                raise OSError(errno.EIO, "Input/output error", str(source))
            replace(source, target)

        self.patch(os, "replace", broken)
        running = machine.start()
        self.assertEqual(machine.key_on_disk().peer_id, old.peer_id)
        self.assertIn("the next start tries again", errors[0])
        self.patch(os, "replace", replace)
        running = machine.again(running)
        self.assertEqual(running.cluster.peer_id, rotated.new)
        self.is_gone(old)
        report = machine.report()
        self.assertEqual((report.problems, len(report.keys)), ([], 2))

    def test_last_line_is_damaged(self) -> None:
        """The old key does not sign once more behind lines of the new one."""
        machine = self.machine
        running = machine.found()
        running.rotate()
        machine.stop(running)
        before = (machine.path / "identity.key").read_bytes()
        running = machine.start()
        new = running.state.identity
        machine.stop(running)
        # As if the key could not have been replaced.
        (machine.path / "identity.key").rename(machine.path / "identity.key.new")
        (machine.path / "identity.key").write_bytes(before)
        (machine.path / "identity.key").chmod(0o600)
        log = machine.path / "audit.log"
        log.write_bytes(log.read_bytes()[:-9] + b"x" * 8 + b"\n")
        running = machine.start()
        self.assertEqual(running.cluster.peer_id, new.peer_id)
        self.assertEqual(log.read_text().count('"event":"key_rotated"'), 1)
        self.assertNotIn("wrong_key", [each.kind for each in machine.report().problems])

    def test_new_key_is_lost(self) -> None:
        """A damaged new key is deleted where it never counted, and else named with its mend."""
        machine = self.machine
        running = machine.found()
        path = machine.path / "identity.key.new"
        path.write_bytes(b"x")
        path.chmod(0o600)
        running = machine.again(running)
        self.assertFalse(path.exists())
        running.rotate()
        machine.stop(running)
        path.write_bytes(b"x")
        error = self.assertRaises(IdentityError, machine.start)
        self.assertIn(str(path), str(error))
        self.assertIn("leave and join again", str(error))
        self.assertTrue(path.exists())

    def test_new_key_of_another(self) -> None:
        """A key that the roster does not name is not taken."""
        machine = self.machine
        running = machine.found()
        own = running.cluster.peer_id
        running.rotate()
        machine.stop(running)
        other = PrivateKey(b"z" * 32)
        (machine.path / "identity.key.new").write_bytes(base64.b64encode(other.encode()))
        running = machine.start()
        self.assertEqual(running.cluster.peer_id, own)
        self.assertTrue(running.cluster.admission.is_revoked)


def fail_with(error: Exception) -> Any:
    raise error


class CrashTests(Base):
    """The process is killed at each call that changes the disk, one after the other."""

    def outcome(self, prepare: Callable[[Machine], Running], count: int) -> tuple[bool, bool]:
        """Kill the process ``count`` calls after the rotation was asked for.

        :return: whether it was killed, and whether the node has another key afterwards.
        """
        self.machine = machine = Machine(self)
        running = prepare(machine)
        old = running.state.identity
        machine.power.left = count
        processes = [running]
        try:
            running.members.linked = [ACACIA]
            running.members.hearing = {ACACIA}
            running.rotate()
            machine.stop(running)
            processes.append(Running(machine))
            machine.wait(processes[-1].start())
            machine.stop(processes[-1])
        except Ended:
            pass  # what runs on after that does nothing
        killed = machine.power.off
        machine.power.restore()
        self.flushLoggedErrors(Ended)
        for each in processes:
            each.state.close()
        # Whatever there is now is what there is after another start.
        for _ in range(2):
            running = machine.start()
            self.check(running, old)
            machine.stop(running)
        return killed, running.cluster.peer_id != old.peer_id

    def check(self, running: Running, old: PrivateKey) -> None:
        """The node is wholly the old one, or wholly the new one."""
        own = running.cluster.peer_id
        self.assertEqual(self.machine.key_on_disk().peer_id, own)
        self.assertFalse((self.machine.path / "identity.key.new").exists())
        report = self.machine.report()
        self.assertEqual(report.problems, [])
        if own == old.peer_id:
            self.assertEqual(report.keys, [str(old.peer_id)])
            self.assertEqual(self.machine.disk.rotations(), [])
        else:
            self.assertEqual(report.keys, [str(old.peer_id), str(own)])
            self.is_gone(old)
        roster = running.cluster.roster
        if roster is not None:
            self.assertEqual(roster.name_of(own), "walnut")
            self.assertIn(Right.ADMINISTER, roster.rights(own))
            self.assertEqual(len(roster.members), 3)

    def kill_everywhere(self, prepare: Callable[[Machine], Running]) -> list[bool]:
        """Whether the node has another key, by the number of calls before it was killed."""
        outcomes: list[bool] = []
        killed = True
        while killed:
            self.assertLess(len(outcomes), MOST_CALLS)
            killed, rotated = self.outcome(prepare, len(outcomes))
            outcomes.append(rotated)
        return outcomes

    def test_member(self) -> None:
        """It is the old one until the rotation is on the disk, and the new one from then on."""
        outcomes = self.kill_everywhere(Machine.found)
        self.assertEqual(outcomes, sorted(outcomes))
        self.assertGreater(outcomes.count(False), 4)
        self.assertGreater(outcomes.count(True), 10)

    def test_unclaimed(self) -> None:
        """It is the old one until the new key is on the disk, and the new one from then on."""
        outcomes = self.kill_everywhere(Machine.start)
        self.assertEqual(outcomes, sorted(outcomes))
        self.assertGreater(outcomes.count(True), 10)

    def test_crash_while_another_is_revoked(self) -> None:
        """A rotation that an admin's revoke made void leaves a node that knows that it is out."""
        machine = self.machine
        running = machine.found()
        machine.wait(running.cluster.admit(ACACIA, "acacia", Role.ADMIN))
        roster = running.cluster.member_of()
        revoke = roster.make_revoke(key("acacia"), running.cluster.peer_id, "", TIME)
        rotated = running.rotate()
        running.cluster.news(roster.merge([revoke]))
        running = machine.again(running)
        self.assertEqual(running.cluster.peer_id, rotated.new)
        self.assertTrue(running.cluster.admission.is_revoked)
        self.assertIn("bzzz leave", self.refused("revoked", running))
