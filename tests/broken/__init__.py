"""Deliberately broken variants of an image, and the checks that have to catch each.

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
    "texts", "streaming", "at-once", "listeners", "custom-voice", "memory",
))  # fmt: skip
"""Checks that ask for speech."""
WAV = frozenset(("speech-wav", "texts", "streaming", "at-once", "listeners", "custom-voice"))
"""Checks that need a good WAV file."""
RAW = WAV | {"speech-pcm"}
"""Checks that need good samples, with a header or without."""
PCM = frozenset(("speech-pcm", "streaming"))
"""Checks that need good PCM."""
NOT_MP3 = frozenset(("speech-pcm", "speech-wav", "speech-flac", "speech-opus", "speech-aac"))
"""Checks of the Content-Types that audio/mpeg is not."""
UNASKED = SPOKEN | {"bad-requests"}
"""Checks that need a voice to ask for."""


class Fault(NamedTuple):
    """A fault, and the checks that notice it.

    Attributes:
        what: description of the fault.
        meant: the check that exists for it.
        also: checks that fail besides, as they meet the same fault.
    """

    what: str
    meant: str
    also: frozenset[str] = frozenset()

    @property
    def failing(self) -> set[str]:
        """All checks that fail."""
        return {self.meant, *self.also}


FAULTS = {
    "does-not-start": Fault("ends with a traceback while it starts", "start"),
    "other-model": Fault("serves the model under another name", "models"),
    "no-voices": Fault("lists no voices", "voices", UNASKED),
    "speech-500": Fault("/health is 200, speech is 500", "speech-wav", SPOKEN),
    "zero-bytes": Fault("speech is 200 with 0 bytes", "speech-wav", SPOKEN - {"memory"}),
    "header-only": Fault("a WAV header without samples", "speech-wav", WAV),
    "silent": Fault("samples that are all zero", "speech-wav", RAW),
    "two-files": Fault("two RIFF headers: two files in one answer", "speech-wav", WAV),
    "wrong-rate": Fault("a WAV header with 16 kHz", "speech-wav", WAV),
    "cut-short": Fault("half of the WAV file that the header announces", "speech-wav", WAV),
    "first-word": Fault("a third of a second of sound for any text", "speech-wav", RAW),
    "wrong-type": Fault("audio/mpeg for every format", "speech-wav", NOT_MP3),
    "hangs": Fault("nothing more after the first byte", "speech-wav", SPOKEN),
    "slow-mp3": Fault("MP3 begins after half a minute", "speech-mp3"),
    "double-speed": Fault("every second sample is missing", "speech-wav", RAW),
    "resampled": Fault("samples at 16 kHz behind a header of 24 kHz", "speech-wav", WAV),
    "truncated": Fault("PCM lacks its last fifth of a second", "speech-pcm", PCM),
    "stereo": Fault("PCM has every sample twice, for two channels", "speech-pcm", PCM),
    "repeated-chunk": Fault("a chunk of PCM is sent twice", "speech-pcm", PCM),
    "dropped-chunk": Fault("a chunk of PCM is not sent", "speech-pcm", PCM),
    "reversed-chunks": Fault("chunks of PCM are sent in reverse", "streaming",
                             frozenset(["formats"])),
    "swapped-bytes": Fault("PCM has its high bytes first", "formats", frozenset(["streaming"])),
    "half-volume": Fault("PCM is half as loud as the other formats", "formats"),
    "in-one-piece": Fault("PCM arrives in one chunk at the end", "streaming"),
    "constant": Fault("every sample is 8000", "sound",
                      frozenset(("formats", "texts", "streaming", "custom-voice"))),
    "tone": Fault("the same tone for every text", "sound",
                  frozenset(("formats", "texts", "custom-voice"))),
    "noise": Fault("white noise, as loud as speech", "sound", frozenset(("formats", "streaming"))),
    "clipped": Fault("samples are amplified twelvefold", "sound", frozenset(["formats"])),
    "gap": Fault("a second within the sound is silent", "sound", frozenset(["formats"])),
    "offset": Fault("1000 is added to every sample", "sound"),
    "same-text": Fault("every text of one length gets the same sound", "texts"),
    "previous": Fault("WAV is the answer to the previous request", "texts",
                      frozenset(("streaming", "at-once", "listeners"))),
    "wrong-voice": Fault("every voice is the default one", "custom-voice"),
    "breaks-under-load": Fault("500 for the fifth request at once", "at-once",
                               frozenset(["listeners"])),
    "breaks-in-a-crowd": Fault("500 for the tenth request at once", "listeners"),
    "preempts": Fault("the engine preempts a request for each that it answers", "listeners"),
    "small-cache": Fault("the log says that the KV cache holds 9,000 tokens", "listeners"),
    "accepts-anything": Fault("200 for a bad request", "bad-requests"),
    "no-custom-voice": Fault("a mounted voice is not read", "custom-voice"),
    "dies-after-first": Fault("ends after the first speech", "speech-pcm"),
    "busy": Fault("busy without any request", "idle-cpu"),
    "leaks": Fault("keeps 10 MB of each request", "memory"),
    "sick-afterwards": Fault("/health is 503 after a refusal", "health-after"),
    "ignores-sigterm": Fault("goes on after SIGTERM", "stop"),
}  # fmt: skip
"""Each fault, by the name of its variant."""

TRANSFORMERS_5 = Fault("transformers 5 in place of 4", "start")
"""A variant of the real image alone (tests/fork/test_smoke.py)."""


def table() -> str:
    """Return the table of README.md."""
    rows = [
        f"| {name} | {fault.what} | {fault.meant} "
        f"| {', '.join(sorted(fault.also - {fault.meant}))} |"
        for name, fault in {**FAULTS, "transformers-5": TRANSFORMERS_5}.items()
    ]
    return "\n".join(
        ["| variant | fault | check that is meant for it | others that fail |",
         "|---|---|---|---|", *rows, ""]
    )  # fmt: skip


def is_caught(fault: str, failed: set[str]) -> bool:
    """Tell whether exactly the checks that have to notice a fault have failed."""
    if fault == "dies-after-first":  # it may end a moment after the answer
        return failed in ({"speech-pcm"}, {"speech-wav"})
    return failed == FAULTS[fault].failing


@contextmanager
def variant(client: DockerClient, image: str, fault: str) -> Iterator[str]:
    """Yield a variant of an image that is broken in one way; it is removed afterwards.

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
    """Yield an image with more files and another configuration; it is removed afterwards."""
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
