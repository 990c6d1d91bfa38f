"""The real server on the CPU behind a proxy that behaves like RunPod's: rent, wait, check."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import pytest

from higgs_image.cloud.pod import up
from higgs_image.cloud.pod.log import PodLog
from higgs_image.cloud.pod.server import PodServer
from higgs_image.cloud.runpod.client import RunPodClient
from higgs_image.cloud.runpod.schema import Pod
from higgs_image.smoke import record, runner
from higgs_image.smoke.checks.model import ImageUnderTest
from higgs_image.verdict import Verdict
from tests.fork.conftest import StartServer
from tests.support.runpod import rent
from tests.support.runpod.fixtures import account, runpod
from tests.support.runpod.server import FakeRunPod

__all__ = ["account", "runpod"]

pytestmark = [pytest.mark.fork, pytest.mark.timeout(2400)]

KEY = "0123456789abcdef"


def test_the_smoke_test_passes_through_the_proxy(
    start_server: StartServer, runpod: FakeRunPod, account: RunPodClient, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """With an API key, the pod's host name, and the proxy's headers."""
    for module, name, value in rent.WAITS:
        monkeypatch.setattr(module, name, value)
    with start_server(env={"HIGGS_API_KEY": KEY}) as running:
        runpod.upstream = urlsplit(running.url).port or 0
        rented = up.up(rent.target(tmp_path), rent.IMAGE)
        pod = account.get(f"/v2/pods/{rented.id}", Pod)
        log = PodLog(account, pod.id).start()
        try:
            server = PodServer(account, pod, log, KEY)
            image = ImageUnderTest(server, tmp_path, "cpu", place="pod")
            start = runner.start_result(Verdict.PASS, "", rented.seconds, {})
            checks = [start, *runner.run_checks(image)]
        finally:
            log.stop()
    verdict, reason = record.overall(checks, record.required("cpu", "pod"))
    print([(x.name, str(x.verdict), x.reason) for x in checks])
    assert (verdict, reason) == (Verdict.PASS, "")
    assert {x["Host"] for x in runpod.seen} == {f"{pod.id}-8000.proxy.runpod.net"}
