"""The load-balanced endpoint at RunPod: its GPUs, its plan, and its workers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from higgs_image import table
from higgs_image.bench import cards, performance
from higgs_image.cloud import gpu_fit, image_rules, resource
from higgs_image.cloud.description import TemplateDescription
from higgs_image.cloud.image_rules import RentedImage
from higgs_image.cloud.resource import ResourceKind, ResourcePlan
from higgs_image.cloud.runpod import render
from higgs_image.cloud.runpod.client import RunPodClient
from higgs_image.cloud.runpod.endpoint_schema import (
    Endpoint,
    ListEndpointsResponse,
    ListEndpointWorkersResponse,
    UpdateEndpointRequest,
    Worker,
)
from higgs_image.cloud.runpod.render import WorkerGpus
from higgs_image.errors import (
    CloudNotFoundError,
    CloudRefusedError,
    NoCapacityError,
)
from higgs_image.release.journal import Journal
from higgs_image.release.records import EndpointUpdate

PATH = "/v2/serverless"
KIND = ResourceKind(
    word="endpoint",
    path=PATH,
    answer=Endpoint,
    listed=lambda account: account.get(PATH, ListEndpointsResponse).endpoints,
    change=UpdateEndpointRequest,
    record=EndpointUpdate,
    link="https://console.runpod.io/serverless/user/endpoint/{id}",
)


@dataclass(frozen=True)
class WorkerGpu:
    """A GPU type that RunPod offers for workers.

    Attributes:
        id: of the type.
        pool: that it is in.
        price: USD an hour for all GPUs of a worker.
        availability: NONE, LOW, MEDIUM or HIGH.
        listeners: of one worker, as measured or claimed.
        misfit: why no worker is to run on it; empty: it may.
    """

    id: str
    pool: str
    price: float
    availability: str
    listeners: str
    misfit: str

    def row(self) -> tuple[str, ...]:
        """Return it as a line of a table."""
        price = f"{self.price:.2f} USD/h"
        return (self.id, self.pool, price, self.availability, self.listeners,
                self.misfit or "fits")  # fmt: skip


@dataclass(frozen=True)
class EndpointStatus:
    """An endpoint and its workers.

    Attributes:
        id: at RunPod.
        name: of it.
        url: where requests go.
        image: that new workers run.
        workers: that are active.
    """

    id: str
    name: str
    url: str
    image: str
    workers: list[Worker]

    def text(self) -> str:
        """Return it as a person reads it."""
        rows = [
            (x.id, x.status, x.gpu_type_id or "", f"{(x.uptime_seconds or 0) // 60} min",
             "older version" if x.is_stale else "")
            for x in self.workers
        ]  # fmt: skip
        head = f"endpoint {self.name!r} ({self.id}) runs {self.image}\nurl {self.url}"
        return f"{head}\n{table.text(rows) if rows else 'no worker runs'}"


def gpus(
    account: RunPodClient, description: TemplateDescription, image: frozenset[str], root: Path
) -> list[WorkerGpu]:
    """Return every GPU type that the account gets for workers: those that fit first, by price.

    What is free now does not count: RunPod places workers, and the endpoint would never be settled.

    Args:
        account: at RunPod.
        description: limits of the GPU and of the price.
        image: compute capabilities that the image has code for; empty: those before Blackwell.
        root: of the checkout, with the results of benchmarks.
    """
    cap, found = description.endpoint.price_cap, []
    for gpu in gpu_fit.catalogue(account, description, "SERVERLESS"):
        if gpu.pool is None or gpu.price.serverless is None:  # not for this account
            continue
        price = round(gpu.price.serverless * description.gpu.count, 4)
        misfit = gpu_fit.misfit(gpu, description, image)
        if not misfit and price > cap:
            misfit = f"it costs more than {cap:.2f} USD an hour"
        card = cards.find(gpu.id)
        listeners = performance.listeners(root, card) if card else "not measured"
        found.append(WorkerGpu(gpu.id, gpu.pool, price, gpu.availability, listeners, misfit))
    return sorted(found, key=lambda x: (bool(x.misfit), x.price, x.id))


def choose(rated: list[WorkerGpu]) -> WorkerGpus:
    """Return the pools with a GPU type that fits, without their other types.

    Raises:
        NoCapacityError: none fits.
    """
    pools = {x.pool for x in rated if not x.misfit}
    if not pools:
        reasons = "; ".join(f"{x.id}: {x.misfit}" for x in rated) or "RunPod offers none"
        raise NoCapacityError(
            f"no GPU of RunPod's pools fits: {reasons}",
            "raise price_cap below [endpoint] in deploy/template.toml; ./inv endpoint-gpus lists "
            "all",
        )
    excluded = [x.id for x in rated if x.misfit and x.pool in pools]
    return WorkerGpus(sorted(pools), sorted(excluded))


def plan(
    account: RunPodClient, description: TemplateDescription, image: RentedImage, root: Path
) -> ResourcePlan:
    """Compare the endpoint at RunPod with the description. Reads only.

    Args:
        account: at RunPod.
        description: the container, and how it scales.
        image: that its workers are to run.
        root: of the checkout.

    Raises:
        CloudRefusedError: the endpoint of that name has a queue, or the description is not valid.
        NoCapacityError: no GPU of RunPod's pools fits.
        HiggsError: RunPod refused the request or did not answer.
    """
    description = description.for_variant(image.variant)
    workers = choose(gpus(account, description, image.gpus, root))
    wanted = render.endpoint(description, image.reference, workers)
    resource.require_login(account, description.image.registry_login)
    present = KIND.find(account, wanted.name)
    if isinstance(present, Endpoint) and present.type not in (None, "LOAD_BALANCER"):
        raise CloudRefusedError(
            f"the endpoint {wanted.name!r} ({present.id}) is of type {present.type}, which cannot "
            "be changed",
            "delete or rename it in RunPod's console, or change name in deploy/template.toml",
        )
    return resource.compare(KIND, present, wanted, wanted.name, image)


def plan_for(
    account: RunPodClient,
    description: TemplateDescription,
    history: Journal,
    what: str,
    root: Path,
) -> ResourcePlan:
    """Plan the endpoint for an image of a repository: see `plan`.

    Args:
        account: at RunPod.
        description: the container, and how it scales.
        history: the journal of the image's repository.
        what: a digest or tag.
        root: of the checkout.

    Raises:
        HiggsError: there is no such image, or RunPod cannot pull it or has no GPU for it.
    """
    image_rules.require_reachable(history.repository, account.api)
    return plan(account, description, image_rules.find(history, what, description), root)


def status(account: RunPodClient, description: TemplateDescription) -> EndpointStatus:
    """Return the endpoint and its workers.

    Raises:
        CloudNotFoundError: there is no such endpoint.
    """
    found = KIND.find(account, description.name)
    if not isinstance(found, Endpoint):
        raise CloudNotFoundError(
            f"RunPod has no endpoint {description.name!r}", "make it: ./inv endpoint-apply"
        )
    path = f"{PATH}/{found.id}/workers"
    workers = account.get(path, ListEndpointWorkersResponse).workers
    return EndpointStatus(found.id, found.name, found.request_urls.base, found.image, workers)
