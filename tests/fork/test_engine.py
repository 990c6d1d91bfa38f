"""The real engine on a CPU, in this process: what it answers, and that nothing ends it.

Runs inside the image (see test_engine_inside.py), on the CPU device with random weights, whose
logits are left random: here speech does not end by itself. Numbers have 32 bits instead of 16, so
that company in a batch changes no code. The codec is a stub: nobody listens here.
"""

from __future__ import annotations

import os
import types
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

np = pytest.importorskip("numpy", reason="runs inside the image: see test_engine_inside.py")
torch = pytest.importorskip("torch", reason="runs inside the image: see test_engine_inside.py")

pytestmark = pytest.mark.fork

CONTEXT = 1024
BLOCKS = 8 * CONTEXT // 16
BOOKS, BOS, EOS = 8, 1024, 1025
BEGIN = (
    "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nThis is how I speak.<|eot_id|>"
)
VOICE = (
    "<|start_header_id|>assistant<|end_header_id|>\n\n"
    "<|audio_out_bos|><|AUDIO|><|audio_eos|><|eot_id|>"
)
ASK = (
    "<|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n"
)


def init(codec: Any, *_: Any, **__: Any) -> None:
    codec._tps, codec._sampling_rate, codec._num_codebooks, codec._codebook_size = (
        25, 24000, BOOKS, 1024,
    )  # fmt: skip


init.higgs_cpu = True  # type: ignore[attr-defined]  # the CPU device leaves it alone


def encode(codec: Any, audio: Any, *_: Any) -> Any:
    """One frame of random codes, which follow from the audio, for each 40 ms."""
    chance = torch.Generator().manual_seed(zlib.crc32(np.asarray(audio).tobytes()))
    return torch.randint(0, 1024, (BOOKS, round(len(audio) / 960)), generator=chance)


class Engine:
    """vLLM's engine, with what the tests need of its inside."""

    def __init__(self, weights: Path) -> None:
        from higgs_cpu import checkpoint

        checkpoint.make(weights, {})
        name = f"models--{checkpoint.GENERATION.replace('/', '--')}"
        model = weights / name / "snapshots" / checkpoint.REVISION
        os.environ.update(
            VLLM_USE_V1="1", VLLM_ENABLE_V1_MULTIPROCESSING="0", VLLM_NO_USAGE_STATS="1",
            HIGGS_AUDIO_TOKENIZER="stub", HIGGS_CPU_ENDLESS="1", HIGGS_AUDIO_STEPS="1",
        )  # fmt: skip
        from vllm.engine.arg_utils import EngineArgs
        from vllm.model_executor.models.higgs_audio_tokenizer import AudioTokenizer
        from vllm.v1.engine.llm_engine import LLMEngine

        AudioTokenizer.__init__, AudioTokenizer.encode = init, encode
        EngineArgs._is_v1_supported_oracle = lambda *_: True  # it knows no 32 bits
        self.llm = LLMEngine.from_engine_args(
            EngineArgs(
                model=str(model), dtype="float32", max_model_len=CONTEXT,
                max_num_batched_tokens=CONTEXT, max_num_seqs=8,
                limit_mm_per_prompt={"audio": 4}, disable_mm_preprocessor_cache=True,
                disable_log_stats=True, num_gpu_blocks_override=BLOCKS,
            )
        )  # fmt: skip
        self.core = self.llm.engine_core.engine_core
        self.scheduler = self.core.scheduler
        self.runner = self.core.model_executor.driver_worker.worker.model_runner
        self.tokenizer = self.llm.tokenizer.get_lora_tokenizer(None)
        self.ids = dict(self.tokenizer.get_added_vocab())

    def prompt(self, text: str, *sounds: Any, speak: bool = True) -> dict[str, Any]:
        written = BEGIN + VOICE * len(sounds) + ASK.format(text) + "<|audio_out_bos|>" * speak
        tokens = self.tokenizer.encode(written, add_special_tokens=False)
        given = {"multi_modal_data": {"audio": list(sounds)}} if sounds else {}
        return {"prompt_token_ids": tokens, **given}

    def run(self, **requests: tuple[Any, Any]) -> dict[str, Any]:
        """Run requests, name=(prompt, settings), to their ends; return the first answer of each."""
        for name, request in requests.items():
            self.llm.add_request(name, *request)
        answers: dict[str, Any] = {}
        while self.llm.has_unfinished_requests():
            answers |= {x.request_id: x.outputs[0] for x in self.llm.step()}
        return answers

    def clear(self) -> None:
        """Make it as new, also after a test that has ended it."""
        self.llm.abort_request(list(self.llm.output_processor.request_states))
        self.core.abort_requests(list(self.scheduler.requests))
        self.core.step()
        # vLLM leaves the bias of a request that it moves to the next one in its old place.
        self.runner.input_batch.logit_bias = [None] * len(self.runner.input_batch.logit_bias)
        assert self.scheduler.reset_prefix_cache()

    @contextmanager
    def blocks(self, count: int) -> Iterator[list[str]]:
        """Leave only so many blocks of the KV cache; yields who was preempted."""
        manager = self.scheduler.kv_cache_manager
        pool, free = manager.block_pool, manager.free
        held = pool.get_new_blocks(pool.get_num_free_blocks() - count)
        preempted: list[str] = []

        def noting(request: Any) -> None:
            if not request.is_finished():
                preempted.append(request.request_id)
            free(request)

        manager.free = noting
        try:
            yield preempted
        finally:
            del manager.free
            pool.free_blocks(held)

    @contextmanager
    def tokens_per_step(self, count: int) -> Iterator[None]:
        self.scheduler.max_num_scheduled_tokens = count
        try:
            yield
        finally:
            self.scheduler.max_num_scheduled_tokens = CONTEXT


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return Engine(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def engine(started: Engine) -> Iterator[Engine]:
    yield started
    started.clear()


def settings(**changes: Any) -> Any:
    from vllm import SamplingParams

    return SamplingParams(
        **{"temperature": 1.0, "top_p": 0.95, "top_k": 50, "max_tokens": 40} | changes
    )


def sound(seed: int = 0, seconds: float = 1.0) -> Any:
    chance = np.random.default_rng(seed)
    return chance.standard_normal(int(seconds * 24000)).astype(np.float32) / 10


def speech(engine: Engine, count: int, **changes: Any) -> dict[str, tuple[Any, Any]]:
    """Requests r0, r1, ... of different lengths, voices and seeds."""
    return {
        f"r{n}": (
            engine.prompt(f"Say {n}.", sound(n, 1 + n / 4)),
            settings(seed=n, max_tokens=120 + n, **changes),
        )
        for n in range(count)
    }


@pytest.mark.needs(audio_tower=True)
def test_the_whisper_encoder_is_not_loaded(engine: Engine) -> None:
    """The configuration has one, and the weights hold some of it."""
    assert engine.runner.model.config.audio_encoder_config.encoder_layers > 0
    names = [name for name, _ in engine.runner.model.named_parameters()]
    assert [name for name in names if "audio_tower" in name] == []
    assert "layers.0.mlp.down_proj.weight" in names


@pytest.mark.needs(scheduling=True)
def test_preempted_speech_goes_on_as_if_nothing_had_been(engine: Engine) -> None:
    requests = speech(engine, 6)
    alone = {name: engine.run(**{name: request})[name] for name, request in requests.items()}
    with engine.blocks(75) as preempted:
        together = engine.run(**requests)
    assert len(set(preempted)) >= 2
    for name, answer in alone.items():
        assert together[name].mm_token_ids == answer.mm_token_ids, (name, preempted)


@pytest.mark.needs(scheduling=True)
@pytest.mark.parametrize("tokens", [16, 37, 100])
def test_preempted_speech_is_read_again_in_pieces(engine: Engine, tokens: int) -> None:
    """A step that ends one token before the end of what was generated is among these."""
    requests = speech(engine, 4)
    alone = {name: engine.run(**{name: request})[name] for name, request in requests.items()}
    with engine.blocks(50) as preempted, engine.tokens_per_step(tokens):
        together = engine.run(**requests)
    assert preempted
    for name, answer in alone.items():
        assert together[name].mm_token_ids == answer.mm_token_ids, (name, preempted)


def test_every_end_of_the_first_piece_is_right(engine: Engine) -> None:
    """Preempt a request by hand and cut its next step at each of its last tokens."""
    [request] = speech(engine, 1).values()
    alone = engine.run(a=request)["a"]
    for missing in range(4):
        engine.llm.add_request("a", *request)
        for _ in range(60):
            engine.llm.step()
        state = engine.scheduler.running.pop()
        engine.scheduler.kv_cache_manager.free(state)
        from vllm.v1.request import RequestStatus

        state.status, state.num_computed_tokens = RequestStatus.PREEMPTED, 0
        engine.scheduler.waiting.appendleft(state)
        with engine.tokens_per_step(state.num_tokens - missing):
            engine.llm.step()
        answer = None
        while engine.llm.has_unfinished_requests():
            answer = engine.llm.step()
        assert answer and answer[0].outputs[0].mm_token_ids == alone.mm_token_ids, missing


@pytest.mark.needs(scheduling=True)
def test_generated_audio_is_never_offered_to_others(engine: Engine) -> None:
    """Its tokens are the same whatever was said."""
    prompt = engine.prompt("Say this.", sound())
    short = {"prompt_token_ids": engine.prompt("")["prompt_token_ids"][-9:]}
    engine.run(
        a=(prompt, settings(max_tokens=100)), b=(prompt, settings(max_tokens=100, temperature=0)),
        c=(short, settings(max_tokens=100)), d=(engine.prompt("Text", speak=False), settings()),
    )  # fmt: skip
    cached = engine.scheduler.kv_cache_manager.block_pool.cached_block_hash_to_block
    assert cached
    assert not any(engine.ids["<|AUDIO_OUT|>"] in block.token_ids for block in cached)


def test_resumed_short_prompt_takes_no_block_of_another_answer(engine: Engine) -> None:
    """A prompt of less than a block has no hashes yet when it is resumed."""
    short = {"prompt_token_ids": engine.prompt("")["prompt_token_ids"][-9:]}
    requests = {f"r{n}": (short, settings(seed=n, max_tokens=200)) for n in range(4)}
    alone = {name: engine.run(**{name: request})[name] for name, request in requests.items()}
    with engine.blocks(40) as preempted:
        together = engine.run(**requests)
    assert preempted
    assert all(together[x].mm_token_ids == alone[x].mm_token_ids for x in alone)


@pytest.mark.needs(sampling=True)
def test_no_placeholder_is_sampled_as_text(engine: Engine) -> None:
    never = [engine.ids["<|AUDIO|>"], engine.ids["<|AUDIO_OUT|>"]]
    wanted = settings(max_tokens=30, logit_bias=dict.fromkeys(never, 100.0))
    neighbour = (engine.prompt("Hello.", sound()), settings(seed=1))
    expected = engine.run(a=neighbour)["a"]
    answers = engine.run(
        a=neighbour, b=(engine.prompt("Text.", speak=False), wanted),
        c=(engine.prompt("Text.", speak=False), settings(allowed_token_ids=never)),
    )  # fmt: skip
    assert answers["a"].mm_token_ids == expected.mm_token_ids
    for name in "bc":
        assert not set(never) & set(answers[name].token_ids)
        assert not answers[name].mm_token_ids


# -- steps of audio alone --------------------------------------------------------------------------


def mixture(engine: Engine) -> dict[str, tuple[Any, Any]]:
    """Speech with and without a voice, chats that write, and one that chooses to speak."""
    begin = engine.ids["<|audio_out_bos|>"]
    return {
        **speech(engine, 3),
        "greedy": (engine.prompt("Say it.", sound(7)), settings(temperature=0)),
        "plain": (engine.prompt("Say that."), settings(seed=11, max_tokens=90)),
        "text": (engine.prompt("Write.", speak=False), settings(
            seed=12, max_tokens=25, extra_args={"audio": False})),
        "chat": (engine.prompt("Answer.", sound(8), sound(9), speak=False), settings(
            seed=13, max_tokens=80, logit_bias={begin: 20.0})),
    }  # fmt: skip


def arriving(engine: Engine, requests: dict[str, tuple[Any, Any]]) -> dict[str, Any]:
    """Run requests that come some steps after one another."""
    answers: dict[str, Any] = {}
    waiting = list(requests.items())
    step = 0
    while waiting or engine.llm.has_unfinished_requests():
        if waiting and step % 9 == 0:
            name, request = waiting.pop(0)
            engine.llm.add_request(name, *request)
        answers |= {x.request_id: x.outputs[0] for x in engine.llm.step()}
        step += 1
    return answers


@contextmanager
def without_audio_steps(engine: Engine) -> Iterator[None]:
    """Take every step as one that may hold text."""
    kind = type(engine.runner.model)
    kind.higgs_audio_step = property(lambda _: False, lambda *_: None)
    engine.runner.model.__dict__.pop("higgs_audio_step", None)
    try:
        yield
    finally:
        del kind.higgs_audio_step


@contextmanager
def compared(engine: Engine) -> Iterator[list[int]]:
    """Compute each step of audio both ways, bit for bit; yields the rows of each."""
    model = engine.runner.model
    audio = model.__dict__["higgs_audio_forward"]
    rows: list[int] = []

    def both(**inputs: Any) -> Any:
        found = audio(**inputs)
        expected = type(model).__call__.higgs_original(model, **inputs)  # type: ignore[attr-defined]
        assert torch.equal(found, expected)
        rows.append(len(found))
        return found

    model.__dict__["higgs_audio_forward"] = both
    try:
        yield rows
    finally:
        model.__dict__["higgs_audio_forward"] = audio


@pytest.mark.needs(audio_steps=True)
@pytest.mark.parametrize(("tokens", "blocks"), [(CONTEXT, BLOCKS - 8), (40, BLOCKS - 8), (64, 60)])
def test_steps_of_audio_give_the_same_numbers(engine: Engine, tokens: int, blocks: int) -> None:
    """With prompts in pieces and preemption, too."""
    with (
        engine.tokens_per_step(tokens),
        engine.blocks(blocks) as preempted,
        compared(engine) as rows,
    ):
        answers = arriving(engine, mixture(engine))
    engine.clear()
    with engine.tokens_per_step(tokens), engine.blocks(blocks), without_audio_steps(engine):
        expected = arriving(engine, mixture(engine))
    assert len(rows) > 20
    assert max(rows) >= 3
    assert bool(preempted) == (blocks == 60)
    for name, answer in expected.items():
        assert answers[name].token_ids == answer.token_ids, name
        assert answers[name].mm_token_ids == answer.mm_token_ids, name
    assert answers["chat"].mm_token_ids and not answers["text"].mm_token_ids


@pytest.mark.needs(audio_steps=True)
def test_steps_of_audio_compute_no_logits_of_text(engine: Engine) -> None:
    model = engine.runner.model
    original, computed = model.logits_processor.forward, []
    model.logits_processor.forward = lambda *args: computed.append(1) or original(*args)
    try:
        engine.run(a=(engine.prompt("Say.", sound()), settings(seed=1, max_tokens=40)))
    finally:
        del model.logits_processor.forward
    assert len(computed) == 1  # of the prompt


KERNELS = (
    "rms_norm", "fused_add_rms_norm", "rms_norm_static_fp8_quant", "rotary_embedding",
    "fused_add_rms_norm_static_fp8_quant", "rms_norm_dynamic_per_token_quant", "silu_and_mul",
    "static_scaled_fp8_quant", "dynamic_scaled_fp8_quant", "dynamic_per_token_scaled_fp8_quant",
)  # fmt: skip


@pytest.mark.needs(audio_steps=True)
def test_steps_of_audio_can_be_compiled(engine: Engine, tmp_path: Path) -> None:
    """As one graph that is split at its attention, as on a GPU, but for Inductor and CUDA graphs.

    The model's own graph is compiled beside it: neither takes the other's code.
    """
    import copy

    from higgs_patches.lib import audio_forward

    kernels = torch.library.Library("_C", "FRAGMENT")  # named by passes that are not run
    for name in KERNELS:
        kernels.define(f"{name}(Tensor x) -> ()")
    model = engine.runner.model
    config = copy.copy(engine.runner.vllm_config)
    config.compilation_config = copy.copy(config.compilation_config)
    config.compilation_config.level = 3
    config.compilation_config.use_inductor = False
    config.compilation_config.use_cudagraph = False
    config.compilation_config.cache_dir = str(tmp_path / "cache")
    config.compilation_config.splitting_ops = [
        "vllm.unified_attention", "vllm.unified_attention_with_output",
    ]  # fmt: skip
    attention = [layer.self_attn.attn for layer in model.layers]
    eager = model.__dict__["higgs_audio_forward"]
    for layer in attention:
        layer.use_direct_call = False
    try:
        runner = types.SimpleNamespace(vllm_config=config, model=model)
        with torch.inference_mode():
            audio_forward.install(runner)
        compiled = model.__dict__["higgs_audio_forward"]
        with compared(engine) as rows:
            engine.run(**speech(engine, 3))  # as at the start: not with a batch of one
            arriving(engine, speech(engine, 3))
        assert len(compiled.compiled_codes) == 1
        assert rows and set(rows) >= {1, 2, 3}
        assert [x.name for x in tmp_path.iterdir()] == ["cache-audio"]
    finally:
        model.__dict__["higgs_audio_forward"] = eager
        for layer in attention:
            layer.use_direct_call = True


# -- text ------------------------------------------------------------------------------------------


TEXT_SETTINGS: dict[str, dict[str, Any]] = {
    "presence": {"presence_penalty": 1.5},
    "frequency": {"frequency_penalty": -1.5},
    "repetition": {"repetition_penalty": 1.7},
    "bias": {"logit_bias": {300: 50.0, 511: -50.0}},
    "min_tokens": {"min_tokens": 30, "stop_token_ids": [300, 511]},
    "bad_words": {"bad_words": ["hello", "world"]},
    "allowed": {"allowed_token_ids": [1, 2, 3]},
    "logprobs": {"logprobs": 3, "extra_args": {"audio": False}},
    "stop": {"stop": ["\n"]},
}


@pytest.mark.needs(sampling=True)
def test_only_rows_of_text_are_sampled_as_text(engine: Engine) -> None:
    sampler = engine.runner.model.sampler
    original, rows = sampler.forward, []

    def counting(logits: Any, metadata: Any) -> Any:
        rows.append((len(logits), len(metadata.temperature)))
        return original(logits, metadata)

    sampler.forward = counting
    try:
        text = (engine.prompt("Text.", speak=False), settings(extra_args={"audio": False}))
        said = (engine.prompt("Say.", sound()), settings(seed=1, max_tokens=30))
        answer = engine.run(a=said, b=said, text=text)["text"]
    finally:
        del sampler.forward
    assert rows == [(1, 1)] * len(answer.token_ids)


@pytest.mark.parametrize("name", [*TEXT_SETTINGS, "min_p"])
def test_text_is_the_same_in_any_company(engine: Engine, name: str) -> None:
    """Each of its settings goes with its own row, wherever that is among rows of speech."""
    own = TEXT_SETTINGS.get(name, {"min_p": 0.2})
    text = settings(**{"seed": 4, "extra_args": {"audio": False}} | own)
    request = (engine.prompt("Text.", speak=False), text)
    other = (engine.prompt("More.", speak=False), settings(seed=5, extra_args={"audio": False}))
    alone = engine.run(a=request)["a"]
    one, two, three = speech(engine, 3).values()
    for requests in ({"a": request, "b": one}, {"b": one, "c": other, "d": two, "a": request},
                     {"d": two, "a": request, "e": three, "c": other}):  # fmt: skip
        answer = engine.run(**requests)["a"]
        assert answer.token_ids == alone.token_ids
        assert [*map(list, answer.logprobs or ())] == [*map(list, alone.logprobs or ())]


@pytest.mark.needs(sampling=True)
def test_text_alone_begins_no_audio(engine: Engine) -> None:
    begin = engine.ids["<|audio_out_bos|>"]
    urge = {"max_tokens": 20, "logit_bias": {begin: 100.0}}
    prompt = engine.prompt("Text.", speak=False)
    answers = engine.run(
        a=(prompt, settings(**urge)), b=(prompt, settings(**urge, extra_args={"audio": False}))
    )
    assert begin in answers["a"].token_ids and answers["a"].mm_token_ids
    assert begin not in answers["b"].token_ids and not answers["b"].mm_token_ids


@pytest.mark.parametrize("name", TEXT_SETTINGS)
def test_settings_of_text_change_no_audio(engine: Engine, name: str) -> None:
    """Neither the request's own nor its neighbours'."""
    prompt = engine.prompt("Hello.", sound())
    expected = engine.run(a=(prompt, settings(seed=1)))["a"].mm_token_ids
    changed = settings(seed=1, **TEXT_SETTINGS[name])
    text = settings(**{"extra_args": {"audio": False}} | TEXT_SETTINGS[name])
    answers = engine.run(
        a=(prompt, settings(seed=1)), b=(prompt, changed),
        c=(engine.prompt("Text.", speak=False), text),
    )  # fmt: skip
    assert answers["a"].mm_token_ids == answers["b"].mm_token_ids == expected
    assert answers["c"].token_ids


def test_min_p_holds_for_audio(engine: Engine) -> None:
    prompt = engine.prompt("Hello.", sound())
    off = {"ras_win_len": 0}
    answers = engine.run(
        likeliest=(prompt, settings(temperature=0, extra_args=off)),
        only=(prompt, settings(min_p=1.0, extra_args=off)),
        any=(prompt, settings(extra_args=off)),
    )
    assert answers["only"].mm_token_ids == answers["likeliest"].mm_token_ids
    assert answers["any"].mm_token_ids != answers["likeliest"].mm_token_ids


@pytest.mark.needs(sampling=True)
def test_a_seed_gives_the_same_codes_again(engine: Engine) -> None:
    """First, from a full cache, with its prompt in pieces, and in company."""
    request = (engine.prompt("Hello.", sound()), settings(seed=5))
    first = engine.run(a=request)["a"].mm_token_ids
    assert engine.run(a=request)["a"].mm_token_ids == first
    with engine.tokens_per_step(50):
        assert engine.run(a=request)["a"].mm_token_ids == first
    others = speech(engine, 3) | {"t": (engine.prompt("Text", speak=False), settings(seed=1))}
    assert engine.run(**others, a=request)["a"].mm_token_ids == first
    assert engine.run(a=(request[0], settings(seed=6)))["a"].mm_token_ids != first
    assert engine.run(a=(request[0], settings()))["a"].mm_token_ids != first


def test_a_seed_gives_the_same_text_again(engine: Engine) -> None:
    request = (engine.prompt("Hello.", speak=False), settings(seed=5))
    first = engine.run(a=request)["a"].token_ids
    assert engine.run(**speech(engine, 2), a=request)["a"].token_ids == first


@pytest.mark.needs(sampling=True)
def test_temperature_0_gives_the_same_codes_again(engine: Engine) -> None:
    """Also where repetitions are drawn again; a seed changes these."""
    prompt = engine.prompt("Hello.", sound())
    tight = {"ras_win_len": 100, "ras_win_max_num_repeat": 1}
    greedy = {"temperature": 0, "max_tokens": 100, "extra_args": tight}
    first = engine.run(a=(prompt, settings(**greedy)))["a"].mm_token_ids
    assert engine.run(a=(prompt, settings(**greedy)))["a"].mm_token_ids == first
    assert engine.run(a=(prompt, settings(**greedy, seed=1)))["a"].mm_token_ids != first


@pytest.mark.needs(sampling=True)
def test_repetitions_are_seldom_with_a_tight_window(engine: Engine) -> None:
    """With codes that hardly vary: what is left over are those that were drawn again."""
    head = engine.runner.model.audio_lm_head.weight
    head.data.view(BOOKS, -1, head.shape[1])[:, :3] *= 8
    try:
        prompt = engine.prompt("Hello.", sound())
        narrow = {"seed": 1, "top_k": 3, "max_tokens": 150}

        def repetitions(**extra: Any) -> int:
            answer = engine.run(a=(prompt, settings(**narrow, extra_args=extra)))["a"]
            frames = np.array(answer.mm_token_ids)[BOOKS:]
            return sum(int((frames[n - 7 : n] == frames[n]).sum()) for n in range(7, len(frames)))

        assert repetitions() < repetitions(ras_win_len=0) / 2
    finally:
        head.data.view(BOOKS, -1, head.shape[1])[:, :3] /= 8


def test_the_prompts_voice_counts_as_spoken(engine: Engine) -> None:
    """The reference engine's window begins with the end of the voice's recording."""
    from higgs_patches.patches.sampling import _spoken_in_prompt

    tokens = engine.prompt("Hello.", sound(1), sound(2, 0.2))["prompt_token_ids"]
    request = engine.llm.processor.process_inputs(
        "a", engine.prompt("Hello.", sound(1), sound(2, 0.2)), settings()
    )
    state = types.SimpleNamespace(
        mm_positions=request.mm_placeholders, mm_inputs=request.mm_inputs,
        prompt_token_ids=request.prompt_token_ids,
    )  # fmt: skip
    assert len(tokens) < len(request.prompt_token_ids)
    frames = _spoken_in_prompt(state, 20, engine.runner.model)
    second = 5 + 2 + BOOKS - 1  # 0.2 s, begin and end, delay
    assert len(frames) == 20 and frames[-1] == frames[19 - second] == [EOS] * BOOKS
    assert frames[-second] == [BOS] * BOOKS
    # Before the second recording stand the last frames of the first: its first codebook is over.
    assert [frame[0] for frame in frames[: 20 - second]] == [EOS] * (20 - second)
    start = request.mm_placeholders[1]["offset"] - 1
    state.prompt_token_ids[start] = engine.ids["<|audio_bos|>"]  # somebody else speaks
    assert len(_spoken_in_prompt(state, 100, engine.runner.model)) == 25 + 2 + BOOKS - 1


@pytest.mark.needs(sampling=True)
def test_utterances_begin_and_end_whole_however_they_come(engine: Engine) -> None:
    """Codes drawn almost evenly, so that speech ends and begins again, with preemption."""
    begin, out = engine.ids["<|audio_out_bos|>"], engine.ids["<|AUDIO_OUT|>"]
    wild = {"temperature": 50.0, "top_k": -1, "top_p": 1.0, "logit_bias": {begin: 100.0}}
    requests = {
        f"r{n}": (engine.prompt(f"{n}", sound(n)), settings(seed=n, max_tokens=400, **wild))
        for n in range(6)
    }
    with engine.blocks(140) as preempted:
        answers = engine.run(**requests)
    assert preempted
    ended = 0
    for answer in answers.values():
        frames = answer.mm_token_ids
        assert len(frames) == answer.token_ids.count(out)
        begins = [n for n, frame in enumerate(frames) if frame == [BOS] * BOOKS]
        for first, last in zip(begins, [*begins[1:], len(frames)], strict=True):
            utterance = frames[first:last]
            for n, frame in enumerate(utterance[:BOOKS]):
                assert frame[n:] == [BOS] * (BOOKS - n)
            if last < len(frames):
                ended += 1
                assert utterance[-1] == [EOS] * BOOKS
                counts = [leading(frame, EOS) for frame in utterance[BOOKS:]]
                assert counts == sorted(counts)
    assert ended > 10


def leading(frame: list[int], code: int) -> int:
    return next((n for n, x in enumerate(frame) if x != code), len(frame))


@pytest.mark.parametrize("max_tokens", [1, 2, 9, None])
def test_answers_end_where_they_have_to(engine: Engine, max_tokens: int | None) -> None:
    """Also at the end of the context, in the middle of speech."""
    with_limit = settings(seed=1, ignore_eos=True, max_tokens=max_tokens)
    prompt = engine.prompt("x" * 700, sound())
    answer = engine.run(a=(prompt, with_limit))["a"]
    assert answer.finish_reason == "length"
    room = CONTEXT - len(prompt["prompt_token_ids"]) - (25 + 2 + BOOKS - 1) + 1
    assert len(answer.token_ids) == (max_tokens or room)
    assert len(answer.mm_token_ids) == answer.token_ids.count(engine.ids["<|AUDIO_OUT|>"]) > 0


@pytest.mark.parametrize("when", ["waiting", "running", "preempted", "in the prompt"])
def test_aborted_requests_leave_nothing_behind(engine: Engine, when: str) -> None:
    requests = speech(engine, 4)
    survivor = engine.run(r0=requests["r0"])["r0"].mm_token_ids
    pool = engine.scheduler.kv_cache_manager.block_pool
    with engine.blocks(50), engine.tokens_per_step(30 if when == "in the prompt" else CONTEXT):
        free = pool.get_num_free_blocks()
        for name, request in requests.items():
            engine.llm.add_request(name, *request)
        if when == "running":
            for _ in range(20):
                engine.llm.step()
        elif when == "preempted":
            while not engine.scheduler.waiting or engine.scheduler.waiting[0].num_output_tokens < 9:
                engine.llm.step()
        elif when == "in the prompt":
            engine.llm.step()
        engine.llm.abort_request(["r1", "r2", "r3"])
        answers: dict[str, Any] = {}
        while engine.llm.has_unfinished_requests():
            answers |= {x.request_id: x.outputs[0] for x in engine.llm.step()}
        engine.core.step()
        assert answers["r0"].mm_token_ids == survivor
        assert pool.get_num_free_blocks() == free
    assert not engine.runner.requests and not engine.runner.encoder_cache
    assert not engine.scheduler.encoder_cache_manager.cached


REFUSED: dict[str, Callable[[Engine], tuple[Any, dict[str, Any]]]] = {
    "bias beyond the vocabulary": lambda e: (e.prompt("a"), {"logit_bias": {600: 1.0}}),
    "negative bias token": lambda e: (e.prompt("a"), {"logit_bias": {-600: 1.0}}),
    "stop beyond": lambda e: (e.prompt("a"), {"min_tokens": 5, "stop_token_ids": [700]}),
    "empty bad word": lambda e: (e.prompt("a"), {"bad_words": [""]}),
    "prompt logprobs": lambda e: (e.prompt("a"), {"prompt_logprobs": 0}),
    "seed of 65 bits": lambda e: (e.prompt("a"), {"seed": 2**64}),
    "no number": lambda e: (e.prompt("a"), {"temperature": float("nan")}),
    "infinite": lambda e: (e.prompt("a"), {"temperature": float("inf")}),
    "huge top_k": lambda e: (e.prompt("a"), {"top_k": 10**30}),
    "too many answers": lambda e: (e.prompt("a"), {"n": 9}),
    "window of text": lambda e: (e.prompt("a"), {"extra_args": {"ras_win_len": "x"}}),
    "generated audio": lambda e: (tokens(e, "<|AUDIO|><|AUDIO_OUT|>", sound()), {}),
    "more places": lambda e: (tokens(e, "<|AUDIO|><|AUDIO|>", sound()), {}),
    "fewer places": lambda e: (tokens(e, "a", sound()), {}),
    "places alone": lambda e: (tokens(e, "<|AUDIO|>"), {}),
    "no sound": lambda e: (tokens(e, "<|AUDIO|>", sound(0, 0)), {}),
    "one sample": lambda e: (tokens(e, "<|AUDIO|>", (sound()[:1], 24000)), {}),
    "no numbers": lambda e: (tokens(e, "<|AUDIO|>", (sound() * np.nan, 24000)), {}),
    "no rate": lambda e: (tokens(e, "<|AUDIO|>", (sound(), 0)), {}),
    "two channels": lambda e: (tokens(e, "<|AUDIO|>", (np.stack([sound()] * 2), 24000)), {}),
    "an hour": lambda e: (tokens(e, "<|AUDIO|>", (np.zeros(3600 * 24000, np.int16), 24000)), {}),
    "processor's settings": lambda e: (
        tokens(e, "<|AUDIO|>", sound()) | {"mm_processor_kwargs": {"truncation": True}},
        {},
    ),
}


def tokens(engine: Engine, written: str, *sounds: Any) -> dict[str, Any]:
    ids = engine.tokenizer.encode(f"a{written}b<|audio_out_bos|>", add_special_tokens=False)
    return {"prompt_token_ids": ids, "multi_modal_data": {"audio": list(sounds)}}


BY_VLLM = {"bias beyond the vocabulary", "seed of 65 bits"}
"""What vLLM refuses by itself."""


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(x, marks=[] if x in BY_VLLM else [pytest.mark.needs(engine_validation=True)])
        for x in REFUSED
    ],
)
def test_what_would_end_the_engine_is_refused(engine: Engine, name: str) -> None:
    prompt, changes = REFUSED[name](engine)
    neighbour = engine.prompt("Hello.", sound()), settings(seed=1)
    expected = engine.run(a=neighbour)["a"].mm_token_ids
    engine.llm.add_request("a", *neighbour)
    with pytest.raises(ValueError, match=r"\w"):
        engine.llm.add_request("b", prompt, settings(**changes))
    assert engine.run()["a"].mm_token_ids == expected


@pytest.mark.needs(engine_validation=True)
def test_structured_output_is_refused(engine: Engine) -> None:
    from vllm.sampling_params import GuidedDecodingParams

    for kind in ({"json": {"type": "object"}}, {"regex": "a+"}, {"choice": ["a"]}):
        wanted = settings(guided_decoding=GuidedDecodingParams(**kind))
        with pytest.raises(ValueError, match="structured output"):
            engine.llm.add_request("a", engine.prompt("a"), wanted)
    assert engine.run(b=(engine.prompt("a"), settings()))["b"].token_ids


def test_answers_of_one_request_inherit_its_processed_settings() -> None:
    """n > 1 without max_tokens: the engine asserts that there is a number."""
    import asyncio

    from higgs_patches.patches import preprocessing

    processed = settings(n=3, max_tokens=77, seed=5)
    added: list[Any] = []

    class Server:
        processor = types.SimpleNamespace(
            process_inputs=lambda name, *_: types.SimpleNamespace(
                request_id=name, sampling_params=processed
            )
        )

        async def _add_request(self, request: Any, parent: Any, index: int, queue: Any) -> None:
            added.append((request.request_id, request.sampling_params, index))

    given = settings(n=3, max_tokens=None, seed=5)
    asyncio.run(preprocessing.add_request(Server(), "a", {"prompt_token_ids": [1]}, given))
    assert [(name, index) for name, _, index in added] == [("0_a", 0), ("1_a", 1), ("2_a", 2)]
    assert [(x.max_tokens, x.seed, x.n) for _, x, _ in added] == [(77, 5 + n, 1) for n in range(3)]
