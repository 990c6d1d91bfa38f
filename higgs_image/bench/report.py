"""Present a result to a person: as a table in a terminal, and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from higgs_image import table
from higgs_image.bench.result import BenchResult, Figures, Level, Settings

HEADS = ("load", "requests", "failed", "audio s/s", "tokens/s", "requests/s", "goodput/s",
         "first sound p50", "p95", "p99", "gap p99", "RTF p95", "no underrun", "SLO")  # fmt: skip


@dataclass(frozen=True)
class MeanFigures:
    """The means of a level's rounds."""

    audio_per_s: float
    tokens_per_s: float
    requests_per_s: float
    good_per_s: float
    first_p50_s: float
    first_p95_s: float
    first_p99_s: float
    gap_p99_s: float
    rtf_p95: float
    smooth_share: float


def mean_figures(rounds: Sequence[Figures]) -> MeanFigures:
    """Return the means over rounds; there has to be at least one."""
    values = [
        (x.audio_per_s, x.audio_tokens_per_s, x.requests_per_s, x.good_per_s, x.first_sound_s.p50,
         x.first_sound_s.p95, x.first_sound_s.p99, x.gap_s.p99, x.rtf.p95, x.smooth_share)
        for x in rounds
    ]  # fmt: skip
    return MeanFigures(*np.mean(values, axis=0).tolist())


def row(level: Level) -> list[str]:
    """Return the cells of a level, in the order of HEADS."""
    requests = sum(x.requests for x in level.rounds)
    failed = sum(sum(x.failures.values()) for x in level.rounds)
    cells = [level.load.text(), str(requests), str(failed)]
    if not (rounds := level.figures()):
        return [*cells, *["-"] * (len(HEADS) - 4), level.verdict]
    x = mean_figures(rounds)
    return [
        *cells,
        f"{x.audio_per_s:.2f}",
        f"{x.tokens_per_s:.0f}",
        f"{x.requests_per_s:.2f}",
        f"{x.good_per_s:.2f}",
        *(f"{1000 * y:.0f} ms" for y in (x.first_p50_s, x.first_p95_s, x.first_p99_s, x.gap_p99_s)),
        f"{x.rtf_p95:.3f}",
        f"{100 * x.smooth_share:.1f} %",
        level.verdict,
    ]


def remarks(result: BenchResult) -> list[str]:
    """Return what has to be said beside the table, a line each."""
    found = [f"{x.load.text()}: {x.reason}" for x in result.levels if x.reason]
    for level in result.levels:
        examples = {kind: text for x in level.rounds for kind, text in x.examples.items()}
        found += [f"{level.load.text()}: {kind}: {text}" for kind, text in examples.items()]
        if preemptions := sum(x.server.preemptions for x in level.rounds if x.server):
            found.append(f"{level.load.text()}: {preemptions:.0f} preemptions")
    found += [f"note: {x}" for x in result.notes]
    if cost := result.cost:
        when = f" of {cost.date}" if cost.date else ""
        found.append(
            f"cost: {cost.audio_hours_per_dollar:.1f} hours of audio for a dollar at "
            f"{cost.load.text()} (${cost.dollars_per_hour:g} an hour{when}: {cost.source})"
        )
    if result.capacity:
        found.append(result.capacity.sentence)
    return found


def server_line(result: BenchResult) -> str:
    """Return what was loaded, in one line."""
    server, target = result.server, result.target
    card = f"{server.gpus or 1} x {server.gpu}" if server.gpu else ""
    card += f", driver {server.driver}" if server.driver else ""
    how = "streamed" if target.streamed else "whole"
    parts = [target.url, f"{target.route}, {target.form}, {how}", card, server.version,
             server.image, server.digest or "", server.note]  # fmt: skip
    return "; ".join(x for x in parts if x)


def own_lag(result: BenchResult) -> str:
    """Return what the tool measured of itself, in one line: the worst of all rounds."""
    own = [x.lag for level in result.levels for x in level.rounds]
    if not own:
        return ""
    return (
        f"p99 {max(x.loop_p99_ms for x in own):.1f} ms, "
        f"{max(x.cores for x in own):.2f} cores, {max(x.memory_mb for x in own):.0f} MB"
    )


def duration(settings: Settings) -> str:
    """Return how long was measured."""
    length = f"{settings.seconds:g} s" if settings.seconds else f"{settings.count} requests"
    return f"{settings.rounds} x {length} after {settings.warmup_s:g} s of warm-up"


def mix(settings: Settings) -> str:
    """Return what was spoken."""
    texts = ", ".join(f"{count} {size}" for size, count in settings.texts.items())
    return f"{texts} ({', '.join(settings.languages) or 'own'})"


def text(result: BenchResult) -> str:
    """Return a result as a person reads it in a terminal."""
    rows = [HEADS, *(row(x) for x in result.levels)]
    shown = table.text(rows, right=range(1, len(HEADS) - 1))
    head = [
        f"server   {server_line(result)}",
        f"SLO      {result.slo.text()}",
        f"own lag  {own_lag(result)}",
    ]
    return "\n".join([*head, "", shown, "", *remarks(result)]).rstrip()


def markdown(result: BenchResult) -> str:
    """Return a result as Markdown, for a job's summary or an issue."""
    client, settings = result.client, result.settings
    return "\n".join([
        "## Benchmark",
        "",
        f"`{server_line(result)}`, {result.started:%Y-%m-%d %H:%M} UTC",
        "",
        table.markdown(HEADS, [row(x) for x in result.levels]),
        "",
        f"SLO: {result.slo.text()}. {duration(settings)}; texts: {mix(settings)}; "
        f"seed {settings.seed}.",
        "",
        *(f"- {x}" for x in remarks(result)),
        "",
        f"Client: {client.processor}, {client.cores} cores, {client.system}, "
        f"commit {client.commit[:7] or 'unknown'}.",
        *([f"Server's start: `{result.server.start_line}`"] if result.server.start_line else []),
        "",
    ])  # fmt: skip
