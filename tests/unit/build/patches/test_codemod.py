"""Functions are found by qualified name and swapped; every other byte stays."""

from __future__ import annotations

import pytest

from higgs_image.build.patches.codemod import Swap, find, swap

SOURCE = '''\
# Head.
from typing import (Any,
                    Optional)
from .near import thing as other
import os


# Above.
@decorated(1)
def function(a,
             b=2):
    """Doc."""
    def function():  # an inner one of the same name does not count
        pass
    return a


class Thing(Base):
    x = 1

    # Comment of the method.
    @property
    def method(self):
        return 1

    async def method_two(self):   # odd   spacing
        return   2

    class Inner:
        def method(self): pass


if True:
    def conditional(): return 3
'''


def source_of(name: str) -> str:
    (only,) = find(SOURCE, {name})[name]
    return only


def test_source_of_a_function_is_without_the_comments_above_it() -> None:
    assert source_of("function").startswith("@decorated(1)\ndef function(a,\n")
    assert source_of("function").endswith("return a")
    assert source_of("Thing.method").startswith("@property\n")
    assert "return   2" in source_of("Thing.method_two")
    assert source_of("conditional") == "def conditional(): return 3"
    assert source_of("Thing.Inner.method") == "def method(self): pass"
    assert source_of("Thing").startswith("class Thing(Base):")


def test_source_does_not_depend_on_its_surroundings() -> None:
    moved = "import sys\n\n" + SOURCE.replace("# Above.", "# Another comment.\n# And another.")
    for name in ("function", "Thing.method", "Optional"):
        assert find(moved, {name}) == find(SOURCE, {name})


def test_source_of_an_imported_name_is_its_import_alone() -> None:
    assert source_of("Any") == "from typing import Any"
    assert source_of("other") == "from .near import thing as other"
    assert find(SOURCE, {"thing", "os", "method", "Optional.x"}) == {}


def test_a_name_defined_twice_is_found_twice() -> None:
    assert len(find("def f(): pass\ndef f(): return 1\n", {"f"})["f"]) == 2


def changed(*swaps: Swap) -> tuple[list[str], list[str]]:
    """Lines that went, and lines that came."""
    old, new = SOURCE.split("\n"), swap(SOURCE, swaps).split("\n")
    compile("\n".join(new), "x", "exec")
    return [x for x in old if x not in new], [x for x in new if x not in old]


def test_replace_a_function() -> None:
    gone, come = changed(Swap("function", "replace", "ours.m", "better"))
    assert come == ["from ours.m import better as function"]
    assert gone[0] == "@decorated(1)"
    assert len(gone) == 7
    assert "# Above.\nfrom ours.m" in swap(
        SOURCE, [Swap("function", "replace", "ours.m", "better")]
    )


def test_replace_a_method_binds_it_in_the_class() -> None:
    _, come = changed(Swap("Thing.method", "replace", "ours.m", "method"))
    assert come == ["    from ours.m import method"]


def test_replace_a_class() -> None:
    _, come = changed(Swap("Thing", "replace", "ours.m", "Better"))
    assert come == ["from ours.m import Better as Thing"]


def test_wrap_puts_the_decorator_innermost() -> None:
    text = swap(
        SOURCE, [Swap("Thing.method", "wrap", "a.b", "w"), Swap("Thing.method", "wrap", "c", "v")]
    )
    assert (
        "    # Comment of the method.\n"
        "    from a.b import w as _a_b_w\n    from c import v as _c_v\n"
        "    @property\n    @_a_b_w\n    @_c_v\n    def method(self):\n        return 1\n"
    ) in text
    compile(text, "x", "exec")


def test_replace_an_imported_name() -> None:
    text = swap(
        SOURCE, [Swap("Optional", "replace", "m", "Maybe"), Swap("other", "replace", "m", "other")]
    )
    compile(text, "x", "exec")
    assert "from m import Maybe as Optional\n" in text
    assert "from m import other\n" in text
    assert ".near" not in text


@pytest.mark.parametrize("name", ["nothing", "Thing.nothing", "method"])
def test_an_unknown_name_changes_nothing(name: str) -> None:
    assert swap(SOURCE, [Swap(name, "replace", "m", "x")]) == SOURCE
