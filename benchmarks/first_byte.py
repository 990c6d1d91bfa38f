"""Measures how long a listener waits for the first sound, for two or more images side by side.

    .venv/bin/python -m benchmarks.first_byte IMAGE OTHER [--rounds 10]

All servers run at the same time on the CPU and are asked in turn, one request at a time, so that
what else this machine does is the same for all. The sound counts from the first bytes after a wav
header. To compare with what was before a patch, build a trial image without it:
`./inv build --without speech`.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import statistics
import time
from collections.abc import Iterator

from higgs_image import lockfile
from higgs_image.oci.container_spec import ContainerSpec
from higgs_image.oci.daemon import docker_client
from higgs_image.smoke import container, cpu_device
from higgs_image.smoke.leftovers import owner_labels
from higgs_image.workspace import Workspace

SHORT = "Good morning to you all."
LONG = "The train to the coast leaves at noon, so pack your bag and do not forget the tickets. " * 4
HEADER = 44
"""Bytes of a wav header, which is no sound yet."""


@contextlib.contextmanager
def running(workspace: Workspace, image: str) -> Iterator[int]:
    """Run an image on the CPU; yields its port."""
    with docker_client() as client:
        weights = cpu_device.weights(client, workspace, image, lockfile.load(workspace.lock_file))
    spec = ContainerSpec(
        image,
        environment=cpu_device.ENVIRONMENT,
        mounts=cpu_device.mounts(workspace, weights),
        labels=owner_labels(workspace.build, lifetime=24 * 3600),
    )
    with container.created(spec) as created:
        yield container.start(created, 600)[0].client.port


def ask(port: int, text: str, form: str) -> tuple[float, float]:
    """Return the seconds until the first sound, and until the end of the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    # No seed: it would make only the server that knows it compute the whole prompt anew.
    body = {"model": "higgs-audio-v2", "voice": "belinda", "input": text, "response_format": form}
    began = time.monotonic()
    connection.request(
        "POST", "/v1/audio/speech", json.dumps(body), {"Content-Type": "application/json"}
    )
    with connection.getresponse() as response:
        size, first = 0, 0.0
        while piece := response.read1(1 << 16):
            size += len(piece)
            if not first and size > HEADER:
                first = time.monotonic() - began
    connection.close()
    if not first:
        raise RuntimeError(f"an answer of {size} bytes (status {response.status})")
    return first, time.monotonic() - began


def main() -> None:
    """Print medians for each image, text and format."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE")
    parser.add_argument("--rounds", type=int, default=10)
    given = parser.parse_args()
    workspace = Workspace.default()
    with contextlib.ExitStack() as stack:
        ports = [stack.enter_context(running(workspace, image)) for image in given.images]
        for port in ports:
            for _ in range(2):
                ask(port, SHORT, "mp3")  # what is loaded at the first request
        print("| text | format | " + " | ".join(given.images) + " |")
        print("|---" * (2 + len(ports)) + "|")
        for name, text in (("short", SHORT), ("long", LONG)):
            for form in ("pcm", "wav", "mp3"):
                times: list[list[tuple[float, float]]] = [[] for _ in ports]
                for _ in range(given.rounds):
                    for place, port in enumerate(ports):
                        times[place].append(ask(port, text, form))
                cells = [
                    f"{statistics.median(x[0] for x in each):.2f} s of "
                    f"{statistics.median(x[1] for x in each):.2f} s"
                    for each in times
                ]
                print(f"| {name} | {form} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
