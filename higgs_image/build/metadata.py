"""What the image says about itself: its labels, and the file that the server reads."""

from __future__ import annotations

import json

from higgs_image.build.overrides import Overrides
from higgs_image.build.patches.apply import Patched
from higgs_image.labels import LABEL, ONLY_GPUS, VARIANT
from higgs_image.lockfile import Lock


def image_json(
    lock: Lock, cuda: str, patched: Patched, overrides: Overrides, gpus: list[str]
) -> str:
    """Return what the image knows about itself at run time: weights, patches, GPUs, origin."""
    facts = {
        "tag": lock.tag + overrides.mark,
        "variant": lock.variant,
        "cuda": cuda,
        "lock_sha256": lock.sha256,
        "fork": {"url": lock.fork.url, "commit": lock.fork.commit},
        "weights": {x.role: {"repo": x.repo, "revision": x.revision} for x in lock.weights},
        "patches": patched.patches,
        "gpus": gpus,
    }
    return json.dumps(facts, indent=1) + "\n"


def labels(lock: Lock, patched: Patched, overrides: Overrides, gpus: list[str]) -> dict[str, str]:
    """Return the image's labels: OCI's standard annotation keys first, then our own."""
    base = overrides.base_image or lock.base.reference
    name, _, digest = base.partition("@")
    oci = {
        "title": "higgs-audio-vllm",
        "description": "Higgs Audio v2 speech server (vLLM, OpenAI-compatible API)",
        "source": lock.project.url if lock.project else lock.fork.url,
        # Of the source, so of the fork only: this project's commit is in the provenance, as each
        # commit would else give another digest.
        "revision": "" if lock.project else lock.fork.commit,
        "version": lock.tag,
        "created": lock.fork.date.isoformat(),
        "licenses": "Apache-2.0",
        "documentation": lock.project.url if lock.project else "",
        "base.name": name,
        "base.digest": digest,
    }
    own = {
        LABEL + "lock-sha256": lock.sha256,
        LABEL + "fork": f"{lock.fork.url} {lock.fork.commit}",
        LABEL + "vllm-base": f"{lock.vllm.ref} {lock.vllm.commit}",
        LABEL + "submodule": f"{lock.submodule.url} {lock.submodule.commit}",
        LABEL + "wheel-sha256": lock.wheel.sha256,
        VARIANT: lock.variant,
        LABEL + "kernels": f"{x.name} {x.version}" if (x := lock.kernels) else "",
        LABEL + "kernels-sha256": lock.kernels.sha256 if lock.kernels else "",
        LABEL + "requirements-sha256": lock.python.requirements_sha256,
        LABEL + "patches": " ".join(f"{x['name']}@{x['sha256'][:7]}" for x in patched.patches),
        LABEL + "gpus": " ".join(gpus),
        ONLY_GPUS: " ".join(overrides.gpus),
    }
    standard = {f"org.opencontainers.image.{k}": v for k, v in oci.items() if v}
    return standard | {k: v for k, v in own.items() if v} | overrides.labels()
