"""The server under load, and how a request to it looks on each route."""

from __future__ import annotations

import base64
import os
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec

from higgs_image.bench.workload import Item, data_url
from higgs_image.errors import UsageError
from higgs_image.http import is_local

Route = Literal["speech", "chat", "generate"]

PATHS: dict[Route, str] = {
    "speech": "/v1/audio/speech",
    "chat": "/v1/chat/completions",
    "generate": "/generate",
}

KEYS = ("HIGGS_API_KEY", "OPENAI_API_KEY")
"""Variables that may hold the API key, in this order."""


class Target(msgspec.Struct, frozen=True):
    """What is loaded.

    Attributes:
        url: of the server, without a path.
        route: of the requests.
        model: name that each request gives; empty: the first that the server tells.
        form: format of the sound.
        streamed: the sound comes as it is made; otherwise whole at the end.
        extra: further fields of every request.
    """

    url: str
    route: Route = "speech"
    model: str = ""
    form: str = "pcm"
    streamed: bool = True
    extra: dict[str, Any] = {}

    @property
    def address(self) -> str:
        """The URL of the route."""
        return self.url + PATHS[self.route]

    def body(self, item: Item) -> bytes:
        """Return the JSON of a request."""
        fields = {"speech": _speech, "chat": _chat, "generate": _generate}[self.route](self, item)
        return msgspec.json.encode(fields | self.extra)

    @property
    def by_proxy(self) -> bool:
        """Whether a proxy of the environment is used, as for every host but this machine."""
        return not is_local(urlsplit(self.url).hostname or "")


def _speech(target: Target, item: Item) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": target.model, "voice": item.voice, "input": item.spoken.text,
        "response_format": target.form,
    }  # fmt: skip
    if not target.streamed:
        body["stream"] = False
    if item.reference:
        body |= {"ref_audio": data_url(item.reference), "ref_text": item.reference.text}
    return body


def _chat(target: Target, item: Item) -> dict[str, Any]:
    messages: list[dict[str, Any]] = []
    if reference := item.reference:
        data = base64.b64encode(reference.wav).decode()
        sound = {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}
        messages = [{"role": "user", "content": reference.text},
                    {"role": "assistant", "content": [sound]}]  # fmt: skip
    form = "pcm16" if target.form == "pcm" else target.form
    return {
        "model": target.model,
        "messages": [*messages, {"role": "user", "content": item.spoken.text}],
        "modalities": ["text", "audio"],
        "audio": {"voice": item.voice, "format": form},
        "stream": target.streamed,
    }


def _generate(target: Target, item: Item) -> dict[str, Any]:
    body: dict[str, Any] = {
        "text": item.spoken.text, "voice": item.voice, "response_format": target.form,
        "stream": target.streamed,
    }  # fmt: skip
    if reference := item.reference:
        body["reference_audio_base64"] = base64.b64encode(reference.wav).decode()
        body["reference_text"] = reference.text
    return body


def base_url(text: str) -> str:
    """Return a server's URL without path and trailing slash.

    Raises:
        UsageError: it is not an http or https URL, or holds a password.
    """
    parts = urlsplit(text if "//" in text else f"http://{text}")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"{text!r} is not an http or https URL", "such as http://127.0.0.1:8000")
    if parts.username or parts.password:
        raise UsageError("the URL holds a user name or password",
                         f"put the key into {' or '.join(KEYS)}")  # fmt: skip
    path = parts.path.rstrip("/")
    for known in (*PATHS.values(), "/v1"):
        path = path.removesuffix(known)
    return f"{parts.scheme}://{parts.netloc}{path}"


def headers() -> dict[str, str]:
    """Return the headers of every request; the API key is in the environment."""
    key = next((os.environ[name] for name in KEYS if os.environ.get(name)), "")
    found = {"Content-Type": "application/json", "User-Agent": "higgs-image-bench",
             "Accept-Encoding": "identity"}  # fmt: skip
    return found | ({"Authorization": f"Bearer {key}"} if key else {})
