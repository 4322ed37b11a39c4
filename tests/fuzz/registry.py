"""Where the targets are entered, and what they share."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from bzzz.errors import BzzzError, RemoteProtocolError
from bzzz.identity.keys import PrivateKey

__all__ = [
    "EPHEMERAL",
    "OURS",
    "STATIC",
    "STREAM_PROTOCOL",
    "TARGETS",
    "THEIRS",
    "TOPIC",
    "fixed_bytes",
    "pieces",
    "target",
    "told",
]

Target = Callable[[bytes], None]

TARGETS: dict[str, Target] = {}

TOPIC = "bzzz/coordination/v1"
STREAM_PROTOCOL = "/fuzz/1.0.0"
OURS = PrivateKey.from_seed(b"o" * 32)
THEIRS = PrivateKey.from_seed(b"t" * 32)
STATIC = b"s" * 32
EPHEMERAL = b"e" * 32

# Characters of an error's text: what is wrong, and as much of the peer's words as shows where.
LONGEST_ERROR = 500


def target(function: Target) -> Target:
    """Make the function known under its name."""
    TARGETS[function.__name__] = function
    return function


def pieces(data: bytes) -> Iterator[bytes]:
    """The input cut as its first byte says: not at all, or in pieces of so many bytes."""
    if not data:
        return
    size, rest = data[0], data[1:]
    if size == 0:
        yield rest
        return
    for start in range(0, len(rest), size):
        yield rest[start : start + size]


def told(error: BzzzError) -> None:
    """An error is shown: it is one line, and no long one where a peer may choose its words."""
    text = str(error)
    assert text.isprintable(), text
    assert len(text) <= LONGEST_ERROR or not isinstance(error, RemoteProtocolError), text


def fixed_bytes(size: int) -> bytes:
    """Keys that are the same in every run."""
    return bytes(range(1, size + 1))
