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
