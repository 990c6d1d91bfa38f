"""Pushing to a real registry, as it is and behind a proxy that injects faults."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import logging
import random
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from higgs_image import process, retry
from higgs_image.errors import (
    RegistryAuthError,
    RegistryConflictError,
    RegistryUnavailableError,
    UsageError,
)
from higgs_image.host.local_registry import LocalRegistry
from higgs_image.oci import artifacts, credentials, layout, read_back, reference, registry, skopeo
from higgs_image.oci.layout import BuiltImage
from tests.support.fault_proxy import Fault, FaultProxy

pytestmark = pytest.mark.engine

SECRET = "hunter2-in-no-log"
HTPASSWD = "releaser:$2y$05$V6xQLt37j47oZVTgUIgfKunO1c3tx2g0oo82qdVLHdfIVdOzYf5qe"
"""The user releaser with that password (htpasswd -nbB)."""


def make_built(folder: Path, seed: int = 1, layers: int = 3, size: int = 300_000) -> BuiltImage:
    """Write a small but complete OCI layout by hand: no engine is needed to push."""
    rng = random.Random(seed)
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def put(data: bytes) -> tuple[str, int]:
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return f"sha256:{digest}", len(data)

    descriptors, diff_ids = [], []
    for number in range(layers):
        content = rng.randbytes(size)
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            info = tarfile.TarInfo(f"layer-{number}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        diff_ids.append("sha256:" + hashlib.sha256(buffer.getvalue()).hexdigest())
        digest, length = put(gzip.compress(buffer.getvalue(), mtime=0))
        descriptors.append({
            "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
            "digest": digest, "size": length,
        })  # fmt: skip
    config = {"architecture": "amd64", "os": "linux", "config": {},
              "rootfs": {"type": "layers", "diff_ids": diff_ids}}  # fmt: skip
    digest, length = put(json.dumps(config).encode())
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json",
                   "digest": digest, "size": length},
        "layers": descriptors,
    }  # fmt: skip
    manifest_digest, _ = put(json.dumps(manifest).encode())
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    image = layout.read(folder, manifest_digest)
    layout.keep_only(folder, image, "20260101-abcdef0-1234567")
    return BuiltImage(image, folder, "20260101-abcdef0-1234567", "gzip", False, False)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No login of the machine's own, and short waits between attempts."""
    for name in ("REGISTRY_USER", "REGISTRY_PASSWORD", "GITHUB_TOKEN", "REGISTRY_AUTH_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker-config"))
    monkeypatch.setattr(retry, "WAIT", 0.05)
    monkeypatch.setattr(read_back, "LAG", 0.5)
    monkeypatch.setattr(read_back, "INTERVAL", 0.05)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRegistry]:
    with LocalRegistry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture
def proxy(served: LocalRegistry) -> Iterator[FaultProxy]:
    with FaultProxy(served.address) as running:
        yield running


@pytest.fixture
def built(tmp_path: Path, request: pytest.FixtureRequest) -> BuiltImage:
    seed = int(hashlib.sha256(request.node.name.encode()).hexdigest()[:8], 16)
    return make_built(tmp_path / "layout", seed)


def target(address: str, request: pytest.FixtureRequest) -> str:
    name = request.node.name.replace("[", "-").replace("]", "").replace("_", "-").lower()
    return reference.repository(address, name)


def test_push_then_again_then_another(
    served: LocalRegistry, built: BuiltImage, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    where = target(served.address, request)
    pushed = skopeo.push(built, where)
    assert pushed.digest == built.image.digest and not pushed.skipped
    assert pushed.uploaded_bytes == built.image.size

    again = skopeo.push(built, where)
    assert again.skipped and again.uploaded_bytes == 0

    other = make_built(tmp_path / "other", seed=99)
    with pytest.raises(RegistryConflictError, match=built.image.digest) as caught:
        skopeo.push(other, where)
    assert "never overwritten" in caught.value.hint
    with credentials.credentials(where) as auth:
        assert skopeo.digest_of(pushed.reference, auth) == built.image.digest

    pulled = tmp_path / "pulled"
    command = ["skopeo", "copy", "--src-tls-verify=false", f"docker://{pushed.by_digest}"]
    subprocess.run([*command, f"dir:{pulled}"], check=True, capture_output=True)
    manifest = (pulled / "manifest.json").read_bytes()
    assert "sha256:" + hashlib.sha256(manifest).hexdigest() == built.image.digest


@pytest.mark.parametrize("status", [401, 403])
def test_refused_logins_are_definitive(
    proxy: FaultProxy, built: BuiltImage, request: pytest.FixtureRequest, status: int
) -> None:
    proxy.faults = [Fault("POST|PUT|PATCH", "/blobs/uploads", status)]
    with pytest.raises(RegistryAuthError, match=proxy.address) as caught:
        skopeo.push(built, target(proxy.address, request))
    assert "docker login" in caught.value.hint
    posts = [r for r in proxy.requests if r[0] == "POST"]
    assert len(posts) <= len(built.image.layers) + 1, "a refused login must not be retried"


@pytest.mark.parametrize("status", [500, 502, 503, 429])
def test_failures_that_pass_are_retried(
    proxy: FaultProxy, built: BuiltImage, request: pytest.FixtureRequest, status: int
) -> None:
    proxy.faults = [Fault("PUT|PATCH", "/blobs/uploads/", status, times=1)]
    pushed = skopeo.push(built, target(proxy.address, request))
    assert pushed.digest == built.image.digest


def test_lasting_failure_is_reported_with_a_hint(
    proxy: FaultProxy, built: BuiltImage, request: pytest.FixtureRequest
) -> None:
    proxy.faults = [Fault("PUT", "/manifests/", 503)]
    with pytest.raises(RegistryUnavailableError, match="503") as caught:
        skopeo.push(built, target(proxy.address, request))
    assert "run again" in caught.value.hint
    puts = [r for r in proxy.requests if r[0] == "PUT" and "/manifests/" in r[1]]
    assert len(puts) >= retry.ATTEMPTS


def test_a_reset_in_the_middle_of_a_blob(
    proxy: FaultProxy, built: BuiltImage, request: pytest.FixtureRequest
) -> None:
    proxy.faults = [Fault("PATCH", "/blobs/uploads/", 0, times=1)]
    pushed = skopeo.push(built, target(proxy.address, request))
    assert pushed.digest == built.image.digest


def test_stuck_transfer_is_retried(
    proxy: FaultProxy,
    built: BuiltImage,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(registry, "TIMEOUT", 2.0)
    proxy.faults = [Fault("PATCH", "/blobs/uploads/", -1, times=1, delay=60)]
    started = time.monotonic()
    pushed = skopeo.push(built, target(proxy.address, request))
    assert pushed.digest == built.image.digest and proxy.faults[0].seen == 1
    assert time.monotonic() - started < 30


def test_next_run_sends_only_missing_layers(
    proxy: FaultProxy, built: BuiltImage, request: pytest.FixtureRequest
) -> None:
    where = target(proxy.address, request)
    proxy.faults = [Fault("PUT", "/manifests/", 503)]
    with pytest.raises(RegistryUnavailableError):
        skopeo.push(built, where)
    proxy.faults, proxy.requests = [], []
    pushed = skopeo.push(built, where)
    assert pushed.uploaded_bytes == 0
    assert not [r for r in proxy.requests if r[0] in ("PATCH", "POST")]
    assert pushed.digest == built.image.digest


def test_the_first_push_of_a_package(
    proxy: FaultProxy, built: BuiltImage, request: pytest.FixtureRequest
) -> None:
    """ghcr.io refuses to show a package that does not exist yet."""
    proxy.faults = [Fault("GET|HEAD", "/manifests/", 403, times=1)]
    pushed = skopeo.push(built, target(proxy.address, request))
    assert pushed.digest == built.image.digest and proxy.faults[0].seen == 1


def test_a_token_that_may_only_read(
    proxy: FaultProxy, built: BuiltImage, request: pytest.FixtureRequest
) -> None:
    proxy.faults = [Fault("POST|PUT|PATCH|DELETE", "/v2/", 403)]
    with pytest.raises(RegistryAuthError) as caught:
        skopeo.push(built, target(proxy.address, request))
    assert "write:packages" in caught.value.hint


def test_nothing_listens(built: BuiltImage, request: pytest.FixtureRequest) -> None:
    with pytest.raises(RegistryUnavailableError, match=r"127\.0\.0\.1:1"):
        skopeo.push(built, target("127.0.0.1:1", request))


def test_read_back_of_another_digest_is_a_conflict(
    served: LocalRegistry, proxy: FaultProxy, built: BuiltImage, tmp_path: Path,
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Somebody overwrites the tag between our push and our read-back."""
    where = target(served.address, request)
    other = make_built(tmp_path / "other", seed=7)
    real = process.run

    def racing(command, **options):  # type: ignore[no-untyped-def]
        done = real(command, **options)
        if "copy" in command:
            racer = ["skopeo", "copy", "--preserve-digests", "--dest-tls-verify=false"]
            real([*racer, f"oci:{other.layout}:{other.tag}", f"docker://{where}:{built.tag}"])
        return done

    monkeypatch.setattr(process, "run", racing)
    with pytest.raises(RegistryConflictError, match="reads back as"):
        skopeo.push(built, where)


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[LocalRegistry]:
    passwords = tmp_path / "htpasswd"
    passwords.write_text(HTPASSWD + "\n")
    with LocalRegistry(tmp_path / "guarded", htpasswd=passwords) as running:
        yield running


def test_login(
    guarded: LocalRegistry, built: BuiltImage, request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path,
) -> None:  # fmt: skip
    caplog.set_level(logging.DEBUG)
    where = target(guarded.address, request)
    with pytest.raises(RegistryAuthError, match=guarded.address):
        skopeo.push(built, where)

    monkeypatch.setenv("REGISTRY_PASSWORD", SECRET)
    with pytest.raises(UsageError, match="REGISTRY_USER"):
        skopeo.push(built, where)

    monkeypatch.setenv("REGISTRY_USER", "releaser")
    assert skopeo.push(built, where).digest == built.image.digest

    monkeypatch.setenv("REGISTRY_PASSWORD", SECRET + "-wrong")
    with pytest.raises(RegistryAuthError) as caught:
        skopeo.push(built, where)
    assert SECRET not in caplog.text + caught.value.message + caught.value.hint


def test_login_from_docker_config(
    guarded: LocalRegistry, built: BuiltImage, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    import base64

    config = tmp_path / "docker-config"
    config.mkdir()
    auth = base64.b64encode(f"releaser:{SECRET}".encode()).decode()
    (config / "config.json").write_text(json.dumps({"auths": {guarded.address: {"auth": auth}}}))
    assert skopeo.push(built, target(guarded.address, request)).digest == built.image.digest


def test_an_image_behind_a_login_is_not_public(
    guarded: LocalRegistry, served: LocalRegistry, built: BuiltImage,
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("REGISTRY_USER", "releaser")
    monkeypatch.setenv("REGISTRY_PASSWORD", SECRET)
    for registry_of, public in ((guarded, False), (served, True)):
        where = target(registry_of.address, request)
        digest = skopeo.push(built, where).digest
        with artifacts.open_repository(where) as repository:
            assert repository.is_public(digest) is public
