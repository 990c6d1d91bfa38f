"""The record of a smoke test: the image, the device, every check, and the verdict.

It is written as JSON beside the recordings, and a promotion reads it. The file is read strictly;
`schema` changes when its meaning does.
"""

from __future__ import annotations

import datetime
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

import msgspec

from higgs_image.errors import UsageError
from higgs_image.files import write_atomically
from higgs_image.labels import LABEL
from higgs_image.lockfile import Digest, Sha256
from higgs_image.verdict import Verdict

SCHEMA = 1

DeviceType = Literal["gpu", "cpu"]
"""`gpu` with real weights, or the CPU device (fakes/cpu_device) with random weights."""
Place = Literal["engine", "pod"]
"""`engine`: a container of this machine's engine; `pod`: a rented one, reached through a proxy."""
Seconds = Annotated[float, msgspec.Meta(ge=0)]
Measured = dict[str, float | int | str | bool]
"""Figures and other evidence; a name ends with its unit, such as `first_audio_s`."""
Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9-]*\Z")]

_REQUIRED = frozenset((
    "start", "health", "models", "voices",
    "speech-pcm", "speech-wav", "speech-mp3", "speech-flac", "speech-opus", "speech-aac",
    "formats", "sound", "texts", "streaming", "at-once", "listeners", "bad-requests",
    "custom-voice", "idle-cpu", "memory", "health-after", "stop",
))  # fmt: skip
REQUIRED: dict[DeviceType, frozenset[str]] = {"cpu": _REQUIRED, "gpu": _REQUIRED}
"""Checks that have to pass before the whole can."""
ENGINE_ONLY = frozenset(("custom-voice", "idle-cpu", "memory", "stop"))
"""Checks that a rented pod cannot show: they need the container's engine. A promotion takes them
from a test of the same image in an engine, on whatever device."""


def required(device: DeviceType, place: Place) -> frozenset[str]:
    """Return the names of the checks that have to pass on a device in a place."""
    return REQUIRED[device] - (ENGINE_ONLY if place == "pod" else frozenset())


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class SmokeImage(_Table, frozen=True):
    """The image that was tested.

    Attributes:
        reference: the name by which it was started.
        digest: of its manifest or index, as in a registry; None for an image that was never in a
            registry or a layout.
        tag: its immutable tag, from its labels; empty if it has none.
        lock_sha256: SHA-256 of the versions.lock it was built from, from its labels.
    """

    reference: str
    digest: Digest | None
    tag: str = ""
    lock_sha256: Sha256 | None = None

    @classmethod
    def of(cls, reference: str, digest: str | None, labels: Mapping[str, str]) -> Self:
        """Return the image with these labels."""
        tag = labels.get("org.opencontainers.image.version", "")
        return cls(reference, digest, tag, labels.get(LABEL + "lock-sha256") or None)


class SmokeDevice(_Table, frozen=True):
    """The device that the image ran on.

    Attributes:
        kind: its type.
        name: product name, such as `NVIDIA L40S`.
        count: number of GPUs or processors.
        driver: version of the NVIDIA driver; empty on a CPU.
    """

    kind: DeviceType
    name: str
    count: int = 1
    driver: str = ""


class CheckResult(_Table, frozen=True):
    """One check and its result.

    Attributes:
        name: of the check.
        verdict: `inconclusive` also if it did not run.
        required: the whole cannot pass without it.
        reason: why it did not pass; empty if it did.
        seconds: duration.
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


class Record(_Table, frozen=True, omit_defaults=True):
    """A whole smoke test.

    Attributes:
        schema: version of this structure.
        verdict: of the whole, as `overall` returns it.
        reason: why it is not `pass`, in one line.
        image: that was tested.
        device: that it ran on.
        started: in UTC.
        seconds: duration of the whole.
        checks: every check, in the order in which they ran.
        container: state of the container at the end.
        place: where it ran.
    """

    schema: int
    verdict: Verdict
    reason: str
    image: SmokeImage
    device: SmokeDevice
    started: datetime.datetime
    seconds: Seconds
    checks: list[CheckResult]
    container: Measured = {}
    place: Place = "engine"

    @property
    def passed(self) -> bool:
        """Whether every required check ran and none failed."""
        return self.verdict is Verdict.PASS


def overall(checks: Iterable[CheckResult], required: Collection[str] = ()) -> tuple[Verdict, str]:
    """Return the verdict over all checks, and the reason.

    One failure fails the whole, whether its check is required or not. Otherwise each required
    check has to have passed; the whole is inconclusive if one has not, or if there is none.

    Args:
        checks: all that ran or could have run.
        required: names of checks that have to be among them.
    """
    found = list(checks)
    if failed := [check.name for check in found if check.verdict == Verdict.FAIL]:
        return Verdict.FAIL, f"failed: {', '.join(failed)}"
    needed = [check for check in found if check.required]
    undecided = [check.name for check in needed if check.verdict != Verdict.PASS]
    undecided += sorted(set(required) - {check.name for check in needed})
    if undecided:
        return Verdict.INCONCLUSIVE, f"required, but not decided: {', '.join(undecided)}"
    if not needed:
        return Verdict.INCONCLUSIVE, "no required check was made"
    return Verdict.PASS, ""


def save(record: Record, path: Path) -> None:
    """Write a record as JSON."""
    write_atomically(path, msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n")


def load(path: Path) -> Record:
    """Read a record, and require that its verdict agrees with its checks.

    A record without a check that is required now, such as an older one, is inconclusive.

    Raises:
        UsageError: it is missing, malformed, of another schema, or contradicts itself.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"{path}: {error.strerror or error}", "pass the record of a smoke test"
        ) from None
    return decode(data, str(path))


def decode(data: bytes, source: str) -> Record:
    """Decode a record as `load` does.

    Args:
        data: its JSON.
        source: where it is from, for messages.

    Raises:
        UsageError: it is malformed, of another schema, or contradicts itself.
    """
    hint = "run ./inv smoke again"
    try:
        schema = msgspec.json.decode(data, type=_Schema).schema
        if schema != SCHEMA:
            raise UsageError(f"{source}: expected schema {SCHEMA}, got {schema}", hint)
        record = msgspec.json.decode(data, type=Record)
    except msgspec.DecodeError as error:  # its subclass ValidationError names the place
        raise UsageError(f"{source}: {error}", hint) from None
    if record.verdict != overall(record.checks)[0]:
        raise UsageError(
            f"{source}: says {record.verdict}, its checks say {overall(record.checks)[0]}", hint
        )
    verdict, reason = overall(record.checks, required(record.device.kind, record.place))
    if verdict != record.verdict:
        return msgspec.structs.replace(record, verdict=verdict, reason=reason)
    return record


class _Schema(msgspec.Struct):
    schema: int
