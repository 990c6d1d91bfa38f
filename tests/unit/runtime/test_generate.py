"""The entrypoint with /generate: started, watched, restarted, drained, and never left open."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import threading
import time
from pathlib import Path

import pytest

from higgs_image.ports import free_port
from higgs_image.workspace import PROJECT
from tests.support.entrypoint import SERVER, Entrypoint, MakeEntrypoint, alive, speech

FOLDERS = (PROJECT / "docker/runtime", PROJECT / "docker/generate", PROJECT / "docker/patches")
PATHS = ":".join([*map(str, FOLDERS), str(SERVER)])


@pytest.fixture
def start_both(start: MakeEntrypoint, tmp_path: Path) -> MakeEntrypoint:
    """Return a function that starts the entrypoint with /generate; `port` tells where."""

    def make(*arguments: str, **variables: str) -> Entrypoint:
        port = free_port()
        run = start(
            *arguments,
            **{"HIGGS_GENERATE_PORT": str(port), "PYTHONPATH": PATHS,
               "HIGGS_GENERATE_JOBS_DIR": str(tmp_path / "jobs")} | variables,
        )  # fmt: skip
        run.generate_port = port  # type: ignore[attr-defined]
        return run

    return make


def port_of(run: Entrypoint) -> int:
    return int(run.generate_port)  # type: ignore[attr-defined]


def answers(run: Entrypoint) -> bool:
    try:
        return run.ask("/ping", port=port_of(run))[0] in (200, 204)
    except OSError:
        return False


def process_of(run: Entrypoint) -> int:
    """Return the id of the service's process."""
    [found] = [
        x for x in run.left() if b"higgs_generate" in Path(f"/proc/{x}/cmdline").read_bytes()
    ]
    return found


def test_it_is_off_by_default(start: MakeEntrypoint) -> None:
    run = start()
    run.wait_for("higgs: ready")
    assert "/generate" not in run.log


def test_it_answers_from_loading_to_the_end(start_both: MakeEntrypoint, tmp_path: Path) -> None:
    loaded = tmp_path / "loaded"
    run = start_both(TEST_LOADING_FILE=str(loaded), HIGGS_API_KEY="secret-key")
    run.wait_for(lambda: answers(run))
    assert run.ask("/ping", port=port_of(run))[0] == run.ping() == 204
    loaded.touch()
    run.wait_for(f"ready: http://localhost:{port_of(run)} (POST /generate, and a page)")
    run.wait_for(lambda: run.ask("/ping", port=port_of(run))[0] == 200)
    body = {"text": "t", "response_format": "pcm"}
    assert run.ask("/generate", body, port_of(run))[0] == 401
    key = {"Authorization": "Bearer secret-key"}
    status, sound = run.ask("/generate", body, port_of(run), key)
    assert (status, sound) == (200, b"sound.")
    service = process_of(run)
    assert run.stop() == 0
    assert not alive(service) and run.left() == []


def test_it_is_restarted(start_both: MakeEntrypoint) -> None:
    run = start_both()
    run.wait_for("higgs: ready")
    run.wait_for(lambda: answers(run))
    first = process_of(run)
    os.kill(first, signal.SIGKILL)
    run.wait_for("/generate exited with -9")
    run.wait_for(lambda: answers(run))
    assert process_of(run) != first and run.ping() == 200
    assert run.stop() == 0


def test_what_cannot_run_ends_the_container(start_both: MakeEntrypoint, tmp_path: Path) -> None:
    broken = tmp_path / "broken" / "higgs_generate"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("")
    (broken / "__main__.py").write_text("raise SystemExit(9)")
    for name in ("settings", "listen"):
        source = PROJECT / f"docker/generate/higgs_generate/{name}.py"
        (broken / f"{name}.py").write_text(source.read_text())
    run = start_both(PYTHONPATH=f"{broken.parent}:{PATHS}", TEST_LOADING_SECONDS="600")
    assert run.end() == 71
    assert "ERROR: /generate exited with 9" in run.log and run.left() == []


def test_running_streams_finish_and_new_ones_are_refused(start_both: MakeEntrypoint) -> None:
    run = start_both()
    run.wait_for("higgs: ready")
    run.wait_for(lambda: answers(run))
    received: list[tuple[int, bytes]] = []
    value = {"text": "t", "response_format": "pcm", "stream": True}
    # The fake server reads its own fields, which POST /v1/audio/speech passes on.
    paced = speech(20, 0.15)
    thread = threading.Thread(
        target=lambda: received.append(run.ask("/v1/audio/speech", paced, port_of(run)))
    )
    before = run.log.count("speech pcm")
    thread.start()
    run.wait_for(lambda: run.log.count("speech pcm") == before + 1)
    run.process.send_signal(signal.SIGTERM)
    run.wait_for("stopping: no new requests")
    time.sleep(0.2)
    assert run.ask("/ping", port=port_of(run))[0] == run.ping() == 503
    assert run.ask("/generate", value, port_of(run))[0] == 503
    assert run.ask("/v1/audio/speech", speech())[0] == 503
    assert run.end() == 0
    thread.join()
    assert received == [(200, 20 * b"sound" + b".")]
    assert "all requests have finished" in run.log and run.left() == []


def test_a_long_text_goes_on_while_both_drain(start_both: MakeEntrypoint) -> None:
    """Its next pieces are requests of their own, which the server would refuse from others."""
    run = start_both(TEST_PIECES="4", TEST_PAUSE="0.1", HIGGS_GENERATE_PARALLEL="1")
    run.wait_for("higgs: ready")
    run.wait_for(lambda: answers(run))
    text = "This is a sentence that takes some time to speak aloud, as they do. " * 12
    body = {"text": text, "response_format": "pcm"}
    received: list[tuple[int, bytes]] = []
    thread = threading.Thread(
        target=lambda: received.append(run.ask("/generate", body, port_of(run)))
    )
    before = run.log.count("speech pcm")
    thread.start()
    run.wait_for(lambda: run.log.count("speech pcm") == before + 1)
    run.process.send_signal(signal.SIGTERM)
    assert run.end() == 0
    thread.join()
    assert received[0][0] == 200 and received[0][1]
    assert run.log.count("speech pcm") - before > 2, "further pieces were made"


def test_slow_streams_are_cut_off(start_both: MakeEntrypoint) -> None:
    run = start_both(HIGGS_DRAIN_SECONDS="1")
    run.wait_for("higgs: ready")
    run.wait_for(lambda: answers(run))
    connection = http.client.HTTPConnection("127.0.0.1", port_of(run), timeout=30)
    connection.request("POST", "/v1/audio/speech", json.dumps(speech(1000, 0.5)))
    connection.getresponse()
    began = time.monotonic()
    assert run.stop() == 0
    assert time.monotonic() - began < 20 and run.left() == []
    assert "running requests were cut off" in run.log


def test_the_servers_end_ends_it(start_both: MakeEntrypoint) -> None:
    run = start_both()
    run.wait_for("higgs: ready")
    run.wait_for(lambda: answers(run))
    with pytest.raises((OSError, http.client.HTTPException)):
        run.ask("/crash")
    assert run.end() == 137 and run.left() == []


def test_signal_while_loading(start_both: MakeEntrypoint) -> None:
    run = start_both(TEST_LOADING_SECONDS="600")
    run.wait_for(lambda: answers(run))
    assert run.stop() == 0 and run.left() == []


def test_port_that_is_taken(start_both: MakeEntrypoint) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        run = start_both(HIGGS_GENERATE_PORT=port)
        assert run.end() == 31
    assert f"port {port}" in run.log and "HIGGS_GENERATE_PORT" in run.log


def test_port_of_the_server(start_both: MakeEntrypoint) -> None:
    run = start_both(PORT="18123", HIGGS_GENERATE_PORT="18123")
    assert run.end() == 2 and "HIGGS_GENERATE_PORT is 18123" in run.log


def test_bad_setting_is_refused_at_once(start_both: MakeEntrypoint) -> None:
    run = start_both(HIGGS_GENERATE_QUEUE="many")
    assert run.end() == 2 and "HIGGS_GENERATE_QUEUE" in run.log


def test_without_a_key_on_a_public_platform(start_both: MakeEntrypoint) -> None:
    run = start_both("--host", "0.0.0.0", RUNPOD_POD_ID="abc")
    run.wait_for("higgs: ready")
    assert "/generate listens on 127.0.0.1 only" in run.log
    run.wait_for(lambda: answers(run))
    assert run.stop() == 0
