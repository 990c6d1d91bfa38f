"""`./inv release`: the verdict that it ends with, and what it refuses first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from invoke.context import Context

from higgs_image.errors import SMOKE_EXIT_CODES, UsageError
from higgs_image.oci.skopeo import Pushed
from higgs_image.release import pipeline
from higgs_image.release.move_plan import Moved
from higgs_image.release.pipeline import ReleaseReport
from higgs_image.release.promote import PromotionConditions
from higgs_image.release.smoke_pushed import DeviceVerdict
from higgs_image.tasks.release import release
from higgs_image.verdict import Verdict
from higgs_image.workspace import Workspace

DIGEST = "sha256:" + "a" * 64


PUSHED = Pushed("r:t", f"r@{DIGEST}", DIGEST, 0, False, 0.0)
MOVED = Moved("r:custom", f"r@{DIGEST}", DIGEST, None, False, "", "")


@pytest.mark.parametrize(
    ("smoke", "moved", "verdict"),
    [
        (DeviceVerdict("cpu", Verdict.PASS), None, Verdict.PASS),
        (DeviceVerdict("cpu", Verdict.FAIL), None, Verdict.FAIL),
        (DeviceVerdict("gpu", Verdict.INCONCLUSIVE), None, Verdict.INCONCLUSIVE),
        (None, None, Verdict.INCONCLUSIVE),
        (DeviceVerdict("gpu", Verdict.INCONCLUSIVE), MOVED, Verdict.PASS),
    ],
)
def test_a_promotion_decides_on_the_verdict_itself(
    smoke: DeviceVerdict | None, moved: Moved | None, verdict: Verdict
) -> None:
    report = ReleaseReport("t", f"r@{DIGEST}", DIGEST, PUSHED, "", smoke, moved, None)
    assert report.verdict is verdict


@pytest.mark.parametrize(("verdict", "code"), SMOKE_EXIT_CODES.items())
def test_the_exit_code_is_that_of_the_verdict(
    verdict: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGISTRY", "127.0.0.1:1")
    monkeypatch.setenv("IMAGE_NAME", "image")
    smoke = DeviceVerdict("cpu", Verdict(verdict))
    report = ReleaseReport("t", f"r@{DIGEST}", DIGEST, PUSHED, "", smoke, None, None)
    monkeypatch.setattr(pipeline, "run", lambda *_: report)
    with pytest.raises(SystemExit) as ended:
        release(Context(), promote=False)
    assert ended.value.code == code


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        (PromotionConditions(rehearsal=True), "--rehearsal is for registries on loopback"),
        (PromotionConditions(force=True), "--force needs a reason"),
    ],
)
@pytest.mark.parametrize("step", [pipeline.run, pipeline.plan])
def test_contradicting_conditions_are_refused_before_anything_is_built(
    conditions: PromotionConditions, message: str, step: Callable[..., object], tmp_path: Path
) -> None:
    nowhere = Workspace(tmp_path / "build", tmp_path / "no.lock", tmp_path / "no.toml")
    request = pipeline.ReleaseRequest(nowhere, "ghcr.io/acme/image", conditions=conditions)
    with pytest.raises(UsageError, match=message):
        step(request)
    assert not (tmp_path / "build").exists()
