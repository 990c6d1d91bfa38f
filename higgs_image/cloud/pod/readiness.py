"""Follow a pod until its server is ready, and stop as soon as that cannot happen any more."""

from __future__ import annotations

import logging
import re
import time
from dataclasses import dataclass

from higgs_image import retry
from higgs_image.cloud.image_rules import RentedImage
from higgs_image.cloud.pod.log import PodLog
from higgs_image.cloud.runpod.client import RunPodClient
from higgs_image.cloud.runpod.schema import Pod
from higgs_image.errors import (
    CloudNotFoundError,
    CloudUnavailableError,
    PodError,
)
from higgs_image.oci.container_spec import PORT
from higgs_image.smoke import diagnosis
from higgs_image.smoke.client import BrokenAnswerError, TimedClient
from higgs_image.smoke.server import NotReadyError

log = logging.getLogger(__name__)

PULL_SECONDS = 1200.0
"""How long a host may pull the image: 2 GB at 2 MB/s."""
PROXY_SECONDS = 90.0
"""How long the proxy may fail after the server said that it is ready."""
EXIT_SECONDS = 10.0
"""How long the host may take to log the exit code of a container that refused to start."""
POLL = 3.0
"""Seconds between two looks at a pod."""
PROGRESS = 15.0
"""Seconds between two lines of progress."""

READY = re.compile(r"^higgs: ready: ", re.MULTILINE)
_EXIT = re.compile(r"exit(?:ed)?\b[^\n]*?\b(?:code|status)\D{0,3}(\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class PodWatch:
    """A pod that starts.

    Attributes:
        account: at RunPod.
        pod: as it was created.
        image: that it pulls.
        log: of it, being followed.
        timeout: seconds until it has to be ready.
    """

    account: RunPodClient
    pod: Pod
    image: RentedImage
    log: PodLog
    timeout: float

    def wait(self) -> float:
        """Wait until /ping is 200 through the proxy, and return the seconds that took.

        Raises:
            NotReadyError: the server cannot start; the reason is the entrypoint's own.
            PodError: the host pulls for too long, the pod has ended, or the proxy fails.
        """
        begun = reported = time.monotonic()
        said_ready = 0.0
        client = TimedClient.of(self.account.url(self.pod.id, PORT), timeout=20.0)
        last = ""

        def ready() -> bool:
            nonlocal reported, said_ready, last
            pod = self._look()
            status, age = pod.status if pod else "unknown", time.monotonic() - begun
            self._refuse_fatal(status)
            last = ping(client)
            if last == "200":
                return True
            container = self.log.container()
            if not container and status != "RUNNING" and age > PULL_SECONDS:
                raise PodError(
                    f"the pod {self.pod.id} is stuck while pulling: {self.image.size / 1e9:.2f} GB "
                    f"in {age:.0f} s so far, its status is {status}: {_last(self.log.system())}",
                    "run it again: another host may have a faster network; check that the image "
                    "can be pulled: docker pull",
                )
            if READY.search(container):
                said_ready = said_ready or time.monotonic()
                if time.monotonic() - said_ready > PROXY_SECONDS:
                    raise PodError(
                        f"the server of {self.pod.id} is ready, but the proxy answers "
                        f"{client.host} with {last}",
                        f"check that {PORT}/http is in ports of deploy/template.toml, and run it "
                        "again",
                    )
            if time.monotonic() - reported > PROGRESS:
                reported = time.monotonic()
                line = _last(container) or _last(self.log.system())
                log.info("pod: %3.0f s, %s: %s", age, status, line)
            return False

        if not retry.wait_until(ready, self.timeout, interval=POLL):
            raise NotReadyError(
                f"it was not ready within {self.timeout:.0f} s (the proxy answers {last})",
                "see the end of its log, or give it more time: --timeout",
                self.log.container(),
                of_machine=True,
            )
        return time.monotonic() - begun

    def _look(self) -> Pod | None:
        """Return the pod as it is now; None: RunPod does not answer."""
        try:
            return self.account.get(f"/v2/pods/{self.pod.id}", Pod)
        except CloudNotFoundError:
            raise PodError(
                f"the pod {self.pod.id} is gone: somebody else deleted it",
                "look at RunPod's console; run it again",
            ) from None
        except CloudUnavailableError as error:
            log.info("pod: %s", error.message)
            return None

    def _refuse_fatal(self, status: str) -> None:
        """Raise NotReadyError if the log or the status says that the server cannot start."""
        over = status in ("EXITED", "ERROR", "TERMINATED")
        if over or diagnosis.refusal(self.log.container()):  # the log may come later
            retry.wait_until(self._has_ended, EXIT_SECONDS, interval=0.1)
        code = exit_code(self.log.system())  # read first: it is logged last
        text = self.log.container()
        if refusal := diagnosis.refusal(text):
            of_machine = code is None or code in diagnosis.OF_MACHINE
            raise NotReadyError(f"the container refused to start: {refusal}", "", text,
                                of_machine=of_machine)  # fmt: skip
        if found := diagnosis.find(text):
            line, meaning = found
            raise NotReadyError(
                f"{meaning.what} ({line[:200]})", meaning.hint, text, of_machine=meaning.of_machine
            )
        if code is not None:
            meaning = diagnosis.of_exit(code, diagnosis.last_error(text), out_of_memory=False)
            raise NotReadyError(
                f"the container ended with status {code} ({meaning.what})", meaning.hint, text
            )
        if over:
            raise PodError(
                f"the pod {self.pod.id} is {status}: {_last(self.log.system()) or 'no log'}",
                "run it again; if it happens again, look at its log: build/smoke",
            )

    def _has_ended(self) -> bool:
        return exit_code(self.log.system()) is not None


def exit_code(system: str) -> int | None:
    """Return the last exit code that the host's lines name; None if they name none."""
    found = _EXIT.findall(system)
    return int(found[-1]) if found else None


def ping(client: TimedClient) -> str:
    """Return the status of GET /ping, or why there is none."""
    try:
        return str(client.get("/ping").status)
    except BrokenAnswerError as error:
        return str(error)


def _last(text: str) -> str:
    lines = text.splitlines()
    return diagnosis.printable(lines[-1])[:120] if lines else ""
