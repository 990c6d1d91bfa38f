"""One repository in a registry: manifests, tags, and small artifacts beside the images.

Everything is done by skopeo, which keeps digests. An artifact is an OCI manifest of its own type
with a record in its annotations and files as layers. It has no `subject`: some registries delete
what refers to an image together with it, and the journal has to outlive what it tells of.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from higgs_image import process, retry
from higgs_image.errors import (
    RegistryConflictError,
    RegistryError,
    RegistryNotFoundError,
)
from higgs_image.files import sha256_bytes
from higgs_image.oci import credentials, skopeo
from higgs_image.oci import reference as oci_reference

log = logging.getLogger(__name__)


MANIFEST = "application/vnd.oci.image.manifest.v1+json"
EMPTY = "application/vnd.oci.empty.v1+json"
TITLE = "org.opencontainers.image.title"

INDEX_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)


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
    """A repository, with the credentials for it.

    Attributes:
        name: host and path, from `registry.repository`.
    """

    def __init__(self, name: str, auth: credentials.Credentials) -> None:
        self.name = name
        self._auth = auth
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
        return skopeo.digest_of(self.reference(what), self._auth)

    def manifest(self, what: str) -> dict[str, Any] | None:
        """Return a manifest; None if there is none.

        Raises:
            RegistryConflictError: the registry answers with another content than the digest names.
        """
        if what in self._known:
            return self._known[what]
        data = skopeo.manifest_of(self.reference(what), self._auth)
        if data is None:
            return None
        found = f"sha256:{sha256_bytes(data)}"
        if what.startswith("sha256:") and found != what:
            raise RegistryConflictError(
                f"{self.reference(what)} was answered with another manifest, {found}",
                "the registry, or a proxy before it, is damaged or lies: nothing was done",
            )
        document: dict[str, Any] = json.loads(data)
        if what.startswith("sha256:"):
            self._known[what] = document
        return document

    def config(self, digest: str) -> dict[str, Any]:
        """Return an image's configuration."""
        if (known := self._known.get(f"config of {digest}")) is not None:
            return known
        data = skopeo.inspect(self.reference(digest), self._auth, "--config", "--raw")
        if data is None:
            raise RegistryNotFoundError(
                f"{self.reference(digest)} was not found", "check the name and the digest"
            )
        manifest = self.manifest(digest) or {}
        wanted = manifest.get("config", {}).get("digest")
        if f"sha256:{sha256_bytes(data)}" != wanted:
            raise RegistryConflictError(
                f"the configuration of {self.reference(digest)} is not {wanted}",
                "the registry, or a proxy before it, is damaged or lies: nothing was done",
            )
        document: dict[str, Any] = json.loads(data)
        self._known[f"config of {digest}"] = document
        return document

    def tags(self) -> list[str]:
        """Return all tags, sorted; none where the repository does not exist yet."""
        for attempt in retry.attempts("list"):
            with attempt:
                done = self._skopeo("list-tags", *self._auth.flags(""), f"docker://{self.name}")
                if done.code == 0:
                    return sorted(json.loads(done.out)["Tags"] or [])
                error = skopeo.explain(done.err, self.name)
                if isinstance(error, RegistryNotFoundError):
                    return []
                raise error
        raise AssertionError("unreachable")

    def point(self, tag: str, digest: str) -> None:
        """Let a tag name a manifest that the repository has, and read it back.

        Raises:
            RegistryConflictError: it reads back as something else.
        """
        for attempt in retry.attempts("copy"):
            with attempt:
                done = self._skopeo(
                    "copy", "--all", "--preserve-digests",
                    *self._auth.flags("src"), *self._auth.flags("dest"),
                    f"docker://{self.reference(digest)}", f"docker://{self.reference(tag)}",
                )  # fmt: skip
                if done.code != 0:
                    raise skopeo.explain(done.err, self.reference(tag))
        found = self.digest(tag)
        if found != digest:
            raise RegistryConflictError(
                f"{self.reference(tag)} was set to {digest} and reads back as {found}",
                "somebody else moved it at the same time: see invoke history",
            )

    def put(self, tag: str, artifact: Artifact) -> str:
        """Push an artifact, read it back, and return its digest.

        Raises:
            RegistryConflictError: the tag reads back as something else.
        """
        with tempfile.TemporaryDirectory(prefix="higgs-artifact-") as folder:
            digest = _write_layout(Path(folder), artifact)
            for attempt in retry.attempts("write"):
                with attempt:
                    done = self._skopeo(
                        "copy", "--preserve-digests", *self._auth.flags("dest"),
                        f"oci:{folder}:artifact", f"docker://{self.reference(tag)}",
                    )  # fmt: skip
                    if done.code != 0:
                        raise skopeo.explain(done.err, self.reference(tag))
        found = self.digest(tag)
        if found != digest:
            raise RegistryConflictError(
                f"{self.reference(tag)} was written as {digest} and reads back as {found}",
                "somebody else wrote the same record: see invoke history",
            )
        return digest

    def files(self, what: str) -> dict[str, bytes]:
        """Return the files of an artifact; skopeo compares each with its digest."""
        with tempfile.TemporaryDirectory(prefix="higgs-artifact-") as folder:
            goal = Path(folder) / "content"
            for attempt in retry.attempts("read"):
                with attempt:
                    done = self._skopeo(
                        "copy", *self._auth.flags("src"),
                        f"docker://{self.reference(what)}", f"dir:{goal}",
                    )  # fmt: skip
                    if done.code != 0:
                        raise skopeo.explain(done.err, self.reference(what))
            manifest = json.loads((goal / "manifest.json").read_bytes())
            return {
                layer["annotations"][TITLE]: (goal / layer["digest"][7:]).read_bytes()
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
                    ["skopeo", *skopeo.patience(size), "copy",
                     "--preserve-digests", *self._auth.flags("src"),
                     f"docker://{self.reference(digest)}", f"oci:{layout}:{name}"],
                    env=self._auth.env, pass_fds=self._auth.fds,
                )  # fmt: skip
                if wrong := re.search(r"Digest did not match, expected (\S+), got", done.err):
                    raise RegistryConflictError(
                        f"{self.name} answered with another content than {wrong[1].rstrip(',')}",
                        "the registry, or a proxy before it, is damaged or lies: nothing was done",
                    )
                if done.code != 0:
                    raise skopeo.explain(done.err, self.reference(digest))

    def delete(self, digest: str) -> None:
        """Delete a manifest and every tag that names it.

        Raises:
            RegistryError: the registry does not allow it.
        """
        for attempt in retry.attempts("delete"):
            with attempt:
                done = self._skopeo(
                    "delete", *self._auth.flags(""), f"docker://{self.reference(digest)}"
                )
                if done.code == 0 or self.digest(digest) is None:
                    return
                error = skopeo.explain(done.err, self.reference(digest))
                if "unsupported" in done.err.lower():
                    raise RegistryError(
                        f"{self.name.split('/')[0]} does not let images be deleted: "
                        f"{error.message}",
                        "allow it there (docker-registry: storage.delete.enabled)",
                    )
                raise error

    def _skopeo(self, *arguments: str) -> process.Completed:
        return process.run(
            ["skopeo", *arguments],
            env=self._auth.env,
            pass_fds=self._auth.fds,
            timeout=skopeo.TIMEOUT,
        )


@contextmanager
def open_repository(name: str) -> Iterator[Repository]:
    """Yield a repository with the credentials that the environment or docker has for it."""
    with credentials.credentials(name) as auth:
        yield Repository(name, auth)


def _write_layout(folder: Path, artifact: Artifact) -> str:
    """Write an OCI layout with one artifact; the same artifact gives the same bytes."""
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def add(data: bytes, media_type: str) -> dict[str, Any]:
        name = hashlib.sha256(data).hexdigest()
        (blobs / name).write_bytes(data)
        return {"mediaType": media_type, "digest": f"sha256:{name}", "size": len(data)}

    layers = [
        add(data, kind) | {"annotations": {TITLE: name}}
        for name, (data, kind) in sorted(artifact.files.items())
    ]
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": artifact.kind,
        "config": add(b"{}", EMPTY),
        "layers": layers or [add(b"{}", EMPTY)],
        "annotations": dict(artifact.annotations),
    }
    entry = add(json.dumps(manifest, ensure_ascii=False).encode(), MANIFEST)
    entry["annotations"] = {"org.opencontainers.image.ref.name": "artifact"}
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    return str(entry["digest"])
