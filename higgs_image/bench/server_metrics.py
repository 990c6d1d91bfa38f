"""What a server says of itself at /metrics, before, during and after a round."""

from __future__ import annotations

import asyncio
import math
import re
from typing import Any

import aiohttp
import msgspec

from higgs_image.bench.target import Target, headers

INTERVAL = 1.0
"""Seconds between two looks during a round."""

NAMES = {
    "preemptions": ("vllm:num_preemptions_total", "vllm:num_preemptions"),
    "running": ("vllm:num_requests_running",),
    "waiting": ("vllm:num_requests_waiting",),
    "cache_use": ("vllm:gpu_cache_usage_perc", "vllm:kv_cache_usage_perc"),
    "queries": ("vllm:gpu_prefix_cache_queries_total", "vllm:prefix_cache_queries_total",
                "vllm:gpu_prefix_cache_queries"),
    "hits": ("vllm:gpu_prefix_cache_hits_total", "vllm:prefix_cache_hits_total",
             "vllm:gpu_prefix_cache_hits"),
}  # fmt: skip
"""Names in vLLM's versions, the first that is there counts."""

_LINE = re.compile(r"([A-Za-z_:][\w:]*)(?:\{.*\})?\s+([^\s]+)")

Sample = dict[str, float]


class MetricsChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What /metrics said about a round.

    Attributes:
        preemptions: requests that lost their place in the cache and began again.
        running_max: most requests that ran at once.
        waiting_max: longest queue.
        cache_use_max: fullest cache, as a share.
        prefix_hit_share: share of the prompts' tokens that were in the prefix cache; None: unknown.
    """

    preemptions: float
    running_max: float
    waiting_max: float
    cache_use_max: float
    prefix_hit_share: float | None = None


def parse(text: str) -> Sample:
    """Return the figures of Prometheus' text format by our names; series of one name are added."""
    found: Sample = {}
    for line in text.splitlines():
        if line.startswith("#") or not (match := _LINE.fullmatch(line.strip())):
            continue
        try:
            value = float(match[2])
        except ValueError:
            continue
        if math.isfinite(value):
            found[match[1]] = found.get(match[1], 0.0) + value
    return {
        name: next(found[x] for x in names if x in found)
        for name, names in NAMES.items()
        if any(x in found for x in names)
    }


def change(samples: list[Sample]) -> MetricsChange | None:
    """Return what samples of a round, in order, say; None if there is none."""
    known = [x for x in samples if x]
    if not known:
        return None

    def most(name: str) -> float:
        return max((x[name] for x in known if name in x), default=0.0)

    def grown(name: str) -> float:
        return known[-1].get(name, 0.0) - known[0].get(name, 0.0)

    queries = grown("queries")
    return MetricsChange(
        grown("preemptions"), most("running"), most("waiting"), round(most("cache_use"), 4),
        round(grown("hits") / queries, 4) if queries > 0 else None,
    )  # fmt: skip


class MetricsWatch:
    """Looks at a server's /metrics while a round runs."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self.samples: list[Sample] = []
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> MetricsWatch:
        self._session = aiohttp.ClientSession(
            headers=headers(),
            timeout=aiohttp.ClientTimeout(total=5),
            trust_env=self._target.by_proxy,
        )
        await self._look()
        if self.samples[-1]:
            self._task = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *_: Any) -> None:
        if self._task:
            self._task.cancel()
            await self._look()
        await self._session.close()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL)
            await self._look()

    async def _look(self) -> None:
        try:
            async with self._session.get(f"{self._target.url}/metrics") as answer:
                text = await answer.text() if answer.status == 200 else ""
        except (aiohttp.ClientError, TimeoutError):
            text = ""
        self.samples.append(parse(text))
