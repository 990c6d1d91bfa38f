"""Measures the product against the plain prototype, side by side in one run.

    .venv/bin/python -m benchmarks.build [--compression zstd] [--base-image ...] [--extra-ca FILE]

Both are built cold (no build cache), to an image pushed to one local registry, in the same
compression; then the product's warm figures. Needs the real fork's source, a Docker engine with
the containerd store, docker-registry, and about 60 GB of disk for the prototype. The engine's
build cache is pruned in between: run it on a machine of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import jinja2

from higgs_image import lockfile
from higgs_image.build import source
from higgs_image.workspace import PROJECT, Workspace

HERE = Path(__file__).parent


class DiskPeak:
    """Follows how much disk is used, in GB, from its start to its stop."""

    def __init__(self, path: Path) -> None:
        self._path, self._stop = path, threading.Event()
        self._start = self._peak = shutil.disk_usage(path).used
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> DiskPeak:
        self._thread.start()
        return self

    def _follow(self) -> None:
        while not self._stop.wait(0.5):
            self._peak = max(self._peak, shutil.disk_usage(self._path).used)

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def gigabytes(self) -> float:
        """Peak above the start, in GB (10^9 bytes)."""
        return round((self._peak - self._start) / 1e9, 1)


def run(*command: str | Path, quiet: bool = False) -> float:
    """Run a command to its end; return its seconds."""
    started = time.monotonic()
    print("+", *command, file=sys.stderr)
    done = subprocess.run(
        [str(x) for x in command], stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL if quiet else sys.stderr,
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"failed with {done.returncode}: {' '.join(map(str, command))}")
    return round(time.monotonic() - started, 1)


def prune() -> None:
    """Empty the engine's build cache and drop images that nothing names."""
    run("docker", "builder", "prune", "--all", "--force", quiet=True)


def prototype(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Build and push the prototype, cold."""
    workspace = Workspace.default()
    locked = lockfile.load(workspace.lock_file)
    checkout = source.ensure(workspace, locked)
    context = folder / "prototype"
    shutil.copytree(checkout.fork / "vllm", context / "vllm")
    shutil.copytree(checkout.submodule / "boson_multimodal", context / "boson_multimodal")
    shutil.copy(HERE / "prototype-requirements.txt", context / "requirements.txt")
    template = jinja2.Template((HERE / "prototype.Dockerfile.j2").read_text())
    uv = (PROJECT / locked.python.installer).read_text().split("uv==")[1].split()[0]
    (context / "Dockerfile").write_text(
        template.render(base=arguments.base_image or locked.base.reference, uv=uv) + "\n"
    )
    layout = folder / "prototype-oci"
    secret = ["--secret", f"id=ca-certificates,src={arguments.extra_ca}"]
    output = (
        f"type=oci,dest={layout},tar=false,name=prototype:bench,rewrite-timestamp=true,"
        f"compression={arguments.compression},force-compression=true,oci-mediatypes=true"
    )
    with DiskPeak(folder) as disk:
        built = run(
            "docker", "buildx", "build", "--no-cache", "--provenance=false",
            *(secret if arguments.extra_ca else []),
            "--build-arg", f"SOURCE_DATE_EPOCH={locked.fork.epoch}",
            "--output", output,
            context, quiet=True,
        )  # fmt: skip
        pushed = run(
            "skopeo", "copy", "--preserve-digests", "--dest-tls-verify=false",
            f"oci:{layout}:docker.io/library/prototype:bench",
            f"docker://{arguments.registry}/bench-prototype:{int(time.time())}", quiet=True,
        )  # fmt: skip
    size = sum(x.stat().st_size for x in (layout / "blobs" / "sha256").iterdir())
    shutil.rmtree(layout)
    return {"build_s": built, "push_s": pushed, "pushed_s": round(built + pushed, 1),
            "compressed_mb": round(size / 1e6), "peak_disk_gb": disk.gigabytes}  # fmt: skip


def product(
    arguments: argparse.Namespace, *flags: str, name: str = "bench-product"
) -> dict[str, Any]:
    """Run `./inv build --push` and return its report, its own time and memory."""
    command = [
        sys.executable, "-m", "invoke", "build", "--push", "--json",
        "--registry", arguments.registry, "--name", name, "--compression", arguments.compression,
        *(["--base-image", arguments.base_image] if arguments.base_image else []),
        *(["--extra-ca", arguments.extra_ca] if arguments.extra_ca else []), *flags,
    ]  # fmt: skip
    print("+", *command, file=sys.stderr)
    started = time.monotonic()
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        output = child.stdout.read()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    seconds = round(time.monotonic() - started, 1)
    if child.returncode:
        sys.exit(f"the product failed: {output}")
    report: dict[str, Any] = json.loads(output)
    report["wall_s"] = seconds
    report["pipeline_peak_mb"] = round(usage.ru_maxrss / 1024)
    return report


def changed_file(arguments: argparse.Namespace) -> dict[str, Any]:
    """Change one Python file of the overlay, as a patch would, and build to a runnable image."""
    # The change is made where the overlay comes from: a commit of a scratch fork is not needed,
    # the recipe's own file in the same layer does it.
    notice = PROJECT / "NOTICE"
    lock = PROJECT / "versions.lock"
    before = notice.read_text(), lock.read_text()
    try:
        notice.write_text(before[0] + f"\nbenchmark {time.time()}\n")
        run(sys.executable, "-m", "invoke", "lock", quiet=True)
        return product(arguments)
    finally:
        notice.write_text(before[0])
        lock.write_text(before[1])


def main() -> None:
    """Measure and print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--registry", default="127.0.0.1:5000", help="a local one")
    parser.add_argument("--base-image", help="as in ./inv build")
    parser.add_argument("--extra-ca", help="as in ./inv build")
    parser.add_argument("--compression", choices=["gzip", "zstd"], default="zstd")
    parser.add_argument("--skip-prototype", action="store_true")
    arguments = parser.parse_args()
    result: dict[str, Any] = {"compression": arguments.compression}
    with tempfile.TemporaryDirectory(dir=PROJECT / "build", prefix="bench-") as name:
        if not arguments.skip_prototype:
            prune()
            result["prototype"] = prototype(arguments, Path(name))
            print(json.dumps(result), file=sys.stderr)  # not lost if the product fails
        prune()
        shutil.rmtree(PROJECT / "build" / f"oci-{arguments.compression}", ignore_errors=True)
        with DiskPeak(Path(name)) as disk:
            cold = product(arguments, "--no-cache", "--no-load", name=f"bench-{int(time.time())}")
        peak_pushed = disk.gigabytes
        with DiskPeak(Path(name)) as disk:
            loaded = product(arguments)
        warm = product(arguments)
        changed = changed_file(arguments)
    cold_s = cold["wall_s"]
    result["product"] = {
        "pushed_s": cold_s, "stages": cold["seconds"], "compressed_mb": cold["compressed_mb"],
        "layers": cold["layers"], "unpacked_mb": loaded["unpacked_mb"],
        "load_s": loaded["seconds"]["load"], "peak_disk_gb_pushed": peak_pushed,
        "peak_disk_gb_loaded": round(peak_pushed + disk.gigabytes, 1),
        "warm_s": warm["wall_s"], "one_file_s": changed["wall_s"],
        "one_file_uploaded_mb": round(changed["pushed"]["uploaded_bytes"] / 1e6, 2),
        "pipeline_peak_mb": max(x["pipeline_peak_mb"] for x in (cold, loaded, warm, changed)),
        "children_peak_mb": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024),
    }  # fmt: skip
    if "prototype" in result:
        result["ratio"] = round(cold_s / result["prototype"]["pushed_s"], 2)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
