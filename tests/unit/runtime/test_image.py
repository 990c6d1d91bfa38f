"""image.json is read by two packages of the image, which must agree."""

from __future__ import annotations

from pathlib import Path

import pytest
from higgs_patches.lib import image as patches_image
from higgs_runtime import image


def test_entrypoint_and_patches_agree_on_image_json(
    image_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HIGGS_IMAGE_FILE", str(image_file))
    facts = image.read()
    assert image.FILE == patches_image.FILE
    for role, ours in {
        "generation": facts.generation,
        "audio-tokenizer": facts.audio_tokenizer,
        "semantic-model": facts.semantic_model,
    }.items():
        theirs = patches_image.weights(role)
        assert ours and theirs and (theirs.repo, theirs.revision) == ours
    monkeypatch.setenv("HIGGS_IMAGE_FILE", "/no/such/file")
    with pytest.raises(FileNotFoundError):
        image.read()
