"""Weights of the fake hub, and how tests ask for them."""

from __future__ import annotations

from pathlib import Path

import pytest
from higgs_runtime import weights
from higgs_runtime.cache import WeightsRepo
from higgs_runtime.errors import StartError

MODEL = WeightsRepo("model", "bosonai/model", "1" * 40)
TOKENIZER = WeightsRepo("audio tokenizer", "bosonai/tokenizer", "2" * 40)
SEMANTIC = WeightsRepo("semantic model", "bosonai/hubert", "main", by_name=True)
ALL = [MODEL, TOKENIZER, SEMANTIC]


KILLED = """
import sys
from pathlib import Path
from higgs_runtime import cache, weights
entry = cache.WeightsRepo("model", "bosonai/model", "1" * 40)
weights.ensure([entry, entry], Path(sys.argv[1]), offline=False, report=lambda _: None)
"""


def ensure(
    folder: Path, needed: list[WeightsRepo] | None = None, offline: bool = False
) -> weights.WeightFolders:
    return weights.ensure(needed or ALL, folder, offline=offline, report=lambda _: None)


def refused(
    kind: type[StartError], folder: Path, needed: list[WeightsRepo] | None = None
) -> StartError:
    with pytest.raises(StartError) as caught:
        ensure(folder, needed)
    assert type(caught.value) is kind, caught.value.message
    assert caught.value.hint
    return caught.value
