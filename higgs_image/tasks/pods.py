"""Rented pods: pod-smoke, pod-up, pod-gpus, pod-list, pod-logs, pod-down, pod-reap."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from invoke.context import Context

from higgs_image.tasks._image import IMAGE_HELP, PLACE, ImagePlace
from higgs_image.tasks._resource import RENTED, RentedImageFlags
from higgs_image.tasks._workspace import VARIANT_HELP, current_workspace
from higgs_image.tasks.command import FlagGroup, task
from higgs_image.tasks.output import Output

if TYPE_CHECKING:
    from higgs_image.cloud.pod.smoke import PodTest

_POD_HELP = "id or name of the pod"


@dataclass(frozen=True)
class PodFlags(FlagGroup):
    """The pod to rent."""

    HELP: ClassVar = {
        "gpu": "GPU type, such as 'NVIDIA L40S' (default: the cheapest free one that fits)",
        "price_cap": "highest price in USD an hour (default: price_cap in deploy/template.toml)",
        "hours": "longest life of the pod, in hours (default: hours in deploy/template.toml)",
        "timeout": "seconds until it must be ready (default: 2400)",
    }

    gpu: str = ""
    price_cap: float | None = None
    hours: float | None = None
    timeout: float = 2400

    def target(self, dwell: float = 0) -> PodTest:
        """Return the test for which it is rented."""
        from higgs_image.cloud import description
        from higgs_image.cloud.pod.smoke import PodOptions, PodTest
        from higgs_image.cloud.runpod import client

        workspace = current_workspace()
        wanted = description.load(workspace.root)
        price_cap, hours = self.price_cap or wanted.pod.price_cap, self.hours or wanted.pod.hours
        options = PodOptions(self.gpu, price_cap, hours, self.timeout, dwell)
        return PodTest(workspace, client.from_environment(), wanted, options)


_POD = PodFlags()


@task(
    name="pod-smoke",
    positional=["digest"],
    help={
        "digest": IMAGE_HELP,
        "dwell": "seconds of further requests after the checks (default: 120)",
        "record": "write the verdict to the journal (default: yes)",
    },
)
def pod_smoke(
    _: Context,
    out: Output,
    digest: str,
    pod: PodFlags = _POD,
    dwell: float = 120,
    record: bool = True,
    place: ImagePlace = PLACE,
) -> None:
    """Test a pushed image in a rented pod, record the verdict, and delete the pod."""
    from higgs_image.errors import SMOKE_EXIT_CODES
    from higgs_image.release import evidence
    from higgs_image.smoke import report

    target = pod.target(dwell)
    with place.image(digest) as (history, what):
        done, folder = target.run(history, what)
        written = (folder / "record.json").read_bytes()
        entry = evidence.record_smoke(history, written) if record else None
    markdown = (folder / "report.md").read_text(encoding="utf-8")
    text = f"{report.text(done)}\nevidence {folder}"
    out.result({"record": done, "entry": entry, "evidence": folder}, text, markdown)
    sys.exit(SMOKE_EXIT_CODES[done.verdict])


@task(name="pod-up")
def pod_up(
    _: Context, out: Output, pod: PodFlags = _POD, rented: RentedImageFlags = RENTED
) -> None:
    """Rent a pod with the image, wait until it is ready, and print its URL."""
    from higgs_image.cloud import image_rules
    from higgs_image.cloud.pod import up

    target = pod.target()
    with rented.opened() as (history, what):
        image_rules.require_reachable(history.repository, target.account.api)
        found = image_rules.find(history, what, target.description, floating=False)
    running = up.up(target, found)
    out.result(running, running.text())


@task(name="pod-gpus", help=VARIANT_HELP)
def pod_gpus(_: Context, out: Output, variant: str = "") -> None:
    """List RunPod's GPU types: today's prices, what is free, and which fit the image."""
    from higgs_image import table
    from higgs_image.cloud import description
    from higgs_image.cloud.pod import choice
    from higgs_image.cloud.runpod import client

    wanted = description.load(current_workspace().root, variant)
    code = frozenset(wanted.gpu.capabilities)
    found = choice.catalogue(client.from_environment(), wanted, code)
    out.result({"gpus": found}, table.text([x.row() for x in found], right=[1, 2]))


@task(name="pod-list")
def pod_list(_: Context, out: Output) -> None:
    """List the pods that this project rented, and which of them are leftovers."""
    from higgs_image.cloud.pod import reaper
    from higgs_image.cloud.runpod import client

    found = reaper.own(client.from_environment())
    out.result({"pods": found}, reaper.text(found))


@task(
    name="pod-logs",
    positional=["pod"],
    help={
        "pod": _POD_HELP,
        "follow": "go on until the pod is gone",
        "tail": "how many lines of the past (default: 100)",
    },
)
def pod_logs(_: Context, pod: str, follow: bool = False, tail: int = 100) -> None:
    """Print the log of a pod: of its container, and of its host."""
    from higgs_image.cloud.pod import log, reaper
    from higgs_image.cloud.runpod import client

    account = client.from_environment()
    for event in log.read(account, reaper.find(account, pod).id, follow=follow, tail=tail):
        print(event.line if event.source == "container" else f"[host] {event.line}", flush=True)


@task(name="pod-down", positional=["pod"], help={"pod": _POD_HELP})
def pod_down(_: Context, out: Output, pod: str) -> None:
    """Delete a pod that this project rented."""
    from higgs_image.cloud.pod import reaper, rental
    from higgs_image.cloud.runpod import client

    account = client.from_environment()
    deleted = rental.give_back(account, reaper.find(account, pod).name)
    out.result({"deleted": deleted}, f"deleted: {', '.join(deleted)}")


@task(name="pod-reap", help={"yes": "delete them; without it they are only shown"})
def pod_reap(_: Context, out: Output, yes: bool = False) -> None:
    """Delete pods that nobody needs: their time is over, or the run that made them has ended."""
    from higgs_image.cloud.pod import reaper
    from higgs_image.cloud.runpod import client

    account = client.from_environment()
    found = reaper.reap(account) if yes else [x for x in reaper.own(account) if x.leftover]
    head = "deleted:" if yes else "would delete (apply it with --yes):"
    text = f"{head}\n{reaper.text(found)}" if found else "no leftovers"
    out.result({"deleted" if yes else "leftovers": found}, text)
