"""The registry's names, credentials, errors and timeouts, without a registry."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from higgs_image import retry
from higgs_image.errors import (
    DiskFullError,
    HiggsError,
    RegistryAuthError,
    RegistryError,
    RegistryNotFoundError,
    RegistryUnavailableError,
    UsageError,
)
from higgs_image.oci import credentials, reference
from higgs_image.oci import skopeo as oci_skopeo

# --- names


@pytest.mark.parametrize(
    ("host", "name", "joined"),
    [
        ("ghcr.io/your-org", "higgs", "ghcr.io/your-org/higgs"),
        ("ghcr.io/Your-Org", "higgs", "ghcr.io/your-org/higgs"),  # a GitHub account's name
        ("ghcr.io/your-org/", "higgs-audio-vllm", "ghcr.io/your-org/higgs-audio-vllm"),
        ("localhost:5000", "a", "localhost:5000/a"),
        ("localhost", "a", "localhost/a"),
        ("127.0.0.1:5000/deep/er", "a_b.c", "127.0.0.1:5000/deep/er/a_b.c"),
        ("r.example:443", "a", "r.example:443/a"),
    ],
)
def test_registry_and_name_are_joined(host: str, name: str, joined: str) -> None:
    assert reference.repository(host, name) == joined


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("", "a"),
        ("your-org", "a"),  # Docker would take it for a path on Docker Hub
        ("https://ghcr.io/your-org", "a"),
        ("ghcr.io/your-org", "Higgs"),
        ("ghcr.io/your org", "a"),
        ("ghcr.io//x", "a"),
        ("user:secret@ghcr.io/x", "a"),
        ("ghcr.io/x:tag", "a"),
        ("ghcr.io/x", "a:tag"),
        ("ghcr.io/x", ""),
        ("ghcr.io/x", "../y"),
        ("-oProxy.x", "a;b"),
    ],
)
def test_malformed_names_are_usage_errors(host: str, name: str) -> None:
    with pytest.raises(UsageError, match=r"is not a (registry|name)") as caught:
        reference.repository(host, name)
    assert "REGISTRY=" in caught.value.hint


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("localhost:5000/a", True),
        ("localhost", True),
        ("127.0.0.1:5000", True),
        ("127.9.9.9/a", True),
        ("[::1]:5000/a", True),
        ("ghcr.io/a", False),
        ("10.0.0.1:5000", False),
        ("localhost.example/a", False),
        ("127.0.0.1.example", False),
    ],
)
def test_plain_http_is_for_this_machine_only(host: str, loopback: bool) -> None:
    assert reference.is_loopback(host) is loopback
    with credentials.credentials(host) as auth:
        assert auth.flags("dest") == (["--dest-tls-verify=false"] if loopback else [])
        assert auth.flags("") == (["--tls-verify=false"] if loopback else [])


# --- credentials

SECRET = "s3cr3t-Pässword"
NAMES = ("REGISTRY_USER", "REGISTRY_PASSWORD", "GITHUB_TOKEN", "GITHUB_ACTOR")

SKOPEO = """\
#!/usr/bin/env python3
import json, os, sys
seen = {"argv": sys.argv[1:], "env": dict(os.environ), "auth": None}
for flag, value in zip(sys.argv, sys.argv[1:]):
    if flag.endswith("authfile"):
        with open(value) as file:
            seen["auth"] = json.load(file)
with open(os.environ["SEEN"], "a") as file:
    file.write(json.dumps(seen) + "\\n")
print(os.environ.get("ANSWER", ""), end="")
print(os.environ.get("FAILS", ""), file=sys.stderr)
sys.exit(1 if os.environ.get("FAILS") else 0)
"""


@pytest.fixture
def skopeo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waits: list[float]
) -> Callable[[], list[dict[str, Any]]]:
    """Put a program in skopeo's place that writes down how it is called; returns a reader."""
    program = tmp_path / "bin" / "skopeo"
    program.parent.mkdir()
    program.write_text(SKOPEO)
    program.chmod(0o755)
    seen = tmp_path / "seen.jsonl"
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("SEEN", str(seen))
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    return lambda: [json.loads(line) for line in seen.read_text().splitlines()]


def ask(host: str) -> str | None:
    with credentials.credentials(f"{host}/x") as auth:
        return oci_skopeo.digest_of(f"{host}/x:tag", auth)


def auth_of(host: str, user: str, secret: str) -> dict[str, Any]:
    import base64

    token = base64.b64encode(f"{user}:{secret}".encode()).decode()
    return {"auths": {host: {"auth": token}}}


def test_password_reaches_skopeo_in_no_argument_and_no_log(
    skopeo: Callable[[], list[dict[str, Any]]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("REGISTRY_USER", "me")
    monkeypatch.setenv("REGISTRY_PASSWORD", SECRET)
    assert ask("r.example")
    [call] = skopeo()
    assert call["auth"] == auth_of("r.example", "me", SECRET)
    assert call["argv"][:2] == ["inspect", "--raw"]
    assert call["argv"][-1] == "docker://r.example/x:tag"
    token = call["auth"]["auths"]["r.example"]["auth"]
    shown = " ".join(call["argv"]) + caplog.text + "".join(capfd.readouterr())
    for secret in (SECRET, token):
        assert secret not in shown
    added = {k: v for k, v in call["env"].items() if os.environ.get(k) != v}
    assert SECRET not in json.dumps(added)


def open_files() -> list[str]:
    return sorted(path.name for path in Path("/proc/self/fd").iterdir())


def test_no_file_descriptor_and_no_file_is_left(
    skopeo: Callable[[], list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("REGISTRY_USER", "me")
    monkeypatch.setenv("REGISTRY_PASSWORD", SECRET)
    before = open_files()
    ask("r.example")
    assert open_files() == before
    found = [p for p in tmp_path.rglob("*") if p.is_file() and p.name != "seen.jsonl"]
    assert not [p for p in found if SECRET.encode() in p.read_bytes()]


def test_without_variables_docker_s_own_login_is_used(
    skopeo: Callable[[], list[dict[str, Any]]],
) -> None:
    ask("r.example")
    [call] = skopeo()
    assert not [x for x in call["argv"] if "authfile" in x or "creds" in x]


def test_github_token_is_for_ghcr_only(
    skopeo: Callable[[], list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_TOKEN", SECRET)
    monkeypatch.setenv("GITHUB_ACTOR", "actor")
    ask("ghcr.io")
    ask("ghcr.io.example")
    ask("r.example")
    ghcr, lookalike, other = skopeo()
    assert ghcr["auth"] == auth_of("ghcr.io", "actor", SECRET)
    assert lookalike["auth"] is None
    assert other["auth"] is None


def test_own_variables_go_before_githubs(
    skopeo: Callable[[], list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_TOKEN", "other")
    monkeypatch.setenv("REGISTRY_USER", "me")
    monkeypatch.setenv("REGISTRY_PASSWORD", SECRET)
    ask("ghcr.io")
    assert skopeo()[0]["auth"] == auth_of("ghcr.io", "me", SECRET)


def test_password_without_user(
    skopeo: Callable[[], list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGISTRY_PASSWORD", SECRET)
    with pytest.raises(UsageError, match="REGISTRY_USER is not") as caught:
        ask("r.example")
    assert SECRET not in caught.value.message + caught.value.hint


def test_digest_is_computed_from_the_bytes(
    skopeo: Callable[[], list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Line ends and non-ASCII text are part of a manifest like any other byte."""
    import hashlib

    manifest = '{\r\n "annotations": {"a": "ä\u2028"}\r}\n'
    monkeypatch.setenv("ANSWER", manifest)
    assert ask("r.example") == f"sha256:{hashlib.sha256(manifest.encode()).hexdigest()}"


# --- errors, as skopeo 1.18 words them (recorded, unless a registry is named)


def fatal(text: str) -> str:
    escaped = text.replace('"', '\\"')
    return f'time="2026-11-23T05:53:42Z" level=fatal msg="{escaped}"'


NAMED = 'Error parsing image name "docker://r.example/a:t": '
PING = f"{NAMED}pinging container registry r.example: "
MANIFEST = f"{NAMED}reading manifest t in r.example/a: "
COPY = "writing blob: initiating layer upload to /v2/a/blobs/uploads/ in r.example: "

ERRORS: dict[str, tuple[str, type[HiggsError]]] = {
    "401": (MANIFEST + "authentication required", RegistryAuthError),
    "403": (PING + 'StatusCode: 403, ""', RegistryAuthError),
    "denied (ghcr.io)": (
        COPY + "denied: permission_denied: write_package", RegistryAuthError,
    ),
    "unauthorized (ghcr.io)": (
        PING + "unable to retrieve auth token: invalid username/password: unauthorized",
        RegistryAuthError,
    ),
    "insufficient scope (Docker Hub)": (
        COPY + "requested access to the resource is denied", RegistryAuthError,
    ),
    "500": (
        PING + "received unexpected HTTP status: 500 Internal Server Error",
        RegistryUnavailableError,
    ),
    "502": (PING + "received unexpected HTTP status: 502 Bad Gateway", RegistryUnavailableError),
    "503": (
        PING + "received unexpected HTTP status: 503 Service Unavailable", RegistryUnavailableError,
    ),
    "429": (PING + 'StatusCode: 429, ""', RegistryUnavailableError),
    "too many requests (Docker Hub)": (
        MANIFEST + "toomanyrequests: You have reached your pull rate limit.",
        RegistryUnavailableError,
    ),
    "refused": (
        PING + 'Get "http://127.0.0.1:59998/v2/": dial tcp 127.0.0.1:59998: connect: connection '
        "refused", RegistryUnavailableError,
    ),
    "no address": (
        PING + 'Get "https://r.example/v2/": dial tcp: lookup r.example on 192.0.2.53:53: no such '
        "host", RegistryUnavailableError,
    ),
    "reset": (
        PING + 'Get "http://127.0.0.1:5997/v2/": read tcp 127.0.0.1:47796->127.0.0.1:5997: read: '
        "connection reset by peer", RegistryUnavailableError,
    ),
    "HTTP/2 GOAWAY": (
        COPY + "http2: server sent GOAWAY and closed the connection; LastStreamID=1999, "
        "ErrCode=NO_ERROR", RegistryUnavailableError,
    ),
    "HTTP/2 INTERNAL_ERROR": (
        COPY + "stream error: stream ID 7; INTERNAL_ERROR; received from peer",
        RegistryUnavailableError,
    ),
    "upload lost": (COPY + "blob upload unknown to registry", RegistryUnavailableError),
    "anything new": (COPY + "the flux capacitor is empty", RegistryUnavailableError),
    "certificate": (
        PING + 'Get "https://r.example/v2/": tls: failed to verify certificate: x509: certificate '
        "signed by unknown authority", RegistryError,
    ),
    "manifest refused": (
        "writing manifest: uploading manifest t to r.example/a: manifest invalid: no",
        RegistryError,
    ),
    "cut off": (COPY + 'Patch "http://r.example/v2/": EOF', RegistryUnavailableError),
    "no such tag": (MANIFEST + "manifest unknown", RegistryNotFoundError),
    "no such repository": (
        MANIFEST + "name unknown: repository name not known", RegistryNotFoundError
    ),
    "no registry at all": (PING + "StatusCode: 404, nothing here", RegistryError),
    "HTTPS to HTTP": (
        PING + 'Get "https://r.example/v2/": http: server gave HTTP response to HTTPS client',
        RegistryError,
    ),
    "no layout": (
        "initializing source oci:/build/oci-gzip:x: open /build/oci-gzip/index.json: no such file "
        "or directory", RegistryError,
    ),
    "full disk": ("writing blob: no space left on device", DiskFullError),
}  # fmt: skip


@pytest.mark.parametrize("name", ERRORS)
def test_skopeo_output_becomes_an_error(name: str) -> None:
    text, kind = ERRORS[name]
    noise = 'time="2026-11-23T05:53:42Z" level=warning msg="Failed, retrying in 1s ... (1/3)"\n'
    error = oci_skopeo.explain(noise + fatal(text) + "\n", "r.example/a:t")
    assert type(error) is kind, error.message
    assert "level=fatal" not in error.message
    assert "r.example/a:t" in error.message
    assert error.hint
    assert error.transient is (kind is RegistryUnavailableError)


def test_timeout_is_worth_another_try() -> None:
    """process.run says so when it ends a program that did not answer."""
    assert oci_skopeo.explain("timed out after 120 s", "r.example/a:t").transient


def test_no_output_at_all() -> None:
    error = oci_skopeo.explain("", "r.example/a:t")
    assert error.transient, "only what is known to be final is final"
    assert "no output" in error.message


@pytest.mark.parametrize("name", ["no such tag", "no such repository"])
def test_an_absent_manifest_has_no_digest(
    skopeo: Callable[[], list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("FAILS", fatal(ERRORS[name][0]))
    assert ask("r.example") is None
    assert len(skopeo()) == 1


@pytest.mark.parametrize(("name", "calls"), [("503", retry.ATTEMPTS), ("401", 1)])
def test_only_transient_failures_are_tried_again(
    skopeo: Callable[[], list[dict[str, Any]]],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    calls: int,
) -> None:
    monkeypatch.setenv("FAILS", fatal(ERRORS[name][0]))
    with pytest.raises(ERRORS[name][1]):
        ask("r.example")
    assert len(skopeo()) == calls
