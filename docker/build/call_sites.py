"""Bind the calls of operators in the server's Python to the signatures of what they call.

Three kinds of callees: operators of PyTorch (`torch.ops.NAMESPACE.NAME`), functions of
vllm/_custom_ops.py, and functions of vllm/vllm_flash_attn. The last two are Python of the wheel.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from inspect import Parameter, Signature
from pathlib import Path

WRAPPERS = "vllm._custom_ops"
FLASH_ATTENTION = "vllm.vllm_flash_attn"
_MENTIONS = re.compile(r"torch\.ops|_custom_ops|vllm_flash_attn")
PACKAGES = ("vllm", "higgs_patches", "boson_multimodal")

Use = ast.expr | ast.stmt
Misfits = dict[str, list[str]]
"""A callee to the places of calls that do not fit it, each with the reason."""


def functions(site: Path) -> dict[str, str]:
    """Return the functions of the wheel's Python, such as vllm._custom_ops.rms_norm.

    Args:
        site: the environment's site-packages.

    Returns:
        Names to parameters with their defaults, such as (out, input, epsilon=1e-06).
    """
    files = {site / "vllm/_custom_ops.py": WRAPPERS}
    files |= dict.fromkeys(sorted(site.glob("vllm/vllm_flash_attn/*.py")), FLASH_ATTENTION)
    found: dict[str, str] = {}
    for path, module in files.items():
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef):
                for argument in ast.walk(node.args):
                    if isinstance(argument, ast.arg):
                        argument.annotation = None
                found[f"{module}.{node.name}"] = f"({ast.unparse(node.args)})"
    return found


def misfits(site: Path, callees: dict[str, str]) -> Misfits:
    """Return all calls that do not fit.

    Args:
        site: the environment's site-packages.
        callees: operators, such as _C::rms_norm, with their schemas, and `functions`.
    """
    signatures = {name: signature(text) for name, text in callees.items()}
    namespaces = {name.partition("::")[0] for name in callees if "::" in name}
    found: Misfits = {}
    for path in (x for package in PACKAGES for x in sorted(site.glob(f"{package}/**/*.py"))):
        text = path.read_text()
        if not _MENTIONS.search(text):
            continue
        for callee, use in uses(ast.parse(text), namespaces):
            if reason := misfit(use, signatures.get(callee)):
                place = f"{path.relative_to(site)}:{use.lineno} ({reason})"
                if place not in found.setdefault(callee, []):
                    found[callee].append(place)
    return found


def uses(tree: ast.Module, namespaces: set[str]) -> Iterator[tuple[str, Use]]:
    """Yield each use of a callee with its node: an import, a name, or a call of it.

    Args:
        tree: a module.
        namespaces: of the operators.
    """
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {x.asname or x.name: x.name for x in node.names if x.asname}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for x in node.names:
                names[x.asname or x.name] = _function(f"{node.module}.{x.name}")
                if _is_function(names[x.asname or x.name]):
                    yield names[x.asname or x.name], node
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call | ast.Attribute | ast.Name):
            continue
        expression = node.func if isinstance(node, ast.Call) else node
        first, *rest = _dotted(expression)
        name = ".".join([names.get(first, first), *rest])
        if operator := re.match(r"torch\.ops\.(\w+)\.(\w+)$", name):
            if operator[1] in namespaces:
                yield "::".join(operator.groups()), node
        elif _is_function(name):
            yield name, node


def _function(name: str) -> str:
    """Name a function of FlashAttention's package without the module that it is imported from."""
    return re.sub(rf"^({FLASH_ATTENTION})(\.\w+)*(\.\w+)$", r"\1\3", name)


def _is_function(name: str) -> bool:
    return re.match(rf"({WRAPPERS}|{FLASH_ATTENTION})\.\w+$", name) is not None


def _dotted(node: ast.AST) -> list[str]:
    """Return the parts of a dotted name; [""] for any other expression."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.insert(0, node.attr)
        node = node.value
    return [node.id, *parts] if isinstance(node, ast.Name) else [""]


def misfit(use: Use, signature: Signature | None) -> str:
    """Return why a use does not fit a signature; empty if it does, or unpacks its arguments."""
    if signature is None:
        return "does not exist"
    if not isinstance(use, ast.Call):
        return ""
    names = [keyword.arg for keyword in use.keywords]
    if None in names or any(isinstance(x, ast.Starred) for x in use.args):
        return ""
    try:
        signature.bind(*use.args, **{str(name): None for name in names})
    except TypeError as error:
        return str(error)
    return ""


def signature(text: str) -> Signature:
    """Return the signature of an operator or a function.

    Args:
        text: such as (Tensor a, int b=0, *, int c) -> Tensor, or (a, b=0, *, c).
    """
    by_name = False
    parameters: list[Parameter] = []
    for part in _split(text.rpartition(" -> ")[0] or text):
        if part == "*":
            by_name = True
            continue
        declared, equals, _ = part.partition("=")
        default = None if equals else Parameter.empty
        name = declared.split()[-1]
        if name in [x.name for x in parameters]:  # as an operator of vLLM 0.10.2 has
            name += f"_{len(parameters)}"
        stars = name.count("*")
        named = Parameter.KEYWORD_ONLY if by_name else Parameter.POSITIONAL_OR_KEYWORD
        kind = (named, Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)[stars]
        by_name = by_name or stars > 0
        parameters.append(Parameter(name[stars:], kind, default=default))
    return Signature(parameters)


def _split(text: str) -> list[str]:
    """Split parameters at commas outside of brackets, as in (int[2, 2] a, b=(1, 2))."""
    parts = re.split(r",(?![^(\[]*[)\]])", text.strip()[1:-1])
    return [x.strip() for x in parts if x.strip()]


def compare(found: Misfits, accepted: dict[str, str]) -> list[str]:
    """Return a line for each misfit that is not accepted, and each accepted one that is gone."""
    new = [
        f"{callee} does not fit its calls: {', '.join(places)}"
        for callee, places in sorted(found.items())
        if callee not in accepted
    ]
    return new + [
        f"{callee} fits all its calls: remove it from misfits in operators.toml"
        for callee in accepted
        if callee not in found
    ]
