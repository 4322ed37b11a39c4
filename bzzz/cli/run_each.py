"""``bzzz run --each``: one command on every machine that it fits.

Enters: what is wanted. Leaves: each line of output behind the name of the machine that it is from,
and the greatest exit status.
"""

from __future__ import annotations

import base64
import sys
import threading
from collections.abc import Mapping
from typing import Any

import click

from bzzz.cli.client import NodeError, NoNode
from bzzz.cli.session import Session

__all__ = ["run_each"]

REFUSED = 122
UNKNOWN = 125


def run_each(session: Session, body: Mapping[str, Any], detach: bool) -> int:
    """Run it, and return the exit status."""
    verdicts = session.post("fitting", {**body, "follow": False})["nodes"]
    # Also where there is no room now: it waits there.
    nodes = [node for node in verdicts if not any(unfit["never"] for unfit in node["unfit"])]
    if not nodes:
        click.echo("No machine could run it. To see why: bzzz why, or leave out --where.", err=True)
        return REFUSED
    width = max(len(node["name"]) for node in nodes)
    runs = [_Run(session, {**body, "on": node["peer_id"]}, node, width, detach) for node in nodes]
    for each in runs:
        each.start()
    try:
        for each in runs:
            each.join()
    except KeyboardInterrupt:
        click.echo("Cancelling all; press Ctrl-C again to leave them alone.", err=True)
        for each in runs:
            each.cancel()
        for each in runs:
            each.join()
    failed = [each for each in runs if each.status]
    if failed and not session.json:
        names = ", ".join(f"{each.name_of} ({each.status})" for each in failed)
        click.echo(f"{len(failed)} of {len(runs)} did not succeed: {names}", err=True)
    return max(each.status for each in runs)


class _Run(threading.Thread):
    """One of them, in a thread of its own: each waits for its own answer."""

    lock = threading.Lock()

    def __init__(
        self,
        session: Session,
        body: Mapping[str, Any],
        node: Mapping[str, Any],
        width: int,
        detach: bool,
    ) -> None:
        super().__init__(daemon=True)
        self.status = UNKNOWN
        self.task = ""
        self.name_of = str(node["name"])
        self._session = session
        self._body = {**body, "follow": not detach}
        self._detach = detach
        self._prefix = f"{self.name_of:<{width}} | "
        self._partial = {"stdout": b"", "stderr": b""}

    def run(self) -> None:
        try:
            for line in self._session.client().stream("tasks", self._body):
                self._take(line)
        except NodeError as error:
            self._print("stderr", str(error).encode())
            self.status = REFUSED
        except NoNode as error:
            self._print("stderr", str(error).encode())
        for which, rest in self._partial.items():
            if rest:
                self._print(which, rest)

    def cancel(self) -> None:
        """Cancel it."""
        if self.task and self.is_alive():
            try:
                self._session.client().post(f"tasks/{self.task}/cancel")
            except (NoNode, NodeError) as error:
                self._print("stderr", f"could not be cancelled: {error}".encode())

    def _take(self, line: Mapping[str, Any]) -> None:
        if self._session.json:
            from bzzz.cli.text import as_json

            with self.lock:
                click.echo(as_json({"node": self.name_of, **line}, line=True))
        match line:
            case {"event": "id", "task": str(task)}:
                self.task = task
                self.status = 0 if self._detach else UNKNOWN
            case {"event": "kept"} if self._detach:
                self._print("stdout", self.task.encode())
            case {"event": "stdout" | "stderr" as which, "data": str(data)}:
                *whole, rest = (self._partial[which] + base64.b64decode(data)).split(b"\n")
                self._partial[which] = rest
                for each in whole:
                    self._print(which, each)
            case {"event": "ended", "task": dict(task)}:
                self.status = self._ended(task)

    def _ended(self, task: Mapping[str, Any]) -> int:
        from bzzz.cli.run import ENDS

        if task["state"] == "done":
            return 0
        if task["why"]:
            self._print("stderr", str(task["why"]).encode())
        if task["state"] == "failed" and task["exit_status"]:
            return int(task["exit_status"])
        return ENDS.get(str(task["state"]), UNKNOWN)

    def _print(self, which: str, line: bytes) -> None:
        if self._session.json:
            return
        out = sys.stdout if which == "stdout" else sys.stderr
        with self.lock:
            out.buffer.write(self._prefix.encode() + line + b"\n")
            out.buffer.flush()
