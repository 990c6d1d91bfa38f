"""The parts of the service, put together."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

from higgs_patches.lib.speech_length import spoken_seconds

from higgs_generate.generate_request import GenerateRequest
from higgs_generate.job import Job
from higgs_generate.job_store import JobStore
from higgs_generate.job_worker import JobWorker
from higgs_generate.places import Places
from higgs_generate.references import ReferenceCache
from higgs_generate.sentences import split
from higgs_generate.server_client import ServerClient
from higgs_generate.settings import GenerateSettings
from higgs_generate.speaker import Speaker
from higgs_generate.speech import Speech
from higgs_generate.statistics import Statistics
from higgs_generate.voices import VoiceList

SHORT_TEXT = 5000
"""Characters that are split at once; longer texts are split in a thread."""


class Service:
    """What the routes use.

    Args:
        settings: the settings.

    Attributes:
        draining: whether new requests are refused.
    """

    def __init__(self, settings: GenerateSettings) -> None:
        self.settings = settings
        self.draining = False
        self.client = ServerClient(settings)
        self.places = Places(settings.running, settings.queue)
        self.statistics = Statistics(self.places)
        self.speaker = Speaker(self.client, self.places)
        self.voices = VoiceList(self.client, self.speaker)
        self.references = ReferenceCache(Path(settings.jobs_dir) / "references")
        self.jobs = JobStore(Path(settings.jobs_dir), settings.jobs_mb * 10**6)
        self.worker = JobWorker(self.client, self.places, self.jobs, settings.parallel)

    def is_long(self, speech: Speech) -> bool:
        """Return whether a text is split into pieces."""
        if speech.long_text is not None:
            return speech.long_text
        return spoken_seconds(speech.text) > self.settings.long_seconds

    async def speech_of(self, request: GenerateRequest) -> Speech:
        """Return what is to be spoken, with the recording behind its URL.

        Raises:
            RefusedError: the recording cannot be used.
        """
        speech = request.speech()
        if request.voice_url:
            speech = await self.references.with_recording(speech, request.voice_url)
        return speech

    async def new_job(self, speech: Speech) -> Job:
        """Return a job for a long text.

        Raises:
            RefusedError: there is no room for it.
        """
        self.places.require_room()
        longest, language = self.settings.piece_seconds, speech.language
        if len(speech.text) <= SHORT_TEXT:
            pieces = split(speech.text, longest, language)
        else:
            pieces = await asyncio.to_thread(split, speech.text, longest, language)
        anchored = speech.mode == "prompt" or (
            bool(speech.voice) and await self.voices.is_description(speech.voice)
        )
        return await asyncio.to_thread(
            self.jobs.create, replace(speech, text=""), pieces, anchored=anchored
        )
