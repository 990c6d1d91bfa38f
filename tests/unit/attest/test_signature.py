"""With what an image is signed, and whose signature is believed."""

from __future__ import annotations

from pathlib import Path

import pytest

from higgs_image.attest import signature
from higgs_image.errors import RegistryAuthError, RegistryUnavailableError, SigningError, UsageError


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
    ("said", "kind"),
    [
        ("Error: no matching signatures: invalid signature", SigningError),
        ("Error: no signatures found", SigningError),
        ("Error: GET https://x/v2/: UNAUTHORIZED: authentication required", RegistryAuthError),
        ("Error: Get https://x/v2/: dial tcp: connection refused", RegistryUnavailableError),
        ("Error: reading key: open cosign.key: decrypt failed", SigningError),
    ],
)
def test_what_cosign_says(said: str, kind: type[Exception]) -> None:
    error = signature.explain(said, "verify", "ghcr.io/acme/image@sha256:1")
    assert type(error) is kind and error.hint
