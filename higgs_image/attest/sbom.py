"""The SBOM of an image, from what is in its layers, as CycloneDX 1.6 JSON.

Debian's packages come from dpkg's own list, Python's from their metadata, the fork and its
submodule from the image's labels. The same image gives the same bytes: nothing in it says when or
where it was made.
"""

from __future__ import annotations

import datetime
import email.parser
import fnmatch
import hashlib
import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packaging.utils import canonicalize_name

from higgs_image.attest import layer_files
from higgs_image.errors import BuildError
from higgs_image.labels import LABEL, VARIANT
from higgs_image.oci import layout

if TYPE_CHECKING:
    from cyclonedx.model.component import Component

_METADATA = re.compile(r".*/site-packages/[^/]+\.dist-info/METADATA")
_WANTED = ("usr/lib/os-release", "etc/os-release", "var/lib/dpkg/status", "var/lib/dpkg/status.d/*",
           "*/imageio_ffmpeg/binaries/ffmpeg-*")  # fmt: skip
FFMPEG = re.compile(r"ffmpeg-linux-\w+-v(?P<version>[\d.]+)$")


@dataclass(frozen=True)
class Package:
    """One thing in the image.

    Attributes:
        kind: deb, pypi, github or generic: the type of its package URL.
        name: as its packager writes it.
        version: likewise.
        architecture: of a Debian package.
        source: name and version of the Debian source package, where they differ.
        licence: as its metadata has it; often empty.
        sha256: of a single file.
    """

    kind: str
    name: str
    version: str
    architecture: str = ""
    source: str = ""
    licence: str = ""
    sha256: str = ""


def packages(root: Path, image: layout.Image) -> tuple[list[Package], str]:
    """Return everything in an image, and Debian's release as `debian-12`.

    Args:
        root: an OCI layout.
        image: the image in it.

    Raises:
        BuildError: a layer cannot be read, or there is no list of Debian's packages.
    """
    found = layer_files.files(root, image, _wanted)
    release = _os_release(found.get("usr/lib/os-release") or found.get("etc/os-release") or b"")
    everything: list[Package] = []
    for path, data in found.items():
        if path.startswith("var/lib/dpkg/"):
            everything += debian(data.decode(errors="replace"))
        elif path.endswith("/METADATA"):
            everything.append(_python(data))
        elif binary := FFMPEG.search(path):
            everything.append(
                Package(
                    "generic", "ffmpeg", binary["version"], licence="GPL-3.0-or-later",
                    sha256=hashlib.sha256(data).hexdigest(),
                )
            )  # fmt: skip
    if not any(x.kind == "deb" for x in everything):
        raise BuildError(
            f"the image {image.digest} has no list of Debian packages",
            "use a base image that is Debian",
        )
    everything += _from_labels(image.labels)
    return sorted(set(everything), key=lambda x: (x.kind, x.name, x.version)), release


def _wanted(path: str) -> bool:
    return _METADATA.fullmatch(path) is not None or any(
        fnmatch.fnmatchcase(path, pattern) for pattern in _WANTED
    )


def debian(status: str) -> list[Package]:
    """Read dpkg's list; packages that are not installed are left out."""
    found = []
    for stanza in re.split(r"\n\s*\n", status):
        fields = email.parser.Parser().parsestr(stanza.lstrip("\n") + "\n", headersonly=True)
        state = fields.get("Status", "install ok installed")
        if "Package" not in fields or not state.endswith(" installed"):
            continue
        source = re.fullmatch(r"(\S+)(?: \((\S+)\))?", fields.get("Source", "").strip())
        name, version = fields["Package"], fields["Version"]
        origin = f"{source[1]}@{source[2] or version}" if source else ""
        found.append(Package("deb", name, version, fields.get("Architecture", ""), source=origin))
    return found


def _python(metadata: bytes) -> Package:
    fields = email.parser.BytesParser().parsebytes(metadata, headersonly=True)
    licence = fields.get("License-Expression") or ""
    return Package(
        "pypi",
        canonicalize_name(str(fields["Name"])),
        str(fields["Version"]),
        licence=str(licence),
    )


def _from_labels(labels: Mapping[str, str]) -> list[Package]:
    found = []
    for name in ("fork", "submodule"):
        url, _, commit = labels.get(LABEL + name, "").partition(" ")
        repository = re.fullmatch(r"https://github\.com/([\w.-]+/[\w.-]+?)(?:\.git)?", url)
        if commit:
            kind = "github" if repository else "generic"
            found.append(Package(kind, repository[1] if repository else name, commit))
    if kernels := labels.get(LABEL + "kernels"):
        name, _, version = kernels.partition(" ")
        found.append(Package("pypi", canonicalize_name(name), version))
    return found


def _os_release(data: bytes) -> str:
    pairs = (
        line.split("=", 1) for line in data.decode(errors="replace").splitlines() if "=" in line
    )
    values = {key: value.strip('"') for key, value in pairs}
    return f"{values.get('ID', 'debian')}-{values.get('VERSION_ID', 'unknown')}"


def make(root: Path, image: layout.Image, name: str) -> bytes:
    """Return the SBOM of an image as JSON.

    Args:
        root: an OCI layout.
        image: the image in it.
        name: the image's name.
    """
    from cyclonedx.model import HashAlgorithm, HashType, Property
    from cyclonedx.model.bom import Bom, BomMetaData
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.output.json import JsonV1Dot6

    everything, release = packages(root, image)
    version = image.labels.get("org.opencontainers.image.version", image.digest)
    top = Component(
        name=name, version=version, type=ComponentType.CONTAINER, bom_ref=image.digest,
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=image.digest[7:])],
        properties=[
            Property(name=name, value=image.labels[name])
            for name in (LABEL + "lock-sha256", VARIANT, LABEL + "gpus")
            if name in image.labels
        ],
    )  # fmt: skip
    created = image.labels.get("org.opencontainers.image.created", "1970-01-01T00:00:00+00:00")
    bom = Bom(
        serial_number=uuid.uuid5(uuid.NAMESPACE_OID, image.digest),
        metadata=BomMetaData(
            component=top,
            timestamp=datetime.datetime.fromisoformat(created).astimezone(datetime.UTC),
        ),
        components=[_component(x, release) for x in everything],
    )
    bom.register_dependency(top, bom.components)
    text = JsonV1Dot6(bom).output_as_string(indent=1)
    document = json.loads(text)
    document["components"].sort(key=lambda x: str(x["bom-ref"]))
    for entry in document.get("dependencies", []):
        entry.get("dependsOn", []).sort()
    return json.dumps(document, indent=1, ensure_ascii=False).encode() + b"\n"


def _component(package: Package, release: str) -> Component:
    from cyclonedx.contrib.license.factories import LicenseFactory
    from cyclonedx.model import HashAlgorithm, HashType
    from cyclonedx.model.component import Component, ComponentType
    from packageurl import PackageURL

    namespace, _, name = package.name.rpartition("/")
    qualifiers = {}
    if package.kind == "deb":
        namespace = release.partition("-")[0]
        qualifiers = {"arch": package.architecture, "distro": release}
        if package.source:
            qualifiers["upstream"] = package.source
    url = PackageURL(package.kind, namespace or None, name, package.version, qualifiers or None)
    digest = [HashType(alg=HashAlgorithm.SHA_256, content=package.sha256)] if package.sha256 else []
    licences = [LicenseFactory().make_from_string(package.licence)] if package.licence else []
    return Component(
        name=package.name, version=package.version, purl=url, bom_ref=url.to_string(),
        type=ComponentType.APPLICATION if package.kind == "generic" else ComponentType.LIBRARY,
        hashes=digest, licenses=licences,
    )  # fmt: skip


def versions(data: bytes) -> dict[str, str]:
    """Return name (with its kind) to version of everything in an SBOM; several with commas."""
    document: dict[str, Any] = json.loads(data)
    found: dict[str, set[str]] = {}
    for component in document["components"]:
        kind = re.match(r"pkg:(\w+)/", component.get("purl", ""))
        name = f"{kind[1] if kind else 'generic'} {component['name']}"
        found.setdefault(name, set()).add(str(component["version"]))
    return {name: ", ".join(sorted(versions)) for name, versions in found.items()}
