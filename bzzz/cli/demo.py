"""Three nodes on this machine's loopback interface: a mesh, then a cluster that runs tasks, live.

    python -m bzzz.cli.demo [--once]

Enters: nothing; the nodes are real processes with directories of their own, and leave nothing
behind. Leaves: a picture of the mesh until Ctrl-C, or with ``--once`` until a task
ran on each of them.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import click

from bzzz.cli.client import NodeClient, NodeError, NoNode
from bzzz.cli.demo_tasks import NotRun, run_tasks
from bzzz.cli.text import console, milliseconds, place, plain, safe, table

__all__ = ["Demo", "DemoNode", "main"]

NAMES = ("walnut", "ironwood", "acacia")

# Seconds after which a mesh that is not whole is a failure. It takes one second, on a machine that
# is busy with other things perhaps five.
PATIENCE = 30.0

# Seconds between two looks: often while it forms, so that a person sees it happen.
FORMING_INTERVAL = 0.05
INTERVAL = 0.5

# Seconds that a node has to leave in order.
STOP_TIMEOUT = 5.0

# What ends the demonstration, and its exit code if the mesh should have become whole before.
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
INTERRUPTED = 130

# Lines of a node's log that are shown when it failed.
LOG_TAIL = 10


class DemoFailed(Exception):
    """The mesh did not become whole, or ran no tasks; says why."""


class DemoNode:
    """A node as a process of its own.

    :param directory: of its state, its control socket and its log.
    """

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self.log = directory / "log"
        self.runtime_dir = directory / "run"
        self.client = NodeClient(self.runtime_dir / "control.sock")
        directory.mkdir()
        command = [sys.executable, "-c", "from twisted.scripts.twistd import run; run()"]
        command += ["-n", "--pidfile=", "bzzz", "--name", name, "--interface", "lo"]
        command += ["--state-dir", str(directory / "state"), "--runtime-dir", str(self.runtime_dir)]
        with self.log.open("wb") as output:
            # In a session of its own, Ctrl-C reaches this process alone, which ends it in order.
            self._process = subprocess.Popen(  # nosec B603  # noqa: S603 - the words above, and no shell
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={key: value for key, value in os.environ.items() if key[:5] != "BZZZ_"},
            )

    def look(self) -> dict[str, Any] | None:
        """What it says of itself and the others; None as long as it does not answer.

        :raises DemoFailed: it has ended.
        """
        try:
            answer = {what: self.client.get(what) for what in ("id", "peers", "capabilities")}
        except (NoNode, NodeError):
            if self._process.poll() is not None:
                raise DemoFailed(
                    f"{self.name} ended with exit code {self._process.returncode}"
                ) from None
            return None
        return {
            "id": answer["id"],
            "peers": {peer["peer_id"]: peer for peer in answer["peers"]["peers"]},
            "nodes": {node["peer_id"]: node for node in answer["capabilities"]["nodes"]},
        }

    def ask_to_stop(self) -> None:
        """Have it say goodbye and end."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)

    def wait(self) -> None:
        """Until it has ended; one that does not is killed."""
        try:
            self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def tail(self) -> list[str]:
        """The last lines of its log."""
        return self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_TAIL:]


class Demo:
    """The three nodes, and what is known of their mesh.

    :ivar seen: what each node said at the last look.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.nodes: list[DemoNode] = []
        self.seen: dict[str, dict[str, Any] | None] = dict.fromkeys(NAMES)
        self.started = time.monotonic()
        self.whole_after: float | None = None

    def start(self) -> None:
        """Start the processes."""
        self.started = time.monotonic()
        for name in NAMES:
            self.nodes.append(DemoNode(name, self.directory / name))

    def look(self) -> None:
        """Ask every node.

        :raises DemoFailed: one has ended.
        """
        for node in self.nodes:
            self.seen[node.name] = node.look()
        if self.whole_after is None and not self.missing():
            self.whole_after = time.monotonic() - self.started

    def run_tasks(self) -> Iterator[str]:
        """Make them a cluster, and run a task on each; lines that tell of it.

        :raises DemoFailed: it does not work.
        """
        try:
            yield from run_tasks([(node.name, node.client) for node in self.nodes])
        except (NotRun, NoNode, NodeError) as error:
            raise DemoFailed(f"The tasks did not run: {error}") from None

    def stop(self) -> None:
        """End all processes."""
        for node in self.nodes:
            node.ask_to_stop()
        for node in self.nodes:
            node.wait()

    def missing(self) -> list[str]:
        """What a whole mesh lacks, in words."""
        missing = []
        for name in NAMES:
            seen = self.seen[name]
            if seen is None:
                missing.append(f"{name} does not answer yet")
                continue
            for other in NAMES:
                if other == name:
                    continue
                peer = self.peer(name, other)
                if peer is None:
                    missing.append(f"{name} has not found {other}")
                elif peer["state"] != "connected":
                    missing.append(f"{name} is not linked to {other}: {peer['state']}")
                elif not seen["nodes"].get(peer["peer_id"], {}).get("received"):
                    missing.append(f"{name} has not heard a capability_broadcast of {other}")
        return missing

    def peer(self, name: str, other: str) -> Mapping[str, Any] | None:
        """What one node says of another."""
        mine, theirs = self.seen[name], self.seen[other]
        if mine is None or theirs is None:
            return None
        found: Mapping[str, Any] | None = mine["peers"].get(theirs["id"]["peer_id"])
        return found

    # -- for people

    def node_table(self) -> Any:
        """Who is here and can do what."""
        return table(("node", "id", "listening on", "can do"), map(self._node_row, NAMES))

    def _node_row(self, name: str) -> Sequence[str]:
        seen = self.seen[name]
        if seen is None:
            return (name, "", "starting", "")
        identity = seen["id"]
        address = next(iter(identity["addresses"]), "").partition("/p2p/")[0]
        summary = seen["nodes"].get(identity["peer_id"], {}).get("summary") or ""
        return (name, identity["short_id"], place(address) or "nothing yet", summary)

    def link_table(self) -> Any:
        """Who is linked to whom, with the round-trip time, and has heard what the other can do."""
        rows = [
            (name, other, *self._link(name, other))
            for index, name in enumerate(NAMES)
            for other in NAMES[index + 1 :]
        ]
        return table(("link", "", "state", "rtt", "capability_broadcast"), rows)

    def _link(self, name: str, other: str) -> Sequence[str]:
        peer, back = self.peer(name, other), self.peer(other, name)
        if peer is None or back is None:
            return ("", "", "")
        both = [one for one in (peer, back) if one["state"] == "connected"]
        state = "connected" if len(both) == 2 else str(peer["state"])
        rtts = [one["rtt_seconds"] for one in both if one.get("rtt_seconds") is not None]
        heard = [one for one, by in ((other, name), (name, other)) if self._heard(by, one)]
        said = "heard by both" if len(heard) == 2 else f"of {heard[0]} heard" if heard else ""
        return (state, milliseconds(min(rtts)) if rtts else "", said)

    def _heard(self, by: str, of: str) -> bool:
        seen, peer = self.seen[by], self.peer(by, of)
        if seen is None or peer is None:
            return False
        return bool(seen["nodes"].get(peer["peer_id"], {}).get("received"))

    def headline(self) -> str:
        """How far it is, in a line."""
        if self.whole_after is None:
            return f"{time.monotonic() - self.started:.1f} s: {self.missing()[0]}"
        # As wide as a terminal.
        linked = "all linked, all know what all can do"
        return f"{len(NAMES)} nodes, {linked}, {self.whole_after:.1f} s after the first start"

    def hints(self) -> list[str]:
        """What else can be done with it."""
        runtime_dir = f"--runtime-dir {self.nodes[0].runtime_dir}"
        bzzz = Path(sys.executable).with_name("bzzz")
        with contextlib.suppress(ValueError):
            bzzz = bzzz.relative_to(Path.cwd())
        return [
            "Look at it from another terminal:",
            f"  {bzzz} peers {runtime_dir}",
            f"  {bzzz} events -f {runtime_dir}",
            f"  {bzzz} run {runtime_dir} --each -- uname -a",
            "Ctrl-C ends it.",
        ]


def _until_whole(demo: Demo) -> Iterator[None]:
    """Look until the mesh is whole.

    :raises DemoFailed: it is not in time.
    """
    while demo.whole_after is None:
        demo.look()
        yield
        if demo.whole_after is None:
            if time.monotonic() - demo.started > PATIENCE:
                raise DemoFailed(
                    f"After {PATIENCE:.0f} s the mesh is not whole: {'; '.join(demo.missing())}"
                )
            time.sleep(FORMING_INTERVAL)


def _once(demo: Demo) -> None:
    """Until it is whole and has run tasks, with a line for each step."""
    shown = ""
    for _ in _until_whole(demo):
        step = demo.missing()[0] if demo.missing() else ""
        if step and step != shown:
            shown = step
            click.echo(f"{time.monotonic() - demo.started:6.2f} s  {step}")
    _print(demo)
    click.echo()
    for line in demo.run_tasks():
        click.echo(safe(line))


def _print(demo: Demo) -> None:
    parts = [plain(demo.node_table()), plain(demo.link_table()), [demo.headline()]]
    click.echo("\n" + "\n\n".join("\n".join(part) for part in parts))


def _on_terminal(demo: Demo) -> None:
    """A picture that changes, until Ctrl-C."""
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    ran: list[str] = []

    def picture() -> Group:
        style = "yellow" if demo.whole_after is None else "green"
        parts: list[Any] = [Text("Bzzz: three nodes on this machine\n", style="bold")]
        parts += [demo.node_table(), Text(), demo.link_table(), Text()]
        parts += [Text(safe(demo.headline()), style=style), Text()]
        if ran:
            parts += [*(Text(safe(line)) for line in ran), Text()]
        return Group(*parts, Text("\n".join(demo.hints()), overflow="fold"))

    with Live(console=console(), auto_refresh=False) as live:
        for _ in _until_whole(demo):
            live.update(picture(), refresh=True)
        for line in demo.run_tasks():
            ran.append(line)
            demo.look()
            live.update(picture(), refresh=True)
        while True:
            live.update(picture(), refresh=True)
            time.sleep(INTERVAL)
            demo.look()


def _in_pipe(demo: Demo) -> None:
    """The steps, then nothing new until it is stopped or a node ends."""
    _once(demo)
    click.echo("\n" + "\n".join(demo.hints()))
    while True:
        time.sleep(INTERVAL)
        demo.look()


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@click.command()
@click.option("--once", is_flag=True, help="End when a task ran on each: exit code 0, else 1.")
def main(once: bool) -> None:
    """Start three nodes on this machine, show how they become a mesh, and have them run tasks."""
    for number in ENDING:
        signal.signal(number, _interrupt)
    directory = Path(tempfile.mkdtemp(prefix="bzzz-demo-"))
    demo = Demo(directory)
    code = 0
    try:
        demo.start()
        if once:
            _once(demo)
        elif console().is_terminal:
            _on_terminal(demo)
        else:
            _in_pipe(demo)
    except KeyboardInterrupt:
        click.echo("\nStopping the nodes.")
        code = INTERRUPTED if once else 0
    except DemoFailed as failure:
        click.echo(safe(failure), err=True)
        for node in demo.nodes:
            click.echo(f"\nThe log of {node.name} ends with:", err=True)
            click.echo("\n".join(map(safe, node.tail())), err=True)
        code = 1
    finally:
        # A second Ctrl-C must not leave nodes behind; this takes STOP_TIMEOUT at most.
        for number in ENDING:
            signal.signal(number, signal.SIG_IGN)
        demo.stop()
        shutil.rmtree(directory, ignore_errors=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
