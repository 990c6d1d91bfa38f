"""Shows that every patch is needed: the tests that are marked with it fail on an image without it.

    python -m tests.fork.needed                 # every patch, then all of these tests with them
    python -m tests.fork.needed voices speech   # some of them
    python -m tests.fork.needed --with          # only the second half

For each patch a trial image is built that lacks it, and its tests run against that (the same as
`pytest tests/fork --without PATCH`). All of them have to fail; how they do is printed as a table.
The exit code is 1 if one passed or could not be run.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

from higgs_image import lockfile
from higgs_image.build.patches import model
from higgs_image.workspace import Workspace

HERE = Path(__file__).parent

BUILT_ON = {"voices": ("speech", "chat")}
"""Patches that use another one's functions in the server's state, and are left out with it."""


def results(*options: str) -> tuple[dict[str, str], float]:
    """Run tests of this folder.

    Returns:
        For each test `passed`, `skipped`, or what it failed with; and the seconds that it all took.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "junit.xml"
        began = time.monotonic()
        subprocess.run(
            [sys.executable, "-m", "pytest", str(HERE), f"--junitxml={file}", "-rP", *options],
            check=False,
            stdout=sys.stderr,
        )
        took = time.monotonic() - began
        if not file.exists():
            return {}, took
        found = {}
        for case in ElementTree.parse(file).iter("testcase"):
            if not case.get("classname"):
                continue  # a module that runs inside the image: see test_engine_inside.py
            how = next(iter(case.findall("failure") + case.findall("error")), None)
            name = f"{str(case.get('classname')).rpartition('.')[2]}.{case.get('name')}"
            if how is None:
                found[name] = "skipped" if case.find("skipped") is not None else "passed"
            else:
                found[name] = (how.get("message") or "failed").splitlines()[0][:150]
        return found, took


def row(what: str, found: dict[str, str], seconds: float, wrong: set[str]) -> str:
    """A line of the table: how many tests there were, and how they ended."""
    ends = "; ".join(f"{n} x {how}" for how, n in Counter(found.values()).most_common(4))
    problem = f" BUT {', '.join(sorted(wrong))}" if wrong else ""
    return f"| {what} | {len(found)} | {ends}{problem} | {seconds:.0f} s |"


def main(arguments: list[str] | None = None) -> int:
    """Do it for the patches that the command line names, or for all."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.fork.needed",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("patches", nargs="*", metavar="PATCH")
    parser.add_argument("--with", action="store_true", dest="only_with", help="no trial images")
    given = parser.parse_args(arguments)
    locked = lockfile.load(Workspace.default().lock_file)
    assert locked.patches
    known = [patch.name for patch in model.load(locked.file(locked.patches.folder))]
    if unknown := set(given.patches) - set(known):
        parser.error(f"there is no patch {', '.join(sorted(unknown))}; known: {', '.join(known)}")
    good = True
    for name in [] if given.only_with else given.patches or known:
        users = BUILT_ON.get(name, ())
        found, seconds = results(
            "--without", name, *(part for user in users for part in ("--also-without", user))
        )
        wrong = {test for test, how in found.items() if how in ("passed", "skipped")}
        what = " and ".join(f"`{x}`" for x in (name, *users))
        print(row(f"without {what}", found, seconds, wrong), flush=True)
        good = good and bool(found) and not wrong
    if given.only_with or not given.patches:
        found, seconds = results("-m", "needs")
        wrong = {test for test, how in found.items() if how != "passed"}
        print(row("with all", found, seconds, wrong), flush=True)
        good = good and bool(found) and not wrong
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
