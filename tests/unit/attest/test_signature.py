"""With what an image is signed, and whose signature is believed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from higgs_image import retry
from higgs_image.attest import signature
from higgs_image.errors import (
    RegistryAuthError,
    RegistryError,
    RegistryUnavailableError,
    SigningError,
    UsageError,
)
from higgs_image.oci import certificates

DIGEST = "sha256:" + "a" * 64


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COSIGN_KEY", "ACTIONS_ID_TOKEN_REQUEST_URL"):
        monkeypatch.delenv(name, raising=False)


def test_a_key_a_workflow_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert signature.signer() is None
    monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_URL", "https://git.invalid/token")
    keyless = signature.signer()
    assert keyless == signature.Signer(None) and keyless.flags == ["--yes"]
    key = tmp_path / "cosign.key"
    monkeypatch.setenv("COSIGN_KEY", str(key))
    with pytest.raises(UsageError, match=r"cosign\.key: no such file"):
        signature.signer()
    key.write_text("x")
    found = signature.signer()
    assert found is not None and found.flags == [
        "--yes", "--key", str(key), "--tlog-upload=false",
    ]  # fmt: skip


def test_a_workflow_is_believed_by_issuer_and_name_with_the_public_log() -> None:
    flags = signature.Trust(identity="^https://github.com/acme/.*$").flags
    assert flags == [
        "--certificate-identity-regexp", "^https://github.com/acme/.*$",
        "--certificate-oidc-issuer", signature.ISSUER,
    ]  # fmt: skip
    assert not any("tlog" in flag for flag in flags)


@pytest.mark.parametrize(
    ("output", "kind"),
    [
        ("Error: no matching signatures: invalid signature", SigningError),
        ("Error: no signatures found", SigningError),
        ("Error: GET https://x/v2/: UNAUTHORIZED: authentication required", RegistryAuthError),
        ("Error: Get https://x/v2/: dial tcp: connection refused", RegistryUnavailableError),
        ("Error: Get https://x/v2/: http2: server sent GOAWAY", RegistryUnavailableError),
        ("Error: getting signer: Get https://x/v2/: tls: x509: unknown authority", RegistryError),
        ("Error: something that nobody has seen", RegistryUnavailableError),
        ("Error: reading key: open cosign.key: decrypt failed", SigningError),
    ],
)
def test_cosign_output_becomes_an_error(output: str, kind: type[Exception]) -> None:
    error = signature.explain(output, "verify", "ghcr.io/acme/image@sha256:1")
    assert type(error) is kind and error.hint


COSIGN = """\
#!/usr/bin/env python3
import json, os, sys
folder = os.path.dirname(__file__)
with open(os.path.join(folder, "calls"), "a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
if len(open(os.path.join(folder, "calls")).readlines()) <= int(os.environ["FAILURES"]):
    sys.exit("Error: stream error: stream ID 7; INTERNAL_ERROR; received from peer")
"""


@pytest.fixture
def cosign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[list[str]]]:
    """Put a program in cosign's place; returns a reader of its calls."""
    program = tmp_path / "bin" / "cosign"
    program.parent.mkdir()
    program.write_text(COSIGN)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv("FAILURES", "0")
    monkeypatch.setattr(retry, "WAIT", 0.01)
    lines = program.parent / "calls"
    return lambda: [json.loads(line) for line in lines.read_text().splitlines()]


def test_cosign_is_tried_again_after_a_fault_of_the_wire(
    cosign: Callable[[], list[list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAILURES", "2")
    signature.verify("r.example/image", DIGEST, signature.Trust(Path("cosign.pub")))
    assert [call[0] for call in cosign()] == ["verify"] * 3


def test_cosign_trusts_the_same_authority_as_docker(
    cosign: Callable[[], list[list[str]]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(certificates, "FOLDERS", (tmp_path / "certs.d",))
    authority = tmp_path / "certs.d" / "r.example:5000" / "ca.crt"
    authority.parent.mkdir(parents=True)
    authority.write_text("x")
    signature.sign("r.example:5000/image", DIGEST, signature.Signer(None), {"cyclonedx": b"{}"})
    signature.sign("other.example/image", DIGEST, signature.Signer(None), {})
    sign, attest, other = cosign()
    for call in (sign, attest):
        assert call[call.index("--registry-cacert") + 1] == str(authority)
    assert "--registry-cacert" not in other
    assert "/proc/self/fd/" in attest[attest.index("--predicate") + 1]


def test_cosign_accepts_any_certificate_on_loopback(
    cosign: Callable[[], list[list[str]]],
) -> None:
    signature.verify("127.0.0.1:5000/image", DIGEST, signature.Trust(Path("cosign.pub")))
    assert {"--allow-http-registry", "--allow-insecure-registry"} <= set(cosign()[0])
