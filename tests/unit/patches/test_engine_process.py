"""The server's end with its engine: a process that stands for the engine, ended in every way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from higgs_image.workspace import PROJECT

# As vLLM's handle: starts a process and waits for its word; asks it to end by a finalizer.
SERVER = """
import multiprocessing, os, signal, sys, time, weakref
from higgs_patches.patches.engine_process import wait_for_startup

def engine(pipe, how):
    if how.startswith("early"):
        os.kill(os.getpid(), signal.SIGKILL) if how == "early kill" else sys.exit(3)
    pipe.send({"status": "READY"})
    time.sleep(600 if how in ("works", "asked") else 0.3)
    os.kill(os.getpid(), signal.SIGKILL)

class Handle:
    def __init__(self, method, how):
        context = multiprocessing.get_context(method)
        self.reader, self.writer = context.Pipe(duplex=False)
        self.proc = context.Process(target=engine, args=(self.writer, how), name="engine")
        self._finalizer = weakref.finalize(self, end, self.proc)
        self.proc.start()

def end(process):
    process.terminate()
    process.join()

if __name__ == "__main__":
    import logging
    logging.basicConfig(format="%(message)s")
    handle = Handle(sys.argv[1], sys.argv[2])
    try:
        wait_for_startup(handle)
    except RuntimeError as error:
        end(handle.proc)
        sys.exit(str(error))
    print("ready", flush=True)
    if sys.argv[2] == "asked":
        handle._finalizer()
    time.sleep(1.5)
    print("still there", flush=True)
"""


def run(tmp_path: object, method: str, how: str) -> subprocess.CompletedProcess[str]:
    script = f"{tmp_path}/server.py"
    with open(script, "w") as file:  # noqa: PTH123
        file.write(SERVER)
    return subprocess.run(
        [sys.executable, script, method, how], capture_output=True, text=True, timeout=60,
        env=os.environ | {"PYTHONPATH": str(PROJECT / "docker/patches")},
    )  # fmt: skip


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_a_killed_engine_ends_the_server(tmp_path: object, method: str) -> None:
    done = run(tmp_path, method, "late kill")
    assert done.returncode == -signal.SIGKILL
    assert done.stdout == "ready\n"
    assert done.stderr == (
        "engine was killed by signal 9 (usually too little memory), so the server ends\n"
    )


@pytest.mark.parametrize("method", ["spawn", "fork"])
@pytest.mark.parametrize(
    ("how", "says"),
    [("early kill", "was killed by signal 9 (usually too little memory)"),
     ("early end", "ended with 3")],
)  # fmt: skip
def test_an_engine_that_ends_while_it_loads(
    tmp_path: object, method: str, how: str, says: str
) -> None:
    done = run(tmp_path, method, how)
    assert (done.returncode, done.stderr) == (1, f"engine {says} before it was ready\n")


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_an_engine_that_works_and_one_that_was_asked_to_end(tmp_path: object, method: str) -> None:
    for how in ("works", "asked"):
        done = run(tmp_path, method, how)
        assert (done.returncode, done.stdout, done.stderr) == (0, "ready\nstill there\n", "")
