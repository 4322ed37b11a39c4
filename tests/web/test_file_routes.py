"""The control API of files: chunks in and out of the node's cache, and what members have."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

from bzzz.tasks.files.manifest import CHUNK, digest_of
from bzzz.tasks.files.uploads import KEPT
from bzzz.web.api import ControlApi
from bzzz.web.file_routes import MAX_DIGESTS, FileRoutes
from tests.tasks.files.nodes import FilesCase, Node
from tests.web.fakes import FakeNode
from tests.web.test_api import SOMEBODY, Exchange

BYTES = "Content-Type: application/octet-stream"
CHUNKS = [os.urandom(CHUNK), b"a short one"]
DIGESTS = [digest_of(chunk).hex() for chunk in CHUNKS]


class FileRouteTests(FilesCase):
    """Acacia is asked, and birch is linked with it."""

    def setUp(self) -> None:
        super().setUp()
        self.acacia, self.birch = Node(self, 1), Node(self, 2)
        self.link(self.acacia, self.birch)
        routes = FileRoutes(self.acacia.host.clock, self.acacia.files)
        self.control = ControlApi(FakeNode(), lambda: 0.0, [routes])
        self.addCleanup(self.control.close)

    def ask(self, method: str, path: str, body: bytes, *headers: str, by: Any = SOMEBODY) -> Any:
        return Exchange(self.control, f"/v1/{path}", method, body, *headers, by=by)

    def post(self, path: str, body: Any, *headers: str) -> Exchange:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        exchange: Exchange = self.ask("POST", path, content, *headers)
        return exchange

    def missing(self, *digests: str) -> Any:
        return self.post("chunks/have", {"digests": digests}).json()["missing"]

    def put(self, chunk: bytes) -> Exchange:
        return self.post(f"chunks/{digest_of(chunk).hex()}", chunk, BYTES)

    def refused(self, exchange: Exchange) -> tuple[int, str]:
        return exchange.status, exchange.json()["error"]["code"]

    # -- chunks

    def test_put(self) -> None:
        """What is missing is told; once it was sent, it is there, and can be read."""
        self.assertEqual(self.missing(*DIGESTS), DIGESTS)
        self.assertEqual(self.put(CHUNKS[0]).json(), {})
        self.assertEqual(self.missing(*DIGESTS), DIGESTS[1:])
        self.put(CHUNKS[1])
        self.assertEqual(self.missing(*DIGESTS), [])
        for chunk, digest in zip(CHUNKS, DIGESTS, strict=True):
            answer = self.ask("GET", f"chunks/{digest}", b"")
            self.assertIn("application/octet-stream", answer.head.lower())
            self.assertEqual(answer.body, chunk)

    def test_wrong_chunk(self) -> None:
        """Bytes that are not what they are called are not kept."""
        wrong = self.post(f"chunks/{DIGESTS[0]}", CHUNKS[1], BYTES)
        self.assertEqual(self.refused(wrong), (400, "wrong_chunk"))
        self.assertEqual(self.missing(*DIGESTS), DIGESTS)

    def test_bad_requests(self) -> None:
        """A chunk that is none, a digest that is none, and too many of them are refused."""
        chunk, have = f"chunks/{DIGESTS[0]}", "chunks/have"
        for answer, status, code in (
            (self.post(chunk, CHUNKS[0] + b"x", BYTES), 413, "too_large"),
            (self.post(chunk, b"", BYTES), 400, "bad_body"),
            (self.post(chunk, {}), 415, "not_bytes"),
            (self.post(have, b"{}", BYTES), 415, "not_json"),
            (self.post("chunks/..%2f..%2fx", b"x", BYTES), 404, "not_found"),
            (self.post("chunks/ABCD", b"x", BYTES), 400, "bad_argument"),
            (self.post(have, {"digests": ["../x"]}), 400, "bad_body"),
            (self.post(have, {"digests": DIGESTS[:1] * (MAX_DIGESTS + 1)}), 400, "bad_body"),
            (self.ask("GET", "chunks/x", b""), 400, "bad_argument"),
            (self.ask("GET", chunk, b""), 404, "no_such_chunk"),
            (self.ask("GET", chunk, b"", by=None), 403, "not_allowed"),
        ):
            self.assertEqual(self.refused(answer), (status, code))

    def test_many(self) -> None:
        """Many small chunks go in one request; of those that are asked for come as many as fit."""
        small = [str(number).encode() for number in range(1000)]
        framed = [len(chunk).to_bytes(4, "big") + chunk for chunk in small]
        digests = [digest_of(chunk).hex() for chunk in small]
        self.assertEqual(self.post("chunks", b"".join(framed), BYTES).json(), {})
        self.assertEqual(self.missing(*digests), [])
        self.put(CHUNKS[0])
        wanted = {"digests": [*digests, DIGESTS[0], digests[0]]}
        answer = self.post("chunks/get", wanted)
        self.assertEqual(answer.body, b"".join(framed) + CHUNK.to_bytes(4, "big") + CHUNKS[0])
        for wrong in (framed[0] + b"\0\0\0\2x", b"\0\0\0\0", b"\1", b"\0\0\0\1x" * 5000):
            refused = self.post("chunks", wrong, BYTES)
            self.assertEqual(self.refused(refused), (400, "bad_body"))
        absent = self.post("chunks/get", {"digests": [DIGESTS[1]]})
        self.assertEqual(self.refused(absent), (404, "no_such_chunk"))

    def test_full(self) -> None:
        """What a user has sent is not dropped for what another one sends, but stays; that is
        refused. It is dropped for what others send when the rest of it had no room."""
        self.acacia.files.stop()
        self.acacia.start(quota=2 * CHUNK)
        routes = FileRoutes(self.acacia.host.clock, self.acacia.files)
        self.control = ControlApi(FakeNode(), lambda: 0.0, [routes])
        other = dataclasses.replace(SOMEBODY, uid=SOMEBODY.uid + 1)
        parts = [bytes([number]) * CHUNK for number in range(4)]
        digests = [digest_of(part).hex() for part in parts]

        def put(number: int, by: Any = SOMEBODY) -> Any:
            return self.ask("POST", f"chunks/{digests[number]}", parts[number], BYTES, by=by)

        for number in range(2):
            self.assertEqual(put(number).status, 200)
        self.assertEqual(self.refused(put(2, other)), (507, "no_room"))
        self.run_for(KEPT - 1)
        self.assertEqual(self.refused(put(2, other)), (507, "no_room"))
        self.assertEqual(self.refused(put(2)), (507, "no_room"))
        for number in (2, 3):
            self.assertEqual(put(number, other).status, 200)
        self.assertEqual(self.refused(put(0)), (507, "no_room"))

    def test_stays(self) -> None:
        """It stays for a while, and not for ever."""
        self.acacia.files.stop()
        self.acacia.start(quota=2 * CHUNK)
        routes = FileRoutes(self.acacia.host.clock, self.acacia.files)
        self.control = ControlApi(FakeNode(), lambda: 0.0, [routes])
        other = dataclasses.replace(SOMEBODY, uid=SOMEBODY.uid + 1)
        for number in range(2):
            self.assertEqual(self.put(bytes([number]) * CHUNK).status, 200)
        chunk = f"chunks/{digest_of(b'x').hex()}"
        self.assertEqual(
            self.refused(self.ask("POST", chunk, b"x", BYTES, by=other)), (507, "no_room")
        )
        self.run_for(2 * KEPT + 1)
        self.assertEqual(self.ask("POST", chunk, b"x", BYTES, by=other).status, 200)

    # -- fetch

    def packed(self, node: Node) -> str:
        path = Path(self.place) / "file"
        path.write_bytes(CHUNKS[0] + CHUNKS[1])
        return str(self.successResultOf(node.files.pack(path)).digest)

    def fetch(self, digest: str, *peers: object) -> Exchange:
        answer = self.post("fetch", {"digest": digest, "from": [str(peer) for peer in peers]})
        self.run_for(5)
        return answer

    def test_fetch(self) -> None:
        """What a member has is brought here, told as it comes, and stays for a while."""
        digest = self.packed(self.birch)
        lines = self.fetch(digest, self.acacia.peer_id, self.birch.peer_id).lines()
        size = len(CHUNKS[0] + CHUNKS[1])
        whole = {"event": "progress", "done": size, "total": size}
        self.assertEqual(lines[-2:], [whole, {"event": "here"}])
        # Told before anything else is asked, which would have it stay, too.
        store = self.acacia.files._store
        self.assertEqual(len(store._held), 3)
        self.run_for(2 * KEPT + 2)
        self.assertEqual(len(store._held), 0)
        self.assertEqual(self.missing(*DIGESTS, digest), [])

    def test_fetch_missing(self) -> None:
        """What nobody has is told with what each has said."""
        lines = self.fetch(digest_of(b"none").hex(), self.birch.peer_id).lines()
        self.assertEqual(lines[-1]["error"]["code"], "missing")
        self.assertIn("birch", lines[-1]["error"]["message"])

    def test_fetch_no_list(self) -> None:
        """A chunk that is no list of files is not fetched as one."""
        self.put(CHUNKS[1])
        lines = self.fetch(DIGESTS[1], self.birch.peer_id).lines()
        self.assertEqual(lines[-1]["error"]["code"], "bad_manifest")

    def test_fetch_no_peer(self) -> None:
        """A peer ID that is none is refused."""
        self.assertEqual(self.refused(self.fetch(DIGESTS[0], "birch")), (400, "bad_argument"))
