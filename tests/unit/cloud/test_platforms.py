"""Templates for other platforms, from the same file as RunPod's."""

from __future__ import annotations

import json
import re
import shlex
from typing import Any

import msgspec
import pytest
from higgs_runtime import gpu

from higgs_image.cloud import description, vast
from higgs_image.cloud.runpod import hub
from higgs_image.cloud.runpod.render import WorkerGpus
from higgs_image.workspace import PROJECT

FOUND = description.load(PROJECT)
DIGEST = "sha256:" + "a" * 64
IMAGE = f"ghcr.io/o/higgs-audio-vllm:20261127-1@{DIGEST}"
GPUS = WorkerGpus(["ADA_24", "ADA_48_PRO"], ["NVIDIA L4"])


def rendered(image: str = IMAGE) -> dict[str, Any]:
    return dict(msgspec.to_builtins(vast.template(FOUND, image)))


@pytest.mark.parametrize(
    ("image", "name", "tag"),
    [
        (IMAGE, "ghcr.io/o/higgs-audio-vllm", f"20261127-1@{DIGEST}"),
        ("ghcr.io/o/i:custom", "ghcr.io/o/i", "custom"),
        (f"ghcr.io/o/i@{DIGEST}", f"ghcr.io/o/i@{DIGEST}", ""),
        ("127.0.0.1:5000/o/i:1", "127.0.0.1:5000/o/i", "1"),
    ],
)
def test_vast_gets_name_and_tag_apart(image: str, name: str, tag: str) -> None:
    found = rendered(image)
    assert (found["image"], found["tag"]) == (name, tag)
    assert f"{found['image']}:{found['tag']}".removesuffix(":") == image


def test_vast_runs_the_images_own_entrypoint() -> None:
    found = rendered()
    assert (found["runtype"], found["args_str"]) == ("args", FOUND.container.arguments)
    flags = shlex.split(found["env"])
    pairs = list(zip(flags[::2], flags[1::2], strict=True))
    ports = [port.partition("/")[0] for port in FOUND.container.ports]
    assert [value for flag, value in pairs if flag == "-p"] == [f"{x}:{x}" for x in ports]
    variables = dict(value.split("=", 1) for flag, value in pairs if flag == "-e")
    assert variables == FOUND.container.environment
    assert not set(FOUND.container.secrets) & set(variables)


def test_values_with_spaces_stay_one_flag() -> None:
    environment = FOUND.container.environment | {"HIGGS_EXTRA_ARGS": "--seed 7 'a b'"}
    container = msgspec.structs.replace(FOUND.container, environment=environment, ssh=True)
    found = vast.template(msgspec.structs.replace(FOUND, container=container), IMAGE)
    assert "HIGGS_EXTRA_ARGS=--seed 7 'a b'" in shlex.split(found.env)
    assert "-p 22:22" in found.env


def test_vast_takes_machines_on_which_the_image_runs() -> None:
    found = rendered()["extra_filters"]
    assert found["compute_cap"] == {"in": [800, 860, 890, 900]}
    assert found["cuda_max_good"] == {"gte": 12.4}
    assert gpu.SMALLEST_MIB <= found["gpu_ram"]["gte"] <= 23_034, "an L4 has no more"
    assert found["disk_space"]["gte"] == rendered()["recommended_disk_space"] == 50


def test_the_search_asks_for_the_same() -> None:
    words = shlex.split(vast.search(FOUND))
    assert words[:3] == ["vastai", "search", "offers"]
    asked = re.findall(r"\w+(?:>=|=| in )\S+", words[3])
    assert " ".join(asked) == words[3]
    assert len(asked) == len(vast.filters(FOUND))
    assert words[3] in (PROJECT / "docs" / "vast.md").read_text()


def test_the_hub_deploys_the_promoted_image() -> None:
    files = hub.files(FOUND, IMAGE, GPUS, "NVIDIA L40S")
    listing, tests = json.loads(files["hub.json"]), json.loads(files["tests.json"])
    assert files["Dockerfile"] == f"FROM {IMAGE}\n"
    config = listing["config"]
    assert {"title", "description", "type", "category", "config"} <= listing.keys()
    assert (listing["type"], listing["category"]) == ("serverless", "audio")
    assert (config["runsOn"], config["endpointType"]) == ("GPU", "LB")
    assert config["gpuIds"] == "ADA_24,ADA_48_PRO,-NVIDIA L4"
    assert config["containerDiskInGb"] == 50
    assert {"key": "PORT", "value": "8000"} in config["env"]
    assert tests["config"]["gpuTypeId"] == "NVIDIA L40S"
    assert tests["tests"][0].keys() == {"name", "input", "timeout"}
    assert "RUNPOD_SECRET" not in str(files), "another account does not have it"
