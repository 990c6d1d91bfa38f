"""The tables of docs/ are rendered from the code and up to date."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from higgs_runtime import errors as image_errors
from higgs_runtime.settings_table import TABLE

from higgs_image import errors
from higgs_image.bench.performance import RESULTS
from higgs_image.dev import docs
from higgs_image.errors import DriftError
from higgs_image.workspace import PROJECT


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("docs", RESULTS):
        shutil.copytree(PROJECT / name, tmp_path / name)
    return tmp_path


def test_docs_are_up_to_date() -> None:
    """After a change: ./inv docs."""
    assert docs.render(PROJECT, check=True).changed == []


def test_changed_table_is_found_and_rendered_again(root: Path) -> None:
    page = root / "docs/configuration.md"
    good = page.read_text()
    page.write_text(good.replace("| 8000 |", "| 9000 |"))
    with pytest.raises(DriftError, match=r"out of date: docs/configuration\.md"):
        docs.render(root, check=True)
    assert "| 9000 |" in page.read_text()
    assert docs.render(root).changed == ["docs/configuration.md"]
    assert page.read_text() == good


def test_missing_and_unknown_markers_are_refused(root: Path) -> None:
    page = root / "docs/exit-codes.md"
    good = page.read_text()
    page.write_text(good.replace("generated: codes", "by hand: codes"))
    with pytest.raises(DriftError, match="no page of docs/ has the marker of codes"):
        docs.render(root)
    page.write_text(good.replace("generated: codes", "generated: other"))
    with pytest.raises(DriftError, match="unknown table: other"):
        docs.render(root)


def test_every_setting_and_exit_code_is_documented() -> None:
    text = (PROJECT / "docs/configuration.md").read_text()
    assert all(f"| `{setting.name}` |" in text for setting in TABLE)
    text = (PROJECT / "docs/exit-codes.md").read_text()
    image, pipeline = text.split("## The commands")
    for module, part in ((image_errors, image), (errors, pipeline)):
        codes = {getattr(x, "exit_code", 0) for x in vars(module).values() if isinstance(x, type)}
        assert all(f"\n| {code} |" in part for code in codes - {0, 1})
