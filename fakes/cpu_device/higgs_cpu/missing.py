"""Operators whose CUDA code needs a library that is a stub in the image, or is removed from it.

They fail here as they would on a GPU, so that every test on the CPU shows that the server calls
none of them. The names are what `benchmarks/callers.py` finds in PyTorch; see docs/stubs.md.
"""

from __future__ import annotations

import warnings
from typing import Any

FFT = "_fft_c2c _fft_c2r _fft_r2c"
LINALG = """
    _cholesky_solve_helper _linalg_eigh _linalg_eigvals _linalg_solve_ex _linalg_svd cholesky
    cholesky_inverse geqrf linalg_cholesky_ex linalg_eig linalg_eigvals linalg_householder_product
    linalg_inv_ex linalg_ldl_factor_ex linalg_ldl_solve linalg_lstsq linalg_lu linalg_lu_factor_ex
    linalg_lu_solve linalg_qr linalg_solve_triangular ormqr triangular_solve
"""
SPARSE = """
    _sparse_sparse_matmul add addmm addmv baddbmm bmm hspmm mm sparse_sampled_addmm triangular_solve
"""

LIBRARIES = {
    "CPU": {"cuFFT": FFT.split(), "cuSOLVER": LINALG.split()},
    "SparseCPU": {"cuSPARSE": SPARSE.split()},
    "SparseCsrCPU": {"cuSPARSE": SPARSE.split()},
}
"""Dispatch key to library to operators."""

_registered: list[Any] = []


def prepare() -> None:
    """Make these operators fail in this process."""
    import torch

    if _registered:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch warns of kernels that are registered again
        for key, libraries in LIBRARIES.items():
            registry = torch.library.Library("aten", "IMPL", key)
            _registered.append(registry)
            known = torch._C._dispatch_get_registrations_for_dispatch_key(key)
            for library, operators in libraries.items():
                for name in (x.removeprefix("aten::") for x in known):
                    if name.partition(".")[0] in operators:
                        registry.impl(name, _refusal(name, library))


def _refusal(name: str, library: str) -> Any:
    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError(f"aten::{name} needs {library}, which is not in the image")

    return refuse
