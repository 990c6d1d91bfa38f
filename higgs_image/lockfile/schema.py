"""The format of versions.lock: what was asked for beside what was locked.

It also records the hashes of the files that decide what is in the image (the requirements and the
recipe), so that its own hash names the image's content.
"""

from __future__ import annotations

import datetime
from pathlib import Path

import msgspec

from higgs_image import variants
from higgs_image.errors import LockError, UsageError
from higgs_image.lockfile.values import (
    AptLine,
    Commit,
    Digest,
    GitUrl,
    HubName,
    ImageName,
    PyVersion,
    RelativePath,
    Sha256,
    Text,
    VariantName,
    Word,
)

SCHEMA = 1


class _LockTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class ForkPin(_LockTable, frozen=True):
    """The fork of vLLM that holds the speech server.

    Attributes:
        url: where it is cloned from.
        ref: the branch that was asked for.
        commit: what that was resolved to.
        tree: git's tree id of that commit: proves a checkout from its files alone.
        date: the commit's date; the image's creation date and SOURCE_DATE_EPOCH.
        hold: why `./inv lock --update` takes no newer one unless it is named.
    """

    url: GitUrl
    ref: Text
    commit: Commit
    tree: Commit
    date: datetime.datetime
    hold: Text | None = None

    @property
    def epoch(self) -> int:
        """The commit's date in seconds since 1970, UTC."""
        return int(self.date.timestamp())


class VllmPin(_LockTable, frozen=True):
    """The vLLM release that the fork is based on.

    Attributes:
        ref: the release's tag.
        commit: what that was resolved to.
        trees: git ids, at that commit, of everything that is compiled. The fork's must be equal,
            or the prebuilt wheel would not hold its kernels.
    """

    ref: Text
    commit: Commit
    trees: dict[str, Commit]


class SubmodulePin(_LockTable, frozen=True):
    """The fork's submodule, whose package `boson_multimodal` holds the audio tokenizer."""

    path: RelativePath
    url: GitUrl
    commit: Commit
    tree: Commit


class WheelPin(_LockTable, frozen=True):
    """The prebuilt wheel that the fork's Python is laid over."""

    requirement: Text
    name: Word
    version: Word
    filename: Word
    sha256: Sha256


class KernelsPin(WheelPin, frozen=True):
    """The wheel from which a variant takes the libraries, and the Python that calls them.

    docker/layers.toml names the files. They take the place of those of `WheelPin`.

    Attributes:
        unchanged: git ids, at the vLLM release that the fork is based on, of what the fork has of
            those files and beside them. The fork's must be equal, or its changes would be lost.
    """

    unchanged: dict[str, Commit]


class BasePin(_LockTable, frozen=True):
    """The image that the build starts from. `hold`: as in `ForkPin`."""

    image: ImageName
    digest: Digest
    hold: Text | None = None

    @property
    def reference(self) -> str:
        """`image@digest`: the tag stays readable, the digest decides."""
        return f"{self.image}@{self.digest}"


class PythonPin(_LockTable, frozen=True):
    """The interpreter's version, and the locked sets of packages.

    Attributes:
        version: major and minor version of the image's Python.
        input: what was asked for, by hand, each line with its reason.
        requirements: what that was resolved to, with hashes: all that is in the image.
        build: what builds the packages that are published as source only.
        installer: what installs them all; never in the image.
        hold: as in `ForkPin`.
    """

    version: PyVersion
    input: RelativePath
    input_sha256: Sha256
    requirements: RelativePath
    requirements_sha256: Sha256
    build: RelativePath
    build_sha256: Sha256
    installer: RelativePath
    installer_sha256: Sha256
    hold: Text | None = None


class VariantPin(_LockTable, frozen=True):
    """What differs in an image of the same fork, patches and base.

    Attributes:
        name: part of its tags.
        kernels: where its libraries come from.
        input, requirements, hold: as in `PythonPin`.
    """

    name: VariantName
    kernels: KernelsPin
    input: RelativePath
    input_sha256: Sha256
    requirements: RelativePath
    requirements_sha256: Sha256
    hold: Text | None = None


class WeightsPin(_LockTable, frozen=True):
    """A weights repository on the Hugging Face hub; weights are never in the image.

    Attributes:
        repo: owner and name.
        role: what the server uses it for.
        revision: the pinned commit; absent only where `unpinned` says why.
        unpinned: why there is no revision yet.
        hold: as in `ForkPin`.
    """

    repo: HubName
    role: Text
    revision: Commit | None = None
    unpinned: Text | None = None
    hold: Text | None = None


class RecipePin(_LockTable, frozen=True):
    """Hash of the templates and of everything of ours that goes into a container."""

    paths: list[RelativePath]
    sha256: Sha256


class PatchesPin(_LockTable, frozen=True):
    """Functions that replace the fork's.

    Attributes:
        folder: the Python package that holds them.
        sha256: hash of each patch's module, by its name.
    """

    folder: RelativePath
    sha256: dict[str, Sha256]


class DebianPin(_LockTable, frozen=True):
    """Where Debian's packages come from, if not from the base image's own sources.

    Attributes:
        snapshot: lines of apt's sources.list that name one moment of the archive, such as those
            of its snapshot service. With them two builds get the same packages on any day.
    """

    snapshot: list[AptLine]


class ProjectPin(_LockTable, frozen=True):
    """Who releases the image.

    Attributes:
        url: the repository; becomes the image's source label, by which ghcr.io links the package
            to it. It is here and not taken from the checkout: so the digest does not depend on
            who builds.
    """

    url: GitUrl


_PYTHON_OF_VARIANT = ("input", "input_sha256", "requirements", "requirements_sha256", "hold")


class LockContent(_LockTable, frozen=True):
    """The tables of versions.lock."""

    schema: int
    date: datetime.date
    fork: ForkPin
    vllm: VllmPin
    submodule: SubmodulePin
    wheel: WheelPin
    base: BasePin
    python: PythonPin
    weights: list[WeightsPin]
    recipe: RecipePin
    patches: PatchesPin | None = None
    project: ProjectPin | None = None
    debian: DebianPin | None = None
    variants: list[VariantPin] = msgspec.field(default_factory=list, name="variant")


class Lock(LockContent, frozen=True):
    """The decoded versions.lock, as one image is built from it.

    Attributes:
        path: the file.
        sha256: hash of its bytes; its first seven digits are part of every immutable tag.
        variant: name of the variant that is built; empty for the default image.
        kernels: the variant's; None where `wheel` brings them.
    """

    path: Path = Path()
    sha256: str = ""
    variant: str = msgspec.field(default="", name="selected")  # the file has a list of that name
    kernels: KernelsPin | None = None

    @property
    def tag(self) -> str:
        """The immutable tag: date of the lock, fork and lock in seven digits each, variant."""
        tag = f"{self.date:%Y%m%d}-{self.fork.commit[:7]}-{self.sha256[:7]}"
        return tag + variants.suffix(self.variant)

    def for_variant(self, name: str) -> Lock:
        """Return the lock as a variant is built from it; the empty name is the default image's.

        Raises:
            UsageError: there is no such variant.
        """
        if not name:
            return self
        pin = next((x for x in self.variants if x.name == name), None)
        if pin is None:
            known = ", ".join(x.name for x in self.variants) or "none"
            raise UsageError(f"unknown variant: {name!r}", f"variants in {self.path}: {known}")
        replaced = {x: getattr(pin, x) for x in _PYTHON_OF_VARIANT}
        python = msgspec.structs.replace(self.python, **replaced)
        return msgspec.structs.replace(self, variant=name, kernels=pin.kernels, python=python)

    @property
    def wheels(self) -> list[WheelPin]:
        """All wheels that the image has files of, besides the requirements."""
        return [self.wheel, *([self.kernels] if self.kernels else [])]

    def file(self, relative: str) -> Path:
        """Return the path of a file that the lock names."""
        return self.path.parent / relative

    def weights_for(self, role: str) -> WeightsPin:
        """Return the weights repository with this role."""
        for entry in self.weights:
            if entry.role == role:
                return entry
        raise LockError(
            f"{self.path}: no weights have the role {role!r}", "add them in a [[weights]] table"
        )
