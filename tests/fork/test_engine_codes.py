"""How codes are drawn, against the fork's own sampling and the reference engine's.

Runs inside the image (see test_engine_inside.py), which has PyTorch; both sources are read from
HIGGS_SOURCE.
"""

from __future__ import annotations

import ast
import copy
import os
import types
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="runs inside the image: see test_engine_inside.py")

from higgs_patches.lib import repetition  # noqa: E402
from higgs_patches.lib.frame_sampling import (  # noqa: E402
    FrameSamplingParams,
    apply_delay_pattern,
    sample_frames,
)

pytestmark = pytest.mark.fork

BOOKS, CODES = 8, 1026
BOS, EOS = 1024, 1025


def method_of(path: Path, name: str, names: dict[str, Any]) -> Any:
    """A method as the fork has written it, alone: its file may need what is not there."""
    owner, _, method = name.partition(".")
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef) and node.name == owner:
            for part in node.body:
                if isinstance(part, ast.FunctionDef) and part.name == method:
                    part.returns, part.decorator_list = None, []
                    for argument in part.args.args:
                        argument.annotation = None
                    code = compile(ast.Module([part], []), str(path), "exec")
                    exec(code, names)
                    return names[method]
    raise AssertionError(f"{path} has no {name}")


@pytest.fixture(scope="module")
def source() -> Path:
    folder = Path(os.environ.get("HIGGS_SOURCE") or Path(__file__).parents[2] / "build/source")
    if not (folder / "fork").is_dir():
        pytest.skip(f"no source of the fork in {folder}: run ./inv source")
    return folder


@pytest.fixture(scope="module")
def reference(source: Path) -> Any:
    """The reference engine's drawing of one frame, as a function of what it depends on."""
    path = source / "submodule/boson_multimodal/model/higgs_audio/modeling_higgs_audio.py"
    method = method_of(
        path, "HiggsAudioModel._sample_audio_tokens", {"torch": torch, "nn": torch.nn}
    )
    config = types.SimpleNamespace(
        audio_out_token_idx=7, audio_stream_bos_id=BOS, audio_stream_eos_id=EOS
    )
    model = types.SimpleNamespace(config=config, use_delay_pattern=True, audio_num_codebooks=BOOKS)

    def sample(
        logits: Any, spoken: Any, greedy: bool, window: int | None, repeats: int, generator: Any,
        processor: Any, begun: int = BOOKS,
    ) -> Any:  # fmt: skip
        settings = {"ras_win_len": window, "ras_win_max_num_repeat": repeats}
        return method(
            model, None, logits[None], spoken, not greedy, processor, torch.device("cpu"),
            generator, types.SimpleNamespace(generation_kwargs=settings), begun, None,
        )[1]  # fmt: skip

    return sample


@pytest.fixture(scope="module")
def forks(source: Path) -> Any:
    """The fork's shaping of frames that it has drawn, for a batch of requests in speech."""
    path = source / "fork/vllm/model_executor/models/higgs_audio.py"
    owner = "HiggsAudioForConditionalGeneration"
    sample = method_of(path, f"{owner}.sample_with_multimodal_metadata", {"torch": torch})

    def shape(codes: Any, begun: list[int], ended: list[int]) -> tuple[Any, Any]:
        count = len(codes)
        text = torch.zeros(count, 1, dtype=torch.int32)
        outputs = iter([text, codes.reshape(-1, 1).clone()])
        model = types.SimpleNamespace(
            sampler=lambda *_: types.SimpleNamespace(sampled_token_ids=next(outputs)),
            prepare_mm_sampling_metadata=lambda x: x,
            generate_audio_out_token=True, audio_codebook_size=CODES, audio_num_codebooks=BOOKS,
            config=types.SimpleNamespace(
                audio_out_bos_token_id=5, audio_out_token_idx=7, audio_eos_token_id=6,
                audio_stream_bos_id=BOS, audio_stream_eos_id=EOS,
            ),
        )  # fmt: skip
        batch = types.SimpleNamespace(
            last_prompt_token_ids=[5] * count, num_audio_delays=begun, num_audio_eos=ended
        )
        logits = (torch.zeros(count, 16), torch.zeros(count, BOOKS, CODES))
        speaking = types.SimpleNamespace(output_token_ids=[[7]] * count)
        next_text, next_codes = sample(model, logits, speaking, batch)
        return next_text.sampled_token_ids, next_codes.sampled_token_ids

    return shape


def frames_near_the_ends(count: int, generator: Any) -> Any:
    """Random frames of which many hold the codes of the begin and the end."""
    codes = torch.randint(0, CODES, (count, BOOKS), generator=generator)
    odds = torch.rand(count, BOOKS, generator=generator)
    rare = torch.rand(count, 1, generator=generator) * 0.5
    return torch.where(odds < rare, EOS, torch.where(odds > 0.97, BOS, codes))


def test_frames_have_the_forks_shape(forks: Any) -> None:
    """While a request speaks: 20,000 random frames, every number of codebooks that speak."""
    generator = torch.Generator().manual_seed(1)
    for begun in range(1, BOOKS + 1):
        codes = frames_near_the_ends(2500, generator)
        _, expected = forks(codes, [begun] * 2500, [0] * 2500)
        state = torch.full((2500,), begun), torch.zeros(2500, dtype=torch.long)
        assert torch.equal(apply_delay_pattern(codes, *state, BOS, EOS), expected)


def test_every_frame_ends_one_more_codebook(forks: Any) -> None:
    """The fork forgets the end when no codebook draws it again; else the shapes are the same."""
    generator = torch.Generator().manual_seed(2)
    speaks = torch.full((2500,), BOOKS)
    for ended in range(1, BOOKS):
        codes = frames_near_the_ends(2500, generator)
        ours = apply_delay_pattern(codes, speaks, torch.full((2500,), ended), BOS, EOS)
        assert (ours[:, : ended + 1] == EOS).all()
        codes[:, ended] = EOS  # as the model draws it when it does not err
        _, expected = forks(codes, [BOOKS] * 2500, [ended] * 2500)
        assert torch.equal(
            apply_delay_pattern(codes, speaks, torch.full((2500,), ended), BOS, EOS), expected
        )


def settings(count: int, **changes: Any) -> FrameSamplingParams:
    own = {row: torch.Generator().manual_seed(row) for row in range(count)}
    values: dict[str, Any] = {
        "temperature": torch.ones(count), "top_k": None, "top_p": None, "min_p": None,
        "some_greedy": False, "generators": own,
    }  # fmt: skip
    return FrameSamplingParams(**values | changes)


@pytest.mark.parametrize("greedy", [False, True])
@pytest.mark.parametrize(("window", "repeats"), [(7, 2), (1, 1), (3, 1), (20, 3), (None, 2)])
def test_repetitions_are_drawn_again_as_in_the_reference_engine(
    reference: Any, greedy: bool, window: int | None, repeats: int
) -> None:
    """The same chance and random logits give the same codes, also of what is drawn again.

    The reference engine takes numbers for the second draw only where it draws again, one codebook
    after the other; so both get the same generator, in the state that gives these numbers to those
    codebooks.
    """
    from transformers.generation.logits_process import (
        LogitsProcessorList,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    chance = torch.Generator().manual_seed(3)
    again = same = 0
    for case in range(400):
        temperature = 0.3 + float(torch.rand((), generator=chance))
        top_k = int(torch.randint(1, 100, (), generator=chance))
        top_p = 0.5 + 0.5 * float(torch.rand((), generator=chance))
        # A few likely codes, so that many repeat; `spoken` is drawn from them.
        likely = torch.randint(0, 6, (BOOKS, 30), generator=chance)
        logits = torch.randn(BOOKS, CODES, generator=chance)
        logits[:, :6] += 8
        spoken = likely[:, : int(torch.randint(1, 30, (), generator=chance))]
        processor = LogitsProcessorList(
            [TemperatureLogitsWarper(temperature), TopKLogitsWarper(top_k), TopPLogitsWarper(top_p)]
        )
        expected = reference(
            logits, spoken, greedy, window, repeats, torch.Generator().manual_seed(case),
            LogitsProcessorList() if greedy else processor,
        )  # fmt: skip
        first = reference(
            logits, spoken, greedy, None, repeats, torch.Generator().manual_seed(case),
            LogitsProcessorList() if greedy else processor,
        )  # fmt: skip
        changed = torch.zeros(BOOKS, dtype=torch.bool)
        if window:
            changed = (spoken[:, -window:] == first[:, None]).sum(1) >= repeats
        again += int(changed.sum())
        same += int((~changed).sum())

        # One "request" per codebook, each with the numbers that the reference engine gives to it.
        numbers = torch.Generator().manual_seed(case)
        clocks = [] if greedy else [torch.empty(BOOKS, CODES).exponential_(generator=numbers)]
        second = torch.empty(int(changed.sum()), CODES).exponential_(generator=numbers)
        rest = torch.ones(BOOKS, CODES)
        rest[changed] = second
        how = FrameSamplingParams(
            temperature=None if greedy else torch.tensor([temperature]),
            top_k=torch.tensor([top_k]), top_p=torch.tensor([top_p]), min_p=None,
            some_greedy=greedy, generators={},
        )  # fmt: skip
        windows = counts = None
        if window:
            limit = repetition.RepetitionLimit(window, repeats)
            kept = repetition.RepetitionWindow(limit, BOOKS)
            kept.follow(spoken.T.tolist())
            stacked, limits = repetition.stacked([kept], BOOKS)
            windows, counts = torch.from_numpy(stacked), torch.tensor(limits)
        given = iter([*clocks, rest])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                torch.Tensor,
                "exponential_",
                lambda self, given=given: self.copy_(next(given)[None]),
            )
            drawn = sample_frames(logits[None], how, windows, counts)
        ours = apply_delay_pattern(drawn, torch.tensor([BOOKS]), torch.tensor([0]), BOS, EOS)[0]
        assert torch.equal(ours, expected), case
    assert same > 300
    assert again > 300 or window is None


def test_one_generator_gives_the_numbers_of_the_reference_engine(reference: Any) -> None:
    """Without a repetition: the very codes, frame after frame, from one seed."""
    from transformers.generation.logits_process import LogitsProcessorList

    chance = torch.Generator().manual_seed(4)
    theirs, ours = torch.Generator().manual_seed(5), torch.Generator().manual_seed(5)
    for _ in range(300):
        logits = torch.randn(BOOKS, CODES, generator=chance) * 3
        nothing = torch.zeros(BOOKS, 0)
        expected = reference(logits, nothing, False, None, 2, theirs, LogitsProcessorList())
        how = settings(1, generators={0: ours})
        drawn = sample_frames(logits[None], how)
        assert torch.equal(
            apply_delay_pattern(drawn, torch.tensor([BOOKS]), torch.tensor([0]), BOS, EOS)[0],
            expected,
        )


def test_window_holds_what_was_spoken_last() -> None:
    window = repetition.RepetitionWindow(
        repetition.RepetitionLimit(4, 2), 2, before=[[n, n] for n in range(5, 10)]
    )
    assert sorted(window.codes[:, 0].tolist()) == [6, 7, 8, 9]
    frames = [[1, 2]]
    window.follow(frames)
    window.follow(frames)
    assert sorted(window.codes[:, 0].tolist()) == [1, 7, 8, 9]
    frames += [[3, 4], [5, 6], [5, 6]]
    window.follow(frames)
    assert sorted(window.codes[:, 1].tolist()) == [2, 4, 6, 6]
    window.follow(frames + [[n, n] for n in range(100, 200)])
    assert sorted(window.codes[:, 0].tolist()) == [196, 197, 198, 199]


def test_window_begins_empty() -> None:
    """What stands for "no frame yet" equals no code."""
    window = repetition.RepetitionWindow(repetition.RepetitionLimit(7, 1), BOOKS)
    codes, limits = repetition.stacked([window, None], BOOKS)
    how = settings(2, temperature=None, some_greedy=True)
    logits = torch.zeros(2, BOOKS, CODES)
    logits[..., 0] = 0.01
    assert (sample_frames(logits, how, torch.from_numpy(codes), torch.tensor(limits)) == 0).all()


def test_requests_are_held_to_their_own_limits() -> None:
    """In one batch: a window that is too short for the repetition, none, and one that sees it."""
    logits = torch.zeros(3, BOOKS, CODES)
    logits[..., 4] = 0.01  # the likeliest code, but hardly more than any other
    short, long = (
        repetition.RepetitionWindow(repetition.RepetitionLimit(n, 2), BOOKS) for n in (2, 9)
    )
    spoken = [[4] * BOOKS, [4] * BOOKS, *[[n] * BOOKS for n in range(50, 57)]]
    short.follow(spoken)
    long.follow(spoken)
    codes, limits = repetition.stacked([short, None, long], BOOKS)
    how = settings(3, temperature=None, some_greedy=True)
    drawn = sample_frames(logits, how, torch.from_numpy(codes), torch.tensor(limits))
    assert (drawn[:2] == 4).all() and (drawn[2] != 4).any()


def test_a_request_with_a_generator_is_drawn_alike_in_any_company() -> None:
    chance = torch.Generator().manual_seed(7)
    mine = torch.randn(BOOKS, CODES, generator=chance)
    alone = sample_frames(mine[None], settings(1, generators={0: torch.Generator().manual_seed(8)}))
    for place in range(4):
        logits = torch.randn(4, BOOKS, CODES, generator=chance)
        logits[place] = mine
        others = {place: torch.Generator().manual_seed(8)}
        if place != 2:
            others[2] = torch.Generator().manual_seed(9)
        how = settings(4, generators=dict(sorted(others.items())))
        assert torch.equal(sample_frames(logits, how)[place], alone[0])


def test_requests_without_a_generator_share_torchs() -> None:
    logits = torch.zeros(50, BOOKS, CODES)
    how = settings(50, generators={0: torch.Generator().manual_seed(1)})
    first, second = sample_frames(logits, how), sample_frames(logits, how)
    assert len(first[1:].unique()) > 200 and (first != second)[1:].float().mean() > 0.9


def test_the_likeliest_code_is_always_allowed() -> None:
    chance = torch.Generator().manual_seed(11)
    logits = torch.randn(20, BOOKS, CODES, generator=chance)
    one, tiny = torch.ones(20), torch.full((20,), 1e-9)
    for changes in ({"min_p": one}, {"top_k": one.int()}, {"top_p": tiny}):
        assert torch.equal(sample_frames(logits, settings(20, **changes)), logits.argmax(-1))


def test_settings_restrict_the_draw_as_vllms_sampler_does() -> None:
    """Row by row, with all mixed: the same numbers give the same codes."""
    pytest.importorskip("vllm", reason="vLLM's own sampler is what this compares with")
    from vllm.v1.sample.metadata import SamplingMetadata
    from vllm.v1.sample.sampler import Sampler

    chance = torch.Generator().manual_seed(10)
    count = 50
    for _ in range(20):
        logits = torch.randn(count, BOOKS, CODES, generator=chance) * 2
        temperature = torch.rand(count, generator=chance) + 0.2
        temperature[::7] = -1.0  # as vLLM writes temperature 0
        top_k = torch.randint(1, 200, (count,), generator=chance, dtype=torch.int32)
        top_k[::5] = 128256  # as it writes "all", by the size of the text's vocabulary
        top_p = torch.rand(count, generator=chance) * 0.9 + 0.1
        min_p = torch.rand(count, generator=chance) * 0.1
        seed = int(torch.randint(0, 2**31, (), generator=chance))
        how = FrameSamplingParams(temperature, top_k, top_p, min_p, True, {})
        torch.manual_seed(seed)
        ours = sample_frames(logits, how)
        wide = {
            name: value.repeat_interleave(BOOKS)
            for name, value in [("temperature", temperature), ("top_p", top_p), ("min_p", min_p)]
        }
        none = dict.fromkeys(
            ("max_num_logprobs", "prompt_token_ids", "allowed_token_ids_mask",
             "frequency_penalties", "presence_penalties", "repetition_penalties")
        )  # fmt: skip
        metadata = SamplingMetadata(
            **wide, **none, all_greedy=False, all_random=False, generators={}, no_penalties=True,
            top_k=top_k.clip(max=CODES).repeat_interleave(BOOKS), output_token_ids=[],
            min_tokens={}, logit_bias=[], bad_words_token_ids={},
        )  # fmt: skip
        torch.manual_seed(seed)
        theirs = Sampler()(copy.copy(logits).reshape(-1, CODES).clone(), metadata)
        assert torch.equal(ours, theirs.sampled_token_ids.reshape(count, BOOKS).long())
