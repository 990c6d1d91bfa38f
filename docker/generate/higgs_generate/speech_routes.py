"""POST /generate and POST /v1/audio/speech."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncGenerator
from typing import Any

from higgs_patches.lib.audio import SAMPLE_RATE, containers
from higgs_patches.lib.errors import RefusedError, describe_errors
from higgs_patches.lib.speech_length import is_blank
from higgs_patches.lib.speech_request import SpeechRequest
from pydantic import ValidationError
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from higgs_generate import failures, generate_request, json_sound
from higgs_generate.endpoint import Call
from higgs_generate.job import Job
from higgs_generate.sound_answer import SampleCounter, SoundStream, encode, late_headers
from higgs_generate.speech import SPEECH, Speech


async def generate(call: Call) -> ASGIApp:
    """Answer POST /generate."""
    settings = call.service.settings
    fields = generate_request.read(await call.body(), settings.max_characters)
    speech = await call.service.speech_of(fields)
    as_json = _accepts_json(call)
    if as_json and speech.stream:
        raise RefusedError("JSON cannot be streamed: leave out 'stream', or accept audio", "stream")
    if call.service.is_long(speech):
        job = await call.service.new_job(speech)
        return await long_sound(call, job, speech, as_json=as_json)
    if speech.stream:
        return await _stream(call, speech)
    content, samples = await call.service.speaker.whole(speech, call.id)
    call.counter.samples = samples
    headers = _headers(call, speech, 1) | late_headers(call.began, samples)
    if as_json:
        sound = _chunk(content)
        facts = json_facts(call, speech, samples, 1)
        parts = [part async for part in json_sound.json_parts(sound, facts)]
        return Response(b"".join(parts), media_type="application/json", headers=headers)
    return Response(content, headers=headers | _media_type(speech))


async def _chunk(content: bytes) -> AsyncGenerator[bytes, None]:
    yield content


async def _stream(call: Call, speech: Speech) -> ASGIApp:
    headers = encode(_media_type(speech) | _headers(call, speech, 1))  # while the server works
    sound = call.service.speaker.stream(speech, call.id, call.counter)
    first = await _first(sound)
    return SoundStream(first, sound, headers + encode(late_headers(call.began, None)))


async def _first(sound: AsyncGenerator[bytes, None]) -> bytes:
    """Return the first chunk: what fails before it is an error's answer."""
    try:
        return await anext(sound)
    except StopAsyncIteration:
        raise _silent() from None


def _silent() -> RefusedError:
    return failures.ServerFailedError("the server behind sent no sound")


async def long_sound(
    call: Call, job: Job, speech: Speech, *, as_json: bool = False, start: float = 0.0
) -> ASGIApp:
    """Answer with the sound of a job, from some second on.

    Args:
        call: the request.
        job: the job.
        speech: names the format and the speed; whether it is streamed: by default it is.
        as_json: whether it is sent in JSON.
        start: seconds of the finished recording that are left out.
    """
    skip = round(start * speech.speed * SAMPLE_RATE)
    headers = _headers(call, speech, len(job.pieces)) | {"X-Job-ID": job.id}
    length: int | None = None
    listening = contextlib.AsyncExitStack()
    await listening.enter_async_context(call.service.worker.listening(job))
    try:
        if as_json or speech.stream is False:
            counter = SampleCounter()
            async for _ in counter.through(job.sound(skip), speech.speed):
                pass  # the sound is on disk then
            samples = counter.samples
            headers |= late_headers(call.began, samples)
            if speech.response_format in ("wav", "pcm") and speech.speed == 1.0:
                length = 2 * samples
                head = len(containers.wav_header()) if speech.response_format == "wav" else 0
                headers["Content-Length"] = str(head + length)
        sound = _listened(job, speech, skip, call.counter, listening, length)
        try:
            first = await anext(sound)
        except StopAsyncIteration:
            if skip:
                text = f"start is {start:g}; the recording ends before"
                raise RefusedError(text, "start") from None
            raise _silent() from None
    except BaseException:
        await listening.aclose()
        raise
    headers = late_headers(call.began, None) | headers
    if as_json:
        facts = json_facts(call, speech, samples, len(job.pieces))
        parts = json_sound.json_parts(_chained(first, sound), facts)
        headers.pop("Content-Length", None)
        headers["Content-Type"] = "application/json"
        return SoundStream(await anext(parts), parts, encode(headers))
    return SoundStream(first, sound, encode(_media_type(speech) | headers))


async def _listened(
    job: Job,
    speech: Speech,
    skip: int,
    counter: SampleCounter,
    listening: contextlib.AsyncExitStack,
    length: int | None,
) -> AsyncGenerator[bytes, None]:
    """Give the file of a job; the job is worked on until this ends.

    With the `length` of its PCM in bytes a wav file has it in its header.
    """
    async with listening:
        file = counter.through(job.sound(skip), speech.speed)
        if length is None:
            file = containers.stream(file, speech.response_format, speed=speech.speed)
        elif speech.response_format == "wav":
            yield containers.wav_header(length)
        async with contextlib.aclosing(file):
            async for chunk in file:
                yield chunk


async def _chained(first: bytes, rest: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    async with contextlib.aclosing(rest):
        yield first
        async for chunk in rest:
            yield chunk


def _media_type(speech: Speech) -> dict[str, str]:
    return {"Content-Type": containers.CONTAINERS[speech.response_format].media_type}


def _headers(call: Call, speech: Speech, chunks: int) -> dict[str, str]:
    return {
        "X-Mode": speech.mode,
        "X-Concurrent-Requests": str(call.service.statistics.concurrent),
        "X-Sample-Rate": str(SAMPLE_RATE),
        "X-Chunks": str(chunks),
    }


def json_facts(call: Call, speech: Speech, samples: int, chunks: int) -> dict[str, Any]:
    """Return what JSON holds beside the sound."""
    late = late_headers(call.began, samples)
    return {
        "response_format": speech.response_format,
        "sample_rate": SAMPLE_RATE,
        "sampling_rate": SAMPLE_RATE,
        "duration": float(late["X-Audio-Duration"]),
        "generation_time": float(late["X-Generation-Time"]),
        "rtf": float(late["X-RTF"]),
        "request_id": call.id,
        "mode": speech.mode,
        "chunks": chunks,
    }


def _accepts_json(call: Call) -> bool:
    accepted = call.request.headers.get("accept", "").lower()
    kinds = [kind.partition(";")[0].strip() for kind in accepted.split(",")]
    return "application/json" in kinds and not any(x.startswith("audio/") for x in kinds)


# -- /v1/audio/speech ------------------------------------------------------------------------------


class LongSpeechRequest(SpeechRequest):
    """A speech request whose text is split into pieces."""

    @classmethod
    def read(cls, data: Any, most: int) -> LongSpeechRequest:
        """Check the fields; the text may have `most` characters.

        Raises:
            RefusedError: a field cannot be used.
        """
        text = data.get("input")
        if not isinstance(text, str) or is_blank(text):
            raise RefusedError("input is empty or not a text; there is nothing to speak", "input")
        if len(text) > most:
            raise RefusedError(
                f"input has {len(text)} characters; at most {most} are possible", "input"
            )
        try:
            request = cls.model_validate({**data, "input": "long"})
        except ValidationError as error:
            raise RefusedError(*describe_errors(error.errors())) from None
        request.input = text
        return request


async def speech(call: Call) -> ASGIApp:
    """Answer POST /v1/audio/speech: a long text in pieces, everything else as the server does."""
    body = await call.body()
    try:
        data = json.loads(body)
    except ValueError:
        data = None
    except RecursionError:
        raise RefusedError("the body is nested too deeply") from None
    if isinstance(data, dict):
        flag = data.get("long_text")
        if flag is not None and not isinstance(flag, bool):
            raise RefusedError("long_text: expected true or false", "long_text")
        wanted = Speech(text=str(data.get("input") or ""), long_text=flag)
        events = data.get("stream_format") == "sse"
        if events and flag:
            raise RefusedError(
                "stream_format 'sse' is not possible for a long text; leave it out, or follow the "
                "events of its job",
                "stream_format",
            )
        if call.service.is_long(wanted) and not events:
            return await _long_speech(call, data)
    return await _passed_on(call, body)


async def _long_speech(call: Call, data: dict[str, Any]) -> ASGIApp:
    fields = LongSpeechRequest.read(data, call.service.settings.max_characters)
    names = ("temperature", "top_p", "top_k", "seed", "ras_win_len", "ras_win_max_num_repeat")
    values = {name: getattr(fields, name) for name in names}
    wanted = Speech(
        text=fields.input,
        voice="" if fields.ref_audio else fields.voice,
        scene=fields.instructions or "",
        reference_audio=fields.ref_audio or "",
        reference_text=fields.ref_text or "",
        sampling={name: value for name, value in values.items() if value is not None},
        max_tokens=fields.max_tokens,
        speed=fields.speed,
        response_format=fields.response_format,
        stream=fields.stream,
        model=fields.model,
    )
    job = await call.service.new_job(wanted)
    return await long_sound(call, job, wanted)


async def _passed_on(call: Call, body: bytes) -> ASGIApp:
    """Send a request to the server as it is, and its answer back as it is."""
    service = call.service
    stack = contextlib.AsyncExitStack()
    try:
        await stack.enter_async_context(service.places)
        answer = await stack.enter_async_context(service.client.post(SPEECH, body, call.id))
        if answer.status != 200:
            retry = answer.headers.get("retry-after")
            content = await answer.json()
            error = failures.from_server(answer.status, content, retry, renamed=False)
            await stack.aclose()
            return failures.answer(error)
        headers = {"content-type": "application/octet-stream"} | {
            name: answer.headers[name] for name in _PASSED_ON if name in answer.headers
        }
        chunks = answer.chunks()
        first = await _first(chunks)
    except BaseException:
        await stack.aclose()
        raise
    return SoundStream(first, _until_end(chunks, stack), encode(headers))


_PASSED_ON = ("content-type", "content-length", "x-finish-reason")
"""Headers of the server's answer."""


async def _until_end(
    chunks: AsyncGenerator[bytes, None], stack: contextlib.AsyncExitStack
) -> AsyncGenerator[bytes, None]:
    async with stack, contextlib.aclosing(chunks):
        async for chunk in chunks:
            yield chunk


def json_answer(value: Any, status: int = 200) -> JSONResponse:
    """Return an answer in JSON that no cache keeps."""
    return JSONResponse(value, status, headers={"Cache-Control": "no-store"})
