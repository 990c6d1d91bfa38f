"""Directories of weights; that they are loaded is shown on the real server."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from higgs_patches.patch_settings import SEMANTIC_MODEL_PATH
from higgs_patches.patches import audio_tokenizer, tokenizer_lookup


@pytest.fixture(autouse=True)
def _environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SEMANTIC_MODEL_PATH.variable, "")
    monkeypatch.setenv(audio_tokenizer.OWNER, "")
    monkeypatch.chdir(tmp_path)


@tokenizer_lookup.with_flags
def parser(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("--audio-tokenizer-type", default="an_internal_name")
    parser.add_argument("--audio-tokenizer-path")
    parser.add_argument("--model", default="m")
    return parser


def parse(*flags: str) -> argparse.Namespace:
    return parser(argparse.ArgumentParser()).parse_args(flags)


def tokenizer(path: Path, *files: str) -> Path:
    path.mkdir()
    for name in files or audio_tokenizer.FILES:
        (path / name).write_text("{}")
    return path


def test_the_semantic_model_is_named_by_flag_or_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert parse().semantic_model_path is None
    monkeypatch.setenv(SEMANTIC_MODEL_PATH.variable, "/hubert")
    assert parse().semantic_model_path == "/hubert"
    assert parse("--semantic-model-path", "/mine").semantic_model_path == "/mine"


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


@pytest.mark.parametrize(
    "flags",
    [
        ["--audio-tokenizer-path", "whole"],
        ["--audio-tokenizer-type", "whole"],
        ["--audio-tokenizer-path", "whole", "--audio-tokenizer-type", "nobody/nothing"],
    ],
)
def test_both_processes_are_given_one_directory(
    tmp_path: Path, loaded: list[Path], flags: list[str]
) -> None:
    tokenizer(tmp_path / "m", "config.json")
    tokenizer(tmp_path / "whole")
    seen: list[Any] = []
    with pytest.raises(KeyError, match="in the server"):
        run(parse(*flags, "--semantic-model-path", "m"), seen)
    assert seen == [("whole", None), "stopped"]
    assert loaded == [Path("whole")]
    assert os.environ[audio_tokenizer.OWNER] == str(os.getpid())
    assert SEMANTIC_MODEL_PATH.read() == "m"


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
        (["--model", "./none"], "the model './none' is not a directory: .* entrypoint"),
        (["--model", "owner/name"], "the model 'owner/name' is not a directory: .* entrypoint"),
        (["--model", "m"], "expected --audio-tokenizer-path"),
        (["--model", "m", "--audio-tokenizer-path", "none"], "tokenizer 'none' is not a directory"),
        (["--model", "m", "--audio-tokenizer-type", "a/b"], "tokenizer 'a/b' is not a directory"),
        (["--model", "m", "--audio-tokenizer-path", "m"], r"tokenizer in m lacks model\.pth"),
        (["--model", "empty"], r"the model in empty lacks config\.json"),
        (
            ["--audio-tokenizer-path", "whole", "--semantic-model-path", "x/y"],
            "the semantic model 'x/y' is not a directory",
        ),
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
    tokenizer(tmp_path / "whole")
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
