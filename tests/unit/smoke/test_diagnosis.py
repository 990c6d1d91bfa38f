"""Which lines of a log are the end of it, and what they say to do."""

from __future__ import annotations

import pytest
from higgs_runtime import errors

from higgs_image.smoke import diagnosis

LINES = {
    "RuntimeError: Failed to infer device type": "no GPU",
    'could not select device driver "" with capabilities: [[gpu]]': "no GPU",
    "nvidia-container-cli: requirement error: unsatisfied condition: cuda>=12.4": "too old",
    "The NVIDIA driver on your system is too old (found version 11040)": "too old",
    "RuntimeError: CUDA error: no kernel image is available for execution on the device": "newer",
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.": "memory",
    "ValueError: No available memory for the cache blocks.": "memory",
    "401 Client Error: Unauthorized for url: https://huggingface.co/api/models/x": "login",
    "huggingface_hub.errors.RepositoryNotFoundError: 404": "weights",
    "AttributeError: TokenizersBackend has no all_special_tokens_extended": "transformers",
    "ERROR 11-24 12:00:00 [core.py:390] EngineCore hit an exception: Traceback": "engine",
    "api_server.py: error: unrecognized arguments: --nonsense": "flag",
    "OSError: [Errno 28] No space left on device": "full",
}

HARMLESS = """\
WARNING 11-24 12:41:41 [_custom_ops.py:21] Failed: no kernel image is available
INFO 11-24 12:41:37 [api_server.py:434] CUDA out of memory is not what happened
INFO:     127.0.0.1:34960 - "GET /health HTTP/1.1" 200 OK
higgs: WARNING: no kernel image is available, but HIGGS_FORCE is set, so it is tried
RuntimeWarning: nothing to see here
"""


@pytest.mark.parametrize("line", LINES)
def test_fatal_lines(line: str) -> None:
    found = diagnosis.find(f"{HARMLESS}{line}\nmore\n")
    assert found and found[0] == line
    assert LINES[line] in found[1].what and found[1].hint


def test_harmless_lines() -> None:
    assert diagnosis.find(HARMLESS) is None
    assert diagnosis.find("") is None


def test_the_more_telling_line_wins() -> None:
    log = "EngineCore hit an exception\ntorch.OutOfMemoryError: CUDA out of memory\n"
    found = diagnosis.find(log)
    assert found and "memory" in found[1].what


@pytest.mark.parametrize(
    ("code", "killed", "error", "what"),
    [
        (137, False, "", "most likely for memory"),
        (137, False, "ValueError: x", "after an exception"),
        (137, True, "ValueError: x", "most likely for memory"),
        (1, True, "", "most likely for memory"),
        (127, False, "", "entrypoint"),
        (1, False, "", "itself"),
    ],
)
def test_exit_codes(code: int, killed: bool, error: str, what: str) -> None:
    assert what in diagnosis.of_exit(code, error, out_of_memory=killed).what


def test_the_last_error_of_a_log() -> None:
    log = (
        "ValueError: first\nINFO Error: not this\n    raise KeyError: nor this\n"
        "higgs_patches.x.MyError: the cause\nhiggs: ERROR: the server exited with 1\n"
    )
    assert diagnosis.last_error(log) == "higgs_patches.x.MyError: the cause"
    assert diagnosis.last_error("all is well\n") == ""


COMPILING = """\
Process EngineCore_0:
Traceback (most recent call last):
  File "/opt/venv/lib/python3.11/site-packages/torch/_dynamo/output_graph.py", line 1446, in call
    raise BackendCompilerFailed(self.compiler_fn, e) from e
torch._dynamo.exc.BackendCompilerFailed: backend='<VllmBackend>' raised:
AssertionError
INFO 11-27 12:00:00 [api_server.py:1] Shutting down
higgs: ERROR: the server was killed by signal 9 (SIGKILL) while starting; hint: see the lines above
"""
"""The end of a log in which the engine raised an exception whose name does not end in Error."""


@pytest.mark.parametrize("prefix", ["", "ERROR 11-27 12:00:00 [core.py:390] "])
def test_the_exception_at_the_end_of_a_traceback(prefix: str) -> None:
    log = "".join(
        line if line.startswith(("INFO", "higgs")) else prefix + line
        for line in COMPILING.splitlines(keepends=True)
    )
    found = diagnosis.last_error(log)
    assert found == "torch._dynamo.exc.BackendCompilerFailed: backend='<VllmBackend>' raised:"


def test_the_start_codes_refusal() -> None:
    log = "higgs: image 1\nhiggs: ERROR: no GPU is there: rent one\n"
    assert diagnosis.refusal(log) == "no GPU is there: rent one"
    assert diagnosis.refusal("higgs: ERROR: the server exited with 1: see the lines above\n") == ""
    assert diagnosis.refusal("all is well\n") == ""


def test_what_tells_of_the_machine_alone() -> None:
    of_machine = (
        errors.NoGpuError,
        errors.DriverTooOldError,
        errors.UnsupportedGpuError,
        errors.GpuTooSmallError,
        errors.DiskTooSmallError,
        errors.HubBusyError,
        errors.HubUnreachableError,
    )
    assert {error.exit_code for error in of_machine} == diagnosis.OF_MACHINE


def test_a_terminal_obeys_nothing_of_a_log() -> None:
    assert diagnosis.printable("a\x1b[2Jb\x00\x07c") == "a [2Jb  c"
