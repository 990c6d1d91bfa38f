"""Answer chat completions: text, audio, or both, at once or as a stream.

The fork never reads `modalities`: the model decides whether there is audio, an answer without audio
is always an error, and audio is decoded on the event loop, which blocks all other requests. Here

- ``["audio"]`` and ``["text", "audio"]`` begin the answer with audio, ``["text"]`` keeps audio out.
  Without modalities the model chooses, as before; so it does for a message with generation
  instructions, as in the model's example of interleaved text and audio.
- Audio comes as one file in ``message.audio``, in ``audio.format``; in a stream as chunks of pcm16
  (24 kHz, mono, little-endian) in ``delta.audio``, the only format that OpenAI's API streams.
- ``audio.voice`` speaks with that voice of GET /v1/audio/voices, unless the messages bring
  reference audio of their own.
- ``stop`` may name special tokens (``<|audio_eos|>``), as the model's example clients do.
- An error before the first chunk is a 4xx or 5xx; after it, an error event that OpenAI's clients
  raise as APIError, and the stream ends without ``[DONE]``.

`lib.chat_request` has the fields, and what is refused.
"""

import logging
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import Body, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from higgs_patches.lib.audio.containers import EncodingError
from higgs_patches.lib.chat_completion import Completion, MissingAudioError
from higgs_patches.lib.chat_request import ChatRequest, read
from higgs_patches.lib.errors import RefusedError, error_response, shown
from higgs_patches.lib.voices.voice import UnknownVoiceError, Voice, Voices, resolve

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

EXAMPLE = {
    "model": "higgs-audio-v2",
    "messages": [{"role": "user", "content": "Hello there."}],
    "modalities": ["text", "audio"],
    "audio": {"voice": "belinda", "format": "wav"},
}
"""A request for the documentation at /docs."""


def create_chat_completion(original: Callable[..., Any]) -> Callable[..., Any]:
    """Answer POST /v1/chat/completions; the fork's function is not called."""

    # FastAPI reads these parameters, evaluated and not as strings (so no __future__ annotations
    # here): any JSON comes in. (The fork's model of a request fails
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
        except RefusedError as error:
            return error_response(str(error), error.status, error.param)
        except (MissingAudioError, EncodingError) as error:
            log.warning("A chat completion failed: %s", error)
            return error_response(str(error), 500)

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
        RefusedError: the request cannot be served.
        MissingAudioError: audio was asked for, and the model gave none.
        EncodingError: the audio cannot be brought into the format that was asked for.
    """
    if not serving._is_model_supported(request.model):
        names = ", ".join(model.name for model in serving.models.base_model_paths)
        text = f"the model {shown(request.model)} does not exist; this server has {names}"
        return error_response(text, 404, "model")
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

    def __init__(self, completion: Completion) -> None:
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
        raise RefusedError(f"audio.voice: {error}", "audio.voice") from None
