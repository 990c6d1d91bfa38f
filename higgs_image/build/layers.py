"""docker/layers.toml: how Python packages are spread over image layers, and the size budgets."""

from __future__ import annotations

import fnmatch
import tomllib
from pathlib import Path
from typing import Annotated

import msgspec

from higgs_image.errors import LockError

Gpu = Annotated[str, msgspec.Meta(pattern=r"^[1-9][0-9]?\.[0-9]$")]
"""A compute capability, such as 8.9."""

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


class Layers(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The decoded docker/layers.toml.

    Attributes:
        layer: layers of Python packages, in their order.
        wheel: the layer of the vllm wheel.
        budget: of the whole image.
        gpus: compute capabilities that libraries keep code for; none: they keep all.
        plain: what the image's size is compared with; None: with nothing.
    """

    layer: list[Layer]
    wheel: WheelLayer
    budget: Budget
    gpus: list[Gpu] = []
    plain: PlainBuild | None = None


def load(path: Path) -> Layers:
    """Read docker/layers.toml, strictly.

    Raises:
        LockError: it is missing or malformed.
    """
    try:
        return msgspec.convert(tomllib.loads(path.read_text()), Layers)
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
