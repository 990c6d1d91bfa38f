"""Checks of the server's life: health, what it lists, and its end."""

from __future__ import annotations

import time

from higgs_image import retry
from higgs_image.smoke.checks.model import MODEL, CheckFailedError, ImageUnderTest
from higgs_image.smoke.record import Measured

STOP_SECONDS = 30


def health(image: ImageUnderTest) -> Measured:
    """GET /health is 200."""
    answer = image.client.get("/health")
    if answer.status != 200:
        raise CheckFailedError(f"/health: expected status 200, got {answer.status}")
    return {"answer_s": round(answer.seconds, 3)}


def models(image: ImageUnderTest) -> Measured:
    """GET /v1/models lists the name by which requests call the model."""
    names = [entry["id"] for entry in image.json("/v1/models")["data"]]
    if MODEL not in names:
        raise CheckFailedError(f"/v1/models: expected {MODEL}, got {names}")
    return {"models": ", ".join(names)}


def voices(image: ImageUnderTest) -> Measured:
    """GET /v1/audio/voices lists at least one voice; other checks ask for one of them."""
    return {"voices": len(image.voices()), "voice": image.choose_voice()}


def stop(image: ImageUnderTest) -> Measured:
    """SIGTERM ends it in time, with exit code 0."""
    started = time.monotonic()
    image.server.terminate()

    def ended() -> bool:
        return bool(image.server.state()["Status"] != "running")

    if not retry.wait_until(ended, STOP_SECONDS, interval=0.1):
        raise CheckFailedError(f"it still ran {STOP_SECONDS} s after SIGTERM")
    if (code := image.server.state()["ExitCode"]) != 0:
        raise CheckFailedError(f"expected exit code 0 on SIGTERM, got {code}")
    return {"stop_s": round(time.monotonic() - started, 2)}
