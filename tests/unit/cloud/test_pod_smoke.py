"""A smoke test in a pod of the fake RunPod: through its proxy, from the catalogue to the end."""

from __future__ import annotations

import dataclasses
import logging
import time
from pathlib import Path

import pytest

from higgs_image.cloud.pod import readiness, rental, smoke, up
from higgs_image.cloud.pod.smoke import PodOptions, PodTest
from higgs_image.cloud.runpod.client import RunPodClient
from higgs_image.errors import (
    CloudAuthError,
    CloudRefusedError,
    CloudUnavailableError,
    CreditError,
    HiggsError,
    NoCapacityError,
    PodError,
    PodLeftoverError,
    PriceError,
    UsageError,
)
from higgs_image.smoke import record
from higgs_image.smoke.record import ENGINE_ONLY, Record
from tests.support import certificate
from tests.support.connect_proxy import ConnectProxy
from tests.support.runpod import rent
from tests.support.runpod.pods import PodLife, gpu
from tests.support.runpod.server import KEY, ApiFault, FakeRunPod


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name, value in rent.WAITS:
        monkeypatch.setattr(module, name, value)


@pytest.fixture
def target(account: RunPodClient, tmp_path: Path) -> PodTest:
    del account
    return rent.target(tmp_path)


def run(target: PodTest, **options: object) -> tuple[Record, Path]:
    changed = dataclasses.replace(target.options, **options)  # type: ignore[arg-type]
    return dataclasses.replace(target, options=changed).of(rent.IMAGE, rent.TESTED)


def gone(runpod: FakeRunPod) -> bool:
    return not runpod.pods and bool(runpod.deleted)


def test_an_image_that_speaks_passes(
    target: PodTest, runpod: FakeRunPod, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    done, folder = run(target)
    assert (done.verdict, done.reason, done.place) == ("pass", "", "pod")
    assert (done.device.kind, done.device.name) == ("gpu", "NVIDIA GeForce RTX 4090")
    assert done.device.driver == "550.90.07"
    assert all(x["Host"].endswith("-8000.proxy.runpod.net") for x in runpod.seen)
    assert len(runpod.seen) > 10 and all(x["X-Forwarded-Proto"] == "https" for x in runpod.seen)
    assert {x.name for x in done.checks if x.verdict != "pass"} == {
        *ENGINE_ONLY,
        "words",
        "gpu-memory",
    }
    assert done.checks[-1].name == "dwell"
    assert done.container["usd_per_hour"] == 0.59 and done.container["cuda"] == "12.8"
    assert record.load(folder / "record.json") == done
    assert "higgs: ready" in (folder / "server.log").read_text()
    assert (folder / "speech.wav").stat().st_size > 100_000
    assert gone(runpod)
    sent = next(body for method, path, body in runpod.requests if method == "POST")
    secret = sent["env"]["HIGGS_API_KEY"]
    assert len(secret) > 20 and "{{" not in secret
    written = "".join(x.read_text(errors="replace") for x in folder.rglob("*") if x.is_file())
    for value in (secret, KEY):
        assert value not in written + caplog.text + repr(done)


def test_the_pod_is_what_the_description_says(target: PodTest, runpod: FakeRunPod) -> None:
    run(target, dwell=0.0)
    sent = next(body for method, path, body in runpod.requests if method == "POST")
    assert sent["image"] == rent.IMAGE.reference and sent["cloud"] == "SECURE"
    assert (
        sent["ports"] == ["8000/http", "8888/http"]
        and not sent["startJupyter"]
        and not sent["startSsh"]
    )
    assert sent["mounts"] == {"persistent": {"size": 30, "path": "/workspace"}}
    assert sent["gpu"] == {"id": "NVIDIA GeForce RTX 4090", "count": 1, "minCudaVersion": "12.4"}
    assert sent["name"].startswith("higgs-pod-20")


@pytest.mark.parametrize(
    ("line", "code", "verdict"),
    [
        ("driver 535.1 supports CUDA up to 12.2; hint: rent another", 11, "inconclusive"),
        ("the GPU has 16.0 GiB; hint: rent a larger one", 13, "inconclusive"),
        ("model.safetensors has the wrong hash; hint: report it", 25, "fail"),
    ],
)
def test_a_container_that_refuses_to_start_ends_the_test_early(
    line: str, code: int, verdict: str, target: PodTest, runpod: FakeRunPod
) -> None:
    runpod.life = PodLife(error=f"higgs: ERROR: {line}", exit_code=code)
    begun = time.monotonic()
    done, _ = run(target, timeout=60.0)
    assert time.monotonic() - begun < 30
    assert done.verdict == verdict and line in done.checks[0].reason
    assert gone(runpod)


def test_a_crash_is_known_by_its_exit_code(target: PodTest, runpod: FakeRunPod) -> None:
    runpod.life = PodLife(error="Traceback", exit_code=139)
    done, _ = run(target)
    assert done.verdict == "fail"
    assert "ended with status 139 (it crashed)" in done.checks[0].reason


def test_a_full_gpu_type_is_skipped(target: PodTest, runpod: FakeRunPod) -> None:
    runpod.full = {"NVIDIA GeForce RTX 4090"}
    done, _ = run(target, dwell=0.0)
    assert done.device.name == "NVIDIA L40S"


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        (ApiFault("POST", "/v2/pods", 400, "no instances"), NoCapacityError, "no instances"),
        (ApiFault("POST", "/v2/pods", 402, "Insufficient balance"), CreditError, "balance"),
        (ApiFault("POST", "/v2/pods", 403, "access denied"), CloudAuthError, "access denied"),
        (ApiFault("POST", "/v2/pods", 422, "Request validation failed.", ["$.x: no", "$.y: no"]),
         CloudRefusedError, r"\$.x: no; \$.y: no"),
        (ApiFault("GET", "/v2/catalog", 401, "invalid"), CloudAuthError, "invalid"),
        (ApiFault("GET", "/proxy/.*/speech", 524), PodError, "524 after 0 s: the first byte took"),
        (ApiFault("POST", "/proxy/.*/speech", 502), PodError, "502 after 0 s: nothing listens"),
    ],
)  # fmt: skip
def test_each_error_ends_the_test_and_the_pod(
    fault: ApiFault, error: type[HiggsError], message: str, target: PodTest, runpod: FakeRunPod
) -> None:
    if "proxy" in fault.path:
        fault.method = "POST"
    runpod.faults = [fault]
    with pytest.raises(error, match=message) as found:
        run(target)
    assert type(found.value) is error and found.value.hint
    assert not runpod.pods


def test_a_price_over_the_cap(target: PodTest, runpod: FakeRunPod) -> None:
    with pytest.raises(PriceError, match=r"RTX 4090, costs 0\.59 USD an hour, the cap is 0\.50"):
        run(target, price_cap=0.5)
    assert not [x for x in runpod.requests if x[0] == "POST"]


def test_no_gpu_is_free(target: PodTest, runpod: FakeRunPod) -> None:
    runpod.catalogue = [gpu("NVIDIA L40S", 48, 0.8, "NONE"), gpu("NVIDIA B200", 180, 0.9)]
    with pytest.raises(NoCapacityError, match="NVIDIA L40S would fit"):
        run(target)


def test_hosts_with_an_old_driver_do_not_count(target: PodTest, runpod: FakeRunPod) -> None:
    old = [{"version": "12.2", "available": True}, {"version": "12.8", "available": False}]
    runpod.catalogue = [gpu("NVIDIA L40S", 48, 0.8, cudaVersions=old)]
    with pytest.raises(NoCapacityError, match="none would fit"):
        run(target)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("NVIDIA Nothing", "RunPod has no GPU type"),
        ("NVIDIA GeForce RTX 5090", "no code for compute capability 12.0"),
        ("NVIDIA RTX A4000", "the image needs 24 GB"),
        ("AMD Instinct MI300X OAM", "made by AMD"),
    ],
)
def test_a_gpu_that_does_not_fit_is_refused(
    name: str, message: str, target: PodTest, runpod: FakeRunPod
) -> None:
    with pytest.raises(UsageError, match=message):
        run(target, gpu=name)


def test_a_gpu_can_be_chosen(target: PodTest) -> None:
    done, _ = run(target, gpu="NVIDIA L40S", dwell=0.0)
    assert done.device.name == "NVIDIA L40S"


def test_a_stuck_pull_is_named_with_its_size(
    target: PodTest, runpod: FakeRunPod, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readiness, "PULL_SECONDS", 0.5)
    runpod.life = PodLife(pulling=1e9)
    with pytest.raises(PodError, match=r"stuck while pulling: 2\.00 GB in [01] s so far") as found:
        run(target)
    assert "Pulling from registry" in found.value.message and gone(runpod)


def test_a_proxy_without_the_port(
    target: PodTest, runpod: FakeRunPod, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readiness, "PROXY_SECONDS", 0.3)
    runpod.life = PodLife(serves=False)
    with pytest.raises(PodError, match=r"is ready, but the proxy answers \S+ with 502"):
        run(target)
    assert gone(runpod)


def test_the_proxy_gives_up_before_a_slow_first_byte(target: PodTest, runpod: FakeRunPod) -> None:
    runpod.life, runpod.first_byte_seconds = PodLife(thinks=2.0), 0.3
    with pytest.raises(PodError, match=r"524 after \d+ s: the first byte took longer than 100 s"):
        run(target)
    assert gone(runpod)


def test_a_machine_behind_a_proxy_can_rent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """HTTPS_PROXY counts for RunPod's API, the log, and the server in the pod."""
    hosts = ("api.runpod.test", "proxy.runpod.test")
    context, trusted = certificate.make(tmp_path, *(f"DNS:{x}" for x in hosts))
    with FakeRunPod(context) as fake, ConnectProxy(fake.port) as proxy:
        for name, value in {
            "RUNPOD_API_KEY": KEY, "RUNPOD_API_URL": f"https://{hosts[0]}",
            "RUNPOD_PROXY_URL": f"https://{hosts[1]}/proxy/{{pod}}-{{port}}",
            "HTTPS_PROXY": proxy.url, "SSL_CERT_FILE": str(trusted),
        }.items():  # fmt: skip
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("https_proxy", raising=False)
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        running = up.up(rent.target(tmp_path), rent.IMAGE)
        assert running.url.startswith(f"https://{hosts[1]}/") and list(fake.pods) == [running.id]
        assert set(proxy.hosts) == set(hosts) and fake.violations == []
        monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
        with pytest.raises(CloudUnavailableError):
            up.up(rent.target(tmp_path), rent.IMAGE)


def test_a_server_that_is_never_ready(target: PodTest, runpod: FakeRunPod) -> None:
    runpod.life = PodLife(loading=1e9)
    done, _ = run(target, timeout=1.0)
    assert done.verdict == "inconclusive" and gone(runpod)
    assert "not ready within 1 s (the proxy answers 204)" in done.checks[0].reason


def test_the_time_cap_ends_it(target: PodTest, runpod: FakeRunPod) -> None:
    runpod.life = PodLife(loading=1e9)
    with pytest.raises(PodError, match="rented for its longest time"):
        run(target, hours=0.5 / 3600)
    assert gone(runpod)


def test_a_pod_that_somebody_else_deletes(target: PodTest, runpod: FakeRunPod) -> None:
    runpod.faults = [ApiFault("GET", r"/v2/pods/\w+$", 404)]
    with pytest.raises(PodError, match="somebody else deleted it"):
        run(target)


@pytest.mark.parametrize("lost", [True, False])
def test_a_lost_answer_rents_one_pod(lost: bool, target: PodTest, runpod: FakeRunPod) -> None:
    runpod.faults = [ApiFault("POST", "/v2/pods", 0, lost=lost, times=1)]
    done, _ = run(target, dwell=0.0)
    assert done.passed and len(runpod.deleted) == 1


def test_a_pod_whose_creation_was_never_answered_is_deleted(
    target: PodTest, runpod: FakeRunPod
) -> None:
    away = ApiFault("GET", r"/v2/pods$", 503, times=0)
    runpod.faults = [ApiFault("POST", "/v2/pods", 0, lost=True), away]

    def leave(when: str, method: str, path: str) -> None:
        if (when, method) == ("after", "POST"):
            away.times = 14

    runpod.watch = leave
    with pytest.raises(CloudUnavailableError):
        run(target)
    assert gone(runpod) and len(runpod.deleted) == 1


def test_a_lost_network_is_waited_for(target: PodTest, runpod: FakeRunPod) -> None:
    """RunPod is away for a while: the log breaks off, and the pod is deleted when it is back."""
    runpod.faults = [
        ApiFault("GET", "/v2/pods/.*/logs", 0, times=3),
        ApiFault("GET", r"/v2/pods/\w+$", 0, times=6),
        ApiFault("DELETE", "/v2/pods", 0, times=6),
    ]
    done, _ = run(target, dwell=0.0)
    assert done.passed and gone(runpod)


def test_a_pod_that_cannot_be_deleted_is_named(
    target: PodTest, runpod: FakeRunPod, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rental, "DELETE_SECONDS", 0.5)
    runpod.faults = [ApiFault("DELETE", "/v2/pods", 500)]
    with pytest.raises(PodLeftoverError, match=r"the pod higgs-pod-\S+ may still run") as found:
        run(target, dwell=0.0)
    assert "./inv pod-reap --yes" in found.value.hint
    runpod.faults = []


def test_a_server_that_dies_in_the_dwell_fails(
    target: PodTest, runpod: FakeRunPod, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smoke, "DWELL_PAUSE", 0.2)

    def kill(when: str, method: str, path: str) -> None:
        speech = [x for x in asked if x.endswith("/speech")]
        asked.append(path)
        if len(speech) == 30:
            next(iter(runpod.pods.values())).life.error = "higgs: ERROR: the server died; hint: x"

    asked: list[str] = []
    runpod.watch = kill
    with pytest.raises(PodError, match="502"):
        run(target, dwell=30.0)
    assert gone(runpod)


def test_options_come_from_the_description(target: PodTest) -> None:
    assert target.options == PodOptions("", 1.0, 1.0, timeout=20.0, dwell=1.0)
    assert target.description.pod.price_cap == 1.0
