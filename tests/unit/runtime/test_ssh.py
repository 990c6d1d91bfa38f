"""Public keys and sshd, as far as it can be tested without a container."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from higgs_runtime import ssh


@pytest.mark.parametrize(
    ("keys", "sshd", "problem"),
    [
        ("ssh-ed25519 AAAA me", "/no/such/sshd", "it is not installed"),
        ("nonsense", sys.executable, "PUBLIC_KEY is not a list of public keys"),
    ],
)
def test_failure_is_a_warning(
    keys: str,
    sshd: str,
    problem: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(ssh, "SSHD", sshd)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    ssh.start(keys, home=tmp_path)
    assert f"sshd was not started: {problem}" in capsys.readouterr().out
    assert not (tmp_path / ".ssh").exists()


def test_keys_are_written_unchanged_and_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys of any length, with line ends from Windows, and comments in any encoding."""
    commands: list[str] = []
    monkeypatch.setattr(ssh, "SSHD", sys.executable)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr(ssh, "_run", lambda *command: commands.append(command[0]))
    long = "ssh-rsa " + 60_000 * "A" + " long"
    foreign = os.fsdecode(b"ssh-ed25519 AAAA M\xfcller")
    for keys in (f"{long}\r\n{foreign}\r\n\r\n", long):
        ssh.start(keys, home=tmp_path)
    written = (tmp_path / ".ssh/authorized_keys").read_bytes()
    assert written == f"{long}\n".encode() + b"ssh-ed25519 AAAA M\xfcller\n"
    assert sys.executable in commands


def test_session_environment_is_complete_and_private(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh, "SSHD", sys.executable)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    configs: list[str] = []

    def run(*command: str) -> None:
        if command[0] == sys.executable:
            configs.append(Path(command[2]).read_text())

    monkeypatch.setattr(ssh, "_run", run)
    path = tmp_path / ".ssh/environment"
    path.parent.mkdir()
    path.write_text("OLD=1\n")
    path.chmod(0o644)
    for name, value in {
        "HIGGS_API_KEY": "a b'c\"d#$e",
        "HF_TOKEN": "hf_x",
        "PUBLIC_KEY": "ssh-ed25519 AAAA me",
        "TWO_LINES": "a\nEVIL=1",
        "BYTES": os.fsdecode(b"\xff"),
    }.items():
        monkeypatch.setenv(name, value)
    ssh.start("ssh-ed25519 AAAA me", home=tmp_path)
    lines = path.read_bytes().splitlines()
    assert b"HIGGS_API_KEY=a b'c\"d#$e" in lines and b"HF_TOKEN=hf_x" in lines
    assert b"BYTES=\xff" in lines
    for unwanted in (b"OLD", b"PUBLIC_KEY", b"TWO_LINES", b"EVIL", b"HOME", b"PATH"):
        assert not [line for line in lines if line.startswith(unwanted + b"=")], unwanted
    assert path.stat().st_mode & 0o777 == 0o600
    assert "PermitUserEnvironment yes\n" in configs[0]
