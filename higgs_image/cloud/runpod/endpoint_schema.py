"""The part of RunPod's REST API v2 about serverless endpoints, as types: see schema.py."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from higgs_image.cloud.runpod.schema import (
    Answer,
    ContainerFields,
    CudaVersion,
    Filled,
    PositiveInt,
    Request,
    Resource,
)

EndpointType = Literal["QUEUE", "LOAD_BALANCER"]
WorkerStatus = Literal["RUNNING", "IDLE", "INITIALIZING", "THROTTLED", "UNHEALTHY"]
Natural = Annotated[int, msgspec.Meta(ge=0)]


class CreateEndpointGpuConfig(Request, frozen=True, kw_only=True):
    """GPUs of the workers; at most one of the CUDA limits.

    Attributes:
        pools: of the catalogue.
        excluded_types: GPU types of these pools that are not taken.
        count: for each worker.
    """

    pools: Annotated[list[str], msgspec.Meta(min_length=1)]
    excluded_types: list[Annotated[str, msgspec.Meta(pattern=r"^\s*[^-\s]")]] | UnsetType = UNSET
    count: PositiveInt = 1
    allowed_cuda_versions: list[CudaVersion] | UnsetType = UNSET
    min_cuda_version: CudaVersion | UnsetType = UNSET


class EndpointWorkers(Request, frozen=True, kw_only=True):
    """How many workers there are.

    Attributes:
        idle_timeout: seconds.
    """

    min: Natural | UnsetType = UNSET
    max: Natural | UnsetType = UNSET
    idle_timeout: Annotated[int, msgspec.Meta(ge=1, le=3600)] | UnsetType = UNSET


class RequestCountScaling(Request, frozen=True, kw_only=True):
    """One more worker for so many running requests; the only scaling behind a load balancer."""

    type: Literal["REQUEST_COUNT"]
    request_count: PositiveInt


class UpdateEndpointRequest(ContainerFields, frozen=True, kw_only=True):
    """Changes of an endpoint: only the fields that are set."""

    name: Filled | UnsetType = UNSET
    gpu: CreateEndpointGpuConfig | UnsetType = UNSET
    workers: EndpointWorkers | UnsetType = UNSET
    scaling: RequestCountScaling | UnsetType = UNSET


class CreateEndpointRequest(UpdateEndpointRequest, frozen=True, kw_only=True):
    """A new endpoint."""

    name: Filled
    type: EndpointType
    image: str
    scaling: RequestCountScaling


class RequestUrls(Answer, frozen=True, kw_only=True):
    """Where requests go, behind a load balancer."""

    base: str = ""
    health: str = ""


class Endpoint(Resource, frozen=True, kw_only=True):
    """An endpoint as RunPod has it."""

    type: EndpointType | None = None
    request_urls: RequestUrls = RequestUrls()
    args: str = ""
    disk: int | None = None
    env: dict[str, str] | None = None
    ports: list[str] | None = None
    registry: str | None = None
    gpu: dict[str, Any] | None = None
    workers: dict[str, Any]
    scaling: dict[str, Any]


class ListEndpointsResponse(Answer, frozen=True, kw_only=True):
    """Every endpoint of the account."""

    endpoints: list[Endpoint]


class Worker(Answer, frozen=True, kw_only=True):
    """A worker of an endpoint.

    Attributes:
        is_stale: it runs an older version of the endpoint.
    """

    id: str
    status: WorkerStatus
    is_stale: bool
    image: str | None = None
    uptime_seconds: int | None = None
    gpu_type_id: str | None = None
    data_center_id: str | None = None


class ListEndpointWorkersResponse(Answer, frozen=True, kw_only=True):
    """The active workers of an endpoint."""

    workers: list[Worker]
