"""The table in tests/broken/README.md is the one that the tests of the variants use."""

from __future__ import annotations

from tests import broken
from tests.support.smoke_checks import NAMES


def test_the_table_is_the_one_that_is_tested() -> None:
    text = broken.WRAPPER.with_name("README.md").read_text()
    assert broken.table() in text, "python -m tests.broken prints what README.md should have"


def test_every_check_that_can_fail_has_its_fault() -> None:
    faults = [*broken.FAULTS.values(), broken.TRANSFORMERS_5]
    noticing: set[str] = set().union(*(fault.failing for fault in faults))
    # Random weights speak no words, and need no GPU; tests/engine/smoke/test_ends.py has health.
    assert set(NAMES) - noticing == {"words", "gpu-memory", "health"}
    assert noticing <= set(NAMES)
