"""The workspace that a task works on."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from higgs_image.errors import UsageError
from higgs_image.workspace import Workspace

VARIANT_HELP = {
    "variant": "another image of the same fork, such as cuda12.8, which runs on Blackwell, too "
    "(default: the image for CUDA 12.4)"
}


def current_workspace(variant: str = "") -> Workspace:
    """Return the workspace of the real image; with HIGGS_FAKE_FORK, of a fake fork.

    HIGGS_FAKE_FORK names the folder of one that was made (higgs_image/demo/fake_fork.py), so that
    every task can be tried on it. Its images say what they are, and none is released.

    Raises:
        UsageError: there is no fake fork in that folder.
    """
    workspace = Workspace.default()
    if folder := os.environ.get("HIGGS_FAKE_FORK"):
        from higgs_image.demo import fake_fork

        if not (Path(folder) / "versions.lock").is_file():
            raise UsageError(
                f"HIGGS_FAKE_FORK={folder}: there is no versions.lock in it",
                "make the fake fork first, or unset the variable",
            )
        workspace = fake_fork.workspace_in(Path(folder))
    return replace(workspace, variant=variant)
