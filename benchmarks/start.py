"""Measures the time that the entrypoint adds before the server's first line: at most 150 ms.

    .venv/bin/python -m benchmarks.start [--runs 20]

The server is a module that prints the time and exits. It is started alternately by itself and by
the entrypoint, as on a second start, when the weights are on disk. GPUs are probed through the fake
NVML; a real one adds the time of the driver. With the image's own Python (COPY is a copy of the
checkout):

    docker run --rm -v COPY:/p -w /p IMAGE python3 -m benchmarks.start
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from higgs_image.workspace import PROJECT

RUNTIME = PROJECT / "docker" / "runtime"
NVML = PROJECT / "tests" / "support" / "nvml.c"
WEIGHTS = {"generation": 12, "audio-tokenizer": 4, "semantic-model": 4}
"""Role to number of files."""
REVISION = "1" * 40


def prepare(folder: Path) -> dict[str, str]:
    """Create weights, facts, a server and a fake NVML; return the variables that select them."""
    server = folder / "site" / "vllm" / "entrypoints" / "bosonai"
    server.mkdir(parents=True)
    for package in (server, *server.parents[:2]):  # before the image's own vllm
        (package / "__init__.py").touch()
    (server / "api_server.py").write_text("import time; print('first line', time.monotonic())\n")
    weights: dict[str, dict[str, str]] = {}
    for role, count in WEIGHTS.items():
        repo = folder / "hf" / "hub" / f"models--bosonai--{role}"
        snapshot = repo / "snapshots" / REVISION
        snapshot.mkdir(parents=True)
        names = {f"file-{number}": 5 for number in range(count)}
        for name in names:
            (snapshot / name).write_text("12345")
        (repo / f"higgs-checked-{REVISION}.json").write_text(json.dumps({"files": names}))
        weights[role] = {"repo": f"bosonai/{role}", "revision": REVISION}
    facts = {"tag": "benchmark", "patches": [], "weights": weights}
    (folder / "image.json").write_text(json.dumps(facts))
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-o", folder / "libnvidia-ml.so.1", NVML], check=True
    )
    subprocess.run([sys.executable, "-m", "compileall", "-q", RUNTIME], check=True)
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": f"{RUNTIME}:{folder / 'site'}",
        "HIGGS_IMAGE_FILE": str(folder / "image.json"),
        "HF_HOME": str(folder / "hf"),
        "LD_LIBRARY_PATH": str(folder),
        "FAKE_NVML": "driver=550.90;cuda=12040;gpu=NVIDIA L40S,46068,45500,8,9",
        "PORT": "18765",
    }


def measure(module: str, environment: dict[str, str]) -> float:
    """Return the milliseconds from the start of a process to the server's first line."""
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", module], env=environment, capture_output=True, text=True
    )
    [line] = [line for line in done.stdout.splitlines() if line.startswith("first line")]
    return (float(line.split()[2]) - started) * 1000


def main() -> None:
    """Print both times, and the difference."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        environment = prepare(Path(folder))
        direct, ours = [], []
        for _ in range(options.runs):
            direct.append(measure("vllm.entrypoints.bosonai.api_server", environment))
            ours.append(measure("higgs_runtime", environment))
    for name, times in (("server alone", direct), ("with the entrypoint", ours)):
        print(f"{name:<20} {statistics.median(times):6.0f} ms (of {min(times):.0f} to "
              f"{max(times):.0f})")  # fmt: skip
    print(f"{'added':<20} {statistics.median(ours) - statistics.median(direct):6.0f} ms")


if __name__ == "__main__":
    main()
