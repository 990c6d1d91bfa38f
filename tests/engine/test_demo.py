"""The demonstration, end to end: what the README's first command does."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
import wave
from collections.abc import Iterator
from pathlib import Path

import pytest

from higgs_image.build import image, pipeline
from higgs_image.build.overrides import Overrides
from higgs_image.demo import demo, fake_fork
from higgs_image.errors import DemoError, EngineError
from higgs_image.host.local_registry import LocalRegistry
from higgs_image.ports import is_free
from higgs_image.release import publish
from higgs_image.smoke import leftovers, limits
from higgs_image.smoke.checks.model import TEXT
from higgs_image.workspace import PROJECT

from .conftest import MakeFakeFork

pytestmark = pytest.mark.engine


def containers(folder: Path) -> list[str]:
    """Ids of a demonstration's containers."""
    found = subprocess.run(
        ["docker", "ps", "--all", "--quiet", "--no-trunc",
         "--filter", f"label={leftovers.FOLDER}={folder / 'build'}"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return found.stdout.split()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Folder of a demonstration; its image is removed afterwards."""
    where = tmp_path / "demo"
    yield where
    reference = fake_fork.workspace_in(where).read_state("demo").get("reference", "")
    subprocess.run(["docker", "image", "rm", reference], capture_output=True)


def test_whole_demo_then_again(
    folder: Path, some_ca: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = demo.run(folder=folder)
    assert not first.skipped
    assert first.built.pushed
    assert first.reference.endswith(f"/{demo.NAME}@{first.digest}")
    assert first.reference == first.built.pushed.by_digest
    with wave.open(str(first.audio)) as audio:
        assert (audio.getframerate(), audio.getnchannels(), audio.getsampwidth()) == (24000, 1, 2)
        assert audio.getnframes() / 24000 == pytest.approx(first.audio_seconds, abs=0.01)
    assert first.audio_seconds == limits.expected_seconds(TEXT)
    text = first.text()
    assert "proved:" in text and "only the real fork would prove:" in text
    assert re.search(f"docker run --rm --publish 127.0.0.1:8000:8000 .*{first.reference}", text)
    assert any("fork's Python over it" in line for line in first.proved)
    assert containers(folder) == []
    port = int(first.reference.split("/")[0].split(":")[1])
    assert is_free(port)

    caplog.clear()
    started = time.monotonic()
    second = demo.run(folder=folder)
    assert time.monotonic() - started < 20
    assert (second.digest, second.reference) == (first.digest, first.reference)
    assert second.skipped
    assert second.built.pushed and second.built.pushed.skipped
    assert second.built.pushed.uploaded_bytes == 0
    assert not any("fetching" in x or "[image" in x for x in caplog.messages), caplog.messages

    # The same lock gives another image, which replaces the first one in the local registry.
    third = demo.run(folder=folder, extra_ca=some_ca)
    assert "-dev-" in third.built.tag and third.digest != first.digest
    assert image.engine_digest(third.reference)
    assert not image.engine_digest(first.reference)
    assert "/etc/ssl" not in " ".join(third.notes)

    # Its port is taken: it uses another one.
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", port))
        taken.listen()
        fourth = demo.run(folder=folder)
    assert fourth.reference.split("/")[0] != first.reference.split("/")[0]
    assert containers(folder) == []


@pytest.fixture
def reference(
    make_fake_fork: MakeFakeFork, registry_for_all: LocalRegistry, overrides: Overrides
) -> str:
    """An image of a fake fork that the engine has pulled."""
    report = publish.build_and_push(
        pipeline.BuildRequest(
            make_fake_fork(), "demo-test", registry=registry_for_all.address, overrides=overrides,
            load=False,
        )
    )  # fmt: skip
    assert report.pushed
    demo.pull(report.pushed.by_digest, report)
    return report.pushed.by_digest


def test_another_image_is_refused(
    reference: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = publish.build_and_push(
        pipeline.BuildRequest(fake_fork.workspace_in(tmp_path / "fake-fork"), "demo-test",
                         overrides=Overrides(extra_ca=demo.environment_ca(os.environ)), load=False)
    )  # fmt: skip
    assert report.skipped
    monkeypatch.setattr(image, "engine_digest", lambda _: "sha256:" + 64 * "e")
    with pytest.raises(EngineError, match=r"expected sha256:.* the engine has sha256:eeee"):
        demo.pull(reference, report)


SERVER = "vllm/entrypoints/bosonai/"


@pytest.mark.parametrize(
    ("path", "content", "message"),
    [
        ("voice_presets/config.json", '{"x": {"audio_file": ""}', "status 1 .*JSONDecodeError"),
        ("api_server.py", "", "status 70 before it was healthy"),
    ],
)
def test_a_server_that_fails_shows_its_log(
    path: str,
    content: str,
    message: str,
    tmp_path: Path,
    make_fake_fork: MakeFakeFork,
    registry_for_all: LocalRegistry,
    overrides: Overrides,
) -> None:
    broken = make_fake_fork("broken", {SERVER + path: content})
    report = publish.build_and_push(
        pipeline.BuildRequest(broken, "demo-test", registry=registry_for_all.address,
                         overrides=overrides, load=False)
    )  # fmt: skip
    assert report.pushed
    demo.pull(report.pushed.by_digest, report)
    started = time.monotonic()
    with pytest.raises(DemoError, match=f"(?s){message}"):
        demo.run_image(fake_fork.workspace_in(tmp_path), report.pushed.by_digest)
    assert time.monotonic() - started < 20
    assert containers(tmp_path) == []


def test_no_engine_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no.sock")
    with pytest.raises(EngineError, match="refused"):
        demo.run_image(fake_fork.workspace_in(tmp_path), fake_fork.NO_BASE)


def test_concurrent_demos_share_a_folder(folder: Path) -> None:
    """The second waits for the first; both end well."""
    script = (
        "import sys; from pathlib import Path; from higgs_image.demo import demo; "
        "d = demo.run(folder=Path(sys.argv[1])); print(d.digest)"
    )
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(folder)],
            cwd=PROJECT, stdout=subprocess.PIPE, text=True, env=os.environ.copy(),
        )
        for _ in range(2)
    ]  # fmt: skip
    digests = [run.communicate()[0].strip() for run in runs]
    assert [run.returncode for run in runs] == [0, 0]
    assert digests[0] == digests[1] and digests[0].startswith("sha256:")
