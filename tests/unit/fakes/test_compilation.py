"""What the CPU device compiles."""

from __future__ import annotations

import types
from typing import Any

import pytest
from higgs_cpu import compilation


def configured(*, enforce_eager: bool = False) -> Any:
    """A configuration of vLLM, as the device leaves it."""
    config = types.SimpleNamespace(
        compilation_config=types.SimpleNamespace(
            level=3, use_inductor=True, use_cudagraph=True, cudagraph_num_of_warmups=1
        ),
        model_config=types.SimpleNamespace(enforce_eager=enforce_eager),
    )
    compilation.configure(config)
    return config


def test_nothing_is_compiled_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HIGGS_CPU_COMPILE", raising=False)
    config = configured()
    assert config.compilation_config.level == 0
    assert config.model_config.enforce_eager


@pytest.mark.parametrize("compiler", ["inductor", "dynamo"])
def test_the_level_stays_if_a_compiler_is_named(
    compiler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HIGGS_CPU_COMPILE", compiler)
    config = configured()
    assert vars(config.compilation_config) == {
        "level": 3, "use_inductor": compiler == "inductor", "use_cudagraph": False,
        "cudagraph_num_of_warmups": 0,
    }  # fmt: skip
    assert not config.model_config.enforce_eager
    assert configured(enforce_eager=True).compilation_config.level == 0


def test_another_compiler_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIGGS_CPU_COMPILE", "3")
    with pytest.raises(ValueError, match="HIGGS_CPU_COMPILE: expected inductor or dynamo, got '3'"):
        configured()
