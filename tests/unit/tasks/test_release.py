"""`invoke release`: its exit code, and what it refuses first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from invoke.context import Context

from higgs_image.errors import UsageError
from higgs_image.oci.skopeo import Pushed
from higgs_image.release import pipeline
from higgs_image.release.promote import PromotionConditions
from higgs_image.release.smoke_pushed import DeviceVerdict
from higgs_image.tasks.release import release
from higgs_image.verdict import Verdict
from higgs_image.workspace import Workspace

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("verdict", "code"), [(Verdict.PASS, 0), (Verdict.FAIL, 1), (Verdict.INCONCLUSIVE, 41)]
)
def test_exit_code_follows_the_smoke_verdict(
    verdict: Verdict, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGISTRY", "127.0.0.1:1")
    monkeypatch.setenv("IMAGE_NAME", "image")
    pushed = Pushed("r:t", f"r@{DIGEST}", DIGEST, 0, False, 0.0)
    report = pipeline.ReleaseReport(
        "t",
        f"r@{DIGEST}",
        DIGEST,
        pushed,
        "",
        DeviceVerdict("cpu", verdict),
        None,
        None,
    )
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
