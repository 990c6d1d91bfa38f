"""What platforms for rented GPUs expect of a container: hooks, SSH, and a warning or two.

The names are RunPod's: /pre_start.sh and /post_start.sh, PUBLIC_KEY, RUNPOD_POD_ID. Vast.ai tells
its address by PUBLIC_IPADDR and VAST_TCP_PORT_8000.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from higgs_runtime import log
from higgs_runtime.errors import BadSetting, HookFailed
from higgs_runtime.settings import Settings

PRE_START, POST_START = Path("/pre_start.sh"), Path("/post_start.sh")
SSHD = "/usr/sbin/sshd"


def ping_file() -> Path:
    """Return where the image's HEALTHCHECK finds the address to ask: any user can write there."""
    return Path(tempfile.gettempdir(), "higgs-image-ping")


def require_temporary_folder() -> None:
    """Refuse a container without one: the server's processes meet there.

    Raises:
        BadSetting: nothing can be written in /tmp.
    """
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        raise BadSetting(
            "nothing can be written in /tmp", "start a read-only container with --tmpfs /tmp"
        ) from None


def pre_start(hook: Path = PRE_START) -> None:
    """Run the hook before anything is loaded, if there is one.

    Raises:
        HookFailed: it ended with an error.
    """
    if not hook.is_file():
        return
    log.info(f"running {hook}")
    code = subprocess.run(["bash", str(hook)]).returncode
    if code != 0:
        raise HookFailed(f"{hook} ended with {code}", "see its lines above, and correct it")


def post_start(hook: Path = POST_START) -> None:
    """Run the hook once the server is ready, if there is one. It may go on for as long as it likes.

    What it does is no reason to end a server that works.
    """
    if not hook.is_file():
        return
    log.info(f"running {hook}")

    def run() -> None:
        code = subprocess.run(["bash", str(hook)]).returncode
        if code != 0:
            log.warning(f"{hook} ended with {code}")

    threading.Thread(target=run, daemon=True).start()


def start_sshd(keys: str, port: int = 22, home: Path | None = None) -> None:
    """Let the owners of public keys log in, and nobody else: no passwords.

    Host keys are made now, in a folder of their own. A server without SSH is still a server, so
    what goes wrong here is a warning.

    Args:
        keys: public keys, one on each line.
        port: where it listens.
        home: of the user who may log in; the current one's by default.
    """
    problem = _sshd(keys, port, home or Path.home())
    if problem:
        log.warning(f"sshd was not started: {problem}")
    else:
        log.info(f"sshd: port {port}, login with the key of PUBLIC_KEY only")


def _sshd(keys: str, port: int, home: Path) -> str:
    if not Path(SSHD).exists():
        return "it is not installed"
    if os.geteuid() != 0:
        return "this container does not run as root"
    lines = [line.strip() for line in keys.splitlines() if line.strip()]
    if any(len(line.split()) < 2 for line in lines):
        return "PUBLIC_KEY is no list of public keys, such as: ssh-ed25519 AAAA... you@home"
    try:
        authorized = home / ".ssh" / "authorized_keys"
        authorized.parent.mkdir(mode=0o700, exist_ok=True)
        known = authorized.read_bytes().splitlines() if authorized.exists() else []
        with authorized.open("ab") as file:
            file.writelines(b"%s\n" % x for x in map(os.fsencode, lines) if x not in known)
        authorized.chmod(0o600)
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="sshd-"))
        for kind in ("ed25519", "ecdsa"):
            _run("ssh-keygen", "-q", "-t", kind, "-N", "", "-f", str(folder / kind))
        options = {
            "Port": str(port),
            "PasswordAuthentication": "no",
            "KbdInteractiveAuthentication": "no",
            "PermitRootLogin": "prohibit-password",
            "UsePAM": "no",
            "PidFile": "none",
            "PrintMotd": "no",
            "SetEnv": f'PATH="{os.environ.get("PATH", os.defpath)}"',
            "Subsystem": "sftp internal-sftp",
        }
        config = folder / "config"
        config.write_text(
            "".join(f"{name} {value}\n" for name, value in options.items())
            + "".join(f"HostKey {folder / kind}\n" for kind in ("ed25519", "ecdsa"))
        )
        _run(SSHD, "-f", str(config))
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
    except subprocess.CalledProcessError as error:
        return str(error.stderr or error).strip()
    return ""


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


def write_ping_address(settings: Settings) -> None:
    """Leave for the image's HEALTHCHECK what to ask."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104
    own_port = settings.health_port != settings.port
    scheme = "https" if "--ssl-certfile" in settings.given and not own_port else "http"
    host = f"[{host}]" if ":" in host else host
    with suppress(OSError):  # the default is asked then
        ping_file().write_text(f"{scheme}://{host}:{settings.health_port}/ping\n")


def address(settings: Settings, environment: Mapping[str, str]) -> str:
    """Return the URL under which the server is reached, as far as that is known."""
    pod = environment.get("RUNPOD_POD_ID")
    if pod:
        return f"https://{pod}-{settings.port}.proxy.runpod.net"
    vast = environment.get(f"VAST_TCP_PORT_{settings.port}")
    if vast and "PUBLIC_IPADDR" in environment:
        return f"http://{environment['PUBLIC_IPADDR']}:{vast}"
    return f"http://localhost:{settings.port}"


def warn_if_open(settings: Settings, environment: Mapping[str, str]) -> None:
    """Say that anybody can use the server, where that is so."""
    if settings.api_key or environment.get("VLLM_API_KEY") or settings.host in ("127.0.0.1", "::1"):
        return
    public = "RUNPOD_POD_ID" in environment or "VAST_CONTAINERLABEL" in environment
    who = "anybody on the internet" if public else "whoever reaches this port"
    log.warning(
        f"no API key: {who} can use {address(settings, environment)}; set HIGGS_API_KEY to a "
        "secret of your own"
    )


def curl(settings: Settings, environment: Mapping[str, str]) -> str:
    """Return a command that makes the server speak."""
    secret = settings.api_key or environment.get("VLLM_API_KEY")
    key = " -H 'Authorization: Bearer YOUR_API_KEY'" if secret else ""
    return (
        f"curl {address(settings, environment)}/v1/audio/speech{key} "
        "-H 'Content-Type: application/json' -o hello.wav "
        f'-d \'{{"model": "{settings.served_model_name[0]}", "voice": "en_woman", '
        '"input": "Hello there.", "response_format": "wav"}\''
    )


def check_shared_memory(path: str = "/dev/shm") -> None:  # noqa: S108
    """Say that several GPUs will not get far with the 64 MB that Docker gives by default."""
    try:
        total = shutil.disk_usage(path).total
    except OSError:
        return
    if total < 1 << 30:
        log.warning(
            f"{path} has {total / 1e6:.0f} MB, several GPUs need 1 GB: start the container with "
            "--ipc host or --shm-size 1g"
        )
