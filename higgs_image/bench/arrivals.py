"""When requests are sent in an open loop: as people arrive, whether the server keeps up or not."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


def arrivals(rate: float, burstiness: float, seed: int) -> Iterator[float]:
    """Yield the seconds from the start at which requests arrive, without end.

    Args:
        rate: requests a second, in the mean.
        burstiness: shape of the gamma distribution of the intervals, as in `vllm bench serve`: 1 is
            a Poisson process, less comes in bursts, more comes evenly.
        seed: the same seed gives the same arrivals.
    """
    random = np.random.default_rng(seed)
    when = 0.0
    while True:
        for interval in random.gamma(burstiness, 1 / (rate * burstiness), 256):
            when += float(interval)
            yield when
