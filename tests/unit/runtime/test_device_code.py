"""Which GPUs each variant of the image runs on, and what it asks of the driver."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from higgs_runtime import device_code, errors
from higgs_runtime.image import ImageFacts
from higgs_runtime.nvml import Gpu, GpuMachine

from tests.support.entrypoint import MakeEntrypoint
from tests.unit.runtime.conftest import A100_80, IMAGE, RTX_5090

CAPABILITIES = {
    "T4": (7, 5),
    "A100": (8, 0),
    "A10G": (8, 6),
    "L4": (8, 9),
    "H100": (9, 0),
    "B200": (10, 0),
    "B300": (10, 3),
    "Thor": (11, 0),
    "RTX 5090": (12, 0),
    "GB10": (12, 1),
}
DEFAULT = IMAGE._replace(gpus=frozenset({"8.0", "8.6", "8.9", "9.0"}))
VARIANT = DEFAULT._replace(
    tag=f"{IMAGE.tag}-cuda12.8",
    gpus=DEFAULT.gpus | {"10.0", "12.0"},
    variant="cuda12.8",
    cuda="12.8",
)
WHOLE = VARIANT._replace(gpus=frozenset())
"""The variant with all code of its libraries."""


def machine(*names: str, cuda: int = 12_080) -> GpuMachine:
    gpus = tuple(Gpu(name, 81_920, 81_000, CAPABILITIES.get(name)) for name in names)
    return GpuMachine("570.124", cuda, gpus)


def refused(facts: ImageFacts, name: str, **environment: str) -> errors.StartError | None:
    """Return the one refusal of a GPU, or None."""
    found = device_code.check(machine(name), 1, facts, environment)
    assert len(found) < 2, found
    return found[0] if found else None


@pytest.mark.parametrize(
    ("facts", "runs"),
    [
        (IMAGE, {"A100", "A10G", "L4", "H100"}),
        (DEFAULT, {"A100", "A10G", "L4", "H100"}),
        (VARIANT, {"A100", "A10G", "L4", "H100", "B200", "RTX 5090"}),
        (WHOLE, {"A100", "A10G", "L4", "H100", "B200", "RTX 5090"}),
    ],
)
def test_cards_of_each_image(facts: ImageFacts, runs: set[str]) -> None:
    assert {name for name in CAPABILITIES if refused(facts, name) is None} == runs
    assert refused(facts, "MIG slice without a capability") is None


@pytest.mark.parametrize("name", ["B200", "RTX 5090"])
def test_the_default_image_names_the_variant_for_blackwell(name: str) -> None:
    for facts in (IMAGE, DEFAULT, DEFAULT._replace(tag=f"{IMAGE.tag}-sm89")):
        found = refused(facts, name)
        assert isinstance(found, errors.UnsupportedGpuError)
        major, minor = CAPABILITIES[name]
        assert found.message == (
            f"{name} (sm_{major}{minor}) is not supported: PyTorch 2.6, which this image has, has "
            "no kernels for Blackwell"
        )
        assert found.hint == (
            "pull the cuda12.8 variant of the image, such as the tag custom-cuda12.8"
        )


@pytest.mark.parametrize(("name", "target"), [("B300", "sm_103a"), ("GB10", "sm_121a")])
@pytest.mark.parametrize("facts", [DEFAULT, VARIANT, WHOLE])
def test_cards_that_triton_cannot_compile_for(facts: ImageFacts, name: str, target: str) -> None:
    found = refused(facts, name)
    assert isinstance(found, errors.UnsupportedGpuError)
    assert f"cannot compile for {target}, which" not in found.message
    assert f"can compile for {target}, which ptxas 12.8 of Triton 3.4 does not know" in (
        found.message
    )
    assert "cuda12.8" not in found.hint, "no other tag helps"
    own = facts._replace(gpus=facts.gpus | {"{}.{}".format(*CAPABILITIES[name])})
    assert refused(own, name) is None, "what the image says of itself counts"


def test_other_new_and_old_cards() -> None:
    for facts in (DEFAULT, VARIANT, WHOLE):
        found = refused(facts, "Thor")
        assert found and "no variant of the image has kernels for it" in found.message
        found = refused(facts, "T4")
        assert found and "bfloat16, which requires Ampere" in found.message


def test_a_variant_for_fewer_cards_names_the_whole_one() -> None:
    facts = VARIANT._replace(
        tag=f"{IMAGE.tag}-cuda12.8-sm100-sm120", gpus=frozenset({"12.0", "10.0"})
    )
    assert refused(facts, "RTX 5090") is None
    found = refused(facts, "L4")
    assert found and "code for 10.0, 12.0 only" in found.message
    assert f"without -sm100-sm120, such as {IMAGE.tag}-cuda12.8;" in found.hint


# --- the driver


@pytest.mark.parametrize(
    ("facts", "name", "flash_attention", "needed"),
    [
        (DEFAULT, "L4", "", "12.4"),
        (DEFAULT, "H100", "2", "12.4"),
        (VARIANT, "A100", "", "12.4"),
        (VARIANT, "A100", "2", "12.4"),
        (VARIANT, "H100", "", "12.4"),
        (VARIANT, "H100", "3", "12.4"),
        (VARIANT, "H100", " 2", "12.8"),
        (VARIANT, "B200", "", "12.8"),
        (VARIANT, "B200", "2", "12.8"),
        (WHOLE, "RTX 5090", "", "12.8"),
    ],
)
def test_a_newer_driver_is_asked_only_where_it_compiles(
    facts: ImageFacts, name: str, flash_attention: str, needed: str
) -> None:
    environment = {"VLLM_FLASH_ATTN_VERSION": flash_attention}
    enough = 12_080 if needed == "12.8" else 12_040
    assert device_code.check(machine(name, cuda=enough), 1, facts, environment) == []
    [found] = device_code.check(machine(name, cuda=enough - 10), 1, facts, environment)
    assert isinstance(found, errors.DriverTooOldError)
    assert f"supports CUDA up to 12.{7 if needed == '12.8' else 3}, the image needs {needed}" in (
        found.message
    )
    assert f"minCudaVersion {needed})" in found.hint
    assert ("to compile FlashAttention 2 for " in found.message) == (needed == "12.8")
    assert found.hint.endswith("or unset VLLM_FLASH_ATTN_VERSION") == (
        (needed, flash_attention) == ("12.8", " 2")
    )
    patient = device_code.warmup_seconds(machine(name), facts, environment)
    assert patient == (600 if needed == "12.8" else 180)


def test_only_used_gpus_count_for_the_driver() -> None:
    two = machine("A100", "RTX 5090", cuda=12_040)
    assert device_code.check(two, 1, VARIANT, {}) == []
    [found] = device_code.check(two, 2, VARIANT, {})
    assert "for RTX 5090" in found.message


def test_warm_up_without_a_gpu() -> None:
    assert device_code.warmup_seconds(None, VARIANT, {}) == 180


# --- fp8


@pytest.mark.parametrize(
    ("facts", "name", "method", "works"),
    [
        (DEFAULT, "A100", "fp8", True),
        (VARIANT, "A100", "", True),
        (VARIANT, "A100", "bitsandbytes", True),
        (VARIANT, "A100", "fp8", False),
        (VARIANT, "A10G", "fbgemm_fp8", False),
        (VARIANT, "L4", "fp8", True),
        (VARIANT, "H100", "fp8", True),
        (VARIANT, "RTX 5090", "fp8", True),
        (VARIANT, "unknown", "fp8", True),
    ],
)
def test_fp8_needs_ada_in_the_variant(
    facts: ImageFacts, name: str, method: str, works: bool
) -> None:
    found = device_code.check_quantization(machine(name), 1, facts, method)
    assert (found == []) == works
    for error in found:
        assert f"--quantization {method} cannot be used on {name}: " in error.message
        assert "leave the flag out" in error.hint and error.hint.endswith("the tag custom")


# --- the whole start


@pytest.fixture
def variant_file(image_file: Path) -> Path:
    """The file of the image, which is the variant."""
    facts = json.loads(image_file.read_text())
    own = {"gpus": sorted(VARIANT.gpus), "variant": VARIANT.variant, "cuda": VARIANT.cuda}
    image_file.write_text(json.dumps(facts | own))
    return image_file


def test_the_variant_serves_on_blackwell(
    variant_file: Path, nvml: Path, start: MakeEntrypoint, tmp_path: Path
) -> None:
    gpu = {"HIGGS_DEVICE": "gpu", "LD_LIBRARY_PATH": str(nvml), "HF_HOME": str(tmp_path / "hf"),
           "FAKE_NVML": f"driver=570.1;cuda=12080;{RTX_5090}"}  # fmt: skip
    run = start("-q", "fp8", **gpu)
    run.wait_for("higgs: ready")
    assert "NVIDIA GeForce RTX 5090, 31.8 GiB, driver 570.1" in run.log
    environment = json.loads(run.ask("/environment")[1])
    assert environment["HIGGS_WARMUP_SECONDS"] == "600"
    assert environment["TORCHINDUCTOR_AUTOGRAD_CACHE"] == "0"
    assert Path(environment["CUDA_CACHE_PATH"]).is_dir()
    assert environment["CUDA_CACHE_PATH"].startswith(f"{tmp_path}/hf/")
    assert environment["CUDA_CACHE_MAXSIZE"] == str(1 << 30)
    own = {"HIGGS_WARMUP_SECONDS": "7", "CUDA_CACHE_MAXSIZE": "8"}
    run = start(**gpu, **own)
    run.wait_for("higgs: ready")
    assert own.items() <= json.loads(run.ask("/environment")[1]).items(), "the user's own values"


@pytest.mark.parametrize("forced", [False, True])
def test_quantized_weights_are_refused_as_the_flag_is(
    variant_file: Path, nvml: Path, start: MakeEntrypoint, tmp_path: Path, forced: bool
) -> None:
    (tmp_path / "fp8").mkdir()
    config = {"quantization_config": {"quant_method": "FP8"}}
    (tmp_path / "fp8" / "config.json").write_text(json.dumps(config))
    gpu = {"HIGGS_DEVICE": "gpu", "LD_LIBRARY_PATH": str(nvml),
           "FAKE_NVML": f"driver=570.1;cuda=12080;{A100_80}",
           "HIGGS_MODEL": str(tmp_path / "fp8"), "HIGGS_FORCE": str(int(forced))}  # fmt: skip
    run = start(**gpu)
    if forced:
        run.wait_for("higgs: ready")
        assert "WARNING: the model's quantization fp8 cannot be used on NVIDIA A100" in run.log
    else:
        assert run.end() == 12
        assert "use weights that are not quantized" in run.lines[-1]


def test_vllms_cache_cannot_be_turned_off(
    variant_file: Path, nvml: Path, start: MakeEntrypoint
) -> None:
    gpu = {"LD_LIBRARY_PATH": str(nvml), "FAKE_NVML": f"driver=570.1;cuda=12080;{A100_80}"}
    run = start(**gpu, HIGGS_DEVICE="gpu", VLLM_DISABLE_COMPILE_CACHE="1")
    assert run.end() == 2 and "cannot compile" in run.lines[-1]


@pytest.mark.parametrize(
    ("parts", "code", "says"),
    [
        (f"driver=565.1;cuda=12070;{RTX_5090}", 11, "12.7, the image needs 12.8 to compile"),
        (f"driver=570.1;cuda=12080;{A100_80}", 12, "--quantization fp8 cannot be used on NVIDIA A"),
    ],
)
def test_the_variant_refuses(
    variant_file: Path, nvml: Path, start: MakeEntrypoint, parts: str, code: int, says: str
) -> None:
    gpu = {"HIGGS_DEVICE": "gpu", "LD_LIBRARY_PATH": str(nvml), "FAKE_NVML": parts}
    run = start("--quantization=fp8", **gpu)
    assert run.end() == code
    assert says in run.lines[-1] and run.lines[-1].startswith("higgs: ERROR: ")
