"""Release notes and manifest: what is in a release, what changed, and how to get it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from higgs_image.build.layers import PlainBuild
from higgs_image.labels import LABEL, VARIANT
from higgs_image.oci.layout import MB, Image, ImageLayer
from higgs_image.release.evidence import figures
from higgs_image.release.policy import Known
from higgs_image.release.records import Promote, Push
from higgs_image.release.speed import last_bench
from higgs_image.smoke.record import Record
from higgs_image.versions import changes

NOTES, MANIFEST = "release-notes.md", "release.json"

TEMPLATE = Path(__file__).with_name("notes.md.j2")
"""Beside this module and not below templates/, which is part of the lock's hash: how the notes
read must not change an image's tag."""


@dataclass(frozen=True)
class Release:
    """One image, as the notes describe it.

    Attributes:
        digest: of the image.
        push: the record of its push.
        image: layers and labels; None if the registry no longer has it.
        lock: the decoded versions.lock that it was built from.
        versions: name to version of everything in it.
    """

    digest: str
    push: Push | None
    image: Image | None = None
    lock: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def variant(self) -> str:
        """Which of the fork's images it is; empty for the default one."""
        return self.image.labels.get(VARIANT, "") if self.image else ""

    @property
    def layers(self) -> tuple[ImageLayer, ...]:
        """From the base upwards."""
        return self.image.layers if self.image else ()

    @property
    def patches(self) -> list[str]:
        """Name and hash of each."""
        return self.image.labels.get(LABEL + "patches", "").split() if self.image else []

    @property
    def size(self) -> int:
        """Compressed size of all layers in bytes."""
        return sum(layer.size for layer in self.layers)


def pins(release: Release) -> dict[str, str]:
    """Return the pins that an image was built from by name, each as text."""
    lock = release.lock
    if not lock:
        return {}
    own = next((x for x in lock.get("variant", []) if x["name"] == release.variant), None)
    packages = own or lock["python"]
    found = {
        "fork": f"{lock['fork']['url']} at {lock['fork']['commit'][:12]}",
        "submodule": f"{lock['submodule']['url']} at {lock['submodule']['commit'][:12]}",
        "vllm": f"{lock['vllm']['ref']}, {lock['wheel']['filename']}",
        "base": f"{lock['base']['image']} {lock['base']['digest'][:19]}",
        "python": f"{lock['python']['version']}, packages {packages['requirements_sha256'][:12]}",
    }
    if own:
        found["kernels"] = own["kernels"]["filename"]
    for entry in lock["weights"]:
        at = f"at {entry['revision'][:12]}" if "revision" in entry else "(not pinned)"
        found[f"weights, {entry['role']}"] = f"{entry['repo']} {at}"
    return found


def document(
    repository: str,
    record: Promote,
    known: Known,
    new: Release,
    old: Release | None,
    plain: PlainBuild | None = None,
) -> dict[str, Any]:
    """Return the manifest of a release: everything that the notes say, for programs."""
    now, before = pins(new), pins(old) if old else {}
    old_layers = {layer.digest for layer in old.layers} if old else set()
    smokes = [
        {
            "device": f"{x.device.kind} ({x.device.name})",
            "verdict": x.verdict,
            "seconds": round(x.seconds, 1),
            "figures": figures(x),
        }
        for x in known.smokes
    ]
    return {
        "schema": 1,
        "repository": repository,
        "moving": record.moving,
        "tag": record.immutable,
        "digest": new.digest,
        "lock_sha256": record.lock_sha256,
        "commit": new.push.commit if new.push else None,
        "project": new.push.url if new.push else None,
        "variant": new.variant,
        "pins": now,
        "pins_changed": {
            name: {"from": before.get(name), "to": value}
            for name, value in now.items()
            if before and before.get(name) != value
        },
        "overrides": known.labels.get(LABEL + "overrides", "").split(),
        "gpus": known.labels.get(LABEL + "gpus", "").split(),
        "patches": new.patches,
        "patches_gone": [x for x in old.patches if x not in new.patches] if old else [],
        "size": new.size,
        "size_plain": round(plain.megabytes(new.push.compression) * MB)
        if plain and new.push
        else None,
        "layers": [
            {"name": x.name, "size": x.size, "new": x.digest not in old_layers} for x in new.layers
        ],
        "download": sum(x.size for x in new.layers if x.digest not in old_layers),
        "packages": len(new.versions),
        "smoke": smokes,
        "performance": performance(known.smokes),
        "forced": list(record.forced),
        "reason": record.reason,
        "rehearsal": record.rehearsal,
        "previous": {
            "digest": old.digest,
            "tag": old.push.tag if old.push else "",
            "size": old.size,
            "package_changes": changes(old.versions, new.versions)
            if old.versions and new.versions
            else None,
        }
        if old
        else None,
    }


def performance(smokes: Sequence[Record]) -> list[dict[str, Any]]:
    """Return the benchmark of each card that the image was tested on, the last one of each."""
    found: dict[str, dict[str, Any]] = {}
    for record in smokes:
        if bench := last_bench([record]):
            card, measured = bench
            found[card] = {"card": card, "driver": record.device.driver, **measured}
    return list(found.values())


def render(manifest: Mapping[str, Any]) -> str:
    """Return the release notes as Markdown."""
    import jinja2

    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 (Markdown, not HTML)
    )
    environment.filters["megabytes"] = lambda size: f"{size / 1e6:.1f} MB"
    environment.filters["by_check"] = _by_check
    return environment.from_string(TEMPLATE.read_text()).render(manifest)


def _by_check(figures: Mapping[str, float]) -> dict[str, str]:
    """Join the figures of each check to one line."""
    found: dict[str, list[str]] = {}
    for name, value in figures.items():
        check, _, figure = name.partition(".")
        found.setdefault(check, []).append(f"{figure} {value:g}")
    return {check: ", ".join(values) for check, values in found.items()}


def encode(manifest: Mapping[str, Any]) -> bytes:
    """Return the manifest as JSON."""
    return json.dumps(manifest, indent=2, ensure_ascii=False).encode() + b"\n"
