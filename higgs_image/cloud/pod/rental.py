"""Rent a pod and give it back, whatever happens in between."""

from __future__ import annotations

import contextlib
import logging
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from higgs_image.cloud.description import TemplateDescription
from higgs_image.cloud.image_rules import RentedImage
from higgs_image.cloud.pod import marker
from higgs_image.cloud.pod.choice import RatedGpu
from higgs_image.cloud.runpod import problems, render
from higgs_image.cloud.runpod.client import RunPodClient
from higgs_image.cloud.runpod.schema import ListPodsResponse, Pod
from higgs_image.errors import (
    CloudAuthError,
    CloudUnavailableError,
    HiggsError,
    NoCapacityError,
    PodError,
    PodLeftoverError,
)

log = logging.getLogger(__name__)

PODS = "/v2/pods"
DELETE_SECONDS = 300.0
"""How long a deletion is tried, without a network, too."""
LATE_SECONDS = 20.0
"""How long a pod may take to be listed whose creation was not answered."""
PAUSE = 3.0
"""Seconds between two attempts."""


@dataclass(frozen=True)
class Rental:
    """What is rented.

    Attributes:
        account: at RunPod.
        description: the container.
        image: that it runs.
        offers: GPU types, in the order in which they are tried.
        marker: until when the pod lives.
        variables: for the container.
    """

    account: RunPodClient
    description: TemplateDescription
    image: RentedImage
    offers: Sequence[RatedGpu]
    marker: marker.PodMarker
    variables: dict[str, str]


def pods(account: RunPodClient) -> list[Pod]:
    """Return every pod of the account."""
    return account.get(PODS, ListPodsResponse).pods


def create(rental: Rental, name: str) -> Pod:
    """Create a pod on the first GPU type that can be had.

    Raises:
        NoCapacityError: none could; the message has RunPod's last reason.
        CloudAuthError: the key may create none.
        HiggsError: RunPod refused it for another reason, or did not answer.
    """
    refused: HiggsError | None = None
    variables = rental.marker.variables() | rental.variables

    def find() -> Pod | None:
        return next((x for x in pods(rental.account) if x.name == name), None)

    for offer in rental.offers:
        body = render.pod(rental.description, rental.image.reference, name, offer.id, variables)
        try:
            pod = rental.account.create(PODS, body, Pod, find)
        except (problems.BadRequestError, CloudAuthError) as error:
            log.info("pod: %s: %s", offer.id, error.message)
            refused = error
        else:
            log.info("pod: %s (%s) on %s, %.2f USD an hour", pod.name, pod.id, offer.id, pod.cost)
            return pod
    if isinstance(refused, CloudAuthError):
        raise refused
    raise NoCapacityError(
        f"none of {len(rental.offers)} GPU types could be rented: "
        f"{refused.message if refused else 'none was offered'}",
        "run it again later; if RunPod says the same each time, the request itself is wrong",
    )


@contextlib.contextmanager
def rented(rental: Rental, *, keep: bool = False) -> Iterator[Pod]:
    """Yield a pod, and delete it afterwards: after errors, Ctrl-C and SIGTERM, too.

    Args:
        rental: what is rented.
        keep: delete it only if what is inside fails.

    Raises:
        PodLeftoverError: it could not be deleted; the message says what it costs.
        HiggsError: none could be rented.
    """
    name = marker.new_name()
    unsure = kept = False
    try:
        try:
            pod = create(rental, name)
        except (CloudUnavailableError, KeyboardInterrupt):
            unsure = True  # it may exist
            raise
        yield pod
        kept = keep
    finally:
        if not kept:
            with _deaf():
                give_back(rental.account, name, wait=LATE_SECONDS if unsure else 0.0)


def give_back(account: RunPodClient, name: str, *, wait: float = 0.0) -> list[str]:
    """Delete every pod of a name until RunPod lists none, and return their ids.

    Args:
        account: at RunPod.
        name: of the pods.
        wait: seconds to look for one that RunPod does not list yet.

    Raises:
        PodLeftoverError: one is still there, or RunPod does not say, after DELETE_SECONDS.
    """
    begun = time.monotonic()
    deleted: dict[str, Pod] = {}
    reason = "it is still listed"
    while True:
        try:
            left = [x for x in pods(account) if x.name == name and x.status != "TERMINATED"]
            for pod in left:
                account.delete(f"{PODS}/{pod.id}")
                if pod.id not in deleted:
                    log.info("pod: %s (%s) is deleted", pod.name, pod.id)
                deleted[pod.id] = pod
            if not left and time.monotonic() - begun >= (0.0 if deleted else wait):
                return list(deleted)
        except HiggsError as error:
            reason = error.message
        if time.monotonic() - begun > DELETE_SECONDS:
            raise PodLeftoverError(
                f"the pod {name} may still run, and cost money: {reason}",
                "delete it at https://console.runpod.io/pods, or when RunPod answers again: "
                "./inv pod-reap --yes",
            )
        time.sleep(PAUSE)


@contextlib.contextmanager
def time_cap(seconds: float) -> Iterator[None]:
    """End what is inside after some time; only in the main thread.

    Raises:
        PodError: the time is over.
    """

    def over(*_: object) -> None:
        raise PodError(
            f"the pod was rented for its longest time, {seconds / 3600:.1f} hours",
            "allow more: --hours, or hours in deploy/template.toml",
        )

    try:
        before = signal.signal(signal.SIGALRM, over)
    except ValueError:
        yield
        return
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM wait: a pod that is not deleted costs money."""

    def wait(*_: object) -> None:
        log.info("pod: it is being deleted; wait")

    before = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(ValueError):  # only the main thread gets signals
            before[number] = signal.signal(number, wait)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
