"""Uses of operators and of the wheel's functions are bound to their signatures."""

from __future__ import annotations

from pathlib import Path

import call_sites
import pytest

SCHEMAS = {
    "_C::scale": "(Tensor! out, Tensor input, float factor=1., int[] shape=[1, 2]) -> ()",
    "_C::views": "(Tensor a, *, bool whole, int b=0) -> (Tensor a, Tensor b)",
    "_C::none": "() -> int",
    "_C::twice": "(int[2, 2] x, int x) -> int",
}
WRAPPERS = """
def scale(out: Tensor, input: Tensor, factor: float = 1.0, *, shape: tuple = (1, 2)) -> None:
    torch.ops._C.scale(out, input, factor, shape)

def anything(*parts, last, **more): ...
"""
ATTENTION = "def attend(q, k, v, causal=False): ...\n"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Site-packages with the wheel's functions."""
    (tmp_path / "vllm/vllm_flash_attn").mkdir(parents=True)
    (tmp_path / "vllm/_custom_ops.py").write_text(WRAPPERS)
    (tmp_path / "vllm/vllm_flash_attn/interface.py").write_text(ATTENTION)
    return tmp_path


def misfits(site: Path, text: str) -> dict[str, list[str]]:
    """Return the misfits of a module."""
    (site / "vllm/layer.py").write_text(text)
    return call_sites.misfits(site, SCHEMAS | call_sites.functions(site))


def test_functions_of_the_wheel(site: Path) -> None:
    assert call_sites.functions(site) == {
        "vllm._custom_ops.scale": "(out, input, factor=1.0, *, shape=(1, 2))",
        "vllm._custom_ops.anything": "(*parts, last, **more)",
        "vllm.vllm_flash_attn.attend": "(q, k, v, causal=False)",
    }


FITS = """
import torch
import vllm._custom_ops as also
from vllm import _custom_ops as ops, other
from vllm.vllm_flash_attn.interface import attend as run
from vllm.vllm_flash_attn import attend

torch.ops._C.scale(a, b)
torch.ops._C.scale(a, b, 2.0, [1])
torch.ops._C.scale(input=b, out=a)
torch.ops._C.scale(*both)
torch.ops._C.views(a, whole=True)
torch.ops._C.none()
torch.ops._C.twice(a, b)
torch.ops.aten.anything(1, 2, 3)
fused(torch.ops._C.scale.default, x=1)
ops.scale(a, b, shape=(1,))
also.scale(a, b)
ops.anything(1, 2, last=3, other=4)
run(q, k, v, causal=True)
attend(q, k, v=v)
other.scale(1, 2, 3, 4, 5, 6)
attend(**arguments)
"""


def test_uses_that_fit(site: Path) -> None:
    assert misfits(site, FITS) == {}


@pytest.mark.parametrize(
    ("use", "callee", "reason"),
    [
        ("torch.ops._C.scale(a)", "_C::scale", "missing a required argument: 'input'"),
        ("torch.ops._C.scale(a, b, 1, 2, 3)", "_C::scale", "too many positional arguments"),
        ("torch.ops._C.scale(a, b, size=1)", "_C::scale", "unexpected keyword argument 'size'"),
        ("torch.ops._C.views(a, True)", "_C::views", "too many positional arguments"),
        ("torch.ops._C.views(a)", "_C::views", "missing a required argument: 'whole'"),
        ("torch.ops._C.gone(a)", "_C::gone", "does not exist"),
        ("OP = torch.ops._C.gone.default", "_C::gone", "does not exist"),
        ("ops.gone(a)", "vllm._custom_ops.gone", "does not exist"),
        ("run = ops.gone", "vllm._custom_ops.gone", "does not exist"),
        ("from vllm._custom_ops import gone", "vllm._custom_ops.gone", "does not exist"),
        ("ops.scale(a, b, 1.0, (1,))", "vllm._custom_ops.scale", "too many positional arguments"),
        ("ops.anything(1)", "vllm._custom_ops.anything", "missing a required argument: 'last'"),
        ("attend(q, k)", "vllm.vllm_flash_attn.attend", "missing a required argument: 'v'"),
        (
            "from vllm.vllm_flash_attn.interface import gone",
            "vllm.vllm_flash_attn.gone",
            "does not exist",
        ),
    ],
)
def test_uses_that_do_not_fit(site: Path, use: str, callee: str, reason: str) -> None:
    text = "from vllm import _custom_ops as ops\nfrom vllm.vllm_flash_attn import attend\n"
    found = misfits(site, f"import torch\n{text}{use}\n")
    assert list(found) == [callee]
    [place] = found[callee]
    assert place.startswith("vllm/layer.py:4 (") and reason in place


def test_patches_are_read_too(site: Path) -> None:
    (site / "higgs_patches").mkdir()
    (site / "higgs_patches/new.py").write_text("import torch\ntorch.ops._C.gone()\n")
    assert list(misfits(site, "")) == ["_C::gone"]


def test_comparison_with_what_is_accepted() -> None:
    found = {"_C::a": ["vllm/x.py:1 (does not exist)"], "_C::b": ["vllm/y.py:2 (does not exist)"]}
    assert call_sites.compare(found, {"_C::a": "reason", "_C::b": "reason"}) == []
    assert call_sites.compare(found, {"_C::a": "reason", "_C::c": "reason"}) == [
        "_C::b does not fit its calls: vllm/y.py:2 (does not exist)",
        "_C::c fits all its calls: remove it from misfits in operators.toml",
    ]
