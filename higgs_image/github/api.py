"""The little of GitHub's REST API that a release needs: package versions, and a pull request."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from higgs_image.errors import (
    HiggsError,
    RegistryAuthError,
    RegistryError,
    RegistryNotFoundError,
    RegistryUnavailableError,
)

SECONDS = 60.0
"""How long one answer may take."""


def call(method: str, path: str, body: dict[str, Any] | None = None) -> Any:
    """Call the API with GITHUB_TOKEN, and return the decoded answer; None where it is empty.

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
    root = os.environ.get("GITHUB_API_URL", "https://api.github.com").rstrip("/")
    request = urllib.request.Request(  # noqa: S310 (the API's own address)
        f"{root}{path}",
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={
            "Authorization": f"Bearer {token}",
            "Accept": "application/vnd.github+json",
            "X-GitHub-Api-Version": "2022-11-28",
        },
    )
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:  # noqa: S310
            data = answer.read()
    except urllib.error.HTTPError as error:
        raise _explain(error, f"{method} {path}") from None
    except (OSError, ValueError) as error:
        raise RegistryUnavailableError(
            f"GitHub did not answer to {method} {path}: {error}", "run again when it does"
        ) from None
    return json.loads(data) if data else None


def _explain(error: urllib.error.HTTPError, what: str) -> HiggsError:
    said = error.read().decode(errors="replace")
    try:
        said = str(json.loads(said).get("message", said))
    except ValueError:
        said = said[:200]
    message = f"GitHub answered {what} with {error.code}: {said}"
    if error.code == 404:
        return RegistryNotFoundError(message, "check the name, and that the token may see it")
    limited = error.headers.get("X-RateLimit-Remaining") == "0" or "Retry-After" in error.headers
    if error.code in (429, 500, 502, 503, 504) or (error.code == 403 and limited):
        return RegistryUnavailableError(message, "run again later")
    if error.code in (401, 403):
        hint = "give the token the permission (in Actions: permissions of that job)"
        if "create or approve pull requests" in said:
            hint = "allow it: the repository's Settings, Actions, General, Workflow permissions"
        return RegistryAuthError(message, hint)
    return RegistryError(message, "correct what it names")


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
