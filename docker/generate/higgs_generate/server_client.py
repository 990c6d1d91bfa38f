"""The speech server behind: one pool of connections, its errors, and its sound as it comes."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from http import HTTPStatus
from types import TracebackType
from typing import Any

from higgs_patches.lib.errors import RefusedError

from higgs_generate import failures
from higgs_generate.chat_sound import pcm_of_events
from higgs_generate.connection_pool import ConnectionPool
from higgs_generate.failures import RetryLaterError, ServerFailedError
from higgs_generate.server_connection import ServerConnection
from higgs_generate.settings import GenerateSettings
from higgs_generate.speech import CHAT, SPEECH, Context, Speech, chat_body, speech_body


class ServerClient:
    """Requests to the speech server.

    Args:
        settings: its address, the key for it, and the timeout.
    """

    def __init__(self, settings: GenerateSettings) -> None:
        self.url = settings.server
        headers = {"Content-Type": "application/json"}
        if settings.server_key:
            headers["Authorization"] = f"Bearer {settings.server_key}"
        if settings.companion_token:
            headers["X-Higgs-Companion"] = settings.companion_token
        self.timeout = settings.timeout
        self._pool = ConnectionPool(settings.server, headers, settings.timeout)
        self._model = ""

    def close(self) -> None:
        """Close the kept connections."""
        self._pool.close()

    async def get(self, path: str) -> tuple[int, Any]:
        """Return status and JSON of a GET request; the JSON is None if there is none.

        Raises:
            RefusedError: the server cannot be reached.
        """
        async with ServerAnswer(self, self._pool, "GET", path, None, "") as answer:
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
        return ServerAnswer(self, self._pool, "POST", path, body, request_id)

    def forget_model(self) -> None:
        """Ask for the model's name again: the server may have been replaced."""
        self._model = ""


class ServerAnswer:
    """An answer of the server; leaving the context ends its request, at once if it is not read."""

    def __init__(
        self,
        client: ServerClient,
        pool: ConnectionPool,
        method: str,
        path: str,
        body: bytes | None,
        request_id: str,
    ) -> None:
        self._client = client
        self._pool = pool
        self._method = method
        self._request = pool.request(method, path, body, request_id)
        self._connection: ServerConnection | None = None

    @property
    def _answered(self) -> ServerConnection:
        if self._connection is None:
            raise RuntimeError("the request was not sent")
        return self._connection

    @property
    def status(self) -> int:
        """Its HTTP status."""
        return self._answered.status

    @property
    def headers(self) -> dict[str, str]:
        """Its headers, by their names in lower case."""
        return self._answered.headers

    async def __aenter__(self) -> ServerAnswer:
        """Send the request and wait for the head of the answer."""
        if not await self._send() and not await self._send(new=True):
            raise RuntimeError("a new connection is not used before")
        return self

    async def _send(self, *, new: bool = False) -> bool:
        """Return False if the server has closed a kept connection meanwhile."""
        try:
            connection, kept = await self._pool.take(new=new)
        except OSError:  # TimeoutError is one
            self._client.forget_model()
            text = f"the server behind, {self._client.url}, cannot be reached"
            raise RetryLaterError(text, HTTPStatus.SERVICE_UNAVAILABLE) from None
        try:
            connection.send(self._request)
            await connection.head()
        except TimeoutError:
            raise self._late() from None
        except OSError as error:
            connection.close()
            if kept and self._method == "GET":
                return False
            self._client.forget_model()
            reason = f"the server behind closed the connection ({type(error).__name__})"
            raise ServerFailedError(reason) from None
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        return True

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the request."""
        if self._connection is not None:
            self._pool.give_back(self._connection)

    async def json(self) -> Any:
        """Return the body's JSON, or None."""
        body = b""
        try:
            while chunk := await self._answered.read():
                body += chunk
            return json.loads(body)
        except (ValueError, OSError):
            return None

    async def require_success(self) -> None:
        """Raise the error of an answer that is not 200."""
        if self.status != 200:
            if self.status == 404:
                self._client.forget_model()
            retry = self.headers.get("retry-after")
            raise failures.from_server(self.status, await self.json(), retry)

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Give the body as it comes.

        Raises:
            ServerFailedError: it broke off.
        """
        try:
            while chunk := await self._answered.read():
                yield chunk
        except TimeoutError:
            raise self._late() from None
        except OSError as error:
            reason = f"the server behind broke off its answer ({type(error).__name__})"
            raise ServerFailedError(reason) from None

    def _late(self) -> RefusedError:
        return ServerFailedError(
            f"the server behind sent nothing for {self._client.timeout:g} s",
            HTTPStatus.GATEWAY_TIMEOUT,
        )
