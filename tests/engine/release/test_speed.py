"""Promotion can require that an image is not slower than the last release."""

from __future__ import annotations

import msgspec
import pytest

from higgs_image.errors import ReleaseRefusedError
from higgs_image.oci.artifacts import Repository
from higgs_image.release import evidence, notes
from higgs_image.release.journal import Journal
from higgs_image.release.promote import PromotionConditions
from higgs_image.smoke.record import CheckResult
from higgs_image.verdict import Verdict
from tests.engine.release.conftest import Release
from tests.support import small_image

pytestmark = pytest.mark.engine

CONDITIONS = PromotionConditions(not_worse_than=0.1)


def measured(release: Release, repository: Repository, content: str, audio_per_s: float) -> str:
    """Push an image whose smoke test on a GPU ended with a benchmark; returns its digest."""
    digest = release.push(content, smoke="")
    record = evidence.load_smoke(small_image.smoke(digest, "gpu", "pass"))
    bench = CheckResult("bench", Verdict.PASS, False, measured={
        "at_once": 16, "audio_per_s": audio_per_s, "audio_tokens_per_s": 25 * audio_per_s,
        "first_sound_p50_s": 0.2, "first_sound_p95_s": 0.4, "smooth_share": 1.0,
    })  # fmt: skip
    record = msgspec.structs.replace(record, checks=[*record.checks, bench])
    evidence.record_smoke(Journal(repository), msgspec.json.encode(record))
    return digest


def test_slower_image_is_not_promoted_when_that_is_required(
    release: Release, repository: Repository
) -> None:
    first = release.promote(measured(release, repository, "0", 16.0), CONDITIONS)
    text = repository.files(first.record)[notes.NOTES].decode()
    assert "| 16 | 16.0 | 400.0 | 0.2 s | 0.4 s | 100.0 % |" in text

    slower = measured(release, repository, "1", 12.0)
    with pytest.raises(ReleaseRefusedError, match="audio_per_s is 12, 33 % worse than 16"):
        release.promote(slower, CONDITIONS)
    assert release.custom() == first.digest
    faster = measured(release, repository, "2", 15.5)
    assert release.promote(faster, CONDITIONS).digest == faster
    assert release.promote(slower).digest == slower  # without the condition
