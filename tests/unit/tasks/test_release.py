"""`invoke release` itself: how it ends where it leaves the moving tag alone."""

from __future__ import annotations

import pytest
from invoke.context import Context

from higgs_image.oci.skopeo import Pushed
from higgs_image.release import pipeline
from higgs_image.release.smoke_pushed import DeviceVerdict
from higgs_image.tasks.release import release
from higgs_image.verdict import Verdict

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("verdict", "code"), [(Verdict.PASS, 0), (Verdict.FAIL, 1), (Verdict.INCONCLUSIVE, 41)]
)
def test_a_build_that_does_not_speak_is_a_failed_job(
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
