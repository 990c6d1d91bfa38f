"""The checks of `./inv verify`: each says what it proves of an image.

Nothing here trusts the registry where a digest can be computed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from higgs_image import versions
from higgs_image.attest import provenance, sbom, signature
from higgs_image.errors import HiggsError, RegistryConflictError
from higgs_image.labels import LABEL
from higgs_image.lockfile import Lock
from higgs_image.oci import layout
from higgs_image.release import policy, publish
from higgs_image.release.journal import Journal
from higgs_image.release.move_plan import floating_tags
from higgs_image.release.policy import Known
from higgs_image.release.records import DONE, Promote, Rollback
from higgs_image.verdict import Verdict
from higgs_image.workspace import Workspace


@dataclass(frozen=True)
class VerifiedImage:
    """What the checks look at.

    Attributes:
        known: labels, push and smoke tests.
        files: kept with the record of the push: lock, SBOM, provenance.
        lock: the lock of this checkout.
        trust: whose signature is trusted; None: no identity was given.
        device_class: type of device on which the smoke test must have passed.
        workspace: receives the image while its layers are read.
    """

    history: Journal
    known: Known
    files: Mapping[str, bytes]
    lock: Lock
    trust: signature.Trust | None
    device_class: str
    workspace: Workspace


VerificationCheck = Callable[[VerifiedImage], tuple[Verdict, str]]


def _content(subject: VerifiedImage) -> tuple[Verdict, str]:
    return Verdict.PASS, (
        f"manifest and configuration have the digest {subject.known.digest}; a pull of that "
        "digest gives these bytes or fails"
    )


def _lock(subject: VerifiedImage) -> tuple[Verdict, str]:
    locked = subject.known.labels.get(LABEL + "lock-sha256", "")
    if locked == subject.lock.sha256:
        return Verdict.PASS, f"its label names this checkout's versions.lock, {locked[:12]}"
    if not locked:
        return Verdict.FAIL, "it has no label that names a lock: this project did not build it"
    push = subject.known.push
    commit = f": git checkout {push.commit}" if push and push.commit else ""
    return Verdict.FAIL, (
        f"its label names the lock {locked[:12]}, this checkout's is "
        f"{subject.lock.sha256[:12]}{commit}"
    )


def _same_lock(subject: VerifiedImage) -> bool:
    return subject.known.labels.get(LABEL + "lock-sha256") == subject.lock.sha256


_ANOTHER = (Verdict.INCONCLUSIVE, "not compared: it was built from another lock than this one")


def _some(lines: Sequence[str]) -> str:
    """Join lines; of many only the first five."""
    more = [f"and {len(lines) - 5} more"] if len(lines) > 5 else []
    return "; ".join([*lines[:5], *more])


def _pins(subject: VerifiedImage) -> tuple[Verdict, str]:
    if not _same_lock(subject):
        return _ANOTHER
    labels, lock = subject.known.labels, subject.lock
    wanted = {
        "base image": ("org.opencontainers.image.base.digest", lock.base.digest),
        "wheel": (LABEL + "wheel-sha256", lock.wheel.sha256),
        "kernels": (LABEL + "kernels-sha256", lock.kernels.sha256 if lock.kernels else None),
        "requirements": (LABEL + "requirements-sha256", lock.python.requirements_sha256),
        "submodule": (LABEL + "submodule", f"{lock.submodule.url} {lock.submodule.commit}"),
    }
    wrong = [
        f"{name} is {labels.get(label)}, locked is {value}"
        for name, (label, value) in wanted.items()
        if labels.get(label) != value
    ]
    if labels.get(policy.FORK, "").split()[-1:] != [lock.fork.commit]:
        wrong.append(f"fork is {labels.get(policy.FORK)}, locked is {lock.fork.commit}")
    locked = lock.patches.sha256 if lock.patches else {}
    patches = {f"{name}@{sha256[:7]}" for name, sha256 in locked.items()}
    if differing := patches ^ set(labels.get(LABEL + "patches", "").split()):
        wrong.append(f"patches differ: {', '.join(sorted(differing))}")
    overrides = [x.reason for x in policy.refusals(subject.known, "gpu")
                 if x.rehearsable]  # fmt: skip
    if wrong or overrides:
        return Verdict.FAIL, "; ".join([*wrong, *overrides])
    return Verdict.PASS, "its labels name the pins of the lock, and no override"


def _origin(subject: VerifiedImage) -> tuple[Verdict, str]:
    push = subject.known.push
    if push is None:
        return Verdict.INCONCLUSIVE, "no record says who pushed it, and from which commit"
    if not push.clean:
        return Verdict.FAIL, f"{push.describe()}, by {push.by.describe()}"
    if subject.known.tagged != subject.known.digest:
        return Verdict.FAIL, (
            f"{push.describe()}; but that tag now points to {subject.known.tagged or 'nothing'}"
        )
    return Verdict.PASS, (
        f"the journal says: {push.describe()}, by {push.by.describe()} (as trustworthy as "
        "those who can write to this repository)"
    )


def _provenance(subject: VerifiedImage) -> tuple[Verdict, str]:
    if publish.PROVENANCE not in subject.files:
        return Verdict.INCONCLUSIVE, "it has no provenance in the registry"
    if not _same_lock(subject):
        return _ANOTHER
    document = json.loads(subject.files[publish.PROVENANCE])
    wrong = provenance.disagreements(document, subject.lock)
    if wrong:
        return Verdict.FAIL, _some(wrong)
    builder = document["runDetails"]["builder"]["id"]
    return Verdict.PASS, f"its provenance ({builder}) names the pins of the lock"


def _packages(subject: VerifiedImage) -> tuple[Verdict, str]:
    if publish.SBOM not in subject.files:
        return Verdict.INCONCLUSIVE, "it has no SBOM in the registry"
    if not _same_lock(subject):
        return _ANOTHER
    found = sbom.versions(subject.files[publish.SBOM])
    wrong = provenance.package_disagreements(found, subject.lock)
    if wrong:
        return Verdict.FAIL, _some(wrong)
    python = sum(name.startswith("pypi ") for name in found)
    debian = sum(name.startswith("deb ") for name in found)
    return Verdict.PASS, (
        f"its list has the {python} Python packages of the lock in the locked versions, and "
        f"{debian} Debian packages (their versions are listed, not locked)"
    )


def _signature(subject: VerifiedImage) -> tuple[Verdict, str]:
    if subject.trust is None:
        signed = f"sha256-{subject.known.digest[7:]}.sig" in subject.history.repository.tags()
        how = "name its key (--key) or the workflow (--identity)"
        return Verdict.INCONCLUSIVE, (
            f"it is signed; the signer was not checked: {how}" if signed else "it is not signed"
        )
    digest, name = subject.known.digest, subject.history.repository.name
    try:
        signature.verify(name, digest, subject.trust)
        (listed,) = signature.attested(name, digest, subject.trust, "cyclonedx")[-1:]
        (origin,) = signature.attested(name, digest, subject.trust, provenance.PREDICATE_TYPE)[-1:]
    except HiggsError as error:
        if error.transient:
            raise
        return Verdict.FAIL, error.message
    wrong = [
        title
        for title, kind, signed in (
            ("list of packages", publish.SBOM, listed),
            ("provenance", publish.PROVENANCE, origin),
        )
        if kind in subject.files and json.loads(subject.files[kind]) != signed
    ]
    if wrong:
        return Verdict.FAIL, f"what was signed differs from what is kept: {', '.join(wrong)}"
    more = "" if subject.trust.key is None else "; no public log shows when"
    return Verdict.PASS, (
        f"this digest, its list of packages and its provenance were signed with "
        f"{subject.trust.describe()}{more}"
    )


def _smoke(subject: VerifiedImage) -> tuple[Verdict, str]:
    kind = subject.device_class
    records = [x for x in subject.known.smokes if x.device.kind == kind]
    if not records:
        return Verdict.INCONCLUSIVE, f"no smoke test on a {kind} is recorded for this digest"
    last = records[-1]
    text = f"smoke test of this digest on {last.device.name}: {last.verdict}"
    if last.verdict == "pass":
        undecided = [x.name for x in last.checks if x.verdict != "pass"]
        more = f"; it did not decide on {', '.join(undecided)}" if undecided else ""
        return Verdict.PASS, f"{text}, {len(last.checks) - len(undecided)} checks{more}"
    verdict = Verdict.FAIL if last.verdict == "fail" else Verdict.INCONCLUSIVE
    return verdict, f"{text}: {last.reason}"


def _floating(subject: VerifiedImage) -> tuple[Verdict, str]:
    names = [x for x in floating_tags(subject.history.tags())
             if subject.history.repository.digest(x) == subject.known.digest]  # fmt: skip
    moves = [x for x in subject.history.of(subject.known.digest)
             if isinstance(x.record, Promote | Rollback)
             and x.outcome == DONE]  # fmt: skip
    if not names:
        was = "it was promoted once" if moves else "it was never promoted"
        return Verdict.INCONCLUSIVE, f"no floating tag names it now; {was}"
    if not moves:
        return Verdict.FAIL, f"{', '.join(names)} names it, but no record of the journal says so"
    record = moves[-1].record
    forced = getattr(record, "forced", [])
    if forced:
        return Verdict.FAIL, f"{', '.join(names)} names it by force: {'; '.join(forced)}"
    return Verdict.PASS, f"{', '.join(names)} names it since {record.at:%Y-%m-%d %H:%M} UTC"


def check_layers(subject: VerifiedImage) -> tuple[Verdict, str]:
    """Fetch the image and compare its list of packages with one generated from its layers."""
    kept = subject.files.get(publish.SBOM)
    if kept is None:
        return Verdict.INCONCLUSIVE, "there is no list to compare the layers with"
    digest = subject.known.digest
    with subject.workspace.scratch("verify") as root:
        try:
            subject.history.repository.pull(digest, root, "image")
        except RegistryConflictError as error:
            return Verdict.FAIL, error.message
        image = layout.read(root, digest)
        made = sbom.make(root, image, image.labels.get("org.opencontainers.image.title", "image"))
    if made == kept:
        return Verdict.PASS, "every layer was fetched; they hold what its list says"
    wrong = versions.changes(sbom.versions(kept), sbom.versions(made)) or ["other details"]
    return Verdict.FAIL, f"its layers do not hold what its list says: {_some(wrong)}"


CHECKS: dict[str, VerificationCheck] = {
    "content": _content,
    "lock": _lock,
    "pins": _pins,
    "origin": _origin,
    "provenance": _provenance,
    "packages": _packages,
    "signature": _signature,
    "smoke": _smoke,
    "floating tag": _floating,
}
