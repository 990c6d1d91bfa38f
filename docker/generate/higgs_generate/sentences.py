"""Splits a text at its sentences and packs them into pieces that the model speaks in one voice."""

from __future__ import annotations

import unicodedata
from collections import Counter
from dataclasses import dataclass

import sentencex
from higgs_patches.lib.speech_length import is_blank, spoken_seconds

FIRST_SECONDS = 10.0
"""Longest first piece: it may be what the others are spoken after, and should come early."""
SHORTEST_SECONDS = 2.5
"""A shorter last piece is joined to the one before it: single words are spoken badly."""
_SAMPLE = 2000
_WINDOW = 4000

_LANGUAGES = {
    "HIRAGANA": "ja", "KATAKANA": "ja", "CJK": "zh", "HANGUL": "ko", "ARABIC": "ar",
    "CYRILLIC": "ru", "GREEK": "el", "HEBREW": "he", "DEVANAGARI": "hi", "BENGALI": "bn",
    "TAMIL": "ta", "TELUGU": "te", "THAI": "th", "ARMENIAN": "hy", "GEORGIAN": "ka",
}  # fmt: skip
"""First words of the Unicode names of letters to the language whose rules they suggest."""


@dataclass(frozen=True)
class TextPiece:
    """A part of a long text.

    Attributes:
        text: the part.
        ends_paragraph: whether a new paragraph follows.
    """

    text: str
    ends_paragraph: bool = False


def language_of(text: str) -> str:
    """Return the language whose rules fit the script of a text; English for Latin letters."""
    found: Counter[str] = Counter()
    for letter in text[:_SAMPLE]:
        if letter.isalpha() and not letter.isascii():
            script = unicodedata.name(letter, "").partition(" ")[0]
            found[_LANGUAGES.get(script, "en")] += 1
    latin = sum(letter.isascii() and letter.isalpha() for letter in text[:_SAMPLE])
    if found["ja"]:  # Japanese text is mostly Chinese characters
        found["ja"] += found.pop("zh", 0)
    best = max(found, key=lambda name: found[name], default="en")
    # A Latin letter is a fraction of a word, a character of the others is more of one.
    return best if found[best] * 3 > latin else "en"


def split(text: str, longest: float, language: str = "") -> list[TextPiece]:
    """Split a text into pieces that take at most so many seconds to speak.

    No character but spaces at the ends of pieces is lost.

    Args:
        text: of any length.
        longest: seconds.
        language: code of its language; by default its script decides.
    """
    sentences = _sentences(text, language or language_of(text))
    pieces: list[TextPiece] = []
    current, seconds, heard = "", 0.0, False
    for sentence in sentences:
        for part in _parts(sentence, longest):
            takes = spoken_seconds(part)
            limit = longest if pieces else min(longest, FIRST_SECONDS)
            # A paragraph's end is a better place than one a little later.
            full = current.endswith("\n\n") and seconds > limit / 2
            if heard and (full or seconds + takes > limit):
                pieces.append(_piece(current))
                current, seconds, heard = "", 0.0, False
            current, seconds = current + part, seconds + takes
            heard = heard or not is_blank(part)
    if heard:
        last = _piece(current)
        if pieces and seconds < SHORTEST_SECONDS and not pieces[-1].ends_paragraph:
            last = TextPiece(f"{pieces.pop().text} {last.text}", last.ends_paragraph)
        pieces.append(last)
    return pieces


def _piece(text: str) -> TextPiece:
    ending = text[len(text.rstrip()) :]
    return TextPiece(text.strip(), ending.count("\n") > 1)


def _sentences(text: str, language: str) -> list[str]:
    """Return the sentences with the spaces after them; joined they are the text.

    The library's time grows with the square of a paragraph's sentences, so it gets windows.
    """
    code = language.partition("-")[0].lower()
    sentences: list[str] = []
    begin = 0
    while begin < len(text):
        window = text[begin : begin + _WINDOW]
        found = list(sentencex.segment(code, window))
        if begin + _WINDOW < len(text) and len(found) > 1:
            found.pop()  # it may go on
        for sentence in found:
            if sentences and sentence.isspace():
                sentences[-1] += sentence
            else:
                sentences.append(sentence)
        begin += sum(map(len, found))
    return sentences


def _parts(sentence: str, longest: float) -> list[str]:
    """Return a sentence in parts that are not too long: at clauses, else words, else anywhere."""
    if spoken_seconds(sentence) <= longest:
        return [sentence]
    parts = []
    begin, seconds = 0, 0.0
    place = 0
    while place < len(sentence):
        takes = spoken_seconds(sentence[place])
        if seconds + takes > longest and place > begin:
            end = begin + _last_break(sentence[begin : place + 1], place - begin)
            parts.append(sentence[begin:end])
            begin = place = end
            seconds = 0.0
        else:
            seconds += takes
            place += 1
    return [*parts, sentence[begin:]]


def _last_break(sentence: str, end: int) -> int:
    """Return the best place to break before `end`, in its second half if possible."""
    word = 0
    for place in range(end, end // 2, -1):
        before, after = sentence[place - 1], sentence[place : place + 1]
        wide = unicodedata.east_asian_width(before) in "WF"
        if unicodedata.category(before)[0] == "P" and (wide or not after or after.isspace()):
            return place
        if before.isspace():
            word = word or place
    while not word and end > 1 and unicodedata.category(sentence[end])[0] == "M":
        end -= 1  # an accent stays with its letter
    return word or end
