"""The real image: sizes, contents, and its server's code inside it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from higgs_image.build import layers, pipeline
from higgs_image.host.local_registry import LocalRegistry
from higgs_image.workspace import PROJECT

pytestmark = [pytest.mark.fork, pytest.mark.timeout(2400)]

LAYERS = PROJECT / "docker" / "layers.toml"
SITE = "/opt/venv/lib/python3.11/site-packages"

IMPORTS = """
import json, sys
import vllm, vllm._C, vllm._moe_C, vllm.vllm_flash_attn
import vllm.entrypoints.bosonai.api_server
import vllm.model_executor.models.higgs_audio, vllm.v1.worker.gpu_model_runner
import vllm.v1.attention.backends.flash_attn, vllm.v1.executor.multiproc_executor
import boson_multimodal.audio_processing.higgs_audio_tokenizer
import torch, torchaudio, triton, librosa, transformers, soundfile
print(json.dumps({"vllm": vllm.__file__, "torch": torch.__version__, "cuda": torch.version.cuda,
                  "transformers": transformers.__version__}))
"""

WITH_DRIVER_STUB = f"""
nm -D --undefined-only {SITE}/vllm/*.so {SITE}/vllm/vllm_flash_attn/*.so \\
    {SITE}/torch/lib/libcaffe2_nvrtc.so |
    sed -n 's/.* U \\(cu[A-Z]\\w*\\)$/int \\1(void) {{ return 999; }}/p' |
    sort -u > /tmp/cuda.c
gcc -shared -fPIC -Wl,-soname,libcuda.so.1 /tmp/cuda.c -o /tmp/libcuda.so.1
LD_LIBRARY_PATH=/tmp exec python3 -
"""

STUBS = f"""
import ctypes, sys
import torch  # its libraries bind every symbol at once: LD_BIND_NOW
for pair in sys.argv[1:]:
    library, function = pair.split(":")
    print(function, getattr(ctypes.CDLL("{SITE}/" + library), function)(), flush=True)
"""
CALLS = {
    "nvidia/cufft/lib/libcufft.so.11": "cufftPlan1d",
    "nvidia/curand/lib/libcurand.so.10": "curandCreateGenerator",
    "nvidia/cusolver/lib/libcusolver.so.11": "cusolverDnCreate",
    "nvidia/cusparse/lib/libcusparse.so.12": "cusparseCreate",
    "cusparselt/lib/libcusparseLt.so.0": "cusparseLtInit",
}

EVERY_LIBRARY = f"""
import ctypes, os, pathlib, subprocess, sys
import torch
count = 0
for path in sorted(pathlib.Path("{SITE}").rglob("*.so*")):
    if path.is_symlink() or path.open("rb").read(4) != b"\\x7fELF":
        continue
    count += 1
    process = os.fork()
    if process == 0:
        try:
            ctypes.CDLL(str(path))
        except OSError as error:
            print("fails", path.name, error, flush=True)
        os._exit(0)
    if status := os.waitpid(process, 0)[1]:
        print("fails", path.name, "status", status, flush=True)
    subprocess.run(["readelf", "--all", path], check=True, stdout=subprocess.DEVNULL)
print("libraries", count)
"""

LAUNCHER = """
#include <Python.h>
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "probe", NULL, -1, NULL};
PyMODINIT_FUNC PyInit_probe(void) { return PyModule_Create(&module); }
"""


def run(report: pipeline.BuildReport, *command: str, stdin: str | None = None) -> str:
    assert report.pushed is not None
    done = subprocess.run(
        ["docker", "run", "--rm", "-i", "--network", "none", "--entrypoint", command[0],
         report.pushed.by_digest, *command[1:]],
        input=stdin, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module", autouse=True)
def pulled(report: pipeline.BuildReport, registry: LocalRegistry) -> None:
    """What runs here is what a stranger pulls: the pushed digest."""
    assert report.pushed is not None
    subprocess.run(["docker", "pull", "--quiet", report.pushed.by_digest], check=True)


def test_digest_and_sizes(report: pipeline.BuildReport) -> None:
    assert report.pushed is not None and report.pushed.digest == report.digest
    budget = layers.load(LAYERS).budget
    assert report.unpacked_mb is not None and 0.9 * budget.unpacked_mb < report.unpacked_mb
    assert 0.9 * budget.zstd_mb < report.compressed_mb <= budget.zstd_mb, "the budget is tight"


def test_server_is_imported_inside(report: pipeline.BuildReport) -> None:
    """With its kernels, which are linked against the driver's library: a GPU host mounts it."""
    found = json.loads(run(report, "sh", "-c", WITH_DRIVER_STUB, stdin=IMPORTS).splitlines()[-1])
    assert found["vllm"] == f"{SITE}/vllm/__init__.py"
    assert found["torch"].startswith("2.6.0") and found["cuda"] == "12.4"
    assert found["transformers"].startswith("4.")


def test_every_library_loads(report: pipeline.BuildReport) -> None:
    """But those that need another one that is loaded first, or that no wheel brings."""
    *failed, count = run(report, "sh", "-c", WITH_DRIVER_STUB, stdin=EVERY_LIBRARY).splitlines()
    assert int(count.removeprefix("libraries ")) > 200
    assert [x for x in failed if "cannot open shared object file" not in x] == []


def test_a_call_of_a_stub_names_the_function(report: pipeline.BuildReport) -> None:
    """PyTorch loads with the stubs, all symbols bound; calls are errors, and say where."""
    stubs = [pattern for layer in layers.load(LAYERS).layer for pattern in layer.stub]
    paths = [Path(SITE, name) for name in CALLS]
    assert [[path.match(x) for x in stubs].count(True) for path in paths] == [1] * len(stubs)
    calls = [f"{library}:{function}" for library, function in CALLS.items()]
    said = run(
        report, "sh", "-c", 'LD_BIND_NOW=1 exec python3 - "$@" 2>&1', "sh", *calls, stdin=STUBS
    )
    for library, function in CALLS.items():
        name = library.rpartition("/")[2]
        assert f"error: {function} of {name} was called, which is a stub" in said
        assert f"{function} 7\n" in said


def test_server_answers_help(report: pipeline.BuildReport) -> None:
    text = run(report, "python3", "-m", "vllm.entrypoints.bosonai.api_server", "--help")
    assert "--audio-tokenizer-type" in text


FLAGS = """
from vllm.utils import FlexibleArgumentParser
from vllm.entrypoints.bosonai.api_server import make_arg_parser
for action in make_arg_parser(FlexibleArgumentParser())._actions:
    for name in action.option_strings:
        if name.startswith("--") and name != "--help":
            print("flag", name)
"""


def test_the_entrypoint_knows_the_flags_of_the_server(report: pipeline.BuildReport) -> None:
    """It refuses unknown ones at once. After a change: write the difference into that file."""
    printed = run(report, "python3", "-", stdin=FLAGS).splitlines()
    found = sorted(line.split()[1] for line in printed if line.startswith("flag "))
    listed = PROJECT / "docker" / "runtime" / "higgs_runtime" / "server_flags.txt"
    assert found == listed.read_text().split()


def test_the_image_starts_by_its_entrypoint(report: pipeline.BuildReport) -> None:
    assert report.pushed is not None
    command = ["docker", "run", "--rm", "--network", "none", report.pushed.by_digest]
    shown = subprocess.run([*command, "--help"], capture_output=True, text=True)
    assert shown.returncode == 0 and "HIGGS_API_KEY" in shown.stdout
    refused = subprocess.run(command, capture_output=True, text=True)
    assert refused.returncode == 10 and "sees no NVIDIA GPU" in refused.stderr


def test_every_module_in_the_image_has_bytecode(report: pipeline.BuildReport) -> None:
    """The server's own modules and the packages': nothing is compiled when it starts."""
    script = (
        "import importlib.util as u, pathlib, sys\n"
        "names = 'vllm.entrypoints.bosonai.api_server torch.nn librosa higgs_runtime'\n"
        "for name in names.split():\n"
        "    spec = u.find_spec(name)\n"
        "    data = pathlib.Path(spec.cached).read_bytes()\n"
        "    source = pathlib.Path(spec.origin).read_bytes()\n"
        "    assert data[4:16] == bytes([3, 0, 0, 0]) + u.source_hash(source), name\n"
        "print('valid')"
    )
    assert run(report, "python3", "-c", script).splitlines()[-1] == "valid"


def test_the_compiler_that_triton_needs_is_in_the_image(report: pipeline.BuildReport) -> None:
    """It compiles its launcher with the C compiler and Python's headers, and calls ptxas."""
    build = (
        "cat > /tmp/probe.c && gcc -shared -fPIC -O3 $(python3 -c 'import sysconfig; "
        'print("-I" + sysconfig.get_path("include"))\') -o /tmp/probe.so /tmp/probe.c '
        "&& cd /tmp && python3 -c 'import probe; print(probe.__name__)'"
    )
    assert run(report, "sh", "-c", build, stdin=LAUNCHER).strip() == "probe"
    ptxas = run(report, f"{SITE}/triton/backends/nvidia/bin/ptxas", "--version")
    assert "release 12" in ptxas
    assert "/sbin/ldconfig" in run(report, "sh", "-c", "ls /sbin/ldconfig")


def test_every_sound_format_can_be_written(report: pipeline.BuildReport) -> None:
    for encoder in ("libmp3lame", "libopus", "aac", "flac"):
        command = f"-v error -f lavfi -i sine=d=0.2 -c:a {encoder} -f matroska -".split()
        done = run(report, "sh", "-c", "ffmpeg " + " ".join(command) + " | wc -c")
        assert int(done) > 500, encoder


def test_the_fork_replaces_files_of_the_wheel(report: pipeline.BuildReport, workspace) -> None:  # type: ignore[no-untyped-def]
    patched = workspace.build / "patched" / "vllm/v1/worker/gpu_model_runner.py"
    own = workspace.source / "fork" / "vllm/entrypoints/bosonai/serving_chat.py"
    for file, root in ((patched, workspace.build / "patched"), (own, workspace.source / "fork")):
        assert run(report, "cat", f"{SITE}/{file.relative_to(root)}") == file.read_text()
    package = "boson_multimodal/audio_processing/higgs_audio_tokenizer.py"
    assert run(report, "cat", f"{SITE}/{package}").strip()
    voices = run(report, "ls", f"{SITE}/vllm/entrypoints/bosonai/voice_presets").split()
    assert "belinda.wav" in voices and "config.json" in voices
