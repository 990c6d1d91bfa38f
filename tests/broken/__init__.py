"""Deliberately broken variants of an image, and which checks have to catch each."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from docker import DockerClient

WRAPPER = Path(__file__).with_name("server.py")

FAULTS = {
    "does-not-start": {"start"},
    "other-model": {"models"},
    "no-voices": {"voices"},
    "speech-500": {"speech-pcm", "speech-wav", "streaming", "at-once", "custom-voice"},
    "zero-bytes": {"speech-pcm", "speech-wav", "streaming", "at-once", "custom-voice"},
    "header-only": {"speech-wav"},
    "silent": {"speech-wav", "speech-pcm"},
    "two-files": {"speech-wav"},
    "wrong-rate": {"speech-wav"},
    "cut-short": {"speech-wav"},
    "first-word": {"speech-wav", "speech-pcm"},
    "wrong-type": {"speech-wav", "speech-pcm"},
    "hangs": {"speech-pcm"},
    "in-one-piece": {"streaming"},
    "breaks-under-load": {"at-once"},
    "accepts-anything": {"bad-requests"},
    "no-custom-voice": {"custom-voice"},
    "dies-after-first": {"speech-pcm", "speech-wav"},
    "busy": {"idle-cpu"},
    "sick-afterwards": {"health-after"},
    "ignores-sigterm": {"stop"},
}
"""Each fault and the checks that fail for it."""


def is_caught(fault: str, failed: set[str]) -> bool:
    """Return whether the checks that are meant for a fault have failed.

    A server that dies may do so within the first request's check or before the second one's.
    """
    wanted = FAULTS[fault]
    return bool(wanted & failed) if fault == "dies-after-first" else wanted <= failed


@contextmanager
def variant(client: DockerClient, image: str, fault: str) -> Iterator[str]:
    """Yield a variant of an image that is broken in one way; it is taken away again.

    Args:
        client: of the engine.
        image: what it is made of.
        fault: one of FAULTS, or `none`: only the proxy.
    """
    before = client.images.get(image).attrs["Config"]
    command = ["python3", "/broken.py", fault, *(before["Entrypoint"] or [])]
    with extended(
        client, image, {"broken.py": WRAPPER.read_bytes()}, fault,
        {"Entrypoint": command, "Cmd": before["Cmd"] or []},
    ) as made:  # fmt: skip
        yield made


@contextmanager
def extended(
    client: DockerClient,
    image: str,
    files: dict[str, bytes],
    name: str,
    config: dict[str, list[str]] | None = None,
) -> Iterator[str]:
    """Yield an image with more files and another configuration; it is taken away again."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for path, data in files.items():
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(data), 0o644
            tar.addfile(entry, io.BytesIO(data))
    container = client.containers.create(image)
    tag = f"smoke-test-{name}"
    try:
        container.put_archive("/", archive.getvalue())
        container.commit(tag, "latest", conf=config)
    finally:
        container.remove(force=True)
    try:
        yield f"{tag}:latest"
    finally:
        client.images.remove(f"{tag}:latest", force=True)
