"""Requests to RunPod's REST API v2.

The key is sent in a header, and nowhere else: not in an argument list, a message or a file.
"""

from __future__ import annotations

import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from http.client import HTTPResponse
from typing import TypeVar, cast

import msgspec

from higgs_image import http, retry
from higgs_image.cloud.runpod import problems, schema
from higgs_image.errors import (
    CloudAuthError,
    CloudNotFoundError,
    CloudRefusedError,
    CloudUnavailableError,
    HiggsError,
    NetworkError,
    UsageError,
)
from higgs_image.oci.reference import is_loopback

API = "https://api.runpod.io"
PROXY = "https://{pod}-{port}.proxy.runpod.net"

SECONDS = 60.0
"""How long one answer may take."""

T = TypeVar("T")


@dataclass(frozen=True)
class RunPodClient:
    """A client of one account.

    Attributes:
        key: its API key; never shown.
        api: root of the API; another one than RunPod's has to be on this machine.
        proxy: URL of a port of a pod, with {pod} and {port}.
    """

    key: str = field(repr=False)
    api: str = API
    proxy: str = PROXY

    def __post_init__(self) -> None:
        for url in (self.api, self.proxy):
            parts = urllib.parse.urlsplit(url)
            if parts.scheme != "https" and not is_loopback(parts.netloc):
                raise UsageError(
                    f"{url}: the key of RunPod is not sent there", "use https, or 127.0.0.1"
                )

    def url(self, pod: str, port: int) -> str:
        """Return the public URL of a port of a pod."""
        return self.proxy.format(pod=pod, port=port)

    def get(self, path: str, kind: type[T], query: Mapping[str, str] | None = None) -> T:
        """Return what a path has; tried again while RunPod does not answer.

        Args:
            path: such as /v2/pods.
            kind: type of the answer.
            query: parameters.
        """
        path += f"?{urllib.parse.urlencode(query)}" if query else ""
        return retry.attempts(f"RunPod: GET {path}")(lambda: self._send("GET", path, kind))

    def create(
        self, path: str, body: schema.Request, kind: type[T], find: Callable[[], T | None]
    ) -> T:
        """Make something new, once.

        Args:
            path: such as /v2/pods.
            body: what it shall be.
            kind: type of the answer.
            find: looks for it where the answer was lost: RunPod may have made it.
        """
        data = msgspec.json.encode(schema.checked(body))
        sent = False

        def send() -> T:
            nonlocal sent
            if sent and (found := find()) is not None:
                return found
            sent = True
            return self._send("POST", path, kind, data)

        return retry.attempts(f"RunPod: POST {path}")(send)

    def change(self, path: str, body: schema.Request, kind: type[T]) -> T:
        """Change what a path has; doing it twice is the same as once."""
        data = msgspec.json.encode(schema.checked(body))
        return retry.attempts(f"RunPod: PATCH {path}")(
            lambda: self._send("PATCH", path, kind, data)
        )

    def delete(self, path: str) -> None:
        """Delete what a path has; nothing there is as good as deleted."""
        with suppress(CloudNotFoundError):
            retry.attempts(f"RunPod: DELETE {path}")(self._answer, "DELETE", path)

    @contextmanager
    def lines(self, path: str, query: Mapping[str, str], last: str) -> Iterator[Iterator[bytes]]:
        """Yield the lines of a stream of events as they come.

        Args:
            path: of the stream.
            query: parameters.
            last: id of the last event that is known; empty: none.

        Raises:
            CloudUnavailableError: no connection, or nothing came for SECONDS.
            CloudRefusedError, CloudAuthError: RunPod refused it.
        """
        url = f"{self.api}{path}?{urllib.parse.urlencode(query)}"
        more = {"Last-Event-ID": last} if last else {}
        request = urllib.request.Request(  # noqa: S310 (the scheme was checked)
            url, headers={**self._headers, "Accept": "text/event-stream", **more}
        )
        try:
            with http.opener(url, follow=False).open(request, timeout=SECONDS) as stream:
                yield iter(cast(HTTPResponse, stream))
        except urllib.error.HTTPError as error:
            with error:
                raise self._explain(http.response(error), f"GET {path}") from None
        except (OSError, ValueError) as error:
            raise CloudUnavailableError(
                f"RunPod: the log of {path} broke off ({error})", "check the network"
            ) from None

    @property
    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}", "User-Agent": "higgs-image"}

    def _send(self, method: str, path: str, kind: type[T], data: bytes | None = None) -> T:
        answer = self._answer(method, path, data)
        try:
            return msgspec.json.decode(answer.body, type=kind)
        except msgspec.DecodeError as error:
            raise CloudRefusedError(
                f"RunPod answered {method} {path} with something else than {kind.__name__}: "
                f"{error}",
                "its API may have changed: update the project",
            ) from None

    def _answer(self, method: str, path: str, data: bytes | None = None) -> http.Response:
        kind = {"Content-Type": "application/json"} if data is not None else {}
        try:
            answer = http.request(
                method, f"{self.api}{path}", headers={**self._headers, **kind}, body=data,
                timeout=SECONDS, follow=False,
            )  # fmt: skip
        except NetworkError as error:
            raise CloudUnavailableError(
                f"RunPod did not answer {method} {path}: {error.message}", "check the network"
            ) from None
        if answer.status >= 300:
            raise self._explain(answer, f"{method} {path}")
        return answer

    def _explain(self, answer: http.Response, what: str) -> HiggsError:
        body = answer.body.replace(self.key.encode(), b"***")  # if RunPod repeats the key
        return problems.explain(replace(answer, body=body), what)


def from_environment() -> RunPodClient:
    """Return a client with the key of RUNPOD_API_KEY.

    RUNPOD_API_URL and RUNPOD_PROXY_URL name another server than RunPod's: one on this machine.

    Raises:
        CloudAuthError: there is no key.
        UsageError: a URL is neither https nor on this machine.
    """
    key = os.environ.get("RUNPOD_API_KEY", "").strip()
    if not key:
        raise CloudAuthError(
            "RUNPOD_API_KEY is not set",
            "make a key in RunPod's console (Settings, API Keys) and export it; in a workflow: "
            "a secret of the environment `runpod`",
        )
    if not key.isascii() or not key.isprintable() or " " in key:
        raise CloudAuthError(
            "RUNPOD_API_KEY is not a key: it has spaces or other characters", "set it again"
        )
    env = os.environ
    return RunPodClient(
        key, (env.get("RUNPOD_API_URL") or API).rstrip("/"), env.get("RUNPOD_PROXY_URL") or PROXY
    )
