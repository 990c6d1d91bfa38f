"""`./inv pod-up`: a pod with the image that stays until it is taken down, or its time is over."""

from __future__ import annotations

from dataclasses import dataclass

from higgs_image import process
from higgs_image.cloud.image_rules import RentedImage
from higgs_image.cloud.pod import choice, reaper
from higgs_image.cloud.pod.log import PodLog
from higgs_image.cloud.pod.marker import PodMarker
from higgs_image.cloud.pod.readiness import PodWatch
from higgs_image.cloud.pod.rental import Rental, rented, time_cap
from higgs_image.cloud.pod.smoke import PodTest
from higgs_image.errors import PodError
from higgs_image.oci.container_spec import PORT
from higgs_image.smoke.server import NotReadyError


@dataclass(frozen=True)
class RunningPod:
    """A pod that is ready.

    Attributes:
        id: at RunPod.
        name: with its time stamp.
        gpu: id of its GPU type.
        usd_per_hour: what it costs.
        until: when its time is over.
        url: of the server.
        seconds: until it was ready.
        secret: the account's secret with the API key; empty: the server is open to everybody.
    """

    id: str
    name: str
    gpu: str
    usd_per_hour: float
    until: str
    url: str
    seconds: float
    secret: str

    def text(self) -> str:
        """Return the report as a person reads it."""
        key = '-H "Authorization: Bearer $HIGGS_API_KEY" ' if self.secret else ""
        return "\n".join([
            f"pod   {self.id} ({self.name}), {self.gpu}, {self.usd_per_hour:.2f} USD an hour",
            f"url   {self.url} (ready after {self.seconds:.0f} s)",
            f"key   the value of RunPod's secret {self.secret}" if self.secret else
            "key   NONE: anyone who knows the URL can use it",
            f"try   curl {key}-H 'Content-Type: application/json' -o hello.wav \\",
            '        -d \'{"model": "higgs-audio-v2", "voice": "belinda", "input": "Hello.", '
            '"response_format": "wav"}\' \\',
            f"        {self.url}/v1/audio/speech",
            f"end   ./inv pod-down {self.id}   (./inv pod-reap deletes it {self.until})",
        ])  # fmt: skip


def up(target: PodTest, image: RentedImage) -> RunningPod:
    """Rent a pod, wait until it is ready, and leave it.

    Args:
        target: account, description and options.
        image: that RunPod can pull.

    Raises:
        PodError: it did not become ready; it is deleted.
        HiggsError: none can be rented.
    """
    account, options = target.account, target.options
    description = target.description.for_variant(image.variant)
    with process.sigterm_interrupts():
        reaper.reap(account)
        offers = choice.offers(account, description, image.gpus, options.price_cap, options.gpu)
        marker = PodMarker.mine(options.hours, owned=False)
        rental = Rental(account, description, image, offers, marker, {})
        with rented(rental, keep=True) as pod, time_cap(options.hours * 3600):
            follower = PodLog(account, pod.id).start()
            try:
                seconds = PodWatch(account, pod, image, follower, options.timeout).wait()
            except NotReadyError as error:
                raise PodError(
                    f"the pod {pod.id} did not become ready: {error.reason}",
                    "correct what it names; the pod is deleted",
                ) from None
            finally:
                follower.stop()
    return RunningPod(
        pod.id, pod.name, pod.gpu.id if pod.gpu else "", pod.cost,
        f"after {marker.until:%Y-%m-%d %H:%M} UTC", account.url(pod.id, PORT), seconds,
        description.container.secrets.get("HIGGS_API_KEY", ""),
    )  # fmt: skip
