"""Which weights are needed, where they are, and what a start does if some are missing."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest
from higgs_runtime import cache, weights
from higgs_runtime.cache import WeightsRepo
from higgs_runtime.errors import (
    NotCachedError,
    SettingError,
)
from higgs_runtime.image import PinnedRepo
from higgs_runtime.settings import Settings, read

from tests.support.hub_server import Hub
from tests.support.weights import ALL, MODEL, SEMANTIC, TOKENIZER, ensure, refused
from tests.unit.runtime.conftest import IMAGE


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


@pytest.mark.parametrize(
    ("config", "method"),
    [
        ('{"quantization_config": {"quant_method": "FP8"}}', "fp8"),
        ('{"quantization_config": null, "compression_config": {"quant_method": "x"}}', "x"),
        ('{"model_type": "higgs_audio"}', ""),
        ('{"quantization_config": 8}', ""),
        ("[]", ""),
        ("{", ""),
    ],
)
def test_quantization_of_a_folder(tmp_path: Path, config: str, method: str) -> None:
    assert weights.quantization(str(tmp_path)) == ""
    (tmp_path / "config.json").write_text(config)
    assert weights.quantization(str(tmp_path)) == method
