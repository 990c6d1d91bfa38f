"""The base image made of Debian's packages."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from higgs_image import process, retry
from higgs_image.demo import fake_fork
from higgs_image.errors import NetworkError, RegistryUnavailableError
from higgs_image.host import base_image
from higgs_image.host.local_registry import LocalRegistry
from higgs_image.oci import layout
from higgs_image.workspace import PROJECT, Workspace

pytestmark = pytest.mark.engine


def in_container(image: str, script: str) -> str:
    done = subprocess.run(
        ["docker", "run", "--rm", "--network", "none", image, "sh", "-euc", script],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_base_is_slim_and_contains_nothing_of_this_machine(base: str) -> None:
    out = in_container(
        base, ". /etc/os-release; echo $VERSION_CODENAME; apt --version; dpkg --list | wc -l"
    )
    codename, apt, packages = out.splitlines()
    assert codename == base_image.SUITES[fake_fork.PYTHON]
    assert apt.startswith("apt ") and int(packages) < 110
    image = base_image.ensure(Workspace.default(), fake_fork.PYTHON)
    assert image.skipped
    assert image.size < 35 * layout.MB
    tar = layout.blob(image.layout, layout.read(image.layout, image.digest).layers[0].digest)
    names = subprocess.run(
        ["tar", "--list", "--gzip", "--file", tar], check=True, capture_output=True, text=True
    ).stdout.splitlines()
    for gone in ("./etc/hostname", "./etc/resolv.conf", "./dev/null", "./var/log/dpkg.log",
                 "./usr/bin/perl5.36-x86_64-linux-gnu"):  # fmt: skip
        assert gone not in names
    assert not [x for x in names if x.startswith("./usr/share/man/") and not x.endswith("/")]
    assert [x for x in names if x.startswith("./usr/share/doc/") and x.endswith("/copyright")]


def test_later_packages_are_slim_too(base: str) -> None:
    assert "path-exclude=/usr/share/man/*" in in_container(base, "cat /etc/dpkg/dpkg.cfg.d/*")


def test_second_publish_sends_nothing(
    registry_for_all: LocalRegistry, base: str, caplog: pytest.LogCaptureFixture
) -> None:
    made = base_image.ensure(Workspace.default(), fake_fork.PYTHON)
    assert base_image.publish(made, registry_for_all.address) == base
    assert base == f"{registry_for_all.address}/debian-base@{made.digest}"
    assert caplog.messages[-1].endswith("exists already")


def test_unreachable_registry(tmp_path: Path, base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "WAIT", 0.01)
    made = base_image.ensure(Workspace.default(), fake_fork.PYTHON)
    gone = LocalRegistry(tmp_path)
    with gone:
        pass
    with pytest.raises(RegistryUnavailableError):
        base_image.publish(made, gone.address)


def test_unreachable_debian_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    workspace = Workspace(tmp_path / "build", PROJECT / "versions.lock", tmp_path / "layers.toml")
    with pytest.raises(NetworkError, match="could not make debian bookworm"):
        base_image.ensure(workspace)
    assert list((tmp_path / "build" / "base").iterdir()) == []


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A folder for temporary files that apt's own user may enter, as pytest's may not be."""
    path = Path(tempfile.mkdtemp(prefix="higgs-test-"))
    path.chmod(0o755)
    yield path
    if not mounts_below(path):
        shutil.rmtree(path)


def mounts_below(folder: Path) -> list[str]:
    """Mounts of this machine below a folder."""
    lines = Path("/proc/mounts").read_text().splitlines()
    return [x for x in lines if f" {folder}/" in x]


KILLED = """
import logging, sys
from collections.abc import Iterator
from pathlib import Path
from higgs_image.host import base_image
from higgs_image.workspace import PROJECT, Workspace
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
base_image.ensure(Workspace(Path(sys.argv[1]), PROJECT / "versions.lock", Path()))
"""


def test_killed_or_damaged_base_is_made_again(
    tmp_path: Path, base: str, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    build = tmp_path / "build"
    workspace = Workspace(build, PROJECT / "versions.lock", tmp_path / "layers.toml")
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(build)], cwd=PROJECT, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout
        for line in child.stdout:
            if "extracting" in line:
                break
        child.send_signal(signal.SIGKILL)
    assert not (build / "base" / "bookworm").exists()
    (left,) = (build / "base").iterdir()  # what the killed run was making
    assert mmdebstrap_ends(left)
    assert list(temporary.iterdir()) and mounts_below(temporary) == []

    outputs: list[str] = []

    def run(*arguments: Any, **options: Any) -> process.Completed:
        done = real(*arguments, **options)
        outputs.append(done.err)
        return done

    real = process.run
    with monkeypatch.context() as patch:
        patch.setattr(process, "run", run)
        made = base_image.ensure(workspace)
    assert list(temporary.iterdir()) == []
    assert "I: " in "".join(outputs) and "unsandboxed" not in "".join(outputs)
    assert not made.skipped
    assert [path.name for path in (build / "base").iterdir()] == ["bookworm"]
    assert base_image.ensure(workspace).skipped
    known = base_image.ensure(Workspace.default())
    if packages(made) == packages(known):  # of another day they may differ
        assert made.digest == known.digest

    manifest = json.loads(layout.blob(made.layout, made.digest).read_bytes())
    blob = layout.blob(made.layout, manifest["layers"][0]["digest"])
    blob.write_bytes(blob.read_bytes()[:-1])

    class MadeAnewError(Exception):
        pass

    def bootstrap(*_: object) -> None:
        raise MadeAnewError

    monkeypatch.setattr(base_image, "_bootstrap", bootstrap)
    with pytest.raises(MadeAnewError):
        base_image.ensure(workspace)


def packages(made: base_image.BaseImage) -> str:
    """What is installed in a base image, from its layer."""
    tar = layout.blob(made.layout, layout.read(made.layout, made.digest).layers[0].digest)
    return subprocess.run(
        ["tar", "--extract", "--gzip", "--to-stdout", "--file", tar, "./var/lib/dpkg/status"],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip


def mmdebstrap_ends(folder: Path) -> bool:
    """Wait until no process works on this folder any more: it ends with the one that was killed."""
    for _ in range(600):
        if not any(str(folder).encode() in command for command in commands()):
            return True
        time.sleep(0.1)
    return False


def commands() -> Iterator[bytes]:
    """The command lines of all processes; one may end while it is looked at."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            yield path.read_bytes()
