"""Finds the audio tokenizer without a flag, at its pinned revision.

The server that is patched here does not start unless `--audio-tokenizer-type` names a repository:
the flag's default is a name that was never public. `--audio-tokenizer-path` works in the process
that answers requests, but not in the engine's, and its revision cannot be given.

Instead the tokenizer's directory is looked up once, before the engine starts, and both processes
use that directory:

    --audio-tokenizer-type      repository or local directory; default: the image's (`image`)
    --audio-tokenizer-revision  its commit, tag or branch; default: the image's, for its repository
    --audio-tokenizer-path      local directory; wins over the type

The tokenizer's semantic model (HuBERT) is part of its model.pth, see `audio_tokenizer`; another can
be given by --semantic-model-path and --semantic-model-revision.

What cannot be had is said in one line, and the server ends: a repository that is not there or not
public, no connection and nothing in the cache, a directory that lacks a file. The model is looked
for in the same way first.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from higgs_patches.lib import image
from higgs_patches.lib.weights_source import Source, WeightsError
from higgs_patches.patches.audio_tokenizer import (
    FILES,
    OWNER,
    SEMANTIC_PATH,
    SEMANTIC_REVISION,
    TYPE_FLAG,
    WHAT,
)

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

log = logging.getLogger("vllm.higgs_patches.audio_tokenizer")

PATCH = {
    "title": "Find the audio tokenizer without flags and at its pinned revision",
    "issues": ["https://github.com/boson-ai/higgs-audio/issues/123"],
    "why": (
        "The default of --audio-tokenizer-type is an internal name, so a server without flags asks "
        "the hub for a repository that nobody can read and ends. --audio-tokenizer-path is ignored "
        "by the engine's process, and no flag gives a revision."
    ),
    "obsolete_when": (
        "make_arg_parser gives --audio-tokenizer-type a public default and has a flag for its "
        "revision, and both processes take --audio-tokenizer-path."
    ),
    "targets": [
        {
            "file": "vllm/entrypoints/bosonai/api_server.py",
            "name": "make_arg_parser",
            "how": "wrap",
            "with": "with_flags",
            "sha256": "2b2d8e7785b85e67f84e4bb7f1f511abecca6487034e501f31b42d2fd96079a0",
        },
        {
            "file": "vllm/entrypoints/bosonai/api_server.py",
            "name": "build_async_engine_client",
            "how": "wrap",
            "with": "with_tokenizer",
            "sha256": "521842aea99b3c0dbbab6452fadcc3e2477f514113791d5f67ac922254a886ec",
        },
    ],
}


def with_flags(original: Callable[..., ArgumentParser]) -> Callable[..., ArgumentParser]:
    """Give the server the flags that it lacks, and a default that works."""

    @functools.wraps(original)
    def make_arg_parser(parser: ArgumentParser) -> ArgumentParser:
        parser = original(parser)
        parser.set_defaults(audio_tokenizer_type=None)
        group = parser.add_argument_group("audio tokenizer")
        group.add_argument(
            "--audio-tokenizer-revision",
            metavar="REVISION",
            help="Commit, tag or branch of the audio tokenizer's repository. Default: the image's.",
        )
        group.add_argument(
            "--semantic-model-path",
            metavar="DIRECTORY",
            default=os.environ.get(SEMANTIC_PATH) or None,
            help="Directory of the audio tokenizer's semantic model (HuBERT), "
            f"if not the one in its model.pth. Default: ${SEMANTIC_PATH}.",
        )
        group.add_argument(
            "--semantic-model-revision",
            metavar="REVISION",
            default=os.environ.get(SEMANTIC_REVISION) or None,
            help="Commit, tag or branch of the semantic model's repository, "
            f"if not the one in model.pth is wanted. Default: ${SEMANTIC_REVISION}.",
        )
        return parser

    return make_arg_parser


def wanted(args: Namespace) -> Source:
    """Return where the audio tokenizer comes from.

    Raises:
        WeightsError: nothing says it, or a directory is none.
    """
    pin = image.weights("audio-tokenizer")
    if args.audio_tokenizer_path:
        if not Path(args.audio_tokenizer_path).is_dir():
            raise WeightsError(
                f"--audio-tokenizer-path {args.audio_tokenizer_path} is no directory"
            )
        return Source(WHAT, args.audio_tokenizer_path, None, "--audio-tokenizer-path")
    place = args.audio_tokenizer_type or (pin and pin.repo)
    if not place:
        raise WeightsError(
            f"which audio tokenizer? Outside the image there is no default: give {TYPE_FLAG}"
        )
    revision = args.audio_tokenizer_revision
    if revision is None and pin and place == pin.repo:
        revision = pin.revision
    return Source(WHAT, place, revision, TYPE_FLAG)


def with_tokenizer(original: Callable[..., Any]) -> Callable[..., Any]:
    """Look the tokenizer up before the engine starts; what is wrong with it is said in one line."""
    managed = contextlib.asynccontextmanager(original)

    @functools.wraps(original)
    async def build_async_engine_client(args: Namespace) -> AsyncIterator[Any]:
        settings = {
            OWNER: str(os.getpid()),
            SEMANTIC_PATH: args.semantic_model_path,
            SEMANTIC_REVISION: args.semantic_model_revision,
        }
        os.environ.update({name: value for name, value in settings.items() if value})
        try:
            _check_model(args)
            source = wanted(args)
            directory = source.fetch(FILES)
            log.info("Using %s, in %s", source, directory)
            _load(directory)
        except (WeightsError, image.ImageFileError) as error:
            log.error("The server cannot start: %s", error)  # noqa: TRY400 (no trace is needed)
            raise SystemExit(1) from None
        args.audio_tokenizer_type, args.audio_tokenizer_path = str(directory), None
        async with managed(args) as client:
            yield client

    return build_async_engine_client


def _check_model(args: Namespace) -> None:
    """Say in one line what vLLM says in a hundred. It knows more places than the hub: let it."""
    if "://" not in args.model and not Path(args.model).is_file():
        Source("model", args.model, args.revision, "--model").fetch(["config.json"])


def _load(directory: Path) -> None:
    """Load the tokenizer, which stays loaded: a bad one ends the start here, not after a minute."""
    from vllm.model_executor.models.higgs_audio_tokenizer import AudioTokenizer

    AudioTokenizer(str(directory), device="cuda")
