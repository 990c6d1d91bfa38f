"""Unpack an image's layers into a folder, as an engine would, without one and without root."""

from __future__ import annotations

import logging
import os
import tarfile
from pathlib import Path

from higgs_image.files import new_folder, remove
from higgs_image.oci.layer_archive import OPAQUE, WHITEOUT, member_path, open_layer
from higgs_image.oci.layout import Image

log = logging.getLogger(__name__)


def unpack(layout: Path, image: Image, target: Path) -> None:
    """Unpack an image; a folder that is there is complete, and is kept.

    Owners are not kept: everything belongs to the user who unpacks.

    Args:
        layout: holds the image.
        image: from `layout.read`.
        target: becomes the image's root folder.

    Raises:
        BuildError: a layer cannot be read.
    """
    if target.is_dir():
        return
    with new_folder(target, ".*.new-*") as new:
        for number, layer in enumerate(image.layers, 1):
            log.info("unpack: layer %d of %d, %s", number, len(image.layers), layer.name)
            with open_layer(layout, layer.digest) as tar:
                for entry in tar:
                    _apply(tar, entry, new)


def _apply(tar: tarfile.TarFile, entry: tarfile.TarInfo, root: Path) -> None:
    """Add one entry of a layer to what the layers below it have left."""
    place = root / member_path(entry)
    if place.name == OPAQUE:
        for below in place.parent.iterdir():
            remove(below)
    elif place.name.startswith(WHITEOUT):
        remove(place.with_name(place.name.removeprefix(WHITEOUT)))
    elif not (entry.ischr() or entry.isblk() or entry.isfifo()):  # /dev is mounted
        if os.path.lexists(place) and not (entry.isdir() and place.is_dir()):
            remove(place)
        if entry.isdir():
            entry.mode |= 0o700  # else an owner who is not root could not write into it
        tar.extract(entry, root, filter="tar")
