"""Our types against RunPod's own OpenAPI file, where HIGGS_RUNPOD_OPENAPI names it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, get_args

import msgspec
import pytest

from higgs_image.cloud import description
from higgs_image.cloud.runpod import endpoint_schema, render, schema
from higgs_image.cloud.runpod.render import WorkerGpus
from higgs_image.workspace import PROJECT
from tests.support.runpod import contract

OURS = [
    value
    for value in contract.OURS.values()
    if isinstance(value, type)
    and issubclass(value, schema.Request | schema.Answer)
    and value not in (schema.Request, schema.Answer, schema.Resource)
]
NAMES = {
    "ContainerFields": "ContainerConfig",
    "PodGpu": "GpuConfig",
    "RequestUrls": "LoadBalancingRequestUrls",
    "GpuPrice": "GpuType.price",
}
"""Ours that have another name there."""
ALIASES = {"Cloud": schema.Cloud, "AvailabilityLevel": schema.Availability,
           "PodStatus": schema.PodStatus, "LogSource": schema.LogSource,
           "EndpointType": endpoint_schema.EndpointType,
           "WorkerStatus": endpoint_schema.WorkerStatus}  # fmt: skip

needs_contract = pytest.mark.skipif(
    contract.openapi() is None, reason=f"{contract.VARIABLE} does not name RunPod's OpenAPI file"
)


def theirs(name: str) -> dict[str, Any]:
    """Return the properties of a schema, with those that it takes over, and what is required."""
    document = contract.openapi()
    assert document is not None
    name, _, part = name.partition(".")
    found = document["components"]["schemas"][name]
    if part:
        found = found["properties"][part]
    properties: dict[str, Any] = {}
    required: set[str] = set()

    def collect(one: dict[str, Any]) -> None:
        if "$ref" in one:
            collect(document["components"]["schemas"][one["$ref"].rpartition("/")[2]])
        properties.update(one.get("properties", {}))
        required.update(one.get("required", []))
        for other in one.get("allOf", []):
            collect(other)

    collect(found)
    return {"properties": properties, "required": required}


def resolved(value: dict[str, Any]) -> dict[str, Any]:
    document = contract.openapi()
    assert document is not None
    while "$ref" in value or "allOf" in value:
        if "allOf" in value:
            value = value["allOf"][0]
        else:
            value = document["components"]["schemas"][value["$ref"].rpartition("/")[2]]
    return value


@needs_contract
@pytest.mark.parametrize("ours", OURS, ids=lambda x: x.__name__)
def test_each_type_fits_the_contract(ours: type[msgspec.Struct]) -> None:
    """Known fields, the required ones set, and the same ranges and patterns."""
    name = NAMES.get(ours.__name__, ours.__name__)
    if name == "LogEvent":
        pytest.skip("the contract describes it in words only")
    there = theirs(name)
    generated = msgspec.json.schema_components([ours])[1][ours.__name__]
    fields = generated["properties"]
    assert set(fields) <= set(there["properties"])
    required = set(generated.get("required", []))
    if issubclass(ours, schema.Request):
        assert there["required"] <= required
    else:
        assert required <= there["required"], "an answer may come without it"
    for field, mine in fields.items():
        their = resolved(there["properties"][field])
        for word in ("minimum", "minLength", "pattern", "maxItems"):
            if issubclass(ours, schema.Request):
                assert mine.get(word) == their.get(word), f"{field}: {word}"


@needs_contract
@pytest.mark.parametrize("name", ALIASES)
def test_words_are_those_of_the_contract(name: str) -> None:
    document = contract.openapi()
    assert document is not None
    assert document["components"]["schemas"][name]["enum"] == list(get_args(ALIASES[name]))


def bodies() -> Iterator[tuple[str, dict[str, Any]]]:
    found = description.load(PROJECT)
    for serverless in (False, True):
        made = render.template(found, "ghcr.io/o/i:1@sha256:" + "a" * 64, serverless=serverless)
        yield "CreateTemplateRequest", msgspec.to_builtins(made)
        yield "UpdateTemplateRequest", msgspec.to_builtins(made)
    pod = render.pod(found, "ghcr.io/o/i:1", "name", "NVIDIA L40S", {"A": "b"})
    yield "CreatePodRequest", msgspec.to_builtins(pod)
    gpus = WorkerGpus(["ADA_24"], ["NVIDIA L4"])
    endpoint = msgspec.to_builtins(render.endpoint(found, "ghcr.io/o/i:1", gpus))
    yield "CreateEndpointRequest", endpoint
    yield "UpdateEndpointRequest", {k: v for k, v in endpoint.items() if k != "type"}


@pytest.mark.parametrize(("name", "body"), list(bodies()))
def test_what_is_rendered_is_valid(name: str, body: dict[str, Any]) -> None:
    assert contract.faults(name, json.loads(json.dumps(body))) == []


WRONG: list[tuple[str, dict[str, Any]]] = [
    ("CreateTemplateRequest", {"name": ""}),
    ("CreateTemplateRequest", {"disk": 0}),
    ("CreateTemplateRequest", {"minCudaVersion": "12.4"}),
    ("CreateTemplateRequest", {"readme": "x"}),
    ("CreateTemplateRequest", {"allowedCudaVersions": ["12"]}),
    ("CreateTemplateRequest", {"mounts": {"persistent": {"size": 9, "path": "/workspace"}}}),
    ("CreateTemplateRequest", {"mounts": {"network": []}}),
    ("CreatePodRequest", {"gpu": {"id": "x", "minCudaVersion": "12"}}),
    ("CreatePodRequest", {"gpu": {"id": "x", "count": 0}}),
    ("CreatePodRequest", {"cloud": "ALL"}),
    ("CreatePodRequest", {"env": {"A": 1}}),
    ("CreatePodRequest", {"category": "NVIDIA"}),
    ("CreateEndpointRequest", {"type": "BALANCED"}),
    ("CreateEndpointRequest", {"scaling": {"type": "QUEUE_DELAY", "queueDelay": 4}}),
    ("CreateEndpointRequest", {"scaling": {"type": "REQUEST_COUNT", "requestCount": 0}}),
    ("CreateEndpointRequest", {"workers": {"min": 0, "max": 3, "idleTimeout": 3601}}),
    ("CreateEndpointRequest", {"gpu": {"pools": []}}),
    ("CreateEndpointRequest", {"gpu": {"pools": ["x"], "minCudaVersion": "12"}}),
    ("CreateEndpointRequest", {"mounts": {}}),
    ("UpdateEndpointRequest", {"type": "LOAD_BALANCER"}),
]


@pytest.mark.parametrize(("name", "change"), WRONG)
def test_what_the_contract_refuses_is_refused_here(
    name: str, change: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By our types, and by the contract where it is there: both see the same faults."""
    body = next(body for known, body in bodies() if known == name) | change
    assert contract.faults(name, body) != []
    monkeypatch.delenv(contract.VARIABLE, raising=False)
    assert contract.faults(name, body) != []
