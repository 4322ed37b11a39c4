"""Every error that Bzzz raises on purpose.

Messages are written for the person who reads them: what was wrong, where, what to do next.
"""

from __future__ import annotations

__all__ = [
    "BzzzError",
    "ConfigError",
    "DialError",
    "IdentityError",
    "LimitExceeded",
    "LinkClosed",
    "LocalProtocolError",
    "NegotiationError",
    "ProtocolError",
    "RemoteProtocolError",
    "StateDirectoryError",
    "StreamReset",
    "one_line",
]


# Characters of an error about a peer: what is wrong, and as much of its words as shows where.
LONGEST = 400


def one_line(text: str) -> str:
    """A text that may quote a stranger, fit for a log and for a terminal."""
    text = text[: LONGEST + 1]
    if not text.isprintable():
        text = "".join(
            each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
        )
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


class BzzzError(Exception):
    """The base of all errors that Bzzz raises on purpose."""


class ConfigError(BzzzError):
    """A configuration value is unknown or wrong; names the key and its source."""


class StateDirectoryError(BzzzError):
    """The state directory cannot be used: not writable, or locked by another running node."""


class IdentityError(BzzzError):
    """A key or a peer ID is damaged, of an unsupported type, or readable by others."""


class ProtocolError(BzzzError):
    """The rules of a wire protocol were broken, by either side."""


class LocalProtocolError(ProtocolError):
    """This program asked a wire core for something that its state forbids: a bug on this side."""


class RemoteProtocolError(ProtocolError):
    """The peer broke the rules of a wire protocol; costs it the link (or the stream, where said).

    :param message: may quote the peer: it is made one line of at most :data:`LONGEST` printable
        characters.
    :ivar code: a short, stable, snake_case name of the rule broken, counted in metrics.
    """

    def __init__(self, message: str, code: str = "protocol_error") -> None:
        super().__init__(one_line(message))
        self.code = code


class LimitExceeded(RemoteProtocolError):
    """The peer tried to make this node hold more than a named limit allows."""

    def __init__(self, message: str, code: str = "limit_exceeded") -> None:
        super().__init__(message, code)


class NegotiationError(BzzzError):
    """multistream-select found no protocol that both sides speak."""


class DialError(BzzzError):
    """No address of a peer could be dialled; names each address and why it failed."""


class LinkClosed(BzzzError):
    """The link to the peer is closed, so nothing can be sent over it."""


class StreamReset(BzzzError):
    """The stream was reset, by the peer or by this side, before it was closed in order."""
