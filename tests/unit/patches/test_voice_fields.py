"""Fields that ask for another voice, whatever a client calls them."""

from __future__ import annotations

from typing import Any

import pytest
from higgs_patches.lib.chat_request import ChatBody, read
from higgs_patches.lib.errors import RefusedError
from higgs_patches.lib.speech_request import SpeechRequest
from higgs_patches.lib.voice_fields import asks_for_a_voice
from pydantic import ValidationError

VOICES = [
    "audio_prompt",
    "audio_prompt_path",
    "audioPrompt",
    "clone_audio",
    "clone_from",
    "cloneVoice",
    "prompt_audio",
    "prompt_audio_path",
    "prompt_speech",
    "prompt_speech_16k",
    "prompt_text",
    "prompt_wav",
    "ref",
    "ref_audio_base64",
    "ref_audio_path",
    "ref_audio_url",
    "ref_text_path",
    "ref_wav",
    "refAudio",
    "reference",
    "reference_audio",
    "reference_audio_path",
    "reference_id",
    "reference_speech",
    "reference_text",
    "reference_wav",
    "referenceAudioUrl",
    "references",
    "samples",
    "speaker",
    "speaker_audio",
    "speaker_embedding",
    "speaker_id",
    "speaker_prompt",
    "speaker_wav",
    "speakers",
    "speakerId",
    "spk_audio_prompt",
    "spk_emb",
    "spk_id",
    "voice_audio",
    "voice_clone",
    "voice_embedding",
    "voice_file",
    "voice_id",
    "voice_name",
    "voice_path",
    "voice_sample",
    "voice_url",
    "voice-id",
    "voiceId",
    "voices",
    "audio_sample",
    "sample_audio",
]

OTHERS = [
    "audio_format",
    "audio_quality",
    "audio_sample_rate",
    "bitrate",
    "chunk_length",
    "emotion",
    "exaggeration",
    "generation_config",
    "guidance_scale",
    "input_text",
    "lang",
    "language",
    "language_code",
    "max_new_tokens",
    "metadata",
    "modalities",
    "normalize",
    "output_format",
    "pitch",
    "pronunciation",
    "quality",
    "reasoning_effort",
    "repetition_penalty",
    "sample_rate",
    "sampling_rate",
    "seed_offset",
    "service_tier",
    "speaker_boost",
    "speed_factor",
    "store",
    "style",
    "task_type",
    "text",
    "text_lang",
    "timestamp_granularities",
    "user",
    "voice_settings",
    "voice_speed",
    "volume",
]


@pytest.mark.parametrize("name", VOICES)
def test_names_for_a_voice(name: str) -> None:
    assert asks_for_a_voice(name)


@pytest.mark.parametrize("name", OTHERS)
def test_other_names(name: str) -> None:
    assert not asks_for_a_voice(name)


def test_fields_of_openais_api_are_not_taken_for_a_voice() -> None:
    for name in (
        "prediction", "prompt_cache_key", "prompt_cache_retention", "safety_identifier", "stop",
        "verbosity", "web_search_options", "top_logprobs", "parallel_tool_calls", "logit_bias",
    ):  # fmt: skip
        assert not asks_for_a_voice(name), name


def speech(**fields: Any) -> SpeechRequest:
    return SpeechRequest.model_validate({"model": "m", "input": "x", "voice": "v", **fields})


def chat(**fields: Any) -> Any:
    return read({"messages": [{"role": "user", "content": "x"}], **fields})


@pytest.mark.parametrize("empty", [None, "", [], {}, False])
def test_empty_fields_ask_for_nothing(empty: Any) -> None:
    speech(speakerId=empty)
    chat(speaker=empty, audio={"reference_id": empty})


def test_speech_names_the_field() -> None:
    with pytest.raises(ValidationError, match="send its recording as ref_audio"):
        speech(referenceAudio="UklG")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"voice": "chadwick"}, "voice"),
        ({"speaker": "chadwick"}, "speaker"),
        ({"ref_audio": "UklG"}, "ref_audio"),
        ({"audio": {"voice": "belinda", "ref_audio": "UklG"}}, "audio.ref_audio"),
        ({"audio": {"voiceId": "x"}}, "audio.voiceId"),
        ({"extra_body": {"audio": {"voice": "x"}}}, "extra_body"),
    ],
)
def test_chat_names_the_field(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(RefusedError) as caught:
        chat(**fields)
    assert caught.value.param == param


def test_own_fields_are_never_refused() -> None:
    assert chat(audio={"voice": "belinda"}).voice == "belinda"
    for name in ChatBody.model_fields:
        chat(**{name: None} if name != "messages" else {})
