"""What doctor checks, and what a check finds."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from higgs_image import table
from higgs_image.errors import HiggsError
from higgs_image.lockfile import Lock
from higgs_image.verdict import Verdict
from higgs_image.workspace import Workspace

INFO_SECONDS = 3.0
"""How long the engine may take to answer."""
ANSWER_SECONDS = 4.0
"""How long one program or server may take."""
DEADLINE_SECONDS = 6.0
"""How long all checks together may take, after the engine has answered."""


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        check: its name.
        verdict: pass, fail or inconclusive.
        found: the facts, with values.
        remedy: what to do now; may be empty.
    """

    check: str
    verdict: Verdict
    found: str
    remedy: str = ""


@dataclass(frozen=True)
class DoctorReport:
    """All findings, in the order of the checks."""

    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether no check failed."""
        return all(x.verdict is not Verdict.FAIL for x in self.findings)

    def text(self) -> str:
        """Return the findings as a table."""
        rows: list[tuple[str, str, str]] = []
        for x in self.findings:
            rows.append((x.verdict, x.check, x.found))
            if x.remedy:
                rows.append(("", "", f"hint: {x.remedy}"))
        failed = sum(x.verdict is Verdict.FAIL for x in self.findings)
        open_ = sum(x.verdict is Verdict.INCONCLUSIVE for x in self.findings)
        counts = f"{failed} failed, {open_} inconclusive, of {len(self.findings)} checks"
        return f"{table.text(rows)}\n{counts}"


@dataclass(frozen=True)
class Subject:
    """The machine and the project that are checked.

    Attributes:
        workspace: folders of the product.
        lock: versions.lock; None if it cannot be read (another check says why).
        info: output of `docker info`; empty if no engine answers.
        refusal: why none answers.
        registry: host and path to push to; empty if none is configured.
        name: the image's name.
        base_image: used instead of the locked base; empty if it is not overridden.
    """

    workspace: Workspace
    lock: Lock | None
    info: dict[str, Any]
    refusal: str = ""
    registry: str = ""
    name: str = "image"
    base_image: str = ""


Result = tuple[Verdict, str, str]
"""Of a check: verdict, what was found, and the remedy."""
Check = Callable[[Subject], Result]


def passed(found: str) -> Result:
    """Return the result of a check that passed."""
    return Verdict.PASS, found, ""


def failed(found: str, remedy: str) -> Result:
    """Return the result of a check that failed."""
    return Verdict.FAIL, found, remedy


def undecided(found: str, remedy: str = "") -> Result:
    """Return the result of a check that could not be made."""
    return Verdict.INCONCLUSIVE, found, remedy


def one(name: str, check: Check, subject: Subject) -> Finding:
    """Run one check; an error of the pipeline becomes a failed check with its hint."""
    try:
        verdict, found, remedy = check(subject)
    except HiggsError as error:
        verdict, found, remedy = failed(error.message, error.hint)
    except OSError as error:
        verdict, found, remedy = undecided(f"could not be checked: {error}")
    secrets = r"://[^/@\s'\"]+@(?!sha256:)"  # user names and passwords in URLs
    return Finding(name, verdict, re.sub(secrets, "://***@", found), remedy)


def last_line(text: str) -> str:
    """Return the line of a program's output that names the error."""
    lines = [x.strip() for x in text.strip().splitlines() if x.strip()]
    fatal = [x for x in lines if re.search(r"fatal|error|level=fatal", x, re.IGNORECASE)]
    return (fatal or lines or ["no output"])[-1]
