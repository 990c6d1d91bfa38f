"""The smoke test of an image in a rented pod: choose, rent, wait, check, dwell, give back."""

from __future__ import annotations

import datetime
import logging
import secrets
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from higgs_image import process
from higgs_image.cloud import image_rules
from higgs_image.cloud.description import TemplateDescription
from higgs_image.cloud.image_rules import RentedImage
from higgs_image.cloud.pod import choice, reaper
from higgs_image.cloud.pod.log import PodLog
from higgs_image.cloud.pod.marker import PodMarker
from higgs_image.cloud.pod.readiness import PodWatch
from higgs_image.cloud.pod.rental import Rental, rented, time_cap
from higgs_image.cloud.pod.server import PodServer
from higgs_image.cloud.runpod.client import RunPodClient
from higgs_image.cloud.runpod.schema import Pod
from higgs_image.labels import LABEL
from higgs_image.release.journal import Journal
from higgs_image.smoke import record, report, runner, session
from higgs_image.smoke.checks.model import CheckFailedError, ImageUnderTest
from higgs_image.smoke.client import BrokenAnswerError
from higgs_image.smoke.record import CheckResult, Measured, Record, SmokeImage
from higgs_image.smoke.runner import Observation
from higgs_image.smoke.server import NotReadyError
from higgs_image.verdict import Verdict
from higgs_image.workspace import Workspace

log = logging.getLogger(__name__)

START_SECONDS = 2400.0
"""Default time to become ready: pull, download of the weights, load, warm-up."""
DWELL_PAUSE = 5.0
"""Seconds between two requests of the dwell."""


@dataclass(frozen=True)
class PodOptions:
    """Options of `./inv pod-smoke` and `./inv pod-up`.

    Attributes:
        gpu: id of the GPU type; empty: the cheapest that fits.
        price_cap: USD an hour.
        hours: the pod lives no longer.
        timeout: seconds until it has to be ready.
        dwell: seconds for which the server is asked on after the checks.
    """

    gpu: str
    price_cap: float
    hours: float
    timeout: float = START_SECONDS
    dwell: float = 120.0


@dataclass(frozen=True)
class PodTest:
    """A smoke test of one image in a pod.

    Attributes:
        workspace: takes the evidence.
        account: at RunPod.
        description: the container.
        options: of the test.
    """

    workspace: Workspace
    account: RunPodClient
    description: TemplateDescription
    options: PodOptions

    def run(self, history: Journal, what: str) -> tuple[Record, Path]:
        """Test an image, and delete the pod whatever happens.

        Args:
            history: the journal of the image's repository.
            what: a digest or tag.

        Returns:
            The record and the folder that holds it.

        Raises:
            RegistryNotFoundError: there is no such image.
            RegistryAuthError: RunPod cannot pull it.
            NoCapacityError, PriceError, CreditError: no pod can be had.
            PodError: the pod did not become ready for a reason that is not the image's.
            PodLeftoverError: the pod could not be deleted.
        """
        image_rules.require_reachable(history.repository, self.account.api)
        image = image_rules.find(history, what, self.description, floating=False)
        labels = history.repository.labels(image.digest)
        tested = SmokeImage(
            image.reference, image.digest,
            str(labels.get("org.opencontainers.image.version", "")),
            labels.get(LABEL + "lock-sha256") or None,
        )  # fmt: skip
        return self.of(image, tested)

    def of(self, image: RentedImage, tested: SmokeImage) -> tuple[Record, Path]:
        """Test an image that RunPod can pull: see `run`."""
        description = self.description.for_variant(image.variant)
        with self.workspace.exclusive("pod"), process.sigterm_interrupts():
            reaper.reap(self.account)
            options = self.options
            offers = choice.offers(
                self.account, description, image.gpus, options.price_cap, options.gpu
            )
            folder = self.workspace.build / "smoke" / f"{image.digest[7:19]}-pod"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            started, begun = datetime.datetime.now(datetime.UTC), time.monotonic()
            key = secrets.token_urlsafe(24)  # of this pod alone; it is written nowhere
            rental = Rental(
                self.account, description, image, offers,
                PodMarker.mine(options.hours, owned=True), {"HIGGS_API_KEY": key},
            )  # fmt: skip
            with rented(rental) as pod, time_cap(options.hours * 3600):
                found = self._observe(pod, image, key, folder)
            seconds = time.monotonic() - begun
            return session.written(found, tested, started, seconds, folder, "pod"), folder

    def _observe(self, pod: Pod, image: RentedImage, key: str, folder: Path) -> Observation:
        account, options = self.account, self.options
        follower = PodLog(account, pod.id, folder / report.LOG).start()
        server = PodServer(account, pod, follower, key)
        begun = time.monotonic()
        try:
            try:
                seconds = PodWatch(account, pod, image, follower, options.timeout).wait()
            except NotReadyError as error:
                verdict = Verdict.INCONCLUSIVE if error.of_machine else Verdict.FAIL
                took = time.monotonic() - begun
                found = runner.not_started(verdict, error.reason, "gpu", took, "pod")
                return found._replace(device=server.device(), container=_rent(server, begun))
            log.info("smoke: ready after %.1f s", seconds)
            under_test = ImageUnderTest(server, folder, "gpu", place="pod")
            start = runner.start_result(Verdict.PASS, "", seconds, {"health_s": round(seconds, 1)})
            checks = [start, *runner.run_checks(under_test)]
            if options.dwell and record.overall(checks)[0] is not Verdict.FAIL:
                checks.append(dwell(under_test, server, options.dwell))
            return Observation(checks, server.device(), _rent(server, begun))
        finally:
            follower.stop()


def dwell(image: ImageUnderTest, server: PodServer, seconds: float) -> CheckResult:
    """Ask for speech for a while: a pod that was just ready may fail soon after."""
    begun, asked = time.monotonic(), 0
    verdict, reason = Verdict.PASS, ""
    try:
        while time.monotonic() - begun < seconds:
            asked += 1
            answer = image.client.post("/v1/audio/speech", image.request())
            if answer.status != 200:
                raise CheckFailedError(f"expected status 200 from request {asked}, got "
                                       f"{answer.status}")  # fmt: skip
            time.sleep(DWELL_PAUSE)
        if not server.alive:
            raise CheckFailedError(f"the server was started {server.starts} times")
    except (CheckFailedError, BrokenAnswerError) as error:
        verdict, reason = Verdict.FAIL, str(error)
    took = round(time.monotonic() - begun, 2)
    log.info("smoke: dwell: %s%s", verdict, f": {reason}" * bool(reason))
    return CheckResult("dwell", verdict, False, reason, took, {"requests": asked})


def _rent(server: PodServer, begun: float) -> Measured:
    """Return what the pod was and what it has cost."""
    pod = server.pod()
    hours = (time.monotonic() - begun) / 3600
    found: Measured = {
        "id": pod.id, "status": pod.status, "usd_per_hour": pod.cost,
        "usd": round(pod.cost * hours, 4), "data_center": pod.data_center_id or "",
        "cuda": pod.cuda_version or "",
    }  # fmt: skip
    return found
