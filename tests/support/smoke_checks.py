"""Turn each check of a smoke test into a test."""

from __future__ import annotations

import pytest

from higgs_image.smoke.checks import NAMES
from higgs_image.smoke.record import Record

__all__ = ["NAMES", "expect"]


def expect(record: Record, name: str) -> None:
    """Fail, skip or pass as a check of the record did; a required one may not be skipped."""
    (check,) = (check for check in record.checks if check.name == name)
    if check.verdict == "inconclusive" and not check.required:
        pytest.skip(check.reason)
    assert check.verdict == "pass", check.reason
