"""The audio tokenizer's own decoder, in pieces: the sound of the whole.

Runs inside the image (see test_engine_inside.py), on the narrow codec of the CPU device.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

np = pytest.importorskip("numpy", reason="runs inside the image: see test_engine_inside.py")
torch = pytest.importorskip("torch", reason="runs inside the image: see test_engine_inside.py")

from higgs_patches.lib.audio import incremental  # noqa: E402
from higgs_patches.lib.audio.codec_thread import Piece  # noqa: E402

pytestmark = pytest.mark.fork
needed = pytest.mark.needs(incremental_codec=True)

BOOKS, FRAME = 8, 960
LOOKAHEAD = 9.86
"""Frames of sound that are still missing after a piece that is not the last."""


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from higgs_cpu import checkpoint, prepare

    weights = tmp_path_factory.mktemp("weights")
    checkpoint.make(weights, {})
    prepare()
    os.environ["HIGGS_SEMANTIC_MODEL_PATH"] = str(weights / "semantic-model")
    name = f"models--{checkpoint.TOKENIZER.replace('/', '--')}"
    from vllm.model_executor.models.higgs_audio_tokenizer import AudioTokenizer

    return AudioTokenizer(str(Path(weights / name / "snapshots" / checkpoint.REVISION)))


def random_codes(frames: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 1024, (BOOKS, frames))


def at_once(tokenizer: Any, codes: Any) -> Any:
    samples, _ = tokenizer.decode(codes)
    return np.rint(samples.clip(-1, 1) * 32767).astype(np.int16)


def in_pieces(tokenizer: Any, codes: Any, lengths: list[int]) -> Any:
    sound, state, at = [], None, 0
    for number, length in enumerate(lengths, start=1):
        piece = Piece(codes[:, at : at + length], state, number == len(lengths))
        [(samples, state)] = tokenizer.decode([piece])
        sound.append(samples)
        at += length
    assert at == codes.shape[1]
    return np.concatenate(sound)


def differences(one: Any, other: Any) -> tuple[int, float]:
    """The largest difference of two recordings in 16 bits, and the share of samples with one."""
    assert one.shape == other.shape
    apart = np.abs(one.astype(int) - other.astype(int))
    return int(apart.max()), float((apart > 0).mean())


@needed
@pytest.mark.parametrize(
    "lengths",
    [[1], [2], [9], [12], [15, 0], [15, 8, 12, 18, 25, 22], [12] * 10, [15, 100, 50, 25, 8, 1],
     [250, 240, 7], [15, 1, 1, 1, 1]],
)  # fmt: skip
def test_pieces_are_the_sound_of_the_whole(tokenizer: Any, lengths: list[int]) -> None:
    """But for the last of 16 bits, in which convolutions of other lengths may round otherwise."""
    codes = random_codes(sum(lengths))
    whole = at_once(tokenizer, codes)
    assert whole.std() > 1000
    most, share = differences(in_pieces(tokenizer, codes, lengths), whole)
    assert most <= 1
    assert share < 0.01


@needed
def test_a_wrong_state_would_be_heard(tokenizer: Any) -> None:
    """The measure of the test above is sharp enough."""
    codes = random_codes(60)
    [(_, state)] = tokenizer.decode([Piece(random_codes(30, 1), None, False)])
    [(wrong, _)] = tokenizer.decode([Piece(codes[:, 30:], state, True)])
    whole = at_once(tokenizer, codes)
    assert differences(wrong, whole[-len(wrong) :])[0] > 1000


@needed
def test_all_sound_comes_that_no_later_frame_can_change(tokenizer: Any) -> None:
    [(samples, _)] = tokenizer.decode([Piece(random_codes(15), None, False)])
    assert 15 - LOOKAHEAD <= len(samples) / FRAME <= 15 - LOOKAHEAD + 0.02


@needed
def test_a_piece_sounds_the_same_in_any_batch(tokenizer: Any) -> None:
    states = [
        tokenizer.decode([Piece(random_codes(15, seed), None, False)])[0][1] for seed in range(5)
    ]
    pieces = [Piece(random_codes(25, 9 + n), states[n], False) for n in range(5)]
    together = tokenizer.decode(pieces)
    for piece, (samples, state) in zip(pieces, together, strict=True):
        [(alone, kept)] = tokenizer.decode([piece])
        assert np.array_equal(samples, alone)
        assert all(torch.equal(x, y) for x, y in zip(state, kept, strict=True))


@pytest.fixture
def trained(tokenizer: Any) -> Iterator[Any]:
    """The model with activations that differ by channel, as training leaves them."""
    model = tokenizer.audio_tokenizer_model
    alphas = [x for name, x in model.decoder_2.named_parameters() if name.endswith(".alpha")]
    assert alphas
    with torch.no_grad():
        for number, alpha in enumerate(alphas):
            alpha.uniform_(0.2, 3, generator=torch.Generator().manual_seed(number))
        yield model
        for alpha in alphas:
            alpha.fill_(1)


@needed
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("begins", [False, True])
def test_a_cpus_own_operations_give_the_same_bits(
    trained: Any, begins: bool, last: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As those of PyTorch, with which a GPU decodes."""
    own = incremental.IncrementalDecoder(trained)
    monkeypatch.setattr(incremental, "_on_cpu", lambda _: False)
    pytorchs = incremental.IncrementalDecoder(trained)
    batches = [(1, 12), (1, 250), (2, 100), (3, 18), (5, 50), (10, 25), (16, 15)]
    if last or not begins:
        batches += [(1, 1), (1, 2), (1, 3), (2, 7), (3, 1)]
    for count, length in batches:
        pieces = []
        for seed in range(count):
            start = Piece(random_codes(15, seed), None, False)
            state = None if begins else pytorchs.decode([start])[0][1]
            pieces.append(Piece(random_codes(length, 99 + seed), state, last))
        for one, other in zip(own.decode(pieces), pytorchs.decode(pieces), strict=True):
            assert np.array_equal(one[0], other[0])
            assert all(torch.equal(x, y) for x, y in zip(one[1], other[1], strict=True))


@needed
def test_decoding_changes_no_state_that_it_was_given(tokenizer: Any) -> None:
    """A piece may be decoded twice: looking ahead decodes one more without going on."""
    [(_, state)] = tokenizer.decode([Piece(random_codes(15), None, False)])
    before = [x.clone() for x in state]
    for last in (True, False):
        tokenizer.decode([Piece(random_codes(8, 1), state, last)])
    assert all(torch.equal(x, y) for x, y in zip(state, before, strict=True))


@needed
def test_what_an_utterance_keeps_is_small(tokenizer: Any) -> None:
    """And no part of a larger tensor, which would be kept with it."""
    [(_, state)] = tokenizer.decode([Piece(random_codes(100), None, False)])
    assert sum(x.untyped_storage().nbytes() for x in state) < 100_000


@needed
def test_loud_samples_do_not_wrap_around(tokenizer: Any) -> None:
    weight = tokenizer.audio_tokenizer_model.decoder_2.model[-1].weight
    codes = random_codes(20)
    with torch.no_grad():
        weight.mul_(1024)
        try:
            loud, expected = in_pieces(tokenizer, codes, [20]), at_once(tokenizer, codes)
        finally:
            weight.div_(1024)
    assert abs(expected).max() == 32767
    assert differences(loud, expected)[0] <= 1


def test_codes_without_pieces_are_decoded_as_before(tokenizer: Any) -> None:
    samples, rate = tokenizer.decode(random_codes(20))
    assert (samples.dtype, len(samples), rate) == (np.float32, 20 * FRAME, 24_000)
