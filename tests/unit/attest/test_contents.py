"""What is in an image: its files, its packages, and where it comes from."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from higgs_image import versions
from higgs_image.attest import layer_files, provenance, sbom
from higgs_image.errors import BuildError
from higgs_image.oci import layout
from higgs_image.oci.layout import Image

LAYER = "application/vnd.oci.image.layer.v1.tar"
LABEL = "org.higgs-image."


def make(folder: Path, *layers: dict[str, str], labels: dict[str, str] | None = None) -> Image:
    """Write an image with these files."""
    layout.create(folder)
    entries = []
    for files in layers:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for path, text in files.items():
                info = tarfile.TarInfo(path)
                info.size = len(text.encode())
                tar.addfile(info, io.BytesIO(text.encode()))
        entries.append(layout.add(folder, buffer.getvalue(), LAYER))
    config = {"config": {"Labels": labels or {}}, "history": [{"created_by": "x"}] * len(layers)}
    return layout.add_image(folder, config, entries, "tag")


def test_upper_layers_win_and_whiteouts_remove(tmp_path: Path) -> None:
    image = make(
        tmp_path / "image",
        {"a/one": "1", "a/two": "2", "b/three": "3", "c/four": "4"},
        {"./a/two": "22", "a/.wh.one": "", "b/.wh..wh..opq": "", "b/five": "5", ".wh.c": ""},
    )
    found = layer_files.files(tmp_path / "image", image, lambda _: True)
    assert found == {"a/two": b"22", "b/five": b"5"}


def test_members_have_hash_and_owner(tmp_path: Path) -> None:
    image = make(tmp_path / "image", {"a": "x"})
    (member,) = layer_files.members(tmp_path / "image", image.layers[0].digest)
    assert (member.path, member.kind, member.size, member.owner) == ("a", "file", 1, "0:0")
    assert member.sha256.startswith("2d711642")


def test_damaged_layer_is_an_error(tmp_path: Path) -> None:
    image = make(tmp_path / "image", {"a": "x"})
    layout.blob(tmp_path / "image", image.layers[0].digest).write_bytes(b"\x1f\x8b damaged")
    with pytest.raises(BuildError, match="cannot be read"):
        layer_files.files(tmp_path / "image", image, lambda _: True)


STATUS = """Package: libssl3
Status: install ok installed
Architecture: amd64
Source: openssl (3.0.15-2)
Version: 3.0.15-1

Package: gone
Status: deinstall ok config-files
Version: 1
"""
FILES = {
    "etc/os-release": 'ID=debian\nVERSION_ID="12"\n',
    "var/lib/dpkg/status": STATUS,
    "opt/venv/lib/python3.11/site-packages/Foo.Bar-1.dist-info/METADATA":
        "Name: Foo.Bar_baz\nVersion: 1.2\nLicense-Expression: MIT\n",
    "opt/venv/lib/python3.11/site-packages/imageio_ffmpeg/binaries/ffmpeg-linux-x86_64-v7.0.2": "x",
}  # fmt: skip


def test_packages_of_every_kind(tmp_path: Path) -> None:
    labels = {LABEL + "fork": "https://github.com/boson-ai/fork.git 1234",
              LABEL + "submodule": "https://git.invalid/audio 5678"}  # fmt: skip
    image = make(tmp_path / "image", FILES, labels=labels)
    found, release = sbom.packages(tmp_path / "image", image)
    assert release == "debian-12"
    assert {(x.kind, x.name, x.version) for x in found} == {
        ("deb", "libssl3", "3.0.15-1"),
        ("pypi", "foo-bar-baz", "1.2"),
        ("generic", "ffmpeg", "7.0.2"),
        ("github", "boson-ai/fork", "1234"),
        ("generic", "submodule", "5678"),
    }
    (deb,) = (x for x in found if x.kind == "deb")
    assert (deb.source, deb.architecture) == ("openssl@3.0.15-2", "amd64")


def test_image_without_debian_is_refused(tmp_path: Path) -> None:
    image = make(tmp_path / "image", {"etc/os-release": "ID=alpine\n"})
    with pytest.raises(BuildError, match="no list of Debian packages"):
        sbom.packages(tmp_path / "image", image)


def test_the_same_image_gives_the_same_sbom(tmp_path: Path) -> None:
    first = make(tmp_path / "one", FILES)
    second = make(tmp_path / "two", dict(reversed(FILES.items())))
    one = sbom.make(tmp_path / "one", first, "name")
    assert one == sbom.make(tmp_path / "one", first, "name")
    assert sbom.versions(one) == sbom.versions(sbom.make(tmp_path / "two", second, "name"))
    document = json.loads(one)
    assert document["specVersion"] == "1.6"
    assert document["metadata"]["component"]["name"] == "name"


def test_the_sbom_has_the_gpus_and_the_lock(tmp_path: Path) -> None:
    labels = {LABEL + "gpus": "8.6 8.9", LABEL + "lock-sha256": "1" * 64}
    image = make(tmp_path / "image", FILES, labels=labels)
    top = json.loads(sbom.make(tmp_path / "image", image, "name"))["metadata"]["component"]
    assert {x["name"]: x["value"] for x in top["properties"]} == labels


def test_the_sbom_has_both_wheels_of_a_variant(tmp_path: Path) -> None:
    labels = {LABEL + "variant": "cuda12.8", LABEL + "kernels": "Foo.Bar_baz 2.0"}
    image = make(tmp_path / "image", FILES, labels=labels)
    made = sbom.make(tmp_path / "image", image, "name")
    assert sbom.versions(made)["pypi foo-bar-baz"] == "1.2, 2.0"
    [variant] = json.loads(made)["metadata"]["component"]["properties"]
    assert variant == {"name": LABEL + "variant", "value": "cuda12.8"}


def test_changes_name_new_changed_and_removed_packages() -> None:
    old, new = (
        {"deb a": "1", "deb b": "1", "deb c": "1"},
        {"deb a": "1", "deb b": "2", "deb d": "1"},
    )
    assert versions.changes(old, new) == [
        "deb b 1 -> 2", "deb c 1 -> (gone)", "deb d (absent) -> 1",
    ]  # fmt: skip


def test_builder_is_the_workflow_or_a_local_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GITHUB_WORKFLOW_REF", raising=False)
    assert provenance.builder_id() == "urn:higgs-image:local"
    monkeypatch.setenv("GITHUB_WORKFLOW_REF", "a/b/.github/workflows/build.yml@main")
    monkeypatch.delenv("GITHUB_SERVER_URL", raising=False)
    assert provenance.builder_id() == "https://github.com/a/b/.github/workflows/build.yml@main"


def test_build_type_claims_nothing_about_the_fork() -> None:
    assert "boson-ai" not in provenance.BUILD_TYPE


def test_encoding_does_not_depend_on_the_order() -> None:
    assert provenance.encode({"b": 1, "a": "ä"}) == provenance.encode({"a": "ä", "b": 1})
