"""Render the files of RunPod's hub, which lists a repository: hub.json, tests.json, Dockerfile.

Their fields are from https://docs.runpod.io/hub/publishing-guide; no schema of them is public.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from higgs_image.cloud.description import TemplateDescription
from higgs_image.cloud.runpod import render
from higgs_image.cloud.runpod.render import WorkerGpus
from higgs_image.cloud.runpod.schema import PositiveInt, Request

SECONDS = 1800
"""How long a test of the hub may take: it pulls the image, and downloads the weights."""


class HubVariable(Request, frozen=True, kw_only=True):
    """A variable with a fixed value."""

    key: str
    value: str


class HubConfig(Request, frozen=True, kw_only=True):
    """How the hub deploys it.

    Attributes:
        endpoint_type: LB: load-balanced, and as a pod.
        gpu_ids: pools, and GPU types of them with a minus before that are left out.
    """

    runs_on: Literal["GPU"]
    endpoint_type: Literal["LB"]
    container_disk_in_gb: PositiveInt
    gpu_count: PositiveInt
    gpu_ids: str
    allowed_cuda_versions: list[str]
    env: list[HubVariable]


class HubListing(Request, frozen=True, kw_only=True):
    """hub.json."""

    title: str
    description: str
    type: Literal["serverless"]
    category: Literal["audio"]
    config: HubConfig


class HubTest(Request, frozen=True, kw_only=True):
    """A request of the hub's own test.

    Attributes:
        timeout: milliseconds.
    """

    name: str
    input: dict[str, Any]
    timeout: PositiveInt


class HubTestConfig(Request, frozen=True, kw_only=True):
    """Where the hub tests it."""

    gpu_type_id: str
    gpu_count: PositiveInt
    env: list[HubVariable]
    allowed_cuda_versions: list[str]


class HubTests(Request, frozen=True, kw_only=True):
    """tests.json."""

    tests: Annotated[list[HubTest], msgspec.Meta(min_length=1)]
    config: HubTestConfig


def files(
    description: TemplateDescription, image: str, gpus: WorkerGpus, tested: str
) -> dict[str, str]:
    """Return the content of every file of .runpod, by its name.

    Args:
        description: the container.
        image: its full name.
        gpus: of the workers.
        tested: GPU type on which the hub is to test it.
    """
    heading, about = description.readme.text.strip().split("\n", 1)
    env = [HubVariable(key=k, value=v) for k, v in render.worker_environment(description).items()]
    versions = description.cuda.known
    listing = HubListing(
        title=heading.lstrip("# "),
        description=about.strip().split("\n", 1)[0],
        type="serverless",
        category="audio",
        config=HubConfig(
            runs_on="GPU",
            endpoint_type="LB",
            container_disk_in_gb=render.worker_disk_gb(description),
            gpu_count=description.gpu.count,
            gpu_ids=",".join([*gpus.pools, *(f"-{x}" for x in gpus.excluded)]),
            allowed_cuda_versions=versions,
            env=env,
        ),
    )
    speech = {"model": "higgs-audio-v2", "voice": "belinda", "input": "Hello.",
              "response_format": "wav"}  # fmt: skip
    tests = HubTests(
        tests=[HubTest(name="speaks", input=speech, timeout=SECONDS * 1000)],
        config=HubTestConfig(
            gpu_type_id=tested,
            gpu_count=description.gpu.count,
            env=env,
            allowed_cuda_versions=versions,
        ),
    )
    return {
        "hub.json": _text(listing),
        "tests.json": _text(tests),
        "Dockerfile": f"FROM {image}\n",
    }


def _text(value: Request) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n"
