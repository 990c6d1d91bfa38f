"""Render the files of RunPod's hub, which lists a repository: hub.json, tests.json, Dockerfile.

Their fields are from https://docs.runpod.io/hub/publishing-guide; no schema of them is public.
"""

from __future__ import annotations

import json
from typing import Any

from higgs_image.cloud.description import TemplateDescription
from higgs_image.cloud.runpod import render
from higgs_image.cloud.runpod.render import WorkerGpus

SECONDS = 1800
"""How long a test of the hub may take: it pulls the image, and downloads the weights."""


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
    variables = render.worker_environment(description)
    env = [{"key": name, "value": value} for name, value in variables.items()]
    listing = {
        "title": heading.lstrip("# "),
        "description": about.strip().split("\n", 1)[0],
        "type": "serverless",
        "category": "audio",
        "config": {
            "runsOn": "GPU",
            "endpointType": "LB",  # load-balanced, and as a pod
            "containerDiskInGb": description.whole_disk_gb,
            "gpuCount": description.gpu.count,
            "gpuIds": ",".join([*gpus.pools, *(f"-{x}" for x in gpus.excluded)]),
            "allowedCudaVersions": description.cuda.known,
            "env": env,
        },
    }
    speech = {"model": "higgs-audio-v2", "voice": "belinda", "input": "Hello.",
              "response_format": "wav"}  # fmt: skip
    tests = {
        "tests": [{"name": "speaks", "input": speech, "timeout": SECONDS * 1000}],
        "config": {
            "gpuTypeId": tested,
            "gpuCount": description.gpu.count,
            "env": env,
            "allowedCudaVersions": description.cuda.known,
        },
    }
    return {
        "hub.json": _text(listing),
        "tests.json": _text(tests),
        "Dockerfile": f"FROM {image}\n",
    }


def _text(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
