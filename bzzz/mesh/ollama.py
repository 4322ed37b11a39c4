"""The models of an Ollama on this machine: ``GET /api/tags`` over loopback.

Enters: ``OLLAMA_HOST``, and what answers there. Leaves: names of models. HTTP/1.0 by hand, some
lines of it, because an HTTP client is a megabyte in every node and this is its only use.
Ollama's docs/api.md, "List Local Models"; RFC 1945 for what it answers with.
"""

from __future__ import annotations

import ipaddress

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from bzzz.errors import BzzzError
from bzzz.mesh.capability import MAX_MODELS, MAX_TEXT
from bzzz.net.interfaces import INetwork

__all__ = ["OllamaError", "local_address", "models"]

DEFAULT = ("127.0.0.1", 11434)

# Seconds until a connection over loopback is given up.
CONNECT_TIMEOUT = 1.0

# Bytes of an answer: 512 models at 1 KiB each, which is twice what one takes there.
MAX_ANSWER = 512 << 10


class OllamaError(BzzzError):
    """What answers at Ollama's address does not do so as Ollama does."""


class _Model(msgspec.Struct):
    name: str


class _Tags(msgspec.Struct):
    models: list[_Model] | None = None


def local_address(setting: str) -> tuple[str, int]:
    """Where the local Ollama listens by ``OLLAMA_HOST``; the usual place if that is elsewhere.

    What another machine runs is that machine's to tell.
    """
    text = setting.strip()
    scheme, separator, rest = text.partition("://")
    if separator:
        if scheme.lower() != "http":
            return DEFAULT
        text = rest
    text = text.split("/", 1)[0]
    if text.startswith("["):
        host, bracket, port = text[1:].partition("]")
        if not bracket:
            return DEFAULT
        port = port.removeprefix(":")
    elif text.count(":") > 1:
        host, port = text, ""
    else:
        host, _, port = text.partition(":")
    default_port = 80 if separator else DEFAULT[1]
    number = int(port) if port.isascii() and port.isdigit() else default_port
    if not 0 < number < 65536:
        return DEFAULT
    if host in ("", "localhost"):
        return DEFAULT[0], number
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return DEFAULT
    if address.is_unspecified:
        # It listens everywhere, so on loopback too.
        return ("127.0.0.1" if address.version == 4 else "::1"), number
    return (str(address), number) if address.is_loopback else DEFAULT


async def models(network: INetwork, address: tuple[str, int]) -> tuple[str, ...]:
    """The names of the models, sorted.

    :raises OllamaError: something else answers there.
    :raises ConnectError: nothing does.
    """
    body = await _get(network, *address, "/api/tags")
    try:
        tags = msgspec.json.decode(body, type=_Tags)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise OllamaError(f"what answers at port {address[1]} is not Ollama: {error}") from error
    names = {
        model.name
        for model in tags.models or ()
        if model.name.isprintable() and 0 < len(model.name) <= MAX_TEXT
    }
    return tuple(sorted(names)[:MAX_MODELS])


async def _get(network: INetwork, host: str, port: int, path: str) -> bytes:
    shown = f"[{host}]" if ":" in host else host
    request = f"GET {path} HTTP/1.0\r\nHost: {shown}:{port}\r\nAccept: application/json\r\n\r\n"
    get = _Get(request.encode("ascii"))
    await network.connect(host, port, _Factory(get), CONNECT_TIMEOUT, None)
    try:
        return await get.answer
    finally:
        # Also when whoever waits has given up.
        get.close()


class _Factory(Factory):
    noisy = False

    def __init__(self, get: _Get) -> None:
        self._get = get

    def buildProtocol(self, addr: object) -> Protocol:
        return self._get


class _Get(Protocol):
    """One request; the answer's body ends with the connection, or at its length.

    :ivar answer: fires with the body, or fails with :class:`OllamaError`.
    """

    def __init__(self, request: bytes) -> None:
        self.answer: Deferred[bytes] = Deferred()
        self._request = request
        self._received = bytearray()
        self._ended = False

    def close(self) -> None:
        """End the connection."""
        if self.transport is not None:
            self.transport.loseConnection()

    def connectionMade(self) -> None:
        if self.transport is not None:
            self.transport.write(self._request)

    def dataReceived(self, data: bytes) -> None:
        if self._ended:
            return
        self._received += data
        if len(self._received) > MAX_ANSWER:
            self._fail(f"the answer is longer than {MAX_ANSWER} bytes")
            return
        head, end, body = bytes(self._received).partition(b"\r\n\r\n")
        length = _length(head) if end else None
        if length is not None and len(body) >= length:
            self._end(head, body[:length])

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._ended:
            return
        head, end, body = bytes(self._received).partition(b"\r\n\r\n")
        length = _length(head)
        if not end or (length is not None and len(body) < length):
            self._fail("the answer ended early")
        else:
            self._end(head, body)

    def _end(self, head: bytes, body: bytes) -> None:
        words = head.split(b"\r\n", 1)[0].split()
        if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or words[1] != b"200":
            self._fail(f"the answer starts with {head[:40]!r}")
            return
        self._ended = True
        self.answer.callback(body)

    def _fail(self, reason: str) -> None:
        self._ended = True
        self.close()
        self.answer.errback(OllamaError(reason))


def _length(head: bytes) -> int | None:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length" and value.strip().isdigit():
            # A length beyond the cap is never reached, whatever it is.
            return int(value.strip()[:12])
    return None
