"""Small but complete images, made by hand: no engine is needed to release them."""

from __future__ import annotations

import datetime
import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path

import msgspec

from higgs_image.checkout import Checkout
from higgs_image.lockfile import Lock
from higgs_image.oci import layout
from higgs_image.oci.layout import BuiltImage
from higgs_image.smoke import record as smoke_record
from higgs_image.verdict import Verdict

CLEAN = Checkout("c" * 40, (), "https://git.invalid/project.git")

STATUS = """Package: base-files
Status: install ok installed
Architecture: amd64
Version: 12.4+deb12u5

Package: libssl3
Status: install ok installed
Architecture: amd64
Source: openssl
Version: {ssl}

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1
"""


def files(lock: Lock, ssl: str = "3.0.15-1", content: str = "1") -> list[dict[str, str]]:
    """Layers of an image that has what the fake fork's lock says."""
    site = f"opt/venv/lib/python{lock.python.version}/site-packages"
    packages = {"vllm": "0.8.3", "six": "1.17.0", "iniconfig": "2.1.0"}
    metadata = {
        f"{site}/{name}-{version}.dist-info/METADATA": (
            f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\nLicense-Expression: MIT\n"
        )
        for name, version in packages.items()
    }
    return [
        {"usr/lib/os-release": 'ID=debian\nVERSION_ID="12"\n', "etc/content": content,
         "var/lib/dpkg/status": STATUS.format(ssl="3.0.0-0")},
        {"var/lib/dpkg/status": STATUS.format(ssl=ssl)} | metadata,
    ]  # fmt: skip


def patches(lock: Lock) -> Mapping[str, str]:
    """Name and hash of each patch that the lock names."""
    return lock.patches.sha256 if lock.patches else {}


def labels(lock: Lock) -> dict[str, str]:
    """Labels as a build of this lock has them, were the fork published."""
    return {
        "org.opencontainers.image.title": "higgs-audio-vllm",
        "org.opencontainers.image.source": "https://git.invalid/fork",
        "org.opencontainers.image.revision": lock.fork.commit,
        "org.opencontainers.image.version": lock.tag,
        "org.opencontainers.image.created": lock.fork.date.isoformat(),
        "org.opencontainers.image.base.name": lock.base.image,
        "org.opencontainers.image.base.digest": lock.base.digest,
        "org.higgs-image.lock-sha256": lock.sha256,
        "org.higgs-image.fork": f"https://git.invalid/fork {lock.fork.commit}",
        "org.higgs-image.wheel-sha256": lock.wheel.sha256,
        "org.higgs-image.requirements-sha256": lock.python.requirements_sha256,
        "org.higgs-image.submodule": f"{lock.submodule.url} {lock.submodule.commit}",
        "org.higgs-image.patches": " ".join(f"{x}@{y[:7]}" for x, y in patches(lock).items()),
    } | _of_variant(lock)


def _of_variant(lock: Lock) -> dict[str, str]:
    if lock.kernels is None:
        return {}
    return {
        "org.higgs-image.variant": lock.variant,
        "org.higgs-image.kernels": f"{lock.kernels.name} {lock.kernels.version}",
        "org.higgs-image.kernels-sha256": lock.kernels.sha256,
    }


def make(
    folder: Path,
    lock: Lock,
    *,
    layers: list[dict[str, str]] | None = None,
    more: Mapping[str, str] | None = None,
    tag: str | None = None,
    checkout: Checkout = CLEAN,
    mtime: int = 0,
) -> BuiltImage:
    """Write an OCI layout.

    Args:
        folder: of the layout.
        lock: what the image says it was built from.
        layers: path to text, for each layer.
        more: labels beside the usual ones.
        tag: the immutable tag; the lock's by default.
        checkout: what the build says of its checkout.
        mtime: of every file.
    """
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def put(data: bytes) -> dict[str, object]:
        name = hashlib.sha256(data).hexdigest()
        (blobs / name).write_bytes(data)
        return {"digest": f"sha256:{name}", "size": len(data)}

    entries, diff_ids, history = [], [], []
    for number, contents in enumerate(layers or files(lock)):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for path, text in contents.items():
                info = tarfile.TarInfo(path)
                info.size, info.mtime = len(text.encode()), mtime
                tar.addfile(info, io.BytesIO(text.encode()))
        diff_ids.append("sha256:" + hashlib.sha256(buffer.getvalue()).hexdigest())
        kind = {"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip"}
        entries.append(kind | put(gzip.compress(buffer.getvalue(), mtime=0)))
        history.append({"created_by": f"python3 /build/step.py packages part-{number}"})
    config = {
        "architecture": "amd64", "os": "linux", "history": history,
        "config": {"Labels": labels(lock) | dict(more or {})},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }  # fmt: skip
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json"}
        | put(json.dumps(config).encode()),
        "layers": entries,
    }
    digest = str(put(json.dumps(manifest).encode())["digest"])
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    image = layout.read(folder, digest)
    layout.keep_only(folder, image, tag or lock.tag)
    provenance = folder / "provenance.json"
    subject = [{"name": "_", "digest": {"sha256": digest[7:]}}]
    statement = {"_type": "https://in-toto.io/Statement/v0.1",
                 "predicateType": "https://slsa.dev/provenance/v0.2", "subject": subject,
                 "predicate": {"builder": {"id": ""}, "buildType": "x"}}  # fmt: skip
    provenance.write_text(json.dumps(statement))
    return BuiltImage(
        image,
        folder,
        tag or lock.tag,
        "gzip",
        False,
        False,
        checkout=checkout,
        provenance=provenance,
    )


def smoke(digest: str, kind: str = "gpu", verdict: str = "pass") -> bytes:
    """The record of a smoke test."""
    figures: smoke_record.Measured = {"first_audio_s": 0.5}
    checks = [
        smoke_record.CheckResult(
            name, Verdict(verdict), True, measured=figures if name == "speech-wav" else {}
        )
        for name in sorted(smoke_record.REQUIRED[kind])  # type: ignore[index]
    ]
    overall, reason = smoke_record.overall(checks)
    record = smoke_record.Record(
        smoke_record.SCHEMA, overall, reason, smoke_record.SmokeImage("image", digest),
        smoke_record.SmokeDevice(kind, "NVIDIA L40S"),  # type: ignore[arg-type]
        datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC), 12.0, checks,
    )  # fmt: skip
    return msgspec.json.encode(record)
