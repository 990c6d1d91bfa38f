"""What a hostile request is, and good requests that can be spoiled."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

SPEECH = "/v1/audio/speech"
CHAT = "/v1/chat/completions"

TOKENS = 30
"""The longest answer of requests that the server may well serve: they are to be quick."""


@dataclass(frozen=True)
class Attack:
    """One hostile request.

    Attributes:
        name: number, family and what it does.
        family: what kind it is.
        path, method, body, headers: of the HTTP request; None takes a usual header away.
        raw: the bytes to send instead, where they are no proper HTTP request.
        hang_up: when the client leaves: the part of the request that is sent (0 to 1), or 1 and
            the part of the first 100 kB of the answer that is read; None to wait for the answer.
        malformed: whether it is no proper HTTP request, and may be answered in any way.
        closes: whether the client says that it will send no more.
        twins: whether it is sent twice at the same time, and has to succeed both times.
        slowly: whether it is sent piece by piece, over a second.
    """

    name: str
    family: str
    path: str = CHAT
    method: str = "POST"
    body: bytes = b""
    headers: dict[str, str | None] = field(default_factory=dict)
    raw: bytes | None = None
    hang_up: float | None = None
    malformed: bool = False
    closes: bool = False
    twins: bool = False
    slowly: bool = False

    def __str__(self) -> str:
        return self.name

    def request(self, host: str, headers: dict[str, str]) -> bytes:
        """The bytes of the HTTP request."""
        if self.raw is not None:
            return self.raw
        every: dict[str, str | None] = {
            "Host": host,
            "Connection": "close",
            "Content-Type": "application/json",
            "Content-Length": str(len(self.body)),
            **headers,
            **self.headers,
        }
        lines = [f"{self.method} {self.path} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in every.items() if value is not None]
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + self.body


@dataclass(frozen=True)
class AttackContext:
    """What the makers of requests need: an RNG, the model, a forbidden address.

    Attributes:
        private: host and port from which nothing may be fetched.
    """

    chance: random.Random
    model: str
    private: str


Make = Callable[[AttackContext], Attack]


# -- good requests, to be spoiled ------------------------------------------------------------------


def speech(at: AttackContext, **fields: Any) -> dict[str, Any]:
    """The fields of a good request for speech."""
    return {
        "model": at.model,
        "voice": "en_woman",
        "input": "Hello there.",
        "max_tokens": TOKENS,
        "response_format": at.chance.choice(["wav", "pcm", "mp3"]),
        **fields,
    }


def chat(at: AttackContext, **fields: Any) -> dict[str, Any]:
    """The fields of a good chat request."""
    return {
        "model": at.model,
        "messages": [{"role": "user", "content": "Hello there."}],
        "max_tokens": TOKENS,
        "stream": at.chance.random() < 0.3,
        **fields,
    }


def with_audio(at: AttackContext, data: bytes) -> dict[str, Any]:
    """The fields of a chat request with reference audio."""
    encoded = base64.b64encode(data).decode()
    part = {"type": "input_audio", "input_audio": {"data": encoded, "format": "wav"}}
    return chat(
        at,
        messages=[
            {"role": "user", "content": "That is my voice."},
            {"role": "assistant", "content": [part]},
            {"role": "user", "content": "Hello."},
        ],
    )


def posted(name: str, path: str, fields: Any, **more: Any) -> Attack:
    return Attack(name, "", path, body=json.dumps(fields).encode(), **more)


def either(at: AttackContext) -> tuple[str, dict[str, Any]]:
    return at.chance.choice([(SPEECH, speech(at)), (CHAT, chat(at))])
