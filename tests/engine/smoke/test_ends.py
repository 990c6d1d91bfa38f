"""A server that cannot start ends the test at once, with the reason and the end of its log."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from docker import DockerClient

from higgs_image.oci.container_spec import ContainerSpec
from higgs_image.smoke import device
from higgs_image.smoke.record import Record
from higgs_image.workspace import Workspace
from tests.broken import extended
from tests.engine.conftest import MakeFakeFork
from tests.engine.smoke.conftest import Smoke, evidence, failed
from tests.unit.runtime.conftest import DRIVER, L40S, RTX_4080, RTX_5090, T4, nvml

__all__ = ["nvml"]  # a fixture

pytestmark = pytest.mark.engine

SAYS = "import sys, time; print({!r}, file=sys.stderr, flush=True); time.sleep(600)"
LAST_WORDS = {
    "no driver": (
        "RuntimeError: Found no NVIDIA driver on your system.",
        "there is no GPU or no driver",
        "run with --device cpu",
    ),
    "CUDA too old": (
        "RuntimeError: The NVIDIA driver on your system is too old (found version 11040).",
        "driver is too old",
        "CUDA 12.4",
    ),
    "Blackwell": (
        "UserWarning: \nNVIDIA GeForce RTX 5090 with CUDA capability sm_120 is not compatible with "
        "the current PyTorch installation.",
        "newer than the image's kernels",
        "before Blackwell",
    ),
    "out of memory": (
        "ERROR 11-24 12:00:00 [core.py:390] torch.OutOfMemoryError: CUDA out of memory. Tried to "
        "allocate 2.00 GiB.",
        "does not have enough memory",
        "--gpu-memory-utilization",
    ),
    "weights not found": (
        "OSError: bosonai/x is not a local folder and is not a valid model identifier",
        "weights were not found",
        "check repository",
    ),
    "401": (
        "huggingface_hub.errors.HfHubHTTPError: 401 Client Error: Unauthorized for url: "
        "https://huggingface.co/api/models/xcodec_tps25_0215",
        "refused the login",
        "HF_TOKEN",
    ),
}
"""A line after which no server starts, its meaning, and part of the hint."""
OF_MACHINE = {"no driver", "CUDA too old", "Blackwell"}
"""Those that say nothing about the image."""


@pytest.fixture(scope="module")
def python(image: str, client: DockerClient) -> Iterator[str]:
    """An image that runs the Python in its variable DO instead of a server."""
    do = ["python3", "-c", "import os; exec(os.environ['DO'])"]
    with extended(client, image, {}, "python", {"Entrypoint": do, "Cmd": []}) as made:
        yield made


def told(found: Record, verdict: str = "fail") -> str:
    """The reason for the verdict over the start, after which nothing else could be decided."""
    assert found.verdict == found.checks[0].verdict == verdict
    assert {check.verdict for check in found.checks[1:]} == {"inconclusive"}
    return found.checks[0].reason


@pytest.mark.parametrize("what", LAST_WORDS)
def test_fatal_lines(
    what: str, python: str, smoke: Smoke, workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    line, meaning, hint = LAST_WORDS[what]
    caplog.set_level("INFO")
    found = smoke(python, environment={"DO": SAYS.format(f"first words\n{line}\nlast words")})
    verdict = "inconclusive" if what in OF_MACHINE else "fail"
    assert meaning in told(found, verdict) and hint in told(found, verdict)
    assert found.seconds < 20  # of the 60 it has
    assert "first words" in caplog.text and "last words" in caplog.text
    assert line in (evidence(workspace) / "server.log").read_text()
    assert "last words" in (evidence(workspace) / "report.md").read_text()


@pytest.mark.parametrize(
    ("do", "reason"),
    [
        ("raise ValueError('no such voice')", r"status 1 .*ended by itself.*no such voice"),
        ("import os; os._exit(137)", r"status 137 .*killed, most likely for memory"),
        (
            "import os, traceback as t\ntry: exec('{')\nexcept SyntaxError: t.print_exc()\n"
            "os._exit(137)",
            r"status 137 .*killed after an exception\): SyntaxError: .*see the traceback",
        ),
        ("import os; os.execvp('sh', ['sh', '-c', 'nonsense'])", r"status 127 .*entrypoint"),
    ],
)
def test_exits(do: str, reason: str, python: str, smoke: Smoke) -> None:
    found = smoke(python, environment={"DO": do})
    assert found.seconds < 20
    assert re.search(reason, told(found)), told(found)


@pytest.fixture(scope="module")
def with_gpus(image: str, client: DockerClient, nvml: Path) -> Iterator[str]:
    """The fake fork with a fake of NVIDIA's library, which answers what FAKE_NVML says."""
    library = (nvml / "libnvidia-ml.so.1").read_bytes()
    config = client.images.get(image).attrs["Config"]
    kept = {"Entrypoint": config["Entrypoint"], "Cmd": config["Cmd"] or []}
    with extended(client, image, {"gpus/libnvidia-ml.so.1": library}, "gpus", kept) as made:
        yield made


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        (
            "",
            r"status 10 before it was healthy: the NVIDIA driver shows no GPU to .*",
        ),
        (
            f"driver=470.1;cuda=11040;{L40S}",
            r"status 11 .*driver 470.1 supports CUDA up to 11.4, .*",
        ),
        (f"{DRIVER};{RTX_5090}", r"status 12 .*RTX 5090 \(sm_120\) is not supported: .*Blackwell"),
        (f"{DRIVER};{T4}", r"status 1[23] .*T4.*"),
        (f"{DRIVER};{RTX_4080}", r"status 13 .*has 16.0 GiB of memory, the model needs .*"),
    ],
)
def test_the_entrypoint_refuses(answers: str, reason: str, with_gpus: str, smoke: Smoke) -> None:
    more = {"HIGGS_DEVICE": "gpu", "LD_LIBRARY_PATH": "/gpus", "FAKE_NVML": answers}
    found = smoke(with_gpus, environment=more)
    assert re.search(reason, told(found, "inconclusive")), found.checks[0].reason
    assert found.seconds < 15


def with_options(monkeypatch: pytest.MonkeyPatch, **more: object) -> None:
    """Let containers be started with more options of the engine."""
    before = ContainerSpec.settings
    monkeypatch.setattr(ContainerSpec, "settings", lambda self: before(self) | more)


def test_killed_for_memory(python: str, smoke: Smoke, monkeypatch: pytest.MonkeyPatch) -> None:
    with_options(monkeypatch, mem_limit="64m", memswap_limit="64m")
    found = smoke(python, environment={"DO": "print('I eat'); x = [bytes([1]) * 2**30]"})
    assert "status 137" in told(found) and "give it more memory" in told(found)
    assert found.container["out_of_memory"] is True


def test_restarts(python: str, smoke: Smoke, monkeypatch: pytest.MonkeyPatch) -> None:
    with_options(monkeypatch, restart_policy={"Name": "always"})
    found = smoke(python, environment={"DO": "raise SystemExit(3)"})
    assert "the container restarted before it was healthy" in told(found)
    assert int(found.container["restarts"]) > 0


def test_a_silent_server(python: str, smoke: Smoke) -> None:
    found = smoke(python, environment={"DO": "import time; time.sleep(600)"}, timeout=3.0)
    assert "not healthy within 3 s" in told(found) and "--timeout" in told(found)


@pytest.mark.parametrize("entrypoint", [["/nothing/here"], []])
def test_nothing_to_start(
    entrypoint: list[str], image: str, client: DockerClient, smoke: Smoke
) -> None:
    with extended(client, image, {}, "empty", {"Entrypoint": entrypoint, "Cmd": []}) as empty:
        assert "entrypoint is missing or cannot be run" in told(smoke(empty))


def test_an_image_that_is_not_a_server(
    image: str, smoke: Smoke, make_fake_fork: MakeFakeFork, monkeypatch: pytest.MonkeyPatch,
    workspace: Workspace,
) -> None:  # fmt: skip
    """Weights are made in the image itself, by what its server needs."""
    workspace.lock_file.write_bytes(make_fake_fork("other").lock_file.read_bytes())
    monkeypatch.setattr(device, "is_fake_fork", lambda _: False)
    assert re.search(r"cannot make weights in .*No module named 'torch'", told(smoke(image)))


HEALTHY_ONCE = """
import http.server, os
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.flush()
        os._exit(3)
http.server.HTTPServer(("", 8000), Handler).serve_forever()
"""


def test_healthy_for_a_moment(python: str, smoke: Smoke) -> None:
    found = smoke(python, environment={"DO": HEALTHY_ONCE})
    assert (found.verdict, failed(found)) == ("fail", {"health"})
    assert {check.reason for check in found.checks[2:]} == {
        "the server ended with status 3 in health"
    }


NOISE = """
import json, os, sys
for number in range(100_000):
    sys.stdout.buffer.write(b"%d \\xff\\x1b[2J " % number + 500 * b"x" + b"\\n")
sys.stdout.buffer.write(4_000_000 * b"y")
sys.stdout.flush()
command = json.loads(os.environ["THEN"])
os.execvp(command[0], command)
"""


def test_a_noisy_log(
    python: str, image: str, smoke: Smoke, client: DockerClient, workspace: Workspace
) -> None:
    """50 MB that are not UTF-8 and one line of 4 MB do no harm."""
    entrypoint = client.images.get(image).attrs["Config"]["Entrypoint"]
    found = smoke(python, environment={"DO": NOISE, "THEN": json.dumps(entrypoint)})
    assert found.passed, found.reason
    log = (evidence(workspace) / "server.log").read_bytes()
    assert b"\x1b[2J xxx" in log[:100] and len(log) > 54_000_000
