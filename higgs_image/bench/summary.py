"""From single requests to the figures of a round."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from higgs_image.audio import FRAMES_PER_SECOND
from higgs_image.bench.lag import OwnLag, WorkerLag, limit
from higgs_image.bench.load import Job
from higgs_image.bench.measured import RequestResult
from higgs_image.bench.result import Bar, Figures, Histogram, Quantiles, Round
from higgs_image.bench.server_metrics import MetricsChange
from higgs_image.bench.slo import Slo

EDGES_MS = (0, 1, 2, 5, 10, 20, 30, 40, 50, 60, 80, 100, 150, 200, 300, 500, 1000, 2000, 5000)
"""Borders of the histogram's bins; the last bin has all that is longer."""

BARS = 150
"""Streams of the timeline at most: spread evenly over those that counted."""

Array = npt.NDArray[np.floating]


def quantiles(values: Sequence[float] | Array) -> Quantiles:
    """Return how values are distributed; all 0 without any."""
    array = np.asarray(values, np.float64)
    if not len(array):
        return Quantiles(0, 0, 0, 0, 0, 0)
    p50, p90, p95, p99 = np.quantile(array, [0.5, 0.9, 0.95, 0.99])
    found = (array.mean(), p50, p90, p95, p99, array.max())
    return Quantiles(*(round(float(x), 5) for x in found))


def summarise(
    results: Sequence[RequestResult],
    lags: Sequence[WorkerLag],
    lag: OwnLag,
    job: Job,
    slo: Slo,
    started: datetime.datetime,
    server: MetricsChange | None,
    *,
    records: bool = False,
    arrivals: bool = False,
) -> Round:
    """Return the round that these requests make.

    Args:
        results: all requests, those of the warm-up and after the end included.
        lags: of each worker.
        lag: of the whole tool.
        job: what was done.
        slo: for goodput.
        started: when.
        server: what /metrics said.
        records: keep every request that counts.
        arrivals: with the arrival of each part of its sound.
    """
    counted = sorted((x for x in results if x.counted), key=lambda x: x.index)
    good = [x for x in counted if x.failure is None]
    opens, closes = _window(job, counted)
    failures = Counter(x.failure.value for x in counted if x.failure)
    gaps = _gaps(good)
    first = float(np.median([x.first_sound_s for x in good])) if good else 0.0
    limited_by = limit(lag, lags, first)
    figures = None
    if good and not limited_by:
        figures = _figures(results, good, len(counted), gaps, slo, opens, closes)
    return Round(
        started=started,
        window_s=round(closes - opens, 3),
        requests=len(counted),
        failures=dict(failures),
        examples={x.failure.value: x.detail for x in reversed(counted) if x.failure},
        limited_by=limited_by,
        lag=lag,
        figures=figures,
        server=server,
        gaps=_histogram(gaps),
        timeline=[_bar(x) for x in counted[:: max(1, -(-len(counted) // BARS))]],
        records=[_record(x, arrivals) for x in counted] if records or arrivals else [],
    )


def _window(job: Job, counted: Sequence[RequestResult]) -> tuple[float, float]:
    """Return begin and end of the measured time, in seconds from its planned begin."""
    if job.seconds or not counted:
        return 0.0, max(job.seconds, 1e-9)
    return min(x.start_s for x in counted), max(x.start_s + x.total_s for x in counted)


def _figures(
    results: Sequence[RequestResult],
    good: Sequence[RequestResult],
    counted: int,
    gaps: Array,
    slo: Slo,
    opens: float,
    closes: float,
) -> Figures:
    window = closes - opens
    succeeded = [x for x in results if x.failure is None]
    ended = [x for x in succeeded if opens < x.start_s + x.total_s <= closes]
    audio = sum(_sound_between(x, opens, closes) for x in succeeded) / window
    smooth = sum(not x.underruns for x in good) / len(good)
    return Figures(
        audio_per_s=round(audio, 4),
        audio_tokens_per_s=round(FRAMES_PER_SECOND * audio, 2),
        requests_per_s=round(len(ended) / window, 4),
        good_per_s=round(sum(map(slo.is_good, ended)) / window, 4),
        good_share=round(sum(map(slo.is_good, good)) / counted, 4),
        smooth_share=round(smooth, 4),
        underruns=sum(x.underruns for x in good),
        stalled_s=round(sum(x.stalled_s for x in good), 3),
        audio_s=round(sum(x.audio_s for x in good), 3),
        headers_s=quantiles([x.headers_s for x in good]),
        first_byte_s=quantiles([x.first_byte_s for x in good]),
        first_sound_s=quantiles([x.first_sound_s for x in good]),
        gap_s=quantiles(gaps),
        rtf=quantiles([x.rtf for x in good]),
        total_s=quantiles([x.total_s for x in good]),
    )


def _sound_between(request: RequestResult, opens: float, closes: float) -> float:
    """Return the seconds of sound that arrived in the measured time."""
    times = request.times() + request.start_s
    sound = np.diff(request.sound(), prepend=0.0)
    return float(sound[(times > opens) & (times <= closes)].sum())


def _gaps(good: Sequence[RequestResult]) -> Array:
    found = [np.diff(x.times()) for x in good]
    return np.concatenate(found) if found else np.zeros(0)


def _histogram(gaps: Array) -> Histogram:
    edges = [x / 1000 for x in EDGES_MS]
    counts, _ = np.histogram(gaps, bins=[*edges, max(edges[-1] + 1, float(gaps.max(initial=0)))])
    return Histogram(edges, [int(x) for x in counts])


def _bar(x: RequestResult) -> Bar:
    values = (x.start_s, x.start_s + x.first_sound_s, x.start_s + x.total_s)
    start, first, end = (round(value, 3) for value in values)
    return Bar(start, first, end, x.underruns, x.failure.value if x.failure else "")


def _record(request: RequestResult, arrivals: bool) -> RequestResult:
    return request if arrivals else msgspec.structs.replace(request, arrivals=b"", playable=b"")
