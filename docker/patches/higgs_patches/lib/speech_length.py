"""How long speech of a text takes, and the tokens that it needs."""

from __future__ import annotations

import math
import unicodedata

from higgs_patches.lib.audio import CODEBOOKS, FRAMES_PER_SECOND
from higgs_patches.patch_settings import MAX_TOKENS_FACTOR as FACTOR

FEWEST_TOKENS = CODEBOOKS + 1
"""A first frame: its codes come one token after the other, after a token of begin codes."""

CHARACTERS_PER_SECOND = 13.0
"""Normal speech of alphabetic scripts: 150 to 180 words a minute are 12 to 15 characters."""

WIDE_CHARACTERS_PER_SECOND = 4.5
"""Normal speech of Chinese, Japanese and Korean, whose characters are syllables: 4 to 5."""

DIGITS_PER_SECOND = 2.5
"""Digits and symbols ($, %, =) are spoken as words."""

PAUSE_SECONDS = 4.0
"""Added to every text: the shortest ones come with a breath, a pause, or a laugh."""

MAX_TOKENS_FACTOR = FACTOR.read()


_FILLERS = frozenset("\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
"""Characters that are empty, though Unicode counts them to the letters or symbols."""


def is_blank(text: str) -> bool:
    """Return whether nothing in a text can be heard: spaces, controls, fillers, lone accents."""
    return all(
        character in _FILLERS or unicodedata.category(character)[0] in "ZCM" for character in text
    )


def spoken_seconds(text: str) -> float:
    """Return about how long a text takes at a normal pace, without pauses before and after it."""
    seconds = 0.0
    for character in text:
        if unicodedata.east_asian_width(character) in "WF":
            seconds += 1 / WIDE_CHARACTERS_PER_SECOND
        elif unicodedata.category(character)[0] in "NS":
            seconds += 1 / DIGITS_PER_SECOND
        else:
            seconds += 1 / CHARACTERS_PER_SECOND
    return seconds


def default_max_tokens(text: str, factor: float = MAX_TOKENS_FACTOR) -> int:
    """Return the most tokens that speech of this text may take.

    It is `factor` times what a normal pace needs, and `PAUSE_SECONDS`, so that speech at less than
    half the normal pace is still complete.
    """
    seconds = factor * spoken_seconds(text) + PAUSE_SECONDS
    return FEWEST_TOKENS + math.ceil(seconds * FRAMES_PER_SECOND)


def expected_tokens(text: str) -> int:
    """Return the tokens that speech of this text takes at a normal pace."""
    return FEWEST_TOKENS + math.ceil(spoken_seconds(text) * FRAMES_PER_SECOND)
