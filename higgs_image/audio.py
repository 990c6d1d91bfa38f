"""What every recording of the server has in common."""

SAMPLE_RATE = 24_000
"""Samples a second."""

FRAMES_PER_SECOND = 25
"""Audio tokens a second: one token of each codebook makes a frame."""
