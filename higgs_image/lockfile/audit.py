"""Known vulnerabilities of the locked packages, found in the OSV database by pip-audit."""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
from packaging.utils import canonicalize_name

from higgs_image import http, process
from higgs_image.errors import AuditError, LockError, UsageError
from higgs_image.lockfile.requirements import requirements, wheel_entry
from higgs_image.lockfile.schema import Lock
from higgs_image.verdict import Verdict
from higgs_image.workspace import Workspace

ACCEPTED = Path("requirements") / "advisories.toml"
"""Advisories that are accepted, each with its reason; below the project's folder."""

OSV_URL = "https://api.osv.dev/v1/query"
"""Where pip-audit looks advisories up; OSV_URL in the environment names a mirror."""

SECONDS = 300.0
"""How long the whole audit may take."""

_Text = Annotated[str, msgspec.Meta(pattern=r"^\S.*\S\Z")]


class Acceptance(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Advisories of one package that a release may have.

    Attributes:
        package: name of the package.
        advisories: ids, such as CVE-2025-1 or GHSA-...; an alias of the reported one counts, too.
        reason: why they do not matter here, or why the package cannot be updated.
    """

    package: _Text
    advisories: list[_Text]
    reason: _Text


@dataclass(frozen=True)
class Advisory:
    """A known vulnerability of a locked package.

    Attributes:
        package: name and version.
        ids: its id and aliases.
        fixed_in: versions without it.
        accepted: the written reason why it is accepted; None if there is none.
    """

    package: str
    ids: tuple[str, ...]
    fixed_in: tuple[str, ...]
    accepted: str | None

    def describe(self) -> str:
        """Return one line about it."""
        fixed = f", fixed in {', '.join(self.fixed_in)}" if self.fixed_in else ", no fixed version"
        reason = f" (accepted: {self.accepted})" if self.accepted else ""
        return f"{self.package}: {', '.join(self.ids)}{fixed}{reason}"


@dataclass(frozen=True)
class AuditReport:
    """What the database knows of the locked packages.

    Attributes:
        advisories: all that were found.
        unchecked: why packages could not be looked up; empty if all were.
    """

    advisories: tuple[Advisory, ...]
    unchecked: str = ""

    @property
    def verdict(self) -> Verdict:
        """Fail with an advisory that is not accepted; inconclusive where not all were looked up."""
        if any(x.accepted is None for x in self.advisories):
            return Verdict.FAIL
        return Verdict.INCONCLUSIVE if self.unchecked else Verdict.PASS

    def text(self) -> str:
        """Return the report as text."""
        why = f": {self.unchecked}" if self.unchecked else ""
        return "\n".join([f"advisories: {self.verdict}{why}",
                          *(f"  {x.describe()}" for x in self.advisories)])  # fmt: skip

    def require_accepted(self) -> None:
        """Refuse an advisory without a written reason.

        Raises:
            AuditError: naming each.
        """
        found = [x.describe() for x in self.advisories if x.accepted is None]
        if found:
            raise AuditError(
                f"locked packages have known vulnerabilities: {'; '.join(found)}",
                "take a fixed version (./inv lock --update=python), or accept it with a reason in "
                f"{ACCEPTED}",
            )


def audit(workspace: Workspace, lock: Lock) -> AuditReport:
    """Look up every package that is in an image of the lock, or builds it.

    Raises:
        LockError: the list of accepted advisories is malformed.
        UsageError: OSV_URL is not a URL.
    """
    url = os.environ.get("OSV_URL") or OSV_URL
    if not http.is_http(url):
        raise UsageError(f"OSV_URL is not an http or https URL: {url!r}", f"such as {OSV_URL}")
    accepted = _load_accepted(workspace.root / ACCEPTED)
    reports = [_audit_one(workspace, texts, url, accepted) for texts in _images(lock)]
    return AuditReport(
        tuple(dict.fromkeys(x for report in reports for x in report.advisories)),
        "; ".join(dict.fromkeys(x.unchecked for x in reports if x.unchecked)),
    )


def _images(lock: Lock) -> Iterator[list[str]]:
    """Yield the requirements of each image; of a variant, those that only it has."""
    python = lock.python
    files = [lock.file(x).read_text() for x in
             (python.requirements, python.build, python.installer)]  # fmt: skip
    yield [*files, wheel_entry(lock.wheel)]
    default = requirements(files[0])
    for variant in lock.variants:
        entries = requirements(lock.file(variant.requirements).read_text())
        own = [text for name, text in entries.items() if default.get(name) != text]
        yield ["\n".join(own), wheel_entry(variant.kernels)]


def _audit_one(
    workspace: Workspace, texts: list[str], url: str, accepted: Sequence[Acceptance]
) -> AuditReport:
    with workspace.scratch("audit") as folder:
        paths = [folder / f"{number}.txt" for number in range(len(texts))]
        for path, text in zip(paths, texts, strict=True):
            path.write_text(text)
        done = process.ask(
            "pip-audit", "--format", "json", "--progress-spinner", "off", "--disable-pip",
            "--require-hashes", "--vulnerability-service", "osv",
            "--osv-url", url,
            *(part for path in paths for part in ("--requirement", str(path))),
            timeout=SECONDS,
        )  # fmt: skip
    try:
        packages = json.loads(done.out)["dependencies"]
        found = [x for package in packages for x in _advisories(package, accepted)]
        skipped = [str(x["skip_reason"]) for x in packages if "skip_reason" in x]
    except (ValueError, KeyError, TypeError):
        if re.search(r"ConnectionError|Timeout|ServiceError|timed out", done.err):
            return AuditReport((), f"{url} did not answer")
        last = (done.err.strip().splitlines() or ["no output"])[-1]
        return AuditReport((), f"pip-audit failed: {last[:300]}")
    more = f" and {len(skipped) - 1} more" if len(skipped) > 1 else ""
    return AuditReport(tuple(found), f"{skipped[0]}{more}" if skipped else "")


def _advisories(package: dict[str, Any], accepted: Sequence[Acceptance]) -> list[Advisory]:
    found = []
    name = canonicalize_name(package["name"])
    for vulnerability in package.get("vulns", ()):
        ids = (str(vulnerability["id"]), *map(str, vulnerability.get("aliases", ())))
        reasons = [
            x.reason
            for x in accepted
            if canonicalize_name(x.package) == name and set(ids) & set(x.advisories)
        ]
        fixed = tuple(map(str, vulnerability.get("fix_versions", ())))
        text = f"{package['name']} {package['version']}"
        found.append(Advisory(text, ids, fixed, reasons[0] if reasons else None))
    return found


class _Accepted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    accepted: list[Acceptance] = []


def _load_accepted(path: Path) -> list[Acceptance]:
    try:
        return msgspec.convert(tomllib.loads(path.read_text()), _Accepted).accepted
    except FileNotFoundError:
        return []
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise LockError(f"{path}: {error}", "correct it, or restore it from git") from None
