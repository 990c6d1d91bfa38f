"""Long texts as jobs: /generate/jobs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from dataclasses import replace

from higgs_patches.lib.errors import RefusedError, shown
from starlette.responses import Response
from starlette.types import ASGIApp

from higgs_generate import generate_request
from higgs_generate.endpoint import Call
from higgs_generate.generate_request import FORMATS
from higgs_generate.job import Job, JobState
from higgs_generate.sound_answer import SoundStream, encode
from higgs_generate.speech_routes import json_answer, long_sound

KEEP_ALIVE_SECONDS = 15.0
"""A comment keeps the connection open through proxies while nothing happens."""
MOST_START = 1e7


async def create(call: Call) -> ASGIApp:
    """Answer POST /generate/jobs."""
    settings = call.service.settings
    fields = generate_request.read(await call.body(), settings.max_characters)
    job = await call.service.new_job(await call.service.speech_of(fields))
    response = json_answer(job.as_json(), 202)
    response.headers["Location"] = f"/generate/jobs/{job.id}"
    return response


def _job(call: Call) -> Job:
    return call.service.jobs.get(str(call.request.path_params["id"]))


async def show(call: Call) -> ASGIApp:
    """Answer GET /generate/jobs/ID."""
    return json_answer(_job(call).as_json())


async def delete(call: Call) -> ASGIApp:
    """Answer DELETE /generate/jobs/ID."""
    job = _job(call)
    await asyncio.to_thread(call.service.jobs.delete, job)
    return Response(status_code=204)


async def audio(call: Call) -> ASGIApp:
    """Answer GET /generate/jobs/ID/audio."""
    job = _job(call)
    query = call.request.query_params
    chosen = query.get("response_format") or job.speech.response_format
    if chosen not in FORMATS:
        text = f"is {shown(chosen)}; expected one of {', '.join(FORMATS)}"
        raise RefusedError(f"response_format {text}", "response_format")
    try:
        start = float(query.get("start") or 0)
    except ValueError:
        start = -1
    if not 0 <= start <= MOST_START:
        text = f"start is {shown(query['start'])}; expected seconds, 0 or more"
        raise RefusedError(text, "start")
    speech = replace(job.speech, response_format=chosen, stream=True)
    return await long_sound(call, job, speech, start=start)


async def events(call: Call) -> ASGIApp:
    """Answer GET /generate/jobs/ID/events."""
    headers = {"Content-Type": "text/event-stream"}
    progress = _progress(call, _job(call))
    return SoundStream(await anext(progress), progress, encode(headers))


async def _progress(call: Call, job: Job) -> AsyncGenerator[bytes, None]:
    """Give an event for the present state, and one for each piece that is finished."""
    known: set[int] = set()
    async with call.service.worker.listening(job):
        yield _event(job, None)
        known = _finished(job)
        while job.state not in (JobState.DONE, JobState.FAILED):
            try:
                async with asyncio.timeout(KEEP_ALIVE_SECONDS):
                    await job.change()
            except TimeoutError:
                yield b": still there\n\n"
                continue
            for piece in sorted(_finished(job) - known):
                known.add(piece)
                yield _event(job, piece)
        if job.state is JobState.FAILED:
            yield _event(job, None)


def _finished(job: Job) -> set[int]:
    return {number for number, samples in enumerate(job.samples) if samples is not None}


def _event(job: Job, piece: int | None) -> bytes:
    name = job.state.value if job.state in (JobState.DONE, JobState.FAILED) else "progress"
    value = job.as_json() | ({} if piece is None else {"piece": piece})
    return f"event: {name}\ndata: {json.dumps(value)}\n\n".encode()
