"""Runs the tests that need PyTorch and the patched fork inside the image, which has both."""

from __future__ import annotations

import subprocess
from importlib import metadata
from pathlib import Path

import pytest

from higgs_image.build import pipeline
from higgs_image.workspace import PROJECT, Workspace

pytestmark = [pytest.mark.fork, pytest.mark.timeout(2400)]

TESTS = ("test_engine_codes.py", "test_engine.py", "test_codec.py", "test_compilation.py",
         "test_resampling.py", "test_speech_outputs.py")  # fmt: skip
RUNNER = ("pytest", "pluggy", "iniconfig", "pygments")
"""Pure Python, so that the image's interpreter takes them from here."""


def mounts(source: Path) -> dict[str, Path]:
    found = {
        "/mnt/cpu": PROJECT / "fakes/cpu_device",
        "/mnt/build": PROJECT / "docker/build",
        "/mnt/source": source,
    }
    for name in TESTS:
        found[f"/mnt/tests/{name}"] = PROJECT / "tests/fork" / name
    for name in RUNNER:
        package = metadata.distribution(name)
        for file in package.files or []:
            top = file.parts[0]
            if top not in ("..", "__pycache__") and f"/mnt/runner/{top}" not in found:
                found[f"/mnt/runner/{top}"] = Path(str(package.locate_file(top)))
    return found


@pytest.mark.parametrize(
    "name",
    [
        TESTS[0],
        pytest.param(
            TESTS[1],
            marks=pytest.mark.needs(
                sampling=True,
                scheduling=True,
                engine_validation=True,
                audio_tower=True,
                audio_steps=True,
            ),
        ),
        pytest.param(TESTS[2], marks=pytest.mark.needs(incremental_codec=True)),
        pytest.param(TESTS[3], marks=pytest.mark.needs(piecewise_compilation=True)),
        pytest.param(TESTS[4], marks=pytest.mark.needs(resampling=True)),
        pytest.param(TESTS[5], marks=pytest.mark.needs(speech_outputs=True)),
    ],
)
def test_inside(
    name: str, report: pipeline.BuildReport, workspace: Workspace, without: tuple[str, ...]
) -> None:
    """All pass. Without a patch those that need it have to fail, and then this fails."""
    assert report.engine
    only = ["-m", " or ".join(f"needs({patch}=True)" for patch in without)] if without else []
    volumes = [f"--volume={path}:{place}:ro" for place, path in mounts(workspace.source).items()]
    done = subprocess.run(
        ["docker", "run", "--rm", "--network=none", "--entrypoint=python3", *volumes,
         "--env=PYTHONPATH=/mnt/cpu:/mnt/build:/mnt/runner", "--env=HIGGS_SOURCE=/mnt/source",
         "--env=PYTHONDONTWRITEBYTECODE=1", report.engine,
         "-m", "pytest", "-q", "-rap", "-p", "no:cacheprovider", f"/mnt/tests/{name}", *only],
        capture_output=True, text=True,
    )  # fmt: skip
    said = done.stdout[-6000:] + done.stderr[-2000:]
    summary = done.stdout.splitlines()[-1]
    if done.returncode not in (0, 1):
        pytest.exit(f"the tests cannot be run inside the image: {said}", 2)
    if without:  # the other way round: this fails when each of them does
        print(*(line for line in done.stdout.splitlines() if line.startswith("PASSED")), sep="\n")
        assert " passed" in summary, summary
        return
    assert done.returncode == 0, said
    assert " skipped" not in summary
