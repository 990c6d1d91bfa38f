"""The newest digest of the base image's tag."""

from __future__ import annotations

from higgs_image.errors import UpdateError
from higgs_image.lockfile import Lock
from higgs_image.oci import credentials, skopeo
from higgs_image.updates.report import Proposal, changed


def propose(lock: Lock) -> Proposal:
    """Return the digest that the base image's tag names now.

    Raises:
        UpdateError: there is no such image.
        HiggsError: the registry refused or did not answer.
    """
    image = lock.base.image
    first = image.split("/")[0]
    if not (set(".:") & set(first) and "/" in image) and first != "localhost":
        image = f"docker.io/{image if '/' in image else f'library/{image}'}"
    with credentials.credentials(image) as auth:
        digest = skopeo.digest_of(image, auth)
    if digest is None:
        raise UpdateError(f"{image} was not found", "correct base.image in versions.lock")
    changes = changed({"base.digest": (lock.base.digest, digest)})
    return Proposal("base", changes, hold=lock.base.hold)
