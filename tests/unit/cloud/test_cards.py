"""Compute capabilities of cards by their names, as RunPod and drivers have them."""

from __future__ import annotations

import pytest

from higgs_image.cloud import cards

KNOWN = {
    "7.0": ["Tesla V100-PCIE-16GB", "Tesla V100-SXM2-32GB"],
    "7.5": ["Tesla T4", "Quadro RTX 4000", "NVIDIA GeForce RTX 2080 Ti"],
    "8.0": ["NVIDIA A100 80GB PCIe", "NVIDIA A100-SXM4-80GB", "NVIDIA A30"],
    "8.6": ["NVIDIA A40", "NVIDIA A10G", "NVIDIA RTX A4000", "NVIDIA RTX A6000",
            "NVIDIA GeForce RTX 3090", "NVIDIA GeForce RTX 3090 Ti"],
    "8.9": ["NVIDIA L4", "NVIDIA L40", "NVIDIA L40S", "NVIDIA GeForce RTX 4090",
            "NVIDIA GeForce RTX 4080 SUPER", "NVIDIA RTX 6000 Ada Generation",
            "NVIDIA RTX 5000 Ada Generation", "NVIDIA RTX 4000 SFF Ada Generation"],
    "9.0": ["NVIDIA H100 80GB HBM3", "NVIDIA H100 PCIe", "NVIDIA H100 NVL", "NVIDIA H200",
            "NVIDIA H800", "NVIDIA GH200 480GB"],
    "10.0": ["NVIDIA B200"],
    "10.3": ["NVIDIA B300 SXM6 AC"],
    "12.0": ["NVIDIA GeForce RTX 5090", "NVIDIA RTX PRO 6000 Blackwell Server Edition"],
}  # fmt: skip


@pytest.mark.parametrize(("capability", "name"), [(k, x) for k, v in KNOWN.items() for x in v])
def test_known_cards(capability: str, name: str) -> None:
    assert cards.capability(name) == capability


@pytest.mark.parametrize("name", ["AMD Instinct MI300X OAM", "NVIDIA R100", "", "NVIDIA A4"])
def test_unknown_cards(name: str) -> None:
    assert cards.capability(name) is None
