"""The stages before the build, each composed with those before it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from higgs_image import lockfile
from higgs_image.build import context, layers, render, source
from higgs_image.build.context import BuildContext, Drift, Files
from higgs_image.build.layers import Layers
from higgs_image.build.overrides import Overrides
from higgs_image.build.patches import apply, check, model
from higgs_image.build.patches.check import PatchReport
from higgs_image.build.source import Source
from higgs_image.lockfile import Lock
from higgs_image.workspace import Workspace


@dataclass(frozen=True)
class Prepared:
    """Everything that a build starts from.

    Attributes:
        lock: versions.lock, consistent with the files that it covers.
        layers: docker/layers.toml.
        files: the build context.
    """

    lock: Lock
    layers: Layers
    files: Files


def prepare(
    workspace: Workspace, overrides: Overrides, finished: Callable[[str], None] = lambda _: None
) -> Prepared:
    """Run the stages lock, source and patches, and compute the build context.

    Args:
        workspace: the folders.
        overrides: what deviates from the lock.
        finished: called with the name of each stage at its end.

    Raises:
        HiggsError: see the stages.
    """
    locked = lockfile.load(workspace.lock_file)
    lockfile.require_consistent(locked, workspace.root)
    lock = locked.for_variant(workspace.variant)
    model.load_locked(lock, overrides.without)
    plan = layers.load(workspace.layers_file, workspace.variant)
    finished("lock")
    sources = source.ensure(workspace, lock)
    finished("source")
    patched = apply.ensure(workspace, lock, sources, overrides.without)
    finished("patches")
    files = render.compute(workspace, lock, sources, patched, overrides)
    return Prepared(lock, plan, files)


def fetch_source(workspace: Workspace) -> Source:
    """Fetch and verify the sources that the lock pins."""
    return source.ensure(workspace, lockfile.load(workspace.lock_file))


def check_patches(workspace: Workspace, without: Sequence[str] = ()) -> PatchReport:
    """Check each patch against the pinned source."""
    lock = lockfile.load(workspace.lock_file)
    model.load_locked(lock, without)
    return check.report(lock, check.roots_of(source.ensure(workspace, lock)), without)


def diff_patches(workspace: Workspace, without: Sequence[str] = ()) -> str:
    """Return a unified diff from the pinned source to the patched one.

    Raises:
        PatchError: a patch does not fit.
    """
    lock = lockfile.load(workspace.lock_file)
    patches = model.load_locked(lock, without)
    roots = check.roots_of(source.ensure(workspace, lock))
    return apply.diff(roots, apply.apply(patches, roots, without))


def write_context(workspace: Workspace, overrides: Overrides) -> BuildContext:
    """Write the build context, unless it is there already."""
    prepared = prepare(workspace, overrides)
    return context.write(workspace, prepared.lock, prepared.files)


def compare_context(workspace: Workspace, overrides: Overrides) -> Drift:
    """Compare the build context on disk with what it should be."""
    return context.drift(workspace.context, prepare(workspace, overrides).files)
