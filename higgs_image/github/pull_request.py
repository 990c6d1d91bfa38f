"""A pull request with what `./inv lock --update` changed; one branch, renewed each time."""

from __future__ import annotations

import base64
import logging
import os
from pathlib import Path
from typing import Any

from higgs_image import process
from higgs_image.errors import HiggsError, NetworkError, UsageError
from higgs_image.github import api

log = logging.getLogger(__name__)

BRANCH, CI = "update-locks", "ci.yml"


def open_or_renew(root: Path, title: str, body: str) -> str:
    """Commit every changed file to the branch update-locks, push it, and open a pull request.

    An open one from that branch is updated.

    Args:
        root: the checkout.
        title: of the pull request, and the commit's message.
        body: the report; shown in the pull request as it is.

    Returns:
        The pull request's URL; empty if nothing had changed.

    Raises:
        UsageError: this is not a workflow, which knows its repository and base branch.
        HiggsError: git or GitHub refused.
    """
    repository, base = os.environ.get("GITHUB_REPOSITORY"), os.environ.get("GITHUB_REF_NAME")
    token = os.environ.get("GITHUB_TOKEN")
    if not repository or not base or not token:
        raise UsageError(
            "GITHUB_REPOSITORY, GITHUB_REF_NAME and GITHUB_TOKEN are not all set",
            "--pull-request is for workflows; by hand, commit versions.lock yourself",
        )
    if not _git(root, "status", "--porcelain").strip():
        log.info("pull request: nothing has changed")
        return ""
    server = os.environ.get("GITHUB_SERVER_URL", "https://github.com")
    login = base64.b64encode(f"x-access-token:{token}".encode()).decode()
    _git(root, "checkout", "--quiet", "-B", BRANCH)
    _git(root, "add", "--update")
    name, mail = "github-actions[bot]", "41898282+github-actions[bot]@users.noreply.github.com"
    _git(root, "-c", f"user.name={name}", "-c", f"user.email={mail}",
         "commit", "--quiet", "--message", title)  # fmt: skip
    # The token is passed in the environment: arguments are visible to all users.
    header = {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"http.{server}/.extraheader",
        "GIT_CONFIG_VALUE_0": f"AUTHORIZATION: basic {login}",
        "GIT_TERMINAL_PROMPT": "0",
    }
    _git(root, "push", "--quiet", "--force", "origin", f"HEAD:refs/heads/{BRANCH}", env=header)
    owner = repository.split("/")[0]
    body = f"```\n{body}\n```"
    found: list[dict[str, Any]] = api.call(
        "GET", f"/repos/{repository}/pulls?state=open&head={owner}:{BRANCH}&base={base}"
    )
    if found:
        number = found[0]["number"]
        answer = api.call("PATCH", f"/repos/{repository}/pulls/{number}",
                             {"title": title, "body": body})  # fmt: skip
    else:
        wanted = {"title": title, "body": body, "head": BRANCH, "base": base}
        answer = api.call("POST", f"/repos/{repository}/pulls", wanted)
    # A push by a workflow's token starts no other workflow; a dispatch does.
    api.call("POST", f"/repos/{repository}/actions/workflows/{CI}/dispatches", {"ref": BRANCH})
    url = str(answer["html_url"])
    log.info("pull request: %s", url)
    return url


def _git(root: Path, *arguments: str, env: dict[str, str] | None = None) -> str:
    done = process.run(["git", "-C", str(root), *arguments], env=env, timeout=300)
    if done.code != 0:
        last = done.err.strip().splitlines()[-1:] or ["no output"]
        kind = NetworkError if "push" in arguments else HiggsError
        raise kind(
            f"git {arguments[0]} failed: {last[0]}",
            "fix the problem that it reports, then run again",
        )
    return done.out
