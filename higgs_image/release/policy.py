"""What an image needs before a moving tag may name it. A pure function of what is known of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from higgs_image.labels import LABEL
from higgs_image.release.records import Push
from higgs_image.smoke.record import Record

FORK = LABEL + "fork"
SOURCE = "org.opencontainers.image.source"

LOCK = LABEL + "lock-sha256"

_OF_THE_MACHINE = {"base-image": "its base image is not the locked one"}
"""Overrides that a machine without access to the locked base needs; a rehearsal allows them."""


@dataclass(frozen=True)
class Known:
    """Everything that is known of an image.

    Attributes:
        digest: of its manifest.
        labels: of its configuration.
        push: the record of its push; None if there is none.
        tagged: digest that its immutable tag names now; None if it names nothing.
        smokes: the smoke records for this digest, oldest first.
        local: the repository is on loopback.
    """

    digest: str
    labels: Mapping[str, str]
    push: Push | None
    smokes: Sequence[Record]
    local: bool
    tagged: str | None


@dataclass(frozen=True)
class Refusal:
    """Why an image is not promoted.

    Attributes:
        reason: in plain words, with the value.
        remedy: what to do.
        forcible: --force, with a reason, goes over it.
        rehearsable: a rehearsal on loopback goes over it.
    """

    reason: str
    remedy: str
    forcible: bool = True
    rehearsable: bool = field(default=False)


def refusals(known: Known, device_class: str) -> list[Refusal]:
    """Return every reason against a promotion; none means that the image may be promoted.

    Args:
        known: what is known of the image.
        device_class: on which a smoke test must have passed: gpu or cpu.
    """
    found = [*_origin(known), *_overrides(known), *_smoke(known, device_class)]
    if device_class != "gpu":
        found.append(
            Refusal(
                f"a smoke test on a {device_class} decides nothing about kernels and sound",
                f"test it on a GPU: ./inv record {known.digest} --device-class gpu",
                rehearsable=True,
            )
        )
    return found


def _origin(known: Known) -> list[Refusal]:
    found = []
    source = known.labels.get(FORK) or known.labels.get(SOURCE, "")
    if source.startswith("file://"):
        found.append(
            Refusal(
                "it is a stand-in, not the speech server: its source is a folder of one machine",
                "build the real image; a stand-in can be promoted on loopback, with --rehearsal",
                forcible=known.local,
                rehearsable=True,
            )
        )
    push = known.push
    again = "push it with invoke build --push from a clean checkout"
    if push is None:
        return [*found, Refusal("no record says who built it, and from what", again)]
    if push.commit is None:
        found.append(Refusal("it was built outside of git: nobody can say from what", again))
    elif not push.clean:
        found.append(
            Refusal(
                f"it was built from a work tree that differed from its commit {push.commit[:7]}",
                "commit or remove the changes, then build and push again",
            )
        )
    if known.tagged != known.digest:
        found.append(
            Refusal(
                f"its immutable tag {push.tag} names {known.tagged or 'nothing'} by now",
                "find out who moved it (invoke history); let it name this digest again",
            )
        )
    if known.labels.get(LOCK) != push.lock_sha256:
        found.append(
            Refusal(
                f"its label names the lock {known.labels.get(LOCK, 'none')[:7]}, the record of "
                f"its push {push.lock_sha256[:7]}",
                again,
            )
        )
    return found


def _overrides(known: Known) -> list[Refusal]:
    remedy = "build it without overrides, on a machine that reaches what versions.lock names"
    found = []
    for name in known.labels.get(LABEL + "overrides", "").split():
        words = _OF_THE_MACHINE.get(name) or (
            f"the patch {name.removeprefix('without-')} was left out"
            if name.startswith("without-")
            else f"it was built with the override {name}"
        )
        found.append(Refusal(words, remedy, rehearsable=name in _OF_THE_MACHINE))
    if LABEL + "extra-ca-sha256" in known.labels:
        words = "it was built behind a proxy that the build was told to trust"
        found.append(Refusal(words, remedy, rehearsable=True))
    if not found and known.push and "-dev-" in known.push.tag:
        found.append(Refusal(f"its tag {known.push.tag} marks it as overridden", remedy))
    return found


def _smoke(known: Known, device_class: str) -> list[Refusal]:
    records = [x for x in known.smokes if x.device.kind == device_class]
    how = f"on a machine with one: ./inv record {known.digest} --device-class {device_class}"
    if not records:
        others = sorted({x.device.kind for x in known.smokes})
        more = f", only on {', '.join(others)}" if others else ""
        return [Refusal(f"no smoke test on a {device_class} is recorded for it{more}", how)]
    last = records[-1]
    if not last.passed:
        return [
            Refusal(
                f"its last smoke test on a {device_class} ended with {last.verdict}: {last.reason}",
                how,
            )
        ]
    return []
