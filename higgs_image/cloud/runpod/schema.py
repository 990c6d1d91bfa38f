"""The part of RunPod's REST API v2 that is used here, as types.

Requests are checked against them before they are sent: an unknown field is an error. Answers may
have more fields than these. tests/unit/cloud compares the types with RunPod's own OpenAPI file.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from higgs_image.errors import CloudRefusedError

PositiveInt = Annotated[int, msgspec.Meta(ge=1)]
MountGB = Annotated[int, msgspec.Meta(ge=10)]
Filled = Annotated[str, msgspec.Meta(min_length=1)]
CudaVersion = Annotated[str, msgspec.Meta(pattern=r"^\d+\.\d+$")]

Cloud = Literal["SECURE", "COMMUNITY"]
Availability = Literal["NONE", "LOW", "MEDIUM", "HIGH"]
PodStatus = Literal["PROVISIONING", "STARTING", "RUNNING", "EXITED", "ERROR", "TERMINATED"]
LogSource = Literal["container", "system"]


class Request(msgspec.Struct, frozen=True, kw_only=True, rename="camel",
              forbid_unknown_fields=True):  # fmt: skip
    """A body or a part of one."""


class Answer(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """An answer or a part of one."""


class Resource(Answer, frozen=True, kw_only=True):
    """Something that is kept for the account and runs an image."""

    id: str
    name: str
    image: str = ""


class PersistentMount(Request, frozen=True, kw_only=True):
    """A disk of the pod's host."""

    size: MountGB
    path: str


class Mounts(Request, frozen=True, kw_only=True):
    """Mounts of a template or pod."""

    persistent: PersistentMount | UnsetType = UNSET


class ContainerFields(Request, frozen=True, kw_only=True):
    """What templates, pods and endpoints share.

    Attributes:
        args: one string for the container's entrypoint.
        disk: GB of the container, lost at a restart.
        ports: as `8000/http` or `22/tcp`.
        registry: id of the login for a private image.
    """

    image: str | UnsetType = UNSET
    args: str | UnsetType = UNSET
    disk: PositiveInt | UnsetType = UNSET
    env: dict[str, str] | UnsetType = UNSET
    ports: list[str] | UnsetType = UNSET
    registry: str | UnsetType | None = UNSET


class UpdateTemplateRequest(ContainerFields, frozen=True, kw_only=True):
    """Changes of a template: only the fields that are set."""

    name: Filled | UnsetType = UNSET
    allowed_cuda_versions: list[CudaVersion] | UnsetType = UNSET
    category: Literal["CPU", "NVIDIA", "AMD"] | UnsetType = UNSET
    mounts: Mounts | UnsetType = UNSET
    public: bool | UnsetType = UNSET
    serverless: bool | UnsetType = UNSET
    start_jupyter: bool | UnsetType = UNSET
    start_ssh: bool | UnsetType = UNSET


class CreateTemplateRequest(UpdateTemplateRequest, frozen=True, kw_only=True):
    """A new template."""

    name: Filled
    image: str


class Template(Resource, frozen=True, kw_only=True):
    """A template as RunPod has it."""

    image: str
    args: str
    disk: int
    env: dict[str, str]
    ports: list[str]
    registry: str | None
    mounts: dict[str, Any]
    serverless: bool
    public: bool
    category: str
    start_ssh: bool
    start_jupyter: bool
    allowed_cuda_versions: list[str]


class ListTemplatesResponse(Answer, frozen=True, kw_only=True):
    """Every template of the account."""

    templates: list[Template]


class Registry(Answer, frozen=True, kw_only=True):
    """A login for a registry that the account keeps."""

    id: str
    name: str


class ListRegistriesResponse(Answer, frozen=True, kw_only=True):
    """Every such login."""

    registries: list[Registry]


class CreateGpuConfig(Request, frozen=True, kw_only=True):
    """The GPU of a new pod; at most one of the CUDA limits."""

    id: str
    count: PositiveInt = 1
    allowed_cuda_versions: list[CudaVersion] | UnsetType = UNSET
    min_cuda_version: CudaVersion | UnsetType = UNSET


class CreatePodRequest(ContainerFields, frozen=True, kw_only=True):
    """A new pod with a GPU."""

    name: Filled
    gpu: CreateGpuConfig
    cloud: Cloud | UnsetType = UNSET
    mounts: Mounts | UnsetType = UNSET
    start_jupyter: bool | UnsetType = UNSET
    start_ssh: bool | UnsetType = UNSET


class PodGpu(Answer, frozen=True, kw_only=True):
    """The GPU of a pod."""

    id: str
    count: int = 1


class Pod(Answer, frozen=True, kw_only=True):
    """A pod as RunPod has it.

    Attributes:
        cost: USD an hour, 0 while it does not run.
        cuda_version: of the host's driver; None where the host does not say.
    """

    id: str
    name: str
    status: PodStatus
    image: str
    env: dict[str, str]
    cost: float
    data_center_id: str | None
    cuda_version: str | None
    gpu: PodGpu | None = None


class ListPodsResponse(Answer, frozen=True, kw_only=True):
    """Every pod of the account."""

    pods: list[Pod]


class GpuPrice(Answer, frozen=True, kw_only=True):
    """USD an hour for one GPU."""

    secure: float
    community: float
    serverless: float | None = None


class CudaVersionAvailability(Answer, frozen=True, kw_only=True):
    """A CUDA version that hosts of a GPU type have."""

    version: str
    available: bool


class GpuType(Answer, frozen=True, kw_only=True):
    """A GPU type of the catalogue.

    Attributes:
        memory: GB.
        pool: for serverless endpoints; None: not offered there.
        availability: asked for with include=AVAILABILITY only.
    """

    id: str
    name: str
    pool: str | None
    manufacturer: Literal["NVIDIA", "AMD", "UNKNOWN"]
    memory: int
    secure: bool
    community: bool
    price: GpuPrice
    availability: Availability = "NONE"
    cuda_versions: list[CudaVersionAvailability] = []


class ListGpuTypesResponse(Answer, frozen=True, kw_only=True):
    """The catalogue of GPU types."""

    gpus: list[GpuType]


class LogEvent(Answer, frozen=True, kw_only=True):
    """One line of a pod's log.

    Attributes:
        source: of the container, or of its host: pulls, starts, ends.
        ts: when, as RunPod writes it.
    """

    source: LogSource
    line: str
    ts: str = ""


class ErrorResponse(Answer, frozen=True, kw_only=True):
    """An answer that is an error.

    Attributes:
        errors: every fault of a request (422).
    """

    title: str = ""
    status: int = 0
    detail: str = ""
    errors: list[str] = []


R = TypeVar("R", bound=Request)


def checked(body: R) -> R:
    """Return a request if it keeps its own rules: ranges, patterns, lengths.

    Raises:
        CloudRefusedError: it does not; the message names the field.
    """
    try:
        return msgspec.convert(msgspec.to_builtins(body), type(body))
    except msgspec.ValidationError as error:
        raise CloudRefusedError(
            f"{type(body).__name__} is not valid for RunPod: {error}",
            "correct deploy/template.toml, or the flag that gave the value",
        ) from None
