"""`./inv free-disk`: make room on a runner by removing what it does not need or can make again.

On GitHub's own runners: tools of other languages that nothing here uses. Everywhere: BuildKit's
cache beyond a limit, and images of this project in the engine that no container uses.
"""

from __future__ import annotations

import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from higgs_image.errors import UsageError
from higgs_image.labels import LABEL
from higgs_image.process import ask

log = logging.getLogger(__name__)

HOSTED = (
    "/usr/local/lib/android", "/usr/share/dotnet", "/opt/ghc", "/usr/local/.ghcup",
    "/opt/hostedtoolcache/CodeQL", "/usr/share/swift", "/usr/local/share/boost",
    "/usr/local/share/powershell",
)  # fmt: skip
"""What GitHub installs on its runners for other languages, about 25 GB."""

CACHE = "20GB"
"""How much of BuildKit's cache stays: enough for the next build to be fast."""


@dataclass(frozen=True)
class Freed:
    """What was removed, or would be.

    Attributes:
        steps: each command or folder.
        free_gb: free afterwards, in 10^9 bytes.
    """

    steps: tuple[str, ...]
    free_gb: float
    dry_run: bool

    def text(self) -> str:
        """Return the report as text."""
        head = "would do:" if self.dry_run else "done:"
        return "\n".join([head, *(f"  {x}" for x in self.steps), f"free  {self.free_gb:.0f} GB"])


def free(where: Path, *, dry_run: bool) -> Freed:
    """Make room.

    Args:
        where: on the file system in question.
        dry_run: only report what would be done.

    Raises:
        UsageError: this is not a runner: nothing is removed from a person's machine.
    """
    runner = os.environ.get("RUNNER_ENVIRONMENT", "")
    if not runner and not dry_run:
        raise UsageError(
            "this is not a runner of GitHub Actions (RUNNER_ENVIRONMENT is not set)",
            "without --yes it shows what would be done; docker builder prune frees the build cache",
        )
    steps: list[str] = []
    folders = [x for x in HOSTED if runner == "github-hosted" and Path(x).is_dir()]
    commands = [["sudo", "rm", "-rf", *folders]] if folders else []
    commands += [
        ["docker", "builder", "prune", "--force", "--keep-storage", CACHE],
        ["docker", "image", "prune", "--all", "--force", "--filter", f"label={LABEL}lock-sha256"],
    ]
    for command in commands:
        steps.append(" ".join(command))
        if not dry_run:
            done = ask(*command, timeout=900)
            if done.code != 0:  # not fatal: the build fails if there is too little room
                log.info("free-disk: %s: %s", command[0], done.err.strip()[-200:])
    return Freed(tuple(steps), shutil.disk_usage(where).free / 1e9, dry_run)
