"""The entrypoint as a process with a fake speech server: how it stops, or the server exits."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from tests.support.entrypoint import Entrypoint, MakeEntrypoint, alive, speech


def test_running_requests_finish_and_new_ones_are_refused(start: MakeEntrypoint) -> None:
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


def test_slow_requests_are_cut_off(start: MakeEntrypoint) -> None:
    run = start(HIGGS_DRAIN_SECONDS="1")
    run.wait_for("higgs: ready")
    before = run.log.count("speech pcm")
    threading.Thread(target=_ignore, args=(run,), daemon=True).start()
    run.wait_for(lambda: run.log.count("speech pcm") == before + 1)
    began = time.monotonic()
    assert run.stop() == 0
    assert 1.0 <= time.monotonic() - began < 20
    assert "running requests were cut off after 1.0 s" in run.log


def _ignore(run: Entrypoint) -> None:
    with contextlib.suppress(OSError, http.client.HTTPException):
        run.ask("/v1/audio/speech", speech(1000, 0.5))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_other_stop_signals(start: MakeEntrypoint, number: signal.Signals) -> None:
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


def test_second_signal_ends_the_drain(start: MakeEntrypoint) -> None:
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
    assert time.monotonic() - began < 20, "the server would have waited for the connection"


def test_signal_while_loading(start: MakeEntrypoint) -> None:
    run = start(TEST_LOADING_SECONDS="600")
    engine = run.engine
    assert run.stop() == 0
    assert "stopped while starting" in run.log
    assert not alive(engine) and run.left() == []


def test_hanging_server_is_killed(start: MakeEntrypoint) -> None:
    run = start(HIGGS_DRAIN_SECONDS="1")
    run.wait_for("higgs: ready")
    engine = run.engine
    server = int(Path(f"/proc/{engine}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(server, signal.SIGSTOP)  # ignores every signal but SIGKILL
    assert run.stop() == 0
    assert "did not stop within 1 s and was killed" in run.log
    assert not alive(engine) and not alive(server)


def test_slow_exit_is_not_waited_for(start: MakeEntrypoint) -> None:
    """Python frees the real server's memory for seconds, on a busy machine for more than ten."""
    run = start(TEST_PATIENT="1", TEST_EXIT_SECONDS="60")
    run.wait_for("higgs: ready")
    engine = run.engine
    began = time.monotonic()
    assert run.stop() == 0
    assert time.monotonic() - began < 20
    assert "was killed" not in run.log
    assert not alive(engine) and run.left() == []


@pytest.mark.parametrize(("code", "expected"), [("0", 70), ("1", 1), ("3", 3)])
@pytest.mark.parametrize("when", ["starting", "serving"])
def test_server_that_exits_by_itself(
    start: MakeEntrypoint, when: str, code: str, expected: int
) -> None:
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


def test_killed_server(start: MakeEntrypoint) -> None:
    run = start()
    run.wait_for("higgs: ready")
    engine = run.engine
    with contextlib.suppress(OSError, http.client.HTTPException):
        run.ask("/crash")
    assert run.end() == 137
    assert "killed by signal 9 (SIGKILL)" in run.log
    assert not alive(engine) and run.left() == []
