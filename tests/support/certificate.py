"""A certificate for servers of the tests."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path

from tests.support import debian


def make(folder: Path, *names: str) -> tuple[ssl.SSLContext, Path]:
    """Make a self-signed certificate; openssl is installed if it is missing.

    Args:
        folder: that gets it.
        names: `DNS:name` or `IP:address`.

    Returns:
        The server's TLS settings, and the certificate that a client has to trust.
    """
    debian.require_program("openssl")
    key, certificate = folder / "key.pem", folder / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1",
         "-subj", "/CN=tests", "-addext", f"subjectAltName={','.join(names)}",
         "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context, certificate
