"""Measures an image on this machine's GPU, with random weights of full size: no engine, no hub.

    .venv/bin/python -m benchmarks.gpu [--image LAYOUT] [--streams 1 8 32 64 128] [-- SERVER FLAGS]

The layers are unpacked and started as `./inv gpu-check` does. The result is written to
benchmarks/results/, one file for each card, image and day. `--device cpu` rehearses all of it on
the CPU device with tiny weights, and writes no file unless --json names one.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import datetime
import json
import logging
import re
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.streams import load
from higgs_image import lockfile, retry
from higgs_image.audio import FRAMES_PER_SECOND
from higgs_image.errors import HiggsError
from higgs_image.files import write_atomically
from higgs_image.oci.container_spec import ContainerSpec
from higgs_image.smoke import cpu_device, gpu_check, unpacked
from higgs_image.smoke.layers import LayersOnDisk
from higgs_image.smoke.layers import find as find_layers
from higgs_image.smoke.server import NotReadyError, RunningServer
from higgs_image.workspace import PROJECT, Workspace

RESULTS = PROJECT / "benchmarks" / "results"
SCRIPTS = "/mnt/benchmarks"
STOP_SECONDS = 60
START_SECONDS = 900.0

FACTS = {
    "model_gib": r"Model loading took ([\d.]+) GiB",
    "kv_cache_tokens": r"GPU KV cache size: ([\d,]+) tokens",
    "compile_s": r"torch\.compile takes ([\d.]+) s in total",
    "graphs_s": r"Graph capturing finished in ([\d.]+) secs",
    "graphs_gib": r"Graph capturing finished in .* took ([\d.]+) GiB",
    "warm_up_s": r"warm-up took ([\d.]+) s",
}
"""Figures that the server logs at its start."""


def facts(log: str) -> dict[str, float]:
    """Return the figures of a log; a missing one has no key."""
    found = {name: re.findall(pattern, log) for name, pattern in FACTS.items()}
    return {name: float(x[-1].replace(",", "")) for name, x in found.items() if x}


def full_size(workspace: Workspace, layers: LayersOnDisk, root: Path) -> ContainerSpec:
    """Return a container on a GPU with random weights, which are made once."""
    package, scripts = cpu_device.package(workspace), Path(__file__).parent
    mounts = {str(package): cpu_device.DEVICE, str(scripts): SCRIPTS}
    folder = workspace.build / "full-size-weights"
    pins = lockfile.load(workspace.lock_file).weights
    if not (folder / "higgs-cpu.json").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        making = ContainerSpec("", environment=cpu_device.MAKER, writable=frozenset((str(folder),)),
                               mounts={**mounts, str(folder): cpu_device.WEIGHTS})  # fmt: skip
        command = ["python3", f"{SCRIPTS}/full_size_weights.py", cpu_device.WEIGHTS]
        command += [f"{x.repo}={x.revision}" for x in pins if x.revision]
        place = unpacked.sandbox(root, layers.config, making)
        with workspace.scratch("weights") as scratch:
            done = unpacked.run(place, command, scratch, cpu_device.TIMEOUT)
        if done.code != 0:
            sys.exit(f"error: the weights cannot be made: {done.err[-2000:]}")
    environment = {
        "HF_HUB_CACHE": cpu_device.WEIGHTS, "HF_HUB_OFFLINE": "1",
        "HIGGS_SEMANTIC_MODEL_PATH": cpu_device.ENVIRONMENT["HIGGS_SEMANTIC_MODEL_PATH"],
    }  # fmt: skip
    return ContainerSpec("", environment=environment, mounts={str(folder): cpu_device.WEIGHTS},
                         arguments=("--load-format", "dummy"), gpus="all")  # fmt: skip


def measure(server: RunningServer, streams: int) -> dict[str, float]:
    """Return what so many listeners at once get, each of a text of his own."""
    port, began, used = server.client.port, time.monotonic(), server.cpu_seconds()
    heard = asyncio.run(load(port, streams))
    took, used = time.monotonic() - began, server.cpu_seconds() - used
    tokens = sum(x.sound for x in heard) * FRAMES_PER_SECOND
    first = sorted(x.first for x in heard)
    return {
        "streams": streams,
        "audio_tokens_per_s": round(tokens / took),
        "first_sound_median_s": round(first[len(first) // 2], 3),
        "first_sound_worst_s": round(first[-1], 3),
        "slowest_listener_pace": round(min(x.sound / x.total for x in heard), 2),
        "longest_silence_s": round(max(x.silence for x in heard), 3),
        "cpu_us_per_token": round(1e6 * used / tokens),
    }


def gpu_figures(server: RunningServer) -> dict[str, Any]:
    """Return card, driver and memory in use, as nvidia-smi has them."""
    query = ("name", "driver_version", "memory.total", "memory.used")
    said = server.output_of(
        "nvidia-smi", f"--query-gpu={','.join(query)}", "--format=csv,noheader,nounits"
    )
    names = ("card", "driver", "memory_mib", "memory_used_mib")
    values = [x.strip() for x in (said or "").split("\n")[0].split(",")]
    return dict(zip(names, values, strict=False))


def run(options: argparse.Namespace, workspace: Workspace) -> dict[str, Any]:
    """Start the image, measure it, end it, and return the result."""
    layers = find_layers(workspace, options.image)
    device = gpu_check.choose(options.device)
    root = gpu_check.unpacked_root(workspace, layers)
    if device == "gpu":
        spec = full_size(workspace, layers, root)
    else:
        spec = gpu_check.spec_for(workspace, layers, root, device, "")
    spec = dataclasses.replace(spec, arguments=(*spec.arguments, *options.flags))
    result: dict[str, Any] = {
        "image": layers.image.digest, "tag": layers.identity.tag, "device": device,
        "weights": "random, full size" if device == "gpu" else "random, tiny",
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "flags": list(options.flags),
    }  # fmt: skip
    with (
        workspace.scratch("sandbox") as scratch,
        (launch := gpu_check.launch(layers, root, spec, scratch)).created(),
    ):
        began = time.monotonic()
        try:
            server = launch.start(START_SECONDS)
        except NotReadyError as error:
            print(error.tail, file=sys.stderr)
            sys.exit(f"error: {error.reason}")
        result["ready_s"] = round(time.monotonic() - began, 1)
        result |= gpu_figures(server) if device == "gpu" else {}
        result["start"] = facts(server.all_logs().decode(errors="replace"))
        result["load"] = []
        for streams in options.streams:
            result["load"].append(figures := measure(server, streams))
            print(json.dumps(figures), file=sys.stderr, flush=True)
        began = time.monotonic()
        server.terminate()
        retry.wait_until(lambda: not server.alive, STOP_SECONDS)
        result["stop_s"] = round(time.monotonic() - began, 1)
        result["exit_code"] = server.state()["ExitCode"]
    return result


def main() -> None:
    """Read the command line, measure, and write the result."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--image", default="", help="layout or registry name (default: last build)")
    parser.add_argument("--device", choices=("auto", "gpu", "cpu"), default="auto")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32, 64, 128])
    parser.add_argument("--json", type=Path, help="write the result to this file instead")
    parser.add_argument("flags", nargs="*", help="flags for the server, after --")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        result = run(options, Workspace.default())
    except HiggsError as error:
        print(f"error: {error.message}\nhint: {error.hint}", file=sys.stderr)
        sys.exit(error.exit_code)
    text = json.dumps(result, indent=2) + "\n"
    print(text, end="")
    goal = options.json
    if not goal and result["device"] == "gpu":
        card = re.sub(r"[^a-z0-9]+", "-", str(result.get("card", "gpu")).lower()).strip("-")
        goal = RESULTS / f"gpu-{card}-{result['image'][7:14]}-{result['date'][:10]}.json"
    if goal:
        write_atomically(goal, text.encode())
        print(f"written: {goal}", file=sys.stderr)


if __name__ == "__main__":
    main()
