"""Take the weights from directories, the same ones in both processes.

The fork cannot start unless `--audio-tokenizer-type` names a repository: the flag's default is a
name that was never public. `--audio-tokenizer-path` works in the process that answers requests, but
not in the engine's.

The image's entrypoint downloads all weights before the server starts. So the server takes
directories only, and both processes use the same one:

    --audio-tokenizer-type, --audio-tokenizer-path   directory of the audio tokenizer
    --semantic-model-path                            directory of another semantic model (HuBERT)
                                                     than the one in its model.pth

A missing directory or file ends the start with one line, before the engine is started.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from higgs_patches.lib import gpu_memory
from higgs_patches.lib.weights import WeightsError, complete
from higgs_patches.patch_settings import SEMANTIC_MODEL_PATH
from higgs_patches.patches.audio_tokenizer import FILES, OWNER

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

log = logging.getLogger("vllm.higgs_patches.audio_tokenizer")

PATCH = {
    "title": "Take the audio tokenizer from one directory in both processes",
    "issues": ["https://github.com/boson-ai/higgs-audio/issues/123"],
    "why": (
        "The default of --audio-tokenizer-type is an internal name, so a server without flags asks "
        "the hub for a private repository and exits. --audio-tokenizer-path is ignored "
        "by the engine's process, and no flag gives a revision."
    ),
    "obsolete_when": "both processes take --audio-tokenizer-path.",
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
    """Add the flag of the semantic model, and drop the default that cannot work."""

    @functools.wraps(original)
    def make_arg_parser(parser: ArgumentParser) -> ArgumentParser:
        parser = original(parser)
        parser.set_defaults(audio_tokenizer_type=None)
        parser.add_argument(
            "--semantic-model-path",
            metavar="DIRECTORY",
            default=SEMANTIC_MODEL_PATH.read() or None,
            help="Directory of the audio tokenizer's semantic model (HuBERT), if not the one in "
            f"its model.pth. Default: ${SEMANTIC_MODEL_PATH.variable}.",
        )
        return parser

    return make_arg_parser


def with_tokenizer(original: Callable[..., Any]) -> Callable[..., Any]:
    """Load the tokenizer before the engine starts; a problem with it is one line."""
    managed = contextlib.asynccontextmanager(original)

    @functools.wraps(original)
    async def build_async_engine_client(args: Namespace) -> AsyncIterator[Any]:
        os.environ[OWNER] = str(os.getpid())
        if args.semantic_model_path:
            os.environ[SEMANTIC_MODEL_PATH.variable] = args.semantic_model_path
        try:
            directory = _check(args)
            _load(directory)
        except WeightsError as error:
            log.error("The server cannot start: %s", error)  # noqa: TRY400 (no trace is needed)
            raise SystemExit(1) from None
        args.audio_tokenizer_type, args.audio_tokenizer_path = str(directory), None
        async with managed(args) as client:
            yield client

    return build_async_engine_client


def _check(args: Namespace) -> Path:
    """Return the tokenizer's directory.

    Raises:
        WeightsError: weights are not in a directory.
    """
    if "://" not in args.model and not Path(args.model).is_file():  # vLLM knows these, too
        complete("model", args.model, ["config.json"])
    tokenizer = args.audio_tokenizer_path or args.audio_tokenizer_type
    if not tokenizer:
        raise WeightsError("expected --audio-tokenizer-path with the audio tokenizer's directory")
    directory = complete("audio tokenizer", tokenizer, FILES)
    if args.semantic_model_path:
        complete("semantic model", args.semantic_model_path, ["config.json"])
    log.info("Using the audio tokenizer in %s", directory)
    return directory


def _load(directory: Path) -> None:
    """Load the tokenizer, which stays loaded: a bad one ends the start here, not after a minute."""
    from vllm.model_executor.models.higgs_audio_tokenizer import AudioTokenizer

    gpu_memory.limit()
    AudioTokenizer(str(directory), device="cuda")
