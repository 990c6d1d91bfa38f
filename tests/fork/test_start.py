"""How the real server starts: without flags of its own, loading once, or with one clear line."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from higgs_image import lockfile
from higgs_image.build import pipeline
from higgs_image.smoke import cpu_device
from higgs_image.smoke.server import NotReadyError
from higgs_image.workspace import Workspace
from tests.support.fuzz import Server

pytestmark = [pytest.mark.fork, pytest.mark.timeout(1800)]

SERVER = ["python3", "-m", "vllm.entrypoints.bosonai.api_server"]
"""The server itself, without the entrypoint."""


def folder(weights: Path, role: str) -> str:
    """Return the directory of weights in the container."""
    pin = next(x for x in lockfile.load(Workspace.default().lock_file).weights if x.role == role)
    [found] = (weights / f"models--{pin.repo.replace('/', '--')}" / "snapshots").iterdir()
    return f"{cpu_device.WEIGHTS}/{found.relative_to(weights)}"


@pytest.fixture(scope="module")
def bare(start_server: Any, weights: Path) -> Iterator[Any]:
    """The server without the entrypoint, on directories of weights."""
    flags = ["--model", folder(weights, "generation"), "--max-model-len", "4096"]
    flags += ["--audio-tokenizer-path", folder(weights, "audio-tokenizer")]
    with start_server([*SERVER, *flags, "--disable-mm-preprocessor-cache"]) as started:
        yield started


@pytest.mark.needs(tokenizer_lookup=True)
def test_both_processes_take_the_audio_tokenizer_from_its_path(bare: Any) -> None:
    server = Server(bare.url)
    fields = {"voice": "belinda", "input": "Hello.", "response_format": "wav", "max_tokens": 40}
    status, answer = server.post("/v1/audio/speech", {"model": server.model(), **fields})
    assert status == 200, answer
    assert answer[:4] == b"RIFF"


@pytest.mark.needs(audio_tokenizer=True)
def test_the_audio_tokenizer_is_loaded_once(bare: Any, weights: Path) -> None:
    server = Server(bare.url)
    server.post(
        "/v1/audio/speech",
        {"model": server.model(), "voice": "vex", "input": "Hello.", "max_tokens": 40},
    )
    lines = bare.log().splitlines()
    [used] = [line for line in lines if "Using the audio tokenizer" in line]
    assert folder(weights, "audio-tokenizer") in used
    assert len([line for line in lines if "Loaded the audio tokenizer in" in line]) == 1


# The model's class is only to be looked at: nothing of it needs a GPU.
INSPECTION = """
import subprocess
from vllm.model_executor.models import ModelRegistry

def refused(*arguments, **_):
    raise SystemExit(f"a process was started: {arguments[0][:3]}")

subprocess.run = subprocess.Popen = refused
found = ModelRegistry._try_inspect_model_cls("HiggsAudioModel")
print("multimodal:", found.supports_multimodal)
"""


@pytest.mark.needs(model_inspection=True)
def test_the_models_class_is_looked_at_without_a_process(report: pipeline.BuildReport) -> None:
    assert report.engine
    done = subprocess.run(
        ["docker", "run", "--rm", "--network=none", "--entrypoint=python3", report.engine,
         "-c", INSPECTION],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1] == "multimodal: True"


@pytest.mark.needs(voices=True)
def test_every_voice_is_there_at_the_first_request(bare: Any) -> None:
    voices = json.loads(Server(bare.url).ask("GET", "/v1/audio/voices")[1])["voices"]
    assert len(voices) == 8


COMMANDS = """
from pathlib import Path
for file in Path("/proc").glob("[0-9]*/cmdline"):
    try:
        print(file.read_bytes().replace(b"\\0", b" ").decode())
    except OSError:
        pass
"""


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_the_engine_starts_either_way(start_server: Any, method: str) -> None:
    """On a GPU it is spawned, as CUDA does not survive a fork; the CPU device forks it."""
    with start_server(env={"VLLM_WORKER_MULTIPROC_METHOD": method}) as running:
        server = Server(running.url)
        request = {"model": server.model(), "voice": "belinda", "response_format": "wav"}
        status, answer = server.post("/v1/audio/speech", {**request, "input": "Hello there."})
        assert status == 200 and answer[:4] == b"RIFF"
        commands = running.container.output_of("python3", "-c", COMMANDS)
        assert commands and ("multiprocessing.spawn" in commands) == (method == "spawn")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "expected --audio-tokenizer-path with the audio tokenizer's directory"),
        (["--audio-tokenizer-path", "/nowhere"], "'/nowhere' is not a directory"),
        (["--audio-tokenizer-path", "/etc"], "the audio tokenizer in /etc lacks config.json"),
        (["--audio-tokenizer-type", "nobody/nothing"], "start it through the image's entrypoint"),
        (["--model", "nobody/nothing"], "start it through the image's entrypoint"),
    ],
)
def test_a_failed_start_says_why_in_one_line(
    start_server: Any, weights: Path, flags: list[str], said: str
) -> None:
    given = ["--model", folder(weights, "generation")] if "--model" not in flags else []
    with pytest.raises(NotReadyError) as ended, start_server([*SERVER, *given, *flags]):
        pass
    [line] = [x for x in ended.value.tail.splitlines() if "The server cannot start: " in x]
    assert said in line
    assert "Traceback" not in ended.value.tail
    assert "status 1 " in ended.value.reason
