"""The check of operators in the real image: it passes there, and names what differs."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from higgs_image.build import pipeline
from higgs_image.workspace import PROJECT

pytestmark = [pytest.mark.fork, pytest.mark.timeout(600)]

SITE = "/opt/venv/lib/python3.11/site-packages"


@pytest.fixture
def steps(tmp_path: Path) -> Path:
    """The build's steps, to change."""
    return shutil.copytree(PROJECT / "docker/build", tmp_path / "build")


def check(report: pipeline.BuildReport, steps: Path, *options: str) -> tuple[int, list[str]]:
    """Run the check in the image; return its exit code, and the lines of what it says."""
    assert report.engine
    done = subprocess.run(
        ["docker", "run", "--rm", "--network=none", "--entrypoint=python3", *options,
         f"--volume={steps}:/build:ro", report.engine, "/build/operators.py"],
        capture_output=True, text=True,
    )  # fmt: skip
    return done.returncode, (done.stdout + done.stderr).splitlines()


def test_the_real_image_passes(report: pipeline.BuildReport, steps: Path) -> None:
    code, lines = check(report, steps)
    assert (code, len(lines)) == (0, 1), lines


def test_what_differs_is_named(report: pipeline.BuildReport, steps: Path) -> None:
    """A schema, a function of the wheel's Python, and a use that may no longer misfit."""
    table = steps / "operators.toml"
    text = table.read_text()
    changed = text.replace("(Tensor! result, Tensor input, Tensor weight, float eps", "(float eps")
    changed = changed.replace('"(out, input, weight, epsilon)"', '"(out, input, epsilon)"')
    changed = changed.replace('"_C::shm_gather" = "of a build for CPUs"\n', "")
    table.write_text(changed)
    code, lines = check(report, steps)
    assert code == 1 and len(lines) == 3
    for line, start in zip(
        lines,
        (
            "vllm._custom_ops.rms_norm: expected (out, input, epsilon), found (out, input, weight,",
            "_C::rms_norm: expected (float epsilon) -> (), found (Tensor! result, Tensor input,",
            "_C::shm_gather does not fit its calls: vllm/distributed/",
        ),
        strict=True,
    ):
        assert line.startswith(f"operators.py: {start}")


def test_python_of_another_release_is_named(
    report: pipeline.BuildReport, steps: Path, tmp_path: Path
) -> None:
    """As a fork's own vllm/_custom_ops.py would be for kernels of a later vLLM."""
    other = tmp_path / "_custom_ops.py"
    other.write_text("import torch\n\n\ndef gone():\n    torch.ops._C.gone_in_a_later_release()\n")
    code, lines = check(report, steps, f"--volume={other}:{SITE}/vllm/_custom_ops.py:ro")
    assert code == 1
    assert any("_C::gone_in_a_later_release does not fit its calls" in line for line in lines)
    assert any("vllm._custom_ops.rms_norm does not fit its calls" in line for line in lines)
