"""Settings of the service: read from the environment, like those of the patches.

This module imports nothing heavy: the entrypoint reads it before anything is started.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from higgs_patches.patch_settings import PatchSetting, number, whole_number


def _url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.username:
        raise ValueError(text)
    _ = parts.port  # raises ValueError
    return text.rstrip("/")


def _switch(text: str) -> bool:
    if text.lower() not in ("1", "true", "yes", "0", "false", "no"):
        raise ValueError(text)
    return text.lower() in ("1", "true", "yes")


def _origins(text: str) -> tuple[str, ...]:
    origins = tuple(x.strip().rstrip("/") for x in text.split(",") if x.strip())
    if any(x != "*" and urlsplit(x).scheme not in ("http", "https") for x in origins):
        raise ValueError(text)
    return origins


SERVER: PatchSetting[str] = PatchSetting(
    "HIGGS_GENERATE_SERVER", "http://127.0.0.1:8000", "an http or https URL",
    "the speech server behind; in the image set by the entrypoint", _url,
)  # fmt: skip
SERVER_KEY: PatchSetting[str] = PatchSetting(
    "HIGGS_GENERATE_SERVER_KEY", "", "as HIGGS_API_KEY",
    "API key of the server behind, if it differs from HIGGS_API_KEY", str,
)  # fmt: skip
OPEN: PatchSetting[bool] = PatchSetting(
    "HIGGS_GENERATE_OPEN", "0", "0 or 1",
    "listen on all addresses of a public platform without an API key", _switch,
)  # fmt: skip
ORIGINS: PatchSetting[tuple[str, ...]] = PatchSetting(
    "HIGGS_GENERATE_ALLOWED_ORIGINS", "", "origins, separated by commas, or *",
    "pages of other origins that may use it (CORS)", _origins,
)  # fmt: skip
RUNNING = whole_number(
    "HIGGS_GENERATE_RUNNING", "512", "requests at the server at once", 1, 100_000
)
QUEUE = whole_number(
    "HIGGS_GENERATE_QUEUE", "512", "requests that wait for a place; more are answered with 429",
    0, 100_000,
)  # fmt: skip
MAX_CHARACTERS = whole_number(
    "HIGGS_GENERATE_MAX_CHARACTERS", "200000", "longest text", 1, 10_000_000
)
LONG_SECONDS = number(
    "HIGGS_GENERATE_LONG_SECONDS", "40",
    "texts whose speech takes longer, in seconds, are split into pieces", 1,
)  # fmt: skip
PIECE_SECONDS = number(
    "HIGGS_GENERATE_PIECE_SECONDS", "20", "longest piece of a long text, in seconds of speech", 1
)
PARALLEL = whole_number(
    "HIGGS_GENERATE_PARALLEL", "3", "pieces of a long text that are made at once", 1, 64
)
JOBS_DIR: PatchSetting[str] = PatchSetting(
    "HIGGS_GENERATE_JOBS_DIR", "", "a folder; by default one in /tmp",
    "finished pieces of long texts, and recordings by URL, for 24 hours", str,
)  # fmt: skip
JOBS_MB = whole_number(
    "HIGGS_GENERATE_JOBS_MB", "2000", "the most that these take on disk, in MB", 1, 1_000_000
)
TIMEOUT = number(
    "HIGGS_GENERATE_TIMEOUT", "90",
    "seconds without a byte from the server until 504; RunPod's proxy waits 100", 0.1,
)  # fmt: skip

SETTINGS: tuple[PatchSetting[Any], ...] = (
    SERVER, SERVER_KEY, OPEN, ORIGINS, RUNNING, QUEUE, MAX_CHARACTERS, LONG_SECONDS,
    PIECE_SECONDS, PARALLEL, JOBS_DIR, JOBS_MB, TIMEOUT,
)  # fmt: skip
"""All of them, in the order of the documentation."""


class GenerateSettings(NamedTuple):
    """The values; see the table above for their meaning.

    Attributes:
        api_key: key that requests must send; empty: none.
        companion_token: by which a server of the same container knows requests of this service.
        server_key: key for the server behind; empty: none.
    """

    server: str
    api_key: str
    server_key: str
    origins: tuple[str, ...]
    running: int
    queue: int
    max_characters: int
    long_seconds: float
    piece_seconds: float
    parallel: int
    jobs_dir: str
    jobs_mb: int
    timeout: float
    companion_token: str


def read(environment: Mapping[str, str]) -> GenerateSettings:
    """Read the settings.

    Raises:
        ValueError: a variable has a value that is not allowed.
    """
    OPEN.read(environment)  # `listen` uses it
    key = (environment.get("HIGGS_API_KEY") or environment.get("VLLM_API_KEY") or "").strip()
    server_key = SERVER_KEY.read(environment)
    for name, value in (("HIGGS_API_KEY", key), (SERVER_KEY.variable, server_key)):
        if not value.isprintable():
            raise ValueError(f"{name} has a character that cannot be sent; expected letters")
    return GenerateSettings(
        server=SERVER.read(environment),
        api_key=key,
        server_key=server_key or key,
        origins=ORIGINS.read(environment),
        running=RUNNING.read(environment),
        queue=QUEUE.read(environment),
        max_characters=MAX_CHARACTERS.read(environment),
        long_seconds=LONG_SECONDS.read(environment),
        piece_seconds=PIECE_SECONDS.read(environment),
        parallel=PARALLEL.read(environment),
        jobs_dir=JOBS_DIR.read(environment) or _temporary(),
        jobs_mb=JOBS_MB.read(environment),
        timeout=TIMEOUT.read(environment),
        companion_token=environment.get("HIGGS_COMPANION_TOKEN", ""),
    )


def _temporary() -> str:
    return str(Path(tempfile.gettempdir(), f"higgs-generate-{os.getuid()}"))
