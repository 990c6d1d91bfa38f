"""Signatures and signed attestations by cosign, attached to an image by its digest.

In GitHub Actions the signature is keyless: the workflow's own identity, certified by Sigstore and
written to its public log. Elsewhere it is made with a key (COSIGN_KEY, its password in
COSIGN_PASSWORD) and goes to no log. cosign stores both as tags `sha256-<digest>.sig` and `.att`.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from higgs_image import process, retry
from higgs_image.errors import HiggsError, SigningError, UsageError
from higgs_image.explain import Rule
from higgs_image.explain import explain as first_match
from higgs_image.files import memory_file, sha256_bytes
from higgs_image.oci import certificates, credentials, skopeo
from higgs_image.oci import reference as oci_reference

SECONDS = 180.0
"""How long one call of cosign may take."""

ISSUER = "https://token.actions.githubusercontent.com"
"""The issuer of a workflow's identity."""


@dataclass(frozen=True)
class Signer:
    """How to sign.

    Attributes:
        key: of cosign; None: keyless, by the workflow's identity.
    """

    key: Path | None

    @property
    def flags(self) -> list[str]:
        """Flags of cosign."""
        if self.key is None:
            return ["--yes"]
        return ["--yes", "--key", str(self.key), "--tlog-upload=false"]

    def describe(self) -> str:
        """Return a human-readable description."""
        return "the workflow's identity" if self.key is None else "a key"


@dataclass(frozen=True)
class Trust:
    """Whose signature is trusted.

    Attributes:
        key: public key of cosign.
        identity: regular expression for the workflow's identity, for keyless signatures.
    """

    key: Path | None = None
    identity: str = ""

    @property
    def flags(self) -> list[str]:
        """Flags of cosign."""
        if self.key is not None:
            return ["--key", str(self.key), "--insecure-ignore-tlog=true"]
        return ["--certificate-identity-regexp", self.identity, "--certificate-oidc-issuer", ISSUER]

    def describe(self) -> str:
        """Return a human-readable description."""
        if self.key is not None:
            return f"the key {self.key.name} (SHA-256 {sha256_bytes(self.key.read_bytes())[:12]})"
        return f"a workflow whose identity matches {self.identity}"


def signer() -> Signer | None:
    """Return how this machine can sign; None if it cannot.

    Raises:
        UsageError: COSIGN_KEY names no file.
    """
    if key := os.environ.get("COSIGN_KEY"):
        if not Path(key).is_file():
            raise UsageError(
                f"COSIGN_KEY={key}: no such file", "make one: cosign generate-key-pair"
            )
        return Signer(Path(key).resolve())
    if os.environ.get("ACTIONS_ID_TOKEN_REQUEST_URL"):
        return Signer(None)
    return None


def sign(repository: str, digest: str, how: Signer, attestations: Mapping[str, bytes]) -> None:
    """Sign an image and attach signed statements about it; existing ones are replaced.

    Args:
        repository: host and path.
        digest: of the image.
        how: with a key, or keyless.
        attestations: predicate by its type, as cosign names it or a URI.

    Raises:
        SigningError: cosign refused.
        HiggsError: the registry failed.
    """
    with _cosign(repository, digest) as cosign:
        if not _is_signed(cosign, how):
            cosign("sign", *how.flags)
        for kind, predicate in attestations.items():
            with memory_file(predicate) as fd:
                cosign("attest", "--replace", *how.flags, "--type", kind,
                       "--predicate", f"/proc/self/fd/{fd}", fd=fd)  # fmt: skip


def _is_signed(cosign: Cosign, how: Signer) -> bool:
    """Tell whether this signer signed it before; a keyless one makes a new key each time."""
    public = how.key.with_suffix(".pub") if how.key else None
    if public and public.is_file():
        with contextlib.suppress(SigningError):
            cosign("verify", *Trust(public).flags)
            return True
    return False


def verify(repository: str, digest: str, trust: Trust) -> None:
    """Check that somebody who is trusted signed this digest.

    Raises:
        SigningError: there is no such signature.
        HiggsError: the registry failed.
    """
    with _cosign(repository, digest) as cosign:
        cosign("verify", *trust.flags)


def attested(repository: str, digest: str, trust: Trust, kind: str) -> list[Any]:
    """Return the predicates of one type that somebody who is trusted signed.

    Raises:
        SigningError: there is none.
        HiggsError: the registry failed.
    """
    with _cosign(repository, digest) as cosign:
        out = cosign("verify-attestation", *trust.flags, "--type", kind)
    return [_predicate(line, digest) for line in out.splitlines() if line.startswith("{")]


def _predicate(line: str, digest: str) -> Any:
    import base64

    statement = json.loads(base64.b64decode(json.loads(line)["payload"]))
    subjects = {f"sha256:{x['digest']['sha256']}" for x in statement["subject"]}
    if subjects != {digest}:
        raise SigningError(f"an attestation of {digest} is about {subjects}", "it proves nothing")
    return statement["predicate"]


_FAILED = "cosign {verb} of {reference} failed: {last}"
_KEY_HINT = "with a key: COSIGN_KEY and COSIGN_PASSWORD; in Actions: permissions: id-token: write"

RULES = (
    Rule(r"no signatures found|no matching|none of the expected identities",
         SigningError,
         "{reference} has no signature or attestation that is trusted ({verb}): {last}",
         "name the key it was signed with (--key), or the workflow's identity (--identity)"),
    Rule(r"decrypt|reading key|loading (the )?(private|public) key|invalid pem|unsupported pem"
         r"|password|no such file|unknown flag|invalid argument|unknown command|predicate"
         r"|identity token|invalid signature|id[-_ ]token|no provider|getting signer|unmarshal",
         SigningError, _FAILED, _KEY_HINT),
)  # fmt: skip
"""What cosign says of keys and signatures; the rest is the registry's, see `skopeo.RULES`."""


def explain(output: str, verb: str, reference: str) -> HiggsError:
    """Turn cosign's output into an error; what is not known to be final may be tried again."""
    lines = [x for x in output.strip().splitlines() if x.lower().startswith(("error", "main.go"))]
    last = (lines or output.strip().splitlines() or ["no output"])[0].removeprefix("Error: ")
    host = reference.split("/")[0]
    if "x509" in last:  # cosign says "getting signer" of the registry's certificate, too
        return skopeo.explain(last, reference)
    found = first_match(RULES, last, verb=verb, reference=reference, last=last, host=host)
    return found or skopeo.explain(last, reference)


class Cosign(Protocol):
    """Runs cosign on one image, with the credentials for it; returns its output."""

    def __call__(self, verb: str, *flags: str, fd: int | None = None) -> str:
        """Run it; it inherits `fd`, too."""


@contextlib.contextmanager
def _cosign(repository: str, digest: str) -> Iterator[Cosign]:
    """Yield cosign, which knows who we are and whom to trust.

    Credentials are a link to a memory file, or docker's own configuration.
    """
    host, reference = repository.split("/")[0], f"{repository}@{digest}"
    trusted: list[str] = []
    if oci_reference.is_loopback(host):
        trusted = ["--allow-http-registry", "--allow-insecure-registry"]
    elif authority := certificates.authority(host):
        trusted = ["--registry-cacert", str(authority)]
    with (
        credentials.credentials(repository) as auth,
        tempfile.TemporaryDirectory(prefix="higgs-cosign-") as folder,
    ):
        env = {"COSIGN_PASSWORD": os.environ.get("COSIGN_PASSWORD", "")}
        if auth.fds:
            (Path(folder) / "config.json").symlink_to(f"/proc/self/fd/{auth.fds[0]}")
            env["DOCKER_CONFIG"] = folder

        def run(verb: str, *flags: str, fd: int | None = None) -> str:
            command = ["cosign", verb, *flags, *trusted, reference]
            fds = [*auth.fds, *([] if fd is None else [fd])]

            def once() -> str:
                done = process.run(command, env=env, pass_fds=fds, timeout=SECONDS)
                if done.code != 0:
                    raise explain(done.err, verb, reference)
                return done.out

            return retry.attempts(f"cosign {verb}")(once)

        yield run
