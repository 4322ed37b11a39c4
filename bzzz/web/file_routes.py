"""The control API of the files of tasks. docs/tasks.rst, "Files".

Enters: requests of the control socket. Leaves: chunks of the node's cache. The node runs as another
user than who asks, so it reads and writes no file of theirs: a program packs files itself
(:mod:`bzzz.tasks.files.packing`), and sends the chunks that the node has not.

======================= =========================================================================
POST /v1/chunks/have    ``{"digests"}``, in hex; ``{"missing"}``: those that are to be sent
POST /v1/chunks/<hex>   the chunk itself, as application/octet-stream
GET /v1/chunks/<hex>    likewise
POST /v1/chunks         some chunks as application/octet-stream, each after its size in four bytes,
                        big-endian
POST /v1/chunks/get     ``{"digests"}``; chunks likewise: the first, and those after it until there
                        is a mebibyte
POST /v1/fetch          ``{"digest", "from"}``: brings what a manifest names here, from members by
                        their peer IDs; answered by lines
======================= =========================================================================

The lines of a fetch are ``progress`` with ``done`` and ``total`` in bytes, and ``here``, the last.
What was asked for, sent or fetched stays for :data:`bzzz.tasks.files.uploads.KEPT` seconds at
least; after ``no_room`` what the user has sent may go at any time. Errors have the codes:

================== ===============================================================================
``bad_argument``   a digest or peer ID is none
``wrong_chunk``    the bytes are not those that the digest names
``no_room``        the cache or its disk takes no more
``no_such_chunk``  it is not here
``missing``        nobody who was asked has it; tells what each has said
``bad_manifest``   what the digest names is no list of files
================== ===============================================================================
"""

from __future__ import annotations

import re
from typing import Annotated, Final

import msgspec
from msgspec import Meta
from twisted.internet.interfaces import IReactorTime
from twisted.web.iweb import IRequest

from bzzz.errors import IdentityError
from bzzz.identity.peer_id import PeerID
from bzzz.tasks.files.errors import BadManifest, ChunkMissing, Missing, StoreError, WrongChunk
from bzzz.tasks.files.files import Files
from bzzz.tasks.files.manifest import CHUNK
from bzzz.tasks.submission import MAX_REPLICAS
from bzzz.web.credentials import Credentials
from bzzz.web.requests import Body, Refusal, credentials_of
from bzzz.web.routes import RouteTable
from bzzz.web.stream import LineStream

__all__ = ["FileRoutes"]

# Digests in one question: with quotes 270 KiB of the mebibyte that a body may have.
MAX_DIGESTS: Final = 4096

# Who may have what a task has put out: its replicas and its worker.
MAX_PEERS: Final = MAX_REPLICAS + 1

# Seconds between two lines of progress: a person sees no more.
PROGRESS: Final = 0.2

_DIGEST: Final = re.compile(r"[0-9a-f]{64}")

Digest = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]


class Digests(Body, frozen=True):
    """What ``POST /v1/chunks/have`` and ``POST /v1/chunks/get`` take."""

    digests: Annotated[tuple[Digest, ...], Meta(max_length=MAX_DIGESTS)]


class Fetch(Body, frozen=True):
    """What ``POST /v1/fetch`` takes.

    :ivar peers: peer IDs, in the order in which they are asked.
    """

    digest: Digest
    peers: Annotated[tuple[str, ...], Meta(max_length=MAX_PEERS)] = msgspec.field(
        name="from", default=()
    )


class FileRoutes:
    """The routes."""

    def __init__(self, clock: IReactorTime, files: Files) -> None:
        self._clock = clock
        self._files = files

    def add_to(self, table: RouteTable) -> None:
        """Put the routes into the table."""
        table.post("/v1/chunks/have", self.have, Digests)
        table.post("/v1/chunks/get", self.get_some, Digests)
        table.post("/v1/chunks", self.put_all, bytes)
        table.post("/v1/chunks/<digest>", self.put, bytes)
        table.get("/v1/chunks/<digest>", self.get)
        table.stream("/v1/fetch", self.fetch, Fetch)

    async def have(self, by: Credentials, body: Digests) -> dict[str, list[str]]:
        digests = [bytes.fromhex(digest) for digest in body.digests]
        try:
            missing = await self._files.uploads.missing(by.uid, digests)
        except StoreError as error:
            raise Refusal(507, "no_room", str(error)) from None
        return {"missing": [digest.hex() for digest in missing]}

    async def put(self, by: Credentials, body: bytes, digest: str) -> None:
        try:
            await self._files.uploads.put(by.uid, _raw(digest), body)
        except WrongChunk as error:
            raise Refusal(400, "wrong_chunk", str(error)) from None
        except StoreError as error:
            raise Refusal(507, "no_room", str(error)) from None

    async def put_all(self, by: Credentials, body: bytes) -> None:
        try:
            await self._files.uploads.put_all(by.uid, _split(body))
        except StoreError as error:
            raise Refusal(507, "no_room", str(error)) from None

    async def get_some(self, by: Credentials, body: Digests) -> bytes:
        digests = [bytes.fromhex(digest) for digest in body.digests]
        try:
            chunks = await self._files.uploads.get_some(digests, CHUNK)
        except ChunkMissing as error:
            raise Refusal(404, "no_such_chunk", str(error)) from None
        return b"".join(part for data in chunks for part in (len(data).to_bytes(4, "big"), data))

    async def get(self, request: IRequest, digest: str) -> bytes:
        # It changes nothing, but files are not for everybody either.
        credentials_of(request)
        try:
            return await self._files.uploads.get(_raw(digest))
        except ChunkMissing as error:
            raise Refusal(404, "no_such_chunk", str(error)) from None

    async def fetch(self, lines: LineStream, by: Credentials, body: Fetch) -> None:
        peers = [_peer(text) for text in body.peers]
        told = -PROGRESS

        def progress(done: int, total: int) -> None:
            nonlocal told
            now = self._clock.seconds()
            if now - told >= PROGRESS or done == total:
                told = now
                lines.send({"event": "progress", "done": done, "total": total})

        try:
            await self._files.fetch(body.digest, peers, progress)
        except Missing as error:
            raise Refusal(404, "missing", str(error)) from None
        except BadManifest as error:
            raise Refusal(400, "bad_manifest", str(error)) from None
        except StoreError as error:
            raise Refusal(507, "no_room", str(error)) from None
        pinned = self._files.pin(body.digest)
        try:
            await pinned
            await self._files.uploads.keep(by.uid, body.digest)
        finally:
            self._files.unpin(body.digest)
        lines.send({"event": "here"})


def _split(body: bytes) -> list[bytes]:
    """Chunks, each after its size.

    :raises Refusal: they are not so, or too many.
    """
    chunks: list[bytes] = []
    start = 0
    while start < len(body):
        size = int.from_bytes(body[start : start + 4], "big")
        data = body[start + 4 : start + 4 + size]
        if not size or len(data) != size:
            raise Refusal(400, "bad_body", "a chunk has another size than is said before it")
        chunks.append(data)
        start += 4 + size
        if len(chunks) > MAX_DIGESTS:
            raise Refusal(400, "bad_body", f"there are more than {MAX_DIGESTS} chunks")
    return chunks


def _raw(digest: str) -> bytes:
    if _DIGEST.fullmatch(digest) is None:
        raise Refusal(400, "bad_argument", f"{digest!r} is no digest: it has 64 hexadecimal digits")
    return bytes.fromhex(digest)


def _peer(text: str) -> PeerID:
    try:
        return PeerID.parse(text)
    except IdentityError as error:
        raise Refusal(400, "bad_argument", f"{text!r} is no peer ID: {error}") from None
