"""``bzzz submit``: a workflow from its file.

Exit statuses are those of ``bzzz run`` (:mod:`bzzz.cli.run`): 0 where all steps are done, 1 where
one has failed, 122 where FILE has a mistake or the workflow was refused.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from bzzz.cli.client import NodeError, NoNode
from bzzz.cli.run import exit_code
from bzzz.cli.session import Session, shared
from bzzz.cli.waiting_steps import WaitingSteps

__all__ = ["submit"]

FAILED = 1
REFUSED = 122
UNKNOWN = 125
CANCELLED = 130

# Steps that have failed of which the reason is told, and lines of what each has printed last.
MAX_TOLD = 5
MAX_LINES = 10


@click.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--detach", is_flag=True, help="Print the workflow's ID, and do not wait.")
@shared
@click.pass_obj
def submit(session: Session, file: Path, detach: bool) -> None:
    """Run the steps of the workflow in FILE, each on the machine that suits it best.

    Everything that is wrong with FILE is told, with its line, before anything runs. Ctrl-C cancels
    it; pressed again, its end is not waited for.
    """
    try:
        body = {**_read(session, file), "follow": not detach}
    except KeyboardInterrupt:
        click.echo("Nothing was submitted.", err=True)
        sys.exit(CANCELLED)
    running = _Running(session)
    sys.exit(running.run(session.client().stream("workflows", body), detach))


def _read(session: Session, file: Path) -> dict[str, Any]:
    """The body of ``POST /v1/workflows``."""
    from bzzz.tasks.requirements import RequirementError
    from bzzz.tasks.requirements import compile as compile_requirement
    from bzzz.tasks.workflows.file import Checks, WorkflowFileError, parse
    from bzzz.tasks.workflows.plan import plan

    def wrong_input(path: str) -> str | None:
        return None if (file.parent / path).exists() else f"{file.parent / path} is not there"

    def wrong_requirement(expression: str) -> str | None:
        try:
            compile_requirement(expression)
        except RequirementError as error:
            return str(error)
        return None

    try:
        text = file.read_bytes()
        checks = Checks(inputs=wrong_input, where=wrong_requirement)
        workflow = parse(text, str(file), checks)
    except OSError as error:
        raise _BadFile(f"{file} cannot be read: {error.strerror}") from None
    except WorkflowFileError as error:
        raise _BadFile(str(error)) from None
    paths = plan(workflow).paths
    files = []
    if paths:
        from bzzz.cli.run_files import send_inputs

        sent = send_inputs(session, [(path, file.parent / path) for path in paths])
        files = [(each["path"], each["digest"], each["size"]) for each in sent]
    return {"file": str(file), "text": text.decode("utf-8-sig"), "files": files}


class _BadFile(click.ClickException):
    exit_code = REFUSED

    def show(self, file: Any = None) -> None:
        from bzzz.cli.text import safe

        for line in self.format_message().splitlines():
            click.echo(safe(line), err=True)


class _Running:
    """A workflow that is told of."""

    def __init__(self, session: Session) -> None:
        self.workflow = ""
        self._session = session
        self._interrupts = 0
        self._waiting = WaitingSteps(self._why, self._say, lambda: f"bzzz why {self.workflow}")

    def run(self, lines: Iterator[Any], detach: bool) -> int:
        """Tell what comes, and return the exit status."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self._interrupted)
        try:
            for line in lines:
                status = self._take(line, detach)
                if status is not None:
                    return status
        except NodeError as error:
            for each in str(error).splitlines():
                self._say(each)
            return exit_code(error, bool(self.workflow))
        except NoNode as error:
            self._say(str(error))
            if self.workflow:
                self._say(f"The workflow goes on. To see how far it is: bzzz task {self.workflow}")
            return UNKNOWN
        except _Detached:
            if self.workflow:
                self._say(f"It goes on. To see how far it is: bzzz task {self.workflow}")
            else:
                self._say("It is not known whether the workflow was submitted.")
            return CANCELLED
        finally:
            self._waiting.stop()
        if detach and self.workflow:
            return 0
        self._say("The node has ended the answer without the workflow's end.")
        return UNKNOWN

    def _take(self, line: Mapping[str, Any], detach: bool) -> int | None:
        from bzzz.cli.text import as_json, safe

        if self._session.json:
            click.echo(as_json(line, line=True))
        match line:
            case {"event": "id", "workflow": str(workflow)}:
                self.workflow = workflow
            case {"event": "kept"} if not self._session.json:
                click.echo(self.workflow)
            case {"event": "step", "label": str(label), "state": str(state), "task": str(task)}:
                if not self._session.json:
                    self._watch(label, state)
                    shown = f"  {task}" if task and state != "done" else ""
                    click.echo(safe(f"{state:<10} {label}{shown}"))
            case {"event": "ended", "workflow": dict(workflow)}:
                return self._ended(workflow)
        return None

    def _watch(self, label: str, state: str) -> None:
        if state == "submitted":
            self._waiting.begin(label)
        else:
            self._waiting.end(label)

    def _why(self) -> list[dict[str, Any]]:
        """Why the steps that are not over, and those that have failed, are where they are.

        :raises NoNode: nobody answers.
        :raises NodeError: the node does not tell.
        """
        steps: list[dict[str, Any]] = self._session.client().get(
            f"workflows/{self.workflow}/why", 30.0
        )["steps"]
        return steps

    def _ended(self, workflow: Mapping[str, Any]) -> int:
        state = workflow["state"]
        failed = [step for step in workflow["steps"] if step["state"] == "failed"]
        if not self._session.json:
            if failed:
                self._tell_failed(failed)
            click.echo(f"The workflow {'has failed' if state == 'failed' else f'is {state}'}.")
        return {"done": 0, "cancelled": CANCELLED}.get(state, FAILED)

    def _tell_failed(self, failed: Sequence[Mapping[str, Any]]) -> None:
        """Tell of some steps that have failed why, and what they have printed last."""
        from bzzz.cli.workflows import reason

        try:
            reasons = {step["label"]: step for step in self._why()}
        except (NoNode, NodeError):
            # They are named all the same.
            reasons = {}
        for step in failed[:MAX_TOLD]:
            known = reasons.get(step["label"])
            why = "" if known is None else reason(known)
            how = "failed" if step["outcome"] in ("", "failed") else step["outcome"]
            said = f"{step['label']} {how.replace('_', ' ')}{f': {why}' if why else ''}"
            self._say(said)
            for line in () if known is None else known["stderr"].splitlines()[-MAX_LINES:]:
                self._say(f"  {line}")
            if step["task"]:
                self._say(f"  All that it has printed: bzzz logs {step['task']}")
        left = len(failed) - MAX_TOLD
        if left > 0:
            self._say(f"{left} more failed: bzzz why {self.workflow}")

    def _interrupted(self, number: int, frame: object) -> None:
        self._interrupts += 1
        if self._interrupts > 1 or not self.workflow:
            raise _Detached
        self._say("Cancelling it; press Ctrl-C again not to wait for its end.")
        try:
            self._session.client().post(f"workflows/{self.workflow}/cancel")
        except (NoNode, NodeError) as error:
            self._say(f"It could not be cancelled: {error}")

    def _say(self, text: str) -> None:
        from bzzz.cli.text import safe

        click.echo(safe(text), err=True)


class _Detached(Exception):
    """The user does not want to wait any more."""
