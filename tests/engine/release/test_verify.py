"""What verify finds of a released image: signatures, contents, and a build of the same lock."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from higgs_image.attest import layer_files, provenance, rebuild, signature
from higgs_image.build.overrides import Overrides
from higgs_image.errors import RegistryNotFoundError, SigningError, UsageError
from higgs_image.host.local_registry import LocalRegistry
from higgs_image.oci import layout, reference, skopeo
from higgs_image.oci.artifacts import open_repository
from higgs_image.release import pipeline, publish, records, verify, verify_checks
from higgs_image.release.journal import Journal
from higgs_image.verdict import Verdict
from higgs_image.workspace import Workspace
from tests.engine.test_registry import HTPASSWD, SECRET
from tests.support import small_image

from .conftest import Release

pytestmark = pytest.mark.engine


@pytest.fixture
def key(cosign: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A key pair of cosign; returns the public one."""
    return make_key(tmp_path / "keys", monkeypatch)


def make_key(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder.mkdir()
    monkeypatch.setenv("COSIGN_PASSWORD", "secret")
    subprocess.run(
        ["cosign", "generate-key-pair"], cwd=folder, check=True, capture_output=True,
        env=os.environ,
    )  # fmt: skip
    monkeypatch.setenv("COSIGN_KEY", str(folder / "cosign.key"))
    return folder / "cosign.pub"


def signed(release: Release, content: str = "1", **options: Any) -> str:
    digest = release.push(content, **options)
    with open_repository(release.target) as repository:
        entries = Journal(repository).of(digest)
        (entry,) = [x for x in entries if isinstance(x.record, records.Push)]
        assert pipeline.sign(repository, entry, digest) == "a key"
    return digest


def scratch(release: Release) -> Workspace:
    return replace(release.workspace, build=release.folder / "build")


def check(
    release: Release, what: str, trust: signature.Trust | None = None, *, layers: bool = False
) -> dict[str, tuple[Verdict, str]]:
    with open_repository(release.target) as repository:
        done = verify.verify(
            Journal(repository), what, scratch(release), release.lock, trust, layers=layers
        )
        assert done.text()
        return {x.check: (x.verdict, x.found) for x in done.findings}


def test_a_signed_and_promoted_image_passes_every_check(release: Release, key: Path) -> None:
    digest = signed(release)
    release.promote(digest)
    found = check(release, "custom", signature.Trust(key), layers=True)
    assert {name: verdict for name, (verdict, _) in found.items()} == dict.fromkeys(
        [*verify_checks.CHECKS, "layers"], Verdict.PASS
    )
    assert "no public log" in found["signature"][1]
    assert "not locked" in found["packages"][1]

    # A stranger's own lock is another one.
    other = replace_lock(release, "f" * 64)
    found = check(other, digest)
    assert found["lock"][0] is Verdict.FAIL
    for name in ("pins", "provenance", "packages"):
        assert found[name] == (
            Verdict.INCONCLUSIVE, "not compared: it was built from another lock than this one",
        )  # fmt: skip

    with open_repository(release.target) as repository:
        done = verify.verify(Journal(repository), digest, scratch(release), other.lock, None)
        with pytest.raises(UsageError, match=r"git checkout c{40}"):
            verify.rebuild(Journal(repository), done, release.workspace, Overrides())


def replace_lock(release: Release, sha256: str) -> Release:
    import msgspec

    return replace(release, lock=msgspec.structs.replace(release.lock, sha256=sha256))


def test_signing_again_changes_nothing(release: Release, key: Path) -> None:
    digest = signed(release)
    with open_repository(release.target) as repository:
        tag = f"sha256-{digest[7:]}.sig"
        before = repository.digest(tag)
        (entry,) = [x for x in Journal(repository).of(digest) if isinstance(x.record, records.Push)]
        pipeline.sign(repository, entry, digest)
        assert repository.digest(tag) == before


def test_another_key_is_not_believed(
    release: Release, key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = signed(release)
    other = make_key(tmp_path / "other", monkeypatch)
    verdict, text = check(release, digest, signature.Trust(other))["signature"]
    assert verdict is Verdict.FAIL and digest in text
    with pytest.raises(SigningError):
        signature.verify(release.target, digest, signature.Trust(other))


def test_an_unsigned_image_is_not_proven(release: Release, key: Path) -> None:
    digest = release.push("1")
    assert check(release, digest)["signature"] == (Verdict.INCONCLUSIVE, "it is not signed")
    assert check(release, digest, signature.Trust(key))["signature"][0] is Verdict.FAIL


def test_a_list_that_was_exchanged_after_signing_is_noticed(release: Release, key: Path) -> None:
    digest = signed(release)
    with open_repository(release.target) as repository:
        history = Journal(repository)
        (entry,) = [x for x in history.of(digest) if isinstance(x.record, records.Push)]
        files = repository.files(entry.tag)
        files[publish.SBOM] = files[publish.SBOM].replace(b"3.0.15-1", b"3.0.99-1")
        history.write(
            entry.record, {x: (data, publish.TYPES[x]) for x, data in files.items()}, tag=entry.tag
        )
    found = check(release, digest, signature.Trust(key), layers=True)
    assert found["signature"][0] is Verdict.FAIL and "list of packages" in found["signature"][1]
    assert found["layers"][0] is Verdict.FAIL and "3.0.99-1 -> 3.0.15-1" in found["layers"][1]


def test_a_damaged_layer_is_noticed(release: Release, served: LocalRegistry) -> None:
    digest = release.push("1")
    with open_repository(release.target) as repository:
        manifest = repository.manifest(digest)
        assert manifest
        name = str(manifest["layers"][1]["digest"])[7:]
    blob = served.folder / f"storage/docker/registry/v2/blobs/sha256/{name[:2]}/{name}/data"
    whole = blob.read_bytes()
    try:
        blob.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        verdict, text = check(release, digest, layers=True)["layers"]
    finally:
        blob.write_bytes(whole)
    assert verdict is Verdict.FAIL and name in text
    assert check(release, digest, layers=True)["layers"][0] is Verdict.PASS


def test_a_signature_without_the_signed_list_is_not_enough(release: Release, key: Path) -> None:
    digest = signed(release)
    with open_repository(release.target) as repository:
        attestations = repository.digest(f"sha256-{digest[7:]}.att")
        assert attestations
        repository.delete(attestations)
    verdict, text = check(release, digest, signature.Trust(key))["signature"]
    assert verdict is Verdict.FAIL and "attestation" in text


def test_an_immutable_tag_that_was_moved_is_noticed(release: Release) -> None:
    first, second = release.push("1"), release.push("2")
    with open_repository(release.target) as repository:
        repository.point(f"{release.lock.tag}-1", second)
    verdict, text = check(release, first)["origin"]
    assert verdict is Verdict.FAIL and second in text


def test_each_flaw_is_named(release: Release) -> None:
    layers = small_image.files(release.lock)
    layers[1] = {path.replace("six-1.17.0", "six-1.16.0"): text.replace("1.17.0", "1.16.0")
                 for path, text in layers[1].items()}  # fmt: skip
    label = {
        "org.higgs-image.wheel-sha256": "0" * 64,
        "org.higgs-image.fork": f"https://git.invalid/fork {'1' * 40}",
        "org.higgs-image.patches": "unheard-of@1234567",
    }
    digest = release.push("1", smoke="gpu fail", layers=layers, more=label)
    found = check(release, digest)
    assert found["packages"] == (Verdict.FAIL, "six: in the image 1.16.0, locked 1.17.0")
    assert found["pins"][0] is Verdict.FAIL and "wheel is 0000000" in found["pins"][1]
    assert f"{'1' * 40}, locked is {release.lock.fork.commit}" in found["pins"][1]
    assert "unheard-of@1234567" in found["pins"][1]
    assert found["smoke"][0] is Verdict.FAIL
    assert found["floating tag"] == (
        Verdict.INCONCLUSIVE, "no floating tag names it now; it was never promoted",
    )  # fmt: skip
    with open_repository(release.target) as repository:
        repository.point("custom", digest)
    assert "no record of the journal" in check(release, digest)["floating tag"][1]


def test_an_image_that_nobody_recorded(release: Release, tmp_path: Path) -> None:
    built = small_image.make(tmp_path / "foreign", release.lock)
    skopeo.push(built, release.target)
    found = check(release, built.image.digest, layers=True)
    undecided = {name for name, (verdict, _) in found.items() if verdict is Verdict.INCONCLUSIVE}
    assert undecided == {
        "origin", "provenance", "packages", "signature", "smoke", "floating tag", "layers",
    }  # fmt: skip
    with pytest.raises(RegistryNotFoundError):
        check(release, "nothing")


def test_signing_with_a_login_leaves_no_secret_behind(
    tmp_path: Path, release: Release, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passwords = tmp_path / "htpasswd"
    passwords.write_text(HTPASSWD + "\n")
    monkeypatch.setenv("REGISTRY_USER", "releaser")
    monkeypatch.setenv("REGISTRY_PASSWORD", SECRET)
    with LocalRegistry(tmp_path / "guarded", htpasswd=passwords) as guarded:
        there = replace(release, target=reference.repository(guarded.address, "image"))
        digest = signed(there)
        assert check(there, digest, signature.Trust(key))["signature"][0] is Verdict.PASS


def test_provenance_names_what_the_lock_pins(release: Release) -> None:
    digest = release.push("1")
    with open_repository(release.target) as repository:
        (entry,) = [x for x in Journal(repository).of(digest) if isinstance(x.record, records.Push)]
        import json

        document = json.loads(repository.files(entry.tag)[publish.PROVENANCE])
    assert provenance.disagreements(document, release.lock) == []
    for dependency in document["buildDefinition"]["resolvedDependencies"]:
        if dependency["name"] == "fork":
            dependency["digest"] = {"gitCommit": "0" * 40}
    (line,) = provenance.disagreements(document, release.lock)
    assert line.startswith("fork is 0000000")


@pytest.fixture
def two(tmp_path: Path, release: Release) -> Iterator[tuple[str, Path]]:
    """The digest of an image in the registry, and a folder for what is built again."""
    yield release.push("1"), tmp_path / "again"


@pytest.mark.parametrize(
    ("change", "layer", "file"),
    [
        ({"ssl": "3.0.16-1"}, "part-1", "/var/lib/dpkg/status: sha256"),
        ({"content": "2"}, "part-0", "/etc/content: sha256"),
        ({"content": "longer"}, "part-0", "/etc/content: size 1 -> 6"),
        ({"mtime": 5}, "part-0", "/etc/content: modified 0 -> 5"),
        ({"more": {"x": "y"}}, "configuration", "label x: None -> y"),
    ],
)
def test_the_first_difference_is_named(
    release: Release, two: tuple[str, Path], change: dict[str, object], layer: str, file: str
) -> None:
    digest, folder = two
    for_files = {k: v for k, v in change.items() if k in ("ssl", "content")}
    layers = small_image.files(release.lock, **for_files)  # type: ignore[arg-type]
    others = {k: v for k, v in change.items() if k not in for_files}
    built = small_image.make(folder, release.lock, layers=layers, **others)  # type: ignore[arg-type]
    with open_repository(release.target) as repository:
        found = rebuild.compare(repository, digest, built, scratch(release))
    assert not found.same and found.layer == layer and found.file.startswith(file), found
    assert (found.packages == ("deb libssl3 3.0.15-1 -> 3.0.16-1",)) == ("ssl" in change)
    assert "ANOTHER digest" in found.text()


def test_source_file_is_named_before_its_bytecode(release: Release, two: tuple[str, Path]) -> None:
    _, folder = two
    files = {"a/__pycache__/m.pyc": "1", "a/m.py": "1"}
    layers = [*small_image.files(release.lock), files]
    before = release.push("2", layers=layers)
    layers = [*small_image.files(release.lock), dict.fromkeys(files, "2")]
    built = small_image.make(folder, release.lock, layers=layers)
    with open_repository(release.target) as repository:
        found = rebuild.compare(repository, before, built, scratch(release))
    assert (found.layer, found.file[:15]) == ("part-2", "/a/m.py: sha256")


def test_the_same_lock_gives_the_same_digest(release: Release, two: tuple[str, Path]) -> None:
    digest, folder = two
    built = small_image.make(folder, release.lock, layers=small_image.files(release.lock))
    with open_repository(release.target) as repository:
        assert rebuild.compare(repository, digest, built, scratch(release)).same


def test_whiteouts_take_files_away(release: Release, tmp_path: Path) -> None:
    layers = [
        {"a/one": "1", "a/two": "2", "b/three": "3", "c/four": "4"},
        {"a/.wh.one": "", "b/.wh..wh..opq": "", "b/five": "5", ".wh.c": ""},
    ]
    built = small_image.make(tmp_path / "image", release.lock, layers=layers)
    found = layer_files.files(built.layout, built.image, lambda _: True)
    assert found == {"a/two": b"2", "b/five": b"5"}
    assert layout.read(built.layout, built.image.digest) == built.image
