"""The entrypoint as a process with a fake speech server, from the first line to the exit code."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from higgs_runtime import command
from higgs_runtime.errors import HookError, NotCachedError, PortTakenError, SettingError

from higgs_image.workspace import PROJECT

SERVER = Path(__file__).with_name("server")
TIMEOUT = 60.0


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Start:
    """The entrypoint, running."""

    def __init__(self, image_file: Path, arguments: tuple[str, ...], variables: dict[str, str]):
        self.port = free_port()
        models = image_file.parent / "weights"
        models.mkdir(exist_ok=True)
        (models / "bosonai/hubert").mkdir(parents=True, exist_ok=True)
        environment = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": f"{PROJECT / 'docker/runtime'}:{SERVER}",
            "PYTHONUNBUFFERED": "1",
            "HOME": str(image_file.parent),
            "HIGGS_IMAGE_FILE": str(image_file),
            "HIGGS_DEVICE": "cpu",
            "HIGGS_MODEL": str(models),
            "HIGGS_AUDIO_TOKENIZER": str(models),
            "PORT": str(self.port),
        }
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "higgs_runtime", "--host", "127.0.0.1", *arguments],
            env=environment | variables, cwd=models, text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))

    @property
    def log(self) -> str:
        return "\n".join(self.lines)

    def wait_for(self, what: str | Callable[[], bool]) -> None:
        """Wait for a line of the log, or until a function returns True."""
        deadline = time.monotonic() + TIMEOUT
        while not (what in self.log if isinstance(what, str) else what()):
            assert self.process.poll() is None, self.log
            assert time.monotonic() < deadline, self.log
            time.sleep(0.01)

    def ask(
        self, path: str, value: object = None, port: int = 0, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", port or self.port, timeout=30)
        try:
            body = None if value is None else json.dumps(value)
            connection.request("POST" if body else "GET", path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def ping(self, port: int = 0) -> int:
        return self.ask("/ping", port=port)[0]

    def left(self) -> list[int]:
        """Processes started from here that still run, in any process group."""
        mark = f"PORT={self.port}".encode()
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if mark in path.read_bytes().split(b"\0") and alive(int(path.parent.name)):
                    found.append(int(path.parent.name))
        return found

    def end(self) -> int:
        code = self.process.wait(TIMEOUT)
        self._reader.join()
        return code

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.end()

    @property
    def engine(self) -> int:
        self.wait_for("\nengine ")
        [line] = [line for line in self.lines if line.startswith("engine ")]
        return int(line.split()[1])


def alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:  # also if it exits while it is read
        return False
    return state != "Z"


MakeStart = Callable[..., Start]


@pytest.fixture
def start(image_file: Path) -> Iterator[MakeStart]:
    """Return a function that starts the entrypoint; all processes are killed afterwards."""
    running: list[Start] = []

    def make(*arguments: str, **variables: str) -> Start:
        running.append(Start(image_file, arguments, variables))
        return running[-1]

    yield make
    for one in running:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(one.process.pid, signal.SIGKILL)
        one.process.wait()
        for process in one.left():
            os.kill(process, signal.SIGKILL)


def patched(monkeypatch: pytest.MonkeyPatch, before: str, make: Callable[[], Start]) -> Start:
    """Run some lines of Python before the entrypoint."""
    script = f"{before}\nimport os, sys\nfrom higgs_runtime import __main__ as start\n"
    script += "sys.exit(start.main(sys.argv[1:], os.environ))"
    popen = subprocess.Popen

    def changed(command: list[str], **keywords: Any) -> Any:
        return popen([command[0], "-c", script, *command[3:]], **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", changed)
        return make()


def speech(pieces: int = 1, pause: float = 0.0) -> dict[str, Any]:
    return {"model": "m", "voice": "v", "input": "t", "response_format": "pcm",
            "pieces": pieces, "pause": pause}  # fmt: skip


# --- from the first line to ready


def test_loading_ready_and_stop(start: MakeStart) -> None:
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


def test_connections_are_never_refused(start: MakeStart) -> None:
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


def test_command_line_of_the_server(start: MakeStart, tmp_path: Path) -> None:
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
        "--max-model-len", "2048", "--gpu-memory-utilization", "0.5",
        "--tensor-parallel-size", "1", "--middleware", command.MIDDLEWARE,
        "--voice-presets-dir", str(tmp_path / "voices"), "--limit-mm-per-prompt", "audio=50",
        "--disable-mm-preprocessor-cache", "--dtype", "half", "--seed", "7",
    ]  # fmt: skip
    assert environment["VLLM_API_KEY"] == "0123456789"
    assert environment["HF_HUB_OFFLINE"] == "1" and environment["VLLM_USE_V1"] == "1"
    assert environment["HF_HOME"] == str(tmp_path / "hf")
    assert environment["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert "HF_TOKEN" not in environment and "PUBLIC_KEY" not in environment
    assert not [line for line in run.lines if "0123456789" in line or "hf_x" in line]


def test_flag_of_the_server_replaces_a_default(start: MakeStart) -> None:
    run = start("--limit-mm-per-prompt", "audio=4", "--disable_mm_preprocessor_cache")
    run.wait_for("higgs: ready")
    arguments = json.loads(json.loads(run.ask("/environment")[1])["ARGUMENTS"])
    assert arguments.count("--limit-mm-per-prompt") == 1
    assert "--disable-mm-preprocessor-cache" not in arguments


def test_api_key_by_vllm_s_variable(start: MakeStart) -> None:
    run = start(VLLM_API_KEY="0123456789\n")
    run.wait_for("higgs: ready")
    assert json.loads(run.ask("/environment")[1])["VLLM_API_KEY"] == "0123456789"
    assert "no API key" not in run.log


def test_kubernetes_variable_of_a_service_called_vllm(start: MakeStart) -> None:
    run = start(VLLM_PORT="tcp://10.0.0.1:80", VLLM_SERVICE_HOST="10.0.0.1")
    run.wait_for("higgs: ready")
    assert "VLLM_PORT" not in json.loads(run.ask("/environment")[1])
    run = start(VLLM_PORT="23456")
    run.wait_for("higgs: ready")
    assert json.loads(run.ask("/environment")[1])["VLLM_PORT"] == "23456"


def test_home_is_writable(start: MakeStart, tmp_path: Path) -> None:
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
    changed = {"HOME": "/tmp"}
    command._give_home(changed)
    assert changed == {"HOME": "/tmp", "USER": "54321"}


def test_any_byte_can_be_logged(start: MakeStart) -> None:
    run = start("--chat-template", os.fsdecode(b"\xff\xc3\xbc"), LC_ALL="no_SUCH.ISO-8859-1")
    run.wait_for("higgs: ready")
    assert "--chat-template \\udcff" in run.log


def test_separate_port_for_ping(start: MakeStart) -> None:
    port = free_port()
    run = start(TEST_LOADING_SECONDS="1", PORT_HEALTH=str(port))
    run.wait_for("engine")
    assert run.ping(port) == run.ping() == 204
    run.wait_for("higgs: ready")
    run.wait_for(lambda: run.ping(port) == 200)
    assert run.ping() == 200
    assert run.ask("/v1/models", port=port)[0] == 404


def test_ipv6(start: MakeStart) -> None:
    run = start("--host", "::1", TEST_LOADING_SECONDS="0.2")
    try:
        run.wait_for("higgs: ready")
    except AssertionError:
        if "cannot be used" in run.log:
            pytest.skip(run.lines[-1])
        raise


def test_no_placeholder_for_a_tls_server(start: MakeStart, tmp_path: Path) -> None:
    run = start("--ssl-certfile", "x", "--ssl-keyfile", "y", TEST_LOADING_SECONDS="1")
    run.wait_for("engine")
    with pytest.raises(ConnectionRefusedError):
        run.ping()
    run.wait_for("higgs: ready")


# --- warm-up


def test_warm_up_precedes_ready(start: MakeStart) -> None:
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


def test_warm_up_can_be_disabled(start: MakeStart) -> None:
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
    start: MakeStart, variables: dict[str, str], says: str
) -> None:
    run = start(**variables)
    run.wait_for("higgs: ready")
    assert says in run.log


# --- shutdown


def test_running_requests_finish_and_new_ones_are_refused(start: MakeStart) -> None:
    run = start()
    run.wait_for("higgs: ready")
    answers: list[tuple[int, bytes]] = []
    asking = [
        threading.Thread(
            target=lambda: answers.append(run.ask("/v1/audio/speech", speech(10, 0.15)))
        )
        for _ in range(3)
    ]
    before = run.log.count("speech pcm")
    for one in asking:
        one.start()
    run.wait_for(lambda: run.log.count("speech pcm") == before + 3)
    run.process.send_signal(signal.SIGTERM)
    run.wait_for("stopping: no new requests, up to 25 s")
    assert run.ping() == 503
    status, answer = run.ask("/v1/audio/speech", speech())
    assert status == 503 and b"the server is shutting down" in answer
    assert run.ask("/health")[0] == 503
    assert run.end() == 0
    for one in asking:
        one.join()
    assert answers == 3 * [(200, 10 * b"sound" + b".")]
    assert "stopping: all requests have finished after" in run.log


def test_slow_requests_are_cut_off(start: MakeStart) -> None:
    run = start(HIGGS_DRAIN_SECONDS="1")
    run.wait_for("higgs: ready")
    before = run.log.count("speech pcm")
    threading.Thread(target=_ignore, args=(run,), daemon=True).start()
    run.wait_for(lambda: run.log.count("speech pcm") == before + 1)
    began = time.monotonic()
    assert run.stop() == 0
    assert 1.0 <= time.monotonic() - began < 20
    assert "running requests were cut off after 1.0 s" in run.log


def _ignore(run: Start) -> None:
    with contextlib.suppress(OSError, http.client.HTTPException):
        run.ask("/v1/audio/speech", speech(1000, 0.5))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_other_stop_signals(start: MakeStart, number: signal.Signals) -> None:
    run = start()
    run.wait_for("higgs: ready")
    run.process.send_signal(number)
    assert run.end() == 0
    assert "all requests have finished" in run.log
    run = start(TEST_LOADING_SECONDS="600")
    assert run.engine
    run.process.send_signal(number)
    assert run.end() == 0
    assert "stopped while starting" in run.log


def test_second_signal_ends_the_drain(start: MakeStart) -> None:
    run = start(HIGGS_DRAIN_SECONDS="600", TEST_PATIENT="1")
    run.wait_for("higgs: ready")
    before = run.log.count("speech pcm")
    threading.Thread(target=_ignore, args=(run,), daemon=True).start()
    run.wait_for(lambda: run.log.count("speech pcm") == before + 1)
    run.process.send_signal(signal.SIGINT)
    run.wait_for("stopping:")
    began = time.monotonic()
    assert run.stop() == 0
    assert "cut short by a second signal" in run.log
    assert time.monotonic() - began < 5, "the server would have waited for the connection"


def test_signal_while_loading(start: MakeStart) -> None:
    run = start(TEST_LOADING_SECONDS="600")
    engine = run.engine
    assert run.stop() == 0
    assert "stopped while starting" in run.log
    assert not alive(engine) and run.left() == []


def test_hanging_server_is_killed(start: MakeStart) -> None:
    run = start(HIGGS_DRAIN_SECONDS="1")
    run.wait_for("higgs: ready")
    engine = run.engine
    server = int(Path(f"/proc/{engine}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(server, signal.SIGSTOP)  # ignores every signal but SIGKILL
    assert run.stop() == 0
    assert "did not exit within 1 s and was killed" in run.log
    assert not alive(engine) and not alive(server)


@pytest.mark.parametrize(("code", "expected"), [("0", 70), ("1", 1), ("3", 3)])
@pytest.mark.parametrize("when", ["starting", "serving"])
def test_server_that_exits_by_itself(start: MakeStart, when: str, code: str, expected: int) -> None:
    if when == "starting":
        run = start(TEST_EXIT=code)
    else:
        run = start()
        run.wait_for("higgs: ready")
        with contextlib.suppress(OSError, http.client.HTTPException):
            run.ask(f"/end?{code}")
    assert run.end() == expected
    text = f"ERROR: the server exited with {code}"
    assert f"{text} while starting" in run.log if when == "starting" else text in run.log
    [engine] = [int(line.split()[1]) for line in run.lines if line.startswith("engine ")]
    assert not alive(engine) and run.left() == []


def test_killed_server(start: MakeStart) -> None:
    run = start()
    run.wait_for("higgs: ready")
    engine = run.engine
    with contextlib.suppress(OSError, http.client.HTTPException):
        run.ask("/crash")
    assert run.end() == 137
    assert "killed by signal 9 (SIGKILL)" in run.log
    assert not alive(engine) and run.left() == []


# --- before the server


def test_hooks(start: MakeStart, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_taken_port(start: MakeStart) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        run = start(PORT=str(taken.getsockname()[1]))
        assert run.end() == PortTakenError.exit_code
    assert "cannot be used: Address already in use" in run.lines[-1]


def test_invalid_setting_is_refused_at_once(start: MakeStart) -> None:
    run = start(HIGGS_MAX_MODEL_LEN="8k")
    assert run.end() == SettingError.exit_code
    assert run.lines == [
        "higgs: ERROR: HIGGS_MAX_MODEL_LEN is not valid: '8k'; hint: allowed: 512 to 131072"
    ]


def test_offline_without_weights(start: MakeStart, tmp_path: Path) -> None:
    for variable in ("HIGGS_OFFLINE", "HF_HUB_OFFLINE"):
        run = start(**{variable: "true"}, HIGGS_MODEL="", HF_HOME=str(tmp_path / "hf"))
        assert run.end() == NotCachedError.exit_code
        assert "bosonai/model at 1111" in run.lines[-1]


def test_signal_during_a_download(start: MakeStart, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        run = start(HIGGS_MODEL="", HF_HOME=str(tmp_path / "hf"),
                    HF_ENDPOINT=f"http://127.0.0.1:{silent.getsockname()[1]}")  # fmt: skip
        silent.accept()
        assert run.ping() == 204
        status, answer = run.ask("/health")
        assert status == 503 and b"asking the hub" in answer
        began = time.monotonic()
        assert run.stop() == 0
        assert time.monotonic() - began < 5


def test_warnings(start: MakeStart) -> None:
    run = start("--host", "0.0.0.0", RUNPOD_POD_ID="abc123", HIGGS_VOICE_DIR="/x")
    run.wait_for("higgs: ready")
    assert "WARNING: no API key: anyone on the internet can use https://abc123-" in run.log
    assert "HIGGS_VOICE_DIR is not used; hint: it may be a misspelt HIGGS_VOICES_DIR" in run.log
    assert f"higgs: ready: https://abc123-{run.port}.proxy.runpod.net" in run.log


def test_weights_from_the_hub(start: MakeStart, hub: Any, hub_server: Any, tmp_path: Path) -> None:
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
