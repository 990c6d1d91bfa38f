"""docker/build/step.py, which runs inside the image build, on folders that stand for the image."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import py_compile
import re
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from types import ModuleType

import pytest
from device_code import library

from higgs_image import process
from higgs_image.files import files_below
from higgs_image.workspace import PROJECT
from tests.support import fat_binaries
from tests.unit.conftest import write

STEP = PROJECT / "docker" / "build" / "step.py"
EPOCH = 1753917654
OLD = 1_000_000_000
TAG = sys.implementation.cache_tag


@pytest.fixture
def step(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", str(EPOCH))
    spec = importlib.util.spec_from_file_location("step", STEP)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A small file system as a step finds it: everything is old."""
    root = tmp_path / "root"
    write(root, {"etc/passwd": "root", "opt/venv/lib/a.py": "a", "usr/bin/tool.sh": "#!/bin/sh"})
    (root / "usr/bin/link").symlink_to("tool.sh")
    (root / "usr/bin/nowhere").symlink_to("/no-such-place")
    os.link(root / "etc/passwd", root / "etc/hard")
    age(root)
    return root


def age(root: Path) -> None:
    for path in [*root.rglob("*"), root]:
        os.utime(path, (OLD, OLD), follow_symlinks=False)


def dates(root: Path) -> dict[str, int]:
    return {
        p.relative_to(root).as_posix(): int(p.lstat().st_mtime) for p in [root, *root.rglob("*")]
    }


# --- finish


def test_only_what_is_new_gets_the_commits_date(step: ModuleType, root: Path) -> None:
    since = float(int(time.time()))
    write(root, {"opt/venv/lib/new.py": "new", "new/folder/x": "x"})
    (root / "opt/link").symlink_to("/no-such-place")
    os.link(root / "opt/venv/lib/new.py", root / "opt/hard.py")
    (root / "opt/dated").touch()
    os.utime(root / "opt/dated", (OLD + 5, OLD + 5))
    step.finish(root, since)
    found = dates(root)
    assert {name for name, when in found.items() if when == EPOCH} == {
        ".", "opt", "opt/venv/lib", "opt/venv/lib/new.py", "new", "new/folder", "new/folder/x",
        "opt/link", "opt/hard.py",
    }  # fmt: skip
    assert found["opt/dated"] == OLD + 5
    assert {when for when in found.values()} == {EPOCH, OLD, OLD + 5}


def test_leftovers_are_removed(step: ModuleType, root: Path) -> None:
    kept = [
        "var/log/journal/x",
        "var/lib/dpkg/status",
        "var/cache/debconf/config.dat",
        "root/.bashrc",
    ]
    gone = [
        "var/cache/apt/pkgcache.bin", "var/cache/apt/archives/x.deb", "var/lib/apt/lists/x",
        "var/lib/dpkg/status-old", "var/cache/debconf/c.dat-old", "var/log/dpkg.log",
        "var/log/apt/history.log", "var/cache/ldconfig/aux-cache", "tmp/x", "tmp/.hidden/deep/y",
        "root/.cache/pip/z",
    ]  # fmt: skip
    write(root, dict.fromkeys([*kept, *gone], "x"))
    outside = root.parent / "outside"
    write(outside, {"keep": "me"})
    (root / "tmp/link").symlink_to(outside)
    (root / "tmp/dangling").symlink_to("/no-such-place")
    step.finish(root, 0)
    for name in kept:
        assert (root / name).exists(), name
    for name in gone:
        assert not (root / name).exists(), name
    assert list((root / "tmp").iterdir()) == []
    assert (outside / "keep").exists()
    assert set(dates(root).values()) == {EPOCH}


def test_finish_leaves_no_trace_of_itself(step: ModuleType, root: Path) -> None:
    """Removing something changes the date of the folder it was in: that is put back, too."""
    write(root, {"tmp/x": "x"})
    age(root)
    step.finish(root, float(int(time.time())))
    assert dates(root)["tmp"] == EPOCH


def test_two_runs_give_the_same(step: ModuleType, root: Path) -> None:
    write(root, {"a": "a"})
    step.finish(root, float(int(time.time())))
    first = dates(root)
    step.finish(root, float(int(time.time())))
    assert dates(root) == first


@pytest.mark.skipif(not os.path.ismount("/dev/pts"), reason="needs a mount to look at")
def test_mounts_are_not_entered(step: ModuleType) -> None:
    found = [path for path, _ in step.walk(Path("/dev"))]
    assert "/dev/null" in found
    assert [path for path in found if path.startswith("/dev/pts")] == []


# --- strip


def test_all_libraries_are_stripped_or_the_build_fails(
    step: ModuleType, gcc: None, tmp_path: Path
) -> None:
    libraries = [tmp_path / f"{name}.so" for name in "abc"]
    code = "static int hidden(void) { return 1; } int shown(void) { return hidden(); }"
    for path in libraries:
        subprocess.run(
            ["gcc", "-shared", "-fPIC", "-O0", "-x", "c", "-o", path, "-"],
            input=code, text=True, check=True,
        )  # fmt: skip
        assert b"hidden" in path.read_bytes()
    step.strip(libraries)
    for path in libraries:
        assert b"shown" in path.read_bytes() and b"hidden" not in path.read_bytes()
    libraries[1].write_text("not a library")
    with pytest.raises(subprocess.CalledProcessError):
        step.strip(libraries)


# --- overlay


def test_overlay_copies_the_difference_and_nothing_else(step: ModuleType, tmp_path: Path) -> None:
    source, target = tmp_path / "layer", tmp_path / "site"
    write(
        source, {"vllm/same.py": "same", "vllm/new.py": "new", "vllm/run.sh": "r", "vllm/a": "22"}
    )
    write(source, {"vllm/deep/er/x.py": "x"})
    write(target, {"vllm/same.py": "same", "vllm/a": "11", "vllm/only_here.so": "so"})
    age(target)
    os.utime(source / "vllm/a", (OLD, OLD))
    step.overlay(source, target)
    assert {
        p.relative_to(target).as_posix(): p.read_text()
        for p in target.rglob("*")
        if p.is_file() and p.suffix != ".pyc"
    } == {
        "vllm/same.py": "same", "vllm/new.py": "new", "vllm/run.sh": "r", "vllm/a": "22",
        "vllm/deep/er/x.py": "x", "vllm/only_here.so": "so",
    }  # fmt: skip
    assert int((target / "vllm/same.py").stat().st_mtime) == OLD, "an equal file was written"
    assert int((target / "vllm/only_here.so").stat().st_mtime) == OLD
    assert (target / "vllm/run.sh").stat().st_mode & 0o777 == 0o755
    assert (target / "vllm/new.py").stat().st_mode & 0o777 == 0o644


def test_bytecode_is_valid_by_content_and_never_stale(step: ModuleType, tmp_path: Path) -> None:
    """A module that is laid over another brings its own; one that is mounted there is compiled."""
    site = tmp_path / "site"
    write(site, {"a.py": "X = 1\n", "b/c.py": "Y = 1\n", "b/tests/t.py": ""})
    write(site, {"template.py": "print 1\n"})
    step.bytecode(site)
    compiled = {p.relative_to(site).as_posix(): p.read_bytes() for p in site.rglob("*.pyc")}
    assert sorted(compiled) == [f"__pycache__/a.{TAG}.pyc", f"b/__pycache__/c.{TAG}.pyc"]
    assert {data[4] for data in compiled.values()} == {0b11}, "a hash that is checked"
    for path in site.rglob("*.py"):
        os.utime(path, (OLD, OLD))
    step.bytecode(site)
    assert {p.relative_to(site).as_posix(): p.read_bytes() for p in site.rglob("*.pyc")} == compiled

    source = tmp_path / "source"
    write(source, {"a.py": "X = 2\n", "b/c.py": "Y = 1\n"})
    step.overlay(source, site)
    changed = {p.name for p in site.rglob("*.pyc")
               if p.read_bytes() != compiled[p.relative_to(site).as_posix()]}  # fmt: skip
    assert changed == {f"a.{TAG}.pyc"}
    (site / "b/c.py").write_text("Y = 3\n")
    done = subprocess.run(
        [sys.executable, "-c", "import a, b.c; print(a.X, b.c.Y)"], cwd=site,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == ["2", "3"]


def test_an_overlay_that_is_not_python_fails(step: ModuleType, tmp_path: Path) -> None:
    write(tmp_path / "source", {"a.py": "print 1\n"})
    with pytest.raises(py_compile.PyCompileError):
        step.overlay(tmp_path / "source", tmp_path)


def test_overlay_does_not_write_through_links(step: ModuleType, tmp_path: Path) -> None:
    source, target = tmp_path / "layer", tmp_path / "site"
    write(source, {"hard.py": "new", "soft.py": "new", "dangling.py": "new"})
    write(target, {"hard.py": "old"})
    write(tmp_path, {"cache.py": "old", "elsewhere.py": "old"})
    (target / "hard.py").unlink()
    os.link(tmp_path / "cache.py", target / "hard.py")
    (target / "soft.py").symlink_to(tmp_path / "elsewhere.py")
    (target / "dangling.py").symlink_to(tmp_path / "absent/x")
    step.overlay(source, target)
    assert (tmp_path / "cache.py").read_text() == "old"
    assert (tmp_path / "elsewhere.py").read_text() == "old"
    for name in ("hard.py", "soft.py", "dangling.py"):
        assert (target / name).read_text() == "new"
        assert not (target / name).is_symlink()


def test_overlay_through_a_linked_folder(step: ModuleType, tmp_path: Path) -> None:
    """Debian's /lib is a link to /usr/lib."""
    source, target = tmp_path / "layer", tmp_path / "root"
    write(source, {"lib/x.py": "x"})
    (target / "usr/lib").mkdir(parents=True)
    (target / "lib").symlink_to("usr/lib")
    step.overlay(source, target)
    assert (target / "usr/lib/x.py").read_text() == "x"
    assert (target / "lib").is_symlink()


# --- packages


def test_a_pattern_that_matches_nothing_fails(step: ModuleType, tmp_path: Path) -> None:
    write(tmp_path, {"a/b.so": ""})
    assert step.matching(tmp_path, "a/*.so") == [tmp_path / "a/b.so"]
    with pytest.raises(SystemExit, match=r"gone/\* matches nothing"):
        step.matching(tmp_path, "gone/*")


TINY = {
    "higgs_tiny/__init__.py": "x = 1\n",
    "higgs_tiny/tests/__init__.py": "",
    "higgs_tiny/tests/tests/deep.py": "",
    "higgs_tiny/keep/tests.txt": "",
    "higgs_tiny/bin/tool-1.2": "#!/bin/sh\n",
}


def wheel(folder: Path, version: str = "1.0", package: dict[str, str] = TINY) -> str:
    """Write a small wheel; returns its hash."""
    path = folder / f"higgs_tiny-{version}-py3-none-any.whl"
    folder.mkdir(parents=True, exist_ok=True)
    info = f"higgs_tiny-{version}.dist-info"
    files = {
        **package,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: higgs-tiny\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """A virtual environment, as in the image."""
    path = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", path], check=True)
    return path


def install(
    environment: Path, layer: Path, wheels: Path, **lists: str
) -> subprocess.CompletedProcess[str]:
    """Run step.packages with that environment's Python, without a network."""
    write(layer, {f"{name}.txt": text for name, text in lists.items()})
    recipe = layer.parent / "build"
    write(recipe, {"step.py": STEP.read_text(), "constraints.txt": ""})
    shutil.copy(STEP.with_name("stub.py"), recipe)
    shutil.copytree(STEP.with_name("device_code"), recipe / "device_code", dirs_exist_ok=True)
    site = environment / f"lib/python3.{sys.version_info.minor}/site-packages"
    script = (
        f"import sys; sys.path.insert(0, {str(recipe)!r}); import step; from pathlib import Path;"
    )
    script += "step.packages(*map(Path, sys.argv[1:]))"
    return subprocess.run(
        [environment / "bin/python", "-c", script, layer, site, process.find("uv")],
        env=os.environ | {"UV_NO_INDEX": "1", "UV_FIND_LINKS": str(wheels), "UV_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )


def test_packages_are_installed_and_trimmed(environment: Path, tmp_path: Path) -> None:
    digest = wheel(tmp_path / "wheels")
    done = install(
        environment,
        tmp_path / "layer",
        tmp_path / "wheels",
        requirements=f"higgs-tiny==1.0 \\\n    --hash=sha256:{digest}\n",
        remove="higgs_tiny/**/tests\n",  # one of them lies in another
    )
    assert done.returncode == 0, done.stderr
    [package] = environment.glob("lib/*/site-packages/higgs_tiny")
    assert (package / "__init__.py").exists()
    assert (package / "keep/tests.txt").exists()
    assert not (package / "tests").exists()
    assert not (environment / ".lock").exists(), "uv's own"


def test_wheels_in_the_layer_are_found(environment: Path, tmp_path: Path) -> None:
    digest = wheel(tmp_path / "layer/wheels")
    done = install(
        environment,
        tmp_path / "layer",
        tmp_path / "empty",
        requirements=f"higgs-tiny==1.0 --hash=sha256:{digest}\n",
    )
    assert done.returncode == 0, done.stderr


def test_what_a_step_added_is_moved_and_nothing_else(
    step: ModuleType, environment: Path, tmp_path: Path
) -> None:
    [site] = environment.glob("lib/*/site-packages")
    write(site, {"old/x.py": "old"})
    before = {name for name, _ in step.walk(environment)}
    there = {name: Path(name).lstat().st_ino for name in before}
    added = {"old/new.py": "1", "package/deep/y.py": "2", "z.py": "3"}
    write(site, added)
    (site / "link").symlink_to("package")
    (environment / "bin/tool").symlink_to("/no-such-place")
    target = tmp_path / "packages/torch"
    step.move_new(environment, target, before)
    assert {name: Path(name).lstat().st_ino for name, _ in step.walk(environment)} == there
    moved = target / environment.relative_to("/")
    new = target / site.relative_to("/")
    assert {p.relative_to(new).as_posix(): p.read_text() for p in files_below(new)
            if not p.is_symlink()} == added  # fmt: skip
    assert (new / "link").is_symlink() and (moved / "bin/tool").is_symlink()
    assert {p.name for p in moved.iterdir()} == {"lib", "bin"}, "lib64 is a link to what was there"
    step.move_new(environment, target, before)  # nothing is left


KERNELS = {
    "higgs_tiny/__init__.py": "x = 2\n",
    "higgs_tiny/call.py": "call = 2\n",
    "higgs_tiny/one.so": "2",
    "higgs_tiny/deep/layers/a.py": "2",
}


def take(
    environment: Path, tmp_path: Path, files: str, sha256: str = "", **lists: str
) -> tuple[subprocess.CompletedProcess[str], dict[str, str]]:
    """Install version 1.0 with files of version 2.0; returns what site-packages then has."""
    layer, wheels = tmp_path / "layer", tmp_path / "layer/wheels"
    old = TINY | {"higgs_tiny/call.py": "call = 1\n", "higgs_tiny/old.so": "1"}
    digests = [wheel(wheels, "1.0", old), wheel(wheels, "2.0", KERNELS)]
    write(layer / "kernels", {
        "requirements.txt": f"higgs-tiny==2.0 --hash=sha256:{sha256 or digests[1]}\n",
        "files.txt": files,
    })  # fmt: skip
    requirements = f"higgs-tiny==1.0 --hash=sha256:{digests[0]}\n"
    done = install(environment, layer, tmp_path / "empty", requirements=requirements, **lists)
    [site] = environment.glob("lib/*/site-packages")
    found = {x.relative_to(site).as_posix(): x.read_text() for x in site.rglob("*") if x.is_file()}
    return done, found


def test_listed_files_come_from_the_wheel_of_the_kernels(environment: Path, tmp_path: Path) -> None:
    files = "higgs_tiny/*.so\nhiggs_tiny/call.py\nhiggs_tiny/deep/layers\n"
    done, found = take(environment, tmp_path, files, remove="higgs_tiny/one.so\n")
    assert done.returncode == 0, done.stderr
    package = {name: text for name, text in found.items() if name.startswith("higgs_tiny/")}
    assert package == TINY | {
        "higgs_tiny/call.py": "call = 2\n",
        "higgs_tiny/deep/layers/a.py": "2",  # and no library: the one of 1.0 went, 2.0's is removed
    }
    assert {x.partition("/")[0] for x in found} == {"higgs_tiny", "higgs_tiny-1.0.dist-info"}


@pytest.mark.parametrize(
    ("files", "sha256", "message"),
    [("higgs_tiny/gone.py\n", "", "matches nothing"), ("higgs_tiny/*.so\n", "0" * 64, "mismatch")],
)
def test_kernels_that_are_not_there_fail_the_step(
    environment: Path, tmp_path: Path, files: str, sha256: str, message: str
) -> None:
    done, _ = take(environment, tmp_path, files, sha256)
    assert done.returncode != 0 and message in done.stderr


def test_a_wrong_hash_fails_the_step(environment: Path, tmp_path: Path) -> None:
    wheel(tmp_path / "wheels")
    done = install(
        environment,
        tmp_path / "layer",
        tmp_path / "wheels",
        requirements=f"higgs-tiny==1.0 --hash=sha256:{'0' * 64}\n",
    )
    assert done.returncode != 0
    assert "Hash mismatch for `higgs-tiny==1.0`" in done.stderr
    assert not list(environment.glob("lib/*/site-packages/higgs_tiny"))


def test_a_package_without_hash_fails_the_step(environment: Path, tmp_path: Path) -> None:
    wheel(tmp_path / "wheels")
    done = install(
        environment, tmp_path / "layer", tmp_path / "wheels", requirements="higgs-tiny==1.0\n"
    )
    assert done.returncode != 0
    assert "hash" in done.stderr


def test_an_outdated_package_list_fails_the_step(environment: Path, tmp_path: Path) -> None:
    digest = wheel(tmp_path / "wheels")
    done = install(
        environment,
        tmp_path / "layer",
        tmp_path / "wheels",
        requirements=f"higgs-tiny==1.0 --hash=sha256:{digest}\n",
        remove="higgs_tiny/no-such-file\n",
    )
    assert done.returncode != 0
    assert "higgs_tiny/no-such-file matches nothing" in done.stderr


@pytest.mark.usefixtures("gcc")
def test_libraries_keep_the_code_for_the_gpus(
    step: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = fat_binaries.container(
        fat_binaries.entry("sm_75", 100_000), fat_binaries.entry("sm_80", 8000)
    )
    odd = fat_binaries.container(fat_binaries.entry("sm_80", kind=3))
    for name, content in (("a", data), ("b", odd)):
        fat_binaries.library(tmp_path / name, [content]).rename(tmp_path / f"{name}.so.1")
    (tmp_path / "link.so").symlink_to("a.so.1")
    step.cut_device_code(tmp_path, ["8.9"])
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("device code: a.so.1 0.1 -> 0.0 MB")
    assert re.fullmatch(
        "device code: b.so.1 is left whole: unknown format at 0x[0-9a-f]+: kind 3", said[1]
    )
    assert library.names(tmp_path / "a.so.1") == ["sm_80"]
    assert (tmp_path / "link.so").is_symlink()
    step.cut_device_code(tmp_path, ["8.9"])
    assert capsys.readouterr().out.splitlines() == said[1:], "the next layer's step"


def test_a_layer_without_gpus_is_not_cut(environment: Path, tmp_path: Path) -> None:
    """Nothing but docker/layers.toml decides: without gpus.txt, all code stays."""
    digest = wheel(tmp_path / "wheels")
    content = fat_binaries.library(
        tmp_path / "so", [fat_binaries.container(*map(fat_binaries.entry, ("sm_75", "sm_80")))]
    ).read_bytes()
    [site] = environment.glob("lib/*/site-packages")
    for lists, expected in (({}, ["sm_75", "sm_80"]), ({"gpus": "8.0\n9.0\n"}, ["sm_80"])):
        (site / "a.so").write_bytes(content)
        done = install(
            environment,
            tmp_path / "layer",
            tmp_path / "wheels",
            requirements=f"higgs-tiny==1.0 --hash=sha256:{digest}\n",
            **lists,
        )
        assert done.returncode == 0, done.stderr
        assert library.names(site / "a.so") == expected


@pytest.mark.usefixtures("gcc")
def test_listed_libraries_become_stubs(environment: Path, tmp_path: Path) -> None:
    digest = wheel(tmp_path / "wheels")
    requirements = f"higgs-tiny==1.0 --hash=sha256:{digest}\n"
    [site] = environment.glob("lib/*/site-packages")
    for name in ("a", "b"):
        made = fat_binaries.library(tmp_path / name, [], flags=[f"-Wl,-soname,lib{name}.so.1"])
        made.rename(site / f"lib{name}.so.1")
    kept = (site / "libb.so.1").read_bytes()
    done = install(
        environment, tmp_path / "layer", tmp_path / "wheels",
        requirements=requirements, stub="liba.so.*\n",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert re.search(
        r"^stub: liba\.so\.1, 1 functions, instead of 0\.0 MB$", done.stdout, re.MULTILINE
    )
    assert (site / "libb.so.1").read_bytes() == kept
    done = install(
        environment, tmp_path / "layer", tmp_path / "wheels",
        requirements=requirements, stub="libc.so.*\n",
    )  # fmt: skip
    assert done.returncode != 0
    assert "libc.so.* matches nothing" in done.stderr


def test_standard_library_only() -> None:
    """It runs with the base image's Python, where nothing is installed."""
    done = subprocess.run(
        [sys.executable, "-E", "-s", "-S", STEP, "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0
    assert "finish LAYER" in done.stdout or "{finish,packages,bytecode,overlay}" in done.stdout
