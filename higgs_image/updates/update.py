"""`invoke lock --update`: newer pins, each asked for where it comes from, one by one.

An entry that cannot be asked for does not hold up the others: the report says what was not
checked, and why. A pin that has a `hold` in versions.lock is shown and left alone unless it is
named: the reason why it must not float is written there.
"""

from __future__ import annotations

import datetime
import json
import logging
import os
import re
import shlex
import shutil
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from higgs_image import lockfile, process
from higgs_image.build import remote, source
from higgs_image.errors import HiggsError, NetworkError, UpdateError, UsageError
from higgs_image.files import write_atomically
from higgs_image.lockfile import Lock
from higgs_image.oci import credentials, skopeo

log = logging.getLogger(__name__)

MIN_AGE = datetime.timedelta(days=14)
"""How old a Python package must be: most harmful uploads are found out before."""

SECONDS = 60.0
"""How long one server may take to answer."""


@dataclass(frozen=True)
class Proposal:
    """What one entry could become.

    Attributes:
        name: of the entry.
        changes: key in versions.lock to value before and after.
        files: content of the files beside versions.lock that change, by their name in it.
        details: what changes in them, one line each.
        hold: why it is not taken without being named.
    """

    name: str
    changes: dict[str, tuple[str | None, str]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    details: tuple[str, ...] = ()
    hold: str | None = None

    @property
    def is_new(self) -> bool:
        """Something would change."""
        return bool(self.changes or self.files)


@dataclass(frozen=True)
class Report:
    """What an update found and did.

    Attributes:
        taken: entries that were changed (or would be).
        held: newer ones that were left alone.
        current: names of the entries that are the newest.
        unchecked: entry to the reason why it could not be asked for.
        tag: the tag of the lock afterwards.
    """

    taken: tuple[Proposal, ...]
    held: tuple[Proposal, ...]
    current: tuple[str, ...]
    unchecked: dict[str, str]
    tag: str
    dry_run: bool = False

    def text(self) -> str:
        """Return the report as a person reads it."""
        lines = []
        for proposal in self.taken:
            lines.append(f"{'would take' if self.dry_run else 'took'} {proposal.name}:")
            lines += _difference(proposal)
        for proposal in self.held:
            lines.append(f"held {proposal.name}: {proposal.hold}")
            lines += _difference(proposal)
        lines += [f"current: {', '.join(self.current)}"] if self.current else []
        lines += [f"NOT CHECKED {name}: {why}" for name, why in self.unchecked.items()]
        return "\n".join([*lines, f"tag {self.tag}"])


def _difference(proposal: Proposal) -> list[str]:
    changes = [f"  {key}: {old or 'not pinned'} -> {new}"
               for key, (old, new) in proposal.changes.items()]  # fmt: skip
    return changes + [f"  {line}" for line in proposal.details]


def entries(lock: Lock) -> list[str]:
    """Return the names of everything that can be updated."""
    return ["fork", "base", "python", *(entry.role for entry in lock.weights)]


def update(
    lock: Lock,
    root: Path,
    names: Sequence[str] = (),
    *,
    min_age: datetime.timedelta = MIN_AGE,
    dry_run: bool = False,
) -> Report:
    """Ask for newer pins and write them into versions.lock, with the hashes that follow.

    Args:
        lock: the lock.
        root: the project's folder.
        names: entries; none: all that are not held.
        min_age: how old a Python package must be.
        dry_run: only say what would be done.

    Raises:
        UsageError: an entry is unknown.
        LockError: the lock does not match its files.
        UpdateError: not one entry could be asked for.
    """
    known = entries(lock)
    if unknown := sorted(set(names) - set(known)):
        raise UsageError(f"there is no entry {', '.join(unknown)}", f"there are {', '.join(known)}")
    lockfile.require_consistent(lock, root)
    wanted = [name for name in known if not names or name in names]
    proposals: list[Proposal] = []
    unchecked: dict[str, str] = {}
    for name in wanted:
        log.info("lock: asking for %s", name)
        try:
            proposals.append(_ask(name)(lock, name, min_age))
        except HiggsError as error:
            unchecked[name] = error.message
    if unchecked and not proposals:
        raise UpdateError(
            "nothing could be checked: " + "; ".join(f"{k}: {v}" for k, v in unchecked.items()),
            "check the network (invoke doctor), then run again",
        )
    new = [x for x in proposals if x.is_new]
    taken = [x for x in new if x.hold is None or x.name in names]
    tag = lock.tag
    if taken and not dry_run:
        tag = _write(lock, root, taken).tag
    return Report(
        tuple(taken),
        tuple(x for x in new if x not in taken),
        tuple(x.name for x in proposals if not x.is_new),
        unchecked,
        tag,
        dry_run,
    )


def _write(lock: Lock, root: Path, taken: Sequence[Proposal]) -> Lock:
    """Write files and versions.lock; nothing that was not proposed is touched."""
    text = lock.path.read_bytes().decode()
    for proposal in taken:
        for name, data in proposal.files.items():
            write_atomically(lock.file(name), data)
        for key, (_, value) in proposal.changes.items():
            text = lockfile.set_value(lock.path, text, key, value)
    beside = lock.path.with_name(lock.path.name + ".new")
    beside.write_bytes(text.encode())
    lockfile.load(beside)
    beside.replace(lock.path)
    if not lockfile.refresh(lockfile.load(lock.path), root):
        today = datetime.datetime.now(datetime.UTC).date().isoformat()
        write_atomically(lock.path, lockfile.set_value(lock.path, text, "date", today).encode())
    return lockfile.load(lock.path)


Ask = Callable[[Lock, str, datetime.timedelta], Proposal]


def _ask(name: str) -> Ask:
    return {"fork": _fork, "base": _base, "python": _python}.get(name, _weights)


def _changes(pairs: dict[str, tuple[str | None, str]]) -> dict[str, tuple[str | None, str]]:
    return {key: (old, new) for key, (old, new) in pairs.items() if old != new}


# The fork ---------------------------------------------------------------------------------------


def _fork(lock: Lock, name: str, _: datetime.timedelta) -> Proposal:
    """The commit of the asked-for branch, with everything that follows from it."""
    commit = remote.resolve(lock.fork.url, lock.fork.ref)
    if commit == lock.fork.commit:
        return Proposal(name)
    found = source.examine(lock, commit)
    pairs: dict[str, tuple[str | None, str]] = {
        "fork.commit": (lock.fork.commit, commit),
        "fork.tree": (lock.fork.tree, found.tree),
        "fork.date": (lock.fork.date.isoformat(), found.date.isoformat()),
        "submodule.url": (lock.submodule.url, found.submodule_url),
        "submodule.commit": (lock.submodule.commit, found.submodule_commit),
        "submodule.tree": (lock.submodule.tree, found.submodule_tree),
    }
    return Proposal(
        name, _changes(pairs), hold=lock.fork.hold,
        details=("run invoke patches: a patch whose target has changed is refused",),
    )  # fmt: skip


# The base image -----------------------------------------------------------------------------------


def _base(lock: Lock, name: str, _: datetime.timedelta) -> Proposal:
    image = lock.base.image
    first = image.split("/")[0]
    if not (set(".:") & set(first) and "/" in image) and first != "localhost":
        image = f"docker.io/{image if '/' in image else f'library/{image}'}"
    with credentials.credentials(image) as auth:
        digest = skopeo.digest_of(image, auth)
    if digest is None:
        raise UpdateError(f"{image} was not found", "correct base.image in versions.lock")
    pairs: dict[str, tuple[str | None, str]] = {"base.digest": (lock.base.digest, digest)}
    return Proposal(name, _changes(pairs), hold=lock.base.hold)


# Python's packages --------------------------------------------------------------------------------


def _python(lock: Lock, name: str, min_age: datetime.timedelta) -> Proposal:
    """Compile the requirement files anew, each by the command in its second line.

    Only those that name a date are compiled: the date becomes the newest that is old enough.
    """
    before = (datetime.datetime.now(datetime.UTC) - min_age).date().isoformat()
    files: dict[str, bytes] = {}
    details: list[str] = []
    with tempfile.TemporaryDirectory(prefix="higgs-lock-") as folder:
        for locked in (lock.python.requirements, lock.python.build):
            path = lock.file(locked)
            command = _compile_command(path, before)
            if command is None:
                details.append(f"{locked} was not looked at: its second line names no date")
                continue
            there = Path(folder) / path.parent.name
            shutil.copytree(path.parent, there, dirs_exist_ok=True)
            for done, data in files.items():
                (there / Path(done).name).write_bytes(data)
            _compile([*command, "--upgrade", "--quiet"], there)
            lines = (there / path.name).read_text().splitlines(keepends=True)
            lines[1] = f"#    {shlex.join(command)}\n"  # uv names the temporary folder, too
            changed = _versions(path.read_text(), "".join(lines))
            if changed:
                files[locked] = "".join(lines).encode()
                details += [f"{path.name}: {line}" for line in changed]
    return Proposal(name, {}, files, tuple(details), hold=lock.python.hold)


def _compile_command(path: Path, before: str) -> list[str] | None:
    lines = path.read_text().splitlines()[1:2]
    match = re.fullmatch(r"#\s+(uv pip compile .*)", lines[0]) if lines else None
    if not match or "--exclude-newer" not in match[1] or " -o " not in match[1]:
        return None
    command = shlex.split(match[1])
    command[command.index("--exclude-newer") + 1] = before
    return command


def _compile(command: list[str], folder: Path) -> None:
    done = process.run([*command, "--directory", str(folder)])
    if done.code == 0:
        return
    said = done.err.strip().splitlines() or ["no output"]
    if re.search(r"error sending request|failed to fetch|dns error|timed out", done.err, re.I):
        raise NetworkError(f"the package index did not answer: {said[-1].strip()}", "run again")
    raise UpdateError(
        f"{' '.join(command[3:6])} has no solution: {' '.join(said)[:400]}",
        "loosen what was asked for in the .in file, or keep what is locked",
    )


def _versions(old: str, new: str) -> list[str]:
    def pins(text: str) -> dict[str, str]:
        return dict(re.findall(r"^([A-Za-z0-9][\w.-]*)==(\S+)", text, re.MULTILINE))

    before, after = pins(old), pins(new)
    return [
        f"{name} {before.get(name, '(absent)')} -> {after.get(name, '(gone)')}"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    ]


# Weights ------------------------------------------------------------------------------------------


def _weights(lock: Lock, name: str, _: datetime.timedelta) -> Proposal:
    """The newest revision on the hub."""
    index = next(i for i, entry in enumerate(lock.weights) if entry.role == name)
    entry = lock.weights[index]
    answer = _hub(f"/api/models/{entry.repo}/revision/main", entry.repo)
    revision, renamed = str(answer.get("sha", "")), str(answer.get("id", entry.repo))
    if not re.fullmatch(r"[0-9a-f]{40}", revision):
        raise UpdateError(f"the hub's answer about {entry.repo} has no revision", "run again")
    details = (f"the hub calls it {renamed} by now",) if renamed != entry.repo else ()
    pairs: dict[str, tuple[str | None, str]] = {
        f"weights[{index}].revision": (entry.revision, revision)
    }
    changes = _changes(pairs)
    return Proposal(name, changes, details=details if changes else (), hold=entry.hold)


def _hub(path: str, repo: str) -> dict[str, object]:
    """Ask the Hugging Face hub (HF_ENDPOINT, HF_TOKEN, as its own library has them)."""
    root = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    token = os.environ.get("HF_TOKEN")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(root + path, headers=headers)  # noqa: S310 (https, or as set)
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:  # noqa: S310
            found = json.loads(answer.read())
    except urllib.error.HTTPError as error:
        why = {
            401: "it does not exist, or asks for a login (HF_TOKEN)",
            403: "this login may not see it (accept its licence on the hub)",
            404: "it does not exist",
            429: "too many requests, try again later",
        }.get(error.code, error.reason)
        raise UpdateError(f"{repo} on {root}: {error.code}, {why}", "run again") from None
    except (OSError, ValueError) as error:
        raise NetworkError(f"{root} did not answer: {error}", "run again") from None
    if not isinstance(found, dict):
        raise UpdateError(f"the hub's answer about {repo} is no object", "run again")
    return found
