"""`./inv smoke --bench`: a short benchmark of the running container ends the smoke test."""

from __future__ import annotations

import pytest
from docker import DockerClient

from higgs_image.bench import result, smoke_check
from higgs_image.smoke import report
from higgs_image.workspace import Workspace
from tests.engine.smoke.conftest import Smoke, evidence

pytestmark = pytest.mark.engine


def test_figures_of_the_container_are_in_the_record(
    image: str,
    smoke: Smoke,
    workspace: Workspace,
    client: DockerClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in (("SECONDS", 1.0), ("WARMUP_SECONDS", 0.5), ("ROUNDS", 2)):
        monkeypatch.setattr(smoke_check, name, value)
    found = smoke(image, only=frozenset({"bench"}), more=(smoke_check.BENCH,))
    [bench] = [x for x in found.checks if x.name == "bench"]
    if bench.verdict == "inconclusive" and "the tool was the limit" in bench.reason:
        pytest.skip("this machine is too busy: the benchmark refuses to quote figures")
    assert bench.verdict == "pass", report.text(found)
    assert bench.measured["at_once"] == 2
    assert float(bench.measured["audio_per_s"]) > 0
    assert (
        0 < float(bench.measured["first_sound_p50_s"]) <= float(bench.measured["first_sound_p95_s"])
    )

    folder = evidence(workspace)
    assert "bench" in (folder / "report.md").read_text()
    whole = result.load(folder / smoke_check.FILE)
    assert len(whole.levels[0].rounds) == 2 and whole.levels[0].rounds[0].failures == {}
    assert client.images.get(whole.server.image).id == client.images.get(image).id
    assert "higgs: starting the server" in whole.server.start_line
    assert whole.target.form == "pcm" and whole.settings.voices == ["beep"]
