"""The real server with its model compiled as on a GPU (level 3), on the CPU.

    pytest tests/fork/test_compiled.py --image default=IMAGE --image cuda12.8=IMAGE

Each step of the compiled model is compared with the same step of the model's own code.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from higgs_image import lockfile
from higgs_image.oci.daemon import docker_client
from higgs_image.smoke import cpu_device
from higgs_image.smoke.container import ServerContainer
from higgs_image.smoke.server import NotReadyError, wait_until_healthy
from higgs_image.workspace import PROJECT, Workspace
from tests.fork.conftest import VARIANT, Running, starter
from tests.support.fuzz import Server
from tests.support.hostile_audio import wav

pytestmark = [pytest.mark.fork, pytest.mark.timeout(1800)]

DEFAULT = "default"
SPEECH, CHAT = "/v1/audio/speech", "/v1/chat/completions"
STEPS = "/tmp/steps.jsonl"
"""In the container."""

LEAST_COSINE = 0.9999
"""Of the hidden states of a token: Inductor rounds at other places. PyTorch itself gives 1."""


@pytest.fixture(scope="session", params=[DEFAULT, VARIANT])
def image(request: pytest.FixtureRequest) -> Iterator[str]:
    """An image of this variant, with a compiler."""
    given = dict(entry.split("=", 1) for entry in request.config.getoption("--image"))
    built = "report" if request.param == DEFAULT else "variant_report"
    tested = given.get(request.param) or request.getfixturevalue(built).engine
    name = f"higgs-compiler:{os.getpid()}"
    command = ["docker", "buildx", "build", "--builder=default", "--load", "--provenance=false",
               f"--build-arg=IMAGE={tested}", f"--tag={name}", "-"]  # fmt: skip
    recipe = (PROJECT / "fakes/cpu_device/compiler.Dockerfile").read_bytes()
    # The engine may still be removing the layers of a run that has just ended.
    if subprocess.run(command, input=recipe).returncode != 0:
        subprocess.run(command, input=recipe, check=True)
    yield name
    subprocess.run(["docker", "image", "rm", name], capture_output=True)


@dataclass
class Compiled:
    """A running server whose model is compiled.

    Attributes:
        compiler: value of HIGGS_CPU_COMPILE.
        audio_steps: whether the model has a second graph, for steps of audio.
        running: the server.
    """

    compiler: str
    audio_steps: bool
    running: Running

    def restart(self) -> str:
        """Start the server again in its container, and return the log since."""
        container = self.running.container.container
        before = len(container.logs())
        container.restart()
        again = ServerContainer(container)
        try:
            wait_until_healthy(again, 600, 0.25)
        except NotReadyError:
            print(container.logs()[before:].decode(errors="replace"))
            raise
        self.running = Running(f"http://127.0.0.1:{again.client.port}", again)
        return str(container.logs()[before:].decode(errors="replace"))

    def ask(self, path: str, fields: dict[str, object]) -> bytes:
        """Return the answer to a request, which is good."""
        status, answer = Server(self.running.url).post(path, fields)
        assert status == 200, answer
        return answer

    def steps(self) -> list[dict[str, Any]]:
        """Return the steps that were compared; see higgs_cpu.steps."""
        lines = self.running.container.output_of("cat", STEPS) or ""
        return [json.loads(line) for line in lines.splitlines()]


@pytest.fixture(scope="module")
def compiled(
    request: pytest.FixtureRequest, image: str, workspace: Workspace
) -> Iterator[Compiled]:
    """The server; its parameters are those of `Compiled`."""
    compiler, audio_steps = request.param
    with docker_client() as client:
        locked = lockfile.load(workspace.lock_file)
        weights = cpu_device.weights(client, workspace, image, locked)
    env = {
        "HIGGS_CPU_COMPILE": compiler,
        "HIGGS_CPU_STEPS": STEPS,
        "HIGGS_AUDIO_STEPS": str(int(audio_steps)),
        "HIGGS_WARMUP_SECONDS": "0",
    }
    with starter(workspace, image, weights)(env=env) as running:
        yield Compiled(compiler, audio_steps, running)


def compiled_with(*servers: tuple[str, bool]) -> pytest.MarkDecorator:
    """Run a test with each of these servers: compiler, and whether steps of audio have a graph."""
    names = [f"{compiler}{'-audio_steps' if audio else ''}" for compiler, audio in servers]
    return pytest.mark.parametrize("compiled", servers, ids=names, indirect=True)


def speech(text: str, **fields: object) -> dict[str, object]:
    return {"model": "higgs-audio-v2", "input": text, "response_format": "pcm", **fields}


def chat(*modalities: str) -> dict[str, object]:
    messages = [{"role": "user", "content": "Say something nice about the weather of today."}]
    fields = {"max_tokens": 60, "ignore_eos": True, "seed": 1}
    return {"messages": messages, "modalities": modalities, **fields}


KINDS: dict[str, Callable[[dict[str, Any]], bool]] = {
    "prompt with a voice": lambda x: x["tokens"] > x["requests"] and 0 < x["audio"] < x["tokens"],
    "frames of one listener": lambda x: x["tokens"] == x["audio"] == x["requests"] == 1,
    "frames of several": lambda x: x["tokens"] == x["audio"] == x["requests"] > 1,
    "text": lambda x: x["tokens"] == x["requests"] == 1 and not x["audio"],
    "padded": lambda x: x["padded"] > x["tokens"],
}
"""What has to be among the steps."""


@compiled_with(("inductor", False), ("inductor", True), ("dynamo", True))
def test_each_step_is_that_of_the_models_own_code(compiled: Compiled) -> None:
    own = base64.b64encode(wav(48_000)).decode()
    compiled.ask(SPEECH, speech("Hello there.", voice="en_woman"))
    compiled.ask(SPEECH, speech("In my voice.", ref_audio=own, ref_text="My words."))
    compiled.ask(CHAT, chat("text"))
    compiled.ask(CHAT, chat("text", "audio"))
    with ThreadPoolExecutor(7) as threads:
        voices = ("belinda", "chadwick", "en_man", "mabel", "vex")
        together = [
            (SPEECH, speech("All of us at once, and all the time.", voice=x)) for x in voices
        ]
        together += [(CHAT, chat("text")), (CHAT, chat("audio"))]
        list(threads.map(compiled.ask, *zip(*together, strict=True)))

    found = compiled.steps()
    for kind, belongs in KINDS.items():
        cosines = [step["cosine"] for step in found if belongs(step)]
        assert cosines, f"no step was compared: {kind}"
        print(f"{kind}: least cosine of {len(cosines)} steps {min(cosines):.7f}")
    if compiled.compiler == "dynamo":
        assert not [step for step in found if not step["equal"]]
    assert not [step for step in found if not step["cosine"] >= LEAST_COSINE]
    graphs = compiled.running.log().count("Dynamo bytecode transform time")
    assert graphs == 1 + compiled.audio_steps


FIND = ("find", "/", "-xdev", "-name", "vllm_compile_cache.py")


@compiled_with(("inductor", True))
@pytest.mark.parametrize("index", ["there", "lost"])
def test_the_second_start_takes_what_the_first_compiled(compiled: Compiled, index: str) -> None:
    """Also with Inductor's cache alone, as if the first was killed while it compiled."""
    request = speech("Once more.", voice="en_woman", seed=7)
    expected = compiled.ask(SPEECH, request)
    container = compiled.running.container
    if index == "lost":
        assert container.output_of(*FIND, "-delete") is not None
    assert container.output_of("rm", STEPS) is not None
    said = compiled.restart()
    taken, compiled_again = (
        said.count(x) for x in ("Directly load the compiled graph", "Compiling a graph for")
    )
    assert (taken, compiled_again) == ((2, 0) if index == "there" else (0, 2))
    assert compiled.ask(SPEECH, request) == expected
    found = compiled.steps()
    assert found and min(step["cosine"] for step in found) >= LEAST_COSINE
    assert len((compiled.running.container.output_of(*FIND) or "").split()) == 2
