"""`invoke release` itself: how it ends where it leaves the moving tag alone."""

from __future__ import annotations

import pytest
from invoke.context import Context

from higgs_image.oci.skopeo import Pushed
from higgs_image.release import pipeline
from higgs_image.tasks.release import release

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(("verdict", "code"), [("pass", 0), ("fail", 1), ("inconclusive", 41)])
def test_a_build_that_does_not_speak_is_a_failed_job(
    verdict: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGISTRY", "127.0.0.1:1")
    monkeypatch.setenv("IMAGE_NAME", "image")
    pushed = Pushed("r:t", f"r@{DIGEST}", DIGEST, 0, False, 0.0)
    report = pipeline.Report("t", f"r@{DIGEST}", DIGEST, pushed, "", f"cpu: {verdict}", None, None)
    monkeypatch.setattr(pipeline, "run", lambda *_: report)
    with pytest.raises(SystemExit) as ended:
        release(Context(), promote=False)
    assert ended.value.code == code
