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
from bzzz.cli.silence import Silence

__all__ = ["run_each"]

# Exit status of one of which nothing is known.
UNKNOWN = 125


def run_each(session: Session, body: Mapping[str, Any], detach: bool) -> int:
    """Run it, and return the exit status."""
    from bzzz.cli.run import CANCELLED, REFUSED, exit_code

    try:
        fitting = session.client().post("fitting", {**body, "follow": False})
    except NodeError as error:
        _say(str(error))
        return exit_code(error)
    except NoNode as error:
        _say(str(error))
        return UNKNOWN
    verdicts = fitting["nodes"]
    away = fitting.get("away", ())
    if away:
        _say(f"Not linked, and so not asked: {', '.join(away)}")
    # Also where there is no room now: it waits there.
    nodes = [node for node in verdicts if not any(unfit["never"] for unfit in node["unfit"])]
    if not nodes:
        _say(
            "No machine could run it." if verdicts else "No machine that runs tasks is known here."
        )
        for node in verdicts:
            reasons = [unfit["text"] for unfit in node["unfit"] if unfit["never"]]
            _say(f"{node['name']}: {'; '.join(reasons)}")
        return REFUSED
    width = max(len(node["name"]) for node in nodes)
    runs = [_Run(session, {**body, "on": node["peer_id"]}, node, width, detach) for node in nodes]
    try:
        for each in runs:
            each.start()
        for each in runs:
            each.over.wait()
    except KeyboardInterrupt:
        click.echo("Cancelling all; press Ctrl-C again not to wait for their ends.", err=True)
        try:
            for each in runs:
                each.cancel()
            for each in runs:
                each.over.wait()
        except KeyboardInterrupt:
            left = [each.task for each in runs if each.task and not each.over.is_set()]
            if left:
                _say(f"They run on. To end them: bzzz cancel {' '.join(left)}")
            return CANCELLED
    failed = [each for each in runs if each.status]
    if failed and not session.json:
        names = ", ".join(f"{each.name_of} ({each.status})" for each in failed)
        click.echo(f"{len(failed)} of {len(runs)} did not succeed: {names}", err=True)
    return max(each.status for each in runs)


def _say(text: str) -> None:
    from bzzz.cli.text import safe

    for line in text.splitlines():
        click.echo(safe(line), err=True)


class _Run(threading.Thread):
    """One of them, in a thread of its own: each waits for its own answer.

    :ivar over: is set at its end. In Python 3.11 a join() that Ctrl-C interrupts takes the thread
        for ended.
    """

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
        self.over = threading.Event()
        self.status = UNKNOWN
        self.task = ""
        self._kept = False
        self.name_of = str(node["name"])
        self._session = session
        self._body = {**body, "follow": not detach}
        self._detach = detach
        self._prefix = f"{self.name_of:<{width}} | "
        self._partial = {"stdout": b"", "stderr": b""}
        self._silence = Silence(self._tell)

    def run(self) -> None:
        """See :class:`threading.Thread`."""
        try:
            self._run()
        finally:
            self._silence.end()
            self.over.set()

    def _run(self) -> None:
        from bzzz.cli.run import exit_code

        try:
            for line in self._session.client().stream("tasks", self._body):
                self._take(line)
        except NodeError as error:
            self._tell(str(error))
            self.status = exit_code(error, self._kept)
        except NoNode as error:
            self._tell(str(error))
            self.status = UNKNOWN
        for which, rest in self._partial.items():
            if rest:
                self._print(which, rest)

    def cancel(self) -> None:
        """Cancel it."""
        if self.task and not self.over.is_set():
            try:
                self._session.client().post(f"tasks/{self.task}/cancel")
            except (NoNode, NodeError) as error:
                self._tell(f"could not be cancelled: {error}")

    def _take(self, line: Mapping[str, Any]) -> None:
        if self._session.json:
            from bzzz.cli.text import as_json

            with self.lock:
                click.echo(as_json({"node": self.name_of, **line}, line=True))
        self._silence.end()
        match line:
            case {"event": "id", "task": str(task)}:
                self.task = task
            case {"event": "waiting", "why": str(why)}:
                reason = f"waiting: {why}" if why else "waiting for this machine"
                self._silence.begin(f"It is {reason}. What it lacks: bzzz why {self.task}")
            case {"event": "kept"}:
                self._kept = True
                if self._detach:
                    self.status = 0
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
            self._tell(str(task["why"]))
        if task["state"] == "failed" and task["exit_status"]:
            return int(task["exit_status"])
        return ENDS.get(str(task["state"]), UNKNOWN)

    def _tell(self, text: str) -> None:
        """Tell what the node, or another machine, has said."""
        from bzzz.cli.text import safe

        for line in text.splitlines():
            if self._session.json:
                with self.lock:
                    click.echo(f"{self.name_of}: {safe(line)}", err=True)
            else:
                self._print("stderr", safe(line).encode())

    def _print(self, which: str, line: bytes) -> None:
        if self._session.json:
            return
        out = sys.stdout if which == "stdout" else sys.stderr
        with self.lock:
            out.buffer.write(self._prefix.encode() + line + b"\n")
            out.buffer.flush()
