"""Another attempt for measurements that the machine disturbed."""

from __future__ import annotations

import pytest

ATTEMPTS = 4
MEASURED = ("test_truth", "test_smoke_check")
"""Modules that compare measured times: a busy machine makes one wrong, and never one right."""


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test of these modules until it passes, at most ATTEMPTS times."""
    if pyfuncitem.path.stem not in MEASURED:
        return None
    test, names = pyfuncitem.obj, pyfuncitem._fixtureinfo.argnames
    for attempt in range(ATTEMPTS):
        try:
            test(**{name: pyfuncitem.funcargs[name] for name in names})
        except AssertionError:
            if attempt == ATTEMPTS - 1:
                raise
        else:
            break
    return True
