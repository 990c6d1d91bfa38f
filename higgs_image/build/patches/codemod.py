"""Finding functions by qualified name in Python source, and swapping them for imports.

LibCST keeps every byte that is not swapped. It is imported when it is needed: it takes a while.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import libcst as cst


@dataclass(frozen=True)
class Swap:
    """One change of a source.

    Attributes:
        name: qualified name of a function, method, class or imported name.
        how: `replace` swaps it, decorators and all, for an import; `wrap` keeps it and adds a
            decorator, innermost.
        module: where what comes in its place, or the decorator, is imported from.
        with_: its name there.
    """

    name: str
    how: Literal["replace", "wrap"]
    module: str
    with_: str


def find(text: str, names: set[str]) -> dict[str, list[str]]:
    """Return the source of each named function, method, class and imported name.

    Without the comments above it and without surrounding space; of an imported name the import
    alone. Several where a name is defined more than once; a name that is not there has no key.
    """
    import libcst as cst

    module = cst.parse_module(text)
    found: dict[str, list[str]] = {}

    class Finder(cst.CSTVisitor):
        def __init__(self) -> None:
            super().__init__()
            self.path: list[str] = []

        def visit_ClassDef(self, node: cst.ClassDef) -> bool:
            self.path.append(node.name.value)
            self.note(node)
            return True

        def leave_ClassDef(self, original_node: cst.ClassDef) -> None:
            self.path.pop()

        def visit_FunctionDef(self, node: cst.FunctionDef) -> bool:
            self.path.append(node.name.value)
            self.note(node)
            self.path.pop()
            return False

        def note(self, node: cst.ClassDef | cst.FunctionDef) -> None:
            name = ".".join(self.path)
            if name in names:
                source = module.code_for_node(node.with_changes(leading_lines=()))
                found.setdefault(name, []).append(source.strip())

        def visit_ImportFrom(self, node: cst.ImportFrom) -> bool:
            for alias in () if isinstance(node.names, cst.ImportStar) else node.names:
                name = _bound(alias)
                if not self.path and name in names:
                    where = module.code_for_node(node.module) if node.module else ""
                    what = alias.with_changes(comma=cst.MaybeSentinel.DEFAULT)
                    source = f"from {'.' * len(node.relative)}{where} import "
                    found.setdefault(name, []).append(source + module.code_for_node(what))
            return False

    module.visit(Finder())
    return found


def _bound(alias: cst.ImportAlias) -> str:
    return alias.evaluated_alias or alias.evaluated_name


def swap(text: str, swaps: Iterable[Swap]) -> str:
    """Return the source with every swap done; a name that is not there is passed over."""
    import libcst as cst

    replaced: dict[str, Swap] = {}
    wrapped: dict[str, list[Swap]] = {}
    for one in swaps:
        if one.how == "replace":
            replaced[one.name] = one
        else:
            wrapped.setdefault(one.name, []).append(one)

    def line(one: Swap, name: str) -> cst.SimpleStatementLine:
        alias = "" if name == one.with_ else f" as {name}"
        statement = cst.parse_statement(f"from {one.module} import {one.with_}{alias}\n")
        assert isinstance(statement, cst.SimpleStatementLine)  # noqa: S101 (for the type checker)
        return statement

    class Swapper(cst.CSTTransformer):
        def __init__(self) -> None:
            super().__init__()
            self.path: list[str] = []

        def visit_ClassDef(self, node: cst.ClassDef) -> bool:
            self.path.append(node.name.value)
            return True

        def leave_ClassDef(
            self, original_node: cst.ClassDef, updated_node: cst.ClassDef
        ) -> cst.BaseStatement | cst.FlattenSentinel[cst.BaseStatement]:
            name = ".".join(self.path)
            self.path.pop()
            return self.changed(name, updated_node)

        def visit_FunctionDef(self, node: cst.FunctionDef) -> bool:
            return False

        def leave_FunctionDef(
            self, original_node: cst.FunctionDef, updated_node: cst.FunctionDef
        ) -> cst.BaseStatement | cst.FlattenSentinel[cst.BaseStatement]:
            return self.changed(".".join([*self.path, updated_node.name.value]), updated_node)

        def changed(
            self, name: str, node: cst.ClassDef | cst.FunctionDef
        ) -> cst.BaseStatement | cst.FlattenSentinel[cst.BaseStatement]:
            if name in replaced:
                ours = line(replaced[name], node.name.value)
                return ours.with_changes(leading_lines=node.leading_lines)
            if name not in wrapped:
                return node
            imports: list[cst.BaseStatement] = []
            decorators = list(node.decorators)
            for one in wrapped[name]:
                own_name = f"_{one.module.replace('.', '_')}_{one.with_}"
                imports.append(line(one, own_name))
                decorators.append(cst.Decorator(cst.Name(own_name)))
            imports[0] = imports[0].with_changes(leading_lines=node.leading_lines)
            decorated = node.with_changes(decorators=decorators, leading_lines=())
            return cst.FlattenSentinel([*imports, decorated])

        def leave_SimpleStatementLine(
            self, original_node: cst.SimpleStatementLine, updated_node: cst.SimpleStatementLine
        ) -> cst.BaseStatement | cst.FlattenSentinel[cst.BaseStatement]:
            only = updated_node.body[0]
            if self.path or not isinstance(only, cst.ImportFrom):
                return updated_node
            if isinstance(only.names, cst.ImportStar):
                return updated_node
            ours = [alias for alias in only.names if _bound(alias) in replaced]
            if not ours:
                return updated_node
            lines = [line(replaced[_bound(alias)], _bound(alias)) for alias in ours]
            kept = [alias for alias in only.names if alias not in ours]
            if not kept:
                lines[0] = lines[0].with_changes(leading_lines=updated_node.leading_lines)
                return cst.FlattenSentinel(lines)
            kept[-1] = kept[-1].with_changes(comma=cst.MaybeSentinel.DEFAULT)
            rest = updated_node.with_changes(body=[only.with_changes(names=kept)])
            return cst.FlattenSentinel([rest, *lines])

    return cst.parse_module(text).visit(Swapper()).code
