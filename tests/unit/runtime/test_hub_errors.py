"""Failures of the hub and the network: retried, or refused with the reason."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from higgs_runtime import weights
from higgs_runtime.errors import (
    HubAccessError,
    HubBusyError,
    HubNotFoundError,
    HubUnreachableError,
    SettingError,
    StartError,
)

from higgs_image.workspace import PROJECT
from tests.support.hub_server import Failure, Hub, Server
from tests.support.weights import KILLED, MODEL, TOKENIZER, ensure, refused


@pytest.mark.parametrize(
    ("failure", "kind", "says", "hint"),
    [
        (Failure("/api/", 401), HubAccessError, "requires a login for bosonai/model", "HF_TOKEN"),
        (Failure("/api/", 403), HubAccessError, "may not read bosonai/model", "read access"),
        (
            Failure("/api/", 403, {"X-Error-Code": "GatedRepo"}),
            HubAccessError,
            "is gated",
            "licence",
        ),
        (Failure("/resolve/", 401), HubAccessError, "requires a login", "HF_TOKEN"),
        (Failure("/resolve/", 403), HubAccessError, "may not read", "read access"),
        (Failure("/cdn/", 403), HubAccessError, "may not read", "read access"),
        (Failure("/api/", 404), HubNotFoundError, "does not have bosonai/model", "HIGGS_MODEL"),
        (
            Failure("/api/", 404, {"X-Error-Code": "RepoNotFound"}),
            HubNotFoundError,
            "have bosonai/model",
            "HIGGS_MODEL",
        ),
        (
            Failure("/resolve/", 404, {"X-Error-Code": "EntryNotFound"}),
            HubNotFoundError,
            "(404)",
            "",
        ),
        (Failure("/api/", 400), HubNotFoundError, "answered 400", "HIGGS_MODEL"),
    ],
)
def test_final_answers_are_not_retried(
    hub: Hub, tmp_path: Path, waits: list[float],
    failure: Failure, kind: type[StartError], says: str, hint: str,
) -> None:  # fmt: skip
    hub.failures.append(failure)
    error = refused(kind, tmp_path)
    assert says in error.message and hint in error.hint
    assert waits == []


def test_unknown_repository_and_revision(hub: Hub, tmp_path: Path) -> None:
    error = refused(HubAccessError, tmp_path, [MODEL._replace(repo="bosonai/unknown"), TOKENIZER])
    assert "or the repository does not exist (401)" in error.message
    error = refused(HubNotFoundError, tmp_path, [MODEL._replace(revision="v9"), TOKENIZER])
    assert "bosonai/model at v9" in error.message
    error = refused(HubNotFoundError, tmp_path, [MODEL, TOKENIZER._replace(revision="5" * 40)])
    assert "HIGGS_AUDIO_TOKENIZER" in error.hint


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
@pytest.mark.parametrize("path", ["/api/", "/resolve/", "/cdn/"])
def test_transient_failures_are_retried(
    hub: Hub, tmp_path: Path, waits: list[float], status: int, path: str
) -> None:
    hub.failures.append(Failure(path, status, times=2))
    ensure(tmp_path)
    if status != 429:  # huggingface_hub retries this one itself
        assert waits[:1] == [1.0]


def test_retries_are_limited(hub: Hub, tmp_path: Path, waits: list[float]) -> None:
    hub.failures.append(Failure("/api/", 429, {"Retry-After": "45"}))
    error = refused(HubBusyError, tmp_path)
    assert "limits the requests from this address (429)" in error.message
    assert waits == [45.0] * 5
    assert len(hub.asked) == 6

    hub.failures[:] = [Failure("/api/", 503)]
    waits.clear()
    assert "the hub failed with 503" in refused(HubBusyError, tmp_path).message
    assert waits == [1.0, 2.0, 5.0, 10.0, 20.0]


def test_retry_after_is_limited(hub: Hub, tmp_path: Path, waits: list[float]) -> None:
    hub.failures.append(Failure("/api/", 429, {"Retry-After": "86400"}, times=1))
    ensure(tmp_path)
    assert waits == [120.0]


def test_no_network(tmp_path: Path, hub: Hub, hub_server: Server, waits: list[float]) -> None:
    """In a separate process: a closed port, and a host name that does not exist."""
    script = KILLED.replace("weights.ensure(", "download.sleep = int\nweights.ensure(")
    script = script.replace("import cache", "import cache, download")
    for endpoint in ("http://127.0.0.1:1", "http://no-such-host.invalid"):
        done = subprocess.run(
            [sys.executable, "-c", script, tmp_path], capture_output=True, text=True,
            env=os.environ | {"PYTHONPATH": str(PROJECT / "docker/runtime"),
                              "HF_ENDPOINT": endpoint},
        )  # fmt: skip
        assert done.returncode != 0
        assert f"HubUnreachableError: {endpoint} cannot be reached" in done.stderr
        assert done.stdout.count("trying again in") == 5


def test_unresponsive_hub(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waits: list[float]
) -> None:
    """As with a firewall that drops packets."""
    from higgs_runtime import download
    from huggingface_hub import HfApi

    monkeypatch.setattr(download, "API_SECONDS", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setattr(download, "HfApi", lambda: HfApi(endpoint=url))
        error = refused(HubUnreachableError, tmp_path)
    assert "cannot be reached (timeout)" in error.message
    assert waits == [1.0, 2.0, 5.0, 10.0, 20.0]


def test_rejected_token(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waits: list[float]
) -> None:
    """The real hub rejects a wrong token for public repositories, too."""
    monkeypatch.setenv("HF_TOKEN", "hf_wrong\n")
    hub.failures.append(Failure("", 401))
    error = refused(HubAccessError, tmp_path)
    assert "rejects the token in HF_TOKEN" in error.message and "hf_wrong" not in str(error)
    assert "or unset it: the pinned weights need none" in error.hint and waits == []


def test_hf_transfer_variable_is_ignored(hub: Hub, hub_server: Server, tmp_path: Path) -> None:
    """HF_HUB_ENABLE_HF_TRANSFER wants a package that is not there. A process of its own: the
    library reads it when it is imported."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED, tmp_path], capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(PROJECT / "docker/runtime"),
                          "HF_HUB_ENABLE_HF_TRANSFER": "1", "HF_HUB_DISABLE_XET": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
@pytest.mark.parametrize("offline", [True, False])
def test_unreadable_weights(hub: Hub, tmp_path: Path, offline: bool) -> None:
    ensure(tmp_path)
    (tmp_path / "models--bosonai--model").chmod(0o700)
    os.seteuid(65534)
    try:
        with pytest.raises(SettingError, match="weights cannot be read: Permission denied for"):
            ensure(tmp_path, offline=offline)
    finally:
        os.seteuid(0)


def test_read_only_file_system_during_a_download(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from higgs_runtime import download

    def broken(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system", "/cache/x")

    monkeypatch.setattr(download, "snapshot_download", broken)
    error = refused(SettingError, tmp_path)
    assert f"weights cannot be downloaded to {tmp_path}: " in error.message
    assert "Read-only file system: '/cache/x'" in error.message


def test_missing_certificates(
    hub: Hub, hub_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import requests

    def broken(*_: object, **__: object) -> None:
        requests.Session().get("https://127.0.0.1:1", verify="/no/such/ca.pem")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", broken)
    assert "/no/such/ca.pem" in refused(SettingError, tmp_path).message


@pytest.mark.parametrize(
    ("value", "offline"),
    [("1", True), ("true", True), ("Yes", True), ("ON\r", True), ("0", False), ("", False)],
)
def test_spellings_of_hf_hub_offline(value: str, offline: bool) -> None:
    assert weights.is_offline({"HF_HUB_OFFLINE": value}) == offline


def test_token_is_sent(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    ensure(tmp_path)
    assert "Bearer hf_secret" in hub.tokens
