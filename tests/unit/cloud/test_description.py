"""deploy/template.toml: strict, free of secrets, and in step with the image."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path

import pytest
from higgs_runtime import device_code, gpu, settings_table
from higgs_runtime.nvml import Gpu, GpuMachine

from higgs_image.cloud import cards, description
from higgs_image.cloud.pod.server import _GPU
from higgs_image.errors import UsageError
from higgs_image.oci.container_spec import PORT
from higgs_image.workspace import PROJECT

FOUND = description.load(PROJECT)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / "deploy").mkdir()
    shutil.copy(PROJECT / description.FILE, tmp_path / description.FILE)
    return tmp_path


WRONG = [
    ('name = "Higgs Audio v2"', 'name = ""', "length >= 1"),
    ("size_gb = 30", "size_gb = 20", ">= 30"),
    ("ssh = false", 'ssh = "no"', "Expected `bool`"),
    ("ssh = false", "ssg = false", "unknown field `ssg`"),
    ('["8000/http", "8888/http"]', "[]", "length >= 1"),
    ('["8000/http", "8888/http"]', '["8000"]', "matching regex"),
    ('"8888/http"]', '"8888/http", "22/tcp"]', "published by ssh = true"),
    ('"8888/http"]', '"8889/http"]', "HIGGS_GENERATE_PORT is 8888, and ports lack 8888/http"),
    ('reference = "digest"', 'reference = "latest"', "Invalid enum value"),
    ("[container.environment]", '[container.environment]\nHF_TOKEN = "hf_x"', "is a secret"),
    ("[container.environment]", '[container.environment]\nHIGGS_API_KEY = "x"',
     "both a variable and a secret"),
    ('known = ["12.4"', 'known = ["12.2", "12.4"', "CUDA 12.2 is below the minimum 12.4"),
    ("price_cap = 1.00", "price_cap = 0.0", "> 0"),
    ("[gpu]", "[gpu", "Expected"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "message"), WRONG)
def test_wrong_values_are_named(old: str, new: str, message: str, checkout: Path) -> None:
    path = checkout / description.FILE
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(UsageError, match=r"^deploy/template\.toml: ") as found:
        description.load(checkout)
    assert message in found.value.message and found.value.hint


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        description.load(tmp_path)


def test_versions_are_compared_by_their_numbers() -> None:
    assert description.version("12.11") > description.version("12.2")


def test_the_image_can_use_what_is_described() -> None:
    """Port, volume, variables, GPUs and CUDA are those of the entrypoint and of the recipe."""
    assert f"{PORT}/http" in FOUND.container.ports and FOUND.storage.path == "/workspace"
    known = {row.name for row in settings_table.TABLE}
    assert {*FOUND.container.environment, *FOUND.container.secrets} <= known
    layers = tomllib.loads((PROJECT / "docker" / "layers.toml").read_text())
    assert FOUND.gpu.capabilities == layers["gpus"]
    assert FOUND.cuda.minimum == device_code.CUDA
    assert FOUND.gpu.memory_gb * 1000 >= gpu.SMALLEST_MIB


def test_the_readme_names_the_secret() -> None:
    for secret in FOUND.container.secrets.values():
        assert f"`{secret}`" in FOUND.readme.text


def test_the_card_is_read_from_the_entrypoints_own_line() -> None:
    """As docker/runtime writes it, so that a record names card and driver."""
    machine = GpuMachine("550.54.14", 12_040, (Gpu("NVIDIA L40S", 46_068, 45_000, (8, 9)),))
    for count in (1, 2):
        line = f"higgs: {gpu.describe(machine._replace(gpus=machine.gpus * count), 1)}"
        found = _GPU.search(f"higgs: image x\n{line}\nhiggs: more")
        assert found and (found["name"], found["driver"]) == ("NVIDIA L40S", "550.54.14")
    assert cards.capability("NVIDIA L40S") == "8.9"
