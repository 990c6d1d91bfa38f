"""`./inv verify`: what is proven of an image, check by check, and what is not.

Three verdicts: a check passes, fails, or is inconclusive (no key given, no record, no network).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from higgs_image.attest import signature
from higgs_image.attest.rebuild import Comparison, compare
from higgs_image.build import image as build_image
from higgs_image.build.overrides import Overrides
from higgs_image.errors import UsageError
from higgs_image.labels import LABEL, ONLY_GPUS, VARIANT
from higgs_image.lockfile import Lock
from higgs_image.oci.artifacts import is_zstd
from higgs_image.release import evidence
from higgs_image.release.journal import Journal
from higgs_image.release.verify_checks import CHECKS, VerifiedImage, check_layers
from higgs_image.verdict import Verdict
from higgs_image.workspace import Workspace


@dataclass(frozen=True)
class VerificationFinding:
    """The result of one check.

    Attributes:
        check: its name.
        verdict: pass, fail or inconclusive.
        found: what was found, as text.
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
    findings: tuple[VerificationFinding, ...]

    @property
    def failed(self) -> list[VerificationFinding]:
        """Checks that the image did not pass."""
        return [x for x in self.findings if x.verdict is Verdict.FAIL]

    def text(self) -> str:
        """Return the findings as text."""

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


def verify(
    history: Journal,
    what: str,
    workspace: Workspace,
    lock: Lock,
    trust: signature.Trust | None,
    device_class: str = "gpu",
    *,
    layers: bool = False,
) -> Verification:
    """Check an image against this checkout's lock and against what is attached to it.

    Args:
        history: the journal of its repository.
        what: a tag or digest.
        workspace: receives the image while its layers are read.
        lock: versions.lock of this checkout.
        trust: whose signature is trusted; None: the signature is not checked.
        device_class: on which its smoke test must have passed.
        layers: also fetch the image and look into it.

    Raises:
        RegistryNotFoundError: there is no such image.
        HiggsError: the registry failed.
    """
    repository = history.repository
    digest, _ = repository.find(what)
    known, entries = evidence.gather(history, digest)
    recorded = [x for x in entries if x.record == known.push]
    files = repository.files(recorded[-1].tag) if recorded else {}
    if known.labels.get(LABEL + "lock-sha256") == lock.sha256:
        lock = lock.for_variant(known.labels.get(VARIANT, ""))
    subject = VerifiedImage(history, known, files, lock, trust, device_class, workspace)
    findings = [VerificationFinding(name, *check(subject)) for name, check in CHECKS.items()]
    if layers:
        findings.append(VerificationFinding("layers", *check_layers(subject)))
    return Verification(repository.reference(digest), tuple(findings))


def rebuild(
    history: Journal, done: Verification, workspace: Workspace, overrides: Overrides
) -> Comparison:
    """Build this checkout's lock without a cache and compare it with the image.

    Raises:
        UsageError: the image was built from another lock, so its digest must differ.
        HiggsError: the build or the registry failed.
    """
    for finding in done.failed:
        if finding.check == "lock":
            raise UsageError(
                f"nothing to compare with a build of this checkout: {finding.found}",
                "use --rebuild in a checkout of the commit that the image was built from",
            )
    digest, manifest = history.repository.find(done.image.rpartition("@")[2])
    compression = "zstd" if is_zstd(manifest) else "gzip"
    labels = history.repository.labels(digest)
    workspace = replace(workspace, variant=labels.get(VARIANT, ""))
    overrides = replace(overrides, gpus=tuple(labels.get(ONLY_GPUS, "").split()))
    built = build_image.build(workspace, compression, overrides, no_cache=True)
    return compare(history.repository, digest, built, workspace)
