"""Render the description of the container for RunPod: templates, and pods."""

from __future__ import annotations

from dataclasses import dataclass

from higgs_image.cloud.description import TemplateDescription
from higgs_image.cloud.runpod import schema
from higgs_image.cloud.runpod.endpoint_schema import (
    CreateEndpointGpuConfig,
    CreateEndpointRequest,
    EndpointWorkers,
    RequestCountScaling,
)
from higgs_image.cloud.runpod.schema import (
    CreateGpuConfig,
    CreatePodRequest,
    CreateTemplateRequest,
    Mounts,
    PersistentMount,
)
from higgs_image.oci.container_spec import PORT

WORKER_PORT = f"{PORT}/http"


@dataclass(frozen=True)
class WorkerGpus:
    """GPUs of the workers of an endpoint.

    Attributes:
        pools: of RunPod's catalogue.
        excluded: GPU types of these pools that are not taken.
    """

    pools: list[str]
    excluded: list[str]


def secret(name: str) -> str:
    """Return the text that RunPod replaces with the value of a secret of the account."""
    return f"{{{{ RUNPOD_SECRET_{name} }}}}"


def environment(description: TemplateDescription) -> dict[str, str]:
    """Return the variables; secrets are references."""
    container = description.container
    return dict(container.environment) | {k: secret(v) for k, v in container.secrets.items()}


def worker_environment(description: TemplateDescription) -> dict[str, str]:
    """Return the variables of a worker behind RunPod's load balancer.

    The balancer takes a key of RunPod in the header where the server expects its own, and sends
    requests to PORT only: a worker has neither HIGGS_API_KEY nor a port for /generate.
    """
    left = ("HIGGS_API_KEY", "HIGGS_GENERATE_PORT")
    found = {k: v for k, v in environment(description).items() if k not in left}
    return found | {"PORT": str(PORT), "PORT_HEALTH": str(PORT)}


def template(
    description: TemplateDescription, image: str, *, serverless: bool = False
) -> CreateTemplateRequest:
    """Return a template.

    Every field that can be compared with RunPod's is set, also to its default.

    Args:
        description: the container.
        image: its full name.
        serverless: for workers behind a load balancer.

    Raises:
        CloudRefusedError: RunPod would refuse it.
    """
    container, storage = description.container, description.storage
    return schema.checked(
        CreateTemplateRequest(
            name=description.name + (" (serverless)" if serverless else ""),
            image=image,
            args=container.arguments,
            disk=description.whole_disk_gb if serverless else container.disk_gb,
            env=worker_environment(description) if serverless else environment(description),
            ports=[WORKER_PORT] if serverless else container.published,
            registry=description.image.registry_login or None,
            mounts=Mounts()
            if serverless
            else Mounts(persistent=PersistentMount(size=storage.size_gb, path=storage.path)),
            serverless=serverless,
            public=container.public,
            category="NVIDIA",
            start_ssh=container.ssh,
            start_jupyter=False,
            allowed_cuda_versions=description.cuda.known,
        )
    )


def endpoint(
    description: TemplateDescription, image: str, gpus: WorkerGpus
) -> CreateEndpointRequest:
    """Return a load-balanced endpoint.

    It takes the container from here, not from a template: RunPod would copy one only once.

    Args:
        description: the container, and how it scales.
        image: its full name.
        gpus: of the workers.

    Raises:
        CloudRefusedError: RunPod would refuse it.
    """
    container, scale = description.container, description.endpoint
    return schema.checked(
        CreateEndpointRequest(
            name=description.name,
            type="LOAD_BALANCER",
            image=image,
            args=container.arguments,
            disk=description.whole_disk_gb,
            env=worker_environment(description),
            ports=[WORKER_PORT],
            registry=description.image.registry_login or None,
            gpu=CreateEndpointGpuConfig(
                pools=gpus.pools,
                excluded_types=gpus.excluded,
                count=description.gpu.count,
                allowed_cuda_versions=[],
                min_cuda_version=description.cuda.minimum,
            ),
            workers=EndpointWorkers(
                min=scale.workers_min, max=scale.workers_max, idle_timeout=scale.idle_seconds
            ),
            scaling=RequestCountScaling(type="REQUEST_COUNT", request_count=scale.requests),
        )
    )


def pod(
    description: TemplateDescription, image: str, name: str, gpu: str, variables: dict[str, str]
) -> CreatePodRequest:
    """Return a pod.

    Args:
        description: the container.
        image: its full name.
        name: of the pod.
        gpu: id of the GPU type.
        variables: added to those of the description.

    Raises:
        CloudRefusedError: RunPod would refuse it.
    """
    container, storage = description.container, description.storage
    return schema.checked(
        CreatePodRequest(
            name=name,
            image=image,
            args=container.arguments,
            disk=container.disk_gb,
            env=environment(description) | variables,
            ports=container.published,
            registry=description.image.registry_login or None,
            cloud=description.pod.cloud,
            gpu=CreateGpuConfig(
                id=gpu, count=description.gpu.count, min_cuda_version=description.cuda.minimum
            ),
            mounts=Mounts(persistent=PersistentMount(size=storage.size_gb, path=storage.path)),
            start_ssh=container.ssh,
            start_jupyter=False,
        )
    )
