"""A chat completion: its way through the engine, and its answer at once or as a stream."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import time
import uuid
from collections.abc import AsyncGenerator
from typing import Any

from higgs_patches.lib.audio import containers
from higgs_patches.lib.audio.decoding import AudioDecoder
from higgs_patches.lib.chat_choice import Choice
from higgs_patches.lib.chat_prompt import (
    begins_with_audio,
    check_audios,
    clean_messages,
    longest_answer,
    with_voice,
)
from higgs_patches.lib.chat_request import ChatRequest
from higgs_patches.lib.errors import RefusedError, error_body
from higgs_patches.lib.special_tokens import special_tokens_of
from higgs_patches.lib.voices.voice import Voice

log = logging.getLogger("vllm.higgs_patches.chat")

AUDIO_BEGINS = "<|audio_out_bos|>"
"""The token with which an answer of audio begins."""

MAX_EVENT_PCM = 48_000
"""Bytes of PCM in one event: a second, and less than the 64 KiB of base64 that some clients read
as one line."""


class MissingAudioError(RuntimeError):
    """Audio was asked for, and the model ended its answer without any."""


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
        self._client_stops: set[int | str] = set()

    def _decoder(self) -> AudioDecoder:
        return AudioDecoder(
            self.serving.audio_tokenizer,
            bos_id=self.serving.audio_stream_bos_id,
            eos_id=self.serving.audio_stream_eos_id,
            chunk_frames=self.request.chunk_frames,
            grows=self.request.sampling.get("seed") is None,
            whole=not self.request.stream,
        )

    async def begin(self, voice: Voice | None) -> None:
        """Give the request to the engine, and wait for its first token.

        What is wrong with the request is known then, before a response has begun.

        Raises:
            RefusedError: the engine, or what prepares its prompt, does not take the request.
        """
        engine = self.serving.engine_client
        tokenizer = await engine.get_tokenizer()
        special_tokens = special_tokens_of(tokenizer)
        messages = clean_messages(self.request.messages, special_tokens)
        if voice:
            messages = with_voice(messages, voice)
        hidden = () if self.request.sampling.get("skip_special_tokens") is False else special_tokens
        self.choices = [
            Choice(index, self._decoder, self.serving.audio_stream_bos_id, hidden)
            for index in range(self.request.n)
        ]
        try:
            prompt, parameters = await self._prepare(tokenizer, messages)
            self._outputs = engine.generate(prompt, parameters, self.id)
            self._first = await anext(self._outputs)
        except RefusedError:
            raise
        except ValueError as error:  # from vLLM, engine_validation and media
            raise RefusedError(str(error), getattr(error, "param", None)) from error
        self.prompt_tokens = len(self._first.prompt_token_ids or ())

    async def _prepare(self, tokenizer: Any, messages: list[dict[str, Any]]) -> tuple[Any, Any]:
        from vllm.entrypoints.openai.protocol import ChatCompletionRequest
        from vllm.sampling_params import RequestOutputKind

        serving, request = self.serving, self.request
        added = tokenizer.get_added_vocab()
        stops = [text for text in request.stop if text not in added]
        stop_ids = [*request.stop_token_ids, *(added[x] for x in request.stop if x in added)]
        self._client_stops = {*stops, *stop_ids}
        check_audios(messages, serving.model_config)
        fields = ChatCompletionRequest.model_construct(
            messages=messages,
            model=self.model,
            n=request.n,
            max_tokens=request.max_tokens,
            # Special tokens are never part of the text in which a stop is looked for.
            stop=stops,
            stop_token_ids=stop_ids,
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

    async def _outputs_of_choices(self) -> AsyncGenerator[tuple[Choice, str, bytes], None]:
        """Give each choice that goes on, with its new text and sound, until all have ended.

        Raises:
            MissingAudioError: audio was asked for, and an answer ended without any.
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
        # An answer that max_tokens or a stop cut short is what its client asked for.
        if self.request.audio and all(
            choice.finish_reason == "stop"
            and not choice.spoke
            and choice.stop_reason not in self._client_stops
            for choice in self.choices
        ):
            raise MissingAudioError("the model ended its answer without audio; ask again")

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
            MissingAudioError: audio was asked for, and an answer ended without any.
        """
        texts = [""] * len(self.choices)
        sounds = [bytearray() for _ in self.choices]
        async with contextlib.aclosing(self._outputs_of_choices()) as outputs:
            async for choice, text, pcm in outputs:
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
        return {
            "id": f"audio-{uuid.uuid4().hex}",
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
        # Clients add up what the events hold: an id or a date in each would be added, too.
        heads = [
            {"id": f"audio-{uuid.uuid4().hex}", "expires_at": self.created, "transcript": ""}
            for _ in self.choices
        ]
        try:
            for choice in self.choices:
                yield self._event(choice, {"role": "assistant", "content": ""})
            async with contextlib.aclosing(self._outputs_of_choices()) as outputs:
                async for choice, text, pcm in outputs:
                    if text:
                        yield self._event(choice, {"content": text})
                    for start in range(0, len(pcm), MAX_EVENT_PCM):
                        chunk = pcm[start : start + MAX_EVENT_PCM]
                        data = {"data": base64.b64encode(chunk).decode()}
                        head, heads[choice.index] = heads[choice.index], {}
                        yield self._event(choice, {"audio": {**head, **data}})
                    if choice.finish_reason:
                        yield self._event(choice, {}, choice.finish_reason, choice.stop_reason)
            if self.request.include_usage:
                yield self._data({**self._head(), "choices": [], "usage": self._usage()})
            yield "data: [DONE]\n\n"
        except MissingAudioError as error:
            yield self._failure(str(error))
        except Exception:
            log.exception("Chat completion %s failed in its stream", self.id)
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
        return self._data(error_body(message, 500))

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
