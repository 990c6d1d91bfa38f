"""The part of GitHub's REST API that a release needs: package versions, and a pull request."""

from __future__ import annotations

import json
import os
import urllib.parse
from typing import Any

from higgs_image import http, retry
from higgs_image.errors import (
    HiggsError,
    NetworkError,
    RegistryAuthError,
    RegistryError,
    RegistryNotFoundError,
    RegistryUnavailableError,
)
from higgs_image.oci.registry_errors import FINAL, seconds_of

SECONDS = 60.0
"""How long one answer may take."""


def call(method: str, path: str, body: dict[str, Any] | None = None) -> Any:
    """Call the API with GITHUB_TOKEN, and return the decoded answer; None where it is empty.

    What reads or deletes is tried again when GitHub does not answer; a POST is not.

    Args:
        method: such as GET.
        path: below the API's root (GITHUB_API_URL, by default that of github.com).
        body: sent as JSON.

    Raises:
        RegistryAuthError: no token, or one that may not do this.
        RegistryNotFoundError: there is no such thing (or the token may not see it).
        RegistryUnavailableError: GitHub did not answer, or asks to wait.
        RegistryError: GitHub refused it.
    """
    token = os.environ.get("GITHUB_TOKEN")
    if not token:
        raise RegistryAuthError(
            "GITHUB_TOKEN is not set", "in a workflow: env: GITHUB_TOKEN: ${{ github.token }}"
        )
    if method == "POST":
        return _once(method, path, body, token)
    for attempt in retry.attempts(f"GitHub: {method}"):
        with attempt:
            try:
                return _once(method, path, body, token)
            except RegistryNotFoundError:
                if method == "DELETE" and attempt.retry_state.attempt_number > 1:
                    return None  # an earlier attempt had deleted it
                raise
    raise AssertionError("unreachable")


def _once(method: str, path: str, body: dict[str, Any] | None, token: str) -> Any:
    root = os.environ.get("GITHUB_API_URL", "https://api.github.com").rstrip("/")
    try:
        answer = http.request(
            method,
            f"{root}{path}",
            headers={
                "Authorization": f"Bearer {token}",
                "Accept": "application/vnd.github+json",
                "X-GitHub-Api-Version": "2022-11-28",
            },
            body=None if body is None else json.dumps(body).encode(),
            timeout=SECONDS,
        )
    except NetworkError as error:
        raise RegistryUnavailableError(
            f"GitHub did not answer {method} {path}: {error.message}", "run again when it does"
        ) from None
    if answer.status >= 300:
        raise _explain(answer, f"{method} {path}")
    return answer.json() if answer.body else None


def _explain(answer: http.Response, what: str) -> HiggsError:
    text = answer.body.decode(errors="replace")
    try:
        text = str(answer.json().get("message", text))
    except (ValueError, AttributeError):
        text = text[:200]
    message = f"GitHub answered {what} with {answer.status}: {text}"
    if answer.status == 404:
        return RegistryNotFoundError(message, "check the name, and that the token may see it")
    limited = answer.headers.get("x-ratelimit-remaining") == "0" or "retry-after" in answer.headers
    if answer.status in (401, 403) and not limited:
        hint = "give the token the permission (in Actions: permissions of that job)"
        if "create or approve pull requests" in text:
            hint = "allow it: the repository's Settings, Actions, General, Workflow permissions"
        return RegistryAuthError(message, hint)
    if answer.status in FINAL:
        return RegistryError(message, "fix the problem that it reports")
    error = RegistryUnavailableError(message, "run again later")
    error.retry_after = seconds_of(answer.headers.get("retry-after", ""))
    return error


def pages(path: str) -> list[Any]:
    """Return all entries of a list, over all its pages."""
    found: list[Any] = []
    number = 1
    while True:
        page = call("GET", f"{path}?per_page=100&page={number}")
        found += page
        if len(page) < 100:
            return found
        number += 1


def versions_path(repository: str) -> str:
    """Return where the API lists a package's versions; `ghcr.io/owner/name` is its name.

    Raises:
        RegistryNotFoundError: neither an organisation nor a user of that name has it.
    """
    _, owner, name = repository.split("/", 2)
    package = urllib.parse.quote(name, safe="")
    missing: RegistryNotFoundError | None = None
    for kind in ("orgs", "users"):
        path = f"/{kind}/{owner}/packages/container/{package}"
        try:
            call("GET", path)
        except RegistryNotFoundError as error:
            missing = error
        else:
            return f"{path}/versions"
    assert missing is not None  # noqa: S101 (else it had returned)
    raise missing
