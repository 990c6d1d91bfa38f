"""What an hour of audio costs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from higgs_image.bench import cards
from higgs_image.bench.result import Cost, Level
from higgs_image.verdict import Verdict


def cost(levels: Sequence[Level], price: float | None, product: str, count: int) -> Cost | None:
    """Return the cost at the load with the most sound that kept the SLO; None if it is unknown.

    Args:
        levels: that were measured.
        price: of the machine in dollars an hour; None: from the table of cards.
        product: name of its card.
        count: number of cards.
    """
    source, date = "given with --price", ""
    if price is None:
        card = cards.find(product)
        if card is None or card.dollars_per_hour is None:
            return None
        price, source, date = card.dollars_per_hour * max(1, count), card.source, str(card.date)
    good = [x for x in levels if x.verdict is Verdict.PASS and x.figures()]
    if not good or price <= 0:
        return None
    speeds = [float(np.mean([y.audio_per_s for y in x.figures()])) for x in good]
    best = int(np.argmax(speeds))
    return Cost(price, source, date, round(speeds[best] / price, 2), good[best].load)
