"""The commands about one task: task, logs, cancel, retry, why; and drain, undrain.

The listing of all is :mod:`bzzz.cli.task_list`.
"""

from __future__ import annotations

import base64
import os
import sys
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

import click

from bzzz.cli.members import complete_member
from bzzz.cli.session import NodeRefused, Session, shared
from bzzz.cli.task_list import state_of
from bzzz.cli.workflows import IS_WORKFLOW, show_workflow, tell_logs, why_of_steps

__all__ = ["cancel", "drain", "logs", "retry", "task", "undrain", "why"]


@click.command()
@click.argument("task_id", metavar="ID")
@shared
@click.pass_obj
def task(session: Session, task_id: str) -> None:
    """All about one task, or about a workflow. ID may be the beginning or the end of one."""
    try:
        each = session.ask(f"tasks/{_quoted(task_id)}", 30.0)
    except NodeRefused as refused:
        if refused.code != IS_WORKFLOW:
            raise
        show_workflow(session, _quoted(task_id))
        return
    if session.json:
        session.print_json(each)
        return
    import shlex

    from bzzz.cli.text import ago, safe, show, table

    rows: list[tuple[str, object]] = [
        ("task", each["id"]),
        ("name", each["name"]),
        ("command", shlex.join(each["command"])),
        ("state", state_of(each)),
        ("exit status", each["exit_status"]),
        ("why", each["why"]),
        ("on", each["worker_name"]),
        ("submitted", f"{ago(each['submitted'])} by {each['submitter']} on {each['origin_name']}"),
        ("changed", ago(each["changed"])),
        ("kept by", ", ".join(each["replica_names"])),
        ("workflow", each["workflow"]),
        ("step", each["step"]),
        ("where", each["where"]),
        ("needs", _needs(each)),
        ("output", _sizes(each)),
    ]
    for key, value in rows:
        if value not in ("", None):
            click.echo(safe(f"{key:<12} {value}"))
    if state_of(each) == "waiting":
        click.echo(f"\nWhy it does not run yet, for every machine: bzzz why {each['id']}")
    if each["attempts"]:
        click.echo()
        attempts = [
            (
                attempt["token"],
                attempt["worker_name"],
                attempt["end"],
                "" if attempt["exit_status"] is None else attempt["exit_status"],
                attempt["reason"],
            )
            for attempt in each["attempts"]
        ]
        show(table(("attempt", "on", "end", "exit", "reason"), attempts))


def _sizes(each: Mapping[str, Any]) -> str:
    if each["stdout_size"] is None:
        return ""
    from bzzz.tasks.executors.keeper_words import size

    return f"{size(each['stdout_size'])}, and {size(each['stderr_size'])} of standard error"


def _needs(each: Mapping[str, Any]) -> str:
    """``2 cores, 1.5 GiB of memory, 1 GPU, at most 600 s``."""
    from bzzz.tasks.executors.keeper_words import size

    cpus, gpus = each["cpus"], each["gpus"]
    parts = (
        f"{cpus:g} core{'' if cpus == 1 else 's'}" if cpus else "",
        f"{size(each['memory'])} of memory" if each["memory"] else "",
        f"{gpus} GPU{'' if gpus == 1 else 's'}" if gpus else "",
        f"at most {each['timeout']:g} s" if each["timeout"] else "",
    )
    return ", ".join(filter(None, parts))


@click.command()
@click.argument("task_id", metavar="ID")
@click.option("-f", "--follow", is_flag=True, help="Go on until it has ended.")
@shared
@click.pass_obj
def logs(session: Session, task_id: str, follow: bool) -> None:
    """What a task has printed, from wherever it ran. Of a workflow, which tasks its steps are."""
    try:
        if follow:
            from bzzz.cli.run import follow as follow_task

            each = session.ask(f"tasks/{_quoted(task_id)}", 30.0)
            follow_task(session, each["id"])
        _print(session, session.stream(f"tasks/{_quoted(task_id)}/output", {}))
    except NodeRefused as refused:
        if refused.code != IS_WORKFLOW:
            raise
        tell_logs(session, _quoted(task_id))
        sys.exit(1)


def _print(session: Session, lines: Iterable[Mapping[str, Any]]) -> None:
    for line in lines:
        if session.json:
            from bzzz.cli.text import as_json

            click.echo(as_json(line, line=True))
            continue
        match line:
            case {"event": "stdout", "data": str(data)}:
                sys.stdout.buffer.write(base64.b64decode(data))
            case {"event": "stderr", "data": str(data)}:
                sys.stdout.flush()
                sys.stderr.buffer.write(base64.b64decode(data))
                sys.stderr.flush()
    sys.stdout.flush()


@click.command()
@click.argument("task_ids", metavar="ID...", nargs=-1, required=True)
@shared
@click.pass_obj
def cancel(session: Session, task_ids: tuple[str, ...]) -> None:
    """End tasks, with all their processes, or workflows with all their tasks."""
    answers, refusals = [], []
    for task_id in task_ids:
        try:
            answers.append(_acted(session, task_id, "cancel"))
        except NodeRefused as error:
            # The others are to be cancelled all the same.
            refusals.append(error)
    if session.json:
        session.print_json({"tasks": answers})
    else:
        for each in answers:
            click.echo(_cancelled(each))
    if refusals:
        for refusal in refusals[:-1]:
            refusal.show()
        raise refusals[-1]


def _cancelled(each: Mapping[str, Any]) -> str:
    from bzzz.cli.text import safe

    if "steps" in each:
        return safe(f"Workflow {each['id']} is {each['state']}.")
    if each["state"] == "running":
        return safe(f"{each['id']} is being ended on {each['worker_name']}.")
    if each["state"] == "cancelled":
        return safe(f"{each['id']} is cancelled.")
    return safe(f"{each['id']} had ended: {each['state']}.")


@click.command()
@click.argument("task_id", metavar="ID")
@shared
@click.pass_obj
def retry(session: Session, task_id: str) -> None:
    """Begin anew a task that has ended, or what of a workflow did not succeed."""
    each = _acted(session, task_id, "retry")
    if session.json:
        session.print_json(each)
        return
    more = "bzzz task" if "steps" in each else "bzzz logs -f"
    click.echo(f"{each['id']} begins anew. To see more of it: {more} {each['id']}")


def _acted(session: Session, task_id: str, act: str) -> Any:
    """Have something done with a task, or with a workflow where it is one."""
    try:
        return session.post(f"tasks/{_quoted(task_id)}/{act}", timeout=60.0)
    except NodeRefused as refused:
        if refused.code != IS_WORKFLOW:
            raise
    return session.post(f"workflows/{_quoted(task_id)}/{act}", timeout=60.0)


@click.command()
@click.argument("task_id", metavar="ID")
@shared
@click.pass_obj
def why(session: Session, task_id: str) -> None:
    """What a task waits for, or how it ended, and for every machine why it does not run there.

    Of a workflow, why its steps wait or have failed.
    """
    try:
        answer = session.ask(f"tasks/{_quoted(task_id)}/why", 30.0)
    except NodeRefused as refused:
        if refused.code != IS_WORKFLOW:
            raise
        why_of_steps(session, _quoted(task_id))
        return
    if session.json:
        session.print_json(answer)
        return
    from bzzz.cli.text import safe, show, table

    each = answer["task"]
    click.echo(safe(_where_it_is(each, answer["why"])))
    rows = []
    for node in answer["nodes"]:
        reasons = [unfit["text"] for unfit in node["unfit"]] or ["it could run here"]
        rows += [
            (node["name"] if place == 0 else "", "no" if node["unfit"] else "yes", reason)
            for place, reason in enumerate(reasons)
        ]
    if rows:
        if each["state"] != "waiting":
            click.echo("\nIf it began now:")
        show(table(("machine", "fits", "why"), rows))
    elif each["state"] == "waiting":
        click.echo("No machine that runs tasks is known here.")


def _where_it_is(each: Mapping[str, Any], why: str) -> str:
    """What a task waits for, where it runs, or how it ended, in a sentence."""
    on, state, status = each["worker_name"], str(each["state"]), each["exit_status"]
    where = f" on {on}" if on else ""
    if state == "waiting":
        said = "It is being cancelled" if each["cancel"] else "It waits"
    elif state == "running":
        said = f"It is being ended{where}" if each["cancel"] else f"It runs{where}"
        said += f", attempt {each['token']}"
    elif state == "timed_out":
        return f"It took longer than {each['timeout']:g} s{where}, and was ended."
    else:
        said = f"It {'has failed' if state == 'failed' else f'is {state}'}{where}"
        said += "" if status is None else f", with exit status {status}"
    return f"{said}: {why}" if why else f"{said}."


@click.command()
@click.argument("machine", metavar="[MACHINE]", default="", shell_complete=complete_member)
@shared
@click.pass_obj
def drain(session: Session, machine: str) -> None:
    """Have a machine take no new tasks; what runs goes on. Without MACHINE, this one.

    MACHINE is a member's name or peer ID, or the beginning of one; only an admin drains others. It
    takes tasks again after "bzzz undrain", or when its node is started again.
    """
    name, already = _drained(session, machine, True)
    if not session.json:
        again = f"bzzz undrain {name}" if machine else "bzzz undrain"
        takes = "takes no new tasks already" if already else "takes no new tasks"
        click.echo(f"{name} {takes}. To have it take some again: {again}")


@click.command()
@click.argument("machine", metavar="[MACHINE]", default="", shell_complete=complete_member)
@shared
@click.pass_obj
def undrain(session: Session, machine: str) -> None:
    """Have a machine take tasks again. Without MACHINE, this one."""
    name, already = _drained(session, machine, False)
    if not session.json:
        click.echo(f"{name} takes tasks {'already' if already else 'again'}.")


def _drained(session: Session, machine: str, on: bool) -> tuple[str, bool]:
    """What the machine is called that was drained, or not any more, and whether it was before."""
    from bzzz.cli.text import safe

    body = {"on": on, "node": machine} if machine else {"on": on}
    answer = session.post("drain", body, timeout=40.0)
    if session.json:
        session.print_json(answer)
    return safe(answer["name"]) if machine else "This machine", bool(answer["already"])


def _quoted(text: str) -> str:
    return quote(os.fsencode(text), safe="")
