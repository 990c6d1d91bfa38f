"""Audio: its constants, the codec's frames, and the files that answers are."""

SAMPLE_RATE = 24_000
"""Samples a second of the codec, and of every answer."""

FRAMES_PER_SECOND = 25
"""Frames of the codec in a second of sound; each takes one token of the engine's context."""

CODEBOOKS = 8
"""Codes of a frame. A codebook starts one token after the one before it."""
