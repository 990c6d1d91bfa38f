"""The record of a smoke test: which image, on what, with which verdict and evidence.

It is written as JSON beside the recordings, and it is what a promotion reads: only an image whose
record says `pass` has passed. The file is read strictly; `schema` changes when its meaning does.
"""

from __future__ import annotations

import datetime
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from higgs_image.errors import UsageError
from higgs_image.files import write_atomically
from higgs_image.lockfile import Digest, Sha256

SCHEMA = 1

Verdict = Literal["pass", "fail", "inconclusive"]
Kind = Literal["gpu", "cpu"]
"""`gpu` with real weights, or `cpu` with the stand-in device and random weights."""
Seconds = Annotated[float, msgspec.Meta(ge=0)]
Measured = dict[str, float | int | str | bool]
"""Figures and other evidence; a name says its unit, such as `first_audio_s`."""
Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9-]*\Z")]

_EVERYWHERE = (
    "start",
    "health",
    "models",
    "voices",
    "speech-pcm",
    "speech-wav",
    "speech-mp3",
    "speech-flac",
    "speech-opus",
    "speech-aac",
    "streaming",
    "at-once",
    "bad-requests",
    "custom-voice",
    "idle-cpu",
    "memory",
    "health-after",
    "stop",
)
REQUIRED: dict[Kind, frozenset[str]] = {
    "cpu": frozenset(_EVERYWHERE),
    "gpu": frozenset((*_EVERYWHERE, "sound")),
}
"""Checks without which there is no pass: what random weights sound like cannot be one of them."""


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class Image(_Table, frozen=True):
    """The image that was tested.

    Attributes:
        reference: the name by which it was started.
        digest: of its manifest or index, as a registry has it; none where the engine knows only
            an image that was never in a registry or a layout.
        tag: its immutable tag, from its labels; empty where it has none.
        lock_sha256: SHA-256 of the versions.lock it was built from, from its labels.
    """

    reference: str
    digest: Digest | None
    tag: str = ""
    lock_sha256: Sha256 | None = None


class Device(_Table, frozen=True):
    """What the image ran on.

    Attributes:
        kind: real weights or random ones.
        name: as its maker calls it, such as `NVIDIA L40S`.
        count: how many of them.
        driver: version of the NVIDIA driver; empty on a CPU.
    """

    kind: Kind
    name: str
    count: int = 1
    driver: str = ""


class Check(_Table, frozen=True):
    """One check and what came of it.

    Attributes:
        name: of the check.
        verdict: `inconclusive` also where it could not be made.
        required: whether the whole can pass without it.
        reason: why it failed or could not decide; empty where it passed.
        seconds: how long it took.
        measured: figures and other evidence.
        files: recordings and other evidence, relative to the record.
    """

    name: Name
    verdict: Verdict
    required: bool
    reason: str = ""
    seconds: Seconds = 0.0
    measured: Measured = {}
    files: list[str] = []


class Record(_Table, frozen=True):
    """A whole smoke test.

    Attributes:
        schema: version of this structure.
        verdict: of the whole, as `overall` has it.
        reason: why it is not `pass`, in one line.
        image: what was tested.
        device: what it ran on.
        started: when, in UTC.
        seconds: how long it all took.
        checks: every check of this kind of device, in the order they were made.
        container: how the container ended, and anything else about it worth keeping.
    """

    schema: int
    verdict: Verdict
    reason: str
    image: Image
    device: Device
    started: datetime.datetime
    seconds: Seconds
    checks: list[Check]
    container: Measured = {}

    @property
    def passed(self) -> bool:
        """Whether every required check was made and none failed."""
        return self.verdict == "pass"


def overall(checks: Iterable[Check], required: Collection[str] = ()) -> tuple[Verdict, str]:
    """Return the verdict over all checks, and why.

    One failure fails the whole, whether its check is required or not. Else each required check
    has to have passed, or the whole is inconclusive; so it is without any required check.

    Args:
        checks: that were made.
        required: names of checks that have to be among them.
    """
    found = list(checks)
    if failed := [check.name for check in found if check.verdict == "fail"]:
        return "fail", f"failed: {', '.join(failed)}"
    wanted = [check for check in found if check.required]
    open_ = [check.name for check in wanted if check.verdict != "pass"]
    open_ += sorted(set(required) - {check.name for check in wanted})
    if open_:
        return "inconclusive", f"required, but not decided: {', '.join(open_)}"
    return ("pass", "") if wanted else ("inconclusive", "no required check was made")


def save(record: Record, path: Path) -> None:
    """Write a record as JSON."""
    write_atomically(path, msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n")


def load(path: Path) -> Record:
    """Read a record, and make sure that its verdict is what its checks say.

    One that lacks a check which is required by now, as an older one may, is inconclusive.

    Raises:
        UsageError: it is missing, malformed, of another schema, or contradicts itself.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"{path}: {error.strerror or error}", "name the record of a smoke test"
        ) from None
    remedy = "make it anew with invoke smoke"
    try:
        schema = msgspec.json.decode(data, type=_Schema).schema
        if schema != SCHEMA:
            raise UsageError(f"{path}: schema {schema}, known is {SCHEMA}", remedy)
        record = msgspec.json.decode(data, type=Record)
    except msgspec.DecodeError as error:  # its subclass ValidationError names the place
        raise UsageError(f"{path}: {error}", remedy) from None
    if record.verdict != overall(record.checks)[0]:
        raise UsageError(
            f"{path}: says {record.verdict}, its checks say {overall(record.checks)[0]}", remedy
        )
    verdict, reason = overall(record.checks, REQUIRED[record.device.kind])
    if verdict != record.verdict:
        return msgspec.structs.replace(record, verdict=verdict, reason=reason)
    return record


class _Schema(msgspec.Struct):
    schema: int
