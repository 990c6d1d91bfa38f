"""Remove special tokens from a client's text.

The server puts a client's text into a prompt and tokenises the whole. A tokenizer reads the
spelling of a special token, such as ``<|AUDIO_OUT|>``, as that token wherever it stands, and the
engine ends when there are more audio placeholders in a prompt than audios. So every text
that comes from outside goes through `clean` before it is put into a prompt.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import Any

SCENE_TOKENS = ("<|scene_desc_start|>", "<|scene_desc_end|>")
"""They frame the description of a scene in a system message (the model's documented usage)."""

INSTRUCTION_TOKENS = ("<|generation_instruction_start|>", "<|generation_instruction_end|>")
"""They frame what the model is told to generate (in the example clients of the model)."""

_UNSEEN = {"Mn", "Cc", "Cf", "Cs"}  # accents, controls, format characters, surrogates
_SURROGATES = re.compile("[\ud800-\udfff]")


@lru_cache(maxsize=8)
def special_tokens_of(tokenizer: Any) -> tuple[str, ...]:
    """The spellings of all special and added tokens of a transformers tokenizer, longest first.

    The result is kept for each tokenizer object.
    """
    tokens = {*tokenizer.get_added_vocab(), *tokenizer.all_special_tokens}
    return tuple(sorted(filter(None, tokens), key=lambda token: (-len(token), token)))


def clean(text: str, special_tokens: tuple[str, ...]) -> str:
    """The text without anything that can be tokenised as one of the special tokens.

    The spelling of a special token is dropped, also where only dropping another one brings it
    about, and where letters differ only by what a tokenizer's normaliser may remove: case, width,
    accents, and characters that are not seen. Lone surrogates, which no tokenizer accepts, are
    dropped too. All other text stays as it is. Takes time in proportion to the length of the text.
    """
    text = _SURROGATES.sub("", text)
    tokens = _Endings.of(special_tokens)
    if not tokens.pattern.search(_fold(text)):
        return text
    # `kept` is the result so far; `letters` is its folded form, `places` says where in `kept` each
    # letter comes from. A token goes as soon as its last letter has come.
    kept: list[str] = []
    letters: list[str] = []
    places: list[int] = []
    for char in text:
        kept.append(char)
        for letter in _fold(char):
            letters.append(letter)
            places.append(len(kept) - 1)
            if length := tokens.length_at_end(letters):
                start = places[-length]
                del kept[start:]
                while places and places[-1] >= start:
                    places.pop()
                    letters.pop()
                break
    return "".join(kept)


class WithoutTokens:
    """Removes special tokens from a text that comes in chunks, which may split a token."""

    def __init__(self, special_tokens: tuple[str, ...]) -> None:
        self._tokens = special_tokens
        self._pattern = re.compile("|".join(map(re.escape, special_tokens)) or r"(?!)")
        self._held = ""

    def add(self, chunk: str, *, last: bool = False) -> str:
        """Return the text that is certain now; with the last chunk, all that is left."""
        text = self._pattern.sub("", self._held + chunk)
        certain = len(text) if last else self._first_doubtful(text)
        self._held = text[certain:]
        return text[:certain]

    def _first_doubtful(self, text: str) -> int:
        longest = max(map(len, self._tokens), default=0)
        for start in range(max(0, len(text) - longest + 1), len(text)):
            if any(token.startswith(text[start:]) for token in self._tokens):
                return start
        return len(text)


class _Endings:
    """Finds whether a text ends in one of some tokens: a trie of the folded tokens, reversed."""

    def __init__(self, special_tokens: tuple[str, ...]) -> None:
        folded = {_fold(token) for token in special_tokens} - {""}
        self.pattern = re.compile("|".join(map(re.escape, sorted(folded))) or r"(?!)")
        self.trie: dict[str, Any] = {}
        for token in folded:
            node = self.trie
            for letter in reversed(token):
                node = node.setdefault(letter, {})
            node["end"] = True

    @staticmethod
    @lru_cache(maxsize=8)
    def of(special_tokens: tuple[str, ...]) -> _Endings:
        return _Endings(special_tokens)

    def length_at_end(self, letters: list[str]) -> int:
        """The length of the (shortest) token that the letters end in; 0 if there is none."""
        node = self.trie
        for length, letter in enumerate(reversed(letters), start=1):
            if letter not in node:
                return 0
            node = node[letter]
            if "end" in node:
                return length
        return 0


def _fold(text: str) -> str:
    """The text as the most tolerant normaliser would see it."""
    if text.isascii() and text.isprintable():
        return text.lower()
    return "".join(
        char
        for char in unicodedata.normalize("NFKD", text).casefold()
        if char.isspace() or unicodedata.category(char) not in _UNSEEN
    )
