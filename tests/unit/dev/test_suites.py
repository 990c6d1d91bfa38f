"""The names of the test suites."""

from __future__ import annotations

import pytest

from higgs_image.dev import lint
from higgs_image.tasks import values
from higgs_image.workspace import PROJECT


@pytest.mark.parametrize("suite", lint.SUITES)
def test_every_suite_can_be_chosen(suite: str) -> None:
    assert values.VALUES["suite"].read(suite) == suite
    assert (PROJECT / lint.SUITES[suite]).is_dir()
