"""Where an image comes from, as SLSA v1 provenance: the project's commit, the lock, every pin.

BuildKit's own statement (what was run, in which steps) is kept beside it, unchanged. Both say what
the builder says of itself: they prove as much as the signature on them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from packaging.utils import canonicalize_name

from higgs_image.labels import LABEL
from higgs_image.lockfile import Lock, versions
from higgs_image.oci.layout import BuiltImage

BUILD_TYPE = "urn:higgs-image:build:v1"
"""What `externalParameters` and the rest mean; images built before have another URI, which says
the same, and nothing compares it."""

PREDICATE_TYPE = "https://slsa.dev/provenance/v1"


def predicate(built: BuiltImage, lock: Lock, invocation: str) -> dict[str, Any]:
    """Return the provenance of a built image.

    Args:
        built: the image.
        lock: what it was built from.
        invocation: the run of a workflow, or who built it.
    """
    checkout = built.checkout
    overrides = {
        key: value
        for key, value in built.image.labels.items()
        if key in (LABEL + "overrides", LABEL + "extra-ca-sha256")
    }
    dependencies: list[dict[str, Any]] = [
        _git(checkout.url or "", checkout.commit or "", "project"),
        _git(lock.fork.url, lock.fork.commit, "fork"),
        _git(lock.submodule.url, lock.submodule.commit, "submodule"),
        _base(built.image.labels),
        *({"name": x.filename, "digest": {"sha256": x.sha256}} for x in lock.wheels),
        {"name": lock.python.requirements, "digest": {"sha256": lock.python.requirements_sha256}},
    ]
    return {
        "buildDefinition": {
            "buildType": BUILD_TYPE,
            "externalParameters": {
                "lock": {"sha256": lock.sha256},
                "variant": lock.variant,
                "compression": built.compression,
                "overrides": overrides,
            },
            "internalParameters": {"workTreeClean": checkout.clean},
            "resolvedDependencies": [x for x in dependencies if x.get("digest") != {}],
        },
        "runDetails": {
            "builder": {"id": builder_id()},
            "metadata": {"invocationId": invocation},
        },
    }


def builder_id() -> str:
    """Return the builder: the workflow in Actions, else only that it was a local machine."""
    workflow = os.environ.get("GITHUB_WORKFLOW_REF")
    server = os.environ.get("GITHUB_SERVER_URL", "https://github.com")
    return f"{server}/{workflow}" if workflow else "urn:higgs-image:local"


def _git(url: str, commit: str, name: str) -> dict[str, Any]:
    digest = {"gitCommit": commit} if commit else {}
    return {"name": name, "uri": f"git+{url}" if url else "", "digest": digest}


def _base(labels: Mapping[str, str]) -> dict[str, Any]:
    prefix = "org.opencontainers.image.base."
    digest = labels.get(prefix + "digest", "").removeprefix("sha256:")  # empty for a tag
    uri = f"pkg:docker/{labels.get(prefix + 'name', '')}"
    return {"name": "base image", "uri": uri, "digest": {"sha256": digest} if digest else {}}


def disagreements(document: dict[str, Any], lock: Lock) -> list[str]:
    """Return where a provenance and the lock disagree, one line each."""
    definition = document["buildDefinition"]
    found = []
    built_from = definition["externalParameters"]["lock"]["sha256"]
    if built_from != lock.sha256:
        found.append(f"it was built from the lock {built_from[:7]}, this one is {lock.sha256[:7]}")
    digests = {x["name"]: set(x["digest"].values()) for x in definition["resolvedDependencies"]}
    wanted = {
        "fork": lock.fork.commit,
        "submodule": lock.submodule.commit,
        "base image": lock.base.digest.removeprefix("sha256:"),
        lock.python.requirements: lock.python.requirements_sha256,
    } | {wheel.filename: wheel.sha256 for wheel in lock.wheels}
    found += [
        f"{name} is {', '.join(sorted(digests.get(name, {'missing'})))}, locked is {value}"
        for name, value in wanted.items()
        if digests.get(name) != {value}
    ]
    return found


def package_disagreements(found: dict[str, str], lock: Lock) -> list[str]:
    """Compare the Python packages of an SBOM with the lock.

    Args:
        found: from `sbom.versions`.
        lock: the lock.

    Returns:
        One line for each package that is missing, extra or of another version.
    """
    pinned = versions(lock.file(lock.python.requirements).read_text())
    locked = {name: set(found.split(", ")) for name, found in pinned.items()}
    wheels = [(canonicalize_name(x.name), x.version) for x in lock.wheels]
    locked |= {name: {", ".join(sorted(v for n, v in wheels if n == name))} for name, _ in wheels}
    there = {x.removeprefix("pypi "): v for x, v in found.items() if x.startswith("pypi ")}
    return [
        f"{name}: in the image {there.get(name, 'absent')}, "
        f"locked {' or '.join(sorted(locked.get(name, {'not at all'})))}"
        for name in sorted(there.keys() | locked.keys())
        if there.get(name) not in locked.get(name, set())
    ]


def encode(document: dict[str, Any]) -> bytes:
    """Return a document as JSON; equal documents give equal bytes."""
    return json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False).encode() + b"\n"
