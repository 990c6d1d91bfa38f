"""The server's addresses: the public one in the log, and the one for the image's HEALTHCHECK."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from higgs_runtime import log
from higgs_runtime.settings import Settings


def public_url(port: int, environment: Mapping[str, str]) -> str:
    """Return the URL of a port as its users see it, as far as the platform reveals it."""
    pod = environment.get("RUNPOD_POD_ID")
    if pod:
        return f"https://{pod}-{port}.proxy.runpod.net"
    vast = environment.get(f"VAST_TCP_PORT_{port}")
    if vast and "PUBLIC_IPADDR" in environment:
        return f"http://{environment['PUBLIC_IPADDR']}:{vast}"
    return f"http://localhost:{port}"


def local_host(host: str) -> str:
    """Return where this container reaches what listens on an address, as in a URL."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    return f"[{host}]" if ":" in host else host


def warn_if_open(settings: Settings, environment: Mapping[str, str]) -> None:
    """Warn if the server is reachable from outside and requires no API key."""
    if settings.api_key or environment.get("VLLM_API_KEY") or settings.host in ("127.0.0.1", "::1"):
        return
    public = "RUNPOD_POD_ID" in environment or "VAST_CONTAINERLABEL" in environment
    who = "anyone on the internet" if public else "anyone who can reach this port"
    log.warning(
        f"no API key: {who} can use {public_url(settings.port, environment)}; hint: set "
        "HIGGS_API_KEY to a secret of your own"
    )


def curl_command(settings: Settings, environment: Mapping[str, str]) -> str:
    """Return a command that requests speech."""
    secret = settings.api_key or environment.get("VLLM_API_KEY")
    key = " -H 'Authorization: Bearer YOUR_API_KEY'" if secret else ""
    return (
        f"curl {public_url(settings.port, environment)}/v1/audio/speech{key} "
        "-H 'Content-Type: application/json' -o hello.wav "
        f'-d \'{{"model": "{settings.served_model_name[0]}", "voice": "en_woman", '
        '"input": "Hello there.", "response_format": "wav"}\''
    )


def ping_file() -> Path:
    """Return the file that tells the HEALTHCHECK what to poll; any user can write there."""
    return Path(tempfile.gettempdir(), "higgs-image-ping")


def write_ping_url(settings: Settings) -> None:
    """Write the URL for the HEALTHCHECK."""
    own_port = settings.health_port != settings.port
    scheme = "https" if "--ssl-certfile" in settings.given and not own_port else "http"
    host = local_host(settings.host)
    with suppress(OSError):  # the HEALTHCHECK falls back to the default
        ping_file().write_text(f"{scheme}://{host}:{settings.health_port}/ping\n")
