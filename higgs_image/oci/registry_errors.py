"""Answers of a registry that are errors: refused, unavailable, or a definitive answer."""

from __future__ import annotations

import json
import re
from typing import Any

import urllib3

from higgs_image.errors import (
    HiggsError,
    RegistryAuthError,
    RegistryError,
    RegistryNotFoundError,
    RegistryUnavailableError,
)
from higgs_image.http import Response

FINAL = frozenset({400, 405, 406, 409, 410, 411, 413, 414, 415, 422, 431, 451, 501})
"""Answers that another attempt does not change; 401, 403 and 404 have errors of their own."""

_UPLOAD_CODES = re.compile(r"BLOB_UPLOAD_(UNKNOWN|INVALID)|BLOB_UNKNOWN|MANIFEST_BLOB_UNKNOWN")
"""A part of an upload is not (or not yet) known: sent again from the start it can succeed."""


def explain_status(answer: Response, what: str, host: str) -> HiggsError:
    """Turn an error status into an error: refused, unavailable, or a definitive answer."""
    text = answer.body.decode(errors="replace")[:2000]
    try:
        first = json.loads(text)["errors"][0]
        detail = f"{first.get('code', '')} {first.get('message', '')}".strip()
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        detail = " ".join(re.sub(r"<[^>]*>", " ", text).split())[:200]
    summary = f"{what}: {answer.status}" + (f" {detail}" if detail else "")
    limited = "retry-after" in answer.headers or "TOOMANYREQUESTS" in text
    if answer.status in (401, 403) and not limited:
        return RegistryAuthError(f"{host} refused the login for {summary}", login_hint(host))
    if _UPLOAD_CODES.search(text) and answer.status in (400, 404):
        return RegistryUnavailableError(f"{host} lost a part of {summary}", "run again")
    if answer.status == 404:
        return RegistryNotFoundError(f"{summary} was not found", "check the name and the tag")
    if answer.status in FINAL:
        return RegistryError(f"{host} refused {summary}", "fix the problem that it reports")
    error = RegistryUnavailableError(
        f"{host} did not answer as expected to {summary}",
        "run again when it does: what has arrived is not sent again",
    )
    error.retry_after = seconds_of(answer.headers.get("retry-after", ""))
    return error


def document(answer: Response, what: str, host: str) -> dict[str, Any]:
    """Return the JSON object in an answer.

    Raises:
        RegistryUnavailableError: it is something else, such as the page of a proxy.
    """
    try:
        found = json.loads(answer.body)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        text = " ".join(answer.body[:200].decode(errors="replace").split())
        raise RegistryUnavailableError(
            f"{host} did not answer {what} with JSON, but with {text!r}",
            "see whether a proxy or a login page answers in its place",
        )
    return found


def login_hint(host: str) -> str:
    """Return what to do when a registry refuses the credentials."""
    return (
        f"docker login {host}, or set REGISTRY_USER and REGISTRY_PASSWORD; on ghcr.io the "
        "token needs write:packages (in Actions: permissions: packages: write)"
    )


def seconds_of(retry_after: str) -> float:
    """Return the seconds in a Retry-After header, which is a number or a date; 0 without one."""
    try:
        return float(urllib3.Retry().parse_retry_after(retry_after))
    except urllib3.exceptions.InvalidHeader:
        return 0.0
