"""``bzzz run``: a command on the machine that suits it best, as if it ran here.

Enters: the command line. Leaves: the command's output, and its exit status, or one of these:

==== =====================================================================================
121  the machine that ran it was lost, and it may not run again
122  it was refused, or no machine could run it; nothing was run
123  it is done, but what it has put out is not here: ``bzzz fetch``
124  it took longer than its timeout
125  the node cannot be asked, it is not known what became of the task, or the command was
     ended, or not begun, for a reason that is told
130  it was cancelled, or is left to itself
==== =====================================================================================

A wrong option is 2, as of all commands. docs/commands.rst has the same table.
"""

from __future__ import annotations

import base64
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import click

from bzzz.cli.client import NodeError, NoNode
from bzzz.cli.numbers import Number
from bzzz.cli.session import Session, shared
from bzzz.cli.silence import Silence

__all__ = ["LOST", "TaskOptions", "exit_code", "follow", "run", "task_options"]

LOST = 121
REFUSED = 122
TIMED_OUT = 124
UNKNOWN = 125
CANCELLED = 130

# Errors that do not say that nothing was submitted; before the task is kept, all others do.
UNSURE = frozenset({"unknown", "node_error", "internal_error", "starting", "stopping", "too_slow"})

# What a node takes (bzzz.tasks.submission).
MAX_CORES = 65536
MAX_GPUS = 64
MAX_RETRIES = 1000
MAX_PRIORITY = 1000

ENDS = {"timed_out": TIMED_OUT, "cancelled": CANCELLED, "lost": LOST}


def exit_code(error: NodeError, kept: bool = False) -> int:
    """What to exit with on an error.

    :param kept: whether what was submitted is known to be.
    """
    return UNKNOWN if kept or error.code in UNSURE else REFUSED


def task_options(command: Any) -> Any:
    """The options that say what a task needs."""
    for option in reversed(
        (
            click.option("--where", default="", metavar="CEL", help="What the machine must be."),
            click.option("--on", metavar="NAME", help="The machine."),
            click.option(
                "--cpus", type=Number(0, MAX_CORES), default=1.0, metavar="N", help="Cores."
            ),
            click.option("--memory", default="0", metavar="SIZE", help="Such as 4GiB."),
            click.option(
                "--gpus", type=click.IntRange(0, MAX_GPUS), default=0, metavar="N", help="GPUs."
            ),
            click.option("--timeout", default="0", metavar="TIME", help="Such as 90s, 10m, 2h."),
            click.option(
                "--retries",
                type=click.IntRange(0, MAX_RETRIES),
                default=0,
                metavar="N",
                help="How often it may fail, and is run again.",
            ),
            click.option(
                "--no-restart",
                is_flag=True,
                help="Do not run it again when its machine is lost: it may have run.",
            ),
            click.option(
                "--priority",
                type=click.IntRange(-MAX_PRIORITY, MAX_PRIORITY),
                default=0,
                metavar="N",
                help="Greater is first.",
            ),
            click.option(
                "--env",
                multiple=True,
                metavar="K=V",
                help="A variable; with K alone that of this shell.",
            ),
            click.option("--profile", default="default", metavar="NAME", help="Its sandbox."),
            click.option("--name", default="", metavar="NAME", help="What to call it."),
            click.option("--wait", is_flag=True, help="Wait for a machine that could run it."),
        )
    ):
        command = option(command)
    return command


class TaskOptions:
    """The body of ``POST /v1/tasks``, from the command line.

    :raises click.BadParameter: an option is not as it has to be.
    """

    def __init__(self, command: tuple[str, ...], given: Mapping[str, Any]) -> None:
        from bzzz.cli.amounts import seconds, size

        self.body: dict[str, Any] = {
            "command": command,
            "name": given["name"],
            "env": dict(_variable(each) for each in given["env"]),
            "where": given["where"],
            "on": _machine(given["on"]),
            "cpus": given["cpus"],
            "memory": size(given["memory"], "--memory"),
            "gpus": given["gpus"],
            "timeout": seconds(given["timeout"], "--timeout"),
            "retries": given["retries"],
            "restart": not given["no_restart"],
            "priority": given["priority"],
            "profile": given["profile"],
            "wait": given["wait"],
        }


def _see_that_it_is_no_option(word: str) -> None:
    """See that what click does not know, and takes for COMMAND, is no mistyped option: it would be
    run, on some machine.

    :raises click.NoSuchOption: COMMAND begins with what looks like one.
    """
    if word.startswith("-"):
        context = click.get_current_context()
        known = [each for option in context.command.params for each in option.opts]
        name = word.partition("=")[0]
        raise click.NoSuchOption(name, possibilities=known, ctx=context)


def _machine(name: str | None) -> str:
    if name is not None and not name.strip():
        # Such as a variable of the shell that is not set: any machine is not what is meant.
        raise click.BadParameter("--on: the name of the machine is missing")
    return name or ""


def _variable(text: str) -> tuple[str, str]:
    import os

    name, equals, value = text.partition("=")
    if not equals:
        if name not in os.environ:
            raise click.BadParameter(f"{name} is not set here; give it as --env {name}=VALUE")
        value = os.environ[name]
    return name, value


@click.command(context_settings={"ignore_unknown_options": True})
@task_options
@click.option(
    "--in",
    "ins",
    multiple=True,
    metavar="PATH[:NAME]",
    help="A file or directory that COMMAND finds under its own name, or under NAME.",
)
@click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="A directory whose content COMMAND finds where it runs.",
)
@click.option(
    "--out",
    "outs",
    multiple=True,
    metavar="GLOB",
    help="Files that COMMAND leaves, to be brought here when it is done.",
)
@click.option("--force", is_flag=True, help="Replace files here that --out brings.")
@click.option("--each", is_flag=True, help="Run it on every machine that it fits.")
@click.option("--detach", is_flag=True, help="Print the task's ID, and do not wait.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@shared
@click.pass_obj
def run(
    session: Session,
    /,
    command: tuple[str, ...],
    ins: tuple[str, ...],
    directory: Path | None,
    outs: tuple[str, ...],
    force: bool,
    each: bool,
    detach: bool,
    **given: Any,
) -> None:
    """Run COMMAND on the machine that suits it best, with its output and exit status here.

    Files travel where --in, --dir and --out say so; its standard input is empty. With --detach,
    bzzz fetch brings what --out is given for. Ctrl-C cancels it; pressed again, its end is not
    waited for. Options come before COMMAND, which begins after --.

    \b
    Exit status: COMMAND's own (127: it was not found, 126: it cannot be
    executed, 128 + N: signal N ended it), or 121: its machine was lost; 122: it
    was refused, and nothing was run; 123: its files are not here; 124: it took
    longer than --timeout; 125: no node can be asked, or it is not known what
    became of it; 130: it was cancelled.
    """
    _see_that_it_is_no_option(command[0])
    options = TaskOptions(command, given)
    if ins or directory is not None or outs:
        from bzzz.cli.run_files import inputs_of, outputs_of, send_inputs

        if each and outs and not detach:
            raise click.UsageError(
                "--each with --out needs --detach: the files of all would have the same names here."
                " Then bring those of each: bzzz fetch ID --into DIR"
            )
        options.body["outputs"] = outputs_of(outs)
        try:
            sent = send_inputs(session, inputs_of(ins, directory))
        except KeyboardInterrupt:
            click.echo("Nothing was submitted.", err=True)
            sys.exit(CANCELLED)
        options.body["inputs"] = [(one["path"], one["digest"], one["size"]) for one in sent]
    if each:
        from bzzz.cli.run_each import run_each

        sys.exit(run_each(session, options.body, detach))
    body = {**options.body, "follow": not detach}
    running = _Running(session)
    status = running.run(session.client().stream("tasks", body), detach)
    if outs and running.ended is not None:
        from bzzz.cli.fetch import bring_back

        if threading.current_thread() is threading.main_thread():
            # There is nothing to be cancelled any more.
            signal.signal(signal.SIGINT, signal.default_int_handler)
        status = bring_back(session, running.ended, status, force)
    sys.exit(status)


def follow(session: Session, task: str) -> NoReturn:
    """Tell of a task that was submitted before, until it has ended."""
    running = _Running(session, cancels=False)
    running.task = task
    running.kept = True
    lines = session.client().stream(f"tasks/{task}/output", {"follow": True})
    sys.exit(running.run(lines, False))


class _Running:
    """One run.

    :param cancels: whether Ctrl-C cancels the task, or only ends the telling.
    :ivar task: its ID, once that is known.
    :ivar kept: whether it is known to be submitted.
    :ivar ended: what the node says of it, once it has ended.
    """

    def __init__(self, session: Session, cancels: bool = True) -> None:
        self.task = ""
        self.kept = False
        self.ended: Mapping[str, Any] | None = None
        self._session = session
        self._cancels = cancels
        self._interrupts = 0
        self._shown = ""
        self._terminal = sys.stderr.isatty() and not session.json
        self._runs: tuple[int, str] | None = None
        self._cancelled = False
        self._silence = Silence(self._tell_that_it_waits)

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
            self._clear()
            self._say(str(error))
            return exit_code(error, self.kept)
        except NoNode as error:
            self._clear()
            self._say(str(error))
            if self.kept:
                self._say(
                    f"The task may go on; its end, on this machine or another member's:"
                    f" bzzz logs -f {self.task}"
                )
            else:
                self._tell_unsure()
            return UNKNOWN
        except _Detached:
            self._clear()
            if self.kept:
                said = "It is being cancelled. To see its end" if self._cancelled else "It runs on"
                more = "" if self._cancelled else ". To see more of it"
                self._say(f"{said}{more}: bzzz logs -f {self.task}")
            else:
                self._tell_unsure()
            return CANCELLED
        finally:
            self._silence.end()
        if detach and self.kept:
            return 0
        self._say("The node has ended the answer without the task's end.")
        return UNKNOWN

    def _tell_unsure(self) -> None:
        if self.task:
            self._say(
                "It is not known whether the task was submitted. To see whether it was:"
                f" bzzz task {self.task}"
            )
        else:
            self._say("Nothing was submitted.")

    def _take(self, line: Mapping[str, Any], detach: bool) -> int | None:
        if self._session.json:
            from bzzz.cli.text import as_json

            click.echo(as_json(line, line=True))
        self._silence.end()
        match line:
            case {"event": "id", "task": str(task)}:
                self.task = task
            case {"event": "kept"}:
                self.kept = True
                if detach and not self._session.json:
                    click.echo(self.task)
            case {"event": "copying", "to": str(name), "done": int(done), "total": int(total)}:
                size = f"{done / (1 << 20):.1f} of {total / (1 << 20):.1f} MiB"
                self._show(f"{name} gets {size}, too")
            case {"event": "waiting", "why": str(why)}:
                said = f"waiting{f': {why}' if why else ' for a machine'}"
                self._show(said)
                if not self._session.json:
                    self._silence.begin(said)
            case {
                "event": "running",
                "worker_name": str(name),
                "token": int(token),
                "begun": int(begun),
            }:
                # Who is asked since another one has refused to begin does not run it again.
                again = begun and self._runs not in (None, (begun, name))
                if again and not self._session.json:
                    self._clear()
                    self._say(f"It runs again, on {name} (attempt {token}).")
                self._runs = (begun, name)
                self._show(f"running on {name}")
            case {"event": "stdout" | "stderr" as which, "data": str(data)}:
                if not self._session.json:
                    self._clear()
                    out = sys.stdout if which == "stdout" else sys.stderr
                    out.buffer.write(base64.b64decode(data))
                    out.buffer.flush()
            case {"event": "ended", "task": dict(task)}:
                self._clear()
                self.ended = task
                return self._status_of(task)
        return None

    def _status_of(self, task: Mapping[str, Any]) -> int:
        state, status = str(task["state"]), task["exit_status"]
        if not self._session.json:
            if state == "lost":
                self._say(f"Lost: {task['why']}")
            elif state == "timed_out":
                self._say(f"It took longer than {task['timeout']:g} s, and was ended.")
            elif state == "cancelled":
                self._say("Cancelled.")
            elif state in {"done", "failed"} and task["why"]:
                where = f"On {task['worker_name']}: " if task["worker_name"] else ""
                self._say(f"{where}{task['why']}")
        if state == "done":
            return 0
        if state == "failed":
            return int(status) if status else UNKNOWN
        return ENDS.get(state, UNKNOWN)

    def _interrupted(self, number: int, frame: object) -> None:
        self._interrupts += 1
        if not self._cancels or self._interrupts > 1 or not self.kept:
            # Before it is kept, who hangs up has most likely not submitted it.
            raise _Detached
        self._clear()
        self._say("Cancelling it; press Ctrl-C again not to wait for its end.")
        try:
            self._session.client().post(f"tasks/{self.task}/cancel")
            self._cancelled = True
        except (NoNode, NodeError) as error:
            self._say(f"It could not be cancelled: {error}")

    # -- the progress line

    def _show(self, text: str) -> None:
        if self._terminal:
            from bzzz.cli.text import safe

            self._clear()
            self._shown = safe(text)[:70]
            sys.stderr.write(f"\r{self._shown}")
            sys.stderr.flush()

    def _tell_that_it_waits(self, why: str) -> None:
        self._clear()
        self._say(f"It is {why}. What each machine lacks: bzzz why {self.task}")

    def _clear(self) -> None:
        if self._shown:
            sys.stderr.write("\r" + " " * len(self._shown) + "\r")
            sys.stderr.flush()
            self._shown = ""

    def _say(self, text: str) -> None:
        from bzzz.cli.text import safe

        for line in text.splitlines() or [""]:
            click.echo(safe(line), err=True)


class _Detached(Exception):
    """The user does not want to wait any more."""
