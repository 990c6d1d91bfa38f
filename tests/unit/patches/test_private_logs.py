"""What the log holds by default."""

from __future__ import annotations

import argparse
import asyncio
import os
from types import SimpleNamespace
from typing import Any

import pytest
from higgs_patches.patches import private_logs


@private_logs.with_log_flag
def parser(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("--disable-log-requests", action="store_true")
    return parser


@pytest.mark.parametrize(
    ("flags", "disabled"),
    [([], True), (["--disable-log-requests"], True), (["--log-requests"], False)],
)
def test_requests_are_logged_only_if_asked_for(flags: list[str], disabled: bool) -> None:
    assert parser(argparse.ArgumentParser()).parse_args(flags).disable_log_requests is disabled


def test_the_key_is_not_among_the_flags_that_are_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    seen: list[Any] = []

    async def run_server(args: Any, **_: Any) -> None:
        seen.append(vars(args).copy())

    asyncio.run(
        private_logs.with_hidden_key(run_server)(SimpleNamespace(api_key="secret"))  # type: ignore[arg-type]
    )
    assert seen == [{"api_key": None}]
    assert os.environ["VLLM_API_KEY"] == "secret"
