"""Login by SSH where the platform passes public keys in PUBLIC_KEY, as RunPod does.

A session has the container's variables, which sshd would withhold: they are in a file that only the
user who logs in can read, because some are secrets.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from higgs_runtime import log

SSHD = "/usr/sbin/sshd"

OF_THE_SESSION = frozenset(
    {
        "HOME", "LOGNAME", "MAIL", "OLDPWD", "PATH", "PUBLIC_KEY",
        "PWD", "SHELL", "SHLVL", "TERM", "USER", "_",
    }
)  # fmt: skip
"""Variables that sshd or the shell sets, and the keys themselves."""


def start(keys: str, port: int = 22, home: Path | None = None) -> None:
    """Start sshd for the owners of these keys only, without passwords.

    Host keys are created now, for this container. The server does not depend on SSH, so a failure
    is only a warning.

    Args:
        keys: public keys, one on each line.
        port: where it listens.
        home: home folder of the user who may log in; by default the current user's.
    """
    problem = _start(keys, port, home or Path.home())
    if problem:
        log.warning(f"sshd was not started: {problem}")
    else:
        log.info(f"sshd: port {port}, login with the key of PUBLIC_KEY only")


def _start(keys: str, port: int, home: Path) -> str:
    """Start sshd; return why that failed, or an empty text."""
    if not Path(SSHD).exists():
        return "it is not installed"
    if os.geteuid() != 0:
        return "this container does not run as root"
    lines = [line.strip() for line in keys.splitlines() if line.strip()]
    if any(len(line.split()) < 2 for line in lines):
        return "PUBLIC_KEY is not a list of public keys, such as: ssh-ed25519 AAAA... you@home"
    try:
        authorized = home / ".ssh" / "authorized_keys"
        authorized.parent.mkdir(mode=0o700, exist_ok=True)
        known = authorized.read_bytes().splitlines() if authorized.exists() else []
        with authorized.open("ab") as file:
            file.writelines(b"%s\n" % x for x in map(os.fsencode, lines) if x not in known)
        authorized.chmod(0o600)
        _write_environment(home / ".ssh" / "environment", os.environ)
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="sshd-"))
        for kind in ("ed25519", "ecdsa"):
            _run("ssh-keygen", "-q", "-t", kind, "-N", "", "-f", str(folder / kind))
        options = {
            "Port": str(port),
            "PasswordAuthentication": "no",
            "KbdInteractiveAuthentication": "no",
            "PermitRootLogin": "prohibit-password",
            "PermitUserEnvironment": "yes",
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


def _write_environment(path: Path, environment: Mapping[str, str]) -> None:
    """Write the variables of a session; sshd reads NAME=VALUE lines, without quoting."""
    lines = [
        f"{name}={value}\n"
        for name, value in environment.items()
        if name not in OF_THE_SESSION and not {"\n", "\r"} & set(value)
    ]
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.writelines(map(os.fsencode, lines))


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)
