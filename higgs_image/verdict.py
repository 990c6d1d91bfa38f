"""`invoke doctor`: can this machine do the job, and what to do about what it lacks.

Each check is a small function that returns a finding with one of three verdicts: it passes, it
fails (a build or push would fail too), or it was inconclusive. They run side by side, each with
short timeouts, so that the answer is there within ten seconds also when the network is away.
"""

from __future__ import annotations

from enum import StrEnum


class Verdict(StrEnum):
    """What a check came to. Inconclusive is never a pass."""

    PASS = "pass"  # noqa: S105 (no password)
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"
