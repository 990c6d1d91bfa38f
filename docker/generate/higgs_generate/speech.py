"""What is to be spoken, and the request by which the server speaks it.

Plain text in a voice goes to /v1/audio/speech. A system prompt, a recording without its words, and
a piece of a long text that continues another one go to /v1/chat/completions.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from higgs_patches.lib.speech_prompt import system_message
from higgs_patches.lib.voices.voice import Voice

SPEECH, CHAT = "/v1/audio/speech", "/v1/chat/completions"
DEFAULT_VOICE = "default"
"""The server's other name for the voice of requests that name none."""


@dataclass(frozen=True)
class Speech:
    """A request to speak, whatever route it came by.

    Attributes:
        text: the text.
        voice: name of a voice of the server, if one is named.
        system_prompt: stands in the place of the server's own system message.
        scene: describes where and how it is spoken.
        reference_audio: a recording of the voice, in base64 or as a data: URL.
        reference_text: what is said in it.
        sampling: how codes are drawn, by the names that both routes of the server have.
        max_tokens: the longest answer (25 tokens are a second) of each piece.
        speed: how much faster than normal.
        response_format: of the answer.
        stream: whether the answer is sent while it is made; None: as its length suggests.
        long_text: whether it is split into pieces; None: as its length suggests.
        language: of the text, for finding its sentences; empty: by its script.
        context: which piece of a long text comes with the next: auto, previous or none.
        model: name of the model; empty: the server's first.
    """

    text: str
    voice: str = ""
    system_prompt: str = ""
    scene: str = ""
    reference_audio: str = ""
    reference_text: str = ""
    sampling: dict[str, Any] = field(default_factory=dict)
    max_tokens: int | None = None
    speed: float = 1.0
    response_format: str = "wav"
    stream: bool | None = None
    long_text: bool | None = None
    language: str = ""
    context: str = "auto"
    model: str = ""

    @property
    def mode(self) -> str:
        """What the voice comes from: `voice`, `clone` (a recording) or `prompt`."""
        if self.reference_audio:
            return "clone"
        return "prompt" if self.system_prompt and not self.voice else "voice"

    @property
    def needs_chat(self) -> bool:
        """Whether the server's speech route cannot take it."""
        return bool(self.system_prompt or (self.reference_audio and not self.reference_text))


@dataclass(frozen=True)
class Context:
    """A finished piece that goes before the next one.

    Attributes:
        text: what is said in it.
        audio: a WAV file in base64.
    """

    text: str
    audio: str


def speech_body(speech: Speech, model: str, response_format: str, speed: float) -> dict[str, Any]:
    """Return the body of a request to /v1/audio/speech."""
    body: dict[str, Any] = {
        "model": model,
        "input": speech.text,
        "response_format": response_format,
        **speech.sampling,
    }
    if speech.reference_audio:
        body |= {"ref_audio": speech.reference_audio, "ref_text": speech.reference_text}
    else:
        body["voice"] = speech.voice or DEFAULT_VOICE
    if speech.scene:
        body["instructions"] = speech.scene
    if speech.max_tokens:
        body["max_tokens"] = speech.max_tokens
    if speed != 1.0:
        body["speed"] = speed
    return body


def chat_body(speech: Speech, model: str, context: Context | None = None) -> dict[str, Any]:
    """Return the body of a request to /v1/chat/completions, which streams pcm."""
    described = Voice("", "", b"", speech.system_prompt or None)
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": system_message(described, speech.scene)}
    ]
    if speech.reference_audio:
        if speech.reference_text:
            messages.append({"role": "user", "content": speech.reference_text})
        messages.append(_spoken(speech.reference_audio))
    if context:
        messages += [{"role": "user", "content": context.text}, _spoken(context.audio)]
    messages.append({"role": "user", "content": speech.text})
    audio: dict[str, Any] = {"format": "pcm16"}
    if not speech.reference_audio and (speech.voice or not speech.system_prompt):
        audio["voice"] = speech.voice or DEFAULT_VOICE
    body: dict[str, Any] = {
        "model": model,
        "messages": messages,
        "modalities": ["audio"],
        "audio": audio,
        "stream": True,
        **speech.sampling,
    }
    if speech.max_tokens:
        body["max_completion_tokens"] = speech.max_tokens
    return body


def _spoken(audio: str) -> dict[str, Any]:
    """Return a message in which the assistant has said a recording."""
    url = audio if audio[:5].lower() == "data:" else f"data:audio/any;base64,{audio}"
    part = {"type": "audio_url", "audio_url": {"url": url}}
    return {"role": "assistant", "content": [part]}
