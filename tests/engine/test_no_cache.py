"""Builds without a cache: they give the same image, and an interrupted one does no harm.

One worker runs them: BuildKit runs a step once for two such builds, and killing one fails the
other.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from higgs_image.build import image
from higgs_image.build.overrides import Overrides
from higgs_image.demo import fake_fork
from higgs_image.errors import INTERRUPTED
from higgs_image.oci import layout
from higgs_image.workspace import Workspace

pytestmark = pytest.mark.engine


@pytest.fixture
def workspace(tmp_path: Path, base: str) -> Workspace:
    """A fake fork whose layout is empty: every layer is handed over."""
    return fake_fork.make(tmp_path / "fake-fork", base)


def test_two_builds_of_one_lock_give_one_digest(workspace: Workspace, overrides: Overrides) -> None:
    """The variant has every step of the default image, and the one that takes its kernels."""
    workspace = dataclasses.replace(workspace, variant=fake_fork.VARIANT)
    first = image.build(workspace, overrides=overrides, no_cache=True)
    time.sleep(1.1)  # another second: a time stamp in a layer would show
    second = image.build(workspace, overrides=overrides, no_cache=True)
    assert not second.skipped
    assert [x.digest for x in second.image.layers] == [x.digest for x in first.image.layers]
    assert second.image.digest == first.image.digest


RUNNER = """
import logging, os, sys
from pathlib import Path
from higgs_image.build import buildkit, image
from higgs_image.build.overrides import Overrides
from higgs_image.demo import fake_fork
from higgs_image.tasks.output import output
folder, ca, moment, number = sys.argv[1:]
whole = buildkit.build

def build(arguments, *others, **named):
    late = ["--no-cache-filter=image" if x == "--no-cache" else x for x in arguments]
    return whole(late, *others, **named)

class Killer(logging.Handler):
    def emit(self, record):
        if moment in record.getMessage():
            os.kill(os.getpid(), int(number))

buildkit.build = build
with output():
    logging.getLogger("higgs_image").addHandler(Killer())
    image.build(fake_fork.workspace_in(Path(folder)), no_cache=True,
                overrides=Overrides(extra_ca=Path(ca) if ca else None))
"""
"""Builds without a cache from the stage of Python's packages on: Debian's take half a minute."""


@pytest.mark.parametrize("kill", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("moment", ["stable", "exporting layers"])
def test_an_interrupted_build_is_completed_by_the_next(
    workspace: Workspace, overrides: Overrides, kill: signal.Signals, moment: str
) -> None:
    """No half build is taken for a whole one; the next run goes on; no child is left."""
    folder, ca = str(workspace.lock_file.parent), str(overrides.extra_ca or "")
    done = subprocess.run(  # ends when every child has ended
        [sys.executable, "-c", RUNNER, folder, ca, moment, str(int(kill))],
        stderr=subprocess.PIPE, text=True, start_new_session=True,
        env=os.environ | {"PYTHONPATH": str(workspace.root)},
    )  # fmt: skip
    assert done.returncode == (INTERRUPTED if kill == signal.SIGINT else -signal.SIGKILL)
    if kill == signal.SIGINT:
        assert "interrupted" in done.stderr and "Traceback" not in done.stderr
    assert image.current(workspace, "gzip") is None
    built = image.build(workspace, overrides=overrides)
    assert layout.read(built.layout, built.image.digest) == built.image
    assert image.current(workspace, "gzip") == built.image
