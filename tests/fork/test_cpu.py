"""The CPU device inside the real image: its attention and its weights."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from docker import DockerClient

from higgs_image import lockfile
from higgs_image.build import pipeline
from higgs_image.oci.daemon import docker_client
from higgs_image.smoke import cpu_device
from higgs_image.workspace import Workspace

pytestmark = [pytest.mark.fork, pytest.mark.timeout(1200)]

ATTENTION = """
import types, torch, higgs_cpu
higgs_cpu.prepare()
from higgs_cpu.attention import CpuAttention, CpuAttentionBackend
from higgs_cpu.worker import RewindableGenerator

torch.manual_seed(1)
H, KV, D, BLOCK, BLOCKS = 4, 2, 16, 16, 32
cache = torch.zeros(CpuAttentionBackend.get_kv_cache_shape(BLOCKS, BLOCK, KV, D))
impl = CpuAttention(H, D, D**-0.5, KV)
lengths = [37, 5]
q, k, v = ([torch.randn(n, heads, D) for n in lengths] for heads in (H, KV, KV))
order = torch.randperm(BLOCKS)[:6].tolist()  # blocks of a request need not lie side by side
table = torch.tensor([order[:3], [order[3], 0, 0]], dtype=torch.int32)

def wanted(r):
    out = torch.empty_like(q[r])
    for place in range(lengths[r]):
        for head in range(H):
            keys, values = (x[r][: place + 1, head // (H // KV)] for x in (k, v))
            weights = torch.softmax(keys @ q[r][place, head] * D**-0.5, 0)
            out[place, head] = weights @ values
    return out

def step(parts):
    \"\"\"One step of the engine: for each request the tokens [first, last).\"\"\"
    def rows(x):
        return torch.cat([x[r][a:b] for r, (a, b) in enumerate(parts)]).flatten(1)
    slots = torch.cat([table[r][torch.arange(a, b) // BLOCK].long() * BLOCK
                       + torch.arange(a, b) % BLOCK for r, (a, b) in enumerate(parts)])
    starts = torch.tensor([0, *torch.tensor([b - a for a, b in parts]).cumsum(0).tolist()])
    meta = types.SimpleNamespace(
        num_actual_tokens=len(slots), slot_mapping=slots, block_table=table,
        query_start_loc=starts, seq_lens=torch.tensor([b for _, b in parts]))
    out = torch.full((len(slots), H * D), float("nan"))
    impl.forward(None, rows(q), rows(k), rows(v), cache, meta, out)
    return [part.view(-1, H, D) for part in out.split([b - a for a, b in parts])]

# The first prompt comes in two chunks; the second one's beginning is in the cache by then.
first = step([(0, 20), (0, 4)])
second = step([(20, 37), (4, 5)])
for r in range(2):
    torch.testing.assert_close(torch.cat([first[r], second[r]]), wanted(r), rtol=1e-4, atol=1e-5)
assert impl.forward(None, None, None, None, cache, None, torch.ones(3, 4)).sum() == 0

generator = RewindableGenerator(torch.Generator().manual_seed(7))
generator.mark()
sampled = torch.rand(4, generator=generator)
generator.set_offset(generator.get_offset() - 4)
assert torch.equal(sampled, torch.rand(4, generator=generator))
print("right")
"""


MISSING = """
import threading, torch, higgs_cpu
higgs_cpu.prepare()
one = torch.eye(4)

def refused(call):
    try:
        call()
    except RuntimeError as error:
        return str(error)

def look():
    assert "aten::_fft_r2c needs cuFFT" in refused(lambda: torch.fft.rfft(one))
    assert "cuFFT" in refused(lambda: torch.stft(one[0], 4, return_complex=True))
    for function in (torch.linalg.svd, torch.linalg.inv, torch.linalg.cholesky, torch.linalg.eigh):
        assert "cuSOLVER" in refused(lambda: function(one)), function
    for sparse in (one.to_sparse(), one.to_sparse_csr()):
        assert "cuSPARSE" in refused(lambda: sparse @ one)
    assert torch.linalg.norm(one) == 2 and torch.equal(one @ one, one)
    print("right")

thread = threading.Thread(target=look)
thread.start()
thread.join()
"""


@pytest.fixture(scope="module")
def image(report: pipeline.BuildReport) -> str:
    assert report.engine
    return report.engine


def run(client: DockerClient, image: str, workspace: Workspace, script: str) -> str:
    """Run a script with the device's package in a container of the image."""
    output = client.containers.run(
        image, ["-c", script], entrypoint="python3", environment={"PYTHONPATH": cpu_device.DEVICE},
        volumes={str(cpu_device.package(workspace)): {"bind": cpu_device.DEVICE, "mode": "ro"}},
        network_mode="none", remove=True,
    )  # fmt: skip
    return str(output.decode())


def test_attention_over_the_paged_cache(image: str, workspace: Workspace) -> None:
    """Prompts in chunks, cached beginnings and scattered blocks give what plain attention gives."""
    with docker_client() as client:
        assert run(client, image, workspace, ATTENTION).splitlines()[-1] == "right"


def test_operators_of_absent_libraries_fail(image: str, workspace: Workspace) -> None:
    """In every thread, so that a request that needs one fails here as it would on a GPU."""
    with docker_client() as client:
        assert run(client, image, workspace, MISSING).splitlines()[-1] == "right"


def test_the_image_does_not_contain_the_device(image: str) -> None:
    with docker_client() as client:
        look = "import importlib.util as util; print(util.find_spec('higgs_cpu'))"
        said = client.containers.run(
            image, ["-c", look], entrypoint="python3", network_mode="none", remove=True
        )
    assert said.decode().split()[-1] == "None"


def hashes(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_weights_are_small_and_the_same_each_time(
    image: str, workspace: Workspace, tmp_path: Path
) -> None:
    locked = lockfile.load(workspace.lock_file)
    with docker_client() as client:
        made = cpu_device.weights(client, workspace, image, locked)
        revisions = [f"{x.repo}={x.revision}" for x in locked.weights if x.revision]
        cpu_device.make_weights(client, workspace, image, tmp_path, revisions)
    assert hashes(made) == hashes(tmp_path)
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) < 60e6
    names = {path.name for path in tmp_path.iterdir()}
    assert {f"models--{x.repo.replace('/', '--')}" for x in locked.weights} <= names
