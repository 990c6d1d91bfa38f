"""Our pods at RunPod: which are in use, and which are leftovers that are deleted."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from higgs_image import table
from higgs_image.cloud.pod import marker, rental
from higgs_image.cloud.runpod.client import RunPodClient
from higgs_image.cloud.runpod.schema import Pod
from higgs_image.errors import CloudNotFoundError, UsageError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class OwnPod:
    """A pod of ours.

    Attributes:
        id: at RunPod.
        name: with its time stamp.
        status: RunPod's.
        gpu: id of its GPU type.
        usd_per_hour: what it costs now.
        until: when its time is over.
        leftover: why nobody needs it any more; empty: it is in use.
    """

    id: str
    name: str
    status: str
    gpu: str
    usd_per_hour: float
    until: str
    leftover: str

    def row(self) -> tuple[str, ...]:
        """Return it as a line of a table."""
        price = f"{self.usd_per_hour:.2f} USD/h"
        return (self.id, self.name, self.status, self.gpu, price, self.leftover or self.until)


def text(found: list[OwnPod]) -> str:
    """Return pods as a person reads them."""
    return table.text([x.row() for x in found], right=[4]) if found else "no pods of ours"


def own(account: RunPodClient) -> list[OwnPod]:
    """Return the pods that this project rented, here or elsewhere."""
    return [made for pod in rental.pods(account) if (made := _own(pod)) is not None]


def _own(pod: Pod) -> OwnPod | None:
    found = marker.marker_of(pod)
    if found is None:
        return None
    return OwnPod(
        pod.id, pod.name, pod.status, pod.gpu.id if pod.gpu else "", pod.cost,
        f"until {found.until:%Y-%m-%d %H:%M} UTC", marker.why_leftover(found),
    )  # fmt: skip


def reap(account: RunPodClient) -> list[OwnPod]:
    """Delete the leftovers, and return them.

    Raises:
        PodLeftoverError: one could not be deleted.
        HiggsError: RunPod does not answer.
    """
    found = [x for x in own(account) if x.leftover]
    for pod in found:
        log.info("pod: %s (%s) is a leftover: %s", pod.name, pod.id, pod.leftover)
        rental.give_back(account, pod.name)
    return found


def find(account: RunPodClient, what: str) -> OwnPod:
    """Return one of our pods, by its id or name.

    Raises:
        CloudNotFoundError: there is none.
        UsageError: the pod is not one of ours.
    """
    for pod in rental.pods(account):
        if what in (pod.id, pod.name):
            if (made := _own(pod)) is None:
                raise UsageError(
                    f"the pod {what} was not rented by this project", "use RunPod's console for it"
                )
            return made
    raise CloudNotFoundError(f"RunPod has no pod {what}", "./inv pod-list shows the pods")
