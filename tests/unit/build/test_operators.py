"""The table of operators, and the check of an image against it."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import call_sites
import operators
import pytest
import stub
from stub import Symbol

SITE = {"_C::a": "(int x) -> int", "_C::b": "(int y) -> int", "_C::c": "() -> ()"}


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A table that SITE agrees with, and an image that has SITE; returns its site-packages."""
    path = tmp_path / "operators.toml"
    path.write_text(
        '[signatures]\n"_C::a" = "(int x) -> int"\n[misfits]\n"_C::x" = "of a build for CPUs"\n'
        '[cuda."12.8".signatures]\n"_C::b" = "(int y) -> int"\n[cuda."12.8".misfits]\n'
        '[cuda."12.4".signatures]\n[cuda."12.4".misfits]\n"_C::y" = "Mamba"\n'
    )
    monkeypatch.setattr(operators.load, "__defaults__", (path,))
    monkeypatch.setattr(operators, "callees", lambda site: ("12.8", SITE))
    monkeypatch.setattr(call_sites, "misfits", lambda site, found: {"_C::x": ["vllm/x.py:1"]})
    (tmp_path / "torch").mkdir()
    return tmp_path


def test_an_equal_image_passes(table: Path) -> None:
    assert operators.check(table) == []


@pytest.mark.parametrize(("name", "signature"), [("_C::a", "(int z) -> int"), ("_C::b", None)])
def test_a_changed_operator_is_named(
    table: Path, monkeypatch: pytest.MonkeyPatch, name: str, signature: str | None
) -> None:
    found = {k: v for k, v in (SITE | {name: signature}).items() if v}
    monkeypatch.setattr(operators, "callees", lambda site: ("12.8", found))
    [line] = operators.check(table)
    says = signature or "nothing of this name"
    assert line == f"{name}: expected {SITE[name]}, found {says}"


def test_a_use_that_no_longer_fits_is_named(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = {"_C::x": ["vllm/x.py:1"], "_C::c": ["vllm/y.py:2 (missing)"]}
    monkeypatch.setattr(call_sites, "misfits", lambda site, found: places)
    assert operators.check(table) == ["_C::c does not fit its calls: vllm/y.py:2 (missing)"]


def test_an_image_without_pytorch_has_nothing_to_check(
    table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operators, "callees", lambda site: ("12.8", {}))
    assert operators.check(table) != []
    (table / "torch").rmdir()
    assert operators.check(table) == []


def test_each_variant_has_its_own_part(table: Path) -> None:
    own = operators.load("12.4")
    assert own.signatures == {"_C::a": "(int x) -> int"}
    assert own.misfits == {"_C::x": "of a build for CPUs", "_C::y": "Mamba"}
    with pytest.raises(SystemExit, match=r"operators.toml has nothing for CUDA 13.0: add it"):
        operators.load("13.0")


def test_a_difference_ends_the_build(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operators, "check", lambda site: ["_C::a: changed", "_C::b: gone"])
    with pytest.raises(SystemExit) as ended:
        operators.main([])
    assert ended.value.code == "operators.py: _C::a: changed\noperators.py: _C::b: gone"


def test_the_committed_table_is_complete() -> None:
    """Each part is for its CUDA; what differs between them is in both, or in one with a reason."""
    old, new = operators.load("12.4"), operators.load("12.8")
    for name in old.signatures.keys() ^ new.signatures.keys():
        assert name.removeprefix("vllm._custom_ops.").removeprefix("_C::") == "fp8_marlin_gemm"
    for table in (old, new):
        assert all(table.misfits.values()), "each has a reason"
        for signature in table.signatures.values():
            call_sites.signature(signature)


def test_functions_of_the_driver_are_stubs(gcc: None, tmp_path: Path) -> None:
    """A library that imports them loads, and gets an error from them."""
    source = tmp_path / "kernels.c"
    source.write_text(
        "int cuMemCreate(void); int kernel(void) { return cuMemCreate(); }"
        "__attribute__((weak)) int cudaMalloc(void); int unused(void) { return cudaMalloc(); }"
    )
    driver, library = tmp_path / operators.DRIVER, tmp_path / "kernels.so"
    flags = ["-shared", "-fPIC", "-w"]
    stub.make(driver, operators.DRIVER, [Symbol("cuMemCreate", "")])
    subprocess.run(["gcc", *flags, "-o", library, source, driver], check=True)
    assert operators.driver_functions([library]) == [Symbol("cuMemCreate", "")]
    assert not [*tmp_path.glob(f"{operators.DRIVER}.*")], "no source is left"
    ctypes.CDLL(str(driver))
    assert ctypes.CDLL(str(library)).kernel() == stub.STATUS
