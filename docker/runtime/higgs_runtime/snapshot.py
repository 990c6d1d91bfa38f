"""A repository at one commit: its files as the hub describes them, and as they are on disk."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from higgs_runtime import cache
from higgs_runtime.cache import WeightsRepo


class HubFile(NamedTuple):
    """A file of a repository, as the hub describes it.

    Attributes:
        name: path in the repository.
        size: in bytes.
        sha256: of a large file's content; None for a small one.
        blob: git object id of a small file.
    """

    name: str
    size: int
    sha256: str | None
    blob: str


class HubSnapshot(NamedTuple):
    """A repository at one commit."""

    entry: WeightsRepo
    commit: str
    files: tuple[HubFile, ...]

    @property
    def size(self) -> int:
        """Size of all files, in bytes."""
        return sum(file.size for file in self.files)

    def partial(self, file: HubFile, folder: Path) -> Path:
        """Return the path at which huggingface_hub keeps a file that is not complete."""
        blobs = cache.repo_folder(self.entry.repo, folder) / "blobs"
        return blobs / f"{file.sha256 or file.blob}.incomplete"

    def present(self, folder: Path) -> int:
        """Return how many bytes are in the cache, complete or not."""
        total = 0
        for file in self.files:
            partial = self.partial(file, folder)
            for path in (partial.with_suffix(""), partial):
                if path.exists():
                    total += min(path.stat().st_size, file.size)
                    break
        return total


def damaged(snapshot: HubSnapshot, place: Path) -> list[Path]:
    """Return the files whose size or hash differs from the hub's."""

    def is_damaged(file: HubFile) -> bool:
        path = place / file.name
        if not path.is_file() or path.stat().st_size != file.size:
            return True
        expected = file.sha256 or file.blob
        digest = hashlib.sha256() if file.sha256 else hashlib.sha1(usedforsecurity=False)
        if not file.sha256:
            digest.update(b"blob %d\0" % file.size)
        with path.open("rb") as data:
            while chunk := data.read(4 << 20):
                digest.update(chunk)
        return bool(expected) and digest.hexdigest() != expected

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(is_damaged, snapshot.files))
    return [place / x.name for x, bad in zip(snapshot.files, results, strict=True) if bad]
