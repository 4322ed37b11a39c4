"""What commands about tasks show of a workflow, where its ID is given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from bzzz.cli.session import Session

__all__ = ["IS_WORKFLOW", "show_workflow", "tell_logs", "why_of_steps"]

# The code of the node's error.
IS_WORKFLOW = "is_workflow"


def show_workflow(session: Session, part: str) -> None:
    """Show a workflow.

    :param part: its ID or a part of it, quoted for a path.
    """
    known = session.ask(f"workflows/{part}", 30.0)
    if session.json:
        session.print_json(known)
        return
    from bzzz.cli.text import ago, safe, show, table

    whose = f"by {known['submitter']} on {known['origin_name']}"
    for key, value in (
        ("workflow", known["id"]),
        ("name", known["name"]),
        ("state", known["state"]),
        (
            "submitted",
            f"{ago(known['submitted'])} {whose}",
        ),
        ("changed", ago(known["changed"])),
        ("kept by", ", ".join(known["replica_names"])),
    ):
        if value:
            click.echo(safe(f"{key:<12} {value}"))
    click.echo()
    rows = [(step["label"], step["state"], step["task"]) for step in known["steps"]]
    show(table(("step", "state", "task"), rows))
    if known["state"] != "done":
        click.echo(f"\nWhy steps wait, or have failed: bzzz why {known['id']}")


def tell_logs(session: Session, part: str) -> None:
    """Tell which steps of a workflow have an output, and how it is seen."""
    from bzzz.cli.text import plain, table

    known = session.ask(f"workflows/{part}", 30.0)
    click.echo(f"{known['id']} is a workflow, and each of its steps has its output:", err=True)
    rows = [
        (f"bzzz logs {step['task']}", step["label"], step["state"])
        for step in known["steps"]
        if step["task"]
    ]
    for line in plain(table(("", "", ""), rows, head=False)):
        click.echo(f"  {line}", err=True)
    if not rows:
        click.echo(f"  none has begun yet: bzzz why {known['id']}", err=True)


def why_of_steps(session: Session, part: str) -> None:
    """Tell of each step of a workflow that waits, runs or has failed, why."""
    answer = session.ask(f"workflows/{part}/why", 30.0)
    if session.json:
        session.print_json(answer)
        return
    from bzzz.cli.text import show, table

    steps, workflow = answer["steps"], answer["workflow"]
    if not steps:
        click.echo(f"Workflow {workflow['id']} is {workflow['state']}: no step waits.")
        return
    rows = [
        (step["label"], step["task_state"] or step["state"], step["task"], reason(step))
        for step in steps
    ]
    show(table(("step", "state", "task", "why"), rows))
    if any(step["task_state"] == "waiting" for step in steps):
        click.echo("\nFor every machine: bzzz why, with the ID of the task")
    if any(step["state"] == "failed" for step in steps):
        click.echo("\nWhat a step has printed: bzzz logs, with the ID of its task")


def reason(step: Mapping[str, Any]) -> str:
    """Why a step is where it is, in a sentence."""
    said, on = str(step["why"]), step["worker_name"]
    if step["state"] == "failed":
        if not said and step["exit_status"] is not None:
            said = f"exit status {step['exit_status']}"
        return f"{said} on {on}" if on else said
    return f"it runs on {on}" if on else said
