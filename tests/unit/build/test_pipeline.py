"""The main job refuses what it cannot do before it does anything."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from higgs_image.build import pipeline, stages
from higgs_image.build.overrides import Overrides
from higgs_image.build.pipeline import BuildRequest
from higgs_image.errors import UsageError
from tests.unit.conftest import Project


@pytest.fixture
def request_(project: Project) -> BuildRequest:
    return BuildRequest(project.workspace, "image", load=False)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"compression": "lzma"}, "lzma"),
        ({"overrides": Overrides(without=("absent",))}, "absent"),
        ({"registry": ""}, "no registry is set"),
        ({"registry": "https://ghcr.io"}, "https://ghcr.io"),
        ({"registry": "ghcr.io", "name": "my image"}, "my image"),
    ],
)
@pytest.mark.parametrize("do", [pipeline.plan, pipeline.run])
def test_a_value_that_is_not_valid_is_refused_before_the_first_action(
    request_: BuildRequest, change: dict[str, object], named: str, do: object
) -> None:
    with pytest.raises(UsageError, match=named) as caught:
        do(replace(request_, **change))  # type: ignore[operator, arg-type]
    assert caught.value.exit_code == 2 and caught.value.hint
    assert not request_.workspace.source.exists()


def test_an_unknown_patch_is_refused_before_the_source_is_fetched(project: Project) -> None:
    for stage in (stages.check_patches, stages.diff_patches):
        with pytest.raises(UsageError, match="unknown patch: 'absent'"):
            stage(project.workspace, ["absent"])
    with pytest.raises(UsageError, match="unknown patch: 'absent'"):
        stages.write_context(project.workspace, Overrides(without=("absent",)))
    assert not project.workspace.source.exists()


@pytest.mark.parametrize("content", [b"", b"no certificate", b"\xff\xfe"])
def test_a_file_without_certificates_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "ca.pem"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=f"--extra-ca {path}"):
        Overrides(extra_ca=path)
