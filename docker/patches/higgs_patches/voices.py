"""The voices that a request can ask for: read, checked, reloaded, listed."""

from __future__ import annotations

from higgs_patches.voice_files import UnknownVoiceError, Voice, Voices, resolve

__all__ = ["UnknownVoiceError", "Voice", "Voices", "resolve"]
