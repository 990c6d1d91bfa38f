"""What RunPod's API allows: its own OpenAPI file where there is one, otherwise our types.

HIGGS_RUNPOD_OPENAPI names the file (OpenAPI 3.1, so its schemas are JSON Schema 2020-12). It is
RunPod's and not part of this repository.
"""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path
from typing import Any

import jsonschema
import msgspec

from higgs_image.cloud.runpod import endpoint_schema, schema

VARIABLE = "HIGGS_RUNPOD_OPENAPI"
OURS = vars(schema) | vars(endpoint_schema)


def openapi() -> dict[str, Any] | None:
    """Return RunPod's file; None where nothing names it."""
    path = os.environ.get(VARIABLE)
    return _load(path) if path else None


@functools.cache
def _load(path: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(path).read_bytes())
    return found


def faults(name: str, value: object) -> list[str]:
    """Return how a value breaks a schema of the contract.

    Args:
        name: of the schema, such as CreatePodRequest.
        value: as JSON has it.
    """
    if openapi() is not None:
        found = _validator(name).iter_errors(value)
        return [f"{error.json_path}: {error.message}" for error in found]
    try:
        msgspec.convert(value, OURS[name])
    except msgspec.ValidationError as error:
        return [f"$: {error}"]
    return []


@functools.cache
def _validator(name: str) -> jsonschema.Draft202012Validator:
    document = openapi()
    assert document is not None
    return jsonschema.Draft202012Validator(
        {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
    )
