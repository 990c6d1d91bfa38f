"""GPUs of a fake NVML: accepted, limited, refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from higgs_runtime import device_code, errors, gpu
from higgs_runtime import nvml as nvml_module
from higgs_runtime.nvml import GpuMachine

from higgs_image.workspace import PROJECT
from tests.unit.runtime import conftest
from tests.unit.runtime.conftest import (
    A100_40,
    A100_80,
    B200,
    DRIVER,
    H100,
    L40S,
    RTX_4080,
    RTX_4090,
    RTX_5090,
    T4,
)

Probe = Callable[..., GpuMachine]


@pytest.fixture
def probe(nvml: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Probe]:
    """Return a function that probes the described GPUs."""
    monkeypatch.setattr(nvml_module, "LIBRARY", str(nvml / "libnvidia-ml.so.1"))

    def found(*parts: str, **environment: str) -> GpuMachine:
        os.environ["FAKE_NVML"] = ";".join(parts)
        return nvml_module.probe(environment)

    yield found
    os.environ.pop("FAKE_NVML", None)


@pytest.mark.parametrize(
    ("card", "expected", "cascade"),
    [
        (RTX_4090, (0.82, 16384, 64, 30), False),
        ("gpu=NVIDIA GeForce RTX 3090,24576,24100,8,6", (0.82, 16384, 64, 30), False),
        ("gpu=NVIDIA L4,23034,22490,8,9", (0.82, 16384, 64, 30), False),
        ("gpu=NVIDIA A10G,23028,22500,8,6", (0.82, 16384, 64, 30), False),
        ("gpu=NVIDIA RTX 5000 Ada Generation,32760,32300,8,9", (0.85, 16384, 64, 30), False),
        (A100_40, (0.90, 16384, 128, 60), False),
        (L40S, (0.90, 16384, 128, 60), False),
        ("gpu=NVIDIA RTX A6000,49140,48500,8,6", (0.90, 16384, 128, 60), False),
        (A100_80, (0.90, 16384, 256, 60), False),
        (H100, (0.90, 16384, 256, 60), True),
        ("gpu=NVIDIA H200,143771,143000,9,0", (0.90, 16384, 256, 60), True),
    ],
)
def test_defaults_by_card(
    probe: Probe, card: str, expected: tuple[float, int, int, int], cascade: bool
) -> None:
    machine = probe(DRIVER, card)
    assert gpu.check(machine, 1) == []
    assert gpu.defaults(machine)[1:] == expected
    assert gpu.merges_attention(machine, {}) == cascade


def test_cascade_attention_needs_every_gpu_to_be_hopper(probe: Probe) -> None:
    assert gpu.merges_attention(probe(DRIVER, H100, H100), {})
    assert not gpu.merges_attention(probe(DRIVER, H100, A100_80), {})
    assert not gpu.merges_attention(probe(DRIVER, "gpu=NVIDIA H100 MIG,0,0,0,0"), {})
    assert not gpu.merges_attention(None, {})


def test_cascade_attention_needs_flash_attention_3(probe: Probe) -> None:
    assert not gpu.merges_attention(probe(DRIVER, H100), {"VLLM_FLASH_ATTN_VERSION": "2"})
    assert gpu.merges_attention(probe(DRIVER, H100), {"VLLM_FLASH_ATTN_VERSION": "3"})


def test_probe_reads_driver_and_gpus(probe: Probe) -> None:
    machine = probe(DRIVER, RTX_4090, H100)
    assert (machine.driver, machine.cuda) == ("550.90.07", 12040)
    assert machine.gpus[0] == ("NVIDIA GeForce RTX 4090", 24564, 24000, (8, 9))
    assert gpu.describe(machine, 2) == "NVIDIA GeForce RTX 4090, 24.0 GiB, driver 550.90.07"
    assert "1 more GPU is not used" in gpu.describe(machine, 1)


@pytest.mark.parametrize(
    ("parts", "kind", "says"),
    [
        ([DRIVER, RTX_5090], errors.UnsupportedGpuError, r"RTX 5090 \(sm_120\).*Blackwell"),
        ([DRIVER, B200], errors.UnsupportedGpuError, r"B200 \(sm_100\).*Blackwell"),
        ([DRIVER, T4], errors.UnsupportedGpuError, r"Tesla T4 \(sm_75\).*bfloat16"),
        (
            [DRIVER, RTX_4080],
            errors.GpuTooSmallError,
            r"RTX 4080 has 16\.0 GiB of memory.*needs 21\.5",
        ),
        (
            [DRIVER, "gpu=NVIDIA GeForce RTX 4090,24564,9000,8,9"],
            errors.GpuTooSmallError,
            r"has 8\.8 GiB of memory free",
        ),
        (
            ["driver=535.183.01;cuda=12020", RTX_4090],
            errors.DriverTooOldError,
            r"driver 535\.183\.01 supports CUDA up to 12\.2, the image needs 12\.4",
        ),
    ],
)
def test_refusals(probe: Probe, parts: list[str], kind: type[errors.StartError], says: str) -> None:
    found = check(probe(*parts), 1)[0]
    assert type(found) is kind and found.hint
    with pytest.raises(kind, match=says):
        raise found


def check(machine: GpuMachine, tensor_parallel: int) -> list[errors.StartError]:
    """Return all that an image for all cards before Blackwell says."""
    found = device_code.check(machine, tensor_parallel, conftest.IMAGE, {})
    return found + gpu.check(machine, tensor_parallel)


def test_exit_codes_are_unique() -> None:
    known: list[Any] = [x for x in vars(errors).values() if isinstance(x, type)]
    kinds = [x for x in known if x is not errors.StartError]
    codes = [kind.exit_code for kind in kinds]
    assert len(set(codes)) == len(codes) and not {0, 1, 70, 126, 127, 137} & set(codes)


def test_tensor_parallel(probe: Probe) -> None:
    two, four = probe(DRIVER, H100, H100), probe(DRIVER, *4 * [H100])
    assert gpu.check(two, 1) == gpu.check(two, 2) == gpu.check(four, 2) == []
    for number in (3, 4):
        [found] = gpu.check(four, number)
        assert isinstance(found, errors.TensorParallelError)
        assert f"over {number} GPUs is not known to work: with 4" in found.message
        assert "one container for each GPU" in found.hint
    with pytest.raises(errors.SettingError, match="is 2, but the container sees 1 GPU"):
        gpu.check(probe(DRIVER, H100), 2)
    assert len(check(probe(DRIVER, H100, RTX_5090), 2)) == 1, "every used GPU is checked"
    assert check(probe(DRIVER, H100, RTX_5090), 1) == []


def test_a_gpu_that_the_image_has_no_code_for(probe: Probe) -> None:
    facts = conftest.IMAGE._replace(
        tag="20260102-1234567-89abcde-sm86-sm89-dev-1234567", gpus=frozenset({"8.9", "8.6"})
    )
    assert device_code.check(probe(DRIVER, RTX_4090), 1, facts, {}) == []
    assert device_code.check(probe(DRIVER, RTX_4090, H100), 1, facts, {}) == []
    [found] = device_code.check(probe(DRIVER, RTX_4090, H100), 2, facts, {})
    assert found.message == (
        "NVIDIA H100 80GB HBM3 has compute capability 9.0, and this image has code for 8.6, 8.9 "
        "only"
    )
    assert "such as 20260102-1234567-89abcde-dev-1234567; it has code for all" in found.hint
    whole = conftest.IMAGE._replace(gpus=frozenset({"8.0", "8.6"}))
    [found] = device_code.check(probe(DRIVER, RTX_4090), 1, whole, {})
    assert "rent a GPU" in found.hint and "8.0, 8.6" in found.hint
    assert device_code.check(probe(DRIVER, RTX_4090), 1, conftest.IMAGE, {}) == []
    unknown = probe(DRIVER, "gpu=NVIDIA H100 MIG 3g.40gb,0,0,0,0")
    assert device_code.check(unknown, 1, facts, {}) == []


def test_no_gpu(probe: Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(errors.NoGpuError, match="shows no GPU to this container"):
        probe(DRIVER)
    for code, says in ((9, "not loaded"), (18, "reboot the host"), (999, "returned 999")):
        with pytest.raises(errors.NoGpuError, match=says):
            probe(f"init={code}")
    monkeypatch.setattr(nvml_module, "LIBRARY", "libno-such-library.so.1")
    with pytest.raises(errors.NoGpuError, match="sees no NVIDIA GPU") as caught:
        probe()
    assert "--gpus all" in caught.value.hint and "HIGGS_DEVICE=cpu" in caught.value.hint


def test_library_without_the_needed_functions(
    gcc: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "old.c"
    source.write_text("int nvmlInit_v2(void) { return 0; }")
    monkeypatch.setattr(nvml_module, "LIBRARY", str(tmp_path / "old.so"))
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", tmp_path / "old.so", source], check=True)
    with pytest.raises(errors.NoGpuError, match="does not report its GPUs"):
        nvml_module.probe({})


def test_visible_devices(probe: Probe) -> None:
    def names(visible: str) -> list[str]:
        machine = probe(DRIVER, RTX_4090, H100, L40S, CUDA_VISIBLE_DEVICES=visible)
        return [card.name.split()[-1] for card in machine.gpus]

    assert names("1") == ["HBM3"]
    assert names("2, 0") == ["L40S", "4090"]
    assert names("GPU-0000abc1") == ["HBM3"], "by a prefix of its UUID"
    assert names("0,7,1") == ["4090"], "entries after an invalid one are ignored"
    for nothing in ("", "-1", "NoDevFiles", "MIG-1234"):
        with pytest.raises(errors.NoGpuError):
            names(nothing)


def test_mig_slice_without_details(probe: Probe) -> None:
    machine = probe(DRIVER, "gpu=NVIDIA H100 MIG 3g.40gb,0,0,0,0")
    assert machine.gpus[0][1:] == (None, None, None)
    assert gpu.check(machine, 1) == []
    assert gpu.defaults(machine) == gpu.defaults(None) == gpu.DEFAULTS[0]


# --- the whole start


def start(nvml: Path, image_file: Path, *parts: str, **more: str) -> tuple[int, str, float]:
    """Start as the image does; returns exit code, last line of the log, and seconds."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(PROJECT / "docker/runtime"),
                   "LD_LIBRARY_PATH": str(nvml), "FAKE_NVML": ";".join(parts),
                   "HIGGS_IMAGE_FILE": str(image_file), "HF_ENDPOINT": "http://127.0.0.1:1",
                   "HF_HOME": str(image_file.parent / "hf"), "PORT": "0"} | more  # fmt: skip
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "higgs_runtime"], env=environment, capture_output=True, text=True
    )
    return (
        done.returncode,
        (done.stdout + done.stderr).strip().split("\n")[-1],
        (time.monotonic() - began),
    )


@pytest.mark.parametrize(
    ("parts", "code"),
    [
        ([DRIVER], 10),
        (["driver=535.183.01;cuda=12020", RTX_4090], 11),
        ([DRIVER, RTX_5090], 12),
        ([DRIVER, RTX_4080], 13),
        ([DRIVER, *4 * [A100_80]], 14),
    ],
)
def test_refusal_is_one_line_and_an_exit_code_before_any_download(
    nvml: Path, image_file: Path, parts: list[str], code: int
) -> None:
    more = {"HIGGS_TENSOR_PARALLEL_SIZE": "4"} if code == 14 else {}
    found, line, _ = start(nvml, image_file, *parts, PORT="18999", **more)
    assert found == code, line
    assert line.startswith("higgs: ERROR: ") and "; hint: " in line
    assert not (image_file.parent / "hf").exists()


def test_an_image_for_other_gpus_refuses_to_start(nvml: Path, image_file: Path) -> None:
    facts = json.loads(image_file.read_text()) | {"gpus": ["8.9"], "tag": "20260102-a-b-sm89"}
    image_file.write_text(json.dumps(facts))
    found, line, _ = start(nvml, image_file, DRIVER, H100, PORT="18997")
    assert found == errors.UnsupportedGpuError.exit_code
    assert (
        line.startswith("higgs: ERROR: NVIDIA H100")
        and "without -sm89, such as 20260102-a-b;" in line
    )
    found, line, _ = start(nvml, image_file, DRIVER, RTX_4090, PORT="18997", HIGGS_OFFLINE="1")
    assert found == errors.NotCachedError.exit_code, line


def test_force_overrides_a_refusal(nvml: Path, image_file: Path) -> None:
    found, line, _ = start(
        nvml, image_file, DRIVER, RTX_5090, PORT="18998", HIGGS_FORCE="1", HIGGS_OFFLINE="1"
    )
    assert found == errors.NotCachedError.exit_code, line


def test_thresholds_separate_the_cards() -> None:
    sizes = [int(part.split(",")[1]) for part in vars(conftest).values()
             if isinstance(part, str) and part.startswith("gpu=")]  # fmt: skip
    assert not [size for size in sizes if abs(size - gpu.SMALLEST_MIB) < 500]
    assert not [size for size in sizes if abs(size - gpu.LARGE_MIB) < 2000]
