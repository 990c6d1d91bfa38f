"""What goes where in a GPU's memory, for each kind of card."""

from __future__ import annotations

from pathlib import Path

import pytest
from higgs_patches.lib.audio import codec_thread
from higgs_patches.patches import preprocessing
from higgs_runtime import command, gpu, gpu_memory
from higgs_runtime.nvml import Gpu, GpuMachine

from tests.support.entrypoint import MakeEntrypoint
from tests.unit.runtime.conftest import A100_40, DRIVER, RTX_4090
from tests.unit.runtime.test_settings import read

CARDS = {
    "RTX 3090": (24_576, 55_000),
    "RTX 4090": (24_564, 55_000),
    "A10G": (23_028, 45_000),
    "L4": (23_034, 45_000),
    "RTX 5000 Ada": (32_760, 120_000),
    "L40S": (46_068, 230_000),
    "A100 40 GB": (40_960, 190_000),
    "A100 80 GB": (81_920, 500_000),
    "H100": (81_559, 500_000),
    "H200": (143_771, 950_000),
}
"""Memory as NVML reports it, and tokens that the KV cache has to hold."""


def machine(memory: int | None) -> GpuMachine:
    return GpuMachine("550.90.07", 12_040, (Gpu("GPU", memory, memory, (8, 9)),))


def planned(memory: int, **variables: str) -> gpu_memory.MemoryPlan:
    limits = command.effective(read(**variables), variables, gpu.defaults(machine(memory)))
    found = gpu_memory.plan(machine(memory), limits)
    assert found
    return found


@pytest.mark.parametrize("card", CARDS)
def test_defaults_of_each_card_fit_its_memory(card: str) -> None:
    memory, tokens = CARDS[card]
    found = planned(memory)
    limits = gpu.defaults(machine(memory))
    assert found.free >= 0, "one recording of the longest length, batches and CUDA graphs fit"
    assert found.codec >= gpu_memory.CODEC + gpu_memory.codec_growth(limits.reference_seconds) - 1
    assert found.kv_tokens >= tokens >= 2 * limits.max_model_len
    beside = found.codec - gpu_memory.CODEC + gpu_memory.CUDA_GRAPHS
    assert found.engine + beside <= memory * gpu_memory.VISIBLE


def test_longer_recordings_get_more_until_the_engine_would_lack_it() -> None:
    default, longer = planned(24_564), planned(24_564, HIGGS_MAX_REFERENCE_SECONDS="60")
    assert longer.codec - default.codec == pytest.approx(30 * gpu_memory.ENCODING, abs=1)
    assert longer.free >= 0
    endless = planned(24_564, HIGGS_MAX_REFERENCE_SECONDS="600")
    assert endless.free < 0
    room = 24_564 * gpu_memory.VISIBLE - endless.engine - gpu_memory.CUDA_GRAPHS
    assert endless.codec - gpu_memory.CODEC == pytest.approx(room, abs=1)


def test_decoding_always_has_its_memory() -> None:
    found = planned(24_564, HIGGS_GPU_MEMORY_UTILIZATION="0.98")
    assert found.codec - gpu_memory.CODEC == pytest.approx(gpu_memory.codec_growth(0), abs=1)


def test_what_is_planned_for_is_all_that_the_server_does() -> None:
    assert codec_thread.BATCH_FRAMES <= gpu_memory.DECODED_FRAMES
    assert preprocessing._THREAD._max_workers == 1, "recordings are encoded one at a time"


def test_unknown_memory_has_no_plan() -> None:
    limits = gpu.DEFAULTS[0]
    assert gpu_memory.plan(None, limits) is gpu_memory.plan(machine(None), limits) is None
    assert "GiB" not in gpu_memory.describe(None, limits, cascade=False)


def test_limits_and_memory_are_one_line_of_the_log() -> None:
    limits = gpu.defaults(machine(24_564))
    line = gpu_memory.describe(planned(24_564), limits, cascade=False)
    assert line == (
        "limits: 64 requests at once, 16384 tokens each, 82% of the GPU's memory, references up to "
        "30 s, cascade attention off; GiB of memory: engine 19.3 (about 6.2 of it KV cache for "
        "58,166 tokens), CUDA graphs about 1.0, audio tokenizer at most 2.4, free 1.6"
    )


@pytest.mark.parametrize(("card", "expected"), [(RTX_4090, "2466"), (A100_40, "3345")])
def test_the_server_is_told_its_limit(
    card: str, expected: str, start: MakeEntrypoint, nvml: Path
) -> None:
    on_gpu = {"HIGGS_DEVICE": "gpu", "FAKE_NVML": f"{DRIVER};{card}", "LD_LIBRARY_PATH": str(nvml)}
    for chosen in ("", "1234"):
        run = start(**on_gpu, HIGGS_CODEC_MEMORY_MIB=chosen)
        run.wait_for("ready: ")
        assert (
            f'"HIGGS_CODEC_MEMORY_MIB": "{chosen or expected}"'
            in run.ask("/environment")[1].decode()
        )
        assert "GiB of memory: engine" in run.log and "are missing" not in run.log
        assert run.stop() == 0


def test_too_long_recordings_are_a_warning(start: MakeEntrypoint, nvml: Path) -> None:
    on_gpu = {"HIGGS_DEVICE": "gpu", "FAKE_NVML": f"{DRIVER};{RTX_4090}"}
    run = start(**on_gpu, LD_LIBRARY_PATH=str(nvml), HIGGS_MAX_REFERENCE_SECONDS="120")
    run.wait_for("ready: ")
    assert (
        "higgs: WARNING: recordings of 120 s need 1.0 GiB more GPU memory than the engine leaves"
        in run.log
    )
    assert "answered with 503; hint: lower HIGGS_GPU_MEMORY_UTILIZATION" in run.log
