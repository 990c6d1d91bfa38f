"""Newer Python packages: requirement files compiled again by the command in their second line."""

from __future__ import annotations

import datetime
import re
import shlex
import shutil
from pathlib import Path

from higgs_image import lockfile, process, variants, versions
from higgs_image.errors import NetworkError, UpdateError
from higgs_image.explain import Rule, explain
from higgs_image.lockfile import Lock
from higgs_image.updates.report import Proposal
from higgs_image.workspace import Workspace

MIN_AGE = datetime.timedelta(days=14)
"""How old a package must be: most harmful uploads are found earlier."""

_RULES = (
    Rule(
        r"error sending request|failed to fetch|dns error|timed out",
        NetworkError, "the package index did not answer: {last}", "run again",
    ),
)  # fmt: skip


def name(variant: str) -> str:
    """Return the name of the entry for the default image's packages, or for those of a variant."""
    return "python" + variants.suffix(variant)


def propose(workspace: Workspace, lock: Lock, min_age: datetime.timedelta) -> Proposal:
    """Return the requirement files as they would be compiled today; of a variant, its own one.

    Only a file whose command names a date is compiled: the date becomes today less `min_age`.

    Raises:
        NetworkError: the package index did not answer.
        UpdateError: there is no solution.
    """
    before = (datetime.datetime.now(datetime.UTC) - min_age).date().isoformat()
    files: dict[str, bytes] = {}
    details: list[str] = []
    with workspace.scratch("lock") as folder:
        shared = () if lock.variant else (lock.python.build,)
        for locked in (lock.python.requirements, *shared):
            path = lock.file(locked)
            command = _compile_command(path, before)
            if command is None:
                details.append(f"{locked} was not checked: its second line names no date")
                continue
            copied = folder / path.parent.name
            shutil.copytree(path.parent, copied, dirs_exist_ok=True)
            for done, data in files.items():
                (copied / Path(done).name).write_bytes(data)
            _compile([*command, "--upgrade", "--quiet"], copied)
            lines = (copied / path.name).read_text().splitlines(keepends=True)
            lines[1] = f"#    {shlex.join(command)}\n"  # uv names the temporary folder, too
            new = "".join(lines)
            if changes := versions.changes(
                lockfile.versions(path.read_text()), lockfile.versions(new)
            ):
                files[locked] = new.encode()
                details += [f"{path.name}: {line}" for line in changes]
    return Proposal(name(lock.variant), {}, files, tuple(details), hold=lock.python.hold)


def _compile_command(path: Path, before: str) -> list[str] | None:
    lines = path.read_text().splitlines()[1:2]
    match = re.fullmatch(r"#\s+(uv pip compile .*)", lines[0]) if lines else None
    if not match or "--exclude-newer" not in match[1] or " -o " not in match[1]:
        return None
    command = shlex.split(match[1])
    command[command.index("--exclude-newer") + 1] = before
    return _without_passed_exceptions(command, before)


def _without_passed_exceptions(command: list[str], before: str) -> list[str]:
    """Leave out the later dates of single packages that the date of all has caught up with."""
    passed = {
        place
        for place, word in enumerate(command)
        if word == "--exclude-newer-package" and command[place + 1].rpartition("=")[2] <= before
    }
    return [word for place, word in enumerate(command) if not {place, place - 1} & passed]


def _compile(command: list[str], folder: Path) -> None:
    done = process.run([*command, "--directory", str(folder)])
    if done.code == 0:
        return
    lines = done.err.strip().splitlines() or ["no output"]
    raise explain(_RULES, done.err, last=lines[-1].strip()) or UpdateError(
        f"{' '.join(command[3:6])} has no solution: {' '.join(lines)[:400]}",
        "loosen what was asked for in the .in file, or keep what is locked",
    )
