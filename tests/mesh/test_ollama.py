"""Asking a local Ollama for its models."""

from __future__ import annotations

import json
from typing import Any, cast

from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ConnectionDone, ConnectionRefusedError
from twisted.internet.interfaces import IProtocol, IProtocolFactory
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from bzzz.mesh.ollama import MAX_ANSWER, OllamaError, local_address, models

TAGS = json.dumps(
    {"models": [{"name": "phi3:latest", "size": 1}, {"name": "codellama:7b"}]}
).encode()


class FakeNetwork:
    def __init__(self) -> None:
        self.refuse = False
        self.connected: list[tuple[str, int, float]] = []

    def connect(
        self, host: str, port: int, factory: IProtocolFactory, timeout: float, bind_host: str | None
    ) -> Deferred[IProtocol]:
        self.connected.append((host, port, timeout))
        if self.refuse:
            return fail(ConnectionRefusedError())
        anywhere: Any = None
        self.protocol = cast(Any, factory.buildProtocol(anywhere))
        self.transport = StringTransport()
        self.protocol.makeConnection(self.transport)
        connected: Deferred[IProtocol] = Deferred()
        connected.callback(self.protocol)
        return connected


class ModelsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.network = FakeNetwork()

    def ask(self) -> Deferred[tuple[str, ...]]:
        network: Any = self.network
        return Deferred.fromCoroutine(models(network, ("127.0.0.1", 11434)))

    def end(self) -> None:
        self.network.protocol.connectionLost(Failure(ConnectionDone()))

    def test_request(self) -> None:
        """One GET, in the form that needs no chunks in the answer."""
        self.ask()
        self.assertEqual(self.network.connected, [("127.0.0.1", 11434, 1.0)])
        request = self.network.transport.value()
        self.assertTrue(request.startswith(b"GET /api/tags HTTP/1.0\r\nHost: 127.0.0.1:11434\r\n"))
        self.assertTrue(request.endswith(b"\r\n\r\n"))

    def test_with_length(self) -> None:
        """The names, sorted, as soon as the length is reached, in pieces of any size."""
        asked = self.ask()
        answer = b"HTTP/1.0 200 OK\r\ncontent-LENGTH: %d\r\n\r\n" % len(TAGS) + TAGS
        for byte in answer:
            self.network.protocol.dataReceived(bytes([byte]))
        self.assertEqual(self.successResultOf(asked), ("codellama:7b", "phi3:latest"))
        self.assertTrue(self.network.transport.disconnecting)
        self.end()

    def test_without_length(self) -> None:
        """Or when the connection ends."""
        asked = self.ask()
        self.network.protocol.dataReceived(b"HTTP/1.1 200 OK\r\n\r\n" + TAGS)
        self.assertNoResult(asked)
        self.end()
        self.assertEqual(len(self.successResultOf(asked)), 2)

    def test_no_models(self) -> None:
        """An Ollama without models, which Go encodes as null, is one all the same."""
        for body in (b'{"models": null}', b'{"models": []}', b"{}"):
            asked = self.ask()
            self.network.protocol.dataReceived(b"HTTP/1.0 200 OK\r\n\r\n" + body)
            self.end()
            self.assertEqual(self.successResultOf(asked), ())

    def test_not_ollama(self) -> None:
        """Whatever else answers there is refused."""
        for answer in (
            b"",
            b"SSH-2.0-OpenSSH_9.2\r\n",
            b"HTTP/1.0 404 Not Found\r\n\r\n" + TAGS,
            b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n{}",
            b"HTTP/1.0 200 OK\r\n\r\n<html>",
            b"HTTP/1.0 200 OK\r\n\r\n[]",
            b'HTTP/1.0 200 OK\r\n\r\n{"models": [{"name": 5}]}',
            b"HTTP/1.0 200 OK\r\nContent-Length: " + b"9" * 100 + b"\r\n\r\n{}",
            b"HTTP/1.0 200 OK\r\n\r\n" + b"[" * 50_000,
        ):
            asked = self.ask()
            self.network.protocol.dataReceived(answer)
            self.end()
            self.failureResultOf(asked, OllamaError)

    def test_endless(self) -> None:
        """An answer without end is cut off."""
        asked = self.ask()
        self.network.protocol.dataReceived(b"x" * (MAX_ANSWER + 1))
        self.failureResultOf(asked, OllamaError)
        self.assertTrue(self.network.transport.disconnecting)
        self.network.protocol.dataReceived(b"x")
        self.end()

    def test_odd_names(self) -> None:
        """Names that cannot be shown, or are too long, are left out."""
        asked = self.ask()
        tags = {"models": [{"name": "a\x1b[2J"}, {"name": "x" * 600}, {"name": ""}, {"name": "ok"}]}
        self.network.protocol.dataReceived(b"HTTP/1.0 200 OK\r\n\r\n" + json.dumps(tags).encode())
        self.end()
        self.assertEqual(self.successResultOf(asked), ("ok",))

    def test_nobody_there(self) -> None:
        """Without an Ollama the connection fails."""
        self.network.refuse = True
        self.failureResultOf(self.ask(), ConnectionRefusedError)

    def test_given_up(self) -> None:
        """When nobody waits any more the connection is closed, and what still comes is ignored."""
        asked = self.ask()
        asked.addErrback(lambda _: None)
        asked.cancel()
        self.assertTrue(self.network.transport.disconnecting)
        self.network.protocol.dataReceived(b"HTTP/1.0 200 OK\r\n\r\n" + TAGS)
        self.end()


class AddressTests(SynchronousTestCase):
    def test_loopback(self) -> None:
        """Addresses of this machine are honoured, in all of Ollama's forms."""
        for setting, address in {
            "": ("127.0.0.1", 11434),
            "127.0.0.1": ("127.0.0.1", 11434),
            "127.0.0.2:8080": ("127.0.0.2", 8080),
            ":8080": ("127.0.0.1", 8080),
            "localhost:1": ("127.0.0.1", 1),
            "0.0.0.0": ("127.0.0.1", 11434),
            "0.0.0.0:5": ("127.0.0.1", 5),
            "[::1]": ("::1", 11434),
            "[::]:5": ("::1", 5),
            "::1": ("::1", 11434),
            "http://127.0.0.1:5/base": ("127.0.0.1", 5),
            "http://localhost": ("127.0.0.1", 80),
        }.items():
            self.assertEqual(local_address(setting), address, setting)

    def test_elsewhere(self) -> None:
        """Other machines' are not, nor what is no address; then it is the usual place."""
        for setting in (
            "192.0.2.1:11434",
            "ollama.example:80",
            "https://127.0.0.1",
            "127.0.0.1:99999",
            "[::",
            "127.0.0.1:0",
            "fe80::1%eth0",
        ):
            self.assertEqual(local_address(setting), ("127.0.0.1", 11434), setting)
