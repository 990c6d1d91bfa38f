"""Texts are split at sentences, in several languages, and nothing of them is lost."""

from __future__ import annotations

import time

import pytest
from higgs_generate import sentences
from higgs_generate.sentences import language_of, split
from higgs_patches.lib.speech_length import spoken_seconds

ENGLISH = (
    "Dr. Smith paid $3.50 at 10 a.m. on Jan. 5th. He left. \"Why?\" she asked. See "
    "https://example.com/a.b?c=1 for more. Mr. J. R. R. Tolkien wrote it. Version 2.0.1 is out! "
    "Really?! Yes... maybe. The U.S. is large. She owns 1,234.5 acres. "
)  # fmt: skip
CHINESE = (
    "他说：“你好。我走了。”然后他离开了。今天是2024年3.5日！真的吗？"  # noqa: RUF001
    "请访问 https://example.com/a.b 查看。"
)
JAPANESE = (
    "彼は「こんにちは。元気ですか？」と言った。東京タワーは333.0メートルです。本当！？そうです。"  # noqa: RUF001
)
ARABIC = "ذهب أحمد إلى السوق. هل أنت بخير؟ نعم، أنا بخير! السعر 3.5 دولار. انتهى؛ شكرا. "


def without_spaces(text: str) -> str:
    return "".join(text.split())


def test_english_ends_at_sentences_only() -> None:
    """Not at an abbreviation, a number or within a URL."""
    pieces = split(ENGLISH * 12, 10)
    assert len(pieces) > 10
    endings = {piece.text.split()[-1] for piece in pieces}
    allowed = {"5th.", "left.", "asked.", "more.", "it.", "out!", "Really?!", "maybe.", "large.",
               "acres.", '"Why?"'}  # fmt: skip
    assert endings <= allowed


@pytest.mark.parametrize(
    ("text", "marks"),
    [(CHINESE, "。！？”"), (JAPANESE, "。？！」"), (ARABIC, ".؟!")],  # noqa: RUF001
)
def test_other_scripts_end_at_their_marks(text: str, marks: str) -> None:
    pieces = split(text * 12, 10)
    assert len(pieces) > 5
    assert all(piece.text[-1] in marks for piece in pieces)


@pytest.mark.parametrize("text", [ENGLISH, CHINESE, JAPANESE, ARABIC, "word " * 300, "字" * 900])
@pytest.mark.parametrize("longest", [3, 10, 20])
def test_nothing_is_lost_and_no_piece_is_too_long(text: str, longest: float) -> None:
    text *= 5
    pieces = split(text, longest)
    assert without_spaces("".join(x.text for x in pieces)) == without_spaces(text)
    for piece in pieces:
        assert spoken_seconds(piece.text) <= longest + sentences.SHORTEST_SECONDS + 0.1


@pytest.mark.parametrize(
    ("text", "language"),
    [(ENGLISH, "en"), (CHINESE, "zh"), (JAPANESE, "ja"), (ARABIC, "ar"), ("안녕하세요", "ko"),
     ("Привет, как дела", "ru"), ("Ça va très bien, merci", "en"), ("123", "en"), ("", "en")],
)  # fmt: skip
def test_language_by_script(text: str, language: str) -> None:
    assert language_of(text) == language


def test_paragraphs_are_marked() -> None:
    pieces = split("One sentence here. " * 5 + "\n\n" + "Another one there. " * 5, 9)
    assert [piece.ends_paragraph for piece in pieces].count(True) == 1
    assert not pieces[-1].ends_paragraph


def test_short_last_piece_is_joined() -> None:
    pieces = split(
        "This sentence is fairly long, as sentences in such a text are. " * 6 + "Yes.", 10
    )
    assert pieces[-1].text.endswith("are. Yes.")


def test_long_sentence_is_split_at_clauses_then_words() -> None:
    text = "the first part of it, " * 60
    assert all(piece.text.endswith(",") for piece in split(text, 10))
    text = "word " * 400
    assert all(piece.text.endswith("word") for piece in split(text, 10))


def test_accents_stay_with_their_letters() -> None:
    pieces = split("e\u0301" * 2000, 5)
    assert all(piece.text[0] == "e" for piece in pieces)


@pytest.mark.parametrize("text", ["a" * 100_000, "a. " * 33_333, "." * 100_000, '"a ' * 33_333,
                                  "(" * 100_000, ENGLISH * 330, "字。" * 50_000])  # fmt: skip
def test_100000_characters_of_any_kind_take_no_time(text: str) -> None:
    began = time.process_time()
    split(text, 20)
    assert time.process_time() - began < 3


@pytest.mark.parametrize(
    "text", [ENGLISH * 60, CHINESE * 200, JAPANESE * 200, "a b\r\n\tc. " * 900]
)
def test_text_longer_than_the_librarys_window_is_split_alike(text: str) -> None:
    whole = split(text, 20)
    assert without_spaces("".join(x.text for x in whole)) == without_spaces(text)
    parts = [text[: len(text) // 2], text[len(text) // 2 :]]
    assert abs(len(whole) - sum(len(split(part, 20)) for part in parts)) <= 2
