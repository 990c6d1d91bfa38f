"""The fake fork: the same on every machine, and a server that behaves as the real one should."""

from __future__ import annotations

import http.client
import importlib.util
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import wave
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from higgs_image import lockfile
from higgs_image.build import layers, remote, render, source
from higgs_image.build.overrides import Overrides
from higgs_image.build.patches.apply import Patched
from higgs_image.demo import demo, fake_fork
from higgs_image.errors import (
    BuildError,
    DiskFullError,
    HiggsError,
    KernelsChangedError,
    NetworkError,
    UsageError,
)
from higgs_image.files import sha256_file
from higgs_image.host import base_image
from higgs_image.smoke import audio
from higgs_image.workspace import PROJECT, Workspace

PARTS = PROJECT / "fakes" / "upstream"
SERVER = "vllm/entrypoints/bosonai/api_server.py"


# What is made ---------------------------------------------------------------------------------


def test_made_in_two_folders_the_commits_and_the_wheel_are_the_same(tmp_path: Path) -> None:
    one, two = (fake_fork.make(tmp_path / name) for name in ("one", "an other@place"))
    locks = [lockfile.load(made.lock_file) for made in (one, two)]
    assert locks[0].fork.commit == locks[1].fork.commit
    assert locks[0].vllm == locks[1].vllm
    assert locks[0].submodule.commit == locks[1].submodule.commit
    assert locks[0].wheel == locks[1].wheel
    assert locks[0].sha256 != locks[1].sha256  # its URLs name the folder
    source.ensure(two, locks[1])


def test_made_again_nothing_changes(
    tmp_path: Path, snapshot: Callable[[Path], dict[str, tuple[int, bytes]]]
) -> None:
    made = fake_fork.make(tmp_path)
    before = snapshot(tmp_path)
    source.ensure(made, lockfile.load(made.lock_file))
    assert fake_fork.make(tmp_path) == made
    after = snapshot(tmp_path)

    def kept(files: dict[str, tuple[int, bytes]]) -> dict[str, tuple[int, bytes]]:
        # git's index and its packs hold times; the commits decide
        return {k: v for k, v in files.items() if "/.git/" not in k and not k.startswith("build")}

    assert kept(before) == kept(after)
    assert source.ensure(made, lockfile.load(made.lock_file)).fetched == ()


@pytest.mark.parametrize(
    "hooked", ["[core]\n\thooksPath = {}/hooks\n", "[init]\n\ttemplateDir = {}\n"]
)
def test_the_configuration_of_git_is_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hooked: str
) -> None:
    plain = lockfile.load(fake_fork.make(tmp_path / "plain").lock_file).fork.commit
    hooks = tmp_path / "template" / "hooks"
    hooks.mkdir(parents=True)
    (hooks / "commit-msg").write_text("#!/bin/sh\nexit 1\n")
    (hooks / "commit-msg").chmod(0o755)
    (tmp_path / "excluded").write_text("*.wav\n*.py\n")
    config = tmp_path / "gitconfig"
    config.write_text(
        "[user]\n\tname = Somebody\n\temail = else@example.org\n[commit]\n\tgpgsign = true\n"
        f"[core]\n\tautocrlf = true\n\texcludesFile = {tmp_path}/excluded\n"
        "[init]\n\tdefaultBranch = other\n" + hooked.format(hooks.parent)
    )
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    monkeypatch.delenv("GIT_TEMPLATE_DIR", raising=False)
    assert lockfile.load(fake_fork.make(tmp_path / "configured").lock_file).fork.commit == plain


def test_it_passes_the_stages_before_the_build(tmp_path: Path) -> None:
    made = fake_fork.make(tmp_path, "127.0.0.1:1/base@sha256:" + 64 * "a")
    locked = lockfile.load(made.lock_file)
    lockfile.require_consistent(locked, made.root)
    checkout = source.ensure(made, locked)
    assert not (checkout.submodule / "boson_multimodal/audio_processing/__init__.py").exists()
    files = render.compute(made, locked, checkout, Patched(), Overrides())
    assert b"FROM 127.0.0.1:1/base@sha256:aaaa" in files["Dockerfile"][0]
    for layer, name in (
        ("code", SERVER),
        ("assets", "vllm/entrypoints/bosonai/voice_presets/beep.wav"),
        ("code", "boson_multimodal/audio_processing/tone.py"),
    ):
        assert any(x.startswith(f"layers/{layer}/") and x.endswith(f"/{name}") for x in files)
    assert "layers/stable/requirements.txt" in files
    assert "layers/packages/requirements.txt" in files
    assert (
        files[f"layers/vllm/wheels/{fake_fork.WHEEL}"][0]
        == (tmp_path / "wheels" / fake_fork.WHEEL).read_bytes()
    )
    assert locked.wheel.sha256 == sha256_file(tmp_path / "wheels" / fake_fork.WHEEL)


def test_it_has_a_variant_with_other_kernels(tmp_path: Path) -> None:
    made = fake_fork.make(tmp_path)
    locked = lockfile.load(made.lock_file, fake_fork.VARIANT)
    files = render.compute(made, locked, source.ensure(made, locked), Patched(), Overrides())
    assert (
        files[f"layers/vllm/wheels/{fake_fork.KERNELS}"][0]
        == (tmp_path / "wheels" / fake_fork.KERNELS).read_bytes()
    )
    assert not [x for x in files if x.endswith(fake_fork.CALLS_KERNELS)]
    changed = fake_fork.make(tmp_path / "changed", changes={fake_fork.CALLS_KERNELS: "\n"})
    source.ensure(changed, lockfile.load(changed.lock_file))
    with pytest.raises(KernelsChangedError, match=fake_fork.CALLS_KERNELS):
        source.ensure(changed, lockfile.load(changed.lock_file, fake_fork.VARIANT))


def test_a_changed_kernel_is_refused(tmp_path: Path) -> None:
    made = fake_fork.make(tmp_path, changes={"csrc/kernels.cu": "__global__ void f();\n"})
    with pytest.raises(KernelsChangedError, match="csrc"):
        source.ensure(made, lockfile.load(made.lock_file))


def test_changes_give_another_commit(tmp_path: Path) -> None:
    plain, changed = (
        lockfile.load(fake_fork.make(tmp_path / name, changes=changes).lock_file)
        for name, changes in (("plain", {}), ("changed", {"vllm/new.py": "NEW = 1\n"}))
    )
    assert plain.fork.commit != changed.fork.commit
    assert plain.vllm == changed.vllm


def test_the_wheel_is_what_the_overlay_is_laid_over(tmp_path: Path) -> None:
    fake_fork.make(tmp_path)
    with zipfile.ZipFile(tmp_path / "wheels" / fake_fork.WHEEL) as wheel:
        assert wheel.testzip() is None
        wheel.extractall(tmp_path / "site")
    fork = tmp_path / "repositories" / "fork" / "vllm"
    equal = {
        path.relative_to(fork).as_posix()
        for path in fork.rglob("*.py")
        if (tmp_path / "site" / "vllm" / path.relative_to(fork)).is_file()
        and path.read_bytes() == (tmp_path / "site" / "vllm" / path.relative_to(fork)).read_bytes()
    }
    assert equal == {"__init__.py", "_custom_ops.py", "entrypoints/__init__.py"}
    assert 'ORIGIN = "wheel"' in (tmp_path / "site/vllm/origin.py").read_text()
    assert 'ORIGIN = "fork"' in (fork / "origin.py").read_text()


def test_tools_caches_do_not_get_in(tmp_path: Path) -> None:
    root = tmp_path / "project"
    for name in ("docker", "fakes", "templates"):
        shutil.copytree(PROJECT / name, root / name)
    for name in ("LICENSE", "NOTICE"):
        shutil.copy(PROJECT / name, root)
    plain = lockfile.load(fake_fork.make(tmp_path / "a", root=root).lock_file)
    for cache in (".mypy_cache/x", "vllm/__pycache__/x.pyc"):
        path = root / "fakes" / "upstream" / "fork" / cache
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    assert lockfile.load(fake_fork.make(tmp_path / "b", root=root).lock_file).fork == _elsewhere(
        plain, tmp_path / "b"
    )


def _elsewhere(locked: lockfile.Lock, folder: Path) -> lockfile.ForkPin:
    import msgspec

    return msgspec.structs.replace(
        locked.fork, url=(folder.resolve() / "repositories" / "fork").as_uri()
    )


def test_its_layers_and_packages_are_spread() -> None:
    plan = layers.load(PARTS / "pins" / "layers.toml")
    entries = lockfile.requirements((PARTS / "pins" / "requirements.txt").read_text())
    assert {name: len(x) for name, x in layers.distribute(entries, plan.layer).items()} == {
        "stable": 1,
        "packages": 1,
    }


# A relative submodule URL ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recorded", "resolved"),
    [
        ("../audio.git", "https://host/owner/audio.git"),
        ("./audio", "https://host/owner/fork/audio"),
        ("https://other/audio.git", "https://other/audio.git"),
    ],
)
def test_a_relative_submodule_url_is_resolved_as_git_does(recorded: str, resolved: str) -> None:
    assert remote.submodule_url("https://host/owner/fork", recorded) == resolved
    assert remote.submodule_url("https://host/owner/fork/", recorded) == resolved


# The server -----------------------------------------------------------------------------------


def load_module(path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    spec = importlib.util.spec_from_file_location(f"fake_fork_{path.stem}", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tone(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    path = PARTS / "submodule" / "boson_multimodal" / "audio_processing" / "tone.py"
    return load_module(path, monkeypatch)


@pytest.fixture
def api_server(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load_module(PARTS / "fork" / SERVER, monkeypatch)


@pytest.fixture
def port(api_server: ModuleType, tone: ModuleType) -> Iterator[int]:
    """A running server's port."""
    server = api_server.Server(
        ("127.0.0.1", 0), tone.speak, {"beep": "A beep."}, {"version": "0.8.3"}
    )
    with server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def ask(
    port: int, method: str, path: str, body: bytes | None = None, **headers: str
) -> tuple[int, str, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.headers["Content-Type"], answer.read()
    finally:
        connection.close()


def speech(port: int, **request: Any) -> tuple[int, str, bytes]:
    return ask(port, "POST", "/v1/audio/speech", json.dumps(request).encode())


def test_the_longest_text_is_answered(port: int) -> None:
    status, _, body = speech(port, input=4096 * "a")
    assert status == 200
    assert audio.read(body, "wav").seconds == pytest.approx(273.48)


def test_speech_is_one_valid_wav_whose_length_depends_on_the_text(port: int) -> None:
    lengths = []
    for text in ("Hi", "A sentence of some length, to be spoken.", "Zwölf Boxkämpfer jagen Viktor"):
        status, kind, body = speech(port, voice="beep", input=text)
        assert (status, kind) == (200, "audio/wav")
        assert body.count(b"RIFF") == 1
        with wave.open(io.BytesIO(body)) as file:
            assert file.getframerate() == 24000
            assert file.getnchannels() == 1 and file.getsampwidth() == 2
            frames = file.readframes(file.getnframes())
            assert len(frames) == 2 * file.getnframes()
            loudest = max(abs(int.from_bytes(frames[i : i + 2], "little", signed=True))
                          for i in range(0, len(frames), 2))  # fmt: skip
            assert 4000 < loudest < 20000
            lengths.append(file.getnframes() / 24000)
        assert audio.read(body, "wav").seconds == pytest.approx(lengths[-1])
    assert lengths == pytest.approx([0.52, 3.08, 2.48])


def test_the_sound_is_the_same_bytes_everywhere(tone: ModuleType) -> None:
    import hashlib

    assert hashlib.sha256(tone.speak("The same.")).hexdigest() == TONE


TONE = "71407d72ac61e299e849be669e9962666b5d740a64db39717d8a4a36e66171b6"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"", "not JSON"),
        (b"[]", "not a JSON object"),
        (b"{}", "input"),
        (b'{"input": ""}', "input"),
        (b'{"input": "  "}', "input"),
        (b'{"input": 3}', "input"),
        (b'{"input": "' + 4097 * b"a" + b'"}', "4097"),
        (b"[" * 100_000, "not JSON"),
        (b'{"input": "a", "voice": "nobody"}', "nobody"),
        (b'{"input": "a", "voice": ["beep"]}', "beep"),
        (b'{"input": "a", "response_format": "mp3"}', "mp3"),
    ],
)
def test_a_bad_request_is_400_in_json_and_the_server_goes_on(
    port: int, body: bytes, said: str
) -> None:
    status, kind, answer = ask(port, "POST", "/v1/audio/speech", body)
    assert (status, kind) == (400, "application/json")
    error = json.loads(answer)
    assert error["object"] == "error" and error["code"] == 400 and said in error["message"]
    assert speech(port, input="a")[0] == 200


def test_a_bad_length_is_400(port: int) -> None:
    for length in ("-1", "x", "99999999"):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.putrequest("POST", "/v1/audio/speech")
        connection.putheader("Content-Length", length)
        connection.endheaders()
        answer = connection.getresponse()
        assert (answer.status, answer.headers["Connection"]) == (400, "close")
        connection.close()


def test_a_connection_is_kept_after_an_error(port: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    for path, body, wanted in (
        ("/nowhere", b'{"input": "a"}', 404),
        ("/v1/audio/speech", b"{", 400),
        ("/v1/audio/speech", b'{"input": "a"}', 200),
    ):
        connection.request("POST", path, body)
        answer = connection.getresponse()
        answer.read()
        assert answer.status == wanted
    connection.close()


def test_the_other_routes(port: int) -> None:
    assert ask(port, "GET", "/health") == (200, "text/plain", b"")
    assert json.loads(ask(port, "GET", "/v1/audio/voices")[2]) == {"voices": ["beep"]}
    assert json.loads(ask(port, "GET", "/v1/models")[2])["data"][0]["id"] == "higgs-audio-v2"
    assert json.loads(ask(port, "GET", "/version")[2]) == {"version": "0.8.3"}
    assert ask(port, "GET", "/ping")[0] == 200
    assert ask(port, "GET", "/metrics")[0] == 200
    assert ask(port, "GET", "/")[0] == 404


def test_the_image_starts_with_its_entrypoint(tmp_path: Path) -> None:
    made = fake_fork.make(tmp_path)
    locked = lockfile.load(made.lock_file)
    files = render.compute(made, locked, source.ensure(made, locked), Patched(), Overrides())
    lines = files["Dockerfile"][0].decode().splitlines()
    assert 'ENTRYPOINT ["tini", "-s", "--", "python3", "-m", "higgs_runtime"]' in lines
    folder = "layers/code/opt/venv/lib/python3.11/site-packages/higgs_runtime"
    assert f"{folder}/__main__.py" in files and f"{folder}/server_flags.txt" in files
    assert not any("pycache" in name for name in files)


def test_it_reports_readiness_and_finishes_running_requests(
    api_server: ModuleType, tone: ModuleType
) -> None:
    release = threading.Event()

    def speak(text: str, voice: str) -> bytes:
        release.wait(10)
        return bytes(tone.speak(text, voice))

    with api_server.Server(("127.0.0.1", 0), speak, {"beep": ""}, {}) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        port = server.server_port
        ours, theirs = socket.socketpair()
        ours.settimeout(10)
        threading.Thread(target=server.follow, args=(theirs,), daemon=True).start()
        assert ours.recv(64) == b"ready\n"
        assert ask(port, "GET", "/ping")[0] == 200
        answers: list[int] = []
        running = threading.Thread(
            target=lambda: answers.append(speech(port, input="Hello", voice="beep")[0])
        )
        running.start()
        while server.running == 0:
            time.sleep(0.01)
        ours.sendall(b"drain\n")
        while ask(port, "GET", "/ping")[0] == 200:
            time.sleep(0.01)
        assert speech(port, input="Hello", voice="beep")[0] == 503
        assert answers == []
        release.set()
        assert ours.recv(64) == b"drained\n"
        running.join()
        assert answers == [200]
        server.shutdown()


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder as the image's site-packages: the wheel, the overlay, and two packages."""
    site = tmp_path / "site"
    fake_fork.make(tmp_path / "made")
    with zipfile.ZipFile(tmp_path / "made" / "wheels" / fake_fork.WHEEL) as wheel:
        wheel.extractall(site)
    for name, package in (("fork", "vllm"), ("higgs-audio", "boson_multimodal")):
        shutil.copytree(
            tmp_path / "made" / "repositories" / name / package, site / package, dirs_exist_ok=True
        )
    for package in ("six", "iniconfig"):
        (site / f"{package}.py").write_text("")
        info = site / f"{package}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    return site


def start(site: Path, *flags: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "vllm.entrypoints.bosonai.api_server",
         "--host", "127.0.0.1", "--port", "0", "--model", "a/b", "--limit-mm-per-prompt",
         "audio=50", "--disable-mm-preprocessor-cache", *flags],
        env=os.environ | {"PYTHONPATH": str(site)}, cwd=site, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_as_a_program_it_speaks_and_ends_well_on_sigterm(site: Path) -> None:
    with start(site, "--served-model-name", "named") as child:
        assert child.stdout
        listening = next(x for x in child.stdout if x.startswith("listening"))
        port = int(listening.rsplit(":", 1)[1])
        version = json.loads(ask(port, "GET", "/version")[2])
        assert version["origin"] == "fork" and version["version"] == "0.8.3"
        assert version["six"] == "1.0"
        assert json.loads(ask(port, "GET", "/v1/models")[2])["data"][0]["id"] == "named"
        assert speech(port, input="Hello", voice="beep")[0] == 200
        idle = http.client.HTTPConnection("127.0.0.1", port)  # must not hold it up
        idle.connect()
        child.send_signal(signal.SIGTERM)
        assert child.wait(timeout=30) == 0
        idle.close()


@pytest.mark.parametrize(
    "gone",
    [
        "boson_multimodal/audio_processing/tone.py",
        "vllm/origin.py",
        "six.py",
        "vllm/entrypoints/bosonai/voice_presets/beep.wav",
        "vllm-0.8.3.dist-info/METADATA",
    ],
)
def test_an_incomplete_image_does_not_start(site: Path, gone: str) -> None:
    (site / gone).unlink()
    shutil.rmtree(site / "vllm-0.8.3.dist-info") if "dist-info" in gone else None
    with start(site) as child:
        assert child.wait(timeout=10) == 1


# What surrounds it ----------------------------------------------------------------------------


def test_certificates_are_taken_from_the_environment(tmp_path: Path) -> None:
    first, second = tmp_path / "first.pem", tmp_path / "second.pem"
    for path in (first, second):
        path.write_text("x")
    assert demo.environment_ca({}) is None
    assert demo.environment_ca({"SSL_CERT_FILE": "", "PIP_CERT": str(second)}) == second
    assert demo.environment_ca({"SSL_CERT_FILE": str(first), "PIP_CERT": str(second)}) == first
    assert demo.environment_ca({"SSL_CERT_FILE": str(tmp_path / "none")}) is None
    assert demo.environment_ca({"REQUESTS_CA_BUNDLE": str(tmp_path)}) is None


def test_a_python_that_no_debian_has() -> None:
    assert base_image.suite_for("3.11") == "bookworm"
    with pytest.raises(UsageError, match=r"3\.12"):
        base_image.suite_for("3.12")


@pytest.mark.parametrize(
    ("output", "kind", "said"),
    [
        ("I: x\nE: apt-get update failed: E: Failed to fetch http://x", NetworkError, "apt-get"),
        ("Temporary failure resolving 'mirror.example'\nE: run failed", NetworkError, "run failed"),
        ("W: No space left on device\nE: tar failed", DiskFullError, "tar failed"),
        ("E: NO_PUBKEY 648ACFD622F3D138", BuildError, "NO_PUBKEY"),
        ("E: cannot do it", BuildError, "cannot do it"),
        ("", BuildError, "no output"),
    ],
)
def test_what_mmdebstrap_says(output: str, kind: type[HiggsError], said: str) -> None:
    error = base_image.explain(output, "bookworm", "root")
    assert type(error) is kind
    assert said in error.message and error.hint


def test_a_layout_of_a_tar_is_always_the_same(tmp_path: Path) -> None:
    tar = tmp_path / "base.tar"
    tar.write_bytes(bytes(range(256)) * 9000)
    images = [base_image._write_layout(tar, tmp_path / name, "bookworm") for name in ("one", "two")]
    assert images[0] == images[1]
    assert sorted(x.name for x in (tmp_path / "one").iterdir()) == [
        "blobs",
        "index.json",
        "oci-layout",
    ]


def test_a_workspace_of_its_own(tmp_path: Path) -> None:
    made = fake_fork.workspace_in(tmp_path)
    assert made.disk_gb and made.disk_gb < 5
    assert made.build != Workspace.default().build
