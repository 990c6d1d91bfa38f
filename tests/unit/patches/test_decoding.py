"""Codes to sound: a stream is the same sound as the whole, and comes early."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from higgs_patches.lib.audio import decoding
from higgs_patches.lib.audio.codec_thread import BATCH_FRAMES, CodecThread, Piece
from higgs_patches.lib.audio.decoding import AudioDecoder, NoAudioError

BOOKS, BOS, EOS = 8, 1024, 1025
PER_FRAME = 960
HEARS = 10
"""Frames on either side that change a frame's sound."""


def sound(codes: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Mix each frame's codes with its neighbours', each with a weight of its own."""
    weights = 1 + np.arange(BOOKS)
    frames = weights @ codes / (1024 * weights.sum())
    mixed = np.convolve(frames, np.linspace(0.02, 0.07, 2 * HEARS + 1))
    return np.repeat(np.rint(mixed[HEARS : HEARS + len(frames)] * 32767), PER_FRAME).astype("<i2")


class Codec:
    """A codec whose frames hear as far as the real one's; its state is all that it was given."""

    num_codebooks, codebook_size, sampling_rate = BOOKS, 1024, 24_000

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.threads: set[str] = set()
        self.busy: threading.Event | None = None

    @property
    def lengths(self) -> list[int]:
        return [length for batch in self.batches for length in batch]

    def decode(self, pieces: list[Piece], /) -> list[tuple[Any, Any]]:
        assert len({piece.kind for piece in pieces}) == 1
        self.batches.append([piece.codes.shape[1] for piece in pieces])
        self.threads.add(threading.current_thread().name)
        if self.busy:
            assert self.busy.wait(10)
        return [self.one(piece) for piece in pieces]

    def one(self, piece: Piece) -> tuple[Any, Any]:
        assert piece.codes.shape[0] == BOOKS
        before = np.empty((BOOKS, 0), int) if piece.state is None else piece.state
        codes = np.concatenate([before, piece.codes], axis=1)
        assert codes.min() >= 0
        assert codes.max() < 1024
        first, last = (max(0, x.shape[1] - HEARS) for x in (before, codes))
        given = sound(codes)[first * PER_FRAME :]
        return (given, None) if piece.last else (given[: (last - first) * PER_FRAME], codes)


def speech(frames: int, seed: int = 0) -> tuple[np.ndarray[Any, Any], list[list[int]]]:
    """Codes (codebook, frame) and the rows in which the model says them, to the end of audio."""
    codes = np.random.default_rng(seed).integers(0, 1024, (BOOKS, frames))
    rows = np.full((1 + frames + BOOKS, BOOKS), BOS)
    for book in range(BOOKS):
        rows[1 + book : 1 + book + frames, book] = codes[book]
        rows[1 + book + frames :, book] = EOS
    return codes, rows.tolist()


def expected(codes: np.ndarray[Any, Any]) -> bytes:
    return bytes(sound(codes).tobytes())


def stream(
    rows: Sequence[Sequence[int]],
    codec: Codec,
    at_a_time: int = 1,
    pace: float = 0,
    **settings: Any,
) -> list[bytes]:
    """What each feed gives, and finish as the last; with a pace, rows a second, by a clock."""

    async def run() -> list[bytes]:
        decoder = AudioDecoder(codec, bos_id=BOS, eos_id=EOS, **settings)
        pieces = []
        for first in range(0, len(rows), at_a_time):
            if pace:
                now = first / pace
                asyncio.get_running_loop().time = lambda now=now: now  # type: ignore[method-assign,misc]
            pieces.append(await decoder.feed(rows[first : first + at_a_time]))
        pieces.append(await decoder.finish())
        assert decoder.frames * PER_FRAME * 2 == len(b"".join(pieces))
        return pieces

    return asyncio.run(run())


@pytest.mark.parametrize("frames", [1, 2, 9, 10, 11, 24, 25, 26, 60, 300])
@pytest.mark.parametrize("at_a_time", [1, 7, 1000])
def test_stream_is_the_sound_of_the_whole(frames: int, at_a_time: int) -> None:
    codes, rows = speech(frames)
    assert b"".join(stream(rows, Codec(), at_a_time)) == expected(codes)


@pytest.mark.parametrize("chunk", [14, 25, 100, 250])
def test_chunk_size_does_not_change_the_sound(chunk: int) -> None:
    codes, rows = speech(130)
    assert b"".join(stream(rows, Codec(), chunk_frames=chunk)) == expected(codes)


def test_when_rows_come_does_not_change_how_they_are_decoded() -> None:
    """The codec's last bits depend on how many frames it is given at a time."""
    _, rows = speech(130)
    lengths = []
    for at_a_time in (1, 7, 50, 1000):
        codec = Codec()
        stream(rows, codec, at_a_time, grows=False)
        lengths.append(codec.lengths)
    assert lengths[0] == lengths[1] == lengths[2] == lengths[3]


@pytest.mark.parametrize("pace", [20, 26, 60, 150])
@pytest.mark.parametrize("settings", [{}, {"grows": False}, {"chunk_frames": 6}, {"whole": True}])
def test_a_decoder_fed_when_it_has_enough_gives_the_same_chunks(
    pace: float, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that is fed with each row, at the same times and of the same lengths."""
    _, rows = speech(300)

    def chunks(patient: bool) -> tuple[tuple[list[tuple[int, bytes]], list[int]], int]:
        async def run() -> tuple[list[tuple[int, bytes]], int]:
            decoder = AudioDecoder(codec, bos_id=BOS, eos_id=EOS, **settings)
            waiting: list[list[int]] = []
            given, feeds = [], 0
            for number, row in enumerate(rows):
                now = number / pace
                monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda now=now: now)
                waiting.append(row)
                if not patient or decoder.enough(len(waiting)):
                    feeds += 1
                    if pcm := await decoder.feed(waiting):
                        given.append((number, pcm))
                    waiting = []
            await decoder.feed(waiting)
            return [*given, (len(rows), await decoder.finish())], feeds

        codec = Codec()
        given, feeds = asyncio.run(run())
        return (given, codec.lengths), feeds

    patient, feeds = chunks(patient=True)
    assert patient == chunks(patient=False)[0]
    assert feeds <= len(patient[0]) + BOOKS  # and the rows after the end, which give nothing


def test_the_first_frame_with_a_code_for_the_end_is_the_end() -> None:
    """Wherever such codes stand: also before the rows in which a codebook begins."""
    random = np.random.default_rng(0)
    for _ in range(200):
        rows = random.integers(0, 1024, (int(random.integers(9, 60)), BOOKS))
        rows[random.random(rows.shape) < random.choice([0, 0.01, 0.1])] = EOS
        frames = [[row[book] for book, row in enumerate(rows[at:][:BOOKS])]
                  for at in range(len(rows) - BOOKS + 1)]  # fmt: skip
        length = next((n for n, frame in enumerate(frames) if EOS in frame), len(frames))
        if length:
            codec = Codec()
            pcm = b"".join(stream(rows.tolist(), codec, int(random.integers(1, 9)), grows=False))
            assert pcm == expected(np.array(frames[:length]).T)


def test_frames_that_wait_are_decoded_in_few_large_pieces_of_few_lengths() -> None:
    _, rows = speech(400)
    codec = Codec()
    stream(rows, codec, at_a_time=200)
    first, *middle, _ = codec.lengths
    assert first == 15
    assert set(middle) <= set(decoding.LENGTHS)
    assert max(middle) == 100
    assert len(codec.lengths) < 12


def test_a_listener_who_is_ahead_gets_larger_chunks() -> None:
    _, rows = speech(600)
    fast, slow = Codec(), Codec()
    stream(rows, fast, pace=150)
    stream(rows, slow, pace=26)
    assert max(fast.lengths) == 100
    assert max(slow.lengths[:-1]) == 25


def test_less_context_than_the_codec_hears_changes_the_sound() -> None:
    """The measure of the tests above is sharp enough to see a seam."""
    codes, rows = speech(60)
    assert b"".join(stream(rows, Codec(), context_frames=9)) != expected(codes)


def test_whole_utterance_is_decoded_in_the_largest_pieces() -> None:
    codes, rows = speech(600)
    codec = Codec()
    assert b"".join(stream(rows, codec, whole=True)) == expected(codes)
    assert codec.lengths == [BATCH_FRAMES, BATCH_FRAMES - 10, 600 - 2 * BATCH_FRAMES + 10]


@pytest.mark.parametrize(
    ("chunk", "row"),
    [(25, 23), (15, 21), (14, 20), (12, 19), (10, 17), (9, 16)],
)
def test_first_sound_comes_no_later_than_before(chunk: int, row: int) -> None:
    """The server's own code gave its first sound with row `chunk` + 7."""
    _, rows = speech(60)
    pieces = stream(rows, Codec(), chunk_frames=chunk)
    first = next(i for i, piece in enumerate(pieces, start=1) if piece)
    assert first == row <= chunk + 7


@pytest.mark.parametrize("pace", [1.05, 1.2, 1.5, 2, 3, 6])
def test_chunks_grow_slowly_enough_to_play_without_a_gap(pace: float) -> None:
    """At 1.5 times the pace of speech, no chunk comes after the sound before it has ended."""
    _, rows = speech(900)

    def gaps(**settings: Any) -> float:
        pieces = stream(rows, Codec(), pace=25 * pace, **settings)[:-1]
        arrivals = [
            (i / (25 * pace), len(p) / (2 * PER_FRAME * 25)) for i, p in enumerate(pieces) if p
        ]
        end, silence = arrivals[0][0], 0.0
        for at, seconds in arrivals:
            silence += max(0.0, at - end - 1 / (25 * pace))
            end = max(at, end) + seconds
        return silence

    assert gaps() <= gaps(grows=False) + 1e-9
    assert pace < 1.5 or gaps() < 1e-9


def test_more_context_than_the_codec_hears_is_not_waited_for() -> None:
    _, rows = speech(60)
    pieces = stream(rows, Codec(), context_frames=25)
    assert next(i for i, piece in enumerate(pieces, start=1) if piece) == 23


def test_frames_that_are_cut_off_are_left_out() -> None:
    """max_tokens ended the speech: the last seven rows hold no complete frame."""
    codes, rows = speech(60)
    pcm = b"".join(stream(rows[:51], Codec()))
    assert pcm == expected(codes[:, : 51 - 8])


def test_what_comes_after_the_end_is_ignored() -> None:
    codes, rows = speech(20)
    _, others = speech(20, seed=1)
    assert b"".join(stream(rows + others, Codec())) == expected(codes)


def test_an_end_in_a_later_codebook_ends_too() -> None:
    codes, rows = speech(60)
    rows[1 + 30 + 3][3] = EOS
    assert b"".join(stream(rows, Codec())) == expected(codes[:, :30])


def test_a_begin_code_in_the_middle_is_no_end() -> None:
    codes, rows = speech(60)
    rows[1 + 30][0] = BOS
    codes[0, 30] = 1023
    assert b"".join(stream(rows, Codec())) == expected(codes)


@pytest.mark.parametrize("rows", [0, 1, 8])
def test_nothing_spoken_is_an_error(rows: int) -> None:
    with pytest.raises(NoAudioError, match="before a frame of audio"):
        stream(speech(60)[1][:rows], Codec())


def test_an_end_at_once_is_an_error() -> None:
    with pytest.raises(NoAudioError):
        stream(speech(0)[1], Codec())


def test_event_loop_goes_on_while_the_codec_works() -> None:
    codec = Codec()
    codec.busy = threading.Event()
    _, rows = speech(40)

    async def run() -> None:
        decoders = [AudioDecoder(codec, bos_id=BOS, eos_id=EOS) for _ in range(8)]
        tasks = [asyncio.create_task(decoder.feed(rows)) for decoder in decoders]
        while not codec.batches:
            await asyncio.sleep(0)
        await asyncio.sleep(0.05)
        assert len(codec.batches) == 1  # one at a time
        assert codec.busy is not None
        codec.busy.set()  # from the loop: it would never come if the codec ran there
        await asyncio.gather(*tasks)

    asyncio.run(run())
    assert len(codec.threads) == 1
    assert threading.current_thread().name not in codec.threads


# -- the thread ------------------------------------------------------------------------------------


def piece(frames: int, state: Any = None, last: bool = False) -> Piece:
    return Piece(np.zeros((BOOKS, frames), int), state, last)


def in_turn(*jobs: tuple[Piece, bool], codec: Codec | None = None) -> list[list[int]]:
    """Decode pieces (and whether each is urgent) that come while another one is decoded."""
    codec = codec or Codec()
    busy = codec.busy = threading.Event()
    thread = CodecThread()

    async def run() -> list[Any]:
        tasks = [asyncio.create_task(thread.decode(codec, piece(1, last=True), urgent=True))]
        while not codec.batches:
            await asyncio.sleep(0.001)
        for job, urgent in jobs:
            tasks.append(asyncio.create_task(thread.decode(codec, job, urgent=urgent)))
            await asyncio.sleep(0)
        busy.set()
        return list(await asyncio.gather(*tasks, return_exceptions=True))

    for result, (job, _) in zip(asyncio.run(run())[1:], jobs, strict=True):
        assert isinstance(result, ValueError) == bool(job.codes.any())
        if not job.codes.any():
            assert np.array_equal(result[0], Codec().one(job)[0])
    return codec.batches[1:]


def kept(seed: int = 0) -> np.ndarray[Any, Any]:
    return speech(15, seed)[0]


def test_first_sounds_come_before_later_ones() -> None:
    later = [(piece(length, kept()), False) for length in (25, 50)]
    assert in_turn(*later, (piece(15), True)) == [[15], [25], [50]]


def test_pieces_of_one_kind_are_one_batch() -> None:
    jobs = [(piece(25, kept(n)), False) for n in range(3)]
    jobs.insert(1, (piece(12, kept()), False))
    jobs.append((piece(25, kept(), last=True), False))
    assert in_turn(*jobs) == [[25, 25, 25], [12], [25]]


def test_a_batch_is_bounded() -> None:
    assert [len(x) for x in in_turn(*[(piece(50, kept()), False)] * 7)] == [5, 2]


def test_a_piece_that_fails_spoils_no_other() -> None:
    class Failing(Codec):
        def one(self, piece: Piece) -> tuple[Any, Any]:
            if piece.codes.any():
                raise ValueError("this one")
            return super().one(piece)

    bad = piece(25, kept())
    bad.codes[:] = 1
    jobs = [(piece(25, kept()), False), (bad, False), (piece(25, kept()), False)]
    assert in_turn(*jobs, codec=Failing()) == [[25] * 3, [25], [25], [25]]
