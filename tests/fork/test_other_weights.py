"""The real server on other weights: from directories, with a stranger's code, that never end."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from higgs_image import lockfile
from higgs_image.workspace import Workspace
from tests.fork.test_speech import TEXT, Answer, speak
from tests.fork.test_start import SERVER
from tests.support.fuzz import Server

pytestmark = [pytest.mark.fork, pytest.mark.timeout(1800)]

# A semantic model as a stranger could publish it: with code of its own.
CODE = """
import sys
print("code from the hub was run", file=sys.stderr)
from transformers import HubertModel as Model
"""


def snapshot(cache: Path, repo: str) -> Path:
    [folder] = (cache / f"models--{repo.replace('/', '--')}" / "snapshots").iterdir()
    return folder


@pytest.fixture(scope="module")
def server(
    start_server: Any, weights: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    """The server with directories for all that belongs to the audio tokenizer.

    Its model does not know when to stop: its weights are left random.
    """
    pins = {x.role: x for x in lockfile.load(Workspace.default().lock_file).weights}
    cache = tmp_path_factory.mktemp("cache") / "hub"
    shutil.copytree(weights, cache)
    for folder in (cache, cache.parent):
        folder.chmod(0o755)
    semantic = snapshot(cache, pins["semantic-model"].repo)
    config = json.loads((semantic / "config.json").read_text())
    config["auto_map"] = {"AutoModel": "code.Model"}
    (semantic / "config.json").write_text(json.dumps(config))
    (semantic / "code.py").write_text(CODE)
    tokenizer = snapshot(cache, pins["audio-tokenizer"].repo)
    model = snapshot(cache, pins["generation"].repo)
    flags = ["--model", f"/cache/{model.relative_to(cache)}", "--max-model-len", "4096"]
    flags += ["--audio-tokenizer-type", "nobody/nothing"]  # the path is to win
    flags += ["--audio-tokenizer-path", f"/cache/{tokenizer.relative_to(cache)}"]
    flags += ["--semantic-model-path", f"/cache/{semantic.relative_to(cache)}"]
    with start_server(
        [*SERVER, *flags],
        env={"HF_HUB_CACHE": "/cache", "HIGGS_CPU_ENDLESS": "1"},
        mounts={str(cache): "/cache"},
    ) as started:
        yield started


@pytest.fixture
def request_body(server: Any) -> dict[str, Any]:
    model = Server(server.url).model()
    return {"model": model, "voice": "belinda", "input": TEXT, "response_format": "pcm"}


@pytest.mark.needs(tokenizer_lookup=True, audio_tokenizer=True)
def test_directories_hold_in_both_processes(server: Any, request_body: dict[str, Any]) -> None:
    """The engine's process reads dimensions, the server's one speaks and hears; no code is run."""
    assert speak(server, request_body, max_tokens=20)
    said = server.log()
    assert "code from the hub was run" not in said
    assert "Using the semantic model in /cache/" in said


@pytest.mark.needs(speech=True)
def test_speech_without_an_end_is_bounded_by_its_text(
    server: Any, request_body: dict[str, Any]
) -> None:
    """At most at 2.5 times the time that the text takes, and 4 s for pauses (speech_length.py)."""
    for text in ("Hi.", TEXT):
        with Answer(server, request_body | {"input": text}) as answer:
            most = 48_000 * (2.5 * len(text) / 13 + 4 + 1)
            assert len(answer.response.read(int(most) + 1)) <= most


def test_speech_without_an_end_harms_nobody(server: Any, request_body: dict[str, Any]) -> None:
    """A random text head may draw any token after a random end: the engine goes on."""
    threads = [
        threading.Thread(
            target=speak,
            args=(server, request_body | {"input": "Hi.", "max_tokens": 400}),
            kwargs={"temperature": 2.0, "top_p": 1.0, "top_k": -1, "seed": seed},
        )
        for seed in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Server(server.url).ask("GET", "/health")[0] == 200
    assert len(speak(server, request_body, max_tokens=12)) == 4 * 2 * 960
