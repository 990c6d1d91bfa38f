"""How a container of the real image ends: asked to in the middle of speech, or with its engine."""

from __future__ import annotations

import http.client
import json
import threading
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from higgs_image import retry
from higgs_image.smoke import cpu_device
from higgs_image.smoke.server import NotReadyError
from tests.support.fuzz import Server

pytestmark = [pytest.mark.fork, pytest.mark.timeout(1200)]

KILL_ENGINE = """
import os, signal, time
from pathlib import Path

def command(process):
    return Path(f"/proc/{process}/cmdline").read_bytes()

def engines():
    '''The engine is forked from the server, and so has its command line.'''
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = path.joinpath("stat").read_text().rpartition(")")[2].split()[1]
            mine, its = command(path.name), command(parent)
        except OSError:
            continue
        if b"bosonai.api_server" in mine and mine == its:
            yield int(path.name)

while not (found := list(engines())):
    time.sleep(0.1)
time.sleep(1)
os.kill(found[0], signal.SIGKILL)
"""

BROKEN_GPU = """
from pathlib import Path

SWITCH = Path("/tmp/broken")
ERROR = "CUDA error: an illegal memory access was encountered"

def prepare():
    import torch
    from boson_multimodal.audio_processing.quantization.vq import ResidualVectorQuantizer

    decode = ResidualVectorQuantizer.decode  # of a whole recording, and of its pieces

    def fail_if_broken(*arguments):
        if SWITCH.exists():
            raise RuntimeError(ERROR)
        return decode(*arguments) if arguments else None

    ResidualVectorQuantizer.decode = fail_if_broken
    torch.cuda.is_initialized = SWITCH.exists
    torch.cuda.synchronize = fail_if_broken
"""
"""A plugin of vLLM that makes a CPU fail as a GPU does whose context is broken."""


@pytest.mark.needs(engine_process=True)
def test_an_engine_that_is_killed_ends_the_container(start_server: Any) -> None:
    with start_server(env={"HIGGS_WARMUP_SECONDS": "0"}) as running:
        assert running.container.output_of("python3", "-c", KILL_ENGINE) is not None
        ended = running.container.container.wait(timeout=30)
        assert ended["StatusCode"] == 137
        said = running.log()
        assert "was killed by signal 9 (usually too little memory), so the server ends" in said
        assert "higgs: ERROR: the server was killed by signal 9" in said.splitlines()[-1]


@pytest.mark.needs(engine_process=True)
def test_an_engine_that_is_killed_while_it_loads_ends_the_container(
    start_server: Any, tmp_path: Path
) -> None:
    (tmp_path / "kill.py").write_text(KILL_ENGINE)
    (tmp_path / "pre_start.sh").write_text("python3 /mnt/kill.py &")
    mounts = {str(tmp_path / "kill.py"): "/mnt/kill.py",
              str(tmp_path / "pre_start.sh"): "/pre_start.sh"}  # fmt: skip
    with (
        pytest.raises(NotReadyError, match="ended with status 1 ") as ended,
        start_server(mounts=mounts, timeout=120),
    ):
        pass
    assert "was killed by signal 9 (usually too little memory) before it was ready" in (
        ended.value.tail
    )


@pytest.mark.needs(engine_silence=True)
def test_an_engine_that_hangs_makes_the_server_unhealthy(start_server: Any) -> None:
    env = {"HIGGS_WARMUP_SECONDS": "0", "HIGGS_ENGINE_TIMEOUT_SECONDS": "15"}
    with start_server(env=env) as running:
        server = Server(running.url)

        def statuses() -> tuple[int, int]:
            return server.ask("GET", "/health")[0], server.ask("GET", "/ping")[0]

        request: dict[str, object] = {"model": server.model(), "voice": "belinda"}
        request["input"] = "It has to wait."
        spoken: list[int] = []
        speaking = threading.Thread(
            target=lambda: spoken.append(server.post("/v1/audio/speech", request)[0])
        )
        script = KILL_ENGINE.replace("SIGKILL", "SIGSTOP")
        assert running.container.output_of("python3", "-c", script) is not None
        assert statuses() == (200, 200)
        speaking.start()
        assert retry.wait_until(lambda: statuses() == (503, 503), 60)
        _, said = server.ask("GET", "/ping")
        assert b"the engine has given nothing for " in said
        script = KILL_ENGINE.replace("SIGKILL", "SIGCONT")
        assert running.container.output_of("python3", "-c", script) is not None
        assert retry.wait_until(lambda: statuses() == (200, 200), 60)
        speaking.join()
        assert spoken == [200]


@pytest.mark.needs(gpu_failure=True)
def test_a_broken_gpu_context_ends_the_container(start_server: Any, tmp_path: Path) -> None:
    (tmp_path / "higgs_broken_gpu.py").write_text(BROKEN_GPU)
    info = tmp_path / "higgs_broken_gpu-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: higgs-broken-gpu\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "[vllm.general_plugins]\nbroken_gpu = higgs_broken_gpu:prepare\n"
    )
    env = {"HIGGS_WARMUP_SECONDS": "0", "PYTHONPATH": f"{cpu_device.DEVICE}:/mnt/broken"}
    with start_server(env=env, mounts={str(tmp_path): "/mnt/broken"}) as running:
        server = Server(running.url)
        request: dict[str, object] = {"model": server.model(), "voice": "belinda"}
        request["input"] = "Hello."
        assert server.post("/v1/audio/speech", request)[0] == 200
        assert running.container.output_of("touch", "/tmp/broken") is not None
        with pytest.raises((OSError, http.client.HTTPException)):
            server.post("/v1/audio/speech", request)
        ended = running.container.container.wait(timeout=30)
        assert ended["StatusCode"] == 137
        said = running.log()
        assert "The GPU can no longer be used, so the server ends: CUDA error: an illegal" in said


def test_a_stream_is_finished_before_the_end(start_server: Any) -> None:
    with start_server(env={"HIGGS_WARMUP_SECONDS": "0"}) as running:
        address = urlsplit(running.url)
        model = Server(running.url).model()
        connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=120)
        text = 4 * "This goes on and on, so that there is time to end the server. "
        request = {"model": model, "voice": "belinda", "input": text, "response_format": "pcm"}
        connection.request("POST", "/v1/audio/speech", json.dumps(request),
                           {"Content-Type": "application/json"})  # fmt: skip
        answer = connection.getresponse()
        sound = answer.read1()
        assert answer.status == 200 and sound
        container = running.container.container
        stopping = threading.Thread(target=container.stop, kwargs={"timeout": 60})
        stopping.start()
        status = 200
        while status == 200:
            status, said = Server(running.url).ask("GET", "/v1/models")
        assert status == 503 and b"the server is shutting down" in said
        began = len(sound)
        sound += answer.read()  # raises IncompleteRead where the end of a chunked answer is missing
        assert len(sound) > 2 * began
        stopping.join()
        assert container.wait()["StatusCode"] == 0
        assert "stopping: all requests have finished after" in running.log()
