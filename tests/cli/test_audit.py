"""The commands about audit logs, with a node and without."""

from __future__ import annotations

import base64
import datetime
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
from msgspec.structs import replace
from twisted.internet.defer import execute
from twisted.internet.task import Clock

from bzzz.cli import audit_files, session
from bzzz.identity.keys import PrivateKey
from bzzz.trust.audit_chain import Chain, Kept, hash_line, read_line, rfc3339
from bzzz.trust.audit_kept import KeptCheckpoints
from bzzz.trust.audit_streams import Collected
from bzzz.web.requests import argument
from bzzz.web.routes import RouteTable
from tests.cli.node import CommandTests
from tests.web.fakes import FakeNode

OURS, WALNUT = (PrivateKey(letter * 32) for letter in (b"o", b"w"))
START = 1_795_482_123.0


class CheckpointRoutes:
    """The route that a node with checkpoints has."""

    def __init__(self, kept: Sequence[Kept], asked: int, answered: int) -> None:
        self.nodes: list[str | None] = []
        self._kept = kept
        self._counts = asked, answered

    def add_to(self, table: RouteTable) -> None:
        table.get("/v1/audit/checkpoints", self.checkpoints)

    def checkpoints(self, request: Any) -> Collected:
        node = argument(request, b"node")
        self.nodes.append(node)
        kept = [each for each in self._kept if each.checkpoint.node == node]
        return Collected(str(node), kept, *self._counts)


class AuditCommandTests(CommandTests):
    """A log in a state directory."""

    def setUp(self) -> None:
        super().setUp()
        self.node = None
        self.state = Path(self.mktemp()).absolute()
        self.state.mkdir(parents=True)
        self.log = self.state / "audit.log"
        (self.state / "identity.key").write_bytes(base64.b64encode(OURS.encode()))
        (self.state / "identity.key").chmod(0o600)
        chain = Chain(OURS)
        admitted = {"peer_id": str(WALNUT.peer_id), "name": "wal nut", "by": "acacia", "role": ""}
        self.lines = [
            chain.append("log_created", {"node": str(OURS.peer_id), "cluster": ""}, START),
            chain.append("started", {"version": "0.1.0", "pid": 7}, START + 3600),
            chain.append("admitted", admitted, START + 7200),
            chain.append("config_changed", {"keys": ["name", "mdns"]}, START + 7201),
            chain.append("stopped", {"reason": "two words"}, START + 7202),
        ]
        self.write()

    def write(self) -> None:
        self.log.write_bytes(b"".join(self.lines))

    def kept(self, number: int, name: str = "walnut") -> Kept:
        raw = self.lines[number - 1][:-1]
        checkpoint = Chain(OURS, number, hash_line(raw)).checkpoint(START + number)
        assert checkpoint is not None
        return Kept(checkpoint, "ours", str(WALNUT.peer_id), name, rfc3339(START))

    def verify(self, *arguments: str) -> Any:
        return self.run_command("audit", "verify", "--state-dir", str(self.state), *arguments)

    def use_node(self, routes: CheckpointRoutes, key: PrivateKey = WALNUT) -> None:
        """Have a node run with the state directory and the route."""
        self.node = FakeNode()
        status = replace(self.node.status(), state_dir=str(self.state), peer_id=str(key.peer_id))
        self.patch(self.node, "status", lambda: status)
        self.routes = [routes]

    def carried(self, *kept: Kept) -> str:
        path = self.state / "walnut.json"
        path.write_bytes(msgspec.json.encode({"checkpoints": kept}))
        return str(path)


class VerifyTests(AuditCommandTests):
    """audit verify."""

    def test_whole(self) -> None:
        """Without a node a whole log is 0, with what cannot be known."""
        result = self.verify()
        self.assertEqual((result.exit_code, result.stderr), (0, ""))
        lines = result.stdout.splitlines()
        self.assertEqual(
            lines[0],
            f"{self.log}: 5 lines, 1 to 5, the last of {rfc3339(START + 7202)}, signed by"
            f" {OURS.peer_id}: it is whole",
        )
        self.assertIn(
            "Note: no other member was asked for checkpoints: No node is running", lines[1]
        )
        self.assertIn("Cannot be known: no other node vouches for any line", lines[2])
        self.assertEqual(len(lines), 3)

    def test_tampered(self) -> None:
        """What was changed is told with file and line, and the exit code is 1."""
        self.lines[1] = self.lines[1].replace(b"0.1.0", b"0.2.0")
        del self.lines[3]
        self.write()
        result = self.verify()
        self.assertEqual(result.exit_code, 1)
        lines = result.stdout.splitlines()
        self.assertTrue(lines[0].startswith(f"{self.log}:2: its signature does not fit"))
        self.assertTrue(lines[1].startswith(f"{self.log}:4: line 4 is missing"))
        self.assertTrue(lines[2].startswith(f"{self.log}: 3 lines"), lines[2])
        self.assertIn("it is NOT as the node wrote it", lines[2])

    def test_as_json(self) -> None:
        """For programs the same."""
        self.lines[1] = self.lines[1].replace(b"0.1.0", b"0.2.0")
        self.write()
        result = self.verify("--json", "--checkpoints", self.carried(self.kept(4)))
        answer = json.loads(result.stdout)
        self.assertEqual((result.exit_code, answer["whole"]), (1, False))
        (problem,) = answer["problems"]
        self.assertEqual(
            (problem["file"], problem["line"], problem["kind"]), (str(self.log), 2, "altered")
        )
        self.assertEqual((answer["first_seq"], answer["last_seq"]), (1, 5))
        self.assertEqual(answer["vouched"]["by"], [f"walnut ({WALNUT.peer_id.short})"])
        self.assertEqual(
            set(answer),
            {
                *("whole", "problems", "more_problems", "notes", "unknown", "lines"),
                *("first_seq", "last_seq", "last_time", "keys", "vouched"),
            },
        )

    def test_carried_checkpoints(self) -> None:
        """Checkpoints that were carried here show a log that was cut off, without any node."""
        path = self.carried(self.kept(3), self.kept(5))
        self.assertEqual(self.verify("--checkpoints", path).exit_code, 0)
        del self.lines[4]
        self.write()
        result = self.verify("--checkpoints", path)
        self.assertEqual(result.exit_code, 1)
        self.assertIn(f"{self.log}:4: the log ends here with line 4, but walnut", result.stdout)
        self.assertIn("vouches for what is up to line 3", result.stdout)

    def test_wrong_checkpoints(self) -> None:
        """A file that is something else is told."""
        path = self.state / "walnut.json"
        for content in (b"x", b"{}", b"[" * 10_000, b'{"checkpoints": [{}]}'):
            path.write_bytes(content)
            result = self.verify("--checkpoints", str(path))
            self.assertEqual(
                (result.exit_code, result.stderr),
                (5, f"{path} is not what bzzz audit checkpoints --json prints\n"),
            )
        result = self.verify("--checkpoints", str(self.state / "nothing"))
        self.assertEqual(result.exit_code, 5)

    def test_asked_of_a_node(self) -> None:
        """A node that runs asks the members, for each key of the log."""
        chain = Chain(OURS, 5, hash_line(self.lines[4][:-1]))
        self.lines.append(chain.append("key_rotated", {"new_key": str(WALNUT.peer_id)}, START))
        chain.key = WALNUT
        self.lines.append(chain.append("started", {}, START))
        self.write()
        self.use_node(routes := CheckpointRoutes([self.kept(3)], 3, 2))
        result = self.run_command("audit", "verify")
        self.assertEqual((result.exit_code, result.stderr), (0, ""))
        self.assertIn("vouches for what is up to line 3", result.stdout)
        self.assertIn("Note: 1 of 3 members did not answer", result.stdout)
        self.assertEqual(routes.nodes, [str(OURS.peer_id), str(WALNUT.peer_id)])
        self.use_node(CheckpointRoutes([], 0, 0))
        result = self.run_command("audit", "verify")
        self.assertIn("no other member is linked that could be asked", result.stdout)

    def test_another_identity(self) -> None:
        """The log is compared with the identity of the node that runs here."""
        self.use_node(CheckpointRoutes([], 0, 0))
        result = self.run_command("audit", "verify")
        self.assertEqual(result.exit_code, 1)
        self.assertIn(f"and not by {WALNUT.peer_id}", result.stdout)
        # With --state-dir it is that of the directory, whatever runs here.
        self.assertEqual(self.verify().exit_code, 0)

    def test_old_node(self) -> None:
        """A node that has no such route is nothing to fail for."""
        self.node = FakeNode()
        result = self.verify()
        self.assertEqual((result.exit_code, result.stderr), (0, ""))
        self.assertIn("Note: no other member was asked for checkpoints: not found", result.stdout)

    def test_strange_node(self) -> None:
        """Nor is one that answers with something else."""

        class Strange(CheckpointRoutes):
            def checkpoints(self, request: Any) -> Any:
                return {"checkpoints": [{"checkpoint": 7}]}

        self.use_node(Strange([], 0, 0), OURS)
        result = self.run_command("audit", "verify")
        self.assertEqual(result.exit_code, 0)
        self.assertIn("something else than checkpoints", result.stdout)

    def test_files(self) -> None:
        """Files can be given, of any node, oldest first; whose they are is told or compared."""
        older = self.state / "copy.1"
        newer = self.state / "copy"
        older.write_bytes(b"".join(self.lines[:2]))
        newer.write_bytes(b"".join(self.lines[2:]))
        result = self.run_command("audit", "verify", str(older), str(newer))
        self.assertEqual(result.exit_code, 0)
        self.assertIn(f"whose log it is: {OURS.peer_id}", result.stdout)
        result = self.run_command("audit", "verify", str(newer))
        self.assertIn(f"{newer}:1: lines 1 to 2 are missing", result.stdout)
        for key, code in ((OURS, 0), (WALNUT, 1)):
            node = str(key.peer_id)
            result = self.run_command("audit", "verify", "--node", node, str(older), str(newer))
            self.assertEqual(result.exit_code, code)

    def test_older_files(self) -> None:
        """Without files the log is read with all its older ones, and the verdict names them."""
        (self.state / "audit.log.1").write_bytes(b"".join(self.lines[:2]))
        self.log.write_bytes(b"".join(self.lines[2:]))
        self.assertIn(f"{self.log}.1, {self.log}: 5 lines, 1 to 5", self.verify().stdout)

    def test_remembered(self) -> None:
        """What the node remembers shows that lines are gone, without any other node."""
        last = hash_line(self.lines[4][:-1])
        (self.state / "audit.head").write_bytes(b"%020d %s\n" % (5, last.encode()))
        self.assertEqual(self.verify().exit_code, 0)
        del self.lines[4]
        self.write()
        result = self.verify()
        self.assertEqual(result.exit_code, 1)
        self.assertIn("this node remembers to have written line 5", result.stdout)

    def test_no_log(self) -> None:
        """Where there is none that is said, and the exit code is not that of a whole one."""
        self.log.unlink()
        result = self.verify()
        self.assertEqual((result.exit_code, result.stdout), (5, ""))
        self.assertIn(f"There is no audit log in {self.state}", result.stderr)

    def test_not_readable(self) -> None:
        """A log of another user is told with what to do; so is what is no file."""
        opened = os.open

        def refuse(path: Any, *arguments: Any, **options: Any) -> int:
            if str(path) == str(self.log):
                raise PermissionError(13, "Permission denied", str(path))
            return opened(path, *arguments, **options)

        for arguments in (("verify",), ("verify", str(self.log)), ("show",)):
            with mock.patch("os.open", refuse):
                result = self.run_command("audit", *arguments, "--state-dir", str(self.state))
            self.assertEqual((result.exit_code, result.stdout), (5, ""))
            self.assertEqual(
                result.stderr,
                f"{self.log} belongs to another user; read it as that user or as root, such as"
                " with sudo\n",
            )
        result = self.run_command("audit", "verify", str(self.state))
        self.assertEqual(
            (result.exit_code, result.stderr),
            (5, f"{self.state} cannot be read: Is a directory\n"),
        )

    def test_closed_directory(self) -> None:
        """So is a state directory that is closed to this user."""
        self.patch(os.path, "lexists", lambda path: False)
        denied = PermissionError(13, "Permission denied", str(self.log))
        with mock.patch.object(Path, "lstat", side_effect=denied):
            result = self.verify()
        self.assertEqual(result.exit_code, 5)
        self.assertIn("belongs to another user", result.stderr)

    def test_where(self) -> None:
        """The log is in the configured state directory; of the service in the service's."""
        result = self.run_command("audit", "verify", BZZZ_STATE_DIR=str(self.state))
        self.assertEqual(result.exit_code, 0)
        result = self.run_command("audit", "verify", BZZZ_MAX_LINKS="x")
        self.assertEqual(result.exit_code, 1)
        self.assertIn("BZZZ_MAX_LINKS", result.stderr)
        self.patch(session, "SYSTEM_UNIT", Path(__file__))
        self.patch(audit_files, "SYSTEM_STATE", str(self.state))
        self.assertEqual(self.run_command("audit", "verify").exit_code, 0)
        config = self.state / "bzzz.toml"
        config.write_text('state_dir = "/elsewhere"\n')
        self.patch(audit_files, "SYSTEM_CONFIG", config)
        self.assertIn("/elsewhere", self.run_command("audit", "verify").stderr)

    def test_nothing_drives_the_terminal(self) -> None:
        """What strangers put into files and names is shown and not obeyed."""
        result = self.verify("--checkpoints", self.carried(self.kept(5, "\x1b[2J\u202e")))
        self.assertIn("\\u001b[2J", result.stdout)
        self.assertNotIn("\x1b", result.stdout)
        self.assertNotIn("\u202e", result.stdout)


class ShowTests(AuditCommandTests):
    """audit show."""

    def show(self, *arguments: str) -> list[str]:
        return self.output("audit", "show", "--state-dir", str(self.state), *arguments).splitlines()

    def test_lines(self) -> None:
        """An event is a line: when, what, whom it is about, and the rest."""
        lines = self.show()
        self.assertEqual(len(lines), 5)
        self.assertRegex(lines[1], r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d started version=0.1.0 pid=7$")
        self.assertTrue(
            lines[2].endswith(f"admitted wal nut ({WALNUT.peer_id.short}) by=acacia"), lines[2]
        )
        self.assertTrue(lines[3].endswith("config_changed keys=name,mdns"))
        self.assertTrue(lines[4].endswith('stopped reason="two words"'))

    def test_as_json(self) -> None:
        """For programs an object for each line, as it is in the file."""
        shown = [json.loads(line) for line in self.show("--json")]
        self.assertEqual(shown, [json.loads(line) for line in self.lines])

    def test_event(self) -> None:
        """Events can be chosen by name; one that there is not is a mistake."""
        self.assertEqual(len(self.show("--event", "started", "--event", "stopped")), 2)
        result = self.run_command("audit", "show", "--event", "strated")
        self.assertEqual(result.exit_code, 2)
        self.assertIn("did you mean started?", result.stderr)

    def test_since(self) -> None:
        """And by time: a length of time, or a moment."""
        moment = datetime.datetime.fromtimestamp(START + 7000, datetime.UTC)
        self.assertEqual(len(self.show("--since", moment.isoformat())), 3)
        local = moment.astimezone().replace(tzinfo=None).isoformat()
        self.assertEqual(len(self.show("--since", local)), 3)
        chain = Chain(OURS, 5, hash_line(self.lines[4][:-1]))
        now = datetime.datetime.now(datetime.UTC).timestamp()
        self.lines = [
            chain.append("started", {}, now - 3 * 3600),
            chain.append("stopped", {}, now - 3600),
        ]
        self.write()
        for since, count in (("2h", 1), ("30m", 0), ("1d", 2), ("99999s", 2)):
            self.assertEqual(len(self.show("--since", since)), count, since)
        for wrong in ("yesterday", "2w", "", "h", "999999d"):
            result = self.run_command("audit", "show", "--since", wrong)
            self.assertEqual(result.exit_code, 2)
            self.assertIn("is neither a length of time such as 2h", result.stderr)

    def test_unreadable_lines(self) -> None:
        """A line that cannot be read is told on the side, and the others are shown."""
        self.lines[1] = b"rubbish\n"
        self.lines.append(self.lines[4].replace(b"two words", b"\\u001b[2J\xe2\x80\xae"))
        self.write()
        result = self.run_command("audit", "show", "--state-dir", str(self.state))
        self.assertEqual(result.exit_code, 0)
        self.assertEqual(result.stderr, f"{self.log}:2: this cannot be read\n")
        self.assertEqual(len(result.stdout.splitlines()), 5)
        self.assertTrue(result.stdout.splitlines()[-1].isprintable())

    def test_no_log(self) -> None:
        """A file of which no line can be read is exit code 5, and the others are shown."""
        junk, empty = self.state / "junk.json", self.state / "empty"
        junk.write_bytes(b"{}\n")
        empty.touch()
        result = self.run_command("audit", "show", str(junk), str(self.log), str(empty))
        self.assertEqual((result.exit_code, len(result.stdout.splitlines())), (5, 5))
        self.assertEqual(
            result.stderr,
            f"{junk}:1: this cannot be read\nNo line of {junk} can be read: is it an audit log?\n",
        )

    def test_strange_time(self) -> None:
        """Nor does a time that is none do harm."""
        self.lines[1] = self.lines[1].replace(b"2026-11-", b"2026-13-")
        self.write()
        self.assertEqual(read_line(self.lines[1][:-1]).event, "started")
        self.assertEqual(len(self.show()), 5)
        self.assertEqual(len(self.show("--since", "2026-01-01")), 4)


class CheckpointsTests(AuditCommandTests):
    """audit checkpoints."""

    def setUp(self) -> None:
        super().setUp()
        clock = Clock()
        kept = KeptCheckpoints(
            self.state / "checkpoints.json",
            WALNUT.peer_id,
            clock,
            lambda: START + clock.seconds(),
            execute,
            lambda peer: "acacia" if peer == OURS.peer_id else "walnut",
        )
        for number in (3, 5):
            kept.take(self.kept(number).checkpoint)
        self.successResultOf(kept.close())

    def checkpoints(self, *arguments: str) -> str:
        return self.output("audit", "checkpoints", "--state-dir", str(self.state), *arguments)

    def test_table(self) -> None:
        """What is kept, a line each, for all nodes or one by any of its names."""
        everything = self.checkpoints()
        self.assertEqual(len(everything.splitlines()), 3)
        self.assertRegex(everything, rf"(?m)^acacia +{OURS.peer_id.short} +5 +2026-11-24T01:02:08")
        for name in ("acacia", str(OURS.peer_id), OURS.peer_id.short):
            self.assertEqual(self.checkpoints(name), everything)
        result = self.run_command("audit", "checkpoints", "--state-dir", str(self.state), "birch")
        self.assertEqual(
            (result.exit_code, result.stderr), (1, "No checkpoint of birch is kept here\n")
        )

    def test_carried(self) -> None:
        """What it prints for programs is what verify takes on another machine."""
        path = self.state / "carried.json"
        path.write_text(self.checkpoints("acacia", "--json"))
        del self.lines[4]
        self.write()
        result = self.verify("--checkpoints", str(path))
        self.assertEqual(result.exit_code, 1)
        self.assertIn(
            f"walnut ({WALNUT.peer_id.short}) keeps a checkpoint of line 5", result.stdout
        )

    def test_nothing(self) -> None:
        """A node that keeps none says so by an empty list; a damaged file is told."""
        path = self.state / "checkpoints.json"
        path.unlink()
        self.assertEqual(json.loads(self.checkpoints("--json")), {"checkpoints": []})
        path.write_bytes(b"{")
        result = self.run_command("audit", "checkpoints", "--state-dir", str(self.state))
        self.assertEqual(result.exit_code, 5)
        self.assertIn(f"{path} is damaged", result.stderr)
