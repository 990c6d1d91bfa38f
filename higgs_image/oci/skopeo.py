"""Images to and from registries by skopeo, which keeps their digests; each push is read back."""

from __future__ import annotations

import logging
import re
import time
from dataclasses import dataclass

from higgs_image import process, retry
from higgs_image.errors import (
    DiskFullError,
    HiggsError,
    RegistryAuthError,
    RegistryConflictError,
    RegistryError,
    RegistryNotFoundError,
    RegistryUnavailableError,
)
from higgs_image.explain import Rule
from higgs_image.explain import explain as first_match
from higgs_image.files import sha256_bytes
from higgs_image.oci import certificates, layout, read_back, registry
from higgs_image.oci.credentials import Credentials, credentials
from higgs_image.oci.layout import BuiltImage
from higgs_image.oci.registry_errors import login_hint

log = logging.getLogger(__name__)

SLOWEST = 1e6
"""Bytes per second: an image that comes slower than that is considered stuck."""

RATE_LIMITED = 20
"""How often longer than after other failures to wait when a registry limits requests: skopeo does
not say how long the registry asked to wait."""


@dataclass(frozen=True)
class Pushed:
    """What the registry holds after a push.

    Attributes:
        reference: `repository:tag`.
        by_digest: `repository@digest`, which never moves.
        digest: read back from the registry.
        uploaded_bytes: size of the blobs that the registry did not have before.
        skipped: the tag was there already, with this very digest.
        seconds: how long it took.
    """

    reference: str
    by_digest: str
    digest: str
    uploaded_bytes: int
    skipped: bool
    seconds: float


def push(built: BuiltImage, target: str) -> Pushed:
    """Send a built image under its immutable tag and read it back.

    Args:
        built: the image and its layout.
        target: repository, from `reference.repository`.

    Raises:
        BuildError: the layout is damaged.
        RegistryConflictError: the tag names another image; immutable tags are never overwritten.
        RegistryAuthError: the credentials were refused.
        RegistryUnavailableError: the registry failed, also after several attempts.
    """
    started = time.monotonic()
    reference = f"{target}:{built.tag}"
    digest = built.image.digest
    by_digest = f"{target}@{digest}"
    with credentials(target) as auth:
        try:
            found = digest_of(reference, auth)
        except RegistryAuthError:  # ghcr.io says so of a repository that does not exist yet
            found = None
        if found == digest:
            log.info("push: %s is there already", reference)
            return Pushed(reference, by_digest, digest, 0, True, time.monotonic() - started)
        if found is not None:
            raise RegistryConflictError(
                f"{reference} already names {found}, this build is {digest}",
                "an immutable tag is never overwritten: change what differs and run ./inv lock, "
                "which gives a new tag, or build again what the lock says",
            )
        transfer = _Transfer(built)
        log.info("push: %s", reference)
        for attempt in retry.attempts("push"):
            with attempt:
                done = process.run(
                    ["skopeo", "--debug", *timeout_flags(built.image.size), "copy",
                     "--preserve-digests", *auth.flags("dest"),
                     f"oci:{built.layout}:{built.tag}", f"docker://{reference}"],
                    on_line=transfer.feed, env=auth.env, pass_fds=auth.fds,
                )  # fmt: skip
                if done.code != 0:
                    layout.require_undamaged(built.layout)  # else the registry would be blamed
                    raise explain(done.err, reference)
        back = read_back.until(lambda: digest_of(reference, auth), digest, reference)
        if back != digest:
            raise RegistryConflictError(
                f"{reference} was pushed as {digest} and reads back as {back}",
                "another run pushed the same tag at the same time: build and push again",
            )
    seconds = time.monotonic() - started
    uploaded = transfer.uploaded_bytes
    log.info("push: %s in %.1f s, %.1f MB uploaded", by_digest, seconds, uploaded / 1e6)
    return Pushed(reference, by_digest, digest, uploaded, False, seconds)


class _Transfer:
    """Follows skopeo's debug output: which layers are sent, and which the registry has already."""

    _LINE = re.compile(r"(Checking if we can reuse|Skipping) blob (sha256:[0-9a-f]{64})")

    def __init__(self, built: BuiltImage) -> None:
        self._layers = {layer.digest: layer for layer in built.image.layers}
        self._sent: set[str] = set()
        self._repeated: set[str] = set()

    @property
    def uploaded_bytes(self) -> int:
        return sum(self._layers[digest].size for digest in self._sent)

    def feed(self, line: str) -> None:
        match = self._LINE.search(line)
        layer = self._layers.get(match[2]) if match else None
        if not match or not layer:
            return
        if match[1] != "Skipping":
            (self._repeated if layer.digest in self._sent else self._sent).add(layer.digest)
            log.info("push: layer %s, %.1f MB", layer.name, layer.size / 1e6)
        elif layer.digest not in self._repeated:  # else it was sent by an earlier attempt
            self._sent.discard(layer.digest)
            log.info("push: the registry has layer %s", layer.name)


def timeout_flags(size: int) -> list[str]:
    """Return the flags of skopeo that end a copy which makes no progress.

    Args:
        size: of what is copied, in bytes.
    """
    return ["--command-timeout", f"{registry.TIMEOUT + size / SLOWEST:.0f}s"]


def digest_of(reference: str, auth: Credentials) -> str | None:
    """Return the digest of a manifest in a registry; None if there is none.

    The digest is computed from the manifest's bytes, not taken from a header.
    """

    def read() -> str:
        found = process.run(
            ["skopeo", "inspect", "--raw", *auth.flags(""), f"docker://{reference}"],
            env=auth.env, pass_fds=auth.fds, timeout=registry.TIMEOUT,
        )  # fmt: skip
        if found.code != 0:
            raise explain(found.err, reference)
        return f"sha256:{sha256_bytes(found.out.encode())}"

    try:
        return retry.attempts("read")(read)
    except RegistryNotFoundError:
        return None


_AGAIN = "run again when it does: what has arrived is not sent again"
_FAILED = "{host} did not answer as expected for {reference}: {last}"
_REFUSED = "{host} refused {reference}: {last}"

RULES = (
    Rule(r"no space left on device", DiskFullError, "{reference}: {last}",
         "free disk space, then run again"),
    Rule(r"toomanyrequests|too many requests|\b429\b", RegistryUnavailableError, _FAILED, _AGAIN),
    Rule(r"upload unknown|upload invalid|blob unknown", RegistryUnavailableError, _FAILED, _AGAIN),
    Rule(r"unauthorized|authentication required|denied|forbidden|invalid username"
         r"|status(?: code)?:? (?:401|403)|\b40[13]\b",
         RegistryAuthError, "{host} refused the login for {reference}: {last}", "{login}"),
    Rule(r"x509|certificate", RegistryError,
         "the certificate of {host} is not trusted: {last}", certificates.HINT),
    Rule(r"^(?!.*pinging container registry).*(manifest unknown|name unknown|not found|\b404\b)",
         RegistryNotFoundError, "{reference} was not found: {last}", "check the name and the tag"),
    Rule(r"statuscode: (400|404|405|406|410|411|413|414|415|422|431|451|501)|unsupported"
         r"|http response to https client|http request to an https server|no such file or directory"
         r"|manifest invalid|name invalid|invalid reference|digest did not match|size invalid"
         r"|unknown flag|unrecognized|permission denied|not a directory"
         r"|unsupported protocol|invalid character",
         RegistryError, _REFUSED, "fix the problem that it reports"),
)  # fmt: skip
"""What is known to be final, in order. Everything else may pass, and is tried again."""


def explain(output: str, reference: str) -> HiggsError:
    """Turn skopeo's output into an error: refused, unavailable, or a definitive answer."""
    text = output.strip()
    fatal = [x for x in text.splitlines() if "level=fatal" in x] or text.splitlines()[-1:]
    last = fatal[-1] if fatal else "no output"
    if message := re.search(r'msg="(.*)"$', last):
        last = message[1].replace('\\"', '"')
    host = reference.split("/")[0]
    bare = last
    for own in (reference, re.sub(r"@.*|:[^:/]*$", "", reference), host):
        bare = re.sub(re.escape(own), "", bare, flags=re.IGNORECASE)  # a name may have a 403 in it
    values = {"reference": reference, "last": last, "host": host,
              "login": login_hint(host)}  # fmt: skip
    error = first_match(RULES, bare, **values) or RegistryUnavailableError(
        _FAILED.format(**values), _AGAIN
    )
    if error.transient and re.search(r"too ?many ?requests|\b429\b", bare, re.IGNORECASE):
        error.retry_after = RATE_LIMITED * retry.WAIT
    return error
