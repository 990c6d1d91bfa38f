"""Answers chat completions: text, audio, or both, at once or as a stream.

The fork never reads `modalities`: whether there is audio is left to chance, an answer without audio
is always an error, and audio is decoded on the event loop, which stops all other requests. Here

- ``["audio"]`` and ``["text", "audio"]`` begin the answer with audio, ``["text"]`` keeps audio out.
  Without modalities the model chooses, as before; so it does for a message with generation
  instructions, as in the model's example of interleaved text and audio.
- Audio comes as one file in ``message.audio``, in ``audio.format``; in a stream as pieces of pcm16
  (24 kHz, mono, little-endian) in ``delta.audio``, the only format that OpenAI's API streams.
- ``audio.voice`` speaks with that voice of GET /v1/audio/voices, unless the messages bring
  reference audio of their own.
- ``stop`` may name special tokens (``<|audio_eos|>``), as the model's example clients do.
- An error before the first piece is a 4xx or 5xx; after it, an error event that OpenAI's clients
  raise as APIError, and the stream ends without ``[DONE]``.

The request is read by chat_fields, which says what is refused and why.
"""

import asyncio
import base64
import contextlib
import json
import logging
import math
import time
import uuid
from collections.abc import AsyncGenerator, Callable
from typing import Annotated, Any

from fastapi import Body, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from higgs_patches.lib import containers
from higgs_patches.lib.chat_fields import ChatRequest, Refused, read, shown, texts
from higgs_patches.lib.decoding import CHUNK_FRAMES, AudioDecoder, NoAudioError
from higgs_patches.lib.requests import FRAMES_PER_SECOND, default_max_tokens
from higgs_patches.lib.text import (
    INSTRUCTION_TOKENS,
    SCENE_TOKENS,
    WithoutTokens,
    clean,
    special_tokens_of,
)
from higgs_patches.lib.voice import UnknownVoiceError, Voice, Voices, resolve
from higgs_patches.patches.errors import ErrorResponse
from higgs_patches.patches.errors import answer as error_answer

PATCH = {
    "title": "Chat completions read modalities, and refuse what would end the engine",
    "issues": [],
    "why": (
        "modalities is never read and answers of text alone are always 400. response_format,"
        " prompt_logprobs, truncate_prompt_tokens, logit_bias and a large n end the engine for all;"
        " special tokens in roles and texts reach the prompt; a client's template is run."
    ),
    "obsolete_when": (
        "create_chat_completion passes modalities on to the prompt and answers without audio."
    ),
    "targets": [
        {
            "file": "vllm/entrypoints/bosonai/api_server.py",
            "name": "create_chat_completion",
            "how": "wrap",
            "with": "create_chat_completion",
            "sha256": "636f8077f14a62611dcfada34271dcaf7af30019ea065a81309fa7d1edf3c59d",
            "fixed": r"modalities",
        },
    ],
}

log = logging.getLogger("vllm.higgs_patches.chat")

AUDIO_BEGINS = "<|audio_out_bos|>"
"""What an answer of audio begins with."""


PIECE = 48_000
"""Bytes of PCM in one event: a second, and less than 64 KiB of base64, the longest line of some."""


class SilenceError(RuntimeError):
    """Audio was asked for, and the model ended its answer without any."""


EXAMPLE = {
    "model": "higgs-audio-v2",
    "messages": [{"role": "user", "content": "Hello there."}],
    "modalities": ["text", "audio"],
    "audio": {"voice": "belinda", "format": "wav"},
}
"""A request for the documentation at /docs."""


def create_chat_completion(original: Callable[..., Any]) -> Callable[..., Any]:
    """Answer POST /v1/chat/completions; the fork's function is not called."""

    # FastAPI reads these parameters: any JSON comes in here. (The fork's model of a request fails
    # on hostile bodies with 500.)
    async def create_chat_completion(
        raw_request: Request, body: Annotated[Any, Body(examples=[EXAMPLE])] = None
    ) -> Response:
        state = raw_request.app.state
        try:
            request = read(body)
            return await answer(
                state.openai_serving_chat, state.voice_presets, request, raw_request
            )
        except Refused as refused:
            return error_answer(str(refused), 400, refused.param)
        except (SilenceError, containers.EncodingError) as error:
            log.warning("A chat completion failed: %s", error)
            return error_answer(str(error), 500)

    create_chat_completion.__doc__ = original.__doc__
    return create_chat_completion


async def answer(serving: Any, voices: Any, request: ChatRequest, raw_request: Request) -> Response:
    """The response to a chat completion request.

    Args:
        serving: the fork's HiggsAudioServingChat: the engine, the tokenizer and the codec.
        voices: the voices of the server.
        request: what is asked for.
        raw_request: the HTTP request.

    Raises:
        Refused: the request cannot be served.
        SilenceError: audio was asked for, and the model gave none.
        EncodingError: the audio cannot be brought into the format that was asked for.
    """
    if not serving._is_model_supported(request.model):
        names = ", ".join(model.name for model in serving.models.base_model_paths)
        text = f"the model {shown(request.model)} does not exist; this server has {names}"
        return error_answer(text, 404, "model")
    if serving.engine_client.errored:
        raise serving.engine_client.dead_error
    voice = _voice(request, voices)
    name = request.model or serving.models.base_model_paths[0].name
    completion = Completion(serving, request, name, serving._base_request_id(raw_request)[:64])
    try:
        await completion.begin(voice)
        if request.stream:
            return EventStream(completion)
        return JSONResponse(await completion.whole())
    except BaseException:  # also when the client has gone
        completion.leave()
        raise


class EventStream(StreamingResponse):
    """A completion as server-sent events; frees its place in the engine, however it ends."""

    def __init__(self, completion: "Completion") -> None:
        super().__init__(completion.events(), media_type="text/event-stream")
        self.completion = completion

    async def __call__(self, *args: Any) -> None:
        """Send the response (ASGI)."""
        try:
            await super().__call__(*args)
        finally:
            self.completion.leave()


def _voice(request: ChatRequest, voices: Any) -> Voice | None:
    if request.voice is None or request.audio is False or request.has_reference_audio:
        return None
    try:
        return resolve(voices, request.voice) if isinstance(voices, Voices) else None
    except UnknownVoiceError as error:
        raise Refused(f"audio.voice: {error}", "audio.voice") from None


# -- the prompt ------------------------------------------------------------------------------------


def clean_messages(
    messages: list[dict[str, Any]], special_tokens: tuple[str, ...]
) -> list[dict[str, Any]]:
    """The messages without special tokens, but for those with which a text is marked up.

    A system message may describe a scene, a system or user message instruct the model.
    """
    kept = {"system": SCENE_TOKENS + INSTRUCTION_TOKENS, "user": INSTRUCTION_TOKENS}
    return [
        {**message, "content": _clean(message["content"], _without(special_tokens, kept, message))}
        for message in messages
    ]


def _without(
    special_tokens: tuple[str, ...], kept: dict[str, tuple[str, ...]], message: dict[str, Any]
) -> tuple[str, ...]:
    return tuple(token for token in special_tokens if token not in kept.get(message["role"], ()))


def _clean(content: Any, special_tokens: tuple[str, ...]) -> Any:
    if isinstance(content, str):
        return clean(content, special_tokens)
    return [
        {**part, "text": clean(part["text"], special_tokens)} if part["type"] == "text" else part
        for part in content
    ]


def with_voice(messages: list[dict[str, Any]], voice: Voice) -> list[dict[str, Any]]:
    """The messages after an example of the voice, or with its description as the system's."""
    first = next((i for i, m in enumerate(messages) if m["role"] != "system"), len(messages))
    system, rest = messages[:first], messages[first:]
    if voice.system_prompt:
        return [{"role": "system", "content": voice.system_prompt}, *system, *rest]
    url = "data:audio/wav;base64," + base64.b64encode(voice.audio).decode()
    example: list[dict[str, Any]] = [
        {"role": "user", "content": voice.transcript},
        {"role": "assistant", "content": [{"type": "audio_url", "audio_url": {"url": url}}]},
    ]
    return [*system, *example, *rest]


def begins_with_audio(request: ChatRequest) -> bool:
    """Whether the answer has to begin with audio, or the model is free to begin with text."""
    if request.text and any(
        INSTRUCTION_TOKENS[0] in json.dumps(message["content"]) for message in request.messages
    ):
        return False
    return request.audio is True


def longest_answer(request: ChatRequest) -> float:
    """A bound in tokens for an answer that has none by its client.

    For audio it is that of speech of the last user's text, but not below a minute, since the model
    may say something else; for text only the context is a bound.
    """
    if not begins_with_audio(request):
        return math.inf
    said = [" ".join(texts(m["content"])) for m in request.messages if m["role"] == "user"]
    return max(default_max_tokens(said[-1] if said else ""), 60 * FRAMES_PER_SECOND)


# -- the answer ------------------------------------------------------------------------------------


class Choice:
    """One of the answers to a request: its text, and its audio as PCM (16 bit, mono)."""

    def __init__(
        self,
        index: int,
        decoder: Callable[[], AudioDecoder],
        bos_id: int,
        special_tokens: tuple[str, ...],
    ) -> None:
        """Begin an answer.

        Args:
            index: its number.
            decoder: makes a decoder for an utterance.
            bos_id: the code of which the first row of an utterance consists.
            special_tokens: what is no text for the client: a frame of audio is one, for instance.
        """
        self.index = index
        self.tokens = 0
        self.spoke = False
        self.finish_reason: str | None = None
        self.stop_reason: int | str | None = None
        self._new_decoder = decoder
        self._bos_id = bos_id
        self._decoder: AudioDecoder | None = None
        self._text = WithoutTokens(special_tokens)

    async def take(self, output: Any) -> tuple[str, bytes]:
        """What is new in the engine's output: text, and sound."""
        self.tokens += len(output.token_ids)
        pcm = b""
        rows: list[Any] = []
        for row in output.mm_token_ids or ():
            if self._decoder and all(code == self._bos_id for code in row):  # a new utterance
                pcm += await self._decoder.feed(rows) + await self._end()
                rows = []
            self._decoder = self._decoder or self._new_decoder()
            rows.append(row)
        if rows and self._decoder:
            pcm += await self._decoder.feed(rows)
        if output.finish_reason or not rows:
            pcm += await self._end()
        self.finish_reason, self.stop_reason = output.finish_reason, output.stop_reason
        self.spoke = self.spoke or bool(pcm)
        return self._text.add(output.text, last=bool(output.finish_reason)), pcm

    async def _end(self) -> bytes:
        decoder, self._decoder = self._decoder, None
        try:
            return await decoder.finish() if decoder else b""
        except NoAudioError:
            return b""  # no frame of it was complete


class Completion:
    """A request on its way through the engine, and the answer in OpenAI's form."""

    def __init__(self, serving: Any, request: ChatRequest, model: str, request_id: str) -> None:
        self.serving = serving
        self.request = request
        self.id = f"chatcmpl-{request_id}"
        self.model = model
        self.created = int(time.time())
        self.prompt_tokens = 0
        self._outputs: AsyncGenerator[Any, None] | None = None
        self._first: Any = None
        self._finished = False
        self.choices: list[Choice] = []

    def _decoder(self) -> AudioDecoder:
        return AudioDecoder(
            self.serving.audio_tokenizer,
            bos_id=self.serving.audio_stream_bos_id,
            eos_id=self.serving.audio_stream_eos_id,
            chunk_frames=self.request.chunk_frames or CHUNK_FRAMES,
        )

    async def begin(self, voice: Voice | None) -> None:
        """Give the request to the engine, and wait for its first token.

        What is wrong with the request is known then, before a response has begun.

        Raises:
            Refused: the engine, or what prepares its prompt, does not take the request.
        """
        engine = self.serving.engine_client
        tokenizer = await engine.get_tokenizer()
        special_tokens = special_tokens_of(tokenizer)
        messages = clean_messages(self.request.messages, special_tokens)
        if voice:
            messages = with_voice(messages, voice)
        shown_tokens = self.request.sampling.get("skip_special_tokens") is False
        self.choices = [
            Choice(
                index,
                self._decoder,
                self.serving.audio_stream_bos_id,
                () if shown_tokens else special_tokens,
            )
            for index in range(self.request.n)
        ]
        try:
            prompt, parameters = await self._prepare(tokenizer, messages)
            self._outputs = engine.generate(prompt, parameters, self.id)
            self._first = await anext(self._outputs)
        except ValueError as error:  # from vLLM, gate.py and media.py
            raise Refused(str(error)) from error
        self.prompt_tokens = len(self._first.prompt_token_ids or ())

    async def _prepare(self, tokenizer: Any, messages: list[dict[str, Any]]) -> tuple[Any, Any]:
        from vllm.entrypoints.openai.protocol import ChatCompletionRequest
        from vllm.sampling_params import RequestOutputKind

        serving, request = self.serving, self.request
        added = tokenizer.get_added_vocab()
        fields = ChatCompletionRequest.model_construct(
            messages=messages,
            model=self.model,
            n=request.n,
            max_tokens=request.max_tokens,
            # Special tokens are never part of the text in which a stop is looked for.
            stop=[text for text in request.stop if text not in added],
            stop_token_ids=[
                *request.stop_token_ids,
                *(added[text] for text in request.stop if text in added),
            ],
            **request.sampling,
        )
        template = serving.get_chat_template()
        if begins_with_audio(request):
            template += f"{{{{ '{AUDIO_BEGINS}' }}}}"
        _, (text,), (prompt,) = await serving._preprocess_chat(
            fields,
            tokenizer,
            messages,
            chat_template=template,
            chat_template_content_format=serving.chat_template_content_format,
        )
        room = serving.max_model_len - len(prompt["prompt_token_ids"])
        room = int(min(room, longest_answer(request)))
        parameters = fields.to_sampling_params(room, None, serving.default_sampling_params)
        parameters.output_kind = RequestOutputKind.DELTA
        parameters.extra_args = dict(request.repetition)
        if request.audio is False:
            parameters.extra_args["audio"] = False
        serving._log_inputs(
            self.id, text, params=parameters, lora_request=None, prompt_adapter_request=None
        )
        return prompt, parameters

    async def _pieces(self) -> AsyncGenerator[tuple[Choice, str, bytes], None]:
        """Which answer goes on, and with what text and sound, until all have ended.

        Raises:
            SilenceError: audio was asked for, and an answer ended without any.
        """
        assert self._outputs is not None  # noqa: S101 (begin has been called)
        result = self._first
        while True:
            for output in result.outputs:
                choice = self.choices[output.index]
                text, pcm = await choice.take(output)
                yield choice, text, pcm
            if result.finished:
                break
            result = await anext(self._outputs)
        self._finished = True
        # An answer that max_tokens cut short is what its client asked for.
        if self.request.audio and all(
            choice.finish_reason == "stop" and not choice.spoke for choice in self.choices
        ):
            raise SilenceError("the model ended its answer without audio; ask again")

    def leave(self) -> None:
        """End the request in the engine, if it has not come to its end.

        Nothing is awaited: when a client hangs up, every await of its task is cancelled.
        """
        if not self._finished and self._outputs is not None:
            self._finished = True
            task = asyncio.get_running_loop().create_task(self._outputs.aclose())
            _LEAVING.add(task)
            task.add_done_callback(_LEAVING.discard)

    # -- at once -----------------------------------------------------------------------------------

    async def whole(self) -> dict[str, Any]:
        """The answer as one object.

        Raises:
            SilenceError: audio was asked for, and an answer ended without any.
        """
        texts = [""] * len(self.choices)
        sounds = [bytearray() for _ in self.choices]
        async with contextlib.aclosing(self._pieces()) as pieces:
            async for choice, text, pcm in pieces:
                texts[choice.index] += text
                sounds[choice.index] += pcm
        return {
            "id": self.id,
            "object": "chat.completion",
            "created": self.created,
            "model": self.model,
            "choices": [
                {
                    "index": choice.index,
                    "message": {
                        "role": "assistant",
                        "content": text,
                        "refusal": None,
                        "audio": await self._file(bytes(sound), text) if sound else None,
                    },
                    "logprobs": None,
                    "finish_reason": choice.finish_reason,
                    "stop_reason": choice.stop_reason,
                }
                for choice, text, sound in zip(self.choices, texts, sounds, strict=True)
            ],
            "usage": self._usage(),
        }

    async def _file(self, pcm: bytes, text: str) -> dict[str, Any]:
        form = self.request.audio_format
        rate = self.serving.audio_tokenizer.sampling_rate
        data = await containers.whole(pcm, "pcm" if form == "pcm16" else form, rate=rate)
        return self._audio(f"audio-{uuid.uuid4().hex}", data, text)

    def _audio(self, audio_id: str, data: bytes, text: str = "") -> dict[str, Any]:
        return {
            "id": audio_id,
            "data": base64.b64encode(data).decode(),
            "expires_at": self.created,  # a later request cannot refer to it: nothing is kept
            "transcript": text,
        }

    def _usage(self) -> dict[str, int]:
        completion_tokens = sum(choice.tokens for choice in self.choices)
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": self.prompt_tokens + completion_tokens,
        }

    # -- as a stream -------------------------------------------------------------------------------

    async def events(self) -> AsyncGenerator[str, None]:
        """The answer as server-sent events, the last of which is [DONE] unless something failed."""
        audio_ids = [f"audio-{uuid.uuid4().hex}" for _ in self.choices]
        try:
            for choice in self.choices:
                yield self._event(choice, {"role": "assistant", "content": ""})
            async with contextlib.aclosing(self._pieces()) as pieces:
                async for choice, text, pcm in pieces:
                    if text:
                        yield self._event(choice, {"content": text})
                    for start in range(0, len(pcm), PIECE):
                        piece = pcm[start : start + PIECE]
                        audio = self._audio(audio_ids[choice.index], piece)
                        yield self._event(choice, {"audio": audio})
                    if choice.finish_reason:
                        yield self._event(choice, {}, choice.finish_reason, choice.stop_reason)
            if self.request.include_usage:
                yield self._data({**self._head(), "choices": [], "usage": self._usage()})
            yield "data: [DONE]\n\n"
        except SilenceError as error:
            yield self._failure(str(error))
        except Exception:
            log.exception("Chat completion %s failed in the midst of its stream", self.id)
            yield self._failure("the server failed on this request; its log says why")

    def _event(
        self,
        choice: Choice,
        delta: dict[str, Any],
        finish_reason: str | None = None,
        stop_reason: int | str | None = None,
    ) -> str:
        entry: dict[str, Any] = {
            "index": choice.index,
            "delta": delta,
            "logprobs": None,
            "finish_reason": finish_reason,
        }
        if finish_reason:
            entry["stop_reason"] = stop_reason
        return self._data({**self._head(), "choices": [entry]})

    def _failure(self, message: str) -> str:
        error = ErrorResponse(message=message, type="InternalServerError", code=500)
        return self._data(error.model_dump())

    def _head(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.model,
        }

    @staticmethod
    def _data(value: dict[str, Any]) -> str:
        return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


_LEAVING: set[asyncio.Task[None]] = set()
