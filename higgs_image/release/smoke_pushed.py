"""Smoke tests of pushed images, by their digest; the verdict is written to the journal."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from higgs_image.oci import credentials
from higgs_image.oci.reference import split
from higgs_image.release import evidence
from higgs_image.release.journal import Journal
from higgs_image.release.move_plan import find_image
from higgs_image.release.records import Entry
from higgs_image.smoke import record as smoke_record
from higgs_image.verdict import Verdict
from higgs_image.workspace import Workspace

log = logging.getLogger(__name__)

SmokeTest = Callable[[str, str], bytes]
"""Tests an image, named by its digest, on a type of device, and returns its record."""


@dataclass(frozen=True)
class DeviceVerdict:
    """The verdict of a smoke test on a type of device.

    Attributes:
        device_type: gpu or cpu.
        verdict: of the whole test.
    """

    device_type: str
    verdict: Verdict

    def text(self) -> str:
        """Return a human-readable description."""
        return f"{self.verdict} on a {self.device_type}"


def smoke_here(workspace: Workspace, *, bench: bool = False) -> SmokeTest:
    """Return the smoke test on this machine's engine.

    Args:
        workspace: of the project.
        bench: end it with a short benchmark.
    """

    def test(reference: str, device: str) -> bytes:
        from higgs_image.bench import smoke_check
        from higgs_image.oci import daemon
        from higgs_image.smoke import session

        name, _ = split(reference)
        if login := credentials.login(name.split("/")[0]):
            with daemon.docker_client() as client:
                log.info("smoke: pulling %s", reference)
                client.images.pull(
                    reference, auth_config={"username": login[0], "password": login[1]}
                )
        options = session.SmokeOptions(
            image=reference, device=device, more=(smoke_check.BENCH,) if bench else ()
        )
        _, folder = session.run(workspace, options)
        return (folder / "record.json").read_bytes()

    return test


def last_verdict(history: Journal, digest: str, device_type: str) -> DeviceVerdict | None:
    """Return the verdict of the last smoke test of an image on a type of device."""
    known, _ = evidence.gather(history, digest)
    found = [x for x in known.smokes if x.device.kind == device_type]
    return DeviceVerdict(device_type, Verdict(found[-1].verdict)) if found else None


def record_verdict(
    history: Journal, what: str, device_type: str, smoke: SmokeTest, file: Path | None = None
) -> tuple[Entry, smoke_record.Record]:
    """Write the verdict of a smoke test to the journal.

    Args:
        history: the journal of the repository that has the image.
        what: a digest or tag.
        device_type: what to test it on.
        smoke: tests it.
        file: the record of a test that was made elsewhere; None: test it now.

    Returns:
        The entry, and the record that is kept with it.

    Raises:
        RegistryNotFoundError: there is no such image.
        UsageError: the record is malformed, or of another image.
        HiggsError: the test could not be run.
    """
    digest, _ = find_image(history.repository, what)
    reference = history.repository.reference(digest)
    data = file.read_bytes() if file else smoke(reference, device_type)
    record = evidence.load_smoke(data, digest)
    return evidence.record_smoke(history, data), record
