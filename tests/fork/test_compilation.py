"""Pieces of the model's graph whose operands are symbolic sizes are compiled.

Runs inside the image (see test_engine_inside.py), which has PyTorch and vLLM's libraries.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import operators
import pytest

torch = pytest.importorskip("torch", reason="runs inside the image: see test_engine_inside.py")

pytestmark = pytest.mark.fork


@pytest.fixture(scope="module")
def interpreter() -> Any:
    """vLLM's interpreter of a split graph, which needs vLLM's operators when it is imported."""
    operators.callees(Path(sys.prefix, "lib/python3.11/site-packages"))
    from vllm.compilation.backends import PiecewiseCompileInterpreter

    return PiecewiseCompileInterpreter


def run(interpreter: Any, seen: Callable[[Any], Any]) -> Any:
    """Interpret a graph that views its input by its own first size, which is symbolic."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental import symbolic_shapes as shapes

    graph = torch.fx.Graph()
    size, rows = graph.placeholder("size"), graph.placeholder("rows")
    given = graph.call_function(seen, (rows,))
    graph.output(graph.call_method("view", (given, size, -1, 32)))
    mode = FakeTensorMode(shape_env=shapes.ShapeEnv())
    sizes = [shapes.DimDynamic.DYNAMIC, shapes.DimDynamic.STATIC]
    fake = mode.from_tensor(
        torch.zeros(7, 64), symbolic_context=shapes.StatelessSymbolicContext(dynamic_sizes=sizes)
    )
    with mode:
        config = SimpleNamespace(compilation_config=None)
        found = interpreter(torch.fx.GraphModule({}, graph), [], config, None, None)
    return found.run(fake.shape[0], fake)


@pytest.mark.needs(piecewise_compilation=True)
def test_the_graph_is_interpreted_with_the_python_dispatcher(interpreter: Any) -> None:
    """PyTorch 2.8 needs it, as the next test shows; PyTorch 2.6 does not."""
    keys: list[bool] = []

    def seen(given: Any) -> Any:
        key = torch._C.DispatchKey.PythonDispatcher
        keys.append(torch._C._dispatch_tls_is_dispatch_key_included(key))
        return given

    run(interpreter, seen)
    assert keys == [True]
    assert not torch._C._dispatch_tls_is_dispatch_key_included(
        torch._C.DispatchKey.PythonDispatcher
    ), "only while the graph is interpreted"


def test_a_view_by_a_symbolic_size(interpreter: Any) -> None:
    shape = run(interpreter, lambda given: given).shape
    assert isinstance(shape[0], torch.SymInt) and shape[1:] == (2, 32)
