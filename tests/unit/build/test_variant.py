"""Variants: other pins, layers and kernels for the same fork, beside the default image."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from higgs_image import lockfile
from higgs_image.build import budget, image, layers, pipeline, render, source, stages
from higgs_image.build.context import Files
from higgs_image.build.overrides import Overrides
from higgs_image.build.patches.apply import Patched
from higgs_image.build.pipeline import BuildRequest
from higgs_image.errors import (
    BudgetError,
    KernelsChangedError,
    LockError,
    SourceError,
    UsageError,
)
from higgs_image.oci.layout import Image, ImageLayer
from higgs_image.workspace import PROJECT, Workspace
from tests.unit.conftest import Project

SITE = "opt/venv/lib/python3.11/site-packages"
NAME = "cuda12.8"
OURS = {"vllm/_custom_ops.py": "ops = 1\n", "vllm/kernels/call.py": "call = 1\n"}
"""What the fork has of the files that the variant's kernels bring."""


@pytest.fixture
def project(project: Project) -> Project:
    """A project with a variant, whose kernels replace files of the fork."""
    project.upstream.change(OURS)
    project.pin()
    names = ("vllm/_custom_ops.py", "vllm/kernels")
    project.add_variant("\n".join(f'"{x}" = "{project.upstream.tree(f"HEAD:{x}")}"' for x in names))
    return project


def variant_of(project: Project) -> Workspace:
    return replace(project.workspace, variant=NAME)


def compute(project: Project, variant: str = NAME, patched: Patched | None = None) -> Files:
    lock = project.load().for_variant(variant)
    sources = source.ensure(project.workspace, lock)
    return render.compute(project.workspace, lock, sources, patched or Patched(), Overrides())


# --- the pins


def test_a_variant_has_its_own_requirements_and_kernels(project: Project) -> None:
    default, lock = project.load(), project.load().for_variant(NAME)
    assert default.variant == "" and default.kernels is None and default.wheels == [default.wheel]
    assert default.for_variant("") == default
    assert lock.tag == f"{default.tag}-cuda12.8"
    assert lock.kernels and [x.version for x in lock.wheels] == ["0.8.3", "0.10.2"]
    assert lock.python.requirements == "requirements/other.txt"
    assert lock.python.build == default.python.build
    assert (lock.fork, lock.base, lock.sha256) == (default.fork, default.base, default.sha256)
    assert lock.python.hold == "tested with these"


def test_an_unknown_variant_is_named_with_the_known_ones(project: Project) -> None:
    for load in (project.load().for_variant, lambda x: lockfile.load(project.load().path, x)):
        with pytest.raises(UsageError, match=r"unknown variant: 'cuda13'") as caught:
            load("cuda13")
        assert caught.value.hint.endswith("versions.lock: cuda12.8")


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ('"cuda12.8"', '"cuda-12.8"', 'name = "cuda-12.8"', "variant[0].name is 'cuda-12.8'"),
        ('"vllm-0.10.2-', '"vllm-0.10.3-', 'filename = "vllm-0.10.3', "not a wheel of vllm 0.10.2"),
        ("[variant.kernels]", "[variant.kernel]", "[variant.kernel]", "unknown key kernel"),
        (
            '"vllm/kernels" = "',
            '"vllm/kernels" = "x',
            '"vllm/kernels"',
            "unchanged.vllm/kernels is",
        ),
        ('sha256 = "ffff', 'sha256 = "ff', 'sha256 = "fff', "variant[0].kernels.sha256 is"),
    ],
)
def test_a_pin_that_is_not_valid_is_refused_with_its_line(
    project: Project, old: str, new: str, line: str, message: str
) -> None:
    project.replace(old, new)
    with pytest.raises(LockError) as caught:
        project.load()
    number = project.text[: project.text.index(line)].count("\n") + 1
    assert f"versions.lock:{number}: " in caught.value.message and message in caught.value.message


def test_a_variant_is_pinned_once(project: Project) -> None:
    pinned = project.text[project.text.index("[[variant]]") :]
    project.workspace.lock_file.write_text(project.text + pinned)
    with pytest.raises(LockError, match=r"the variant cuda12\.8 is already used"):
        project.load()


@pytest.mark.parametrize(
    ("file", "keys"),
    [
        ("other.txt", ["variant[0].requirements_sha256"]),
        ("other.in", ["variant[0].input_sha256"]),
        ("input.txt", ["python.input_sha256", "variant[0].input_sha256"]),  # included with -r
    ],
)
def test_a_changed_file_of_a_variant_is_taken_into_the_lock(
    project: Project, file: str, keys: list[str]
) -> None:
    path = project.workspace.lock_file.parent / "requirements" / file
    path.write_text(path.read_text() + "changed==1\n")
    for build in (
        stages.prepare,
        lambda w, o: pipeline.plan(BuildRequest(w, "image", overrides=o)),
    ):
        for workspace in (project.workspace, variant_of(project)):
            with pytest.raises(LockError, match="does not match the files it covers"):
                build(workspace, Overrides())
    assert [x.key for x in lockfile.refresh(project.load(), PROJECT)] == keys
    assert lockfile.differences(project.load(), PROJECT) == []


# --- layers


def test_layers_of_a_variant_are_those_of_the_default_image_with_its_changes(
    project: Project,
) -> None:
    path = project.workspace.layers_file
    default, changed = layers.load(path), layers.load(path, NAME)
    assert (default.cuda, default.gpus, default.kernels) == ("12.4", [], [])
    assert (changed.cuda, changed.gpus, changed.budget.zstd_mb) == ("12.8", ["9.0", "10.0"], 30)
    assert [x.budget_mb for x in changed.layer] == [20, 5] and changed.wheel.budget_mb == 8
    assert [x.remove for x in changed.layer] == [["b"], []]
    assert [x.packages for x in changed.layer] == [x.packages for x in default.layer]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('[variant."cuda12.8".layer]\n', '[variant."cuda12.8".layer]\nx = { budget_mb = 1 }\n',
         "there is no layer x of variant cuda12.8"),
        ('"cuda12.8"', '"cuda13"', "there is no variant cuda12.8"),
        ('cuda = "12.8"', 'cuda = "12"', r"cuda"),
    ],
)  # fmt: skip
def test_changes_that_fit_nothing_are_refused(
    project: Project, old: str, new: str, message: str
) -> None:
    path = project.workspace.layers_file
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(LockError, match=message):
        layers.load(path, NAME)


def test_the_real_files_have_the_same_variants() -> None:
    lock = lockfile.load(PROJECT / "versions.lock")
    plan = layers.load(PROJECT / "docker/layers.toml")
    assert {x.name for x in lock.variants} == set(plan.variant) == {NAME}
    changed = plan.for_variant(NAME)
    assert {"10.0", "12.0"} <= set(changed.gpus) and set(plan.gpus) < set(changed.gpus)
    same = [lockfile.versions(lock.file(x).read_text())
            for x in (lock.python.requirements, lock.variants[0].requirements)]  # fmt: skip
    differing = {x for x in same[0].keys() | same[1].keys() if same[0].get(x) != same[1].get(x)}
    assert {x for x in differing if not x.startswith("nvidia-")} == {
        "torch", "torchaudio", "triton", "sympy",
    }  # fmt: skip


def test_a_variant_is_not_compared_with_the_default_images_plain_build(project: Project) -> None:
    path = project.workspace.layers_file
    path.write_text(path.read_text() + "\n[plain]\ngzip_mb = 90\nzstd_mb = 80\n")
    plan = layers.load(path)
    assert plan.plain and plan.plain_of("") == plan.plain
    assert [plan.plain_of(x) for x in (NAME, "gone")] == [None, None]
    assert layers.load(path, NAME).plain is None


def test_a_variant_has_its_own_budgets(project: Project) -> None:
    plan = layers.load(project.workspace.layers_file)
    built = Image("sha256:1", "sha256:2", (ImageLayer("torch", "sha256:3", 18_000_000),), {})
    with pytest.raises(BudgetError, match="layer torch has 18 MB, its budget is 10"):
        budget.check_compressed(built, plan, "zstd")
    budget.check_compressed(built, plan.for_variant(NAME), "zstd")


# --- the context


def test_only_what_differs_is_rendered_otherwise(project: Project) -> None:
    default, variant = compute(project, ""), compute(project)
    assert {x for x in default.keys() | variant.keys() if default.get(x) != variant.get(x)} == {
        "Dockerfile",
        "layers/packages/gpus.txt",
        "layers/torch/gpus.txt",
        "layers/torch/remove.txt",
        "layers/torch/requirements.txt",
        "layers/vllm/gpus.txt",
        "layers/vllm/kernels/files.txt",
        "layers/vllm/kernels/requirements.txt",
        f"layers/code/{SITE}/vllm/_custom_ops.py",
        f"layers/code/{SITE}/vllm/kernels/call.py",
        "layers/code/usr/share/higgs-image/image.json",
    }


def test_files_of_the_kernels_are_not_overlaid_by_the_forks(project: Project) -> None:
    files = compute(project)
    assert not [x for x in files if x.endswith(tuple(OURS))]
    assert f"layers/code/{SITE}/vllm/__init__.py" in files
    wanted = f"vllm==0.10.2 \\\n    --hash=sha256:{'f' * 64}\n"
    assert files["layers/vllm/kernels/requirements.txt"][0].decode() == wanted
    assert (
        files["layers/vllm/kernels/files.txt"][0]
        == b"vllm/*.so\nvllm/_custom_ops.py\nvllm/kernels\n"
    )
    assert b"vllm==0.8.3" in files["layers/vllm/requirements.txt"][0]


def test_the_image_says_which_variant_it_is(project: Project) -> None:
    facts = [
        json.loads(files["layers/code/usr/share/higgs-image/image.json"][0])
        for files in (compute(project, ""), compute(project))
    ]
    assert [x["variant"] for x in facts] == ["", NAME]
    assert [x["cuda"] for x in facts] == ["12.4", "12.8"]
    assert [x["gpus"] for x in facts] == [[], ["9.0", "10.0"]]
    assert facts[1]["tag"] == f"{facts[0]['tag']}-{NAME}"
    dockerfile = compute(project)["Dockerfile"][0].decode()
    for name, value in {
        "variant": NAME, "kernels": "vllm 0.10.2", "kernels-sha256": "f" * 64,
        "gpus": "9.0 10.0", "wheel-sha256": "d" * 64,
        "requirements-sha256": project.load().variants[0].requirements_sha256,
    }.items():  # fmt: skip
        assert f'org.higgs-image.{name}="{value}"' in dockerfile
    assert f'version="{project.load().tag}-{NAME}"' in dockerfile
    assert "org.higgs-image.variant" not in compute(project, "")["Dockerfile"][0].decode()


def test_the_wheel_of_the_kernels_may_be_local(project: Project, tmp_path: Path) -> None:
    kernels = project.load().variants[0].kernels.filename
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels" / kernels).write_bytes(b"wheel")
    lock = project.load().for_variant(NAME)
    workspace = replace(variant_of(project), wheels=tmp_path / "wheels")
    files = render.compute(workspace, lock, source.ensure(workspace, lock), Patched(), Overrides())
    assert files[f"layers/vllm/wheels/{kernels}"] == (b"wheel", 0o644)


# --- the premise


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"vllm/_custom_ops.py": "ops = 2\n"}, "vllm/_custom_ops.py"),
        ({"vllm/kernels/new.py": "\n"}, "vllm/kernels"),
    ],
)
def test_a_fork_that_changes_what_calls_the_kernels_is_refused(
    project: Project, changed: dict[str, str], named: str
) -> None:
    unchanged = {
        x: project.upstream.tree(f"HEAD:{x}") for x in ("vllm/_custom_ops.py", "vllm/kernels")
    }
    project.upstream.change(changed)
    project.pin()
    project.workspace.layers_file.write_text(
        project.workspace.layers_file.read_text().partition("\n[variant")[0]
    )
    project.add_variant("\n".join(f'"{x}" = "{y}"' for x, y in unchanged.items()))
    source.ensure(project.workspace, project.load())  # the default image keeps the change
    with pytest.raises(KernelsChangedError, match=f"changes {named} against v0") as caught:
        source.ensure(project.workspace, project.load().for_variant(NAME))
    assert NAME in caught.value.message and "vllm-0.10.2-" in caught.value.message


def test_a_file_of_the_fork_is_dropped_only_with_a_proof(project: Project) -> None:
    """Each file of the kernels that the fork has, too, needs an id in the lock."""
    project.replace('"vllm/kernels" =', '"vllm/entrypoints" =')
    entrypoints = project.upstream.tree("HEAD:vllm/entrypoints")
    kernels = project.upstream.tree("HEAD:vllm/kernels")
    project.replace(kernels, entrypoints)
    with pytest.raises(SourceError, match=r"vllm/kernels/call\.py of the fork would be replaced"):
        compute(project)


def test_a_patched_file_is_not_dropped(project: Project) -> None:
    patched = Patched({"vllm/_custom_ops.py": b"patched = 1\n"}, [])
    compute(project, "", patched)
    with pytest.raises(SourceError, match=r"vllm/_custom_ops\.py of the fork would be replaced"):
        compute(project, NAME, patched)


# --- side by side


def test_variants_do_not_share_what_a_build_leaves(project: Project) -> None:
    default, variant = project.workspace, variant_of(project)
    contexts = [stages.write_context(x, Overrides()) for x in (default, variant)]
    assert [x.path.name for x in contexts] == ["context", "context-cuda12.8"]
    assert [(x.path / "layers/vllm/kernels").exists() for x in contexts] == [False, True]
    assert [stages.write_context(x, Overrides()).changed for x in (default, variant)] == [[], []]
    assert [stages.compare_context(x, Overrides()).files for x in (default, variant)] == [[], []]
    assert default.layout("zstd") != variant.layout("zstd")
    default.write_state(f"build-{default.product('zstd')}", {"tag": "default"})
    assert variant.read_state(f"build-{variant.product('zstd')}") == {}


def test_the_last_build_may_be_of_any_variant(project: Project) -> None:
    assert image.last_built(project.workspace) is None
    for index, (name, compression) in enumerate((("", "zstd"), (NAME, "gzip"), ("", "gzip"))):
        place = replace(project.workspace, variant=name)
        place.write_state(f"build-{place.product(compression)}", {})
        file = place.build / "state" / f"build-{place.product(compression)}.json"
        os.utime(file, (index, index))
        assert image.last_built(project.workspace) == (place, compression)


def test_tags_have_the_variant_first(project: Project) -> None:
    lock = project.load().for_variant(NAME)
    overrides = Overrides(gpus=("10.0",))
    assert image.tag_of(lock, "zstd", overrides) == f"{project.load().tag}-cuda12.8-zstd-sm100"
    plan = pipeline.plan(BuildRequest(variant_of(project), "image", overrides=overrides))
    assert plan.tag == f"{project.load().tag}-cuda12.8-sm100"
    for gpus in (("8.9",), ("10.0", "8.9")):
        with pytest.raises(UsageError, match=r"--gpus 8\.9: the image does not support"):
            pipeline.plan(
                BuildRequest(variant_of(project), "image", overrides=Overrides(gpus=gpus))
            )
    with pytest.raises(UsageError, match=r"--gpus 10\.0") as caught:
        project.workspace.layers_file.write_text(
            'gpus = ["9.0"]\n' + project.workspace.layers_file.read_text()
        )
        pipeline.plan(BuildRequest(project.workspace, "image", overrides=overrides))
    assert "--variant cuda12.8 has it" in caught.value.hint
