"""The entrypoint before the server starts: hooks, refusals, downloads, other programs, help."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from higgs_runtime.errors import HookError, NotCachedError, PortTakenError, SettingError

from higgs_image.workspace import PROJECT
from tests.support.entrypoint import MakeEntrypoint, patched


def test_hooks(start: MakeEntrypoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a separate process, with hooks in other folders."""
    pre, post = tmp_path / "pre.sh", tmp_path / "post.sh"
    before = (
        "import pathlib; from higgs_runtime import hooks\n"
        f"hooks.pre_start.__defaults__ = (pathlib.Path({str(pre)!r}),)\n"
        f"hooks.post_start.__defaults__ = (pathlib.Path({str(post)!r}),)"
    )
    pre.write_text("echo before; exit 4")
    failed = patched(monkeypatch, before, start)
    assert failed.end() == HookError.exit_code
    assert "pre.sh exited with 4" in failed.log and "engine" not in failed.log
    pre.write_text("echo before; [ $PORT -gt 1 ]")  # not executable: RunPod runs them with bash
    post.write_text("echo after; exit 5")
    run = patched(monkeypatch, before, start)
    run.wait_for("post.sh exited with 5")
    lines = [
        x for x in run.lines if x in ("before", "after") or x.startswith(("engine", "higgs: re"))
    ]
    assert [x.split()[0] for x in lines] == ["before", "engine", "higgs:", "after"]
    assert run.ping() == 200
    assert run.stop() == 0


def test_taken_port(start: MakeEntrypoint) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        run = start(PORT=str(taken.getsockname()[1]))
        assert run.end() == PortTakenError.exit_code
    assert "cannot be used: Address already in use" in run.lines[-1]


def test_invalid_setting_is_refused_at_once(start: MakeEntrypoint) -> None:
    run = start(HIGGS_MAX_MODEL_LEN="8k")
    assert run.end() == SettingError.exit_code
    assert run.lines == [
        "higgs: ERROR: HIGGS_MAX_MODEL_LEN is not valid: '8k'; hint: allowed: 512 to 131072"
    ]


def test_offline_without_weights(start: MakeEntrypoint, tmp_path: Path) -> None:
    for variable in ("HIGGS_OFFLINE", "HF_HUB_OFFLINE"):
        run = start(**{variable: "true"}, HIGGS_MODEL="", HF_HOME=str(tmp_path / "hf"))
        assert run.end() == NotCachedError.exit_code
        assert "bosonai/model at 1111" in run.lines[-1]


def test_signal_during_a_download(start: MakeEntrypoint, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        run = start(HIGGS_MODEL="", HF_HOME=str(tmp_path / "hf"),
                    HF_ENDPOINT=f"http://127.0.0.1:{silent.getsockname()[1]}")  # fmt: skip
        silent.accept()
        assert run.ping() == 204
        status, answer = run.ask("/health")
        assert status == 503 and b"asking the hub" in answer
        began = time.monotonic()
        assert run.stop() == 0
        assert time.monotonic() - began < 20


def test_warnings(start: MakeEntrypoint) -> None:
    run = start("--host", "0.0.0.0", RUNPOD_POD_ID="abc123", HIGGS_VOICE_DIR="/x")
    run.wait_for("higgs: ready")
    assert "WARNING: no API key: anyone on the internet can use https://abc123-" in run.log
    assert "HIGGS_VOICE_DIR is not used; hint: it may be a misspelt HIGGS_VOICES_DIR" in run.log
    assert f"higgs: ready: https://abc123-{run.port}.proxy.runpod.net" in run.log


def test_weights_from_the_hub(
    start: MakeEntrypoint, hub: Any, hub_server: Any, tmp_path: Path
) -> None:
    """The first start downloads, the second makes no request; the server gets folders."""
    home = tmp_path / "hf"
    for first in (True, False):
        hub.asked.clear()
        run = start(HIGGS_MODEL="", HIGGS_AUDIO_TOKENIZER="", HF_HOME=str(home),
                    HF_ENDPOINT=hub_server.url)  # fmt: skip
        run.wait_for("higgs: ready")
        arguments = json.loads(json.loads(run.ask("/environment")[1])["ARGUMENTS"])
        model = arguments[arguments.index("--model") + 1]
        assert model == f"{home}/hub/models--bosonai--model/snapshots/{'1' * 40}"
        assert Path(model, "config.json").is_file()
        assert bool(hub.asked) == first
        assert run.stop() == 0


# --- other programs, and help


def run_once(image_file: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "higgs_runtime", *arguments], capture_output=True, text=True,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(PROJECT / "docker/runtime"),
             "HIGGS_IMAGE_FILE": str(image_file)},
    )  # fmt: skip


def test_another_program(image_file: Path) -> None:
    done = run_once(image_file, "bash", "-c", "echo $0 $PPID; exit 7", "x y")
    assert done.returncode == 7 and done.stdout.startswith("x y ")
    missing = run_once(image_file, "no-such-program")
    assert missing.returncode == 127 and "no-such-program: No such file" in missing.stderr
    assert run_once(image_file, "/etc/passwd").returncode == 126


def test_another_program_has_the_default_sigpipe(image_file: Path) -> None:
    done = run_once(image_file, "bash", "-c", "yes | head -1")
    assert (done.stdout, done.stderr) == ("y\n", "")


def test_empty_arguments_are_ignored(image_file: Path) -> None:
    """Platforms send one for an empty form field."""
    for arguments in (["", " "], ["", "--help"], [" --help"]):
        done = run_once(image_file, *arguments)
        assert "no such" not in done.stderr.lower()
        assert done.returncode == (0 if "help" in arguments[-1] else 10)


def test_slow_modules_are_not_imported() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import sys, higgs_runtime.__main__; print(*sys.modules)"],
        env={"PYTHONPATH": str(PROJECT / "docker/runtime")}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    slow = {"asyncio", "logging", "argparse", "huggingface_hub", "ssl", "http.client"}
    assert not slow & set(done.stdout.split())


def test_help(image_file: Path) -> None:
    for flag in ("--help", "-h"):
        done = run_once(image_file, flag)
        assert done.returncode == 0 and "HIGGS_MAX_MODEL_LEN" in done.stdout
    assert run_once(Path("/no/such/file"), "--help").returncode == 0
