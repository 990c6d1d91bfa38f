"""Stage `build`: from the rendered context to an OCI layout, and from there into the engine.

The layout is the product: its manifest digest is what is run, tested and pushed. Layers carry no
time of the build (docker/build/step.py sees to that), so one lock gives one digest.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import replace

from higgs_image import checkout, lockfile, process
from higgs_image.build import budget, buildkit, context, stages
from higgs_image.build.overrides import Overrides
from higgs_image.checkout import Checkout
from higgs_image.errors import BuildError, EngineError, UsageError
from higgs_image.files import sha256_bytes, sha256_file, write_atomically
from higgs_image.lockfile import Lock
from higgs_image.oci import layout
from higgs_image.oci import statement as oci_statement
from higgs_image.oci.layout import BuiltImage, Image
from higgs_image.workspace import Workspace

log = logging.getLogger(__name__)

COMPRESSIONS: Mapping[str, str] = {"gzip": "", "zstd": "-zstd"}
"""Known compressions and what each appends to a tag. Docker before 23 cannot read zstd."""

DISK_GB = 22.0
"""Free disk that a cold build needs: layers unpacked and compressed, and the layout."""


def require_compression(compression: str) -> None:
    """Refuse a compression that no build knows.

    Raises:
        UsageError: it is unknown.
    """
    if compression not in COMPRESSIONS:
        raise UsageError(
            f"unknown compression: {compression!r}", f"use one of: {', '.join(COMPRESSIONS)}"
        )


def tag_of(locked: Lock, compression: str, overrides: Overrides) -> str:
    """Return the immutable tag: the lock's, then the compression and what was overridden."""
    require_compression(compression)
    return locked.tag + COMPRESSIONS[compression] + overrides.mark


def build(
    workspace: Workspace,
    compression: str = "gzip",
    overrides: Overrides | None = None,
    *,
    no_cache: bool = False,
) -> BuiltImage:
    """Run the stages lock, source, patches, render and build; what is current is skipped.

    Args:
        workspace: the folders.
        compression: gzip or zstd.
        overrides: what deviates from the lock.
        no_cache: build every step again, without the cache.

    Raises:
        HiggsError: see the stages' own errors; BudgetError when the image is too large.
    """
    overrides = overrides or Overrides()
    require_compression(compression)
    seconds: dict[str, float] = {}
    watch = _Stopwatch(seconds)
    prepared = stages.prepare(workspace, overrides, watch.lap)
    locked = prepared.lock
    tag = tag_of(locked, compression, overrides)
    written = context.write(workspace, locked, prepared.files)
    watch.lap("render")
    target, product = workspace.layout(compression), workspace.product(compression)
    key = sha256_bytes(f"{written.sha256} {compression} {locked.fork.epoch}".encode())
    with workspace.exclusive(f"build-{product}"):
        found = checkout.inspect(workspace.root)
        state = workspace.read_state(f"build-{product}")
        changed = () if state.get("clean") else ("unknown",)
        recorded = Checkout(state.get("commit"), changed, state.get("url"))  # of the last build
        provenance = workspace.build / f"provenance-{product}.json"
        # What an unclean work tree built is built again once it is clean.
        usable = (
            not no_cache
            and (recorded.clean or not found.clean)
            and provenance.exists()
            and sha256_file(provenance) == state.get("provenance")
        )
        for path in layout.damaged_blobs(target):  # BuildKit would keep it as it is
            log.info("build: %s is damaged and built again", path)
            path.unlink()
        image = current(workspace, compression, key) if usable else None
        skipped = image is not None
        if image is None:
            needed = workspace.disk_gb or DISK_GB
            workspace.require_disk(
                workspace.build, needed if not target.exists() else needed / 4, "a build"
            )
            image, statement = _buildx(
                workspace, locked, compression, overrides, tag, no_cache=no_cache
            )
            write_atomically(provenance, statement)
            recorded = found
            state = {"key": key, "digest": image.digest, "tag": tag, "commit": found.commit,
                     "clean": found.clean, "url": found.url,
                     "provenance": sha256_bytes(statement)}  # fmt: skip
            workspace.write_state(f"build-{product}", state)
        layout.keep_only(target, image, tag)
    watch.lap("build")
    budget.check_compressed(image, prepared.layers, compression)
    log.info("build: %s %s%s", tag, image.digest, " (unchanged)" if skipped else "")
    return BuiltImage(
        image,
        target,
        tag,
        compression,
        bool(overrides.labels()),
        skipped,
        seconds,
        recorded,
        provenance,
    )


def current(workspace: Workspace, compression: str, key: str | None = None) -> Image | None:
    """Return the image of the last finished build if it is whole, and made from `key` if given."""
    state = workspace.read_state(f"build-{workspace.product(compression)}")
    if "digest" not in state or (key is not None and state.get("key") != key):
        return None
    try:
        return layout.read(workspace.layout(compression), str(state["digest"]))
    except BuildError:
        return None


def last_built(workspace: Workspace) -> tuple[Workspace, str] | None:
    """Return workspace and compression of the newest build, of any variant; None without one."""
    found: list[tuple[float, Workspace, str]] = []
    for file in (workspace.build / "state").glob("build-*.json"):
        compression, _, variant = file.stem.removeprefix("build-").partition("-")
        if compression in COMPRESSIONS:
            found.append((file.stat().st_mtime, replace(workspace, variant=variant), compression))
    return max(found, key=lambda x: x[0])[1:] if found else None


def _buildx(
    workspace: Workspace,
    locked: Lock,
    compression: str,
    overrides: Overrides,
    tag: str,
    *,
    no_cache: bool,
) -> tuple[Image, bytes]:
    target = workspace.layout(compression)
    arguments = [
        *_inputs(locked, overrides),
        *(["--no-cache"] if no_cache else []),
        "--output",
        f"type=oci,dest={target},tar=false,name={tag},{_encoding(compression)}",
    ]
    digest = buildkit.build(
        arguments,
        workspace.context,
        workspace.build / "logs" / f"build-{workspace.product(compression)}.log",
        workspace.build / "state" / "buildx.json",
        provenance=True,
    )
    image, statement = oci_statement.unwrap(target, digest)
    return layout.read(target, image), statement


def _inputs(locked: Lock, overrides: Overrides) -> list[str]:
    arguments = ["--platform", "linux/amd64",
                 "--build-arg", f"SOURCE_DATE_EPOCH={locked.fork.epoch}"]  # fmt: skip
    if overrides.extra_ca:
        arguments += ["--secret", f"id=ca-certificates,src={overrides.extra_ca}"]
    return arguments


def _encoding(compression: str) -> str:
    """Equal for every exporter, so that each gives the same digest."""
    return f"compression={compression},force-compression=true,oci-mediatypes=true"


def load(workspace: Workspace, built: BuiltImage, overrides: Overrides, name: str) -> str:
    """Make the built image runnable in the engine, under its own digest.

    With the containerd store BuildKit hands over its layers; with the classic store skopeo copies
    the layout in.

    Returns:
        `name:tag`, by which the engine knows the image.

    Raises:
        EngineError: the engine ended up with another image.
    """
    reference = f"{name}:{built.tag}"
    if engine_digest(reference) in (built.image.digest, built.image.config_digest):
        log.info("load: the engine has %s", reference)
        return reference
    locked = lockfile.load(workspace.lock_file)
    started = time.monotonic()
    if buildkit.builder() is None:
        digest = buildkit.build(
            [*_inputs(locked, overrides), "--output",
             f"type=image,name={reference},{_encoding(built.compression)}"],
            workspace.context,
            workspace.build / "logs" / "load.log",
            workspace.build / "state" / "buildx-load.json",
            show_steps=False,
        )  # fmt: skip
        if digest != built.image.digest:
            raise EngineError(
                f"the engine got {digest} instead of {built.image.digest}",
                "the build cache changed in between: build again",
            )
    else:
        copied = process.run(
            ["skopeo", "copy", f"oci:{built.layout}:{built.tag}", f"docker-daemon:{reference}"]
        )
        if copied.code != 0:
            raise EngineError(
                f"the image could not be loaded: {copied.err.strip()}", "see ./inv doctor"
            )
    log.info("load: %s in %.1f s", reference, time.monotonic() - started)
    return reference


def engine_digest(reference: str) -> str | None:
    """Return the id by which the engine knows an image; None if it does not."""
    found = process.run(["docker", "image", "inspect", "--format", "{{.Id}}", reference])
    return found.out.strip() if found.code == 0 else None


def unpacked_bytes(reference: str) -> int | None:
    """Return the size of a loaded image's unpacked layers in bytes; None if it is not loaded."""
    found = process.run(
        ["docker", "history", "--no-trunc", "--human=false", "--format", "{{.Size}}", reference]
    )
    return sum(map(int, found.out.split())) if found.code == 0 else None


class _Stopwatch:
    def __init__(self, seconds: dict[str, float]) -> None:
        self._seconds, self._last = seconds, time.monotonic()

    def lap(self, stage: str) -> None:
        now = time.monotonic()
        self._seconds[stage] = round(now - self._last, 3)
        self._last = now
