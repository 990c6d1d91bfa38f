"""The newest revision of a weights repository on the Hugging Face hub."""

from __future__ import annotations

import os
import re

from higgs_image import http
from higgs_image.errors import UpdateError
from higgs_image.lockfile import Lock
from higgs_image.updates.report import Proposal, changed

_REASONS = {
    401: "it does not exist, or needs a login (HF_TOKEN)",
    403: "this login may not see it (accept its licence on the hub)",
    404: "it does not exist",
    429: "too many requests, try again later",
}


def propose(lock: Lock, index: int) -> Proposal:
    """Return the newest revision of one repository.

    Args:
        lock: the lock.
        index: of the entry in its [[weights]] tables.

    Raises:
        UpdateError: the hub refused, or its answer has no revision.
        NetworkError: the hub did not answer.
    """
    entry = lock.weights[index]
    answer = _ask(f"/api/models/{entry.repo}/revision/main", entry.repo)
    revision, renamed = str(answer.get("sha", "")), str(answer.get("id", entry.repo))
    if not re.fullmatch(r"[0-9a-f]{40}", revision):
        raise UpdateError(f"the hub's answer about {entry.repo} has no revision", "run again")
    changes = changed({f"weights[{index}].revision": (entry.revision, revision)})
    details = (f"the hub now calls it {renamed}",) if changes and renamed != entry.repo else ()
    return Proposal(entry.role, changes, details=details, hold=entry.hold)


def _ask(path: str, repo: str) -> dict[str, object]:
    """Return the hub's answer (HF_ENDPOINT and HF_TOKEN as in its own library)."""
    root = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    token = os.environ.get("HF_TOKEN")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    answer = http.request("GET", root + path, headers=headers, timeout=60)
    if answer.status != 200:
        why = _REASONS.get(answer.status, answer.reason)
        raise UpdateError(f"{repo} on {root}: {answer.status}, {why}", "run again")
    try:
        found = answer.json()
    except ValueError as error:
        raise UpdateError(
            f"the hub's answer about {repo} is not JSON: {error}", "run again"
        ) from None
    if not isinstance(found, dict):
        raise UpdateError(f"the hub's answer about {repo} is not an object", "run again")
    return found
