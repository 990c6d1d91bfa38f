"""Plots of results as SVG, to be put into a page."""

from __future__ import annotations

import io
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from higgs_image.bench.report import mean_figures
from higgs_image.bench.result import BenchResult, Level, Round

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = ("#2563eb", "#d97706", "#059669", "#7c3aed")
"""Of servers."""
WAITING, PLAYING, BAD = "#cbd5e1", "#2563eb", "#dc2626"
"""Of a stream in the timeline."""

STYLE: Any = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "higgs",
    "font.family": ["sans-serif"],
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e2e8f0",
    "axes.axisbelow": True,
}


def over_load(results: Sequence[BenchResult]) -> list[str]:
    """Return plots of throughput and of the first sound over the load; none without two levels."""
    found = []
    for is_open in (False, True):
        lines = [(x, [y for y in x.levels if bool(y.load.rate) == is_open and y.figures()])
                 for x in results]  # fmt: skip
        if max((len(levels) for _, levels in lines), default=0) < 2:
            continue
        axis = "requests a second" if is_open else "listeners at once"
        found += [_throughput(lines, axis), _first_sound(lines, axis)]
    return found


def _throughput(lines: Sequence[tuple[BenchResult, Sequence[Level]]], axis: str) -> str:
    figure, plot = _new("Audio a second", axis, "seconds of audio a second")
    for color, (result, levels) in zip(itertools.cycle(COLORS), lines, strict=False):
        loads = [x.load.rate or x.load.at_once for x in levels]
        speeds = [mean_figures(x.figures()).audio_per_s for x in levels]
        plot.plot(loads, speeds, "o-", color=color, label=result.target.url)
    if axis.startswith("listeners"):
        most = max((x.load.at_once for _, levels in lines for x in levels), default=1)
        plot.plot([0, most], [0, most], ":", color="#94a3b8", label="real time for all")
    plot.legend(frameon=False)
    return _svg(figure)


def _first_sound(lines: Sequence[tuple[BenchResult, Sequence[Level]]], axis: str) -> str:
    figure, plot = _new("Time to the first sound", axis, "seconds")
    for color, (result, levels) in zip(itertools.cycle(COLORS), lines, strict=False):
        loads = [x.load.rate or x.load.at_once for x in levels]
        means = [mean_figures(x.figures()) for x in levels]
        name = f"{result.target.url}, " if len(lines) > 1 else ""
        for style, label, values in (
            ("o-", "p50", [x.first_p50_s for x in means]),
            ("s--", "p95", [x.first_p95_s for x in means]),
        ):
            plot.plot(loads, values, style, color=color, label=name + label)
    slo = lines[0][0].slo.first
    plot.axhline(slo, color=BAD, linewidth=1, linestyle=":", label=f"SLO {slo:g} s")
    plot.set_ylim(bottom=0)
    plot.legend(frameon=False)
    return _svg(figure)


def gaps(found: Round, title: str) -> str:
    """Return the histogram of the gaps between two arrivals."""
    figure, plot = _new(f"Gaps between arrivals, {title}", "milliseconds", "share of the gaps")
    total = sum(found.gaps.counts) or 1
    shares = [count / total for count in found.gaps.counts]
    edges = [f"{1000 * edge:g}" for edge in found.gaps.edges_s]
    names = [f"{a}-{b}" for a, b in itertools.pairwise(edges)] + [f"{edges[-1]}+"]
    last = max((n for n, count in enumerate(found.gaps.counts) if count), default=0)
    shown = min(len(names), max(last + 2, 6))
    plot.bar(names[:shown], shares[:shown], color=COLORS[0])
    plot.tick_params(axis="x", labelrotation=60)
    return _svg(figure)


def timeline(found: Round, title: str) -> str:
    """Return the streams of a round as bars: waiting, playing, and those that went wrong."""
    bars = sorted(found.timeline, key=lambda x: x.start_s)
    height = min(9.0, 1.6 + 0.06 * len(bars))
    figure, plot = _new(f"Streams, {title}", "seconds from the start", "", height)
    for place, bar in enumerate(bars):
        bad = bool(bar.failure or bar.underruns)
        first = bar.end_s if bar.failure else bar.first_s
        wait = BAD if bar.failure else WAITING
        plot.barh(place, first - bar.start_s, left=bar.start_s, color=wait, height=0.8)
        plot.barh(place, bar.end_s - first, left=first, color=BAD if bad else PLAYING, height=0.8)
    for color, name in ((WAITING, "waits"), (PLAYING, "sound"), (BAD, "underrun or failure")):
        plot.barh(0, 0, color=color, label=name)
    plot.set_yticks([])
    plot.grid(axis="y", visible=False)
    figure.legend(frameon=False, ncols=3, loc="upper right")
    return _svg(figure)


def _new(title: str, x: str, y: str, height: float = 3.4) -> tuple[Figure, Axes]:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, height), layout="constrained")
        plot = figure.subplots()
    plot.set_title(title, loc="left", fontsize=12)
    plot.set_xlabel(x)
    plot.set_ylabel(y)
    return figure, plot


def _svg(figure: Figure) -> str:
    """Return the SVG element alone: no prolog, no metadata."""
    import matplotlib as mpl

    out = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with mpl.rc_context(STYLE):
        figure.savefig(out, format="svg", transparent=True, metadata=nothing)
    text = out.getvalue()
    return text[text.index("<svg") :]
