"""Layers become the files that a container would see."""

from __future__ import annotations

import gzip
import io
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from higgs_image.errors import BuildError
from higgs_image.oci import layout
from higgs_image.oci.layout import Image
from higgs_image.oci.unpack import unpack

Add = Callable[[tarfile.TarFile], None]


def file(name: str, content: str = "", mode: int = 0o644) -> Add:
    def add(tar: tarfile.TarFile) -> None:
        entry = tarfile.TarInfo(name)
        entry.size, entry.mode, entry.uid = len(content), mode, 1234
        tar.addfile(entry, io.BytesIO(content.encode()))

    return add


def special(name: str, kind: bytes, target: str = "", mode: int = 0o755) -> Add:
    def add(tar: tarfile.TarFile) -> None:
        entry = tarfile.TarInfo(name)
        entry.type, entry.linkname, entry.mode = kind, target, mode
        tar.addfile(entry)

    return add


def image(folder: Path, *layers: list[Add]) -> Image:
    """Make a layout of these layers."""
    layout.create(folder)
    entries = []
    for layer in layers:
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w") as tar:
            for add in layer:
                add(tar)
        packed = gzip.compress(data.getvalue())
        entries.append(layout.add(folder, packed, "application/vnd.oci.image.layer.v1.tar+gzip"))
    return layout.add_image(folder, {"config": {}}, entries, "test")


def unpacked(tmp_path: Path, *layers: list[Add]) -> Path:
    found = image(tmp_path / "layout", *layers)
    unpack(tmp_path / "layout", found, tmp_path / "root")
    return tmp_path / "root"


def test_upper_layers_win(tmp_path: Path) -> None:
    root = unpacked(
        tmp_path,
        [file("./etc/a", "old", 0o755), file("etc/gone", "x"), file("etc/full/b", "x"),
         file("etc/dir/c", "x"), file("var/kept", "kept")],
        [file("etc/a", "new"), file("etc/.wh.gone"), file("etc/full/.wh..wh..opq"),
         file("etc/full/d", "d"), file("etc/.wh.dir"), file("etc/dir/e", "e")],
    )  # fmt: skip
    found = {str(x.relative_to(root)): x.read_text() for x in root.rglob("*") if x.is_file()}
    assert found == {"etc/a": "new", "etc/full/d": "d", "etc/dir/e": "e", "var/kept": "kept"}
    assert stat.S_IMODE((root / "etc/a").stat().st_mode) == 0o644


def test_links_are_replaced_and_not_written_through(tmp_path: Path) -> None:
    root = unpacked(
        tmp_path,
        [file("lib/one", "one"), special("lib/hard", tarfile.LNKTYPE, "lib/one"),
         special("lib/soft", tarfile.SYMTYPE, "/lib/one"), special("bin", tarfile.SYMTYPE, "lib")],
        [file("lib/hard", "other"), file("lib/soft", "more")],
    )  # fmt: skip
    assert [(root / "lib" / x).read_text() for x in ("one", "hard", "soft")] == [
        "one", "other", "more",
    ]  # fmt: skip
    assert str((root / "bin").readlink()) == "lib" and (root / "bin/one").read_text() == "one"


def test_kinds_may_change(tmp_path: Path) -> None:
    root = unpacked(
        tmp_path,
        [file("a/file", "x"), file("b", "x"), special("locked", tarfile.DIRTYPE, mode=0o555),
         special("dev/null", tarfile.CHRTYPE)],
        [file("a", "now a file"), special("b", tarfile.DIRTYPE), file("b/file", "now a folder"),
         file("locked/in", "x")],
    )  # fmt: skip
    assert (root / "a").read_text() == "now a file"
    assert (root / "b/file").read_text() == "now a folder"
    assert (root / "locked/in").exists() and not (root / "dev/null").exists()


def test_nothing_is_written_outside(tmp_path: Path) -> None:
    found = image(tmp_path / "layout", [special("out", tarfile.SYMTYPE, str(tmp_path))],
                  [file("out/evil", "x")])  # fmt: skip
    with pytest.raises(BuildError, match="cannot be read"):
        unpack(tmp_path / "layout", found, tmp_path / "root")
    assert not (tmp_path / "evil").exists() and not (tmp_path / "root").exists()


def test_a_damaged_layer_leaves_nothing_and_a_whole_image_is_kept(tmp_path: Path) -> None:
    found = image(tmp_path / "layout", [file("a", "a" * 5000)])
    blob = layout.blob(tmp_path / "layout", found.layers[0].digest)
    whole = blob.read_bytes()
    blob.write_bytes(whole[:40])
    with pytest.raises(BuildError, match="cannot be read"):
        unpack(tmp_path / "layout", found, tmp_path / "roots" / "root")
    assert list((tmp_path / "roots").iterdir()) == []
    blob.write_bytes(whole)
    unpack(tmp_path / "layout", found, tmp_path / "roots" / "root")
    blob.unlink()
    unpack(tmp_path / "layout", found, tmp_path / "roots" / "root")
    assert (tmp_path / "roots" / "root" / "a").exists()
