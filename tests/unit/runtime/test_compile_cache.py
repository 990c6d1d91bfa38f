"""Compiled kernels are stored beside the weights, by image tag."""

from __future__ import annotations

from pathlib import Path

import pytest
from higgs_runtime import compile_cache, container, settings
from higgs_runtime.errors import SettingError

from tests.unit.runtime.conftest import IMAGE


def variables(home: str = "/home/me", **environment: str) -> dict[str, str]:
    chosen = settings.read([], environment, IMAGE)
    return compile_cache.variables(chosen, environment, IMAGE.tag, home)


def test_caches_are_beside_the_weights_by_tag(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("higgs_runtime.cache.VOLUMES", (str(tmp_path / "workspace"),))
    monkeypatch.setattr("os.path.ismount", lambda path: path == str(tmp_path / "workspace"))
    (tmp_path / "workspace").mkdir()
    folder = tmp_path / "workspace/.cache/higgs-image" / IMAGE.tag
    assert variables() == {
        "VLLM_CACHE_ROOT": str(folder / "vllm"),
        "TRITON_CACHE_DIR": str(folder / "triton"),
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"),
        "CUDA_CACHE_PATH": str(folder / "cuda"),
    }
    assert not folder.exists(), "nothing is created before the checks"
    own = variables(HF_HOME=str(tmp_path / "hf"), TRITON_CACHE_DIR="/mine")
    assert own["VLLM_CACHE_ROOT"] == f"{tmp_path}/hf/higgs-image/{IMAGE.tag}/vllm"
    assert own["TRITON_CACHE_DIR"] == "/mine"


@pytest.mark.parametrize("reason", ["read-only", "noexec"])
def test_home_is_used_if_the_volume_is_not_usable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    if reason == "read-only":
        monkeypatch.setattr("os.access", lambda path, mode: False)
    else:
        monkeypatch.setattr(container, "is_executable", lambda folder: False)
    found = variables(HF_HOME=str(tmp_path))
    assert found["VLLM_CACHE_ROOT"] == f"/home/me/.cache/higgs-image/{IMAGE.tag}/vllm"


@pytest.mark.parametrize("content", ["{1: ", "", "[]", "import os"])
def test_damaged_index_of_compiled_graphs_is_discarded(
    tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = (tmp_path / f"torch_compile_cache/{x}/rank_0_0" for x in ("good", "bad"))
    for folder, text in ((good, "{(None, 0, 'inductor'): ('h', 'p')}"), (bad, content)):
        folder.mkdir(parents=True)
        (folder / "vllm_compile_cache.py").write_text(text)
    compile_cache.discard_damaged(tmp_path)
    assert (good / "vllm_compile_cache.py").exists() and not bad.exists()
    assert "is damaged: compiling again" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("value", "flags", "works"),
    [
        ("1", [], False),
        ("2", ["--seed", "7"], False),
        ("0", [], True),
        ("", [], True),
        ("1", ["--enforce-eager"], True),
        ("1", ["-O0"], True),
        ("1", ["--compilation-config", "{}"], True),
    ],
)
def test_vllms_cache_cannot_be_turned_off(value: str, flags: list[str], works: bool) -> None:
    chosen = settings.read(flags, {}, IMAGE)
    given = {"VLLM_DISABLE_COMPILE_CACHE": value}
    if works:
        compile_cache.require_enabled(chosen, given)
        return
    with pytest.raises(SettingError, match=f"VLLM_DISABLE_COMPILE_CACHE is '{value}'") as refused:
        compile_cache.require_enabled(chosen, given)
    assert "unset it; --enforce-eager" in refused.value.hint


def test_only_the_drivers_folder_may_be_noexec(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = variables(HF_HOME=str(tmp_path))
    monkeypatch.setattr(container, "is_executable", lambda folder: folder.name == "cuda")
    with pytest.raises(SettingError, match=r"cannot be loaded from .*/vllm, which is mounted with"):
        compile_cache.require_executable(folders)
    monkeypatch.setattr(container, "is_executable", lambda folder: folder.name != "cuda")
    compile_cache.require_executable(folders)


def test_the_drivers_folder_is_made(tmp_path: Path) -> None:
    folders = variables(HF_HOME=str(tmp_path))
    compile_cache.prepare(folders)
    assert Path(folders["CUDA_CACHE_PATH"]).is_dir()
    (tmp_path / "file").touch()
    compile_cache.prepare(folders | {"CUDA_CACHE_PATH": f"{tmp_path}/file/cuda"})
