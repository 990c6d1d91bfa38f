"""Deliberately broken variants of an image, and which checks have to catch each.

`python -m tests.broken` prints the table in README.md, which a test compares with this one.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from docker import DockerClient

WRAPPER = Path(__file__).with_name("server.py")

SPOKEN = frozenset((
    "speech-pcm", "speech-wav", "speech-mp3", "speech-flac", "speech-opus", "speech-aac",
    "streaming", "at-once", "custom-voice",
))  # fmt: skip
"""Checks that ask for speech."""
WAV = frozenset(("speech-wav", "at-once", "custom-voice"))
"""Checks that ask for a WAV file."""
RAW = WAV | {"speech-pcm", "streaming"}
"""Checks that ask for samples, with a header or without."""
NOT_MP3 = frozenset(("speech-pcm", "speech-wav", "speech-flac", "speech-opus", "speech-aac"))
"""Checks of the Content-Types that audio/mpeg is not."""
UNASKED = SPOKEN | {"bad-requests"}
"""Checks that need a voice to ask for."""


class Fault(NamedTuple):
    """What is broken, and what has to notice it.

    Attributes:
        what: a person would say.
        meant: the check that is there for it.
        also: checks that fail besides, as they meet the same fault.
    """

    what: str
    meant: str
    also: frozenset[str] = frozenset()

    @property
    def failing(self) -> set[str]:
        """All checks that fail, and no other does."""
        return {self.meant, *self.also}


FAULTS = {
    "does-not-start": Fault("ends with a traceback while it starts", "start"),
    "other-model": Fault("serves the model under another name", "models"),
    "no-voices": Fault("lists no voices, so there is none to ask for", "voices", UNASKED),
    "speech-500": Fault("/health is 200, speech is 500", "speech-wav", SPOKEN),
    "zero-bytes": Fault("speech is 200 with 0 bytes", "speech-wav", SPOKEN),
    "header-only": Fault("a WAV header, but no samples", "speech-wav", WAV),
    "silent": Fault("samples that are all zero", "speech-wav", RAW),
    "two-files": Fault("two RIFF headers: two files in one answer", "speech-wav", WAV),
    "wrong-rate": Fault("a WAV file at 16 kHz", "speech-wav", WAV),
    "cut-short": Fault("half of the WAV file that the header announces", "speech-wav", WAV),
    "first-word": Fault("a third of a second of sound for any text", "speech-wav", RAW),
    "wrong-type": Fault("audio/mpeg for every format", "speech-wav", NOT_MP3),
    "hangs": Fault("nothing more after the first byte", "speech-wav", SPOKEN),
    "in-one-piece": Fault("PCM comes when all of it is there", "streaming"),
    "breaks-under-load": Fault("500 for the fifth request at once", "at-once"),
    "accepts-anything": Fault("200 for a bad request", "bad-requests"),
    "no-custom-voice": Fault("a mounted voice is not read", "custom-voice"),
    "dies-after-first": Fault("ends after the first speech", "speech-pcm"),
    "busy": Fault("busy without any request", "idle-cpu"),
    "sick-afterwards": Fault("/health is 503 in the end", "health-after"),
    "ignores-sigterm": Fault("goes on after SIGTERM", "stop"),
}
"""Each fault, by the name of its variant."""

TRANSFORMERS_5 = Fault("transformers 5 in the place of 4", "start")
"""A variant of the real image alone (tests/fork/test_smoke.py)."""


def table() -> str:
    """Return what catches what, as README.md has it."""
    rows = [
        f"| {name} | {fault.what} | {fault.meant} "
        f"| {', '.join(sorted(fault.also - {fault.meant}))} |"
        for name, fault in {**FAULTS, "transformers-5": TRANSFORMERS_5}.items()
    ]
    return "\n".join(
        ["| variant | what is broken | check that is meant for it | fail as well |",
         "|---|---|---|---|", *rows, ""]
    )  # fmt: skip


def is_caught(fault: str, failed: set[str]) -> bool:
    """Whether exactly the checks that have to notice a fault have failed."""
    if fault == "dies-after-first":  # it may end a moment after the answer
        return failed in ({"speech-pcm"}, {"speech-wav"})
    return failed == FAULTS[fault].failing


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
            entry.size, entry.mode = len(data), 0o755
            tar.addfile(entry, io.BytesIO(data))
    container = client.containers.create(image)
    tag = f"smoke-test-{name}-{os.getpid()}"  # of this run alone
    try:
        container.put_archive("/", archive.getvalue())
        container.commit(tag, "latest", conf=config)
    finally:
        container.remove(force=True)
    try:
        yield f"{tag}:latest"
    finally:
        client.images.remove(f"{tag}:latest", force=True)
