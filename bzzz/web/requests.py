"""A request of the control API, and what a route does with it.

Enters: a request, whose body is not kept when it is too large or no JSON. Leaves: who asks, its
arguments, its body as a checked Struct; the bytes of an answer. What is wrong with a request is a
:class:`Refusal`, which is answered as an error.
"""

from __future__ import annotations

import re
from io import BytesIO
from typing import Any, TypeVar

import msgspec
from twisted.web.iweb import IRequest
from twisted.web.server import Request

from bzzz.web.credentials import Credentials
from bzzz.web.schema import encode

__all__ = [
    "Body",
    "LocalRequest",
    "Refusal",
    "answer",
    "argument",
    "credentials_of",
    "read_body",
    "read_bytes",
    "refuse",
]

# What is asked is names, codes and commands; a file is not sent in a question.
MAX_BODY_BYTES = 1 << 20

# Of a body that is not kept so much is still read, so that who sends it gets to the answer.
MAX_DISCARDED_BYTES = 16 << 20

JSON = "application/json"
BYTES = "application/octet-stream"

B = TypeVar("B", bound="Body")


class Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The base of what a route takes: an object of JSON, in which a field too many is a mistake."""


class Refusal(Exception):
    """The request is not done.

    :ivar status: of HTTP.
    :ivar code: the error's stable name.
    """

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


class LocalRequest(Request):
    """A request over a UNIX socket, where there is no host to tell and a client may name none.

    :ivar credentials: of who connected; None where nobody has checked.
    :ivar refusal: why the body was not kept.
    """

    def __init__(
        self, channel: Any, *arguments: Any, credentials: Credentials | None = None
    ) -> None:
        super().__init__(channel, *arguments)
        self.credentials = credentials
        self.refusal: Refusal | None = None
        self._body = BytesIO()
        self._received = 0

    def getRequestHostname(self) -> bytes:
        return b"localhost"

    def gotLength(self, length: int | None) -> None:
        # In memory, and never in a temporary file, into which a body without an end would go.
        self.content = self._body

    def handleContentChunk(self, data: bytes) -> None:
        self._received += len(data)
        if self.refusal is None and _content_type(self) not in {JSON, BYTES}:
            self.refusal = _not(JSON)
        if self.refusal is None and self._received > MAX_BODY_BYTES:
            self.refusal = Refusal(
                413, "too_large", f"the body of a request may have {MAX_BODY_BYTES} bytes"
            )
            self._body.truncate(0)
            self._body.seek(0)
        if self.refusal is None:
            self._body.write(data)
        elif self._received > MAX_DISCARDED_BYTES:
            transport: Any = self.transport
            transport.abortConnection()


def _content_type(request: Any) -> str:
    given = request.requestHeaders.getRawHeaders("content-type") or [""]
    return str(given[0]).split(";")[0].strip().lower()


def _not(kind: str) -> Refusal:
    code = "not_json" if kind == JSON else "not_bytes"
    return Refusal(415, code, f"the body of a request has to be of Content-Type: {kind}")


def answer(request: IRequest, value: object, status: int = 200) -> bytes:
    """The bytes of an answer: JSON, or ``value`` itself where it is bytes."""
    request.setResponseCode(status)
    if isinstance(value, bytes):
        request.setHeader(b"content-type", BYTES.encode())
        return value
    request.setHeader(b"content-type", JSON.encode())
    return encode(value)


def refuse(request: IRequest, status: int, code: str, message: str) -> bytes:
    """The bytes of an error."""
    return answer(request, {"error": {"code": code, "message": message}}, status)


def argument(request: IRequest, name: bytes) -> str | None:
    """The last ``name=`` of the question."""
    values = request.args.get(name)
    return values[-1].decode("utf-8", "replace") if values else None


def credentials_of(request: IRequest) -> Credentials:
    """Who asks.

    :raises Refusal: nobody has checked that, so the request did not come over the control socket.
    """
    credentials = getattr(request, "credentials", None)
    if not isinstance(credentials, Credentials):
        raise Refusal(403, "not_allowed", "this is done over the control socket only")
    return credentials


def read_body(request: IRequest, kind: type[B]) -> B:
    """The body, checked.

    :raises Refusal: it is no JSON, or not of this kind; names the field.
    """
    content = request.content.read()
    if not content:
        raise Refusal(400, "bad_body", "a body is missing")
    if _content_type(request) != JSON:
        raise _not(JSON)
    try:
        return msgspec.json.decode(content, type=kind)
    except msgspec.ValidationError as error:
        raise Refusal(400, "bad_body", _complaint(str(error))) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refusal(400, "bad_body", f"the body cannot be read: {error}") from None


def read_bytes(request: IRequest) -> bytes:
    """The body as it is.

    :raises Refusal: there is none, or it is said to be something else.
    """
    content: bytes = request.content.read()
    if not content:
        raise Refusal(400, "bad_body", "a body is missing")
    if _content_type(request) != BYTES:
        raise _not(BYTES)
    return content


def _complaint(said: str) -> str:
    """msgspec's words with the field first: ``nodes[0].name: expected `str`, got `int```."""
    what, _, where = said.partition(" - at `")
    path = where.removesuffix("`").removeprefix("$").removeprefix(".")
    found = re.fullmatch(r"Object (missing required|contains unknown) field `(.*)`", what)
    if found:
        path = f"{path}.{found[2]}" if path else found[2]
        what = "is missing" if found[1].startswith("missing") else "there is no such field"
    return f"{path or 'the body'}: {what[:1].lower()}{what[1:]}"
