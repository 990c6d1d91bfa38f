"""The image's own description, as the server reads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from higgs_patches.lib import image

PIN = {"repo": "owner/name", "revision": "a" * 40}


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "image.json"
    monkeypatch.setenv("HIGGS_IMAGE_FILE", str(path))
    return path


def test_weights_are_given_by_their_role(file: Path) -> None:
    open_end = {"repo": "owner/open", "revision": None}
    file.write_text(json.dumps({"weights": {"audio-tokenizer": PIN, "semantic-model": open_end}}))
    assert image.weights("audio-tokenizer") == image.Weights("owner/name", "a" * 40)
    assert image.weights("semantic-model") == image.Weights("owner/open", None)
    assert image.weights("generation") is None


def test_outside_the_image_nothing_is_known(file: Path) -> None:
    assert image.weights("audio-tokenizer") is None


@pytest.mark.parametrize(
    "content", ["{", "[]", "{}", {"weights": {"audio-tokenizer": {"repo": "x"}}}, {"weights": []}]
)
def test_another_file_is_refused_by_name(file: Path, content: Any) -> None:
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(image.ImageFileError, match=r"image\.json is no description"):
        image.weights("audio-tokenizer")
