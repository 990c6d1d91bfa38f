"""Release notes, and what is known of an image from the journal."""

from __future__ import annotations

import datetime
import json
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from higgs_image.build.layers import PlainBuild
from higgs_image.errors import UsageError
from higgs_image.oci.layout import Image, ImageLayer
from higgs_image.release import evidence, notes
from higgs_image.release.actor import Actor
from higgs_image.release.notes import Release
from higgs_image.release.policy import Known
from higgs_image.release.records import Promote, Push
from higgs_image.smoke import record as smoke_record
from higgs_image.verdict import Verdict

DIGEST, OLD = "sha256:" + "a" * 64, "sha256:" + "b" * 64
LABEL = "org.higgs-image."
NOW = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)
PUSH = Push(DIGEST, NOW, Actor("ann"), "20260101-abcdef0-1234567", "gzip", "d" * 64, "c" * 40,
            True, 5, "https://git.invalid/project.git")  # fmt: skip
PROMOTE = Promote(DIGEST, NOW, Actor("ann"), "custom", OLD, PUSH.tag, "d" * 64)
BASE = ImageLayer("base", "sha256:" + "1" * 64, 10_000_000)


def image(digest: str, layer: str, patches: str = "") -> Image:
    labels = {LABEL + "patches": patches}
    return Image(digest, "x", (BASE, ImageLayer("vllm", f"sha256:{layer * 64}", 2_000_000)), labels)


NEW = Release(DIGEST, PUSH, image(DIGEST, "2", "voices@1"), {}, {"deb a": "2", "pypi b": "1"})
BEFORE = Release(OLD, None, image(OLD, "3", "voices@1 gone@2"), {}, {"deb a": "1", "pypi b": "1"})
KNOWN = Known(DIGEST, {LABEL + "overrides": "base-image"}, PUSH, [], False, DIGEST)


def rendered(
    old: Release | None = BEFORE,
    plain: PlainBuild | None = None,
    known: Known = KNOWN,
    **changes: Any,
) -> tuple[dict[str, Any], str]:
    record = msgspec.structs.replace(PROMOTE, **changes)
    document = notes.document("r.example/image", record, known, NEW, old, plain)
    assert json.loads(notes.encode(document)) == document
    return document, notes.render(document)


def test_what_changed_since_the_last_release() -> None:
    document, text = rendered()
    assert document["download"] == 2_000_000 and document["size"] == 12_000_000
    assert document["patches_gone"] == ["gone@2"]
    assert document["previous"]["package_changes"] == ["deb a 1 -> 2"]
    assert "- deb a 1 -> 2" in text and "downloads 2.0 MB" in text
    assert "| base | 10.0 MB | as before |" in text and "| vllm | 2.0 MB | new |" in text


def test_first_release() -> None:
    document, text = rendered(old=None)
    assert document["previous"] is None and document["download"] == 12_000_000
    assert "2 packages; this is the first release" in text and "as before" not in text


def test_the_size_is_compared_with_a_plain_build() -> None:
    document, text = rendered(plain=PlainBuild(gzip_mb=48, zstd_mb=40))
    assert document["size_plain"] == 48_000_000
    assert "| of a plain build | 48.0 MB (-75 %) |" in text
    document, text = rendered()
    assert document["size_plain"] is None
    assert "plain build" not in text


def test_the_gpus_that_the_image_has_code_for() -> None:
    known = replace(KNOWN, labels={LABEL + "gpus": "8.6 8.9"})
    document, text = rendered(known=known)
    assert document["gpus"] == ["8.6", "8.9"]
    assert "| compute capabilities | 8.6, 8.9 |" in text
    document, text = rendered()
    assert document["gpus"] == []
    assert "compute capabilities" not in text


def test_force_rehearsal_and_overrides_are_shown() -> None:
    _, text = rendered(forced=["it hums"], reason="the demo is today", rehearsal=True)
    assert "**Forced although it hums.** Reason: the demo is today" in text
    assert "not a release" in text and "base-image" in text


def smoke(**changes: Any) -> bytes:
    record = smoke_record.Record(
        smoke_record.SCHEMA, Verdict.INCONCLUSIVE, "speech-wav: no GPU",
        smoke_record.SmokeImage("image", DIGEST),
        smoke_record.SmokeDevice("gpu", "NVIDIA L40S"), NOW, 1.0,
        [smoke_record.CheckResult("speech-wav", Verdict.INCONCLUSIVE, True, "no GPU",
                            measured={"first_audio_s": 0.5, "spoken": True, "text": "x"})],
    )  # fmt: skip
    return msgspec.json.encode(msgspec.structs.replace(record, **changes))


def test_smoke_record_counts_for_its_own_digest_only() -> None:
    assert evidence.load_smoke(smoke(), DIGEST).image.digest == DIGEST
    with pytest.raises(UsageError, match="not of"):
        evidence.load_smoke(smoke(), OLD)
    with pytest.raises(UsageError, match="names no digest"):
        evidence.load_smoke(smoke(image=smoke_record.SmokeImage("image", None)))


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"\xff"])
def test_malformed_smoke_record_is_a_usage_error(data: bytes) -> None:
    with pytest.raises(UsageError):
        evidence.load_smoke(data)


def test_smoke_record_that_contradicts_its_checks_is_refused() -> None:
    with pytest.raises(UsageError):
        evidence.load_smoke(smoke(verdict=Verdict.PASS))


def test_figures_are_numbers_by_check_and_name() -> None:
    record = evidence.load_smoke(smoke())
    assert evidence.figures(record) == {"speech-wav.first_audio_s": 0.5}
