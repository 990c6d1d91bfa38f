"""Logins as docker's configuration keeps them: plain, by helpers, in a store."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest

from higgs_image.errors import RegistryAuthError
from higgs_image.oci import credentials
from higgs_image.oci.credentials import docker_login

HELPER = """\
#!/usr/bin/env python3
import json, sys
server = sys.stdin.read().strip()
known = {known!r}
if sys.argv[1:] != ["get"] or server not in known:
    print({refusal!r})
    sys.exit(1)
print(json.dumps({{"ServerURL": server, "Username": known[server][0], "Secret": known[server][1]}}))
"""


@pytest.fixture(autouse=True)
def configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REGISTRY_USER", "REGISTRY_PASSWORD", "GITHUB_TOKEN", "REGISTRY_AUTH_FILE",
                 "XDG_RUNTIME_DIR"):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    (tmp_path / "bin").mkdir()


def configure(folder: Path, **config: Any) -> None:
    (folder / "config.json").write_text(json.dumps(config))


def helper(
    folder: Path, name: str, known: dict[str, tuple[str, str]],
    refusal: str = "credentials not found in native keychain",
) -> None:  # fmt: skip
    path = folder / "bin" / f"docker-credential-{name}"
    path.write_text(HELPER.format(known=known, refusal=refusal))
    path.chmod(0o755)


def encoded(user: str, secret: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{secret}".encode()).decode()}


def test_credentials_store_of_docker_desktop_is_used(tmp_path: Path) -> None:
    """Docker Desktop and `pass` leave an empty entry, and the login in the store."""
    configure(tmp_path, auths={"r.example": {}}, credsStore="desktop")
    helper(tmp_path, "desktop", {"r.example": ("me", "s3cret")})
    assert docker_login("r.example") == ("me", "s3cret")
    with credentials.credentials("r.example/image") as auth:
        assert auth.login == ("me", "s3cret")
        assert [x for x in auth.flags("dest") if "authfile" in x] and auth.fds


def test_store_keeps_a_url(tmp_path: Path) -> None:
    configure(tmp_path, credsStore="pass")
    helper(tmp_path, "pass", {"https://index.docker.io/v1/": ("me", "s3cret")})
    assert docker_login("docker.io") == ("me", "s3cret")


def test_helper_of_the_registry_comes_before_the_store(tmp_path: Path) -> None:
    configure(tmp_path, credsStore="store", credHelpers={"r.example": "own"})
    helper(tmp_path, "store", {"r.example": ("store", "1")})
    helper(tmp_path, "own", {"r.example": ("own", "2")})
    assert docker_login("r.example") == ("own", "2")


def test_unknown_registry_is_anonymous(tmp_path: Path) -> None:
    configure(tmp_path, credsStore="desktop")
    helper(tmp_path, "desktop", {})
    assert docker_login("r.example") is None


def test_missing_helper_is_named(tmp_path: Path) -> None:
    configure(tmp_path, credsStore="nowhere")
    with pytest.raises(RegistryAuthError, match="docker-credential-nowhere") as caught:
        docker_login("r.example")
    assert "docker login" not in caught.value.hint and "REGISTRY_USER" in caught.value.hint


def test_failing_helper_says_why(tmp_path: Path) -> None:
    configure(tmp_path, credsStore="pass")
    helper(tmp_path, "pass", {}, refusal="gpg: decryption failed: No secret key")
    with pytest.raises(RegistryAuthError, match="No secret key"):
        docker_login("r.example")


def test_plain_entries_by_path_and_host(tmp_path: Path) -> None:
    configure(tmp_path, auths={"r.example": encoded("host", "1"),
                               "r.example/team": encoded("team", "a:b")})  # fmt: skip
    assert docker_login("r.example/team/image") == ("team", "a:b")
    assert docker_login("r.example/other/image") == ("host", "1")


def test_malformed_configuration_is_no_login(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("[]")
    assert docker_login("r.example") is None
    configure(tmp_path, auths={"r.example": {"auth": "?"}})
    assert docker_login("r.example") is None


def test_environment_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configure(tmp_path, credsStore="nowhere")
    monkeypatch.setenv("REGISTRY_USER", "env")
    monkeypatch.setenv("REGISTRY_PASSWORD", "1")
    with credentials.credentials("r.example/image") as auth:
        assert auth.login == ("env", "1")
