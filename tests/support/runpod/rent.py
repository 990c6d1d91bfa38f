"""Rent a pod of the fake RunPod with short waits: here, or in a process that can be killed.

python -m tests.support.runpod.rent FOLDER [SECONDS OF THE DWELL]
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from higgs_image import retry
from higgs_image.cloud import description
from higgs_image.cloud.image_rules import RentedImage
from higgs_image.cloud.pod import log, readiness, rental, smoke
from higgs_image.cloud.pod.smoke import PodOptions, PodTest
from higgs_image.cloud.runpod import client
from higgs_image.errors import INTERRUPTED
from higgs_image.smoke.record import SmokeImage
from higgs_image.workspace import PROJECT, Workspace

DIGEST = "sha256:" + "a" * 64
IMAGE = RentedImage(DIGEST, f"ghcr.io/o/i:1@{DIGEST}", 2_000_000_000, frozenset())
TESTED = SmokeImage(IMAGE.reference, DIGEST)
WAITS = [
    (retry, "WAIT", 0.01), (readiness, "POLL", 0.05), (rental, "PAUSE", 0.05),
    (rental, "LATE_SECONDS", 0.3), (readiness, "EXIT_SECONDS", 1.0), (log, "PAUSE", 0.05),
    (smoke, "DWELL_PAUSE", 0.05),
]  # fmt: skip
"""Module, name and value of every wait that is shorter in tests."""


def target(folder: Path, dwell: float = 1.0) -> PodTest:
    """Return a test whose evidence goes below a folder."""
    workspace = Workspace(folder / "build", folder / "x.lock", folder / "x.toml")
    options = PodOptions("", 1.0, 1.0, timeout=20.0, dwell=dwell)
    return PodTest(workspace, client.from_environment(), description.load(PROJECT), options)


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for module, name, value in WAITS:
        setattr(module, name, value)
    try:
        done, _ = target(Path(sys.argv[1]), *map(float, sys.argv[2:])).of(IMAGE, TESTED)
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0 if done.passed else 1


if __name__ == "__main__":
    sys.exit(main())
