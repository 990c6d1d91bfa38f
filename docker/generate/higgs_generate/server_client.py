"""The speech server behind: one pool of connections, its errors, and its sound as it comes."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from http import HTTPStatus
from types import TracebackType
from typing import Any

import aiohttp
from higgs_patches.lib.errors import RefusedError

from higgs_generate import failures
from higgs_generate.chat_sound import pcm_of_events
from higgs_generate.failures import RetryLaterError, ServerFailedError
from higgs_generate.settings import GenerateSettings
from higgs_generate.speech import CHAT, SPEECH, Context, Speech, chat_body, speech_body

CONNECT_SECONDS = 5.0
KEEP_ALIVE_SECONDS = 60.0
"""Less than the server's 90 s: it never closes a connection that is just being used."""
READ_BUFFER = 16 * 1024
"""Bytes of an answer that are held for a client that is slower than the server."""


class ServerClient:
    """Requests to the speech server.

    Args:
        settings: its address, the key for it, and the timeout.
    """

    def __init__(self, settings: GenerateSettings) -> None:
        self.url = settings.server
        self._headers = {"Content-Type": "application/json"}
        if settings.server_key:
            self._headers["Authorization"] = f"Bearer {settings.server_key}"
        if settings.companion_token:
            self._headers["X-Higgs-Companion"] = settings.companion_token
        self.timeout = settings.timeout
        self._model = ""
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Open the pool; in the event loop that uses it."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_SECONDS),
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=CONNECT_SECONDS, sock_read=self.timeout
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            read_bufsize=READ_BUFFER,
            trust_env=False,
        )

    async def close(self) -> None:
        """Close all connections."""
        if self._session:
            await self._session.close()

    async def get(self, path: str) -> tuple[int, Any]:
        """Return status and JSON of a GET request; the JSON is None if there is none.

        Raises:
            RefusedError: the server cannot be reached.
        """
        async with ServerAnswer(self, "GET", path, None, {}) as answer:
            return answer.status, await answer.json()

    async def model(self) -> str:
        """Return the name of the server's model.

        Raises:
            RefusedError: the server does not answer, or not with a model.
        """
        if not self._model:
            status, body = await self.get("/v1/models")
            if status != 200:
                raise failures.from_server(status, body, None)
            try:
                self._model = str(body["data"][0]["id"])
            except (TypeError, LookupError):
                raise ServerFailedError("the server behind names no model") from None
        return self._model

    async def pcm(
        self, speech: Speech, request_id: str, context: Context | None = None
    ) -> AsyncGenerator[bytes, None]:
        """Give the sound of a text as PCM, at normal speed.

        Raises:
            RefusedError: the server does not speak it, or breaks off.
        """
        model = speech.model or await self.model()
        if speech.needs_chat or context:
            body, path = chat_body(speech, model, context), CHAT
        else:
            body, path = speech_body(speech, model, "pcm", 1.0), SPEECH
        async with self.post(path, json.dumps(body).encode(), request_id) as answer:
            await answer.require_success()
            chunks = answer.chunks()
            async for chunk in pcm_of_events(chunks) if path == CHAT else chunks:
                yield chunk

    async def file(self, speech: Speech, request_id: str) -> AsyncGenerator[bytes, None]:
        """Give the sound of a text in its format and speed, as the server encodes it.

        Raises:
            RefusedError: the server does not speak it, or breaks off.
        """
        model = speech.model or await self.model()
        body = speech_body(speech, model, speech.response_format, speech.speed)
        async with self.post(SPEECH, json.dumps(body).encode(), request_id) as answer:
            await answer.require_success()
            async for chunk in answer.chunks():
                yield chunk

    def post(self, path: str, body: bytes, request_id: str) -> ServerAnswer:
        """Return a POST request, which is sent when it is entered."""
        return ServerAnswer(self, "POST", path, body, {"X-Request-Id": request_id})

    def forget_model(self) -> None:
        """Ask for the model's name again: the server may have been replaced."""
        self._model = ""

    async def send(
        self, method: str, path: str, body: bytes | None, headers: dict[str, str]
    ) -> aiohttp.ClientResponse:
        """Send a request; see ServerAnswer, which also ends it."""
        if self._session is None:
            raise RuntimeError("the client is not open")
        return await self._session.request(
            method,
            self.url + path,
            data=body,
            headers={**self._headers, **headers},
            allow_redirects=False,
        )


class ServerAnswer:
    """An answer of the server; leaving the context ends its request, at once if it is not read."""

    def __init__(
        self,
        client: ServerClient,
        method: str,
        path: str,
        body: bytes | None,
        headers: dict[str, str],
    ) -> None:
        self._client = client
        self._request = method, path, body, headers
        self._response: aiohttp.ClientResponse | None = None

    @property
    def response(self) -> aiohttp.ClientResponse:
        """The answer of aiohttp."""
        if self._response is None:
            raise RuntimeError("the request was not sent")
        return self._response

    @property
    def status(self) -> int:
        """Its HTTP status."""
        return self.response.status

    async def __aenter__(self) -> ServerAnswer:
        """Send the request and wait for the head of the answer."""
        try:
            self._response = await self._client.send(*self._request)
        except aiohttp.ServerTimeoutError as error:
            raise self._late(error) from None
        except TimeoutError as error:
            raise self._late(error) from None
        except (aiohttp.ClientError, OSError) as error:
            raise self._unreachable(error) from None
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the request."""
        if self._response is not None:
            self._response.close()  # of a complete answer, the connection is already back

    async def json(self) -> Any:
        """Return the body's JSON, or None."""
        try:
            return json.loads(await self.response.read())
        except (ValueError, aiohttp.ClientError, TimeoutError, OSError):
            return None

    async def require_success(self) -> None:
        """Raise the error of an answer that is not 200."""
        if self.status != 200:
            if self.status == 404:
                self._client.forget_model()
            headers = self.response.headers
            raise failures.from_server(self.status, await self.json(), headers.get("Retry-After"))

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Give the body as it comes.

        Raises:
            ServerFailedError: it broke off.
        """
        try:
            async for chunk in self.response.content.iter_any():
                yield chunk
        except TimeoutError as error:
            raise self._late(error) from None
        except (aiohttp.ClientError, OSError) as error:
            reason = f"the server behind broke off its answer ({type(error).__name__})"
            raise ServerFailedError(reason) from None

    def _late(self, error: Exception) -> RefusedError:
        if isinstance(error, aiohttp.ConnectionTimeoutError):
            return self._unreachable(error)
        return ServerFailedError(
            f"the server behind sent nothing for {self._client.timeout:g} s",
            HTTPStatus.GATEWAY_TIMEOUT,
        )

    def _unreachable(self, error: Exception) -> RefusedError:
        self._client.forget_model()
        if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
            text = f"the server behind, {self._client.url}, cannot be reached"
            return RetryLaterError(text, HTTPStatus.SERVICE_UNAVAILABLE)
        return ServerFailedError(
            f"the server behind closed the connection ({type(error).__name__})"
        )
