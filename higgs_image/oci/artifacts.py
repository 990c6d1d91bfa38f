"""One repository in a registry: manifests, tags, and small artifacts beside the images.

An artifact is an OCI manifest of its own type with a record in its annotations and files as
layers. It has no `subject`: some registries delete what refers to an image together with it, and
the journal must outlive the images.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from higgs_image import process, retry
from higgs_image.errors import (
    RegistryAuthError,
    RegistryConflictError,
    RegistryError,
    RegistryNotFoundError,
)
from higgs_image.files import sha256_bytes
from higgs_image.oci import credentials, read_back, skopeo
from higgs_image.oci import reference as oci_reference
from higgs_image.oci.layout import MANIFEST, descriptor
from higgs_image.oci.registry import CONNECTIONS, DAMAGED, RegistryClient

EMPTY = "application/vnd.oci.empty.v1+json"
TITLE = "org.opencontainers.image.title"

T = TypeVar("T")
Result = TypeVar("Result")


def is_zstd(manifest: Mapping[str, Any]) -> bool:
    """Tell whether an image's layers are compressed with zstd (else with gzip)."""
    return any(str(layer["mediaType"]).endswith("zstd") for layer in manifest["layers"])


@dataclass(frozen=True)
class Artifact:
    """A small OCI artifact.

    Attributes:
        kind: its artifactType.
        annotations: of the manifest.
        files: name to content and media type.
    """

    kind: str
    annotations: Mapping[str, str]
    files: Mapping[str, tuple[bytes, str]]


class Repository:
    """A repository, with the credentials for it. Safe to read from in several threads.

    Attributes:
        name: host and path, from `reference.repository`.
    """

    def __init__(self, name: str, auth: credentials.Credentials) -> None:
        self.name = name
        self._auth = auth
        self._client = RegistryClient(name, auth)
        self._known: dict[str, dict[str, Any]] = {}  # what a digest names never changes

    @property
    def is_local(self) -> bool:
        """It is on this machine's loopback interface."""
        return oci_reference.is_loopback(self.name)

    def reference(self, what: str) -> str:
        """Return the full name of a tag or digest."""
        return f"{self.name}@{what}" if what.startswith("sha256:") else f"{self.name}:{what}"

    def digest(self, what: str) -> str | None:
        """Return the digest of a tag's (or digest's) manifest; None if there is none."""
        found = self._read(what)
        return None if found is None else found[0]

    def manifest(self, what: str) -> dict[str, Any] | None:
        """Return a manifest; None if there is none.

        Raises:
            RegistryConflictError: the registry answers with other content than the digest names.
        """
        if what in self._known:
            return self._known[what]
        found = self._read(what)
        return None if found is None else found[1]

    def find(self, what: str) -> tuple[str, dict[str, Any]]:
        """Return digest and manifest of a tag or digest.

        Raises:
            RegistryNotFoundError: there is none.
        """
        digest = what if what.startswith("sha256:") else self.digest(what)
        manifest = self.manifest(digest) if digest else None
        if digest is None or manifest is None:
            raise RegistryNotFoundError(
                f"{self.reference(what)} was not found", "check the name, tag or digest"
            )
        return digest, manifest

    def is_public(self, digest: str) -> bool:
        """Tell whether an image can be pulled without a login."""
        anonymous = RegistryClient(self.name, credentials.Credentials(self.name, None))
        try:
            return anonymous.manifest(digest) is not None
        except RegistryAuthError:
            return False

    def _read(self, what: str) -> tuple[str, dict[str, Any]] | None:
        """Return digest and content of a manifest; None if there is none."""
        found = self._client.manifest(what)
        if found is None:
            return None
        digest = f"sha256:{sha256_bytes(found[0])}"
        document: dict[str, Any] = json.loads(found[0])
        self._known[digest] = document  # a list of digests is often followed by their manifests
        return digest, document

    def config(self, digest: str) -> dict[str, Any]:
        """Return an image's configuration.

        Raises:
            RegistryNotFoundError: there is no such image.
            RegistryConflictError: the configuration is not what its digest says.
        """
        _, manifest = self.find(digest)
        wanted = str(manifest.get("config", {}).get("digest"))
        if wanted not in self._known:
            self._known[wanted] = json.loads(self._client.blob(wanted))
        return self._known[wanted]

    def labels(self, digest: str) -> dict[str, str]:
        """Return an image's labels: see `config`."""
        return self.config(digest).get("config", {}).get("Labels") or {}

    def tags(self) -> list[str]:
        """Return all tags, sorted; none where the repository does not exist yet."""
        return sorted(self._client.tags() or [])

    def each(self, read: Callable[[T], Result], items: Iterable[T]) -> list[Result]:
        """Read many things at the same time; the results have the order of the items."""
        with ThreadPoolExecutor(max_workers=CONNECTIONS) as pool:
            return list(pool.map(read, items))

    def point(self, tag: str, digest: str) -> None:
        """Let a tag name a manifest that the repository has, and read it back.

        Raises:
            RegistryNotFoundError: it does not have it.
            RegistryConflictError: it still reads back as something else after `read_back.LAG`.
        """
        found = self._client.manifest(digest)
        if found is None:
            raise RegistryNotFoundError(
                f"{self.reference(digest)} was not found", "check the name and the digest"
            )
        media_type = json.loads(found[0]).get("mediaType") or found[1]
        self._client.put_manifest(tag, found[0], media_type)
        self._require(tag, digest, "somebody else moved it at the same time: see ./inv history")

    def put(self, tag: str, artifact: Artifact) -> str:
        """Push an artifact, read it back, and return its digest.

        Raises:
            RegistryConflictError: the tag still reads back as something else after
                `read_back.LAG`.
        """
        layers = [
            descriptor(data, kind) | {"annotations": {TITLE: name}}
            for name, (data, kind) in sorted(artifact.files.items())
        ]
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "artifactType": artifact.kind,
            "config": descriptor(b"{}", EMPTY),
            "layers": layers or [descriptor(b"{}", EMPTY)],
            "annotations": dict(artifact.annotations),
        }
        data = json.dumps(manifest, ensure_ascii=False).encode()
        for content in [b"{}", *(x for x, _ in artifact.files.values())]:
            self._client.put_blob(f"sha256:{sha256_bytes(content)}", content)
        self._client.put_manifest(tag, data, MANIFEST)
        digest = f"sha256:{sha256_bytes(data)}"
        self._require(tag, digest, "somebody else wrote the same record: see ./inv history")
        return digest

    def _require(self, tag: str, digest: str, hint: str) -> None:
        """Read a tag that was written until it names the digest."""
        found = read_back.until(lambda: self.digest(tag), digest, self.reference(tag))
        if found != digest:
            raise RegistryConflictError(
                f"{self.reference(tag)} was set to {digest} and reads back as {found}", hint
            )

    def files(self, what: str) -> dict[str, bytes]:
        """Return the files of an artifact, each compared with its digest.

        Raises:
            RegistryNotFoundError: there is no such artifact.
        """
        _, manifest = self.find(what)
        return {
            layer["annotations"][TITLE]: self._client.blob(layer["digest"])
            for layer in manifest["layers"]
            if TITLE in layer.get("annotations", {})
        }

    def pull(self, digest: str, layout: Path, name: str) -> None:
        """Copy an image into an OCI layout; blobs that it has are not fetched again.

        Raises:
            RegistryConflictError: a blob is not what its digest says.
        """
        size = sum(int(x["size"]) for x in (self.manifest(digest) or {}).get("layers", []))
        for attempt in retry.attempts("pull"):
            with attempt:
                done = process.run(
                    ["skopeo", *skopeo.timeout_flags(size), "copy",
                     "--preserve-digests", *self._auth.flags("src"),
                     f"docker://{self.reference(digest)}", f"oci:{layout}:{name}"],
                    env=self._auth.env, pass_fds=self._auth.fds,
                )  # fmt: skip
                if wrong := re.search(r"Digest did not match, expected (\S+), got", done.err):
                    raise RegistryConflictError(
                        f"{self.name} answered with other content than {wrong[1].rstrip(',')}",
                        DAMAGED,
                    )
                if done.code != 0:
                    raise skopeo.explain(done.err, self.reference(digest))

    def delete(self, digest: str) -> None:
        """Delete a manifest and every tag that names it.

        Raises:
            RegistryError: the registry does not allow it.
        """
        try:
            self._client.delete_manifest(digest)
        except RegistryError as error:
            if "UNSUPPORTED" not in error.message.upper():
                raise
            raise RegistryError(
                f"{self.name.split('/')[0]} does not allow images to be deleted: {error.message}",
                "allow it there (docker-registry: storage.delete.enabled)",
            ) from None


@contextmanager
def open_repository(name: str) -> Iterator[Repository]:
    """Yield a repository with the credentials that the environment or docker has for it."""
    with credentials.credentials(name) as auth:
        yield Repository(name, auth)
