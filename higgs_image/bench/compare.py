"""Compare two results: a verdict that knows about noise.

Rounds of the same load are paired in the order in which they ran. The interval is Student's, at
95 %, of the logarithms of their ratios: what differs from round to round is noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np

from higgs_image import table
from higgs_image.bench.load import Load
from higgs_image.bench.result import BenchResult, Figures
from higgs_image.verdict import Verdict

MARGIN = 0.05
"""Share by which a figure may be worse, by default."""
FEWEST = 3
"""Rounds without which no interval is given."""

STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179,
           2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086)  # fmt: skip
"""Two-sided 95 % quantiles of Student's distribution for 1, 2, ... degrees of freedom."""


class Compared(msgspec.Struct, frozen=True):
    """A figure that is compared.

    Attributes:
        name: as a person reads it.
        of: takes it from the figures of a round.
        more_is_better: otherwise less is.
    """

    name: str
    of: Callable[[Figures], float]
    more_is_better: bool = False


COMPARED = (
    Compared("audio s/s", lambda x: x.audio_per_s, more_is_better=True),
    Compared("first sound p50", lambda x: x.first_sound_s.p50),
    Compared("first sound p95", lambda x: x.first_sound_s.p95),
    Compared("RTF p95", lambda x: x.rtf.p95),
)


class Change(msgspec.Struct, frozen=True):
    """How one figure differs at one load.

    Attributes:
        load: that load.
        name: of the figure.
        before: mean of the baseline's rounds.
        now: mean of the new rounds.
        worse: by which share it is worse; negative: better.
        low: lower end of the interval of that; None: too few rounds.
        high: upper end.
        verdict: pass if it is not worse by more than the margin, with 95 % confidence; fail if it
            is; otherwise inconclusive.
    """

    load: Load
    name: str
    before: float
    now: float
    worse: float
    low: float | None
    high: float | None
    verdict: Verdict


class Comparison(msgspec.Struct, frozen=True):
    """Two results beside each other.

    Attributes:
        margin: share by which a figure may be worse.
        changes: one for each figure and load.
        verdict: fail if one failed, pass if all passed.
        reason: why it is not `pass`.
    """

    margin: float
    changes: list[Change]
    verdict: Verdict
    reason: str = ""


def compare(before: BenchResult, now: BenchResult, margin: float = MARGIN) -> Comparison:
    """Compare a result with a baseline.

    Args:
        before: the baseline.
        now: the new result.
        margin: share by which a figure may be worse.
    """
    if differing := _settings_that_differ(before, now):
        reason = f"not measured alike: {', '.join(differing)}"
        return Comparison(margin, [], Verdict.INCONCLUSIVE, reason)
    known = {level.load: level for level in before.levels}
    changes: list[Change] = []
    missing: list[str] = []
    for level in now.levels:
        old = known.get(level.load)
        pairs = [
            (x.figures, y.figures)
            for x, y in zip(old.rounds if old else [], level.rounds, strict=False)
            if x.figures and y.figures
        ]
        if not pairs:
            missing.append(level.load.text())
            continue
        changes += [_change(level.load, x, pairs, margin) for x in COMPARED]
    verdict, reason = _overall(changes, missing)
    return Comparison(margin, changes, verdict, reason)


def _settings_that_differ(before: BenchResult, now: BenchResult) -> list[str]:
    old: dict[str, Any] = msgspec.to_builtins(before.settings)
    new: dict[str, Any] = msgspec.to_builtins(now.settings)
    found = [x for x in new if old.get(x) != new[x] and x != "rounds"]
    for name in ("route", "form", "streamed"):
        if getattr(before.target, name) != getattr(now.target, name):
            found.append(name)
    return found


def _change(
    load: Load, what: Compared, pairs: Sequence[tuple[Figures, Figures]], margin: float
) -> Change:
    old = np.array([what.of(x) for x, _ in pairs])
    new = np.array([what.of(y) for _, y in pairs])
    tiny = 1e-9
    ratios = np.log(np.maximum(new, tiny) / np.maximum(old, tiny))
    if what.more_is_better:
        ratios = -ratios
    mean, count = float(ratios.mean()), len(pairs)
    low = high = None
    verdict = Verdict.INCONCLUSIVE
    if count >= FEWEST:
        quantile = STUDENT[min(count - 1, len(STUDENT)) - 1]
        half = quantile * float(ratios.std(ddof=1)) / math.sqrt(count)
        low, high = math.expm1(mean - half), math.expm1(mean + half)
        verdict = (
            Verdict.PASS
            if high <= margin
            else Verdict.FAIL
            if low > margin
            else Verdict.INCONCLUSIVE
        )
    before, now = float(old.mean()), float(new.mean())
    return Change(load, what.name, before, now, math.expm1(mean), low, high, verdict)


def _overall(changes: Sequence[Change], missing: Sequence[str]) -> tuple[Verdict, str]:
    def named(verdict: Verdict) -> str:
        return ", ".join(f"{x.name} at {x.load.text()}" for x in changes if x.verdict is verdict)

    if failed := named(Verdict.FAIL):
        return Verdict.FAIL, f"worse: {failed}"
    if missing:
        return Verdict.INCONCLUSIVE, f"not measured in both: {', '.join(missing)}"
    if any(x.low is None for x in changes):
        return Verdict.INCONCLUSIVE, f"fewer than {FEWEST} rounds: use --rounds 5 for both"
    if undecided := named(Verdict.INCONCLUSIVE):
        return Verdict.INCONCLUSIVE, f"within the noise: {undecided}; use more rounds"
    return (Verdict.PASS, "") if changes else (Verdict.INCONCLUSIVE, "nothing was compared")


HEADS = ("load", "figure", "baseline", "this run", "worse by", "95 % interval", "")


def rows(comparison: Comparison) -> list[list[str]]:
    """Return the cells of each change, in the order of HEADS."""
    return [
        [
            x.load.text(), x.name, f"{x.before:.4g}", f"{x.now:.4g}", f"{100 * x.worse:+.1f} %",
            "-" if x.low is None or x.high is None
            else f"{100 * x.low:+.1f} % to {100 * x.high:+.1f} %",
            x.verdict,
        ]
        for x in comparison.changes
    ]  # fmt: skip


def text(comparison: Comparison) -> str:
    """Return a comparison as a person reads it in a terminal."""
    end = f"compared {comparison.verdict}" + (f": {comparison.reason}" if comparison.reason else "")
    return "\n".join([table.text([HEADS, *rows(comparison)], right=(2, 3, 4, 5)), "", end])


def markdown(comparison: Comparison) -> str:
    """Return a comparison as Markdown."""
    end = f"**{comparison.verdict}**" + (f": {comparison.reason}" if comparison.reason else "")
    return f"## Comparison\n\n{table.markdown(HEADS, rows(comparison))}\n\n{end}\n"
