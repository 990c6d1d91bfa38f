"""Publish a built image: push it, and record who built it from which commit and what is in it."""

from __future__ import annotations

import logging
from pathlib import Path

from higgs_image import lockfile
from higgs_image.attest import provenance, sbom
from higgs_image.build import pipeline
from higgs_image.build.pipeline import BuildReport, BuildRequest
from higgs_image.lockfile import Lock
from higgs_image.oci import skopeo
from higgs_image.oci.artifacts import open_repository
from higgs_image.oci.layout import BuiltImage
from higgs_image.oci.skopeo import Pushed
from higgs_image.release import records
from higgs_image.release.actor import actor
from higgs_image.release.journal import Journal
from higgs_image.release.records import Entry, Push

log = logging.getLogger(__name__)

LOCK, SBOM, PROVENANCE, BUILDKIT = (
    "versions.lock", "sbom.cdx.json", "provenance.slsa.json", "provenance.buildkit.json",
)  # fmt: skip
TYPES = {
    LOCK: "application/toml",
    SBOM: "application/vnd.cyclonedx+json",
    PROVENANCE: "application/json",
    BUILDKIT: "application/vnd.in-toto+json",
}
"""Media type of each file that is kept with the record of a push."""


def build_and_push(request: BuildRequest) -> BuildReport:
    """Build, push and load an image, and record the push in the journal."""

    def push_and_record(built: BuiltImage, target: str) -> Pushed:
        lock = lockfile.load(request.workspace.lock_file, request.workspace.variant)
        return push(built, lock, target, request.workspace.build / "journal")[0]

    return pipeline.run(request, push_and_record)


def push(built: BuiltImage, lock: Lock, target: str, folder: Path) -> tuple[Pushed, Entry]:
    """Push a built image under its immutable tag and record it; existing ones are kept.

    Args:
        built: the image.
        lock: what it was built from.
        target: repository, from `reference.repository`.
        folder: receives the copy of the journal.

    Returns:
        What the registry holds, and the journal's entry.

    Raises:
        HiggsError: see `skopeo.push`; the journal is written after the image is there.
    """
    pushed = skopeo.push(built, target)
    with open_repository(target) as repository:
        history = Journal(repository, folder)
        checkout = built.checkout
        record = Push(
            digest=pushed.digest,
            at=records.now(),
            by=actor(),
            tag=built.tag,
            compression="zstd" if built.compression == "zstd" else "gzip",
            lock_sha256=lock.sha256,
            commit=checkout.commit,
            clean=checkout.clean,
            url=checkout.url,
            size=built.image.size,
        )
        for entry in history.of(pushed.digest):
            if isinstance(entry.record, Push) and _same(entry.record, record):
                log.info("journal: %s is recorded", pushed.by_digest)
                return pushed, entry
        return pushed, history.write(record, _files(built, lock, record))


def _same(old: Push, new: Push) -> bool:
    return (old.tag, old.lock_sha256, old.commit, old.clean) == (
        new.tag, new.lock_sha256, new.commit, new.clean,
    )  # fmt: skip


def _files(built: BuiltImage, lock: Lock, record: Push) -> dict[str, tuple[bytes, str]]:
    log.info("sbom: reading the layers")
    name = built.image.labels.get("org.opencontainers.image.title", "image")
    contents = {
        LOCK: lock.path.read_bytes(),
        SBOM: sbom.make(built.layout, built.image, name),
        PROVENANCE: provenance.encode(
            provenance.predicate(built, lock, record.by.run or record.by.name)
        ),
    }
    if built.provenance is not None:
        contents[BUILDKIT] = built.provenance.read_bytes()
    return {name: (data, TYPES[name]) for name, data in contents.items()}
