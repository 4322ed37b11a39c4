"""Which node somebody means by a name, a short ID, a peer ID, or the beginning of one of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

__all__ = ["Ambiguous", "NoSuchPeer", "resolve"]

# Every Ed25519 peer ID begins with these, so that a beginning may leave them out.
COMMON = "12D3KooW"


class Named(Protocol):
    """What is used of a node."""

    @property
    def peer_id(self) -> str: ...

    @property
    def short_id(self) -> str: ...

    @property
    def name(self) -> str | None: ...

    @property
    def state(self) -> str | None: ...


N = TypeVar("N", bound=Named)


class NoSuchPeer(Exception):
    """No node is meant."""


class Ambiguous(Exception):
    """Several nodes are meant; tells them."""


def resolve(text: str, nodes: Sequence[N]) -> N:
    """The one node that is meant. A name or a short ID wins over a beginning, and a node that is
    linked over one that is not. Names are what nodes call themselves: this is for people who look.

    :raises NoSuchPeer: there is none.
    :raises Ambiguous: there are several.
    """
    found = (
        [node for node in nodes if node.peer_id == text]
        # Together, so that nobody can hide another by taking its short ID for a name.
        or [node for node in nodes if text in (node.name, node.short_id)]
        or [node for node in nodes if text and node.peer_id.startswith((text, COMMON + text))]
        or [node for node in nodes if text and node.name and node.name.startswith(text)]
    )
    if not found:
        known = ", ".join(sorted(node.name or node.short_id for node in nodes)[:10])
        raise NoSuchPeer(f"no node is called '{text}' (known: {known or 'none'})")
    if len(found) > 1:
        # A machine that was installed anew has another peer ID, and its old one is remembered.
        found = [node for node in found if node.state in {None, "connected"}] or found
    if len(found) > 1:
        several = ", ".join(f"{node.short_id} ({node.name})" for node in found[:10])
        raise Ambiguous(f"'{text}' may be any of {several}; give more of a peer ID")
    return found[0]
