"""The commands that ask the node: status, peers, capabilities, events."""

from __future__ import annotations

import datetime
import json
import os
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import click
from click.shell_completion import CompletionItem

from bzzz.cli.client import TIMEOUT, NodeError, NoNode
from bzzz.cli.numbers import Number
from bzzz.cli.session import NobodyAnswers, Refusal, Session, shared

__all__ = ["capabilities", "events", "peers", "status"]

# Seconds between two looks of `bzzz peers --watch`.
WATCH_INTERVAL = 1.0

# Seconds between two looks of `bzzz status --wait`.
WAIT_INTERVAL = 0.1

# Seconds: a year, as of all lengths of time that somebody gives.
MAX_WAIT = 366 * 86400

# Seconds that the completion of a peer's name may hold up the shell.
COMPLETION_TIMEOUT = 0.5

PEER_HEADINGS = ("name", "id", "state", "address", "rtt", "since", "can do")

# Fields of an event that its line begins with, and the one that --json is for: a whole document.
EVENT_HEAD = ("time", "event", "name", "peer_id", "document")


def _complete_peer(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    session = ctx.find_object(Session) or Session()
    try:
        nodes = session.client().get("capabilities", COMPLETION_TIMEOUT)["nodes"]
    except (NoNode, NodeError):
        return []
    words = [str(node[key]) for key in ("name", "short_id") for node in nodes if node[key]]
    return [
        CompletionItem(word) for word in words if word.startswith(incomplete) and word.isprintable()
    ]


@click.command()
@shared
@click.option(
    "--wait",
    type=Number(0, MAX_WAIT),
    metavar="SECONDS",
    help="Wait until a node answers and has started, at most so long.",
)
@click.pass_obj
def status(session: Session, wait: float | None) -> None:
    """How the node is: its name, ID, addresses and links."""
    answer = session.ask("status") if wait is None else _started(session, wait)
    if session.json:
        session.print_json(answer)
        return
    from bzzz.cli.text import duration, milliseconds, show, table

    rows = [
        ("node", f"{answer['name']} ({answer['short_id']})"),
        ("peer id", answer["peer_id"]),
        ("state", _state(answer)),
        ("cluster", _membership(answer)),
        ("peers", f"{_links(answer)}, at most {answer['max_links']} links"),
        ("listening on", ", ".join(answer["listen_addresses"]) or "nothing"),
        ("mdns", answer["mdns"]),
        ("running for", f"{duration(answer['uptime_seconds'])}, pid {answer['pid']}"),
        ("version", answer["version"]),
        ("reactor lag", milliseconds(answer.get("reactor_lag_seconds"))),
        ("unit", _unit(answer.get("unit"))),
        ("executor", _executor(answer)),
        ("draining", _draining(answer.get("draining"))),
        ("control socket", answer.get("control_socket")),
        ("state directory", answer.get("state_dir")),
    ]
    show(table(("", ""), [row for row in rows if row[1]], head=False))


def _state(answer: Mapping[str, Any]) -> str:
    """The state; in words where it comes from being no member to anybody."""
    if answer["state"] != "alone" or not answer.get("guest_peers"):
        return str(answer["state"])
    return (
        "alone: whoever answers takes this node for a guest. If it was revoked: bzzz leave, then"
        " bzzz join"
    )


def _links(answer: Mapping[str, Any]) -> str:
    """``2 connected, 1 takes this node for a guest, 3 known``."""
    guest = answer.get("guest_peers", 0)
    parts = [f"{answer['peers_connected'] - answer.get('guest_links', 0)} connected"]
    if guest:
        parts.append(f"{guest} take{'s' if guest == 1 else ''} this node for a guest")
    return ", ".join([*parts, f"{answer['peers_known']} known"])


def _membership(answer: Mapping[str, Any]) -> str:
    """``homelab, as admin``; or what an unclaimed node is, and how that is changed."""
    cluster, role = answer.get("cluster"), answer.get("role")
    if cluster is None:
        return "none: bzzz cluster create NAME founds one, bzzz join CODE joins one"
    if role is None:
        return f"{cluster}, from which it was revoked: bzzz leave, then bzzz join"
    return f"{cluster}, as {role}"


def _unit(unit: Mapping[str, Any] | None) -> str:
    """``bzzz.service: active (running) since 3 min ago, 1 restart, 61 MiB, enabled``."""
    if unit is None:
        return ""
    from bzzz.cli.text import ago

    restarts = unit["restarts"]
    memory = unit.get("memory_bytes")
    said = (
        f"{unit['active_state']} ({unit['sub_state']}) since {ago(unit.get('since')) or '?'}",
        f"{restarts} restart{'' if restarts == 1 else 's'}",
        f"{memory / 2**20:.0f} MiB" if memory is not None else "",
        str(unit.get("file_state") or ""),
        "changed on disk: systemctl daemon-reload" if unit["needs_daemon_reload"] else "",
    )
    return f"{unit['id']}: {', '.join(part for part in said if part)}"


def _executor(answer: Mapping[str, Any]) -> str:
    """``systemd``; or ``process: `` and why."""
    name, reason = answer.get("executor") or "", answer.get("executor_reason")
    return f"{name}: {reason}" if name and reason else name


def _draining(wish: Mapping[str, Any] | None) -> str:
    """``it takes no new tasks, as ada on acacia wants it``, and how that is changed."""
    if wish is None:
        return ""
    if wish["name"] is None:
        return "it takes no new tasks, as it is to end"
    who = f"{wish['user']} on {wish['name']}" if wish["user"] else f"somebody on {wish['name']}"
    return f"it takes no new tasks, as {who} wants it: bzzz undrain"


def _started(session: Session, seconds: float) -> Any:
    """What the node answers once it has started; ends the command with the last reason if not."""
    end = time.monotonic() + seconds
    while True:
        left = end - time.monotonic()
        try:
            answer = session.ask("status", min(TIMEOUT, max(left, WAIT_INTERVAL)))
            if answer["state"] not in {"starting", "stopping"}:
                return answer
            state = answer["state"]
            problem = NobodyAnswers(f"After {seconds:g} s the node is {state}; see its log")
        except NobodyAnswers as silence:
            problem = silence
        if left <= 0 or problem.lasting:
            raise problem
        time.sleep(min(WAIT_INTERVAL, left))


def _peer_row(peer: Mapping[str, Any]) -> tuple[object, ...]:
    from bzzz.cli.text import ago, duration, milliseconds, place

    address = peer.get("address") or next(iter(peer.get("addresses") or ()), "")
    about = peer.get("summary") or ", ".join(peer.get("capabilities") or ())
    if peer["state"] == "claimed":
        about = "belongs to a cluster: bzzz invite there, bzzz join here"
    elif peer["state"] != "connected":
        why = peer.get("reason") or ""
        due = peer.get("next_dial_seconds")
        again = f"next dial in {duration(due)}" if due is not None else ""
        about = "; ".join(part for part in (why, again) if part)
    elif peer.get("reason"):
        # A member that takes this node for none: what it can do was heard before.
        about = peer["reason"]
    return (
        peer.get("name") or "?",
        peer["short_id"],
        peer["state"],
        place(address),
        milliseconds(peer.get("rtt_seconds")),
        ago(peer.get("since")),
        about,
    )


@click.command()
@shared
@click.option("--watch", "-w", is_flag=True, help="Look again each second, until Ctrl-C.")
@click.pass_obj
def peers(session: Session, watch: bool) -> None:
    """Who is out there, in which state, and what each can do."""
    answer = session.ask("peers")
    if watch:
        _watch(session, answer)
    elif session.json:
        session.print_json(answer)
    else:
        from bzzz.cli.text import show

        if not answer["peers"]:
            click.echo("No other node is known yet. To see what keeps them apart: bzzz doctor")
            return
        show(_peer_table(answer))


def _peer_table(answer: Mapping[str, Any]) -> Any:
    from bzzz.cli.text import table

    return table(PEER_HEADINGS, map(_peer_row, answer["peers"]))


def _watch(session: Session, answer: Any) -> None:
    """Show the peers again and again. A node that is restarted meanwhile is waited for."""
    from bzzz.cli.text import as_json, console, plain

    out = console()

    def look() -> tuple[Any, str]:
        try:
            return session.ask("peers"), ""
        except Refusal as refusal:
            return None, refusal.message

    try:
        if out.is_terminal and not session.json:
            _watch_on_terminal(out, answer, look)
        problem = ""
        while True:
            if answer is None:
                click.echo(problem, err=True)
            elif session.json:
                click.echo(as_json(answer, line=True))
            else:
                moment = datetime.datetime.now().astimezone()
                click.echo(f"{moment:%H:%M:%S}  {_count(answer)}")
                click.echo("\n".join(plain(_peer_table(answer))) + "\n")
            time.sleep(WATCH_INTERVAL)
            answer, problem = look()
    except KeyboardInterrupt:
        pass  # this is how watching ends


def _count(answer: Mapping[str, Any]) -> str:
    linked = sum(peer["state"] == "connected" for peer in answer["peers"])
    return f"{linked} of {len(answer['peers'])} known nodes connected"


def _watch_on_terminal(out: Any, answer: Any, look: Any) -> None:
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    problem = ""
    with Live(console=out, auto_refresh=False, screen=True) as live:
        while True:
            moment = datetime.datetime.now().astimezone()
            if answer is None:
                shown: Any = Text(problem, style="red")
            else:
                shown = Group(Text(f"{moment:%H:%M:%S}  {_count(answer)}\n"), _peer_table(answer))
            live.update(shown, refresh=True)
            time.sleep(WATCH_INTERVAL)
            answer, problem = look()


@click.command()
@click.argument("peer", required=False, shell_complete=_complete_peer)
@shared
@click.pass_obj
def capabilities(session: Session, peer: str | None) -> None:
    """What every node can do, or everything that one says of itself.

    PEER is a name, a short ID, a peer ID, or the beginning of one of them.
    """
    if peer is not None:
        answer = session.ask(f"capabilities/{quote(os.fsencode(peer), safe='')}")
        if session.json:
            session.print_json(answer)
        else:
            _show_node(answer)
        return
    answer = session.ask("capabilities")
    if session.json:
        session.print_json(answer)
        return
    from bzzz.cli.text import ago, show, table

    rows = [
        (
            (node.get("name") or "?") + (" (this node)" if node["self"] else ""),
            node["short_id"],
            _busy(node),
            "" if node["self"] else ago(node.get("received")) or "never",
            node.get("summary"),
        )
        for node in answer["nodes"]
    ]
    show(table(("name", "id", "work", "heard", "can do"), rows))


def _busy(node: Mapping[str, Any]) -> str:
    if node.get("state") not in (None, "connected"):
        # What it said last of its work is over.
        return str(node["state"])
    said = node.get("availability")
    if not said:
        return ""
    return f"{said['status']}, {said['current_tasks']}/{said['max_tasks']}"


def _show_node(node: Mapping[str, Any]) -> None:
    """Everything that a node says of itself, a line for each thing."""
    from bzzz.cli.text import ago, show, table

    rows: list[tuple[str, object]] = [
        ("name", node.get("name")),
        ("peer id", node["peer_id"]),
        ("can do", node.get("summary")),
        ("work", _busy(node)),
        ("heard", "this node" if node["self"] else ago(node.get("received")) or "never"),
    ]
    for key, value in (node.get("capabilities") or {}).items():
        if key not in {"node_id", "name"}:
            rows += _flat(key, value)
    show(table(("", ""), [row for row in rows if row[1] not in (None, "")], head=False))


def _flat(key: str, value: object) -> list[tuple[str, object]]:
    """A nested value as lines ``resources.memory_bytes  33000000000``."""
    if isinstance(value, dict):
        return [row for name, inner in value.items() for row in _flat(f"{key}.{name}", inner)]
    if isinstance(value, list):
        if any(isinstance(item, dict) for item in value):
            return [row for n, item in enumerate(value) for row in _flat(f"{key}.{n}", item)]
        return [(key, ", ".join(str(item) for item in value))]
    return [(key, value)]


@click.command()
@click.option("--follow", "-f", is_flag=True, help="Go on with what happens, until Ctrl-C.")
@click.option(
    "--lines",
    "-n",
    type=click.IntRange(0),
    default=20,
    show_default=True,
    help="How many of the events that the node remembers.",
)
@shared
@click.pass_obj
def events(session: Session, follow: bool, lines: int) -> None:
    """What happened: links that came and went, and every message.

    With --json an event is a line, and has what the message said as "document".
    """
    what = f"events?recent={lines}" + ("&follow=1" if follow else "")
    from bzzz.cli.text import as_json

    try:
        for line in session.lines(what, follow=follow):
            try:
                event = json.loads(line)
            except ValueError:
                continue  # the rest of a line, cut off by the end of the node
            click.echo(as_json(event, line=True) if session.json else _event_line(event))
    except KeyboardInterrupt:
        return  # this is how following ends
    if follow:
        raise NobodyAnswers("The node has stopped.")


def _event_line(event: Mapping[str, Any]) -> str:
    """``01:02:03 connected walnut (aXgZfP) address=/ip4/192.0.2.1/tcp/4001``."""
    from bzzz.cli.text import safe

    try:
        moment = datetime.datetime.fromisoformat(str(event.get("time"))).astimezone()
        parts = [f"{moment:%H:%M:%S}"]
    except ValueError:
        parts = [str(event.get("time"))]
    parts.append(str(event.get("event")))
    peer = event.get("peer_id")
    if peer:
        parts.append(f"{event.get('name') or '?'} ({str(peer)[-6:]})")
    elif event.get("name"):
        parts.append(str(event["name"]))
    for key, value in event.items():
        if key in EVENT_HEAD or value in (None, "", []):
            continue
        text = _plain(value)
        parts.append(f"{key}={json.dumps(text, ensure_ascii=False) if ' ' in text else text}")
    return safe(" ".join(parts))


def _plain(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return ",".join(value)
    if isinstance(value, float):
        value = round(value, 3)
    return json.dumps(value, ensure_ascii=False)
