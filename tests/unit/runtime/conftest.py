"""Fixtures of the entrypoint's tests: a fake hub and a fake NVML."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from higgs_runtime.image import ImageFacts, PinnedRepo

from higgs_image.workspace import PROJECT
from tests.support.entrypoint import Entrypoint, MakeEntrypoint
from tests.support.hub_server import Hub, Server

IMAGE = ImageFacts(
    tag="20260102-1234567-89abcde",
    generation=PinnedRepo("bosonai/model", "1" * 40),
    audio_tokenizer=PinnedRepo("bosonai/tokenizer", "2" * 40),
    semantic_model=PinnedRepo("bosonai/hubert", None),
)

RTX_4090 = "gpu=NVIDIA GeForce RTX 4090,24564,24000,8,9"
A100_40 = "gpu=NVIDIA A100-SXM4-40GB,40960,40300,8,0"
A100_80 = "gpu=NVIDIA A100-SXM4-80GB,81920,81000,8,0"
H100 = "gpu=NVIDIA H100 80GB HBM3,81559,81000,9,0"
L40S = "gpu=NVIDIA L40S,46068,45500,8,9"
RTX_5090 = "gpu=NVIDIA GeForce RTX 5090,32607,32000,12,0"
B200 = "gpu=NVIDIA B200,183359,183000,10,0"
T4 = "gpu=Tesla T4,15360,15000,7,5"
RTX_4080 = "gpu=NVIDIA GeForce RTX 4080,16376,16000,8,9"
DRIVER = "driver=550.90.07;cuda=12040"


@pytest.fixture(scope="session")
def nvml(gcc: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a fake NVML; FAKE_NVML sets its answers."""
    folder = tmp_path_factory.mktemp("nvml")
    source = PROJECT / "tests/support/nvml.c"
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-o", folder / "libnvidia-ml.so.1", source], check=True
    )
    return folder


@pytest.fixture(scope="session")
def hub_server() -> Server:
    """The fake hub of the whole run: huggingface_hub reads its address when imported."""
    server = Server()
    os.environ["HF_ENDPOINT"] = server.url
    return server


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch, hub_server: Server) -> list[float]:
    """Replace the pauses between attempts; return their lengths."""
    from higgs_runtime import download

    waited: list[float] = []
    monkeypatch.setattr(download, "sleep", waited.append)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)
    return waited


@pytest.fixture
def hub(hub_server: Server, waits: list[float]) -> Iterator[Hub]:
    """The fake hub with the weights of IMAGE, without failures."""
    hub_server.hub.reset()
    model = {
        "config.json": b'{"model": 1}',
        "model-1.safetensors": os.urandom(300_000),
        "model-2.safetensors": os.urandom(200_000),
    }
    hub_server.hub.add("bosonai/model", "1" * 40, model)
    tokenizer = {"config.json": b"{}", "sub/model.pth": os.urandom(150_000)}
    hub_server.hub.add("bosonai/tokenizer", "2" * 40, tokenizer)
    hub_server.hub.add("bosonai/hubert", "3" * 40, {"model.safetensors": os.urandom(120_000)})
    yield hub_server.hub


@pytest.fixture
def image_file(tmp_path: Path) -> Path:
    """The file that the image's build writes, for IMAGE."""
    path = tmp_path / "image.json"
    roles = {
        "generation": IMAGE.generation,
        "audio-tokenizer": IMAGE.audio_tokenizer,
        "semantic-model": IMAGE.semantic_model,
    }
    weights = {role: {"repo": x.repo, "revision": x.revision} for role, x in roles.items() if x}
    facts = {
        "weights": weights,
        "patches": [{"name": "voices"}],
        "lock_sha256": "0" * 64,
        "tag": IMAGE.tag,
    }
    path.write_text(json.dumps(facts))
    return path


@pytest.fixture
def start(image_file: Path) -> Iterator[MakeEntrypoint]:
    """Return a function that starts the entrypoint; all processes are killed afterwards."""
    running: list[Entrypoint] = []

    def make(*arguments: str, **variables: str) -> Entrypoint:
        running.append(Entrypoint(image_file, arguments, variables))
        return running[-1]

    yield make
    for one in running:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(one.process.pid, signal.SIGKILL)
        one.process.wait()
        for process in one.left():
            os.kill(process, signal.SIGKILL)
