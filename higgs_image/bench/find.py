"""Search for the most listeners at which the SLO holds."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from higgs_image.bench.result import Capacity, Level
from higgs_image.bench.slo import Slo
from higgs_image.verdict import Verdict

Measure = Callable[[int], Awaitable[Level]]

PRECISION = 0.05
"""Share of the result within which the search ends."""


async def find_capacity(measure: Measure, most: int, slo: Slo) -> Capacity:
    """Double the listeners until the SLO breaks, then bisect.

    Args:
        measure: measures a number of listeners at once.
        most: listeners to try at most.
        slo: that has to hold.
    """
    holds, breaks, at = 0, None, 1
    broken: Level | None = None
    while True:
        level = await measure(at)
        if level.verdict is Verdict.INCONCLUSIVE:
            return _undecided(holds, at, level)
        if level.verdict is Verdict.PASS:
            holds = at
        else:
            breaks, broken = at, level
        if breaks is None:
            if at >= most:
                break
            at = min(2 * at, most)
        else:
            if breaks - holds <= max(1, int(PRECISION * holds)):
                break
            at = (holds + breaks) // 2
    return Capacity(holds, breaks, _sentence(holds, breaks, broken, slo))


def _sentence(holds: int, breaks: int | None, broken: Level | None, slo: Slo) -> str:
    if breaks is None or broken is None:
        return f"At least {holds} people can listen at once ({slo.text()}); more were not tried."
    if not holds:
        return f"Not even one person can listen: {broken.reason} ({slo.text()})."
    people = "person" if holds == 1 else "people"
    return f"{holds} {people} can listen at once ({slo.text()}); with {breaks}, {broken.reason}."


def _undecided(holds: int, at: int, level: Level) -> Capacity:
    sentence = f"At least {holds} people can listen at once; {at} could not be measured: "
    return Capacity(holds, None, f"{sentence}{level.reason}.")
