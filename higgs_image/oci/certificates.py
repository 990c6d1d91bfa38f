"""Certificate authorities of registries, where Docker keeps them: one place for every tool.

`/etc/docker/certs.d/HOST[:PORT]/ca.crt` is the only place that the Docker engine reads. skopeo,
cosign and our own requests are pointed to the same folder; where only root can write there,
`~/.config/containers/certs.d` works for all but the engine.
"""

from __future__ import annotations

from pathlib import Path

FOLDERS = (
    Path("~/.config/containers/certs.d"),
    Path("~/.config/docker/certs.d"),  # of a rootless engine
    Path("/etc/containers/certs.d"),
    Path("/etc/docker/certs.d"),
)

HINT = (
    "trust it: put the certificate of its authority into /etc/docker/certs.d/{host}/ca.crt, which "
    "docker, skopeo, cosign and this program read"
)


def folder(host: str) -> Path | None:
    """Return the folder with the certificates for a registry; None if there is none.

    Args:
        host: with its port, as in the name of an image.
    """
    for root in FOLDERS:
        found = root.expanduser() / host
        try:
            if any(found.glob("*.crt")):
                return found
        except OSError:
            continue
    return None


def authority(host: str) -> Path | None:
    """Return the PEM file with the authority of a registry; None for the system's own ones."""
    found = folder(host)
    if found is None:
        return None
    files = sorted(found.glob("*.crt"), key=lambda path: (path.name != "ca.crt", path.name))
    return files[0]
