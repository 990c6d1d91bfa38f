"""Downloads from a fake hub: progress, interruptions, damaged files, the disk."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from higgs_runtime import cache
from higgs_runtime.errors import (
    DiskTooSmallError,
    WeightsDamagedError,
)

from higgs_image.workspace import PROJECT
from tests.support.hub_server import Hub, Server
from tests.support.weights import KILLED, MODEL, SEMANTIC, TOKENIZER, ensure, refused


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


def test_killed_download_is_resumed(hub: Hub, hub_server: Server, tmp_path: Path) -> None:
    data = os.urandom(12_000_000)
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
