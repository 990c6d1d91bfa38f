"""The server in a pod as the smoke test sees it: through the proxy, and by RunPod's API."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from higgs_image.cloud.pod.log import PodLog
from higgs_image.cloud.pod.readiness import READY, exit_code
from higgs_image.cloud.runpod.client import RunPodClient
from higgs_image.cloud.runpod.schema import Pod
from higgs_image.errors import CloudNotFoundError, PodError
from higgs_image.oci.container_spec import PORT
from higgs_image.smoke.checks.model import ServerUnderTest, UndecidedError
from higgs_image.smoke.client import TimedAnswer, TimedClient
from higgs_image.smoke.record import SmokeDevice

FIRST_BYTE_SECONDS = 100.0
"""After which the proxy gives up on an answer, and sends 524."""
PROXY_ERRORS = {
    502: "nothing listens on the port",
    504: "the server did not answer the proxy",
    520: "the proxy got an answer that it does not understand",
    521: "the server refused the proxy's connection",
    522: "the proxy could not connect",
    523: "the proxy could not find the pod",
    524: f"the first byte took longer than {FIRST_BYTE_SECONDS:.0f} s",
}
"""Statuses of the proxy: the server behind it never sends them."""

_GPU = re.compile(r"^higgs: (?P<name>[^,\n]+)(?:, [\d.]+ GiB)?, driver (?P<driver>[\d.]+)", re.M)
"""The entrypoint's line about the card (docker/runtime/higgs_runtime/gpu.py)."""


class ProxyClient(TimedClient):
    """A client that tells answers of the proxy from those of the server."""

    def ask(self, method: str, path: str, body: bytes | None = None) -> TimedAnswer:
        """Send a request: see TimedClient.

        Raises:
            PodError: the proxy answered in the server's place.
        """
        answer = super().ask(method, path, body)
        if meaning := PROXY_ERRORS.get(answer.status):
            raise PodError(
                f"the proxy {self.host} answered {path} with {answer.status} after "
                f"{answer.seconds:.0f} s: {meaning}",
                "see the log in build/smoke, and run it again; long texts have to be streamed",
            )
        return answer


class PodServer(ServerUnderTest):
    """A server in a pod.

    Args:
        account: at RunPod.
        pod: as it was created.
        log: of it.
        key: the server's API key.
    """

    has_own_voice = False

    def __init__(self, account: RunPodClient, pod: Pod, log: PodLog, key: str) -> None:
        self._account, self._pod, self._log = account, pod, log
        url = account.url(pod.id, PORT)
        # The proxy's own answer has to come first.
        self.client = ProxyClient.of(url, key=key, timeout=FIRST_BYTE_SECONDS + 10)

    @property
    def alive(self) -> bool:
        """Whether the container that became ready still runs: it was not started again."""
        return self.state()["Status"] == "RUNNING" and self.starts <= 1

    @property
    def starts(self) -> int:
        """How often the server said that it is ready."""
        return len(READY.findall(self._log.container()))

    def state(self) -> Mapping[str, Any]:
        """Return RunPod's status, and the exit code if its host logged one."""
        code = exit_code(self._log.system())
        return {"Status": self.pod().status, "ExitCode": "unknown" if code is None else code}

    def pod(self) -> Pod:
        """Return the pod as it is now; one that is gone has the status TERMINATED."""
        try:
            return self._account.get(f"/v2/pods/{self._pod.id}", Pod)
        except CloudNotFoundError:
            return msgspec.structs.replace(self._pod, status="TERMINATED")

    def device(self) -> SmokeDevice:
        """Return the card and its driver, as the entrypoint logged them."""
        gpu = self._pod.gpu
        name, count = (gpu.id, gpu.count) if gpu else ("unknown", 1)
        found = _GPU.search(self._log.container())
        if found is None:
            return SmokeDevice("gpu", name, count)
        return SmokeDevice("gpu", found["name"], count, found["driver"])

    def cpu_seconds(self) -> float:
        """Refuse: RunPod does not show it."""
        raise UndecidedError("a pod does not show the processor time of its container")

    def memory_mb(self) -> float:
        """Refuse: RunPod shows a rounded share only."""
        raise UndecidedError("a pod does not show the memory of its container")

    def output_of(self, *_: str) -> str | None:
        """Return None: no program can be run in it."""
        return None

    def all_logs(self) -> bytes:
        """Return the log of its container, as far as it has come."""
        return self._log.container().encode()

    def process_ids(self) -> list[int]:
        """Return nothing: they run on another machine."""
        return []

    def terminate(self) -> None:
        """Refuse: RunPod shows no exit code of a container that it stops."""
        raise UndecidedError("a pod does not show how its container ends")
