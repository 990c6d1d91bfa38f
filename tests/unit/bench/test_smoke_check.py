"""The short benchmark at the end of a smoke test."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from higgs_image.bench import result, smoke_check
from higgs_image.smoke.checks.model import CheckFailedError, ImageUnderTest, UndecidedError
from higgs_image.smoke.client import TimedClient
from higgs_image.smoke.container import ServerContainer
from tests.support.paced_server import Pace, Plan, running

pytestmark = [
    pytest.mark.flaky(reruns=3, only_rerun="AssertionError"),  # a busy machine delays one
]


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("SECONDS", 1.0), ("WARMUP_SECONDS", 0.5), ("ROUNDS", 2)):
        monkeypatch.setattr(smoke_check, name, value)


def bench(pace: Pace, folder: Path) -> dict[str, Any]:
    with running(Plan([pace])) as url:
        server: Any = SimpleNamespace(client=TimedClient(int(url.rpartition(":")[2])))
        image = ImageUnderTest(cast(ServerContainer, server), folder, "cpu")
        return smoke_check.BENCH.run(image)


def test_figures_go_into_the_record_and_the_whole_beside_it(tmp_path: Path) -> None:
    try:
        found = bench(Pace(first_s=0.1, seconds=50, chunk_s=1.0, speed=60), tmp_path)
    except UndecidedError:
        pytest.skip("this machine is too busy: the benchmark refuses to quote figures")
    assert found["at_once"] == 2
    assert found["first_sound_p50_s"] == pytest.approx(0.1, abs=0.01)
    assert found["audio_per_s"] == pytest.approx(2 * 50 / 0.92, rel=0.2)
    [level] = result.load(tmp_path / smoke_check.FILE).levels
    assert len(level.rounds) == 2


def test_server_that_fails_every_request_fails_the_check(tmp_path: Path) -> None:
    with pytest.raises((CheckFailedError, UndecidedError)) as error:
        bench(Pace(status=500), tmp_path)
    assert "every request failed" in str(error.value) or "the tool was the limit" in str(
        error.value
    )
