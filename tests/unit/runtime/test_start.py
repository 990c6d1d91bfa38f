"""The entrypoint as a process with a fake speech server: from the first line to ready."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from higgs_runtime import command

from higgs_image.ports import free_port
from tests.support.entrypoint import MakeEntrypoint, alive, speech
from tests.unit.runtime.conftest import IMAGE


def test_loading_ready_and_stop(start: MakeEntrypoint) -> None:
    run = start(TEST_LOADING_SECONDS="1")
    engine = run.engine
    assert run.ping() == 204
    status, answer = run.ask("/v1/audio/speech", speech())
    assert status == 503 and b"the server is starting: loading the model" in answer
    run.wait_for("higgs: ready: http://localhost:")
    assert run.ping() == 200
    assert run.ask("/v1/audio/speech", speech(2)) == (200, b"soundsound.")
    assert "higgs: curl http://localhost:" in run.log
    assert run.stop() == 0
    assert "all requests have finished" in run.log
    assert not alive(engine) and run.left() == []


def test_connections_are_never_refused(start: MakeEntrypoint) -> None:
    run = start(TEST_LOADING_SECONDS="0.5")
    run.wait_for(lambda: bool(run.lines))
    statuses: list[int] = []
    while statuses.count(200) < 20:
        try:
            statuses.append(run.ping())
        except ConnectionRefusedError:
            assert not statuses, "it has answered before"
    assert set(statuses) == {204, 200}
    assert statuses == sorted(statuses, reverse=True), "never 204 after 200"


def test_command_line_of_the_server(start: MakeEntrypoint, tmp_path: Path) -> None:
    (tmp_path / "voices").mkdir()
    (tmp_path / "voices/config.json").write_text("{}")
    run = start(
        "--seed", "7", "--max-model-len", "2048",
        HIGGS_MAX_MODEL_LEN="4096", HIGGS_SERVED_MODEL_NAME="one two",
        HIGGS_EXTRA_ARGS="--dtype half", HIGGS_VOICES_DIR=str(tmp_path / "voices"),
        HIGGS_API_KEY="0123456789", HF_TOKEN="hf_x",
        HIGGS_GPU_MEMORY_UTILIZATION="0.5", RUNPOD_API_KEY="rp", HF_HOME=str(tmp_path / "hf"),
    )  # fmt: skip
    run.wait_for("higgs: ready")
    environment = json.loads(run.ask("/environment")[1])
    weights = str(tmp_path / "weights")
    assert json.loads(environment["ARGUMENTS"]) == [
        "--host", "127.0.0.1", "--port", str(run.port), "--model", weights,
        "--audio-tokenizer-type", weights, "--served-model-name", "one", "two",
        "--max-model-len", "2048", "--max-num-seqs", "64", "--gpu-memory-utilization", "0.5",
        "--tensor-parallel-size", "1", "--middleware", command.MIDDLEWARE,
        "--voice-presets-dir", str(tmp_path / "voices"), "--disable-cascade-attn",
        "--limit-mm-per-prompt", "audio=50",
        "--disable-mm-preprocessor-cache", "--dtype", "half", "--seed", "7",
    ]  # fmt: skip
    assert environment["VLLM_API_KEY"] == "0123456789"
    assert environment["HF_HUB_OFFLINE"] == "1" and environment["VLLM_USE_V1"] == "1"
    assert environment["HF_HOME"] == str(tmp_path / "hf")
    assert environment["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert environment["HIGGS_KEEP_ALIVE_SECONDS"] == "90"
    assert environment["HIGGS_MAX_REFERENCE_SECONDS"] == "30"
    compiled = tmp_path / "hf/higgs-image" / IMAGE.tag
    assert environment["VLLM_CACHE_ROOT"] == str(compiled / "vllm")
    assert environment["TRITON_CACHE_DIR"] == str(compiled / "triton")
    assert "HF_TOKEN" not in environment and "PUBLIC_KEY" not in environment
    assert not [line for line in run.lines if "0123456789" in line or "hf_x" in line]


@pytest.mark.parametrize("how", ["variable", "flag", "abbreviated flag", "extra arguments"])
def test_api_key_is_neither_logged_nor_in_a_command_line(start: MakeEntrypoint, how: str) -> None:
    key = "secret-0123456789"
    arguments = {"flag": ("--api-key", key), "abbreviated flag": (f"--api-k={key}",)}.get(how, ())
    variables = {
        "variable": {"HIGGS_API_KEY": key},
        "extra arguments": {"HIGGS_EXTRA_ARGS": f"--api_key {key}"},
    }.get(how, {})
    run = start(*arguments, **variables)
    run.wait_for("higgs: ready")
    assert run.ask("/v1/models")[0] == 401
    assert run.ask("/v1/models", headers={"Authorization": f"Bearer {key}"})[0] == 200
    children = [x for x in run.left() if x != run.process.pid]
    assert len(children) == 2, "the server and its engine"
    for process in children:
        assert key.encode() not in Path(f"/proc/{process}/cmdline").read_bytes()
    assert key not in run.log
    assert ("set HIGGS_API_KEY instead of the flag" in run.log) == ("flag" in how)


def test_flag_of_the_server_replaces_a_default(start: MakeEntrypoint) -> None:
    run = start("--limit-mm-per-prompt", "audio=4", "--disable_mm_preprocessor_cache",
                "--max-num-seqs=7", "--disable-cascade-attn",
                HIGGS_MAX_REFERENCE_SECONDS="45.5")  # fmt: skip
    run.wait_for("higgs: ready")
    environment = json.loads(run.ask("/environment")[1])
    assert environment["HIGGS_MAX_REFERENCE_SECONDS"] == "45.5"
    assert "limits: 7 requests at once, 16384 tokens each" in run.log
    assert "references up to 45.5 s, cascade attention off" in run.log
    arguments = json.loads(environment["ARGUMENTS"])
    assert arguments.count("--disable-cascade-attn") == 1
    assert arguments[arguments.index("--max-num-seqs") + 1] == "7"
    assert arguments.count("--limit-mm-per-prompt") == 1
    assert "--disable-mm-preprocessor-cache" not in arguments


def test_api_key_by_vllm_s_variable(start: MakeEntrypoint) -> None:
    run = start(VLLM_API_KEY="0123456789\n")
    run.wait_for("higgs: ready")
    assert json.loads(run.ask("/environment")[1])["VLLM_API_KEY"] == "0123456789"
    assert "no API key" not in run.log


def test_kubernetes_variable_of_a_service_called_vllm(start: MakeEntrypoint) -> None:
    run = start(VLLM_PORT="tcp://10.0.0.1:80", VLLM_SERVICE_HOST="10.0.0.1")
    run.wait_for("higgs: ready")
    assert "VLLM_PORT" not in json.loads(run.ask("/environment")[1])
    run = start(VLLM_PORT="23456")
    run.wait_for("higgs: ready")
    assert json.loads(run.ask("/environment")[1])["VLLM_PORT"] == "23456"


def test_home_is_writable(start: MakeEntrypoint, tmp_path: Path) -> None:
    """HOME is / for a user without an account, and not writable in a read-only container."""
    run = start(HOME="/no/such", TMPDIR=str(tmp_path), HF_HOME=str(tmp_path / "hf"))
    run.wait_for("higgs: ready")
    environment = json.loads(run.ask("/environment")[1])
    home = Path(environment["HOME"])
    assert home == tmp_path / f"higgs-{os.getuid()}" and home.stat().st_mode & 0o777 == 0o700
    run = start()
    run.wait_for("higgs: ready")
    assert json.loads(run.ask("/environment")[1])["HOME"] == str(tmp_path)


def test_user_without_an_account_gets_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getuid", lambda: 54_321)
    changed: dict[str, str] = {}
    command._give_user(changed)
    assert changed == {"USER": "54321"}


def test_any_byte_can_be_logged(start: MakeEntrypoint) -> None:
    run = start("--chat-template", os.fsdecode(b"\xff\xc3\xbc"), LC_ALL="no_SUCH.ISO-8859-1")
    run.wait_for("higgs: ready")
    assert "--chat-template \\udcff" in run.log


def test_separate_port_for_ping(start: MakeEntrypoint) -> None:
    port = free_port()
    run = start(TEST_LOADING_SECONDS="1", PORT_HEALTH=str(port))
    run.wait_for("engine")
    assert run.ping(port) == run.ping() == 204
    run.wait_for("higgs: ready")
    run.wait_for(lambda: run.ping(port) == 200)
    assert run.ping() == 200
    assert run.ask("/v1/models", port=port)[0] == 404


def test_separate_port_for_ping_follows_the_servers_health(start: MakeEntrypoint) -> None:
    port = free_port()
    run = start(PORT_HEALTH=str(port))
    run.wait_for("higgs: ready")
    run.wait_for(lambda: run.ping(port) == 200)
    run.ask("/hang")
    assert run.ping(port) == run.ping() == 503
    assert b"/health is an error" in run.ask("/ping", port=port)[1]


def test_ipv6(start: MakeEntrypoint) -> None:
    run = start("--host", "::1", TEST_LOADING_SECONDS="0.2")
    try:
        run.wait_for("higgs: ready")
    except AssertionError:
        if "cannot be used" in run.log:
            pytest.skip(run.lines[-1])
        raise


def test_no_placeholder_for_a_tls_server(start: MakeEntrypoint, tmp_path: Path) -> None:
    run = start("--ssl-certfile", "x", "--ssl-keyfile", "y", TEST_LOADING_SECONDS="1")
    run.wait_for("engine")
    with pytest.raises(ConnectionRefusedError):
        run.ping()
    run.wait_for("higgs: ready")


# --- warm-up


def test_warm_up_precedes_ready(start: MakeEntrypoint) -> None:
    run = start(TEST_FIRST_SECONDS="0.5", HIGGS_API_KEY="0123456789")
    run.wait_for("speech pcm")
    assert run.ping() == 204, "not ready yet"
    run.wait_for("higgs: ready")
    said = [line for line in run.lines if line.startswith("speech")]
    assert said == [f"speech {x} someone test-model" for x in ("pcm", "wav", "mp3")]
    assert "POST /v1/audio/speech" not in run.log
    assert run.ask("/v1/audio/speech", speech())[0] == 401
    key = {"Authorization": "Bearer 0123456789"}
    assert run.ask("/v1/audio/speech", speech(), headers=key)[0] == 200
    run.wait_for('"POST /v1/audio/speech HTTP/1.1" 200')
    assert "/ping" not in run.log.partition("higgs: ready")[2], "platforms poll it all the time"


def test_warm_up_can_be_disabled(start: MakeEntrypoint) -> None:
    run = start(HIGGS_WARMUP_SECONDS="0")
    run.wait_for("higgs: ready")
    assert "speech" not in run.log.replace("audio/speech", "")


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"TEST_FIRST_SECONDS": "600", "HIGGS_WARMUP_SECONDS": "1"}, "did not finish within 1 s"),
        ({"TEST_SPEECH": "broken"}, "failed, the first requests will be slower: /v1/audio/speech"),
    ],
)
def test_failed_warm_up_does_not_prevent_the_start(
    start: MakeEntrypoint, variables: dict[str, str], says: str
) -> None:
    run = start(**variables)
    run.wait_for("higgs: ready")
    assert says in run.log
