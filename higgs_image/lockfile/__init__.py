"""versions.lock: every pin of the image, read strictly, and compared with the files it covers."""

from higgs_image.lockfile.edit import Value, write
from higgs_image.lockfile.hashes import (
    Difference,
    differences,
    input_sha256,
    recipe_files,
    recipe_sha256,
    refresh,
    require_consistent,
)
from higgs_image.lockfile.load import load
from higgs_image.lockfile.requirements import requirements, versions, wheel_entry
from higgs_image.lockfile.schema import ForkPin, Lock, SubmodulePin
from higgs_image.lockfile.values import Digest, Sha256

__all__ = [
    "Difference",
    "Digest",
    "ForkPin",
    "Lock",
    "Sha256",
    "SubmodulePin",
    "Value",
    "differences",
    "input_sha256",
    "load",
    "recipe_files",
    "recipe_sha256",
    "refresh",
    "require_consistent",
    "requirements",
    "versions",
    "wheel_entry",
    "write",
]
