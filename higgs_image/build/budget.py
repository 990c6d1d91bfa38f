"""Sizes of an image compared with the budgets of docker/layers.toml."""

from __future__ import annotations

from higgs_image.build.layers import WHEEL, Layers
from higgs_image.errors import BudgetError
from higgs_image.oci.layout import MB, Image


def check_compressed(image: Image, layers: Layers, compression: str) -> None:
    """Compare compressed sizes with their budgets.

    Raises:
        BudgetError: naming everything that is too large, with both figures.
    """
    budget = layers.budget
    limits = {layer.name: layer.budget_mb for layer in layers.layer}
    limits[WHEEL] = layers.wheel.budget_mb
    over = [
        f"layer {layer.name} has {layer.size / MB:.0f} MB, its budget is {limits[layer.name]:.0f}"
        for layer in image.layers
        if layer.name in limits and layer.size > limits[layer.name] * MB
    ]
    over += [
        f"layer {layer.name} has {layer.size / MB:.0f} MB, no layer may have more than "
        f"{budget.largest_layer_mb:.0f}"
        for layer in image.layers
        if layer.size > budget.largest_layer_mb * MB
    ]
    whole = budget.gzip_mb if compression == "gzip" else budget.zstd_mb
    if image.size > whole * MB:
        over.append(
            f"the image has {image.size / MB:.0f} MB with {compression}, its budget is {whole:.0f}"
        )
    if over:
        raise BudgetError(
            "too large: " + "; ".join(over),
            "find out what grew (the sizes are listed above), or raise the budget in "
            "docker/layers.toml with a reason",
        )


def check_unpacked(megabytes: float, layers: Layers) -> None:
    """Compare the size of all unpacked layers in MB (10^6 bytes) with its budget.

    Raises:
        BudgetError: it is larger.
    """
    if megabytes > layers.budget.unpacked_mb:
        raise BudgetError(
            f"the image has {megabytes:.0f} MB unpacked, its budget is "
            f"{layers.budget.unpacked_mb:.0f}",
            "find out what grew, or raise the budget in docker/layers.toml with a reason",
        )
