"""A whole benchmark: from options to a result."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import time
from collections import Counter
from dataclasses import dataclass, field

import msgspec

from higgs_image.bench import server_facts
from higgs_image.bench.client_facts import client_facts
from higgs_image.bench.cost import cost
from higgs_image.bench.find import find_capacity
from higgs_image.bench.judge import judge
from higgs_image.bench.load import Job, Load
from higgs_image.bench.options import BenchOptions
from higgs_image.bench.progress import shown
from higgs_image.bench.result import SCHEMA, BenchResult, Capacity, Level, Round, Settings
from higgs_image.bench.round import RoundOptions, run_round
from higgs_image.bench.server_facts import ServerFacts
from higgs_image.bench.workload import ONE_VOICE, Workload

DEFAULT_MODEL = "higgs-audio-v2"
"""For a server that does not tell its models."""


@dataclass
class _Server:
    """One server of a benchmark, and what was measured of it."""

    options: BenchOptions
    facts: ServerFacts
    workload: Workload
    levels: dict[Load, Level] = field(default_factory=dict)
    capacity: Capacity | None = None

    async def measure(self, load: Load, number: int) -> Round:
        """Run one round; its number changes arrivals, not texts and voices."""
        o = self.options
        job = Job(o.target, self.workload, load, 0, 1, o.warmup_s, 0.0 if o.count else o.seconds,
                  o.count, o.timeout_s, o.buffer_s, o.seed * 1000 + number)  # fmt: skip
        more = f", round {number + 1} of {o.rounds}" if o.rounds > 1 else ""
        with shown(job, f"{o.target.url}: {load.text()}{more}") as report:
            return await run_round(job, RoundOptions(o.slo, o.records, o.arrivals), report)

    def add(self, load: Load, found: Round) -> Level:
        before = self.levels[load].rounds if load in self.levels else []
        self.levels[load] = level = judge(load, [*before, found], self.options.slo)
        return level


def run(options: BenchOptions, *peers: BenchOptions) -> list[BenchResult]:
    """Load a server, and others beside it in turn, and return a result for each.

    Args:
        options: for the first server.
        peers: for others; the loads of the first count.

    Raises:
        NetworkError: a server does not answer.
        UsageError: it lacks what was asked for.
    """
    return asyncio.run(_run([options, *peers]))


async def _run(all_options: list[BenchOptions]) -> list[BenchResult]:
    started, begun = datetime.datetime.now(datetime.UTC), time.monotonic()
    client = client_facts()
    servers = [_server(x) for x in all_options]
    first = all_options[0]
    if first.find:
        for server in servers:
            server.capacity = await _find(server)
    else:
        for load in first.loads:
            for number in range(first.rounds):
                # Each second round in the opposite order: drift of the machine hits all alike.
                for server in servers[:: -1 if number % 2 else 1]:
                    server.add(load, await server.measure(load, number))
    seconds = round(time.monotonic() - begun, 1)
    return [
        BenchResult(
            SCHEMA, started.replace(microsecond=0), seconds, x.options.target, x.facts, client,
            _settings(x), x.options.slo,
            sorted(x.levels.values(), key=lambda y: (y.load.rate, y.load.at_once)),
            _notes(x), x.capacity,
            cost(list(x.levels.values()), x.options.price, x.facts.gpu, x.facts.gpus),
        )
        for x in servers
    ]  # fmt: skip


async def _find(server: _Server) -> Capacity:
    async def measure(at: int) -> Level:
        load = Load(at)
        for number in range(server.options.rounds):
            server.add(load, await server.measure(load, number))
        return server.levels[load]

    return await find_capacity(measure, server.options.most, server.options.slo)


def _server(options: BenchOptions) -> _Server:
    url = options.target.url
    server_facts.require_answer(url)
    facts = server_facts.find_facts(url, options.facts)
    known = server_facts.voices(url) if options.voices == "many" else []
    if not options.target.model:
        model = facts.models[0] if facts.models else DEFAULT_MODEL
        target = msgspec.structs.replace(options.target, model=model)
        options = dataclasses.replace(options, target=target)
    return _Server(options, facts, options.workload(known))


def _settings(server: _Server) -> Settings:
    o, mix = server.options, server.workload
    return Settings(
        o.seed, o.warmup_s, 0.0 if o.count else o.seconds, o.count, o.rounds, o.buffer_s,
        o.timeout_s, dict(Counter(x.size for x in mix.texts)),
        sorted({x.language for x in mix.texts if x.language}), list(mix.voices),
        mix.reference is not None,
    )  # fmt: skip


def _notes(server: _Server) -> list[str]:
    notes = []
    if len(server.workload.voices) == 1 and server.workload.reference is None:
        notes.append(ONE_VOICE)
    shares = [
        x.server.prefix_hit_share
        for level in server.levels.values()
        for x in level.rounds
        if x.server and x.server.prefix_hit_share is not None
    ]
    if shares:
        notes.append(f"{100 * max(shares):.0f} % of the prompts' tokens were in the prefix cache")
    if not server.options.target.streamed:
        notes.append("whole answers: the first sound comes with the last; no player is simulated")
    return notes
