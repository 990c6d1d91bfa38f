"""Results with chosen figures."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any

from higgs_image.bench.judge import judge
from higgs_image.bench.lag import OwnLag
from higgs_image.bench.load import Load
from higgs_image.bench.result import (
    SCHEMA,
    Bar,
    BenchResult,
    ClientFacts,
    Figures,
    Histogram,
    Quantiles,
    Round,
    Settings,
)
from higgs_image.bench.server_facts import ServerFacts
from higgs_image.bench.slo import Slo
from higgs_image.bench.target import Target

NOW = datetime.datetime(2026, 11, 27, 3, tzinfo=datetime.UTC)


def spread(value: float) -> Quantiles:
    return Quantiles(*(value * x for x in (1, 1, 1.1, 1.2, 1.3, 1.5)))


def made_round(
    *, audio: float = 20.0, first: float = 0.2, smooth: float = 1.0, limited_by: str = "",
    failures: dict[str, int] | None = None,
) -> Round:  # fmt: skip
    figures = Figures(
        audio, 25 * audio, audio / 4, audio / 4, 1.0, smooth, 0, 0.0, 30 * audio, spread(0.01),
        spread(first), spread(first), spread(0.04), spread(0.4), spread(4.0),
    )  # fmt: skip
    return Round(
        NOW, 30.0, 100, failures or {}, {x: "why" for x in failures or {}}, limited_by,
        OwnLag(0.1, 1.0, 3.0, 0.2, 0.3, 140, 1), None if limited_by else figures, None,
        Histogram([0.0, 0.04], [10, 90]), [Bar(0.0, 0.2, 4.0, 0), Bar(1.0, 1.2, 5.0, 1)],
    )  # fmt: skip


def made_result(rounds: Sequence[Round], load: Load | None = None, **more: Any) -> BenchResult:
    slo = Slo()
    values: dict[str, Any] = {
        "server": ServerFacts("0.8.3", ["m"], gpu="NVIDIA L40S", gpus=1, driver="550.90"),
        "levels": [judge(load or Load(8), list(rounds), slo)],
        **more,
    }
    return BenchResult(
        schema=SCHEMA, started=NOW, seconds=60.0, target=Target("http://127.0.0.1:8000"),
        client=ClientFacts("CPU", 2, 0.5, "Linux 6", {"python": "3.11"}, "a" * 40),
        settings=Settings(1, 5.0, 30.0, 0, 5, 0.2, 300.0, {"short": 3}, ["en"], ["belinda"], False),
        slo=slo, **values,
    )  # fmt: skip
