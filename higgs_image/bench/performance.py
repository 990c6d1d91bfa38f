"""The table of docs/performance.md: what was measured on each card, and what others claim."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from higgs_image import table
from higgs_image.audio import FRAMES_PER_SECOND
from higgs_image.bench import cards, report, result
from higgs_image.bench.cards import Card
from higgs_image.bench.result import BenchResult, Level
from higgs_image.verdict import Verdict

RESULTS = "benchmarks/results"
"""Folder of published results, from the checkout."""


def published(root: Path) -> list[tuple[str, BenchResult]]:
    """Return name and content of each published result, oldest first.

    Raises:
        UsageError: one is malformed.
    """
    files = sorted((root / RESULTS).glob("bench-*.json"))
    found = [(path.name, result.load(path)) for path in files]
    return sorted(found, key=lambda x: x[1].started)


def card_table(root: Path) -> str:
    """Return the table of cards as Markdown: measured, or not measured."""
    results = published(root)
    rows = [_card_row(card, [x for x in results if cards.find(x[1].server.gpu) == card])
            for card in cards.cards()]  # fmt: skip
    heads = ("card", "memory", "audio tokens/s", "audio s/s", "first sound p95", "listeners",
             "audio hours/$", "measured", "claimed elsewhere, tokens/s")  # fmt: skip
    return table.markdown(heads, rows)


def _card_row(card: Card, results: Sequence[tuple[str, BenchResult]]) -> list[str]:
    claimed = "; ".join(f"{value} ({who})" for who, value in card.claimed.items())
    head = [card.name, f"{card.memory_gb} GB"]
    best = max(
        ((level, name, one) for name, one in results for level in one.levels if level.figures()),
        key=lambda x: (x[0].verdict is Verdict.PASS, _speed(x[0])),
        default=None,
    )
    if best is None:
        return [*head, *["-"] * 5, "not measured", claimed]
    level, name, one = best
    x = report.mean_figures(level.figures())
    listeners = str(one.capacity.listeners) if one.capacity else level.load.text()
    dollars = f"{one.cost.audio_hours_per_dollar:g}" if one.cost else "-"
    link = f"[{one.started:%Y-%m-%d}](../{RESULTS}/{name})"
    note = f", {one.server.note}" if one.server.note else ""
    return [*head, f"{x.tokens_per_s:.0f}", f"{x.audio_per_s:.1f}", f"{x.first_p95_s:.2f} s",
            listeners, dollars, f"measured {link}{note}", claimed]  # fmt: skip


def listeners(root: Path, card: Card) -> str:
    """Return how many people one card serves at once: as measured, as claimed, or neither."""
    found = [one.capacity.listeners for _, one in published(root)
             if one.capacity and cards.find(one.server.gpu) == card]  # fmt: skip
    if found:
        return f"{max(found)} measured"
    if card.claimed:
        return f"{min(card.claimed.values()) // FRAMES_PER_SECOND} claimed"
    return "not measured"


def _speed(level: Level) -> float:
    return report.mean_figures(level.figures()).audio_per_s


def run_table(root: Path) -> str:
    """Return every published result as Markdown, one row for each load."""
    rows = [
        [f"[{one.started:%Y-%m-%d}](../{RESULTS}/{name})", one.server.gpu or one.server.note or "?",
         *report.row(level)]
        for name, one in published(root)
        for level in one.levels
    ]  # fmt: skip
    if not rows:
        return "None is published yet."
    return table.markdown(("run", "server", *report.HEADS), rows)
