"""The checks of a smoke test, in the order in which they run."""

from higgs_image.smoke import audio
from higgs_image.smoke.checks import lifecycle, load, refusals, speech
from higgs_image.smoke.checks.model import SmokeCheck

START = "start"
"""The first check of all: the container becomes healthy in time."""

CHECKS = (
    SmokeCheck("health", lifecycle.health),
    SmokeCheck("models", lifecycle.models),
    SmokeCheck("voices", lifecycle.voices),
    *(SmokeCheck(f"speech-{form}", speech.speech(form)) for form in audio.FORMATS),
    SmokeCheck("formats", speech.formats),
    SmokeCheck("sound", speech.sound),
    SmokeCheck("words", speech.words),
    SmokeCheck("texts", speech.texts),
    SmokeCheck("streaming", speech.streaming),
    SmokeCheck("at-once", load.at_once),
    SmokeCheck("listeners", load.listeners),
    SmokeCheck("bad-requests", refusals.bad_requests),
    SmokeCheck("custom-voice", speech.custom_voice),
    SmokeCheck("idle-cpu", load.idle_cpu),
    SmokeCheck("memory", load.memory),
    SmokeCheck("gpu-memory", load.gpu_memory),
    SmokeCheck("health-after", lifecycle.health),
    SmokeCheck("stop", lifecycle.stop),
)
"""Every check after START; record.REQUIRED says which have to pass."""

NAMES = (START, *(check.name for check in CHECKS))

__all__ = ["CHECKS", "NAMES", "START", "SmokeCheck"]
