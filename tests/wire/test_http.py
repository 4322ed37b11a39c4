"""The core of HTTP, without a connection."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from bzzz.errors import RemoteProtocolError
from bzzz.wire import http
from bzzz.wire.http import AnswerReader, request

OK = b"HTTP/1.1 200 OK\r\n"
SIZED = OK + b"Content-Length: 5\r\n\r\nhello"
CHUNKED = (
    OK + b"Server: x\r\nTransfer-Encoding:  Chunked \r\n\r\n"
    b"4\r\nhell\r\n001;x=y\r\no\r\n0\r\nX-Trailer: 1\r\n\r\n"
)
TO_THE_END = OK + b"Connection: close\r\n\r\nhello"


class RequestTests(SynchronousTestCase):
    """What is asked."""

    def test_request(self) -> None:
        """A body has its type and length; a POST without one says so."""
        self.assertEqual(
            request("POST", "/v1/drain", b"{}"),
            b"POST /v1/drain HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
        )
        self.assertIn(b"\r\nContent-Length: 0\r\n\r\n", request("POST", "/v1/x", None))
        self.assertNotIn(b"Content-Length", request("GET", "/v1/x", None))


class AnswerReaderTests(SynchronousTestCase):
    """What is answered."""

    def read(self, *parts: bytes) -> tuple[int, bytes]:
        """The status and the body of a whole answer."""
        reader = AnswerReader()
        body = b"".join(each for part in parts for each in reader.receive_data(part))
        reader.receive_end()
        self.assertTrue(reader.whole)
        return reader.status, body

    def test_bodies(self) -> None:
        """A body ends after its length, with the last chunk, or with the connection."""
        for answer in (SIZED, CHUNKED, TO_THE_END):
            self.assertEqual(self.read(answer), (200, b"hello"))
            every = [answer[at : at + 1] for at in range(len(answer))]
            self.assertEqual(self.read(*every), (200, b"hello"))

    def test_no_body(self) -> None:
        """Some answers have none."""
        for answer in (OK + b"Content-Length: 0\r\n\r\n", b"HTTP/1.1 204\r\n\r\n"):
            reader = AnswerReader()
            self.assertEqual(reader.receive_data(answer), [])
            self.assertTrue(reader.whole)

    def test_behind_it(self) -> None:
        """What comes behind an answer is ignored, and not kept."""
        reader = AnswerReader()
        self.assertEqual(reader.receive_data(SIZED + b"more"), [b"hello"])
        self.assertEqual(reader.receive_data(b"more"), [])

    def test_stays(self) -> None:
        """Another question may follow a whole answer whose end is known, unless one side closes."""
        for answer in (SIZED, CHUNKED, b"HTTP/1.1 204\r\n\r\n"):
            reader = AnswerReader()
            for at in range(len(answer)):
                self.assertFalse(reader.stays)
                reader.receive_data(answer[at : at + 1])
            self.assertTrue(reader.stays)
            reader.receive_end()
            self.assertFalse(reader.stays)
        for field in (b"Connection: close", b"connection: Keep-Alive ,\tCLOSE"):
            for answer in (SIZED, CHUNKED):
                reader = AnswerReader()
                reader.receive_data(answer.replace(OK, OK + field + b"\r\n"))
                self.assertEqual((reader.whole, reader.stays), (True, False))
        for answer in (SIZED.replace(b"1.1", b"1.0"), OK + b"\r\nhello"):
            reader = AnswerReader()
            reader.receive_data(answer)
            self.assertFalse(reader.stays)

    def test_does_not_stay(self) -> None:
        """What comes behind an answer, with it or later, is no beginning of the next."""
        for answer in (SIZED, CHUNKED):
            reader = AnswerReader()
            reader.receive_data(answer + b"x")
            self.assertEqual((reader.whole, reader.stays), (True, False))
            reader = AnswerReader()
            reader.receive_data(answer)
            reader.receive_data(b"x")
            self.assertFalse(reader.stays)

    def test_reason(self) -> None:
        """The words are there with the number."""
        reader = AnswerReader()
        reader.receive_data(b"HTTP/1.0 404 Not Found\r\n\r\n")
        self.assertEqual((reader.status, reader.reason), (404, "Not Found"))

    def test_cut_short(self) -> None:
        """An answer that is not whole is told from one that is, at every byte."""
        for answer in (SIZED, CHUNKED, TO_THE_END[:-5]):
            for length in range(len(answer)):
                error = self.assertRaises(RemoteProtocolError, self.read, answer[:length])
                self.assertEqual(error.code, "cut_short")

    def test_not_http(self) -> None:
        """What is no answer, or could be read in two ways, is none."""
        for bad in (
            b"220 mail.example ESMTP\r\n\r\n",
            b"HTTP/2 200 OK\r\n\r\n",
            b"HTTP/1.1 100 Continue\r\n\r\n",
            b"HTTP/1.1 200 OK\nServer: x\r\n\r\n",
            OK + b"no colon\r\n\r\n",
            OK + b" folded: x\r\n\r\n",
            OK + b"Name : x\r\n\r\n",
            OK + b"Content-Length: -1\r\n\r\n",
            OK + b"Content-Length: 1_0\r\n\r\n",
            OK + b"Content-Length: 1111111111111111\r\n\r\n",
            OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n",
            OK + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n",
            OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
            OK + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n",
            OK + b"Transfer-Encoding: chunked\r\n\r\n\r\n",
            OK + b"Transfer-Encoding: chunked\r\n\r\n123456789\r\n",
            OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\nab\r\n",
        ):
            error = self.assertRaises(RemoteProtocolError, self.read, bad)
            self.assertEqual(error.code, "not_http", bad)

    def test_too_long(self) -> None:
        """A head, a size and trailers without an end are not kept for ever."""
        head = OK + b"Transfer-Encoding: chunked\r\n\r\n"
        for endless in (
            b"x" * (http.MAX_HEAD + 1),
            head + b"0" * (http.MAX_SIZE_LINE + 2),
            head + b"0\r\n" + b"x" * (http.MAX_HEAD + 2),
            head + b"0\r\n" + b"X: yyyy\r\n" * (http.MAX_HEAD // 7 + 1),
        ):
            reader = AnswerReader()
            error = self.assertRaises(RemoteProtocolError, reader.receive_data, endless)
            self.assertEqual(error.code, "not_http")

    def test_nothing_is_kept(self) -> None:
        """A body goes out as it comes in, however long its chunk is."""
        reader = AnswerReader()
        reader.receive_data(OK + b"Transfer-Encoding: chunked\r\n\r\nffffffff\r\n")
        for _ in range(3):
            self.assertEqual(reader.receive_data(b"x" * 1000), [b"x" * 1000])

    @given(st.lists(st.binary(min_size=1, max_size=50)), st.data())
    def test_any_pieces(self, parts: list[bytes], data: st.DataObject) -> None:
        """A body is the same in whatever pieces it comes."""
        answer = OK + b"Transfer-Encoding: chunked\r\n\r\n"
        answer += b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
        cuts = sorted(data.draw(st.lists(st.integers(0, len(answer)), max_size=10)))
        bounds = [0, *cuts, len(answer)]
        pieces = [answer[a:b] for a, b in pairwise(bounds)]
        self.assertEqual(self.read(*pieces), (200, b"".join(parts)))

    @given(st.binary(max_size=200))
    def test_anything(self, data: bytes) -> None:
        """Whatever comes is an answer, or none; nothing else is raised."""
        for start in (b"", OK, OK + b"Transfer-Encoding: chunked\r\n\r\n"):
            try:
                self.read(start + data)
            except RemoteProtocolError:
                pass
