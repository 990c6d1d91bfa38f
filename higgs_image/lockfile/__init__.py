"""versions.lock: every pin of the image, read strictly, and compared with the files it covers."""

from higgs_image.lockfile.edit import Difference, set_value
from higgs_image.lockfile.hashes import differences, refresh, require_consistent
from higgs_image.lockfile.load import load
from higgs_image.lockfile.requirements import requirements
from higgs_image.lockfile.schema import (
    Digest,
    Fork,
    GitUrl,
    Lock,
    Python,
    Sha256,
    Weights,
)

__all__ = [
    "Difference",
    "Digest",
    "Fork",
    "GitUrl",
    "Lock",
    "Python",
    "Sha256",
    "Weights",
    "differences",
    "load",
    "refresh",
    "require_consistent",
    "requirements",
    "set_value",
]
