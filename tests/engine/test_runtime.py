"""The image of the fake fork, started by its entrypoint: states, signals, processes, SSH."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from higgs_image.build import image as build_image
from higgs_image.build.overrides import Overrides
from higgs_image.workspace import PROJECT
from tests.engine.conftest import ForkMaker
from tests.engine.container import Container, MakeContainer, docker
from tests.support import debian

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def image(
    tmp_path_factory: pytest.TempPathFactory, base: str, overrides: Overrides, fork_maker: ForkMaker
) -> Iterator[str]:
    """The image of the fake fork, with a server that can be slow and can crash."""
    folder = tmp_path_factory.mktemp("runtime")
    server = (PROJECT / "fakes/upstream/fork" / SERVER).read_text()
    changed = server.replace("    def _json(", SLOW + "\n    def _json(", 1).replace(
        "self.server.speak(text, voice)", "self._slowly(text, voice)", 1
    )
    assert changed.count("_slowly") == 2
    workspace = fork_maker.make(folder, base, changes={SERVER: changed})
    built = build_image.build(workspace, overrides=overrides)
    reference = build_image.load(workspace, built, overrides, "runtime-test")
    yield reference
    docker("image", "rm", "--force", reference)


SERVER = "vllm/entrypoints/bosonai/api_server.py"

STOP_SERVER = """
import glob, os, signal
for path in glob.glob("/proc/[0-9]*/cmdline"):
    if b"vllm.entrypoints.bosonai.api_server" in open(path, "rb").read().split(bytes(1)):
        os.kill(int(path.split("/")[2]), signal.SIGSTOP)
"""

SLOW = '''
    def _slowly(self, text: str, voice: str) -> bytes:
        """Speak; `wait 2` takes 2 s, and `die` kills the server as a dead engine does."""
        if text.startswith("wait "):
            time.sleep(float(text.split()[1]))
        if text == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        return self.server.speak(text, voice)
'''


@pytest.fixture
def start(image: str) -> Iterator[MakeContainer]:
    made: list[Container] = []

    def make(*arguments: str, options: tuple[str, ...] = ()) -> Container:
        made.append(Container(image, *arguments, options=options))
        return made[-1]

    yield make
    for container in made:
        docker("rm", "--force", "--volumes", container.name)


def test_serves_and_exits_with_0(start: MakeContainer) -> None:
    container = start()
    container.ready()
    assert container.speak("Hello")[0] == 200
    answers: list[int] = []
    slow = threading.Thread(target=lambda: answers.append(container.speak("wait 3")[0]))
    slow.start()
    time.sleep(0.5)
    stopping = threading.Thread(target=lambda: docker("stop", "--time", "30", container.name))
    stopping.start()
    container.wait(lambda: container.ask("/ping")[0] == 503)
    assert container.speak("Hello")[0] == 503
    stopping.join()
    slow.join()
    assert answers == [200], container.log
    assert container.status() == 0
    assert "all requests have finished" in container.log


@pytest.mark.parametrize("options", [(), ("--init",)])
def test_crashed_server_ends_the_container(start: MakeContainer, options: tuple[str, ...]) -> None:
    container = start(options=options)
    container.ready()
    with contextlib.suppress(OSError, http.client.HTTPException):
        container.speak("die")
    assert container.status() == 137
    assert "the server was killed by signal 9" in container.log


def test_orphans_are_reaped(start: MakeContainer) -> None:
    container = start()
    container.ready()
    container.run("sh", "-c", "for i in 1 2 3 4 5; do (sleep 0.1 & ) ; done; sleep 1")
    states = container.run("sh", "-c", "cat /proc/[0-9]*/stat | awk '{print $2, $3}'")
    assert "(tini)" in states and " Z" not in states, states
    assert container.run("cat", "/proc/1/comm") == "tini"


def test_health_check(start: MakeContainer) -> None:
    container = start(
        "--port", "8000",
        options=("--health-interval=1s", "--health-start-period=0s", "--health-timeout=3s"),
    )  # fmt: skip
    container.wait(lambda: container.state("Health.Status") == "healthy")
    assert container.run("cat", "/tmp/higgs-image-ping") == "http://127.0.0.1:8000/ping"
    other = start(options=("--env=PORT=9000", "--health-interval=1s"))
    other.wait(lambda: other.state("Health.Status") == "healthy")
    container.run("python3", "-c", STOP_SERVER)
    container.wait(lambda: container.state("Health.Status") == "unhealthy")


def test_flags_variables_and_other_programs(image: str, start: MakeContainer) -> None:
    container = start("--served-model-name", "flag", options=("--env=HIGGS_SERVED_MODEL_NAME=env",))
    container.ready()
    assert json.loads(container.ask("/v1/models")[1])["data"][0]["id"] == "flag"
    listed = docker("run", "--rm", image, "--help")
    assert "HIGGS_MAX_MODEL_LEN" in listed
    assert len(listed.splitlines()) <= 48 and max(map(len, listed.splitlines())) <= 80
    assert docker("run", "--rm", image, "bash", "-c", "echo $((6 * 7))") == "42"
    refused = subprocess.run(["docker", "run", "--rm", image, "--max-model-lne", "1"],
                             capture_output=True, text=True)  # fmt: skip
    assert refused.returncode == 2 and "write --max-model-len" in refused.stderr
    gone = subprocess.run(["docker", "run", "--rm", image], capture_output=True, text=True)
    assert gone.returncode == 10 and "sees no NVIDIA GPU" in gone.stderr


def test_as_another_user_and_read_only(start: MakeContainer) -> None:
    container = start(options=("--user=65534:65534", "--read-only", "--tmpfs=/tmp:exec",
                               "--env=HF_HOME=/tmp/hf", "--cap-drop=ALL"))  # fmt: skip
    container.ready()
    assert container.speak("Hello")[0] == 200


def test_driver_libraries_of_a_device_plugin_are_found(image: str, tmp_path: Path) -> None:
    """GKE mounts them at /usr/local/nvidia, without the container toolkit's hook."""
    source = PROJECT / "tests/support/nvml.c"
    target = "/usr/local/nvidia/lib64"
    docker(
        "run", "--rm", f"--volume={source}:/nvml.c:ro", f"--volume={tmp_path}:{target}", image,
        "gcc", "-shared", "-fPIC", "-o", f"{target}/libnvidia-ml.so.1", "/nvml.c",
    )  # fmt: skip
    fake = "--env=FAKE_NVML=driver=570.1;cuda=12080;gpu=NVIDIA GeForce RTX 5090,32607,32000,12,0"
    done = subprocess.run(
        ["docker", "run", "--rm", fake, f"--volume={tmp_path}:{target}:ro", image],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 12 and "RTX 5090 (sm_120)" in done.stderr, done.stderr


def test_noexec_temporary_folder_is_refused(image: str) -> None:
    """Docker mounts --tmpfs with noexec: compiled GPU kernels could not be loaded from it."""
    options = ["docker", "run", "--rm", "--read-only"]
    for tmpfs, code, text in (
        ("/tmp", 2, "start a read-only container with --tmpfs /tmp:exec"),
        ("/tmp:exec", 10, "sees no NVIDIA GPU"),
    ):
        done = subprocess.run([*options, f"--tmpfs={tmpfs}", image], capture_output=True, text=True)
        assert done.returncode == code and text in done.stderr, done.stderr


def test_hooks(start: MakeContainer, tmp_path: Path) -> None:
    (tmp_path / "pre_start.sh").write_text("echo hook before")
    (tmp_path / "post_start.sh").write_text("echo hook after")
    container = start(options=(f"--volume={tmp_path}/pre_start.sh:/pre_start.sh:ro",
                               f"--volume={tmp_path}/post_start.sh:/post_start.sh:ro"))  # fmt: skip
    container.wait(lambda: "hook after" in container.log)
    assert container.log.index("hook before") < container.log.index("listening on")


# --- SSH


@pytest.fixture
def key(tmp_path: Path) -> Path:
    debian.require_program("ssh-keygen", "openssh-client")
    path = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    return path


def ssh(container: Container, key: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["ssh", "-F", "none", "-i", key, "-p", str(container.port(22)), "-o", "BatchMode=yes",
         "-o", "IdentitiesOnly=yes", "-o", "StrictHostKeyChecking=no",
         "-o", f"UserKnownHostsFile={key}.hosts", "root@127.0.0.1", *command],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def test_ssh_accepts_only_the_key(start: MakeContainer, key: Path, tmp_path: Path) -> None:
    public = Path(f"{key}.pub").read_text()
    secret = "a 'secret' of \"mine\" #1"
    container = start(options=(f"--env=PUBLIC_KEY={public}", "--env=HF_TOKEN=hf_x",
                               f"--env=HIGGS_NOTE={secret}"))  # fmt: skip
    container.ready()
    assert "sshd: port 22" in container.log and public.split()[1] not in container.log
    done = ssh(container, key, "which python3; id -u")
    assert done.stdout.split() == ["/opt/venv/bin/python3", "0"], done.stderr
    variables = ssh(container, key, "env").stdout.splitlines()
    assert f"HIGGS_NOTE={secret}" in variables and "HF_TOKEN=hf_x" in variables
    assert [line for line in variables if line.startswith("HF_HOME=")]
    other_user = ["setpriv", "--reuid=65534", "--clear-groups", "cat", "/root/.ssh/environment"]
    assert "Permission denied" in docker("exec", container.name, *other_user, check=False)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "other"],
                   check=True)  # fmt: skip
    assert "Permission denied (publickey)" in ssh(container, tmp_path / "other", "id").stderr
    assert container.ask("/ping")[0] == 200

    other = start(options=(f"--env=PUBLIC_KEY={public}",))
    other.ready()
    hosts = [docker("exec", x.name, "sh", "-c", "cat /tmp/sshd-*/ed25519.pub").split()[1]
             for x in (container, other)]  # fmt: skip
    assert hosts[0] != hosts[1], "each container has its own host keys"


def test_no_sshd_without_a_key(start: MakeContainer) -> None:
    container = start()
    container.ready()
    with socket.create_connection(("127.0.0.1", container.port(22)), 10) as client:
        client.settimeout(10)
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(100) == b""
    assert container.run("sh", "-c", "ls /etc/ssh").find("host") < 0


def test_invalid_key_is_reported(start: MakeContainer) -> None:
    container = start(options=("--env=PUBLIC_KEY=nonsense",))
    container.ready()
    assert "sshd was not started: PUBLIC_KEY is not a list of public keys" in container.log
