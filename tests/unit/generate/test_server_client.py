"""The client of the speech server: answers of all kinds, and what becomes of its connections."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from higgs_generate import connection_pool, settings
from higgs_generate.failures import RetryLaterError, ServerFailedError
from higgs_generate.server_client import ServerClient
from higgs_patches.lib.errors import RefusedError

from tests.support import certificate

SPEECH = "/v1/audio/speech"
OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = (
    OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nTrailer: 1\r\n\r\n"
)
SIZED = OK + b"Content-Length: 5\r\nX-Finish-Reason: stop\r\n\r\nabcde"

Use = Callable[[ServerClient, "Raw"], Awaitable[Any]]


class Raw:
    """A server that answers every request with some bytes.

    Attributes:
        heads: of the requests.
        connections: how many were opened.
        ended: how many of them have ended.
    """

    def __init__(self, *answers: bytes, pause: float = 0.0, then_close: bool = False) -> None:
        self._answers = answers
        self._pause = pause
        self._then_close = then_close
        self.heads: list[bytes] = []
        self.connections = self.ended = 0

    async def run(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection until its end."""
        with contextlib.suppress(asyncio.CancelledError):
            await self.serve(reader, writer)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                while True:
                    head = await reader.readuntil(b"\r\n\r\n")
                    size = head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]
                    await reader.readexactly(int(size or 0))
                    self.heads.append(head)
                    for part in self._answers:
                        writer.write(part)
                        await writer.drain()
                        await asyncio.sleep(self._pause)
                    if self._then_close:
                        return
        finally:
            self.ended += 1
            writer.close()


def use(raw: Raw, function: Use, tls: ssl.SSLContext | None = None, **variables: str) -> Any:
    """Run a function with a client of the server."""

    async def run() -> Any:
        server = await asyncio.start_server(raw.run, "127.0.0.1", 0, ssl=tls)
        port = server.sockets[0].getsockname()[1]
        scheme, host = ("https", "localhost") if tls else ("http", "127.0.0.1")
        named = {"HIGGS_GENERATE_SERVER": f"{scheme}://{host}:{port}/base"}
        client = ServerClient(settings.read(named | variables))
        async with server, asyncio.timeout(20):
            try:
                return await function(client, raw)
            finally:
                client.close()

    return asyncio.run(run())


async def post(client: ServerClient, _: Raw) -> bytes:
    async with client.post(SPEECH, b"{}", "id-1") as answer:
        await answer.require_success()
        return b"".join([chunk async for chunk in answer.chunks()])


async def twice(client: ServerClient, raw: Raw) -> bytes:
    first = await post(client, raw)
    assert await post(client, raw) == first
    return first


@pytest.mark.parametrize(
    ("answer", "connections"),
    [
        (CHUNKED, 1),
        (SIZED, 1),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + SIZED, 1),
        (SIZED.replace(b"\r\n", b"\r\nConnection: close\r\n", 1), 2),
        (SIZED.replace(b"1.1", b"1.0", 1), 2),
    ],
    ids=["chunked", "sized", "after 100", "close", "1.0"],
)
@pytest.mark.parametrize("bytewise", [False, True])
def test_answers_are_read_and_connections_used_again(
    answer: bytes, connections: int, bytewise: bool
) -> None:
    parts = [answer[n : n + 1] for n in range(len(answer))] if bytewise else [answer]
    raw = Raw(*parts)
    assert use(raw, twice) == b"abcde"
    assert raw.connections == connections
    assert raw.heads[0].startswith(b"POST /base/v1/audio/speech HTTP/1.1\r\nHost: 127.0.0.1:")
    assert b"\r\nX-Request-Id: id-1\r\n" in raw.heads[0]


def test_connection_with_more_than_the_answer_is_not_used_again() -> None:
    raw = Raw(SIZED + b"what nobody asked for")
    assert use(raw, twice) == b"abcde"
    assert raw.connections == 2


def test_body_without_a_length_ends_with_the_connection() -> None:
    assert use(Raw(OK + b"\r\nabc", b"de", then_close=True), twice) == b"abcde"


@pytest.mark.parametrize(
    ("raw", "status", "part"),
    [
        (Raw(b"SSH-2.0-OpenSSH\r\n"), 502, "closed the connection"),
        (Raw(then_close=True), 502, "closed the connection"),
        (Raw(OK, then_close=True), 502, "closed the connection"),
        (Raw(CHUNKED[:-4], then_close=True), 502, "broke off"),
        (Raw(SIZED[:-1], then_close=True), 502, "broke off"),
        (Raw(OK, pause=9), 504, "sent nothing for 0.3 s"),
        (Raw(SIZED[:-1], pause=9), 504, "sent nothing for 0.3 s"),
        (Raw(b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n"), 502, "API key"),
        (Raw(b"HTTP/1.1 302 No\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n"), 502, "302"),
    ],
)
def test_failures(raw: Raw, status: int, part: str) -> None:
    timeout = "0.3" if status == 504 else "60"
    with pytest.raises(ServerFailedError, match=part) as caught:
        use(raw, post, HIGGS_GENERATE_TIMEOUT=timeout)
    assert caught.value.status == status


def test_answer_that_goes_on_is_not_late() -> None:
    parts = [SIZED[:9], SIZED[9:40], SIZED[40:-3], SIZED[-3:-2], SIZED[-2:]]
    assert use(Raw(*parts, pause=0.25), post, HIGGS_GENERATE_TIMEOUT="0.9") == b"abcde"


def test_kept_connection_that_was_closed_is_opened_again() -> None:
    async def late(client: ServerClient, raw: Raw) -> None:
        await post(client, raw)
        await asyncio.sleep(0.1)
        await post(client, raw)
        assert raw.connections == 2

    use(Raw(SIZED, pause=0.02, then_close=True), late)


def test_get_is_sent_again_if_the_server_closes_meanwhile() -> None:
    async def get(client: ServerClient, raw: Raw) -> None:
        await post(client, raw)
        raw._answers, raw._then_close = (), True  # closes when it gets the next one
        with pytest.raises(ServerFailedError, match="closed the connection"):
            await client.get("/ping")
        assert [x[:4] for x in raw.heads] == [b"POST", b"GET ", b"GET "]
        with pytest.raises(ServerFailedError, match="closed the connection"):
            await post(client, raw)
        assert raw.connections == 3

    use(Raw(SIZED), get)


def test_kept_connection_is_not_used_when_it_is_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_pool, "KEEP_ALIVE_SECONDS", 0.0)
    raw = Raw(SIZED)
    use(raw, twice)
    assert raw.connections == 2


def test_unread_answer_ends_its_connection() -> None:
    async def leave(client: ServerClient, raw: Raw) -> None:
        async with client.post(SPEECH, b"{}", "") as answer:
            assert await anext(answer.chunks()) == b"abcd"
        while not raw.ended:
            await asyncio.sleep(0.01)

    use(Raw(SIZED[:-1]), leave)


def test_server_waits_for_a_slow_reader_and_is_not_late_then() -> None:
    many = [b"10000\r\n%b\r\n" % bytes(65536)] * 500
    end = b"0\r\n\r\n"

    async def slowly(client: ServerClient, raw: Raw) -> None:
        sent = 0

        async def counted() -> None:
            nonlocal sent
            async for chunk in answer.chunks():
                sent += len(chunk)
                if sent == len(chunk):
                    await asyncio.sleep(1.0)  # longer than the timeout
                    assert answer._answered._held < 500 * 65536 / 10

        async with client.post(SPEECH, b"{}", "") as answer:
            await counted()
        assert sent == 500 * 65536

    raw = Raw(OK + b"Transfer-Encoding: chunked\r\n\r\n", *many, end)
    use(raw, slowly, HIGGS_GENERATE_TIMEOUT="0.8")


def test_server_that_does_not_listen() -> None:
    async def gone(client: ServerClient, _: Raw) -> None:
        client._pool._port = 1
        with pytest.raises(RetryLaterError, match="cannot be reached"):
            await client.get("/ping")

    use(Raw(SIZED), gone)


def test_tls_server_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context, trusted = certificate.make(tmp_path, "DNS:localhost")
    with pytest.raises(RefusedError, match="cannot be reached"):
        use(Raw(CHUNKED), twice, context)
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
    raw = Raw(CHUNKED)
    assert use(raw, twice, context) == b"abcde" and raw.connections == 1


@pytest.mark.parametrize("name", ["HIGGS_API_KEY", "HIGGS_GENERATE_SERVER_KEY"])
def test_key_that_would_end_the_header_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} has a character") as caught:
        settings.read({name: "key\r\nX-Evil: 1"})
    assert "Evil" not in str(caught.value)
