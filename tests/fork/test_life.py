"""How a container of the real image ends: asked to in the middle of speech, or with its engine."""

from __future__ import annotations

import http.client
import json
import threading
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from higgs_image.smoke.container import NotReadyError
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
