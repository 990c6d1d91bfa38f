"""Evidence about an image: its labels, who pushed it, and its smoke tests."""

from __future__ import annotations

from higgs_image.errors import UsageError
from higgs_image.files import sha256_bytes
from higgs_image.release import records
from higgs_image.release.actor import actor
from higgs_image.release.journal import Journal
from higgs_image.release.policy import Known
from higgs_image.release.records import Entry, Push, Smoke
from higgs_image.smoke import record as smoke_record

SMOKE = "smoke.json"
JSON = "application/json"


def gather(history: Journal, digest: str) -> tuple[Known, list[Entry]]:
    """Return what is known of an image, and the journal's entries that say so.

    A smoke test counts by the record that is kept with its entry, read strictly: it must be of
    this digest, and its verdict must be what its checks say.
    """
    repository = history.repository
    entries = [entry for entry in history.of(digest) if isinstance(entry.record, Push | Smoke)]
    pushes = [entry.record for entry in entries if isinstance(entry.record, Push)]
    smokes = [
        load_smoke(repository.files(entry.tag)[SMOKE], digest)
        for entry in entries
        if isinstance(entry.record, Smoke)
    ]
    labels = repository.labels(digest)
    clean = [push for push in pushes if push.clean]  # one is enough: it is the same digest
    push = next(reversed(clean or pushes), None)
    tagged = repository.digest(push.tag) if push else None
    return Known(digest, labels, push, smokes, repository.is_local, tagged), entries


def load_smoke(data: bytes, digest: str | None = None) -> smoke_record.Record:
    """Decode the record of a smoke test.

    Args:
        data: its JSON.
        digest: the image that it must be of.

    Raises:
        UsageError: it is malformed, contradicts itself, or is of another image.
    """
    record = smoke_record.decode(data, SMOKE)
    if record.image.digest is None:
        raise UsageError(
            f"the smoke test of {record.image.reference} names no digest",
            "test the pushed image by its digest: ./inv smoke repository@sha256:...",
        )
    if digest is not None and record.image.digest != digest:
        raise UsageError(
            f"the smoke test is of {record.image.digest}, not of {digest}",
            "test the pushed image by its digest",
        )
    return record


def record_smoke(history: Journal, data: bytes) -> Entry:
    """Write the record of a smoke test to the journal, unless the journal has it.

    Raises:
        UsageError: the record is malformed, or names no digest.
        RegistryNotFoundError: there is no such image in the repository.
    """
    record = load_smoke(data)
    assert record.image.digest is not None  # noqa: S101 (load_smoke)
    digest = record.image.digest
    repository = history.repository
    repository.config(digest)  # raises where there is no such image
    for entry in history.of(digest):
        if isinstance(entry.record, Smoke):
            kept = repository.files(entry.tag).get(SMOKE, b"")
            if sha256_bytes(kept) == sha256_bytes(data):
                return entry
    return history.write(
        Smoke(
            digest=digest,
            at=records.now(),
            by=actor(),
            device_class=record.device.kind,
            device=record.device.name,
            verdict=record.verdict,
            seconds=round(record.seconds, 1),
            figures=figures(record),
            summary=record.reason,
        ),
        {SMOKE: (data, JSON)},
    )


def figures(record: smoke_record.Record) -> dict[str, float]:
    """Return every number that was measured, by check and name."""
    return {
        f"{check.name}.{name}": value
        for check in record.checks
        for name, value in check.measured.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
