"""A short benchmark at the end of a smoke test; its record goes to the journal."""

from __future__ import annotations

from higgs_image.bench import report, result, session
from higgs_image.bench.load import Load
from higgs_image.bench.options import BenchOptions
from higgs_image.bench.target import Target
from higgs_image.errors import HiggsError
from higgs_image.smoke.checks.model import (
    MODEL,
    CheckFailedError,
    ImageUnderTest,
    SmokeCheck,
    UndecidedError,
)
from higgs_image.smoke.record import Measured
from higgs_image.verdict import Verdict

AT_ONCE = {"gpu": 16, "cpu": 2}
"""Listeners at once, by device type."""
ROUNDS, SECONDS, WARMUP_SECONDS = 3, 10.0, 3.0
FILE = "bench.json"


def short_bench(image: ImageUnderTest) -> Measured:
    """Measure one load in three rounds, and return the means.

    Raises:
        CheckFailedError: no request succeeded.
        UndecidedError: the tool was the limit.
    """
    at_once, client = AT_ONCE[image.device], image.client
    url = f"{'https' if client.tls else 'http'}://{client.host}:{client.port}{client.root}"
    options = BenchOptions(
        Target(url, model=MODEL),
        loads=(Load(at_once),),
        warmup_s=WARMUP_SECONDS,
        seconds=SECONDS,
        rounds=ROUNDS,
        voice=image.choose_voice(),
    )
    try:
        [found] = session.run(options)
    except HiggsError as error:
        raise UndecidedError(error.message) from None
    result.save(found, image.folder / FILE)
    [level] = found.levels
    if not (rounds := level.figures()):
        kind = UndecidedError if level.verdict is Verdict.INCONCLUSIVE else CheckFailedError
        raise kind(level.reason)
    mean = report.mean_figures(rounds)
    return {
        "at_once": at_once,
        "audio_per_s": round(mean.audio_per_s, 2),
        "audio_tokens_per_s": round(mean.tokens_per_s),
        "first_sound_p50_s": round(mean.first_p50_s, 3),
        "first_sound_p95_s": round(mean.first_p95_s, 3),
        "smooth_share": round(mean.smooth_share, 4),
    }


BENCH = SmokeCheck("bench", short_bench)
