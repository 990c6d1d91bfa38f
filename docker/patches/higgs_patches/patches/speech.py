"""Answer POST /v1/audio/speech: with one complete file, or with an error.

`lib.speech_request` checks the fields, `lib.speech_prompt` makes the prompt, `lib.audio.decoding`
decodes the engine's codes, and `lib.audio.containers` encodes the file. Nothing is sent before the
first audio is there, so a failure until then is an HTTP error. A later one cuts the connection.

However an answer ends (also when the client hangs up), its request in the engine and its encoder
are ended.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Any

import anyio
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from higgs_patches.lib.audio import FRAMES_PER_SECOND, containers
from higgs_patches.lib.audio.containers import CONTAINERS, EncodingError
from higgs_patches.lib.audio.decoding import AudioDecoder, NoAudioError
from higgs_patches.lib.errors import RefusedError, error_response, shown
from higgs_patches.lib.http_protocol import set_trailers
from higgs_patches.lib.special_tokens import clean, special_tokens_of
from higgs_patches.lib.speech_collector import ENOUGH
from higgs_patches.lib.speech_events import chained, events
from higgs_patches.lib.speech_length import is_blank
from higgs_patches.lib.speech_prompt import build_prompt, sampling_params, sampling_settings
from higgs_patches.lib.speech_request import SpeechRequest
from higgs_patches.lib.voices.voice import UnknownVoiceError, Voice, resolve
from higgs_patches.patches import error_format, media

log = logging.getLogger("vllm.higgs_patches.speech")

PATCH = {
    "title": "Answer speech requests with one whole file, or with an error before the first byte",
    "issues": [
        "https://github.com/boson-ai/higgs-audio/issues/109",
        "https://github.com/boson-ai/higgs-audio/issues/126",
        "https://github.com/boson-ai/higgs-audio/issues/139",
        "https://github.com/boson-ai/higgs-audio/issues/156",
    ],
    "why": (
        "Every chunk becomes a file of its own, so that players stop after the first words; errors "
        "are written into the audio, or the answer has 0 bytes; the codec holds up the event loop. "
        "Any text and number is accepted, speed and seed do nothing, and a model that misses its "
        "end speaks until the context is full."
    ),
    "obsolete_when": (
        "create_audio_speech answers with the media type of the format, a wav answer has one "
        "header, and AudioSpeechRequest has a seed, bounds, and a default of max_tokens."
    ),
    "targets": [
        {
            "file": "vllm/entrypoints/bosonai/api_server.py",
            "name": "create_audio_speech",
            "how": "wrap",
            "with": "answered",
            "sha256": "ac9abec1dce6276fbd68f02f718710d5b9afcd0cdeba46b212515b8e803c32a6",
            "fixed": r"media_type=(?!\"audio/mpeg\")",
        },
        {
            "file": "vllm/entrypoints/openai/protocol.py",
            "name": "AudioSpeechRequest",
            "how": "replace",
            "with": "AudioSpeechRequest",
            "sha256": "54257ec37487aa6d7fd9e59b1b2917e8b499589c63c16424d5c7796c10872b88",
            "fixed": r"\bseed\b",
        },
    ],
}


FINISH_REASON = "X-Finish-Reason"
"""Header, or trailer of a stream: "stop" if the speech ended by itself, "length" by a limit."""


class AudioSpeechRequest(SpeechRequest):
    """A speech request under the name that the server has for it."""


def answered(original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Answer a speech request, in place of the fork's route."""

    @functools.wraps(original)
    async def create_audio_speech(request: AudioSpeechRequest, raw_request: Request) -> Response:
        try:
            return await _answer(request, raw_request)
        except UnknownVoiceError as error:
            return error_response(str(error), HTTPStatus.BAD_REQUEST, "voice")
        except RefusedError as error:
            return error_response(str(error), error.status, error.param)
        except NoAudioError as error:
            return error_response(f"{error}; try again", HTTPStatus.INTERNAL_SERVER_ERROR)
        except EncodingError as error:
            log.warning("Encoding failed: %s", error)
            return error_response(str(error), HTTPStatus.INTERNAL_SERVER_ERROR, "response_format")

    return create_audio_speech


async def _answer(request: SpeechRequest, raw_request: Request) -> Response:
    state = raw_request.app.state
    serving = state.openai_serving_audio
    if missing := await serving._check_model(request):
        text = f"the model {shown(request.model)} does not exist; see /v1/models"
        raise RefusedError(text, "model", HTTPStatus(missing.code))
    recording = await reference_audio(request.ref_audio) if request.ref_audio else None
    if recording:
        voice = Voice("ref_audio", request.ref_text or "", b"")
    else:
        voice = resolve(state.voice_presets, request.voice)
    tokenizer = await serving.engine_client.get_tokenizer(None)
    special = special_tokens_of(tokenizer)
    voice = replace(voice, transcript=clean(voice.transcript, special))
    text, scene = _plain(request, special)
    prompt, length = await build_prompt(serving, tokenizer, voice, text, scene, recording)
    settings = sampling_settings(request, text, serving.max_model_len - length)
    params = sampling_params(serving, settings, tokenizer)
    # The client's own id may be one that is still in use, and an abort is by id.
    request_id = f"audiospeech-{serving._base_request_id(raw_request)}-{uuid.uuid4().hex[:8]}"
    serving._log_inputs(request_id, text, params, None, None)
    speech = _Speech(serving, request, request_id)
    try:
        return await _begun(speech, speech.pcm(prompt, params))
    except BaseException:
        with anyio.CancelScope(shield=True):
            await speech.end()
        raise


async def reference_audio(value: str) -> Any:
    """Return samples and rate of a recording: base64, a data: URL, or an allowed https: URL.

    Raises:
        RefusedError: it cannot be used.
    """
    url = value if ":" in value[:16] else f"data:audio/any;base64,{value}"
    try:
        if url[:5].lower() == "file:":
            raise ValueError("is not base64, a data: or an https: URL")
        return await media.fetch_audio_async(None, url)
    except ValueError as error:
        raise RefusedError(f"ref_audio: {error}", "ref_audio") from None


async def _begun(speech: _Speech, pcm: AsyncGenerator[bytes, None]) -> Response:
    """Return the answer once the first of it, or all of it, is there."""
    request = speech.request
    media_type = CONTAINERS[request.response_format].media_type
    form = {"rate": speech.serving.audio_tokenizer.sampling_rate, "speed": request.speed}
    if not request.stream:
        speech.body = pcm
        spoken = b"".join([chunk async for chunk in pcm])
        content = await containers.whole(spoken, request.response_format, **form)
        headers = {FINISH_REASON: speech.finished()}
        return Response(content, media_type=media_type, headers=headers)
    speech.body = body = containers.stream(pcm, request.response_format, **form)
    first = await anext(body)
    if request.stream_format == "sse":
        return _Answer(events(speech, first, body), speech, "text/event-stream")
    return _Answer(chained(first, body), speech, media_type)


def _plain(request: SpeechRequest, special: tuple[str, ...]) -> tuple[str, str]:
    """Return the text and the description of the scene without special tokens."""
    text = clean(request.input, special)
    if is_blank(text):
        raise RefusedError("input: the text has nothing but special tokens", "input")
    return text, clean(request.instructions or "", special).strip()


@dataclass
class _Speech:
    """A request on its way through engine and codec, and what it used."""

    serving: Any
    request: SpeechRequest
    request_id: str
    decoder: AudioDecoder = field(init=False)
    input_tokens: int = 0
    output_tokens: int = 0
    finish_reason: str = "stop"
    body: AsyncGenerator[bytes, None] | None = None

    def __post_init__(self) -> None:
        self.decoder = AudioDecoder(
            self.serving.audio_tokenizer,
            bos_id=self.serving.audio_stream_bos_id,
            eos_id=self.serving.audio_stream_eos_id,
            chunk_frames=self.request.audio_chunk_size,
            context_frames=self.request.audio_chunk_overlap_size,
            grows=self.request.seed is None,  # equal requests get the same bytes
            whole=not self.request.stream,
        )

    async def pcm(self, prompt: Any, params: Any) -> AsyncGenerator[bytes, None]:
        """Give the speech as it comes. Raises NoAudioError if there is none."""
        async with contextlib.aclosing(self._outputs(prompt, params)) as outputs:
            async for output in outputs:
                self.input_tokens = len(output.prompt_token_ids or ())
                [completion] = output.outputs
                self.output_tokens += len(completion.token_ids)
                if completion.finish_reason == "length":
                    self.finish_reason = "length"
                if completion.finish_reason == "abort":
                    raise RuntimeError("the engine gave the request up")
                if pcm := await self.decoder.feed(completion.mm_token_ids or ()):
                    yield pcm
        if pcm := await self.decoder.finish():
            yield pcm
        if self.decoder.ended:  # the limit only cut what follows the audio
            self.finish_reason = "stop"

    async def _outputs(self, prompt: Any, params: Any) -> AsyncGenerator[Any, None]:
        """Give what the engine says; a prompt that it does not take is the client's affair."""
        outputs = self.serving.engine_client.generate(prompt, params, self.request_id)
        async with contextlib.aclosing(outputs):
            token = ENOUGH.set(self.decoder.enough)
            try:
                first = await anext(outputs)
            except RefusedError:
                raise
            except ValueError as error:
                raise RefusedError(str(error), "input") from error
            finally:
                ENOUGH.reset(token)
            yield first
            async for output in outputs:
                yield output

    def finished(self) -> str:
        """Log how the speech ended, and return it: "stop" by itself, "length" by a limit."""
        seconds = self.decoder.frames / FRAMES_PER_SECOND
        how = "by itself" if self.finish_reason == "stop" else "by max_tokens or the context"
        level = logging.INFO if self.finish_reason == "stop" else logging.WARNING
        log.log(level, "Speech %s ended %s after %.1f s", self.request_id, how, seconds)
        return self.finish_reason

    async def end(self) -> None:
        """Let the engine and the encoder go, whatever they are at."""
        await self.serving.engine_client.abort(self.request_id)
        if self.body is not None:
            await self.body.aclose()


class _Answer(StreamingResponse):
    """A stream that ends its request with it, and its connection when it breaks off."""

    def __init__(
        self, content: AsyncGenerator[bytes, None], speech: _Speech, media_type: str
    ) -> None:
        super().__init__(content, media_type=media_type, headers={"Trailer": FINISH_REASON})
        self._speech = speech
        self._scope: Scope = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer."""
        self._scope = scope
        try:
            await super().__call__(scope, receive, send)
        except Exception as error:
            log.warning("The answer to %s broke off: %r", self._speech.request_id, error)
            error_format.cut(scope)
            raise
        finally:
            with anyio.CancelScope(shield=True):
                await self._speech.end()

    async def stream_response(self, send: Send) -> None:
        """Send the body, and after it how the speech ended."""
        content = self.body_iterator

        async def with_trailer() -> AsyncGenerator[Any, None]:
            async for chunk in content:
                yield chunk
            set_trailers(self._scope, {FINISH_REASON: self._speech.finished()})

        self.body_iterator = with_trailer()
        await super().stream_response(send)
