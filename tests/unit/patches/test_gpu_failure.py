"""A broken GPU context ends the server; too little memory is the request's own affair."""

from __future__ import annotations

import os
import sys
import types
from typing import Any

import pytest
from higgs_patches.lib.errors import RefusedError, error_response
from higgs_patches.patches import gpu_failure


class OutOfMemoryError(RuntimeError):
    """As PyTorch's: a RuntimeError, too."""


class Ended(BaseException):
    """Stands for the end of the process."""


class Cuda:
    """PyTorch's view of the GPU: `sticky` is what every later call reports."""

    def __init__(self) -> None:
        self.used = True
        self.sticky: Exception | None = None

    def is_initialized(self) -> bool:
        return self.used

    def synchronize(self) -> None:
        if self.sticky:
            raise self.sticky


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    found = Cuda()
    torch: Any = types.ModuleType("torch")
    torch.cuda, torch.OutOfMemoryError = found, OutOfMemoryError
    utils: Any = types.ModuleType("vllm.utils")

    def kill_process_tree(pid: int) -> None:
        assert pid == os.getpid()
        raise Ended

    utils.kill_process_tree = kill_process_tree
    for name, module in {
        "torch": torch,
        "vllm": types.ModuleType("vllm"),
        "vllm.utils": utils,
    }.items():
        monkeypatch.setitem(sys.modules, name, module)
    return found


@gpu_failure.ending_when_broken
def decode(error: Exception | None = None) -> str:
    if error:
        raise error
    return "sound"


def test_a_broken_context_ends_the_server(cuda: Cuda, caplog: pytest.LogCaptureFixture) -> None:
    cuda.sticky = RuntimeError("CUDA error: an illegal memory access was encountered")
    with pytest.raises(Ended):
        decode(RuntimeError("CUDA error: an illegal memory access was encountered\nCompile with"))
    assert caplog.messages == [
        "The GPU can no longer be used, so the server ends: CUDA error: an illegal memory access "
        "was encountered"
    ]


def test_memory_that_is_short_for_good_ends_nothing(cuda: Cuda) -> None:
    with pytest.raises(RefusedError, match="no memory left for this audio now") as refused:
        decode(OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))
    assert refused.value.status == 503
    answer = error_response(str(refused.value), refused.value.status)
    assert answer.headers["Retry-After"] == "5"


@pytest.mark.parametrize("used", [True, False])
def test_an_error_that_does_not_stay_is_passed_on(cuda: Cuda, used: bool) -> None:
    """A client's audio must not be able to end the server."""
    cuda.used = used
    if not used:
        cuda.sticky = RuntimeError("there is no GPU")
    with pytest.raises(RuntimeError, match="Kernel size can't be greater"):
        decode(RuntimeError("Kernel size can't be greater than actual input size"))
    with pytest.raises(ValueError, match="too short"):
        decode(ValueError("too short"))
    assert decode() == "sound"


def test_other_answers_are_not_to_be_repeated() -> None:
    assert "Retry-After" not in error_response("no", 400).headers
