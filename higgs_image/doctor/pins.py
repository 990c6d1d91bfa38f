"""Doctor's checks of versions.lock and of the sources and packages that it pins."""

from __future__ import annotations

import re
import sys
from typing import Literal

from higgs_image import lockfile
from higgs_image.doctor.model import (
    ANSWER_SECONDS,
    DEADLINE_SECONDS,
    Check,
    Result,
    Subject,
    failed,
    last_line,
    passed,
    undecided,
)
from higgs_image.git_objects import git_tree_ids
from higgs_image.process import ask


def check_lock(subject: Subject) -> Result:
    """Check that versions.lock is valid and matches the files that it covers."""
    lock = lockfile.load(subject.workspace.lock_file)
    lockfile.require_consistent(lock, subject.workspace.root)
    return passed(f"versions.lock is consistent: {lock.tag}")


def no_lock() -> Result:
    """Return the finding of a check that needs a readable versions.lock."""
    return undecided("versions.lock cannot be read")


def check_source(name: Literal["fork", "submodule"]) -> Check:
    """Return the check that the fork or its submodule is fetched or can be."""

    def check(subject: Subject) -> Result:
        lock, checkout = subject.lock, subject.workspace.source / name
        if lock is None:
            return no_lock()
        pin = lock.fork if name == "fork" else lock.submodule
        links = {lock.submodule.path: lock.submodule.commit} if name == "fork" else {}
        if (checkout / ".git").exists() and git_tree_ids(checkout, links).get("") == pin.tree:
            return passed(f"{pin.commit[:7]} is fetched and verified, works offline")
        asked = ask("git", "ls-remote", pin.url, "HEAD", timeout=ANSWER_SECONDS, env=_GIT_ENV)
        if asked.code == 0:
            return passed(f"{pin.url} answers")
        why = f"no answer in {ANSWER_SECONDS:.0f} s" if asked.code == 124 else last_line(asked.err)
        return failed(
            f"{pin.url} cannot be read: {why}",
            "check the network and the proxy; a mirror can be set with "
            "git config --global url.MIRROR.insteadOf PREFIX",
        )

    return check


_GIT_ENV = {"GIT_TERMINAL_PROMPT": "0", "GIT_ASKPASS": "true", "SSH_ASKPASS": "true"}


def check_packages(subject: Subject) -> Result:
    """Check that pip's package index answers and has the locked wheels."""
    if subject.lock is None:
        return no_lock()
    wheel = subject.lock.wheel
    kernels = [x.kernels for x in subject.lock.variants if x.kernels.name == wheel.name]
    versions = [x.version for x in (wheel, *kernels)]
    asked = ask(
        sys.executable, "-m", "pip", "index", "versions", wheel.name, "-vv",
        "--disable-pip-version-check", "--retries", "0", "--timeout", "3",
        "--platform", "manylinux1_x86_64", "--python-version", subject.lock.python.version,
        "--only-binary", ":all:", timeout=DEADLINE_SECONDS - 1,
    )  # fmt: skip
    output = asked.out + asked.err
    lacking = [x for x in versions if not re.search(rf"[ ,]{re.escape(x)}(,|\s|$)", asked.out)]
    if asked.code == 0 and not lacking:
        pages = re.findall(r'^(\S+) "GET .*" 200', output, re.MULTILINE)
        where = pages[0] if pages else "the configured pip index"
        return passed(f"{where} has {wheel.name} {', '.join(versions)}")
    if "No module named pip" in output:
        return undecided("this environment has no pip")
    if asked.code == 124:
        why = f"no answer in {DEADLINE_SECONDS - 1:.0f} s"
    elif away := re.search(r"Could not fetch URL (\S+): (.*)", output):
        why = f"{away[1]}: {pip_says(away[2])}"
    else:
        why = f"{wheel.name} {', '.join(lacking)} is not offered"
    return failed(
        f"the configured pip index is unusable: {why}",
        "check the network and the proxy; another index: pip config set global.index-url URL; "
        "a company's certificates: pip config set global.cert FILE",
    )


def pip_says(reason: str) -> str:
    """Return the essential part of pip's reason for a failed download."""
    core = re.sub(r"^.*\(Caused by \w+\(| - skipping$|<[^>]*>[:,]? ?", "", reason)
    return core.strip("()'\" ")
