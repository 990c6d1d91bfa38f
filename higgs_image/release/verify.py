"""`invoke verify`: what can be said of an image, check by check, in plain words.

Three verdicts: a check passes, fails, or was inconclusive (no key given, no record, no network).
Each says what it proves. Nothing here trusts the registry where a digest can be computed.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from higgs_image.attest import provenance, sbom, signature
from higgs_image.attest.rebuild import Comparison, compare
from higgs_image.build import image as build_image
from higgs_image.build.overrides import Overrides
from higgs_image.errors import HiggsError, RegistryConflictError, RegistryNotFoundError, UsageError
from higgs_image.labels import LABEL
from higgs_image.lockfile import Lock
from higgs_image.oci import layout
from higgs_image.oci.artifacts import Repository
from higgs_image.release import evidence, policy, promote, publish
from higgs_image.release import records as release_records
from higgs_image.release.journal import Journal
from higgs_image.release.policy import Known
from higgs_image.verdict import Verdict
from higgs_image.workspace import Workspace


@dataclass(frozen=True)
class Finding:
    """What one check came to.

    Attributes:
        check: its name.
        verdict: pass, fail or inconclusive.
        found: what was seen, in plain words.
    """

    check: str
    verdict: Verdict
    found: str


@dataclass(frozen=True)
class Verification:
    """What is proven of an image, and what is not.

    Attributes:
        image: by its digest.
        findings: in the order of the checks.
    """

    image: str
    findings: tuple[Finding, ...]

    @property
    def failed(self) -> list[Finding]:
        """Checks that the image did not pass."""
        return [x for x in self.findings if x.verdict is Verdict.FAIL]

    def text(self) -> str:
        """Return the findings as a person reads them."""

        def rows(verdict: Verdict) -> list[str]:
            return [f"  {x.check:<12} {x.found}" for x in self.findings if x.verdict is verdict]

        groups = [
            ("WRONG:", rows(Verdict.FAIL)),
            ("proven:", rows(Verdict.PASS)),
            ("not proven:", rows(Verdict.INCONCLUSIVE)),
            ("never proven by this:", [f"  {line}" for line in UNPROVABLE]),
        ]
        lines = [self.image]
        for title, found in groups:
            lines += [title, *found] if found else []
        return "\n".join(lines)


UNPROVABLE = (
    "that the pinned sources and packages are harmless: only that they are the pinned ones",
    "a smoke verdict that is not signed says what its writer says, who could write here",
)


@dataclass(frozen=True)
class Subject:
    """What is verified.

    Attributes:
        known: labels, push and smoke tests.
        files: kept with the record of the push: lock, bill of materials, provenance.
        lock: the lock of this checkout.
        trust: whose signature is believed; None: nobody was named.
        device_class: on which the smoke test must have passed.
    """

    repository: Repository
    history: Journal
    known: Known
    files: Mapping[str, bytes]
    lock: Lock
    trust: signature.Trust | None
    device_class: str


Check = Callable[[Subject], tuple[Verdict, str]]


def verify(
    repository: Repository,
    history: Journal,
    what: str,
    lock: Lock,
    trust: signature.Trust | None,
    device_class: str = "gpu",
    *,
    layers: bool = False,
) -> Verification:
    """Check an image against this checkout's lock and against what is attached to it.

    Args:
        repository: where it is.
        history: its journal.
        what: a tag or digest.
        lock: versions.lock of this checkout.
        trust: whose signature is believed; None: the signature is not checked.
        device_class: on which its smoke test must have passed.
        layers: also fetch the image and look into it.

    Raises:
        RegistryNotFoundError: there is no such image.
        HiggsError: the registry failed.
    """
    digest = what if what.startswith("sha256:") else repository.digest(what)
    if digest is None or repository.manifest(digest) is None:
        raise RegistryNotFoundError(
            f"{repository.reference(what)} was not found", "check the name, tag or digest"
        )
    known, entries = evidence.gather(repository, history, digest)
    recorded = [x for x in entries if x.record == known.push]
    files = repository.files(recorded[-1].tag) if recorded else {}
    subject = Subject(repository, history, known, files, lock, trust, device_class)
    findings = [Finding(name, *check(subject)) for name, check in CHECKS.items()]
    if layers:
        findings.append(Finding("layers", *_layers(subject)))
    return Verification(repository.reference(digest), tuple(findings))


def _content(subject: Subject) -> tuple[Verdict, str]:
    return Verdict.PASS, (
        f"manifest and configuration have the digest {subject.known.digest}; whoever pulls that "
        "digest gets these bytes or nothing"
    )


def _lock(subject: Subject) -> tuple[Verdict, str]:
    said = subject.known.labels.get(LABEL + "lock-sha256", "")
    if said == subject.lock.sha256:
        return Verdict.PASS, f"its label names this checkout's versions.lock, {said[:12]}"
    if not said:
        return Verdict.FAIL, "it has no label that names a lock: this project did not build it"
    push = subject.known.push
    commit = f": git checkout {push.commit}" if push and push.commit else ""
    return Verdict.FAIL, (
        f"its label names the lock {said[:12]}, this checkout's is "
        f"{subject.lock.sha256[:12]}{commit}"
    )


def _same_lock(subject: Subject) -> bool:
    return subject.known.labels.get(LABEL + "lock-sha256") == subject.lock.sha256


_ANOTHER = (Verdict.INCONCLUSIVE, "not compared: it was built from another lock than this one")


def _some(lines: Sequence[str], most: int = 5) -> str:
    """Join lines; of many only the first."""
    more = [f"and {len(lines) - most} more"] if len(lines) > most else []
    return "; ".join([*lines[:most], *more])


def _pins(subject: Subject) -> tuple[Verdict, str]:
    if not _same_lock(subject):
        return _ANOTHER
    labels, lock = subject.known.labels, subject.lock
    wanted = {
        "base image": ("org.opencontainers.image.base.digest", lock.base.digest),
        "wheel": (LABEL + "wheel-sha256", lock.wheel.sha256),
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


def _origin(subject: Subject) -> tuple[Verdict, str]:
    push = subject.known.push
    if push is None:
        return Verdict.INCONCLUSIVE, "no record says who pushed it, and from which commit"
    if not push.clean:
        return Verdict.FAIL, f"{push.words()}, by {push.by.words()}"
    if subject.known.tagged != subject.known.digest:
        return Verdict.FAIL, (
            f"{push.words()}; but that tag names {subject.known.tagged or 'nothing'} by now"
        )
    return Verdict.PASS, (
        f"the journal says: {push.words()}, by {push.by.words()} (as trustworthy as those who "
        "can write to this repository)"
    )


def _provenance(subject: Subject) -> tuple[Verdict, str]:
    if publish.PROVENANCE not in subject.files:
        return Verdict.INCONCLUSIVE, "no provenance is kept beside it"
    if not _same_lock(subject):
        return _ANOTHER
    document = json.loads(subject.files[publish.PROVENANCE])
    wrong = provenance.disagreements(document, subject.lock)
    if wrong:
        return Verdict.FAIL, _some(wrong)
    builder = document["runDetails"]["builder"]["id"]
    return Verdict.PASS, f"its provenance ({builder}) names the pins of the lock"


def _packages(subject: Subject) -> tuple[Verdict, str]:
    if publish.SBOM not in subject.files:
        return Verdict.INCONCLUSIVE, "no list of its packages is kept beside it"
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


def _signature(subject: Subject) -> tuple[Verdict, str]:
    if subject.trust is None:
        there = f"sha256-{subject.known.digest[7:]}.sig" in subject.repository.tags()
        how = "name its key (--key) or the workflow (--identity)"
        return Verdict.INCONCLUSIVE, (
            f"it is signed, by whom was not checked: {how}" if there else "it is not signed"
        )
    digest, name = subject.known.digest, subject.repository.name
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
        f"{subject.trust.words()}{more}"
    )


def _smoke(subject: Subject) -> tuple[Verdict, str]:
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


def _moving(subject: Subject) -> tuple[Verdict, str]:
    names = [x for x in (promote.MOVING, f"{promote.MOVING}-zstd")
             if subject.repository.digest(x) == subject.known.digest]  # fmt: skip
    moves = [x for x in subject.history.of(subject.known.digest)
             if isinstance(x.record, release_records.Promote | release_records.Rollback)
             and x.outcome == release_records.DONE]  # fmt: skip
    if not names:
        was = "it was promoted once" if moves else "it was never promoted"
        return Verdict.INCONCLUSIVE, f"no moving tag names it now; {was}"
    if not moves:
        return Verdict.FAIL, f"{', '.join(names)} names it, which no record of the journal did"
    record = moves[-1].record
    forced = getattr(record, "forced", [])
    if forced:
        return Verdict.FAIL, f"{', '.join(names)} names it by force: {'; '.join(forced)}"
    return Verdict.PASS, f"{', '.join(names)} names it since {record.at:%Y-%m-%d %H:%M} UTC"


def _layers(subject: Subject) -> tuple[Verdict, str]:
    """Fetch the image and compare its list of packages with one made anew from its layers."""
    kept = subject.files.get(publish.SBOM)
    if kept is None:
        return Verdict.INCONCLUSIVE, "there is no list to compare the layers with"
    digest = subject.known.digest
    with tempfile.TemporaryDirectory(prefix="higgs-verify-") as folder:
        root = Path(folder)
        try:
            subject.repository.pull(digest, root, "image")
        except RegistryConflictError as error:
            return Verdict.FAIL, error.message
        image = layout.read(root, digest)
        made = sbom.make(root, image, image.labels.get("org.opencontainers.image.title", "image"))
    if made == kept:
        return Verdict.PASS, "every layer was fetched; they hold what its list says"
    wrong = sbom.changes(sbom.versions(kept), sbom.versions(made)) or ["other details"]
    return Verdict.FAIL, f"its layers do not hold what its list says: {_some(wrong)}"


CHECKS: dict[str, Check] = {
    "content": _content,
    "lock": _lock,
    "pins": _pins,
    "origin": _origin,
    "provenance": _provenance,
    "packages": _packages,
    "signature": _signature,
    "smoke": _smoke,
    "moving tag": _moving,
}


def rebuild(
    repository: Repository, done: Verification, workspace: Workspace, overrides: Overrides
) -> Comparison:
    """Build this checkout's lock without a cache and compare it with the image.

    Raises:
        UsageError: the image was built from another lock: its digest is another for certain.
        HiggsError: the build or the registry failed.
    """
    for finding in done.failed:
        if finding.check == "lock":
            raise UsageError(
                f"nothing to compare with a build of this checkout: {finding.found}",
                "--rebuild belongs into a checkout of the commit that the image was built from",
            )
    digest = done.image.rpartition("@")[2]
    manifest = repository.manifest(digest) or {}
    zstd = any(str(x["mediaType"]).endswith("zstd") for x in manifest["layers"])
    built = build_image.build(workspace, "zstd" if zstd else "gzip", overrides, no_cache=True)
    return compare(repository, digest, built)
