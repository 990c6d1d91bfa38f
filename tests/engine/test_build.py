"""Builds of the fake fork on a real engine: what comes out, and every way to fail."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
from pathlib import Path

import pytest

from higgs_image import labels as the_labels
from higgs_image import lockfile
from higgs_image.attest import provenance, sbom
from higgs_image.build import image, pipeline
from higgs_image.build.overrides import Overrides
from higgs_image.demo import fake_fork
from higgs_image.errors import (
    BudgetError,
    BuildError,
    DiskFullError,
    EngineError,
    HashMismatchError,
    KernelsChangedError,
    RegistryError,
    RegistryUnavailableError,
    SourceError,
)
from higgs_image.host.local_registry import LocalRegistry
from higgs_image.oci import layout, skopeo
from higgs_image.oci import reference as oci_reference
from higgs_image.oci.artifacts import open_repository
from higgs_image.release import publish
from higgs_image.release.journal import Journal
from higgs_image.workspace import Workspace

from .conftest import MakeFakeFork

pytestmark = pytest.mark.engine


def edit(workspace: Workspace, pattern: str, replacement: str) -> None:
    """Change versions.lock by hand."""
    text = workspace.lock_file.read_text()
    changed = re.sub(pattern, replacement, text, count=1, flags=re.MULTILINE)
    assert changed != text
    workspace.lock_file.write_text(changed)


def docker(*arguments: str) -> str:
    done = subprocess.run(["docker", *arguments], check=True, capture_output=True, text=True)
    return done.stdout


@pytest.fixture
def workspace(make_fake_fork: MakeFakeFork) -> Workspace:
    return make_fake_fork()


def test_one_digest_in_layout_registry_and_engine(
    workspace: Workspace, overrides: Overrides, registry_for_all: LocalRegistry
) -> None:
    request = pipeline.BuildRequest(
        workspace, "one-digest", registry=registry_for_all.address, overrides=overrides
    )
    first = pipeline.run(request)
    assert not first.skipped and first.pushed is not None and first.engine is not None
    assert first.pushed.digest == first.digest
    assert docker("image", "inspect", "--format", "{{.Id}}", first.engine).strip() == first.digest
    index = json.loads((first.layout / "index.json").read_bytes())
    assert [entry["digest"] for entry in index["manifests"]] == [first.digest]
    names = [name for name, _ in first.layers]
    assert names == ["base", "system", "stable", "packages", "vllm", "bytecode", "assets", "code"]
    assert first.unpacked_mb is not None and first.unpacked_mb > first.compressed_mb

    again = pipeline.run(request)
    assert again.skipped and again.digest == first.digest
    assert again.pushed is not None and again.pushed.skipped
    docker("image", "rm", first.engine)


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damaged", ["layer", "manifest", "index", "marker", "provenance"])
def test_damage_in_the_layout_is_built_again(
    workspace: Workspace, overrides: Overrides, registry_for_all: LocalRegistry, damaged: str
) -> None:
    request = pipeline.BuildRequest(
        workspace, f"damaged-{damaged}", overrides=overrides, load=False
    )
    first = pipeline.run(request)
    read = layout.read(first.layout, first.digest)
    flip_a_bit({
        "layer": layout.blob(first.layout, read.layers[-1].digest),
        "manifest": layout.blob(first.layout, first.digest),
        "index": first.layout / "index.json",
        "marker": first.layout / "oci-layout",
        "provenance": workspace.build / "provenance-gzip.json",
    }[damaged])  # fmt: skip
    again = pipeline.run(dataclasses.replace(request, registry=registry_for_all.address))
    assert again.digest == first.digest
    assert again.pushed is not None and again.pushed.digest == first.digest
    assert again.skipped == (damaged in ("index", "marker"))
    assert layout.damaged_blobs(again.layout) == []


def test_a_push_of_a_damaged_layout_names_the_blob_and_not_the_registry(
    workspace: Workspace, overrides: Overrides, registry_for_all: LocalRegistry
) -> None:
    built = image.build(workspace, overrides=overrides)
    path = layout.blob(built.layout, built.image.layers[-1].digest)
    flip_a_bit(path)
    target = oci_reference.repository(registry_for_all.address, "push-damaged")
    with pytest.raises(BuildError, match=f"{path.name} is damaged"):
        skopeo.push(built, target)


def test_a_variant_is_built_beside_the_default_image(
    workspace: Workspace, overrides: Overrides, registry_for_all: LocalRegistry
) -> None:
    other = dataclasses.replace(workspace, variant=fake_fork.VARIANT)
    requests = [
        pipeline.BuildRequest(x, "variants", "zstd", registry_for_all.address, overrides)
        for x in (workspace, other)
    ]
    default, variant = (publish.build_and_push(x) for x in requests)
    assert [pipeline.run(x).skipped for x in requests] == [True, True]
    assert variant.tag == default.tag.replace("-zstd", "-cuda12.8-zstd")
    changed = [x for x, y in zip(default.layers, variant.layers, strict=True) if x != y]
    assert {name for name, _ in changed} <= {"vllm", "bytecode", "code"}

    def run(report: pipeline.BuildReport, code: str) -> str:
        return docker("run", "--rm", "--entrypoint", "python3", str(report.engine), "-c", code)

    for report, kernels in ((default, "0.8.3"), (variant, "0.10.2")):
        code = (
            "import importlib.metadata, pathlib, vllm; from vllm import _custom_ops, origin;"
            "left = [x.name for x in pathlib.Path(vllm.__file__).parent.parent.glob('tmp*')];"
            "version = importlib.metadata.version('vllm');"
            "print(_custom_ops.KERNELS, origin.ORIGIN, version, left)"
        )
        assert run(report, code) == f"{kernels} fork 0.8.3 []\n"
    code = "print(open('/usr/share/higgs-image/image.json').read())"
    facts = [json.loads(run(report, code)) for report in (default, variant)]
    assert [(x["variant"], x["cuda"]) for x in facts] == [("", "12.4"), ("cuda12.8", "12.8")]
    with open_repository(oci_reference.repository(registry_for_all.address, "variants")) as pushed:
        history = Journal(pushed, workspace.build / "journal")
        files = [pushed.files(history.of(x.digest)[-1].tag) for x in (default, variant)]
    packages = [sbom.versions(x[publish.SBOM])["pypi vllm"] for x in files]
    assert packages == ["0.8.3", "0.10.2, 0.8.3"]
    for found, place in zip(files, (workspace, other), strict=True):
        lock = lockfile.load(place.lock_file, place.variant)
        assert provenance.package_disagreements(sbom.versions(found[publish.SBOM]), lock) == []
        document = json.loads(found[publish.PROVENANCE])
        wrong = provenance.disagreements(document, lock)
        assert [x for x in wrong if not x.startswith("base image")] == []
        names = [x["name"] for x in document["buildDefinition"]["resolvedDependencies"]]
        assert (fake_fork.KERNELS in names) == bool(place.variant)
    for report in (default, variant):
        docker("image", "rm", str(report.engine))


def test_compressions_have_different_tags(workspace: Workspace, overrides: Overrides) -> None:
    zstd = image.build(workspace, "zstd", overrides)
    manifest = json.loads(layout.blob(zstd.layout, zstd.image.digest).read_bytes())
    assert {x["mediaType"].rpartition("+")[2] for x in manifest["layers"]} == {"zstd"}
    gzip = image.build(workspace, "gzip", overrides)
    mark = overrides.mark
    assert zstd.tag == gzip.tag.removesuffix(mark) + "-zstd" + mark
    assert zstd.layout != gzip.layout


def test_labels_are_set_and_no_leftovers_are_in_the_image(
    workspace: Workspace, some_ca: Path
) -> None:  # fmt: skip
    overrides = Overrides(extra_ca=some_ca)
    built = image.build(workspace, overrides=overrides)
    reference = image.load(workspace, built, overrides, "labels")
    config = json.loads(docker("image", "inspect", reference))[0]
    locked = lockfile.load(workspace.lock_file)
    labels = config["Config"]["Labels"]
    assert labels["org.opencontainers.image.revision"] == locked.fork.commit
    assert labels["org.opencontainers.image.created"] == locked.fork.date.isoformat()
    assert labels["org.opencontainers.image.base.digest"] == locked.base.digest
    assert (
        labels[the_labels.LABEL + "extra-ca-sha256"]
        == overrides.labels()[the_labels.LABEL + "extra-ca-sha256"]
    )
    assert built.overridden and built.tag.endswith(overrides.mark) and "-dev-" in built.tag
    assert config["Config"]["Entrypoint"][0] == "tini"
    assert "NVIDIA_REQUIRE_CUDA=cuda>=12.4" in config["Config"]["Env"]
    assert config["Config"]["Healthcheck"]["Test"][0] == "CMD"
    assert config["Created"].startswith("2025-07-30T12:00:00")

    everything = json.dumps(config) + docker("history", "--no-trunc", reference)
    assert str(some_ca) not in everything
    newest = f"@{locked.fork.epoch + 400 * 86400}"
    young = docker(
        "run", "--rm", "--network", "none", "--entrypoint", "find", reference,
        "/", "-xdev", "-newermt", newest, "-not", "-path", "/proc/*", "-not", "-path", "/sys/*",
        "-not", "-path", "/dev*", "-not", "-path", "/etc/*", "-newermt", "-5 minutes",
    )  # fmt: skip
    assert set(young.split()) <= {"/", "/proc", "/sys", "/etc", "/.dockerenv"}
    left = docker(
        "run", "--rm", "--entrypoint", "sh", reference, "-c",
        "ls -d /var/cache/apt/* /var/lib/apt/lists/* /root/.cache /tools /var/log/apt /tmp/* "
        "/run/secrets/* /build /layer 2>/dev/null; grep -rl 'CA of this test' /etc /opt || true",
    )  # fmt: skip
    assert left.split() == []
    notice = docker("run", "--rm", "--entrypoint", "cat", reference,
                    "/usr/share/doc/higgs-image/NOTICE")  # fmt: skip
    assert notice == (workspace.root / "NOTICE").read_text()
    docker("image", "rm", reference)


def test_a_changed_file_sends_one_small_layer(
    make_fake_fork: MakeFakeFork, overrides: Overrides, registry_for_all: LocalRegistry
) -> None:
    target = oci_reference.repository(registry_for_all.address, "small-change")
    built = image.build(make_fake_fork("one"), overrides=overrides)
    skopeo.push(built, target)
    other = make_fake_fork("two", changes={"vllm/entrypoints/bosonai/more.py": "VALUE = 1\n"})
    changed = image.build(other, overrides=overrides)
    pairs = zip(built.image.layers, changed.image.layers, strict=True)
    assert [old.name for old, new in pairs if old.digest != new.digest] == ["code"]
    pushed = skopeo.push(changed, target)
    assert pushed.uploaded_bytes == changed.image.layers[-1].size < 1e6


def test_a_change_of_the_same_size_is_built(
    make_fake_fork: MakeFakeFork, overrides: Overrides
) -> None:
    """BuildKit compares sizes and dates of the context's files, not what is in them."""
    digests = set()
    for value in (1, 2, 3):
        changes = {"vllm/entrypoints/bosonai/more.py": f"VALUE = {value}\n"}
        digests.add(image.build(make_fake_fork("same", changes), overrides=overrides).image.digest)
    assert len(digests) == 3


def test_a_wheel_with_another_hash_is_refused(workspace: Workspace, overrides: Overrides) -> None:
    edit(workspace, r'(?<=whl"\nsha256 = ")[0-9a-f]{64}', "1" * 64)
    with pytest.raises(HashMismatchError, match=r"vllm==0\.8\.3") as caught:
        image.build(workspace, overrides=overrides)
    assert "hash" in caught.value.hint
    assert image.current(workspace, "gzip") is None


def test_changed_kernels_are_refused(make_fake_fork: MakeFakeFork, overrides: Overrides) -> None:
    workspace = make_fake_fork("kernels", changes={"csrc/kernel.cu": "// another kernel\n"})
    with pytest.raises(KernelsChangedError, match="csrc"):
        image.build(workspace, overrides=overrides)


def test_a_wrong_commit_and_a_missing_submodule_are_refused(
    workspace: Workspace, overrides: Overrides
) -> None:
    before = workspace.lock_file.read_text()
    edit(workspace, r'(?<=^commit = ")[0-9a-f]{40}', "1" * 40)
    with pytest.raises(SourceError, match="1" * 40):
        image.build(workspace, overrides=overrides)
    workspace.lock_file.write_text(before)
    edit(workspace, r'(?<=^path = ")external/higgs-audio', "external/elsewhere")
    with pytest.raises(SourceError, match="external/elsewhere"):
        image.build(workspace, overrides=overrides)


def test_a_missing_base_image_is_named(
    workspace: Workspace, overrides: Overrides, registry_for_all: LocalRegistry
) -> None:
    missing = f"{registry_for_all.address}/no-such-base@sha256:{'1' * 64}"
    with pytest.raises(RegistryError, match="no-such-base") as caught:
        image.build(workspace, overrides=dataclasses.replace(overrides, base_image=missing))
    assert "--base-image" in caught.value.hint
    nobody = f"127.0.0.1:1/base@sha256:{'1' * 64}"
    with pytest.raises(RegistryUnavailableError, match=r"127\.0\.0\.1:1"):
        image.build(workspace, overrides=dataclasses.replace(overrides, base_image=nobody))


def test_overridden_base_is_marked(workspace: Workspace, overrides: Overrides, base: str) -> None:
    overrides = dataclasses.replace(overrides, base_image=base)
    built = image.build(workspace, overrides=overrides)
    assert built.overridden and built.tag.endswith(overrides.mark) and "-dev-" in built.tag
    assert built.image.labels[the_labels.LABEL + "overrides"] == "base-image"


def test_a_failing_step_names_the_log(workspace: Workspace, overrides: Overrides) -> None:
    text = workspace.layers_file.read_text()
    workspace.layers_file.write_text(
        text.replace('packages = ["*"]', 'packages = ["*"]\nremove = ["no/such/file"]')
    )
    with pytest.raises(BuildError, match="no/such/file") as caught:
        image.build(workspace, overrides=overrides)
    log_file = workspace.build / "logs" / "build-gzip.log"
    assert str(log_file) in caught.value.hint and "no/such/file" in log_file.read_text()


def test_an_image_over_its_budget_is_refused(workspace: Workspace, overrides: Overrides) -> None:
    text = workspace.layers_file.read_text()
    workspace.layers_file.write_text(text.replace("gzip_mb = 130", "gzip_mb = 10"))
    for _ in range(2):  # the second time nothing is built, and it is still too large
        with pytest.raises(BudgetError, match=r"gzip, its budget is 10"):
            image.build(workspace, overrides=overrides)


def test_too_little_disk_is_refused_before_the_build(
    tmp_path: Path, base: str, overrides: Overrides
) -> None:
    huge = dataclasses.replace(fake_fork.make(tmp_path, base), disk_gb=1e6)  # its layout is empty
    with pytest.raises(DiskFullError, match=r"1000000\.0 GB"):
        image.build(huge, overrides=overrides)


def test_a_missing_engine_is_named(
    workspace: Workspace, overrides: Overrides, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent.sock")
    with pytest.raises(EngineError, match="nonexistent") as caught:
        image.build(workspace, overrides=overrides)
    assert "./inv install-docker" in caught.value.hint
