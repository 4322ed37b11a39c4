"""``bzzz tasks``: the cluster's tasks and workflows."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import urlencode

import click

from bzzz.cli.session import Session, shared

__all__ = ["state_of", "tasks"]

HEADINGS = ("id", "kind", "state", "on", "age", "by", "what")

# Letters of a command in a table.
SHOWN = 60

# What a task or a workflow may be; ``cancelling`` is running or waiting, and to be ended.
STATES = ("waiting", "running", "cancelling", "done", "failed", "timed_out", "cancelled", "lost")
OPEN = ("waiting", "running", "cancelling")

# Tasks and workflows that a node gives at once, and that are looked at for those that are wanted.
MAX_PAGE = 500
MAX_LOOKED = 10_000

Wanted = Callable[[Mapping[str, Any]], bool]


@click.command()
@click.option("--all", "every", is_flag=True, help="Also those that have ended.")
@click.option("--state", type=click.Choice(STATES), help="Those in this state alone.")
@click.option("--since", metavar="TIME", help="Submitted in the last 10m, 2h, 3d.")
@click.option("--mine", is_flag=True, help="Submitted by this user on this machine.")
@click.option(
    "--limit",
    type=click.IntRange(1, MAX_PAGE),
    default=100,
    metavar="N",
    help="How many to list, 100 unless said.",
)
@shared
@click.pass_obj
def tasks(
    session: Session, every: bool, state: str | None, since: str | None, mine: bool, limit: int
) -> None:
    """The cluster's tasks and workflows that have not ended, the newest first."""
    ended = every or state not in (None, *OPEN)
    query = {} if ended else {"open": "1"}
    if since is not None:
        query["since"] = _id_of(since)
    me, here = (_user(), session.ask("id")["peer_id"]) if mine else ("", "")

    def wanted(each: Mapping[str, Any]) -> bool:
        is_mine = not mine or (each["submitter"], each["origin"]) == (me, here)
        return is_mine and state in (None, state_of(each))

    every_one = state is None and not mine
    answer = _ask(session, query, limit, None if every_one else wanted)
    answer["tasks"] = _in_order(answer["tasks"], answer["workflows"])
    if session.json:
        session.print_json(answer)
        return
    from bzzz.cli.text import show, table

    listed = _in_order([*answer["workflows"], *answer["tasks"]], answer["workflows"])
    if listed:
        rows = (_workflow_row(each) if "steps" in each else _row(each) for each in listed)
        show(table(HEADINGS, rows))
    elif answer["more"]:
        click.echo(f"None of the newest {answer['looked_at']} is of those.")
    else:
        click.echo(_none(state, mine, since is not None, ended))
    _tell_what_is_missing(answer, len(listed), limit)


def _ask(
    session: Session, query: Mapping[str, str], limit: int, wanted: Wanted | None
) -> dict[str, Any]:
    """Ask for page after page until as many are there as are wanted.

    :param wanted: whether one is; None: all are.
    """
    found: dict[str, Any] = {"tasks": [], "workflows": [], "looked_at": 0}
    unreadable: dict[str, None] = {}
    page = str(limit if wanted is None else MAX_PAGE)
    before: dict[str, str] = {}
    while True:
        answer = session.ask(f"tasks?{urlencode({'limit': page, **query, **before})}", 30.0)
        unreadable |= dict.fromkeys(answer["unreadable"])
        kinds = [
            (each["id"], kind, each) for kind in ("tasks", "workflows") for each in answer[kind]
        ]
        # In the order of their age, in which the limit cuts them off.
        for _, kind, each in sorted(kinds, key=lambda one: one[0], reverse=True):
            found["looked_at"] += 1
            if wanted is None or wanted(each):
                found[kind].append(each)
                if len(found["tasks"]) + len(found["workflows"]) > limit:
                    found[kind].pop()
                    answer["more"] = True
        found["asked"] = max(answer["asked"], found.get("asked", 0))
        found["answered"] = min(answer["answered"], found.get("answered", answer["answered"]))
        found["more"] = answer["more"]
        found["unreadable"] = list(unreadable)
        enough = len(found["tasks"]) + len(found["workflows"]) >= limit
        if enough or not answer["next"] or found["looked_at"] >= MAX_LOOKED:
            return found
        before = {"before": answer["next"]}


def _in_order(
    listed: Iterable[Mapping[str, Any]], workflows: Iterable[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """The newest first, but a workflow's tasks behind it, in the order of its file.

    All these have the time of the workflow in their IDs, and nothing else that has an order.
    """
    places = {task: place for flow in workflows for place, task in enumerate(flow["tasks"])}

    def place(each: Mapping[str, Any]) -> tuple[int, str]:
        # Of one that was begun anew, and of one whose workflow is not listed, the name has to do.
        return (-1, "") if "steps" in each else (places.get(each["id"], len(places)), each["step"])

    by_place = sorted(listed, key=place)
    return sorted(by_place, key=lambda each: each.get("workflow") or each["id"], reverse=True)


def _tell_what_is_missing(answer: Mapping[str, Any], listed: int, limit: int) -> None:
    if answer["more"]:
        if listed >= limit:
            said = f"The newest {limit} are listed, and there are more: --limit N"
        else:
            said = f"The newest {answer['looked_at']} were looked at, and there are more."
        click.echo(said, err=True)
    silent = answer["asked"] - answer["answered"]
    if silent > 0:
        who = "1 member" if silent == 1 else f"{silent} members"
        click.echo(f"{who} did not answer, so tasks may be missing: bzzz peers", err=True)
    if unreadable := answer["unreadable"]:
        more = f" and {len(unreadable) - 3} more" if len(unreadable) > 3 else ""
        click.echo(
            f"Records that cannot be read are left out: {', '.join(unreadable[:3])}{more}. The logs"
            " of the nodes that keep them say why.",
            err=True,
        )


def _none(state: str | None, mine: bool, since: bool, ended: bool) -> str:
    """That there are none, and how to see others."""
    if state is not None:
        said = f"No task or workflow is {state.replace('_', ' ')}"
    else:
        said = "There is no task and no workflow" if ended else "No task or workflow waits or runs"
    said += ", of yours on this machine" if mine else ""
    said += ", of those submitted since then" if since else ""
    return f"{said}." if ended else f"{said}. All of them: bzzz tasks --all"


def state_of(each: Mapping[str, Any]) -> str:
    """The state of a task or a workflow for people: one that is to be ended is ``cancelling``."""
    if each.get("cancel") and each["state"] in ("waiting", "running"):
        return "cancelling"
    return str(each["state"])


def _row(each: Mapping[str, Any]) -> tuple[object, ...]:
    import shlex

    command = each["name"] or shlex.join(each["command"])
    return (each["id"], "task", *_common(each, each["worker_name"]), _cut(command))


def _workflow_row(each: Mapping[str, Any]) -> tuple[object, ...]:
    steps = f"{each['done']} of {each['steps']} steps done"
    return (each["id"], "workflow", *_common(each, ""), f"{_cut(each['name'])}: {steps}")


def _common(each: Mapping[str, Any], on: str) -> Iterable[object]:
    from bzzz.cli.text import ago

    age = ago(each["submitted"]).removesuffix(" ago")
    return (state_of(each), on, age, each["submitter"] or each["origin_name"])


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"


def _user() -> str:
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def _id_of(since: str) -> str:
    """The least ID of a task that was submitted in the last so many seconds."""
    import time

    from bzzz.cli.amounts import seconds
    from bzzz.tasks.submission import new_task_id

    began = time.time() - seconds(since, "--since")
    return new_task_id(max(0, int(began * 1000)), bytes(10))
