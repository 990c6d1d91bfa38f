"""POST /generate in the real image: a long text in one recording, sample by sample."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytestmark = [pytest.mark.fork, pytest.mark.timeout(1200)]

PORT = 8888
TEXT = (
    "The river rose in the night, and by the morning it had reached the lower gardens. "
    "Dr. Weaver measured it at 7.5 metres, which nobody had seen before. "
    "Was it over? It was not: the rain came back at noon, and with it the wind. "
) * 4

SPEAK = """
import glob, json, sys, urllib.request
import numpy as np
from higgs_generate.seams import joined

text, context = json.loads(sys.argv[1])
body = {"text": text, "seed": 5, "response_format": "pcm", "context": context, "long_text": True}
request = urllib.request.Request(
    "http://127.0.0.1:8888/generate", json.dumps(body).encode(),
    {"Content-Type": "application/json"},
)
with urllib.request.urlopen(request) as answer:
    whole, id = answer.read(), answer.headers["X-Job-ID"]
    chunks = int(answer.headers["X-Chunks"])
pieces = [open(path, "rb").read() for path in sorted(glob.glob(f"/tmp/jobs/{id}/*.pcm"))]

def largest_step(pcm):
    return int(np.abs(np.diff(np.frombuffer(pcm, "<i2").astype(np.int32))).max())

print(json.dumps({
    "chunks": chunks,
    "seconds": [len(piece) / 48_000 for piece in pieces],
    "whole_s": len(whole) / 48_000,
    "exact": whole == joined(pieces),
    "step": largest_step(whole),
    "step_inside": max(map(largest_step, pieces)),
}))
"""


def speak(running: Any, context: str) -> dict[str, Any]:
    """Let /generate speak the text; return what it is made of."""
    wanted = json.dumps([TEXT, context])
    said = running.container.output_of("python3", "-c", SPEAK, wanted)
    assert said is not None, running.log()
    found: dict[str, Any] = json.loads(said)
    return found


def test_pieces_of_a_long_text_are_joined_without_a_click(start_server: Any) -> None:
    """Also where each piece is spoken after the one before it."""
    variables = {"HIGGS_GENERATE_PORT": str(PORT), "HIGGS_GENERATE_JOBS_DIR": "/tmp/jobs"}
    with start_server(env=variables) as running:
        assert "(POST /generate, and a page)\n" in running.log()
        for context in ("none", "previous"):
            found = speak(running, context)
            assert found["chunks"] == len(found["seconds"]) > 2
            assert found["exact"], "a sample was changed or lost"
            assert found["step"] <= found["step_inside"], "a seam clicks"
            assert min(found["seconds"]) > 1
            pauses = found["whole_s"] - sum(found["seconds"])
            assert abs(pauses) <= 0.75 * found["chunks"]
