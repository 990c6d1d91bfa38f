"""Where the audio tokenizer comes from; what is loaded is shown on the real server."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from higgs_patches.lib.weights_source import MissingFileError, Source, WeightsError
from higgs_patches.patches import audio_tokenizer, tokenizer_lookup

REPO, REVISION = "owner/tokenizer", "a" * 40


@pytest.fixture(autouse=True)
def _image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "image.json"
    file.write_text(
        json.dumps({"weights": {"audio-tokenizer": {"repo": REPO, "revision": REVISION}}})
    )
    monkeypatch.setenv("HIGGS_IMAGE_FILE", str(file))
    for name in (audio_tokenizer.SEMANTIC_PATH, audio_tokenizer.SEMANTIC_REVISION):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv(audio_tokenizer.OWNER, "")
    monkeypatch.chdir(tmp_path)


@tokenizer_lookup.with_flags
def parser(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("--audio-tokenizer-type", default="an_internal_name")
    parser.add_argument("--audio-tokenizer-path")
    parser.add_argument("--model", default="m")
    parser.add_argument("--revision")
    return parser


def parse(*flags: str) -> argparse.Namespace:
    return parser(argparse.ArgumentParser()).parse_args(flags)


def tokenizer(path: Path, *files: str) -> Path:
    path.mkdir()
    for name in files or audio_tokenizer.FILES:
        (path / name).write_text("{}")
    return path


def test_without_flags_it_is_the_images_at_its_revision() -> None:
    found = tokenizer_lookup.wanted(parse())
    assert (found.place, found.revision) == (REPO, REVISION)
    assert str(found) == f"the audio tokenizer {REPO} at {REVISION}"


@pytest.mark.parametrize(
    ("flags", "place", "revision"),
    [
        (["--audio-tokenizer-type", REPO], REPO, REVISION),
        (["--audio-tokenizer-type", "other/one"], "other/one", None),
        (["--audio-tokenizer-revision", "v2"], REPO, "v2"),
        (["--audio-tokenizer-type", "o/x", "--audio-tokenizer-revision", "v2"], "o/x", "v2"),
        (["--audio-tokenizer-type", "here"], "here", None),
        (["--audio-tokenizer-path", "here"], "here", None),
        (["--audio-tokenizer-path", "here", "--audio-tokenizer-type", "o/x"], "here", None),
    ],
)
def test_flags_name_another(
    tmp_path: Path, flags: list[str], place: str, revision: str | None
) -> None:
    tokenizer(tmp_path / "here")
    found = tokenizer_lookup.wanted(parse(*flags))
    assert (found.place, found.revision) == (place, revision)


def test_a_path_that_is_no_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="--audio-tokenizer-path nowhere is no directory"):
        tokenizer_lookup.wanted(parse("--audio-tokenizer-path", "nowhere"))


def test_outside_the_image_the_flag_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HIGGS_IMAGE_FILE", str(tmp_path / "none"))
    with pytest.raises(WeightsError, match="give --audio-tokenizer-type"):
        tokenizer_lookup.wanted(parse())
    assert tokenizer_lookup.wanted(parse("--audio-tokenizer-type", "o/x")).place == "o/x"


def test_the_semantic_model_is_named_by_flag_or_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert parse().semantic_model_path is None
    monkeypatch.setenv(audio_tokenizer.SEMANTIC_PATH, "/hubert")
    monkeypatch.setenv(audio_tokenizer.SEMANTIC_REVISION, "v1")
    assert parse().semantic_model_path == "/hubert"
    assert parse().semantic_model_revision == "v1"
    assert parse("--semantic-model-path", "/mine").semantic_model_path == "/mine"


def test_a_directory_is_taken_if_it_is_whole(tmp_path: Path) -> None:
    whole = tokenizer(tmp_path / "whole")
    source = Source("audio tokenizer", str(whole), None, "--flag")
    assert source.fetch(audio_tokenizer.FILES) == whole
    (whole / "model.pth").unlink()
    with pytest.raises(MissingFileError, match=r"has no model\.pth .*--flag"):
        source.fetch(audio_tokenizer.FILES)


@pytest.mark.parametrize("place", ["./x", "/x", "../x", "~/x", "a/b/c"])
def test_a_missing_directory_is_not_asked_for_on_the_hub(place: str) -> None:
    with pytest.raises(WeightsError, match="is no directory here: correct --flag"):
        Source("audio tokenizer", place, None, "--flag").fetch(["x"])


def run(args: argparse.Namespace, seen: list[Any]) -> None:
    """Start and stop an engine as the server does."""

    async def original(args: argparse.Namespace) -> AsyncIterator[str]:
        seen.append((args.audio_tokenizer_type, args.audio_tokenizer_path))
        try:
            yield "client"
        finally:
            seen.append("stopped")

    async def serve() -> None:
        start = contextlib.asynccontextmanager(tokenizer_lookup.with_tokenizer(original))
        async with start(args) as client:
            assert client == "client"
            raise KeyError("in the server")

    asyncio.run(serve())


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Record what is loaded, without PyTorch."""
    found: list[Path] = []
    monkeypatch.setattr(tokenizer_lookup, "_load", found.append)
    return found


def test_both_processes_are_given_one_directory(tmp_path: Path, loaded: list[Path]) -> None:
    model, whole = tokenizer(tmp_path / "m", "config.json"), tokenizer(tmp_path / "whole")
    seen: list[Any] = []
    with pytest.raises(KeyError, match="in the server"):
        run(parse("--model", str(model), "--audio-tokenizer-path", "whole"), seen)
    assert seen == [("whole", None), "stopped"]
    assert loaded == [Path("whole")]
    assert os.environ[audio_tokenizer.OWNER] == str(os.getpid())
    assert whole.is_dir()


@pytest.mark.parametrize("model", ["s3://bucket/model", "m/config.json"])
def test_other_places_of_a_model_are_left_to_the_engine(
    tmp_path: Path, loaded: list[Path], model: str
) -> None:
    tokenizer(tmp_path / "m")
    seen: list[Any] = []
    with pytest.raises(KeyError, match="in the server"):
        run(parse("--model", model, "--audio-tokenizer-path", "m"), seen)
    assert seen


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--model", "./none"], "the model ./none is no directory here"),
        (["--model", "m", "--audio-tokenizer-path", "none"], "none is no directory"),
        (["--model", "m", "--audio-tokenizer-path", "m"], r"has no model\.pth"),
        (["--model", "empty"], "the model empty has no config.json"),
    ],
)
def test_a_bad_start_ends_with_one_line_before_the_engine(
    tmp_path: Path,
    loaded: list[Path],
    caplog: pytest.LogCaptureFixture,
    flags: list[str],
    said: str,
) -> None:
    tokenizer(tmp_path / "m", "config.json")
    (tmp_path / "empty").mkdir()
    seen: list[Any] = []
    with pytest.raises(SystemExit) as ended:
        run(parse(*flags), seen)
    assert ended.value.code == 1
    assert not seen
    [record] = [record for record in caplog.records if record.levelname == "ERROR"]
    caplog.clear()
    assert re.search(said, record.getMessage())
    assert "\n" not in record.getMessage()
