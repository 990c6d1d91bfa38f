"""From an answer of RunPod that is an error to an error of ours."""

from __future__ import annotations

import re

import msgspec

from higgs_image import http
from higgs_image.cloud.runpod.schema import ErrorResponse
from higgs_image.errors import (
    CloudAuthError,
    CloudNotFoundError,
    CloudRefusedError,
    CloudUnavailableError,
    CreditError,
    HiggsError,
)
from higgs_image.oci.registry_errors import seconds_of

CREDIT = re.compile(r"insufficient (balance|funds|credit)|balance is too low|out of credit", re.I)
_WINDOW = re.compile(r'"(?P<window>\w+)"\s*;\s*r=(?P<left>\d+)\s*;\s*t=(?P<seconds>\d+)')


class BadRequestError(CloudRefusedError):
    """RunPod answered 400: a rule is broken, or a GPU type has no free machine."""


REFUSALS: dict[int, tuple[type[HiggsError], str]] = {
    400: (BadRequestError, "correct what it names"),
    401: (CloudAuthError,
          "check RUNPOD_API_KEY: make a key in RunPod's console, Settings, API Keys"),
    403: (CloudAuthError, "give the key write access to pods and templates in RunPod's console"),
    404: (CloudNotFoundError, "check the id; ./inv pod-list shows the pods"),
    409: (CloudRefusedError, "it is not possible in its state now; ./inv pod-list"),
    422: (CloudRefusedError, "correct what it names in deploy/template.toml"),
}  # fmt: skip
"""Statuses that have one meaning, with its error and hint."""


def explain(answer: http.Response, what: str) -> HiggsError:
    """Return the error that an answer means.

    Args:
        answer: with a status of 300 or more.
        what: the request, such as `POST /v2/pods`.
    """
    problem = _problem(answer)
    faults = "; ".join(problem.errors)
    detail = " ".join(f"{problem.detail or problem.title}: {faults}".strip(": ").split())
    message = f"RunPod answered {what} with {answer.status}" + f": {detail}" * bool(detail)
    if answer.status == 402 or (answer.status in (400, 403) and CREDIT.search(detail)):
        return CreditError(message, "add credit at https://console.runpod.io/user/billing")
    if answer.status in REFUSALS:
        kind, hint = REFUSALS[answer.status]
        return kind(message, hint)
    if answer.status == 429:
        limited = CloudUnavailableError(message, "wait, or send fewer requests at once")
        limited.retry_after = max(1.0, wait_seconds(answer))
        return limited
    if answer.status >= 500:
        return CloudUnavailableError(message, "run again later; https://uptime.runpod.io")
    return CloudRefusedError(message, "correct what it names")


def wait_seconds(answer: http.Response) -> float:
    """Return how long a rate limit asks to wait.

    Retry-After counts; else the windows of RateLimit in which no request is left.
    """
    if asked := seconds_of(answer.headers.get("retry-after", "")):
        return asked
    windows = _WINDOW.finditer(answer.headers.get("ratelimit", ""))
    return max((float(x["seconds"]) for x in windows if x["left"] == "0"), default=0.0)


def _problem(answer: http.Response) -> ErrorResponse:
    try:
        return msgspec.json.decode(answer.body, type=ErrorResponse)
    except msgspec.DecodeError:  # a proxy's page
        text = re.sub(r"<[^>]*>", " ", answer.body.decode(errors="replace"))
        return ErrorResponse(detail=" ".join(text.split())[:200])
