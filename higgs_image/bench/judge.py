"""Whether a level keeps the SLO, over all its rounds."""

from __future__ import annotations

from higgs_image.bench.load import Load
from higgs_image.bench.result import Level, Round
from higgs_image.bench.slo import Slo
from higgs_image.verdict import Verdict


def judge(load: Load, rounds: list[Round], slo: Slo) -> Level:
    """Return a level with its verdict: inconclusive if the tool was the limit in any round."""
    for one in rounds:
        if one.limited_by:
            reason = f"the tool was the limit: {one.limited_by}"
            return Level(load, rounds, Verdict.INCONCLUSIVE, reason)
    requests = sum(x.requests for x in rounds)
    if not requests:
        return Level(load, rounds, Verdict.INCONCLUSIVE, "no request was counted: measure longer")
    figures = [x.figures for x in rounds if x.figures]
    failed = sum(sum(x.failures.values()) for x in rounds)
    if not figures:
        return Level(load, rounds, Verdict.FAIL, "every request failed")
    good = [(x.requests - sum(x.failures.values()), x.figures) for x in rounds if x.figures]
    weight = sum(count for count, _ in good)
    first = sum(count * x.first_sound_s.p95 for count, x in good) / weight
    smooth = sum(count * x.smooth_share for count, x in good) / weight
    reason = slo.violation(first, smooth, failed / requests)
    return Level(load, rounds, Verdict.FAIL if reason else Verdict.PASS, reason)
