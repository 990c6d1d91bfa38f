"""The three verdicts of every check."""

from __future__ import annotations

from enum import StrEnum


class Verdict(StrEnum):
    """The result of a check. Inconclusive (it could not run) is never a pass."""

    PASS = "pass"  # noqa: S105 (not a password)
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"
