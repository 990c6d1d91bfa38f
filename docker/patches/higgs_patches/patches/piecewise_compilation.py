"""Compile the pieces of the model's graph with PyTorch 2.8, too.

vLLM interprets the split graph with fake tensors to compile its pieces, whose batch is a symbolic
size. In PyTorch 2.8 a view by such a size goes to a kernel in C++, which expects a number, unless
the Python dispatcher is on. PyTorch's own compiler turns it on where it does the same.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

PATCH = {
    "title": "Compile pieces of the graph whose operands are symbolic sizes",
    "issues": [],
    "why": (
        "With PyTorch 2.8 the first compilation ends the engine: 'SymIntArrayRef expected to "
        "contain only concrete integers' in a view. With PyTorch 2.6 nothing changes."
    ),
    "obsolete_when": "PiecewiseCompileInterpreter.run enables the Python dispatcher itself.",
    "targets": [
        {
            "file": "vllm/compilation/backends.py",
            "name": "PiecewiseCompileInterpreter.run",
            "how": "wrap",
            "with": "in_python",
            "sha256": "e1f3c395e968d4fc11b94d61ea3d9a3ec2dbc84080d27fd1e7aae21425a1e1cd",
            "fixed": r"enable_python_dispatcher\(\)",
        },
    ],
}


def in_python(original: Callable[..., Any]) -> Callable[..., Any]:
    """Run the graph with the Python dispatcher."""

    @functools.wraps(original)
    def run(self: Any, *args: Any) -> Any:
        from torch._dispatch.python import enable_python_dispatcher

        with enable_python_dispatcher():
            return original(self, *args)

    return run
