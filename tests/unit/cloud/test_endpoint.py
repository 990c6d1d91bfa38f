"""The load-balanced endpoint: its GPUs, what is rendered, and what differs."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from higgs_image.bench import cards, performance
from higgs_image.cloud import description, endpoint
from higgs_image.cloud.resource import ResourcePlan
from higgs_image.cloud.runpod.client import RunPodClient
from higgs_image.cloud.runpod.endpoint_schema import Endpoint
from higgs_image.errors import (
    CloudNotFoundError,
    CloudRefusedError,
    NoCapacityError,
    TemplateDriftError,
    UsageError,
)
from higgs_image.oci.container_spec import PORT
from higgs_image.workspace import PROJECT
from tests.support.runpod import rent
from tests.support.runpod.pods import gpu
from tests.support.runpod.server import FakeRunPod

FOUND = description.load(PROJECT)


def plan(account: RunPodClient, found: description.TemplateDescription = FOUND) -> ResourcePlan:
    return endpoint.plan(account, found, rent.IMAGE, PROJECT)


def create(account: RunPodClient, runpod: FakeRunPod) -> dict[str, Any]:
    wanted = plan(account).wanted
    made = account.create(endpoint.PATH, wanted, Endpoint, lambda: None)
    return runpod.endpoints[made.id]


def test_pools_are_chosen_by_the_catalogue(account: RunPodClient, runpod: FakeRunPod) -> None:
    """Blackwell, small and dear cards are left out, also from a pool that has another card."""
    other = gpu("NVIDIA A40", 48, 0.4, pool="AMPERE_48")
    del other["price"]["serverless"]  # the account may not use the pool
    runpod.catalogue.append(other)
    wanted = msgspec.to_builtins(plan(account).wanted)
    assert wanted["gpu"] == {
        "pools": ["ADA_24", "ADA_48_PRO"],
        "excludedTypes": ["NVIDIA RTX PRO 5000 Blackwell"],
        "count": 1,
        "allowedCudaVersions": [],
        "minCudaVersion": FOUND.cuda.minimum,
    }
    rated = {x.id: x for x in endpoint.gpus(account, FOUND, frozenset(), PROJECT)}
    assert rated["NVIDIA H100 80GB HBM3"].misfit == "it costs more than 2.00 USD an hour"
    assert "NVIDIA L4" not in rated, "it is in no pool"


def test_workers_are_reached_through_the_balancer(account: RunPodClient) -> None:
    """RunPod's key is in the header of the server's key, and one port gets requests."""
    wanted = msgspec.to_builtins(plan(account).wanted)
    assert (wanted["type"], wanted["ports"]) == ("LOAD_BALANCER", [f"{PORT}/http"])
    assert wanted["env"] == {"PORT": str(PORT), "PORT_HEALTH": str(PORT)}
    assert wanted["scaling"] == {"type": "REQUEST_COUNT", "requestCount": FOUND.endpoint.requests}
    assert wanted["disk"] == FOUND.container.disk_gb + FOUND.storage.size_gb
    assert "mounts" not in wanted


def test_only_what_differs_is_changed(account: RunPodClient, runpod: FakeRunPod) -> None:
    made = create(account, runpod)
    assert plan(account).nothing_to_do
    plan(account).require_agreement()
    made["workers"]["max"] = 9
    made["gpu"]["pools"].reverse()
    made["networkVolumes"] = ["vol_1"]
    made["env"] = made["env"] | {"HF_TOKEN": "hf_hunter2"}
    planned = plan(account)
    assert [x.text() for x in planned.changes] == [
        "env.HF_TOKEN: (another value) -> nothing",
        "workers.max: 9 -> 3",
    ]
    with pytest.raises(
        TemplateDriftError, match=r"the endpoint \w+ differs: .*workers\.max: 9 -> 3"
    ):
        planned.require_agreement()


def test_what_is_free_now_does_not_change_the_endpoint(
    account: RunPodClient, runpod: FakeRunPod
) -> None:
    create(account, runpod)
    taken = [{"version": "12.8", "available": False}]
    runpod.catalogue = [x | {"availability": "NONE", "cudaVersions": taken}
                        for x in runpod.catalogue]  # fmt: skip
    assert plan(account).nothing_to_do


def test_a_missing_endpoint_is_drift(account: RunPodClient) -> None:
    with pytest.raises(TemplateDriftError, match="has no endpoint 'Higgs Audio v2'") as found:
        plan(account).require_agreement()
    assert found.value.hint == "make it: ./inv endpoint-apply"
    with pytest.raises(CloudNotFoundError, match="has no endpoint"):
        endpoint.status(account, FOUND)


def test_an_endpoint_with_a_queue_is_refused(account: RunPodClient, runpod: FakeRunPod) -> None:
    create(account, runpod)["type"] = "QUEUE"
    with pytest.raises(CloudRefusedError, match="is of type QUEUE, which cannot be changed"):
        plan(account)


def test_two_endpoints_of_the_name_are_refused(account: RunPodClient, runpod: FakeRunPod) -> None:
    runpod.endpoints["other"] = create(account, runpod) | {"id": "other"}
    with pytest.raises(UsageError, match="RunPod has 2 endpoints"):
        plan(account)


def test_no_pool_fits(account: RunPodClient, runpod: FakeRunPod) -> None:
    runpod.catalogue = [gpu("NVIDIA B200", 180, 1.0, pool="BLACKWELL_180")]
    with pytest.raises(NoCapacityError, match="NVIDIA B200: the image has no code for") as found:
        plan(account)
    assert "./inv endpoint-gpus" in found.value.hint


def test_status_shows_workers(account: RunPodClient, runpod: FakeRunPod) -> None:
    made = create(account, runpod)
    assert "no worker runs" in endpoint.status(account, FOUND).text()
    worker = {"id": "w1", "status": "RUNNING", "isStale": True, "gpuCount": 1,
              "gpuTypeId": "NVIDIA L40S", "uptimeSeconds": 125}  # fmt: skip
    runpod.workers = [worker, worker | {"id": "w2", "status": "THROTTLED", "isStale": False}]
    text = endpoint.status(account, FOUND).text()
    assert made["requestUrls"]["base"] in text
    assert "2 min" in text and text.count("older version") == 1 and "THROTTLED" in text


def test_listeners_are_measured_claimed_or_unknown() -> None:
    known = {x.name: performance.listeners(PROJECT, x) for x in cards.cards()}
    assert known["RTX 4090"] == "24 claimed" and known["L40S"] == "not measured"


def test_workers_cannot_be_more_than_the_most(tmp_path: Any) -> None:
    text = (PROJECT / description.FILE).read_text()
    (tmp_path / "deploy").mkdir()
    (tmp_path / description.FILE).write_text(text.replace("workers_min = 0", "workers_min = 4"))
    with pytest.raises(UsageError, match="workers_min is above workers_max"):
        description.load(tmp_path)
