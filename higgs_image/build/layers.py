"""docker/layers.toml: how Python packages are spread over image layers, and the size budgets."""

from __future__ import annotations

import fnmatch
import tomllib
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec

from higgs_image.errors import LockError

Gpu = Annotated[str, msgspec.Meta(pattern=r"^[1-9][0-9]?\.[0-9]$")]
"""A compute capability, such as 8.9."""

Cuda = Annotated[str, msgspec.Meta(pattern=r"^[1-9][0-9]?\.[0-9]$")]
"""A version of CUDA, such as 12.4."""

Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9-]*$")]


class Layer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One layer of Python packages.

    Attributes:
        name: shown in the image's history.
        reason: why it is a layer; a comment in the Dockerfile.
        packages: names or patterns of the requirements in it.
        budget_mb: compressed size that it may have, in MB (10^6 bytes).
        remove: patterns below site-packages that are deleted.
        stub: patterns of shared libraries that are replaced by stubs.
        strip: patterns of shared objects whose symbol tables are stripped.
        links: command name to the pattern of the file that /usr/local/bin links to.
    """

    name: Name
    reason: str
    packages: list[str]
    budget_mb: float
    remove: list[str] = []
    stub: list[str] = []
    strip: list[str] = []
    links: dict[str, str] = {}


WHEEL = "vllm"
"""Name of the layer of the vllm wheel."""

_TAKEN = frozenset({WHEEL, "base", "system", "tools", "image", "bytecode", "assets", "code"})
"""Names of the image's other layers, and of stages of the Dockerfile."""


class WheelLayer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The layer of the vllm wheel."""

    budget_mb: float
    remove: list[str] = []
    stub: list[str] = []
    strip: list[str] = []


class Budget(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Sizes that the whole image may have, in MB (10^6 bytes)."""

    gzip_mb: float
    zstd_mb: float
    largest_layer_mb: float
    unpacked_mb: float


class PlainBuild(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Compressed sizes, in MB (10^6 bytes), of an image with the same server, plainly built."""

    gzip_mb: float
    zstd_mb: float

    def megabytes(self, compression: str) -> float:
        """Return the size with gzip or zstd."""
        return self.gzip_mb if compression == "gzip" else self.zstd_mb


class LayerChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a variant changes in a layer.

    Attributes:
        budget_mb: takes the place of the layer's.
        remove: more patterns below site-packages that are deleted.
    """

    budget_mb: float
    remove: list[str] = []


class Variant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a variant changes. The attributes are those of `Layers`, and take their place.

    Attributes:
        layer: by name; `vllm` is the layer of the wheel.
        kernels: files and folders below site-packages that the variant's kernels bring.
    """

    cuda: Cuda
    gpus: list[Gpu]
    kernels: list[str]
    budget: Budget
    layer: dict[str, LayerChange] = {}
    plain: PlainBuild | None = None


class Layers(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The decoded docker/layers.toml.

    Attributes:
        layer: layers of Python packages, in their order.
        wheel: the layer of the vllm wheel.
        budget: of the whole image.
        cuda: version for which PyTorch is built, and that a driver needs.
        gpus: compute capabilities that libraries keep code for; none: they keep all.
        plain: what the image's size is compared with; None: with nothing.
        variant: what the image's variants change, by name.
        kernels: patterns of what comes from another wheel than `wheel`; none in the default image.
    """

    layer: list[Layer]
    wheel: WheelLayer
    budget: Budget
    cuda: Cuda
    gpus: list[Gpu] = []
    plain: PlainBuild | None = None
    variant: dict[str, Variant] = {}
    kernels: list[str] = []

    def __post_init__(self) -> None:
        """Refuse layers that cannot be told apart; msgspec reports it with the place."""
        seen = set(_TAKEN)
        for layer in self.layer:
            if layer.name in seen:
                raise ValueError(f"two layers would be called {layer.name}")
            seen.add(layer.name)

    def for_variant(self, name: str) -> Layers:
        """Return the layers of a variant; the empty name is the default image's.

        Raises:
            LockError: there is no such variant, or it changes a layer that does not exist.
        """
        if not name:
            return self
        chosen = self.variant.get(name)
        names = {layer.name for layer in self.layer} | {WHEEL}
        if chosen is None or (unknown := sorted(chosen.layer.keys() - names)):
            what = f"variant {name}" if chosen is None else f"layer {unknown[0]} of variant {name}"
            raise LockError(
                f"docker/layers.toml: there is no {what}", "add it, or correct the name"
            )
        return msgspec.structs.replace(
            self,
            layer=[_changed(layer, chosen.layer.get(layer.name)) for layer in self.layer],
            wheel=_changed(self.wheel, chosen.layer.get(WHEEL)),
            **{key: getattr(chosen, key) for key in ("budget", "cuda", "gpus", "plain", "kernels")},
        )

    def plain_of(self, variant: str) -> PlainBuild | None:
        """Return what the size of a variant's image is compared with; None: with nothing."""
        changed = self.variant.get(variant)
        return changed.plain if changed else None if variant else self.plain


_AnyLayer = TypeVar("_AnyLayer", bound=Layer | WheelLayer)


def _changed(layer: _AnyLayer, change: LayerChange | None) -> _AnyLayer:
    if change:
        patterns = [*layer.remove, *change.remove]
        return msgspec.structs.replace(layer, budget_mb=change.budget_mb, remove=patterns)
    return layer


def load(path: Path, variant: str = "") -> Layers:
    """Read docker/layers.toml, strictly.

    Args:
        path: the file.
        variant: which image is built from it; empty for the default one.

    Raises:
        LockError: it is missing or malformed.
    """
    try:
        return msgspec.convert(tomllib.loads(path.read_text()), Layers).for_variant(variant)
    except FileNotFoundError:
        raise LockError(f"{path} does not exist", "restore it from git") from None
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise LockError(f"{path}: {error}", "correct it, or restore it from git") from None


def distribute(entries: dict[str, str], layers: list[Layer]) -> dict[str, list[str]]:
    """Give each requirement to the first layer that names it.

    Returns:
        Layer name to requirement texts; layers that get none are left out.

    Raises:
        LockError: a package goes nowhere.
    """
    spread: dict[str, list[str]] = {layer.name: [] for layer in layers}
    for name, text in entries.items():
        for layer in layers:
            if any(fnmatch.fnmatch(name, pattern) for pattern in layer.packages):
                spread[layer.name].append(text)
                break
        else:
            raise LockError(
                f"no layer takes the package {name}", "add it to a layer in docker/layers.toml"
            )
    return {name: texts for name, texts in spread.items() if texts}
