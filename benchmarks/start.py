"""Measures what the start code adds before the server's first line: the goal is 150 ms at most.

    .venv/bin/python -m benchmarks.start [--runs 20]

The server is a module that prints the time and ends. It is started by itself and by the start code,
in turn, as on a second start: the weights are all there. GPUs are asked for through the stand-in
of NVIDIA's library; a real one adds what the driver takes to answer. With the image's own Python
(COPY is a copy of the checkout):

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
    """Lay out weights, facts, a server and a GPU library; return the variables that lead there."""
    server = folder / "site" / "vllm" / "entrypoints" / "bosonai"
    server.mkdir(parents=True)
    for package in (server, *server.parents[:2]):  # before the image's own vllm, where there is one
        (package / "__init__.py").touch()
    (server / "api_server.py").write_text("import time; print('first line', time.monotonic())\n")
    facts = {"tag": "benchmark", "patches": [], "weights": {}}
    for role, count in WEIGHTS.items():
        repo = folder / "hf" / "hub" / f"models--bosonai--{role}"
        snapshot = repo / "snapshots" / REVISION
        snapshot.mkdir(parents=True)
        names = {f"file-{number}": 5 for number in range(count)}
        for name in names:
            (snapshot / name).write_text("12345")
        (repo / f"higgs-checked-{REVISION}.json").write_text(json.dumps({"files": names}))
        facts["weights"][role] = {"repo": f"bosonai/{role}", "revision": REVISION}  # type: ignore[index]
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
    """Print both, and the difference."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        environment = prepare(Path(folder))
        direct, ours = [], []
        for _ in range(options.runs):
            direct.append(measure("vllm.entrypoints.bosonai.api_server", environment))
            ours.append(measure("higgs_runtime", environment))
    for name, times in (("server alone", direct), ("with the start code", ours)):
        print(f"{name:<20} {statistics.median(times):6.0f} ms (of {min(times):.0f} to "
              f"{max(times):.0f})")  # fmt: skip
    print(f"{'added':<20} {statistics.median(ours) - statistics.median(direct):6.0f} ms")


if __name__ == "__main__":
    main()
