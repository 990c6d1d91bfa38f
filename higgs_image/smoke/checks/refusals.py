"""Checks of requests that the server has to refuse."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from higgs_image.smoke.checks.model import CheckFailedError, ImageUnderTest
from higgs_image.smoke.record import Measured

BAD_REQUESTS: Mapping[str, Any] = {
    "empty input": {"input": ""},
    "blank input": {"input": "  \n"},
    "no input": {"input": None},
    "input of 100,000 characters": {"input": "long " * 20_000},
    "voice of the wrong type": {"voice": 7},
    "unknown voice": {"voice": "nobody-speaks-so"},
    "unknown format": {"response_format": "midi"},
    "speed out of range": {"speed": 40},
    "unknown model": {"model": "some-other-model"},
    "incomplete JSON": b'{"input": ',
    "a list": b"[]",
}
"""Changes that make a good request bad, or a whole body."""


def bad_requests(image: ImageUnderTest) -> Measured:
    """Each bad request gets a 4xx with JSON."""
    wrong = []
    for what, change in BAD_REQUESTS.items():
        if isinstance(change, bytes):
            answer = image.client.ask("POST", "/v1/audio/speech", change)
        else:
            answer = image.client.post("/v1/audio/speech", image.request(**change))
        if not 400 <= answer.status < 500 or answer.type != "application/json":
            wrong.append(f"{answer.status} as {answer.type or 'nothing'} for {what}")
    if wrong:
        raise CheckFailedError(f"expected 4xx with JSON, got {'; '.join(wrong)}")
    return {"requests": len(BAD_REQUESTS)}
