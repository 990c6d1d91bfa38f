"""OCI layouts: reading, tidying and budgets, on layouts written here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from higgs_image.build import budget, layers
from higgs_image.errors import BudgetError, BuildError
from higgs_image.oci import layout
from tests.unit.conftest import LAYERS

STEP = "RUN /bin/sh -c . /build/certificates.sh && python3 /build/step.py packages {} # buildkit"


def put(root: Path, data: bytes) -> dict[str, Any]:
    digest = hashlib.sha256(data).hexdigest()
    path = root / "blobs" / "sha256" / digest
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return {"digest": f"sha256:{digest}", "size": len(data)}


def make(root: Path, sizes: dict[str, int], history: list[dict[str, Any]] | None = None) -> str:
    """Write an image whose layers have these names and sizes; returns its digest."""
    blobs = [put(root, (name * size)[:size].encode()) for name, size in sizes.items()]
    if history is None:
        history = [
            {"created_by": "debuerreotype 0.16" if name == "base" else STEP.format(name)}
            for name in sizes
        ]
        history.insert(1, {"created_by": "ENV PATH=/opt/venv/bin", "empty_layer": True})
    config = put(
        root,
        json.dumps({"config": {"Labels": {"a": "b"}}, "history": history}).encode(),
    )
    media = "application/vnd.oci.image.manifest.v1+json"
    manifest = {"schemaVersion": 2, "mediaType": media, "config": config, "layers": blobs}
    return str(put(root, json.dumps(manifest).encode())["digest"])


SIZES = {"base": 300, "torch": 200, "packages": 100}


def test_read(tmp_path: Path) -> None:
    digest = make(tmp_path, SIZES)
    image = layout.read(tmp_path, digest)
    assert image.digest == digest
    assert image.size == 600
    assert image.labels == {"a": "b"}
    assert {x.name: x.size for x in image.layers} == SIZES
    assert layout.blob(tmp_path, image.config_digest).exists()


def test_layers_of_a_base_without_history(tmp_path: Path) -> None:
    digest = make(tmp_path, SIZES, history=[{"created_by": STEP.format("packages")}])
    assert [x.name for x in layout.read(tmp_path, digest).layers] == ["base", "base", "packages"]


def test_layers_from_a_stage_of_their_own(tmp_path: Path) -> None:
    history = [
        {"created_by": text}
        for text in ("debuerreotype", "COPY /packages/torch / # buildkit", STEP.format("packages"))
    ]
    digest = make(tmp_path, SIZES, history)
    assert [x.name for x in layout.read(tmp_path, digest).layers] == list(SIZES)


def blob_of(root: Path, digest: str, what: str) -> Path:
    manifest = json.loads(layout.blob(root, digest).read_bytes())
    return {
        "manifest": layout.blob(root, digest),
        "config": layout.blob(root, manifest["config"]["digest"]),
        "layer": layout.blob(root, manifest["layers"][1]["digest"]),
    }[what]


DAMAGE: dict[str, Callable[[Path], object]] = {
    "absent": lambda p: p.unlink(),
    "truncated": lambda p: p.write_bytes(p.read_bytes()[:-1]),
    "longer": lambda p: p.write_bytes(p.read_bytes() + b" "),
    "empty": lambda p: p.write_bytes(b""),
    "folder": lambda p: (p.unlink(), p.mkdir()),
}
IN_PLACE: dict[str, Callable[[Path], object]] = {
    "zeros": lambda p: p.write_bytes(bytes(p.stat().st_size)),
    "changed": lambda p: p.write_bytes(p.read_bytes().replace(b'"', b"'")),
    "other JSON": lambda p: p.write_bytes(b"[" + b" " * (p.stat().st_size - 2) + b"]"),
}


@pytest.mark.parametrize(
    ("what", "damage"),
    [
        *((what, damage) for what in ("manifest", "config") for damage in [*DAMAGE, *IN_PLACE]),
        *(("layer", damage) for damage in DAMAGE),  # by size: skopeo computes their digests
    ],
)
def test_damage_is_noticed(tmp_path: Path, what: str, damage: str) -> None:
    digest = make(tmp_path, SIZES)
    (DAMAGE | IN_PLACE)[damage](blob_of(tmp_path, digest, what))
    with pytest.raises(BuildError) as caught:
        layout.read(tmp_path, digest)
    assert str(tmp_path) in caught.value.message
    assert "build again" in caught.value.hint


@pytest.mark.parametrize("digest", ["", "sha256:", f"sha256:{'0' * 64}", "nonsense"])
def test_no_such_image(tmp_path: Path, digest: str) -> None:
    make(tmp_path, SIZES)
    with pytest.raises(BuildError, match="does not hold the image"):
        layout.read(tmp_path, digest)


def test_more_history_than_layers(tmp_path: Path) -> None:
    digest = make(tmp_path, {"base": 1}, history=[{"created_by": "x"}] * 3)
    with pytest.raises(BuildError):
        layout.read(tmp_path, digest)


def test_keep_only(tmp_path: Path) -> None:
    old = make(tmp_path, {"base": 300, "torch": 250})
    new = make(tmp_path, SIZES)
    image = layout.read(tmp_path, new)
    layout.keep_only(tmp_path, image, "20260102-abc")
    assert layout.read(tmp_path, new) == image
    with pytest.raises(BuildError):
        layout.read(tmp_path, old)
    blobs = {f"sha256:{p.name}" for p in (tmp_path / "blobs/sha256").iterdir()}
    assert blobs == {new, image.config_digest, *(x.digest for x in image.layers)}
    [entry] = json.loads((tmp_path / "index.json").read_bytes())["manifests"]
    assert entry["digest"] == new
    assert entry["size"] == layout.blob(tmp_path, new).stat().st_size
    assert entry["annotations"]["org.opencontainers.image.ref.name"] == "20260102-abc"


# --- budgets (LAYERS: torch 10, packages 5, vllm 4; gzip 20, zstd 15, largest 10)


def image_of(**megabytes: float) -> layout.Image:
    entries = [layout.ImageLayer(n, f"sha256:{n}", int(mb * 1e6)) for n, mb in megabytes.items()]
    return layout.Image("sha256:x", "sha256:y", tuple(entries), {})


@pytest.fixture
def plan(tmp_path: Path) -> layers.Layers:
    path = tmp_path / "layers.toml"
    path.write_text(LAYERS)
    return layers.load(path)


@pytest.mark.parametrize(
    ("sizes", "compression", "parts"),
    [
        ({"base": 3, "torch": 8, "packages": 4, "vllm": 4}, "gzip", []),
        ({"base": 1, "torch": 10, "packages": 4}, "gzip", []),
        ({"torch": 10.1}, "gzip", ["layer torch has 10 MB, its budget is 10", "no layer may"]),
        ({"packages": 6}, "gzip", ["layer packages has 6 MB, its budget is 5"]),
        ({"vllm": 5}, "zstd", ["layer vllm has 5 MB, its budget is 4"]),
        ({"base": 11}, "gzip", ["layer base has 11 MB, no layer may have more than 10"]),
        ({"base": 9, "torch": 9, "packages": 3}, "gzip", ["21 MB with gzip, its budget is 20"]),
        ({"base": 9, "torch": 7}, "zstd", ["16 MB with zstd, its budget is 15"]),
        ({"base": 9, "torch": 7}, "gzip", []),
        ({"packages": 6, "vllm": 5}, "gzip", ["layer packages", "layer vllm"]),
    ],
)
def test_budget(
    plan: layers.Layers, sizes: dict[str, float], compression: str, parts: list[str]
) -> None:
    if not parts:
        budget.check_compressed(image_of(**sizes), plan, compression)
        return
    with pytest.raises(BudgetError) as caught:
        budget.check_compressed(image_of(**sizes), plan, compression)
    for part in parts:
        assert part in caught.value.message
    assert caught.value.exit_code == 16
    assert "docker/layers.toml" in caught.value.hint


# --- damage


def test_damage_of_a_layer_is_found_by_its_content(tmp_path: Path) -> None:
    image = layout.read(tmp_path, make(tmp_path, SIZES))
    layout.require_undamaged(tmp_path)
    path = layout.blob(tmp_path, image.layers[1].digest)
    data = path.read_bytes()
    path.write_bytes(b"X" + data[1:])
    assert layout.read(tmp_path, image.digest) == image, "equal in size"
    assert layout.damaged_blobs(tmp_path) == [path]
    with pytest.raises(BuildError, match=rf"{path.name} is damaged") as caught:
        layout.require_undamaged(tmp_path)
    assert "./inv build" in caught.value.hint


def test_a_layout_is_named_and_marked_anew(tmp_path: Path) -> None:
    image = layout.read(tmp_path, make(tmp_path, SIZES))
    (tmp_path / "index.json").write_bytes(b"\0\0")
    layout.keep_only(tmp_path, image, "tag")
    index = json.loads((tmp_path / "index.json").read_bytes())
    assert [x["digest"] for x in index["manifests"]] == [image.digest]
    assert json.loads((tmp_path / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
