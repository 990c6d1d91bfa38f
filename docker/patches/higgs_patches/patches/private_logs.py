"""Keep texts, reference audio and the API key out of the log, unless they are asked for.

The fork logs the prompt of every request, and at the start all flags, the API key among them. Here
`--log-requests` turns the first on, and the key is never logged.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

PATCH = {
    "title": "Log no texts and no API key by default",
    "issues": ["https://github.com/vllm-project/vllm/issues/1240"],
    "why": "Prompts of all requests are in the log, and so is a key that is given by --api-key.",
    "obsolete_when": "requests are only logged with a flag, and the log of the flags has no key.",
    "targets": [
        {
            "file": "vllm/entrypoints/bosonai/api_server.py",
            "name": "make_arg_parser",
            "how": "wrap",
            "with": "with_log_flag",
            "sha256": "2b2d8e7785b85e67f84e4bb7f1f511abecca6487034e501f31b42d2fd96079a0",
        },
        {
            "file": "vllm/entrypoints/bosonai/api_server.py",
            "name": "run_server",
            "how": "wrap",
            "with": "with_hidden_key",
            "sha256": "1e806a9452ae713fcc7f5d50f97613d27d87b5141b6218e2965fb402fa15da7b",
        },
    ],
}


def with_log_flag(original: Callable[..., ArgumentParser]) -> Callable[..., ArgumentParser]:
    """Log requests only with `--log-requests`."""

    @functools.wraps(original)
    def make_arg_parser(parser: ArgumentParser) -> ArgumentParser:
        parser = original(parser)
        parser.set_defaults(disable_log_requests=True)
        parser.add_argument(
            "--log-requests",
            dest="disable_log_requests",
            action="store_false",
            help="Log every request with its text. Default: requests are not logged.",
        )
        return parser

    return make_arg_parser


def with_hidden_key(original: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """Move the key from the flags, which are logged, to the environment, which is not."""

    @functools.wraps(original)
    async def run_server(args: Namespace, **kwargs: Any) -> None:
        if args.api_key:
            os.environ["VLLM_API_KEY"], args.api_key = args.api_key, None
        await original(args, **kwargs)

    return run_server
