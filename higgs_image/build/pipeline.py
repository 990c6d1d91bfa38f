"""The main job: lock, source, render, build, push, load. One request in, one report out."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from higgs_image import lockfile
from higgs_image.build import budget, image, layers
from higgs_image.build.overrides import Overrides
from higgs_image.build.patches import model
from higgs_image.errors import UsageError
from higgs_image.oci import reference as oci_reference
from higgs_image.oci import skopeo
from higgs_image.oci.layout import MB, BuiltImage
from higgs_image.oci.skopeo import Pushed
from higgs_image.workspace import Workspace


@dataclass(frozen=True)
class BuildRequest:
    """What `./inv build` was asked for.

    Attributes:
        registry: host and path to push to; None: do not push.
        load: make the image runnable in the engine.
    """

    workspace: Workspace
    name: str
    compression: str = "gzip"
    registry: str | None = None
    overrides: Overrides = field(default_factory=Overrides)
    load: bool = True
    no_cache: bool = False


@dataclass(frozen=True)
class BuildPlan:
    """What a build would do.

    Attributes:
        tag: the immutable tag.
        reference: where it would be pushed; None if it would not.
        base: the base image.
        overridden: it would be marked and could not be released.
        steps: in order, each with the reason why it runs or is skipped.
    """

    tag: str
    reference: str | None
    base: str
    overridden: bool
    steps: list[str]

    def text(self) -> str:
        """Return the plan as text."""
        return "\n".join(["would do:", *(f"  {step}" for step in self.steps)])


@dataclass(frozen=True)
class BuildReport:
    """What a build did.

    Attributes:
        digest: of the image manifest, the same in the layout, the engine and the registry.
        tag: the immutable tag.
        layout: the OCI layout.
        compressed_mb: size of all layers in MB (10^6 bytes).
        unpacked_mb: size of the unpacked layers; None if the image was not loaded.
        plain_mb: compressed size of a plainly built image; None if it is not known.
        layers: name and compressed size of each layer in MB, from the base upwards.
        engine: the name by which the engine runs it.
        pushed: what the registry holds.
        skipped: nothing had changed since the last build.
        overridden: differs from what the lock says; never released.
        seconds: how long each stage took.
    """

    digest: str
    tag: str
    layout: Path
    compression: str
    compressed_mb: float
    unpacked_mb: float | None
    plain_mb: float | None
    layers: list[tuple[str, float]]
    engine: str | None
    pushed: Pushed | None
    skipped: bool
    overridden: bool
    seconds: dict[str, float]

    def text(self) -> str:
        """Return the report as text."""
        rows = [f"  {name:<10} {size:>8.1f} MB" for name, size in self.layers]
        unpacked = f", {self.unpacked_mb:.0f} MB unpacked" if self.unpacked_mb else ""
        lines = [
            *rows,
            f"  {'image':<10} {self.compressed_mb:>8.1f} MB {self.compression}{unpacked}",
        ]
        if self.plain_mb:
            lines.append(
                f"  {'plain':<10} {self.plain_mb:>8.1f} MB {self.compression}, built plainly "
                f"({self.compressed_mb / self.plain_mb - 1:+.0%})"
            )
        lines += [
            f"tag     {self.tag}"
            + ("  (overridden: cannot be released)" if self.overridden else ""),
            f"layout  {self.layout}",
        ]
        if self.engine:
            lines.append(f"engine  {self.engine}")
        if self.pushed:
            lines.append(f"pushed  {self.pushed.by_digest}")
        lines.append(f"digest  {self.digest}")
        return "\n".join(lines)


def _target(request: BuildRequest) -> str | None:
    if request.registry is None:
        return None
    if not request.registry:
        raise UsageError(
            "no registry is set",
            "REGISTRY=ghcr.io/your-org ./inv build --push, or --registry, or invoke.yaml",
        )
    return oci_reference.repository(request.registry, request.name)


def plan(request: BuildRequest) -> BuildPlan:
    """Return what `run` would do. Writes nothing and needs no network."""
    workspace, target = request.workspace, _target(request)
    locked = lockfile.load(workspace.lock_file)
    lockfile.require_consistent(locked, workspace.root)
    locked = locked.for_variant(workspace.variant)
    model.load_locked(locked, request.overrides.without)
    tag = image.tag_of(locked, request.compression, request.overrides)
    request.overrides.gpus_of(layers.load(workspace.layers_file, workspace.variant))
    base = request.overrides.base_image or locked.base.reference
    sources = "is verified" if (workspace.source / "fork").exists() else "is fetched"
    last = workspace.read_state(f"build-{workspace.product(request.compression)}")
    current = last.get("tag") == tag and not request.no_cache
    steps = [
        f"source  {locked.fork.url} at {locked.fork.commit[:7]} {sources}",
        f"render  {workspace.context} from versions.lock {locked.sha256[:7]}",
        f"build   {tag} on {base}"
        + (" (the last build has this tag: skipped if nothing changed)" if current else ""),
    ]
    if target:
        steps.append(f"push    {target}:{tag} (skipped if the registry has this digest)")
    if request.load:
        steps.append(f"load    {request.name}:{tag} into the engine")
    return BuildPlan(
        tag, f"{target}:{tag}" if target else None, base, bool(request.overrides.labels()), steps
    )


def run(
    request: BuildRequest, push: Callable[[BuiltImage, str], Pushed] = skopeo.push
) -> BuildReport:
    """Build, push if a registry is given, and load. Each stage is skipped when it is current.

    Args:
        request: what to build.
        push: sends the image to a repository; `release.publish.build_and_push` also records it.

    Raises:
        HiggsError: the first failure; what was finished before is kept for the next run.
    """
    target = _target(request)
    workspace = request.workspace
    built = image.build(
        workspace, request.compression, request.overrides, no_cache=request.no_cache
    )
    seconds = dict(built.seconds)
    pushed = None
    if target:
        pushed = push(built, target)
        seconds["push"] = round(pushed.seconds, 3)
    engine, unpacked = None, None
    if request.load:
        started = time.monotonic()
        engine = image.load(workspace, built, request.overrides, request.name)
        size = image.unpacked_bytes(engine)
        unpacked = size / MB if size else None
        seconds["load"] = round(time.monotonic() - started, 3)
    plan = layers.load(workspace.layers_file, workspace.variant)
    if unpacked:
        budget.check_unpacked(unpacked, plan)
    return BuildReport(
        digest=built.image.digest,
        tag=built.tag,
        layout=built.layout,
        compression=built.compression,
        compressed_mb=round(built.image.size / MB, 1),
        unpacked_mb=round(unpacked, 1) if unpacked else None,
        plain_mb=plan.plain.megabytes(built.compression) if plan.plain else None,
        layers=[(x.name, round(x.size / MB, 1)) for x in built.image.layers],
        engine=engine,
        pushed=pushed,
        skipped=built.skipped,
        overridden=built.overridden,
        seconds=seconds,
    )
