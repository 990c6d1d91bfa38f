"""Weights from a fake hub: downloaded, checked, resumed, or refused with the reason."""

from __future__ import annotations

import errno
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from higgs_runtime import cache, weights
from higgs_runtime.cache import WeightsRepo
from higgs_runtime.errors import (
    DiskTooSmallError,
    HubAccessError,
    HubBusyError,
    HubNotFoundError,
    HubUnreachableError,
    NotCachedError,
    SettingError,
    StartError,
    WeightsDamagedError,
)
from higgs_runtime.image import PinnedRepo
from higgs_runtime.settings import Settings, read

from higgs_image.workspace import PROJECT
from tests.support.hub_server import Failure, Hub, Server
from tests.unit.runtime.conftest import IMAGE

MODEL = WeightsRepo("model", "bosonai/model", "1" * 40)
TOKENIZER = WeightsRepo("audio tokenizer", "bosonai/tokenizer", "2" * 40)
SEMANTIC = WeightsRepo("semantic model", "bosonai/hubert", "main", by_name=True)
ALL = [MODEL, TOKENIZER, SEMANTIC]


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch, hub_server: Server) -> list[float]:
    """Replace the pauses between attempts; return their lengths."""
    from higgs_runtime import download

    waited: list[float] = []
    monkeypatch.setattr(download, "sleep", waited.append)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)
    return waited


def ensure(
    folder: Path, needed: list[WeightsRepo] | None = None, offline: bool = False
) -> weights.WeightFolders:
    return weights.ensure(needed or ALL, folder, offline=offline, report=lambda _: None)


def refused(
    kind: type[StartError], folder: Path, needed: list[WeightsRepo] | None = None
) -> StartError:
    with pytest.raises(StartError) as caught:
        ensure(folder, needed)
    assert type(caught.value) is kind, caught.value.message
    assert caught.value.hint
    return caught.value


def test_second_start_makes_no_request(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = ensure(tmp_path)
    for folder, repo, commit in (
        (place.model, "bosonai/model", "1" * 40),
        (place.audio_tokenizer, "bosonai/tokenizer", "2" * 40),
    ):
        for name, data in hub.repos[repo][commit].items():
            assert (Path(folder) / name).read_bytes() == data
    said = capsys.readouterr().out
    assert "downloading model bosonai/model at 1111111: 0.0 GB" in said
    assert "downloaded and checked semantic model bosonai/hubert at 3333333" in said
    assert (tmp_path / "models--bosonai--hubert/refs/main").read_text() == "3" * 40
    assert not any("xet" in path for _, path, _ in hub.asked), "plain HTTP can be resumed"

    hub.asked.clear()
    assert ensure(tmp_path) == place
    assert ensure(tmp_path, offline=True) == place
    assert hub.asked == []
    assert "complete" in capsys.readouterr().out


def test_branch_is_resolved_once(hub: Hub, tmp_path: Path) -> None:
    entry = WeightsRepo("model", "bosonai/model", "main")
    place = ensure(tmp_path, [entry, TOKENIZER, SEMANTIC])
    assert place.model.endswith("1" * 40)
    hub.add("bosonai/model", "9" * 40, {"config.json": b"newer"})
    assert ensure(tmp_path, [entry, TOKENIZER, SEMANTIC]) == place


def test_main_branch_refers_to_the_pinned_semantic_model(hub: Hub, tmp_path: Path) -> None:
    """The server loads the branch main; a later commit there must not be used."""
    hub.add("bosonai/hubert", "4" * 40, {"model.safetensors": os.urandom(120_000)})
    pinned = WeightsRepo("semantic model", "bosonai/hubert", "3" * 40, by_name=True)
    ensure(tmp_path, [MODEL, TOKENIZER, pinned])
    assert (tmp_path / "models--bosonai--hubert/refs/main").read_text() == "3" * 40
    (tmp_path / "models--bosonai--hubert/refs/main").write_text("4" * 40)
    ensure(tmp_path, [MODEL, TOKENIZER, pinned], offline=True)
    assert (tmp_path / "models--bosonai--hubert/refs/main").read_text() == "3" * 40


def test_folders_are_used_unchanged(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    own = [entry._replace(repo=str(tmp_path / "mine")) for entry in ALL]
    place = ensure(tmp_path / "cache", own)
    assert place == weights.WeightFolders(str(tmp_path / "mine"), str(tmp_path / "mine"))
    assert hub.asked == []


def test_progress_is_logged_and_reported_to_clients(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from higgs_runtime import download
    from higgs_runtime import snapshot as snapshots

    monkeypatch.setattr(download, "PROGRESS_SECONDS", 0.0)
    size = 60_000_000
    file = snapshots.HubFile("big", size, "abc", "")
    snapshot = snapshots.HubSnapshot(MODEL, "1" * 40, (file,))
    partial = tmp_path / "models--bosonai--model/blobs/abc.incomplete"
    partial.parent.mkdir(parents=True)
    reported: list[str] = []
    with download._progress(snapshot, tmp_path, reported.append):
        with partial.open("wb") as data:
            data.truncate(size // 4)
        while not reported:
            time.sleep(0.01)
    assert reported[0] == "downloading the model: 0.0 of 0.1 GB, 25 %"
    [line] = capsys.readouterr().out.splitlines()[:1]
    assert re.fullmatch(r"higgs: model: 0\.0 of 0\.1 GB, 25 %, \d+ MB/s, \d+ s left", line)


# --- interruptions


def test_broken_connection_is_resumed(
    hub: Hub, tmp_path: Path, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """More often than would be retried without progress."""
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 10_000)
    data = os.urandom(1_000_000)
    hub.repos["bosonai/model"]["1" * 40] = {"big.safetensors": data}
    hub.cut, hub.cut_after = 9, 105_000
    place = ensure(tmp_path)
    assert (Path(place.model) / "big.safetensors").read_bytes() == data
    starts = [
        int(r.removeprefix("bytes=").rstrip("-") or 0) for _, r in hub.downloads("/cdn/boson")
    ]
    assert starts[:10] == [100_000 * n for n in range(10)]
    assert waits == [1.0] * 9


KILLED = """
import sys
from pathlib import Path
from higgs_runtime import cache, weights
entry = cache.WeightsRepo("model", "bosonai/model", "1" * 40)
weights.ensure([entry, entry], Path(sys.argv[1]), offline=False, report=lambda _: None)
"""


def test_killed_download_is_resumed(hub: Hub, hub_server: Server, tmp_path: Path) -> None:
    data = os.urandom(30_000_000)
    hub.repos["bosonai/model"]["1" * 40] = {"big.safetensors": data}
    hub.cut, hub.cut_after = 10**6, 11_000_000  # hangs there until it is killed
    release = threading.Event()
    write = hub_server.RequestHandlerClass._send  # type: ignore[attr-defined]

    def slow(self, *arguments, **keywords):  # type: ignore[no-untyped-def]
        write(self, *arguments, **keywords)
        if keywords.get("most"):
            self.wfile.flush()
            release.wait(30)

    hub_server.RequestHandlerClass._send = slow  # type: ignore[attr-defined]
    blobs = tmp_path / "models--bosonai--model/blobs"
    try:
        child = subprocess.Popen(
            [sys.executable, "-c", KILLED, tmp_path],
            env=os.environ | {"PYTHONPATH": str(PROJECT / "docker/runtime")},
        )
        deadline = time.monotonic() + 30
        while not any(f.stat().st_size >= 10_000_000 for f in blobs.glob("*.incomplete")):
            assert time.monotonic() < deadline and child.poll() is None
            time.sleep(0.02)
        child.kill()
        child.wait()
    finally:
        hub_server.RequestHandlerClass._send = write  # type: ignore[attr-defined]
        release.set()
    hub.cut = 0
    hub.asked.clear()
    place = ensure(tmp_path, [MODEL, TOKENIZER, SEMANTIC])
    assert (Path(place.model) / "big.safetensors").read_bytes() == data
    [(_, asked)] = hub.downloads("big.safetensors")[-1:]
    assert asked.startswith("bytes=1") and int(asked[6:-1]) >= 10_000_000


def test_oversized_partial_file_is_discarded(hub: Hub, tmp_path: Path) -> None:
    import hashlib

    data = hub.repos["bosonai/model"]["1" * 40]["model-1.safetensors"]
    blobs = tmp_path / "models--bosonai--model/blobs"
    blobs.mkdir(parents=True)
    (blobs / f"{hashlib.sha256(data).hexdigest()}.incomplete").write_bytes(data + b"more")
    assert (Path(ensure(tmp_path).model) / "model-1.safetensors").read_bytes() == data


# --- checked


def test_damaged_file_is_downloaded_again(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.damage = 1
    place = ensure(tmp_path)
    for name, data in hub.repos["bosonai/model"]["1" * 40].items():
        assert (Path(place.model) / name).read_bytes() == data
    assert "has the wrong size or hash: downloading it again" in capsys.readouterr().out


def test_twice_damaged_file_is_refused(hub: Hub, tmp_path: Path) -> None:
    hub.damage = 10**6
    error = refused(WeightsDamagedError, tmp_path)
    assert "bosonai/model was damaged in two downloads" in error.message
    assert not list(tmp_path.glob("models--bosonai--model/higgs-checked-*"))


def test_small_file_is_checked_by_its_git_hash(hub: Hub, tmp_path: Path) -> None:
    from higgs_runtime import download
    from higgs_runtime.snapshot import damaged
    from huggingface_hub import HfApi

    place = ensure(tmp_path)
    snapshot = download.describe(HfApi(), MODEL)
    assert damaged(snapshot, Path(place.model)) == []
    config = Path(place.model, "config.json")
    config.resolve().write_bytes(b'{"model": 2}')
    assert damaged(snapshot, Path(place.model)) == [config]


@pytest.mark.parametrize("how", ["truncated", "removed", "blob removed", "record damaged"])
def test_second_start_repairs_missing_files(hub: Hub, tmp_path: Path, how: str) -> None:
    place = ensure(tmp_path)
    path = Path(place.model, "model-1.safetensors")
    record = cache.record_file("bosonai/model", "1" * 40, tmp_path)
    if how == "truncated":
        with path.resolve().open("r+b") as file:
            file.truncate(1000)
    elif how == "removed":
        path.unlink()
    elif how == "blob removed":
        path.resolve().unlink()
    else:
        record.write_text('{"files": ')
    hub.asked.clear()
    assert ensure(tmp_path) == place
    assert path.read_bytes() == hub.repos["bosonai/model"]["1" * 40]["model-1.safetensors"]
    fetched = {path.rpartition("/")[2] for path, _ in hub.downloads()}
    assert fetched <= {"model-1.safetensors"}, "complete files are not downloaded twice"
    assert json.loads(record.read_text())["files"]["config.json"] == 12


# --- answers of the hub


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


# --- offline


def test_offline_without_weights(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(NotCachedError, match="bosonai/model at 1111111"):
        ensure(tmp_path, offline=True)
    assert hub.asked == []


def test_offline_with_a_cache_filled_by_another_program(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = ensure(tmp_path)
    for record in tmp_path.glob("*/higgs-checked-*"):
        record.unlink()
    assert ensure(tmp_path, offline=True) == place
    assert "not checked" in capsys.readouterr().out
    Path(place.model, "model-1.safetensors").resolve().unlink()
    with pytest.raises(NotCachedError, match="bosonai/model"):
        ensure(tmp_path, offline=True)


# --- the disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], capture_output=True, text=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount a small file system: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_small_disk_is_refused_before_the_download(hub: Hub, small_disk: Path) -> None:
    error = refused(DiskTooSmallError, small_disk / "not/yet/there")
    assert (
        "the weights need 0.2 GB of free space" in error.message and "has 0.0 GB" in error.message
    )
    assert hub.downloads() == []


def test_disk_full_during_the_download(
    hub: Hub, small_disk: Path, monkeypatch: pytest.MonkeyPatch, waits: list[float]
) -> None:
    from higgs_runtime import download

    hub.repos["bosonai/model"]["1" * 40]["model-1.safetensors"] = os.urandom(6_000_000)
    monkeypatch.setattr(download, "require_space", lambda *_: None)  # another program filled it
    error = refused(DiskTooSmallError, small_disk)
    assert "the disk is full" in error.message and waits == []
    assert sum(f.stat().st_size for f in small_disk.rglob("*.incomplete")) > 1_000_000


def test_exceeded_quota_counts_as_full_disk(hub: Hub, tmp_path: Path) -> None:
    from higgs_runtime import hub_errors

    found = hub_errors.explain(MODEL, OSError(errno.EDQUOT, "quota", "/cache/x"))
    assert (
        found and isinstance(found.error, DiskTooSmallError) and "/cache/x" in found.error.message
    )


def test_unexpected_exceptions_are_not_hidden(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from higgs_runtime import download

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(download, "snapshot_download", broken)
    with pytest.raises(ZeroDivisionError):
        ensure(tmp_path)


# --- required repositories


def test_semantic_model_is_part_of_the_tokenizer_unless_set() -> None:
    patched = IMAGE._replace(patches=frozenset({"audio_tokenizer"}))
    assert weights.required(settings(), IMAGE) == ALL
    assert weights.required(settings(), patched) == [MODEL, TOKENIZER]
    own = weights.required(settings(HIGGS_SEMANTIC_MODEL_REVISION="v1"), patched)
    assert own[2] == WeightsRepo("semantic model", "bosonai/hubert", "v1")
    pinned = IMAGE._replace(semantic_model=PinnedRepo("bosonai/hubert", "3" * 40))
    assert weights.required(settings(), pinned)[2].revision == "3" * 40
    own = weights.required(settings(HIGGS_MODEL="me/model", HIGGS_AUDIO_TOKENIZER="/usr"), IMAGE)
    assert own[0] == WeightsRepo("model", "me/model", "main") and own[1].repo == "/usr"


# --- location


def settings(**variables: str) -> Settings:
    return read([], variables, IMAGE)


def test_cache_is_on_the_volume_if_mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts: list[str] = []
    monkeypatch.setattr("os.path.ismount", lambda x: x in mounts)
    monkeypatch.setattr(cache, "VOLUMES", (str(tmp_path / "workspace"), str(tmp_path / "volume")))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache.hub_home(None, {}) == tmp_path / "home/.cache/huggingface"
    assert cache.hub_home(None, {"XDG_CACHE_HOME": f"{tmp_path}/xdg"}) == (
        tmp_path / "xdg/huggingface"
    )
    mounts.append(str(tmp_path / "volume"))
    assert cache.hub_home(None, {}) == tmp_path / "volume/.cache/huggingface"
    mounts.append(str(tmp_path / "workspace"))
    assert cache.hub_home(None, {}) == tmp_path / "workspace/.cache/huggingface"
    own = str(tmp_path / "own")
    assert cache.hub_home(own, {}) == tmp_path / "own"
    assert cache.hub_cache(Path("/x"), {}) == Path("/x/hub")
    assert cache.hub_cache(Path("/x"), {"HF_HUB_CACHE": "/y"}) == Path("/y")


def test_read_only_cache_is_refused_if_weights_are_missing(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file/x"):
        assert f"cannot be stored in {folder}: " in refused(SettingError, folder).message
    place = ensure(tmp_path / "cache")
    monkeypatch.setattr("os.access", lambda path, how: False)
    assert ensure(tmp_path / "cache") == place, "existing weights can be read"
    Path(place.model, "config.json").unlink()
    hub.asked.clear()
    error = refused(SettingError, tmp_path / "cache")
    assert "it is read-only for this user" in error.message and "HIGGS_OFFLINE=1" in error.hint
    assert hub.asked == []
