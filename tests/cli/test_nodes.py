"""The commands that ask the node."""

from __future__ import annotations

import grp
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from bzzz.cli import session
from bzzz.cli.main import bzzz
from bzzz.cli.nodes import _complete_peer
from bzzz.errors import BzzzError
from bzzz.web.schema import DrainInfo, PeerInfo, UnitStatus
from tests.cli.node import CommandTests
from tests.web.fakes import ACACIA, IRONWOOD, WALNUT


class NodeCommandTests(CommandTests):
    """status, id, peers, capabilities, events."""

    def test_no_node(self) -> None:
        """Without a node each command says where it looked and how to start one; exit code 3."""
        self.node = None
        for command in ("status", "id", "peers", "peers --watch", "capabilities", "events -f"):
            result = self.run_command(*command.split())
            self.assertEqual(result.exit_code, 3)
            self.assertEqual(result.stdout, "")
            self.assertEqual(
                result.stderr,
                "No node is running here (/run/user/1000/bzzz/control.sock). "
                "Start one with: twistd -n bzzz\n",
            )

    def test_no_service(self) -> None:
        """Where the service is installed and does not run, it is what is to be started."""
        self.node = None
        self.patch(session, "SYSTEM_UNIT", Path(__file__))
        result = self.run_command("status")
        self.assertEqual(
            result.stderr,
            "No node is running here (/run/bzzz/control.sock). "
            "Start one with: sudo systemctl start bzzz;"
            " if it does not stay: journalctl -u bzzz -n 20\n",
        )
        result = self.run_command("--runtime-dir", "/a", "status")
        self.assertIn("Start one with: twistd -n bzzz --runtime-dir /a", result.stderr)

    def test_closed_directory(self) -> None:
        """Who may not look into the service's directory is told whom to ask as, and at once."""
        closed = Path(self.mktemp()).absolute() / "closed"
        closed.mkdir(parents=True)
        socket = closed / "control.sock"
        allowed = Path.stat

        def stat(path: Path, **options: bool) -> os.stat_result:
            if path == socket:
                raise PermissionError
            return allowed(path, **options)

        self.patch(Path, "stat", stat)
        self.patch(session, "SYSTEM_SOCKET", socket)
        self.node = None
        self.refusal = PermissionError()
        for wait in ((), ("--wait", "60")):
            result = self.run_command("status", *wait)
            self.assertEqual(result.exit_code, 3)
            self.assertIn("belongs to another user", result.stderr)

    def test_group(self) -> None:
        """Where the service lets in a group, one is told how to become one of it."""
        directory = Path(self.mktemp()).absolute()
        directory.mkdir(parents=True)
        self.patch(session, "SYSTEM_SOCKET", directory / "control.sock")
        self.patch(session, "SYSTEM_UNIT", Path(__file__))
        group = grp.getgrgid(directory.stat().st_gid).gr_name
        join = f", or become one of its group: sudo usermod -aG {group} USER, and log in again\n"
        self.node = None
        self.refusal = PermissionError()
        for mode, told in ((0o750, True), (0o700, False)):
            directory.chmod(mode)
            result = self.run_command("status")
            self.assertEqual(result.exit_code, 3)
            self.assertEqual(result.stderr.endswith(join), told, result.stderr)
            # Another directory's group may be anybody's.
            result = self.run_command("--runtime-dir", str(directory.parent), "status")
            self.assertTrue(result.stderr.endswith("as root, such as with sudo\n"))

    def test_directory_of_a_stranger(self) -> None:
        """A runtime directory that others could have made is not asked, unless it was chosen."""
        own = Path(self.mktemp()).absolute() / "bzzz"
        own.mkdir(parents=True)
        (own / "control.sock").touch()
        system = own.parent / "system.sock"
        system.touch()
        self.patch(session, "SYSTEM_SOCKET", system)
        places = {"XDG_RUNTIME_DIR": str(own.parent)}
        for mode, expected in ((0o700, own / "control.sock"), (0o777, system)):
            own.chmod(mode)
            self.asked.clear()
            self.run_command("status", **places)
            self.assertEqual(self.asked[0].split()[0], str(expected))
        self.patch(os, "geteuid", lambda: own.stat().st_uid + 1)
        own.chmod(0o700)
        self.asked.clear()
        self.run_command("status", **places)
        self.run_command("status", BZZZ_RUNTIME_DIR=str(own))
        asked = [each.split()[0] for each in self.asked]
        self.assertEqual(asked, [str(system), str(own / "control.sock")])

    def test_which_node(self) -> None:
        """--runtime-dir says which node, before or after the command; so does the environment."""
        self.output("--runtime-dir", "/a", "status")
        self.output("status", "--runtime-dir", "/b")
        self.run_command("status", BZZZ_RUNTIME_DIR="/c")
        self.assertEqual(
            [asked.split()[0] for asked in self.asked],
            ["/a/control.sock", "/b/control.sock", "/c/control.sock"],
        )

    def test_wrong_configuration(self) -> None:
        """A configuration that is wrong elsewhere does not keep anybody from asking."""
        self.assertEqual(self.run_command("status", BZZZ_LISTEN_PORT="x").exit_code, 0)

    def test_status(self) -> None:
        """The node in a few lines; what is not known has none."""
        lines = self.output("status").splitlines()
        self.assertIn("node            walnut (aXHoUh)", lines)
        self.assertIn("peers           1 connected, 2 known, at most 256 links", lines)
        self.assertIn("running for     2 min, pid 4242", lines)
        self.assertFalse([line for line in lines if line.startswith("unit")])

    def test_status_of_a_guest(self) -> None:
        """Peers to whom this node is a guest are counted apart, and are no company."""
        node = self.node
        assert node is not None
        known = node.status()
        guest = replace(known, state="alone", peers_connected=1, guest_links=1, guest_peers=2)
        self.patch(node, "status", lambda: guest)
        lines = self.output("status").splitlines()
        self.assertIn(
            "peers           0 connected, 2 take this node for a guest, 2 known, at most 256 links",
            lines,
        )
        self.assertIn(
            "state           alone: whoever answers takes this node for a guest. If it was revoked:"
            " bzzz leave, then bzzz join",
            lines,
        )
        both = replace(known, peers_connected=2, guest_links=1, guest_peers=1)
        self.patch(node, "status", lambda: both)
        lines = self.output("status").splitlines()
        self.assertIn("state           connected", lines)
        self.assertIn(
            "peers           1 connected, 1 takes this node for a guest, 2 known,"
            " at most 256 links",
            lines,
        )

    def test_unit(self) -> None:
        """Under systemd the unit has a line: its state, since when, restarts, memory."""
        node = self.node
        assert node is not None
        unit = UnitStatus(
            id="bzzz.service",
            type="simple",
            active_state="active",
            sub_state="running",
            restarts=1,
            memory_bytes=64 << 20,
            file_state="enabled",
            needs_daemon_reload=True,
        )
        answer = replace(node.status(), unit=unit)
        self.patch(node, "status", lambda: answer)
        self.assertIn(
            "unit            bzzz.service: active (running) since ?, 1 restart, 64 MiB, enabled,"
            " changed on disk: systemctl daemon-reload",
            self.output("status").splitlines(),
        )
        document = json.loads(self.output("status", "--json"))["unit"]
        self.assertEqual((document["restarts"], document["main_pid"]), (1, None))

    def test_executor(self) -> None:
        """What runs commands, and why it is not systemd; no line while that is not known."""
        node = self.node
        assert node is not None
        plain = node.status()
        for name, reason, line in (
            ("systemd", None, "executor        systemd"),
            ("process", "there is no bus", "executor        process: there is no bus"),
        ):
            answer = replace(plain, executor=name, executor_reason=reason)
            self.patch(node, "status", lambda answer=answer: answer)
            self.assertIn(line, self.output("status").splitlines())
        self.patch(node, "status", lambda: plain)
        self.assertNotIn("executor", self.output("status"))

    def test_draining(self) -> None:
        """That it takes no new tasks is told, with whose wish that is and how it is ended."""
        node = self.node
        assert node is not None
        plain = node.status()
        self.assertNotIn("draining", self.output("status"))
        for wish, words in (
            (DrainInfo(name="oak", user="ada"), "as ada on oak wants it: bzzz undrain"),
            (DrainInfo(name="oak"), "as somebody on oak wants it: bzzz undrain"),
            (DrainInfo(), "as it is to end"),
        ):
            answer = replace(plain, draining=wish)
            self.patch(node, "status", lambda answer=answer: answer)
            line = f"draining        it takes no new tasks, {words}"
            self.assertIn(line, self.output("status").splitlines())
            document = json.loads(self.output("status", "--json"))["draining"]
            self.assertEqual(document["user"], wish.user)

    def test_wait(self) -> None:
        """--wait asks again while nobody answers and while the node starts."""
        node = self.node
        assert node is not None
        asked = iter(["starting", "connected"])
        waited: list[float] = []
        now = "nobody"
        answer = node.status()

        def status() -> Any:
            return replace(answer, state="starting" if now == "starting" else "connected")

        def sleep(seconds: float) -> None:
            nonlocal now
            waited.append(seconds)
            now = next(asked)
            self.node = node

        self.node = None
        self.patch(node, "status", status)
        self.patch(time, "sleep", sleep)
        self.assertIn("connected", self.output("status", "--wait", "5"))
        self.assertEqual(len(waited), 2)

    def test_wait_for_no_number(self) -> None:
        """What is no number, or more than a year, is a wrong option."""
        for wrong in ("nan", "1e400", "-1", "99999999999999999999999"):
            result = self.run_command("status", "--wait", wrong)
            self.assertEqual(result.exit_code, 2)
            self.assertIn("--wait", result.stderr)

    def test_waited_in_vain(self) -> None:
        """When the time is over the exit code is 3, and the reason is the last one."""
        moments = iter([0.0, 0.0, 1.0, 2.0])
        self.patch(time, "monotonic", lambda: next(moments, 3.0))
        self.patch(time, "sleep", lambda seconds: None)
        node = self.node
        assert node is not None
        starting = replace(node.status(), state="starting")
        self.patch(node, "status", lambda: starting)
        result = self.run_command("status", "--wait", "2")
        self.assertEqual(result.exit_code, 3)
        self.assertEqual(result.stderr, "After 2 s the node is starting; see its log\n")
        self.node = None
        result = self.run_command("status", "--wait", "0")
        self.assertEqual(result.exit_code, 3)
        self.assertIn("No node is running here", result.stderr)

    def test_id(self) -> None:
        """The peer ID alone on the first line, then what --bootstrap takes."""
        self.assertEqual(
            self.output("id").splitlines(), [WALNUT, f"/ip4/192.0.2.1/tcp/40001/p2p/{WALNUT}"]
        )

    def test_peers(self) -> None:
        """A line for each, in whole where a program reads it; why a lost one is lost."""
        head, acacia, ironwood = self.output("peers").splitlines()
        self.assertEqual(
            head.split(), ["NAME", "ID", "STATE", "ADDRESS", "RTT", "SINCE", "CAN", "DO"]
        )
        self.assertIn("lost", acacia)
        self.assertTrue(acacia.endswith("no answer to pings for 6 s; next dial in 4 s"), acacia)
        for part in (
            *("ironwood", IRONWOOD[-6:], "connected"),
            *("192.0.2.2:40002", "0.23 ms", "8 cores, 31 GiB"),
        ):
            self.assertIn(part, ironwood)

    def test_taken_for_guest(self) -> None:
        """Of a member to whom this node is none that is told, not what it can do."""
        assert self.node is not None
        reason = "it has not heard that this node is a member, or has revoked it"
        peer = PeerInfo(
            peer_id=ACACIA,
            short_id="x",
            name="acacia",
            state="connected",
            summary="8 cores",
            reason=reason,
        )
        self.node.peers = lambda: [peer]  # type: ignore[method-assign]  # for this test
        (_, line) = self.output("peers").splitlines()
        self.assertTrue(line.endswith(reason), line)

    def test_no_peers(self) -> None:
        """Alone, one is told what to do."""
        assert self.node is not None
        self.node.peers = list  # type: ignore[method-assign]
        self.assertIn("bzzz doctor", self.output("peers"))

    def test_hostile_names(self) -> None:
        """A peer's name cannot drive the terminal, neither in tables nor in JSON."""
        evil = "\x1b[2J\x9b0m\u202e[bold]"

        def peers() -> Sequence[PeerInfo]:
            return [PeerInfo(peer_id=ACACIA, short_id="x", name=evil, state="lost", reason=evil)]

        assert self.node is not None
        self.node.peers = peers  # type: ignore[method-assign]
        self.node.log.emit(evil, name=evil, text=evil)
        for command in ("peers", "peers --json", "events", "events --json"):
            shown = self.output(*command.split())
            self.assertNotRegex(shown, "[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]")
            self.assertIn("\\u001b[2J\\u009b0m\\u202e[bold]", shown)
        self.assertEqual(json.loads(self.output("peers", "--json"))["peers"][0]["name"], evil)

    def test_json(self) -> None:
        """--json prints what the control API answers, given before or after the command."""
        for command, key in (
            ("status", "reactor_lag_seconds"),
            ("id", "addresses"),
            ("peers", "peers"),
            ("capabilities", "nodes"),
            ("capabilities ironwood", "availability"),
            ("config show", "config"),
            ("doctor", "findings"),
        ):
            after = self.output(*command.split(), "--json")
            self.assertIn(key, json.loads(after))
            self.assertEqual(self.output("--json", *command.split()), after)

    def test_capabilities(self) -> None:
        """All nodes, this one first; or all that one says, by any of its names."""
        lines = self.output("capabilities").splitlines()
        self.assertTrue(lines[1].startswith("walnut (this node)"))
        self.assertIn("ready, 0/8", lines[2])
        for peer in ("ironwood", IRONWOOD, IRONWOOD[-6:]):
            shown = self.output("capabilities", peer)
            self.assertRegex(shown, r"(?m)^labels\.rack +a3$")
            self.assertRegex(shown, r"(?m)^resources\.memory_bytes +33000000000$")

    def test_capabilities_of_the_lost(self) -> None:
        """Who is lost is not shown as ready for work."""
        assert self.node is not None
        nodes = [replace(node, state="lost") for node in self.node.capabilities()[:1]]
        self.patch(self.node, "capabilities", lambda: nodes)
        self.assertRegex(self.output("capabilities"), r"ironwood .* lost ")
        self.assertRegex(self.output("capabilities", "ironwood"), r"(?m)^work +lost$")

    def test_any_bytes(self) -> None:
        """Whatever the shell passes on is a name that no node has."""
        result = self.run_command("capabilities", "\udcff")
        self.assertEqual((result.exit_code, result.exception.__class__), (4, SystemExit))

    def test_node_refuses(self) -> None:
        """What the node answers with an error is told, and the exit code is 4."""
        result = self.run_command("capabilities", "oak/../x y")
        self.assertEqual(result.exit_code, 4)
        self.assertIn("no node is called 'oak", result.stderr)

        def fail() -> Any:
            raise BzzzError("the mesh is stopping")

        assert self.node is not None
        self.node.status = fail  # type: ignore[method-assign]
        result = self.run_command("status")
        self.assertEqual(
            (result.exit_code, result.stderr), (4, "The node answered: the mesh is stopping\n")
        )

    def test_usage(self) -> None:
        """A wrong command line is 2."""
        for arguments in (["nothing"], ["peers", "--zzz"], ["events", "-n", "x"], ["config"]):
            self.assertEqual(self.run_command(*arguments).exit_code, 2)

    def test_events(self) -> None:
        """An event is a line: when, what, who, and the rest; documents are for --json."""
        assert self.node is not None
        self.node.log.emit("connected", peer_id=IRONWOOD, name="ironwood", address="/ip4/192.0.2.2")
        self.node.log.emit("capability_broadcast", direction="sent", summary="8 cores", document={})
        self.node.log.emit("alone", seconds=10.0001234, addresses=["/ip4/192.0.2.2", "/ip6/::1"])
        lines = self.output("events").splitlines()
        self.assertRegex(
            lines[0], rf"^\d\d:\d\d:\d\d connected ironwood \({IRONWOOD[-6:]}\) address=/ip4/192"
        )
        self.assertTrue(
            lines[1].endswith('capability_broadcast direction=sent summary="8 cores"'), lines[1]
        )
        self.assertTrue(lines[2].endswith("alone seconds=10.0 addresses=/ip4/192.0.2.2,/ip6/::1"))
        self.assertEqual(len(self.output("events", "-n", "1").splitlines()), 1)
        as_json = [json.loads(line) for line in self.output("events", "--json").splitlines()]
        self.assertEqual(as_json[1]["document"], {})

    def test_events_until_the_node_stops(self) -> None:
        """Following ends with the node, and says so."""
        result = self.run_command("events", "-f")
        self.assertEqual((result.exit_code, result.stderr), (3, "The node has stopped.\n"))
        self.assertTrue(self.asked[0].endswith("/v1/events?recent=20&follow=1"))

    def test_watch(self) -> None:
        """Without a terminal the peers are printed each second, also after the node was away."""
        node = self.node
        ticks = iter(["stay", "go", "return", "end"])

        def sleep(seconds: float) -> None:
            what = next(ticks)
            if what == "end":
                raise KeyboardInterrupt
            self.node = None if what == "go" else node

        self.patch(time, "sleep", sleep)
        result = self.run_command("peers", "--watch")
        self.assertEqual(result.exit_code, 0)
        self.assertEqual(result.stdout.count("1 of 2 known nodes connected"), 3)
        self.assertEqual(result.stderr.count("No node is running"), 1)
        ticks = iter(["stay", "end"])
        lines = self.output("peers", "--watch", "--json").splitlines()
        self.assertEqual([len(json.loads(line)["peers"]) for line in lines], [2, 2])

    def test_completion_of_peers(self) -> None:
        """Pressing Tab offers names and short IDs, and nothing without a node."""
        ctx = bzzz.make_context("bzzz", ["id"])
        param = bzzz.commands["capabilities"].params[0]

        def offered(begin: str) -> list[str]:
            return [item.value for item in _complete_peer(ctx, param, begin)]

        self.assertEqual(offered("i"), ["ironwood"])
        self.assertEqual(offered(IRONWOOD[-6:][:3]), [IRONWOOD[-6:]])
        self.node = None
        self.assertEqual(offered("i"), [])
