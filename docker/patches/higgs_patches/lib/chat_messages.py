"""Messages of a chat completion request, brought into the form in which vLLM reads them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, model_validator

from higgs_patches.lib.errors import RefusedError, shown
from higgs_patches.lib.request_fields import RequestFields, expected
from higgs_patches.lib.speech_length import is_blank

Role = Literal["system", "developer", "user", "assistant"]

MAX_MESSAGES = 1000

MAX_TEXT = 200_000
"""Characters of all messages: several times what any context can hold."""


class ContentPart(RequestFields):
    """A part of a message: text, or reference audio."""

    type: Annotated[
        Literal["text", "refusal", "input_audio", "audio_url"],
        expected("text, input_audio or audio_url"),
    ] = Field(None, validate_default=True)
    text: Any = None
    refusal: Any = None
    input_audio: Any = None
    audio_url: Any = None

    @model_validator(mode="before")
    @classmethod
    def _of_text(cls, data: Any) -> Any:
        return {"type": "text", "text": data} if isinstance(data, str) else data

    def plain(self) -> dict[str, Any]:
        """Return the part in one of the two forms that vLLM reads here.

        Raises:
            RefusedError: it has no content of its type.
        """
        value: Any = getattr(self, self.type)
        url: Any
        if self.type in ("text", "refusal"):
            if not isinstance(value, str):
                raise RefusedError(f"is {shown(value)}; expected a text", self.type)
            return {"type": "text", "text": value}
        if self.type == "input_audio":
            data = value.get("data") if isinstance(value, dict) else None
            wanted = "{'data': an audio file in base64, 'format': 'wav'}"
            url = f"data:audio/any;base64,{data}" if data and isinstance(data, str) else None
        else:
            url = value.get("url") if isinstance(value, dict) else value
            wanted = "{'url': a URL}"
        if not isinstance(url, str) or not url:
            raise RefusedError(f"is {shown(value)}; expected {wanted}", self.type)
        return {"type": "audio_url", "audio_url": {"url": url}}


def _is_parts(value: Any) -> str:
    return "(text)" if isinstance(value, str) else "(parts)"


def _part_list(value: Any) -> Any:
    if not isinstance(value, list):
        raise RefusedError(f"is {shown(value)}; expected a text or a list of parts")
    return value


_Part = Annotated[ContentPart, AfterValidator(ContentPart.plain)]
_Content = Annotated[
    Annotated[str, Tag("(text)")]
    | Annotated[list[_Part], BeforeValidator(_part_list), Tag("(parts)")],
    Discriminator(_is_parts),
]


class ChatMessage(RequestFields):
    """A message of a conversation."""

    role: Annotated[Role, expected("one of system, developer, user, assistant")] = Field(
        None, validate_default=True
    )
    content: _Content = ""
    tool_calls: Any = None
    function_call: Any = None
    audio: Any = None

    def plain(self) -> dict[str, Any]:
        """Return role and content.

        Raises:
            RefusedError: the message has something that this server cannot work with.
        """
        if self.tool_calls or self.function_call:
            raise RefusedError(
                "has tool_calls, which are not supported: this model cannot call tools"
            )
        if self.audio:
            raise RefusedError(
                "refers to an earlier answer, which this server does not keep: send the audio "
                "itself, as an input_audio part of the message's content",
                "audio",
            )
        role = "system" if self.role == "developer" else self.role
        return {"role": role, "content": self.content}


def texts(content: str | list[dict[str, Any]]) -> list[str]:
    """Return the texts of a message's content."""
    if isinstance(content, str):
        return [content]
    return [part["text"] for part in content if part["type"] == "text"]


def audio_parts(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the parts of messages that are reference audio."""
    contents = [message["content"] for message in messages if isinstance(message["content"], list)]
    return [part for content in contents for part in content if part["type"] == "audio_url"]


def _message_list(value: Any) -> Any:
    if not isinstance(value, list) or not 0 < len(value) <= MAX_MESSAGES:
        raise RefusedError(f"is {shown(value)}; expected a list of 1 to {MAX_MESSAGES} messages")
    return value


def _speakable(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    every = [text for message in messages for text in texts(message["content"])]
    if (length := sum(map(len, every))) > MAX_TEXT:
        raise RefusedError(f"have {length} characters of text; {MAX_TEXT} are possible")
    if all(map(is_blank, every)) and not audio_parts(messages):
        raise RefusedError("hold no text: there is nothing to say")
    return messages


Messages = Annotated[
    list[Annotated[ChatMessage, AfterValidator(ChatMessage.plain)]],
    BeforeValidator(_message_list),
    AfterValidator(_speakable),
]
