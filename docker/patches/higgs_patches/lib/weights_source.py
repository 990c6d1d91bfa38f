"""Where weights come from: a local directory, or a repository of the model hub at a revision."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger("vllm.higgs_patches.weights")  # vLLM's handler shows what is below "vllm"

COMMIT = re.compile(r"[0-9a-f]{40}")


class WeightsError(Exception):
    """Weights that the server needs cannot be had. The text is one line, with the way out."""


class MissingFileError(WeightsError):
    """The place is there, and lacks a file."""


@dataclass(frozen=True)
class Source:
    """One set of weights.

    Attributes:
        what: what it is, for messages.
        place: a local directory, or owner/name on the hub.
        revision: commit, tag or branch on the hub; None for its main branch.
        flag: the server's flag that names another place.
    """

    what: str
    place: str
    revision: str | None
    flag: str

    def __str__(self) -> str:
        """Return it as messages name it."""
        at = f" at {self.revision}" if self.revision else ""
        return f"the {self.what} {self.place}{'' if self.is_local else at}"

    @property
    def is_local(self) -> bool:
        """Whether `place` is a directory here."""
        return Path(self.place).is_dir()

    def fetch(self, files: Sequence[str]) -> Path:
        """Return a directory with these files; they are fetched unless they are here already.

        Raises:
            WeightsError: they cannot be had.
        """
        if self.is_local:
            return self._complete(Path(self.place), files)
        if self.place.startswith((".", "/", "~")) or self.place.count("/") > 1:
            raise WeightsError(f"{self} is no directory here: correct {self.flag}")
        if self.revision is None:
            log.warning(
                "The revision of %s is not pinned: what its owner changes takes effect", self
            )
        found = self._cached(files)
        if found is None:
            log.info("Fetching %s", self)
            found = self._download(files)
        return self._complete(found, files)

    def _complete(self, directory: Path, files: Sequence[str]) -> Path:
        lacking = [name for name in files if not (directory / name).is_file()]
        if lacking:
            raise MissingFileError(
                f"{self} has no {' and no '.join(lacking)} (looked in {directory}): "
                f"name another place with {self.flag}"
            )
        return directory

    def _cached(self, files: Sequence[str]) -> Path | None:
        """Return the cache's directory if a commit is whole in it: no need to ask the hub."""
        from huggingface_hub import try_to_load_from_cache

        if not self.revision or not COMMIT.fullmatch(self.revision):
            return None
        found = [try_to_load_from_cache(self.place, x, revision=self.revision) for x in files]
        paths = [Path(path) for path in found if isinstance(path, str)]
        return paths[0].parent if len(paths) == len(files) else None

    def _download(self, files: Sequence[str]) -> Path:
        from huggingface_hub import constants, errors, snapshot_download

        try:
            return Path(
                snapshot_download(self.place, revision=self.revision, allow_patterns=list(files))
            )
        except (OSError, errors.HFValidationError) as error:
            problem = _problem(error)
        raise WeightsError(
            f"{self} {problem}. Hub: {constants.ENDPOINT}, cache: {constants.HF_HUB_CACHE}. Set "
            f"HF_TOKEN for what is not public and HF_HOME for another cache, "
            f"or name another place with {self.flag}"
        )


def _problem(error: BaseException) -> str:
    """Tell why the hub's client did not give what is not in the cache."""
    from huggingface_hub import errors

    cause = error
    if isinstance(error, errors.LocalEntryNotFoundError):
        cause = error.__cause__ or errors.OfflineModeIsEnabled()
    response = getattr(cause, "response", None)
    status = None if response is None else response.status_code
    if isinstance(cause, errors.HFValidationError):
        return "is neither a directory here nor a repository's name"
    if isinstance(cause, errors.OfflineModeIsEnabled):
        return "is not in the cache, and HF_HUB_OFFLINE forbids to fetch it"
    if isinstance(cause, errors.RevisionNotFoundError):
        return "does not exist: its repository has no such revision"
    if status in (401, 403, 404):
        return f"is not on the hub, or not for everybody (HTTP {status})"
    return f"is not in the cache and cannot be fetched: {first_line(cause)}"


def first_line(error: BaseException) -> str:
    """Return what a library says, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
