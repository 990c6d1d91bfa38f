"""What an image needs before a floating tag may name it: a pure function of what is known of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from higgs_image.labels import LABEL
from higgs_image.release.records import Push
from higgs_image.smoke.record import ENGINE_ONLY, Record
from higgs_image.verdict import Verdict

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
        forcible: --force, with a reason, overrides it.
        rehearsable: a rehearsal on loopback allows it.
    """

    reason: str
    remedy: str
    forcible: bool = True
    rehearsable: bool = False


@dataclass(frozen=True)
class Decision:
    """What is decided on an image; nothing refused means that it may be promoted.

    Attributes:
        refused: what stands against it.
        forced: what was overridden by force.
        rehearsed: what a rehearsal allows.
    """

    refused: tuple[Refusal, ...]
    forced: tuple[Refusal, ...]
    rehearsed: tuple[Refusal, ...]


def decide(
    known: Known,
    device_class: str,
    *,
    force: bool = False,
    rehearsal: bool = False,
    also: Sequence[Refusal] = (),
) -> Decision:
    """Decide whether an image may be promoted.

    Args:
        known: what is known of the image.
        device_class: type of device on which a smoke test must have passed: gpu or cpu.
        force: override what can be overridden.
        rehearsal: allow what a rehearsal may have.
        also: what else stands against it.
    """
    against = [*refusals(known, device_class), *also]
    rehearsed = tuple(x for x in against if rehearsal and x.rehearsable)
    forced = tuple(x for x in against if x not in rehearsed and force and x.forcible)
    refused = tuple(x for x in against if x not in rehearsed and x not in forced)
    return Decision(refused, forced, rehearsed)


def refusals(known: Known, device_class: str) -> list[Refusal]:
    """Return every reason against a promotion; none means that the image may be promoted.

    Args:
        known: what is known of the image.
        device_class: type of device on which a smoke test must have passed: gpu or cpu.
    """
    return [*_origin(known), *_overrides(known), *_smoke(known, device_class)]


def _origin(known: Known) -> Iterator[Refusal]:
    source = known.labels.get(FORK) or known.labels.get(SOURCE, "")
    if source.startswith("file://"):
        yield Refusal(
            "it is built from a fake fork, not the speech server: its source is a local folder",
            "build the real image; a fake fork can be promoted on loopback, with --rehearsal",
            forcible=known.local,
            rehearsable=True,
        )
    push = known.push
    again = "push it with ./inv build --push from a clean checkout"
    if push is None:
        yield Refusal("no record says who built it, and from what", again)
        return
    if push.commit is None:
        yield Refusal("it was built outside git, so it cannot be traced to a commit", again)
    elif not push.clean:
        yield Refusal(
            f"it was built from a work tree that differed from its commit {push.commit[:7]}",
            "commit or remove the changes, then build and push again",
        )
    if known.tagged != known.digest:
        yield Refusal(
            f"its immutable tag {push.tag} now points to {known.tagged or 'nothing'}",
            "check who moved it (./inv history), then point it back at this digest",
        )
    if known.labels.get(LOCK) != push.lock_sha256:
        yield Refusal(
            f"its label names the lock {known.labels.get(LOCK, 'none')[:7]}, the record of "
            f"its push {push.lock_sha256[:7]}",
            again,
        )


def _overrides(known: Known) -> Iterator[Refusal]:
    remedy = "build it without overrides, on a machine that reaches what versions.lock names"
    names = known.labels.get(LABEL + "overrides", "").split()
    for name in names:
        words = _OF_THE_MACHINE.get(name) or (
            f"the patch {name.removeprefix('without-')} was left out"
            if name.startswith("without-")
            else f"it was built with the override {name}"
        )
        yield Refusal(words, remedy, rehearsable=name in _OF_THE_MACHINE)
    if LABEL + "extra-ca-sha256" in known.labels:
        words = "it was built behind a proxy that the build was told to trust"
        yield Refusal(words, remedy, rehearsable=True)
    elif not names and known.push and "-dev-" in known.push.tag:
        yield Refusal(f"its tag {known.push.tag} marks it as overridden", remedy)


def _smoke(known: Known, device_class: str) -> Iterator[Refusal]:
    records = [x for x in known.smokes if x.device.kind == device_class]
    how = f"on a machine with one: ./inv smoke-pushed {known.digest} --device-class {device_class}"
    if not records:
        others = sorted({x.device.kind for x in known.smokes})
        more = f", only on {', '.join(others)}" if others else ""
        yield Refusal(f"no smoke test on a {device_class} is recorded for it{more}", how)
    elif not (last := records[-1]).passed:
        yield Refusal(
            f"its last smoke test on a {device_class} ended with {last.verdict}: {last.reason}", how
        )
    elif last.place == "pod":
        yield from _engine_checks(known)
    if device_class != "gpu":
        yield Refusal(
            f"a smoke test on a {device_class} says nothing about kernels and sound",
            f"test it on a GPU: ./inv smoke-pushed {known.digest} --device-class gpu",
            rehearsable=True,
        )


def _engine_checks(known: Known) -> Iterator[Refusal]:
    """Refuse a test in a pod alone: no engine has shown yet what a pod cannot."""
    here = [x for x in known.smokes if x.place == "engine"]
    shown = {x.name for x in here[-1].checks if x.verdict is Verdict.PASS} if here else set()
    if missing := sorted(ENGINE_ONLY - shown):
        yield Refusal(
            "its smoke test on a GPU ran in a pod, and no container on an engine has passed "
            f"{', '.join(missing)}, which a pod cannot show",
            f"test it with Docker, a CPU is enough: ./inv smoke-pushed {known.digest} "
            "--device-class cpu",
        )
