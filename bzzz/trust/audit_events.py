"""The audit log, its events: which there are, and what each may tell.

Enters: what a caller tells of an event. Leaves: fields as a line of the log has them. What is not
in :data:`EVENTS` does not get into the log, so that no secret does by accident: there is no field
for one. docs/trust.rst, "Audit log".
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from bzzz.errors import LocalProtocolError
from bzzz.trust.audit_chain import Value

__all__ = ["EVENTS", "MAX_ITEMS", "MAX_TEXT", "EventKind", "clean", "sum_key"]

# Characters of a text: names, addresses and reasons are shorter. Peers choose some of them.
MAX_TEXT = 256

# Texts in a list, each of at most MAX_ITEM characters: the keys of the whole configuration.
MAX_ITEMS = 64
MAX_ITEM = 64


@dataclass(frozen=True)
class EventKind:
    """An event that is recorded.

    :ivar fields: what may be told of it. ``peer_id`` is whom it is about, ``name`` that one's
        name.
    :ivar summed_by: None for an event each of which has its line; else the fields by whose values
        events are the same. Of those there is a line at once, and then one a minute, with
        ``count``.
    """

    fields: tuple[str, ...]
    summed_by: tuple[str, ...] | None = None


EVENTS: Mapping[str, EventKind] = {
    # The node.
    "started": EventKind(("version", "pid", "mode")),
    "stopped": EventKind(("reason",)),
    "config_changed": EventKind(("keys", "by")),
    "control_request": EventKind(
        ("uid", "pid", "request", "peer_id", "name"), summed_by=("uid", "request", "peer_id")
    ),
    # What admins on other members want of it; ``user`` is as those say.
    "drained": EventKind(("peer_id", "name", "user"), summed_by=("peer_id",)),
    "undrained": EventKind(("peer_id", "name", "user"), summed_by=("peer_id",)),
    "drain_refused": EventKind(("peer_id", "name", "user"), summed_by=("peer_id",)),
    # Its cluster.
    "cluster_created": EventKind(("cluster", "cluster_id", "name")),
    "joined": EventKind(("cluster", "cluster_id", "by")),
    "left": EventKind(("cluster", "cluster_id")),
    "admitted": EventKind(("peer_id", "name", "by", "role")),
    "revoked": EventKind(("peer_id", "name", "by", "reason")),
    "renamed": EventKind(("peer_id", "name", "by", "was")),
    "role_changed": EventKind(("peer_id", "name", "by", "role", "was")),
    "key_rotated": EventKind(("new_key",)),
    # Who wants to join. ``invitation`` is the channel of a code or the number of a token.
    "invited": EventKind(("invitation", "kind", "role", "uses", "expires", "uid")),
    "invitation_used": EventKind(("invitation", "peer_id", "name", "address")),
    "invitation_void": EventKind(("invitation", "reason")),
    # Guesses of a code are few; of a token, of which none are left to count, there is no end.
    "wrong_code": EventKind(
        ("invitation", "peer_id", "name", "address", "left", "reason"),
        summed_by=("invitation", "left"),
    ),
    # Links. What peers can cause as often as they like is summed up.
    "guest_refused": EventKind(("peer_id", "address", "reason"), summed_by=()),
    "link_member": EventKind(
        ("peer_id", "name", "state", "address", "reason"), summed_by=("peer_id",)
    ),
    # The log itself.
    "log_created": EventKind(("node", "cluster")),
    "log_rotated": EventKind(("oldest",)),
    "log_repaired": EventKind(("bytes", "file")),
    "log_truncated": EventKind(("last", "expected")),
    "log_damaged": EventKind(("what", "file")),
    "events_lost": EventKind(("lost", "since", "until")),
    "audit_contradiction": EventKind(
        ("node", "kept_by", "seq", "hash", "kept_seq", "kept_hash", "kept_time")
    ),
}


def clean(event: str, fields: Mapping[str, object]) -> dict[str, Value]:
    """The fields as the log has them: plain values without control characters, of limited length.

    :raises LocalProtocolError: there is no such event, or it has no such field.
    """
    kind = EVENTS.get(event)
    if kind is None:
        raise LocalProtocolError(f"{event!r} is no event of the audit log")
    unknown = sorted(set(fields) - set(kind.fields))
    if unknown:
        raise LocalProtocolError(
            f"{event} has no field {', '.join(unknown)} in the audit log, but"
            f" {', '.join(kind.fields)}"
        )
    return {name: _plain(fields[name]) for name in kind.fields if name in fields}


def sum_key(event: str, fields: Mapping[str, Value]) -> tuple[object, ...] | None:
    """What events that are summed up together have in common; None where each has its line."""
    by = EVENTS[event].summed_by
    return None if by is None else (event, *(repr(fields.get(name)) for name in by))


def _plain(value: object) -> Value:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int) and abs(value) < 2**63:
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, list | tuple | set | frozenset):
        items = sorted(value, key=str) if isinstance(value, set | frozenset) else list(value)
        more = [f"and {len(items) - MAX_ITEMS} more"] if len(items) > MAX_ITEMS else []
        return [_text(str(item), MAX_ITEM) for item in items[:MAX_ITEMS]] + more
    return _text(str(value), MAX_TEXT)


def _text(text: str, limit: int) -> str:
    """A text that can be shown: what drives a terminal, or is no character, is escaped."""
    cut = text if len(text) <= limit else text[:limit] + "…"
    if cut.isprintable():
        return cut
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in cut
    )
