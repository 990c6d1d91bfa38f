"""From the pinned source to the pushed image: source, render, build."""

from __future__ import annotations

from typing import TYPE_CHECKING

from invoke.context import Context

from higgs_image.tasks.command import task
from higgs_image.tasks.output import JSON_HELP, existing_file, output, setting

if TYPE_CHECKING:
    from higgs_image.build.overrides import Overrides

_OVERRIDES = {
    "base_image": "build on this image instead of the locked one (the result is marked -dev)",
    "extra_ca": "PEM file with CA certificates that the build must trust, such as a proxy's "
    "(the result is marked -dev)",
    "without": "leave this patch out; can be given several times (the result is marked -dev)",
}


def _overrides(
    c: Context, base_image: str | None, extra_ca: str | None, without: list[str]
) -> Overrides:
    from higgs_image.build.overrides import Overrides

    return Overrides(
        setting(c, "base_image", base_image) or None,
        existing_file(setting(c, "extra_ca", extra_ca), "--extra-ca"),
        tuple(sorted(set(without))),
    )


@task(help={"json": JSON_HELP})
def source(_: Context, json: bool = False) -> None:
    """Clone the pinned fork and its submodule, and prove that they are what the lock says."""
    from higgs_image import lockfile
    from higgs_image.build import source as build_source
    from higgs_image.workspace import Workspace

    with output(json) as out:
        workspace = Workspace.default()
        checkout = build_source.ensure(workspace, lockfile.load(workspace.lock_file))
        out.result(checkout, f"{checkout.fork}\n{checkout.submodule}")


@task(
    iterable=["without"],
    help={
        "diff": "show what the patches change in the source",
        "without": "leave this patch out; can be given several times",
        "json": JSON_HELP,
    },
)
def patches(_: Context, without: list[str], diff: bool = False, json: bool = False) -> None:
    """List the patches and whether each fits the pinned source; fails if one does not."""
    from higgs_image import lockfile
    from higgs_image.build import source as build_source
    from higgs_image.build.patches import apply
    from higgs_image.build.patches import check as patches_check
    from higgs_image.workspace import Workspace

    with output(json) as out:
        workspace = Workspace.default()
        loaded = lockfile.load(workspace.lock_file)
        roots = patches_check.roots_of(build_source.ensure(workspace, loaded))
        report = patches_check.report(loaded, roots, without)
        if diff:
            text = apply.diff(roots, apply.apply(report.patches, roots, without))
            out.result({"diff": text}, text)
        else:
            out.result(report, report.text())
            report.require_fit()


@task(
    iterable=["without"],
    help={
        "check": "fail if build/context differs from what the lock and templates give",
        "diff": "show that difference, write nothing",
        "json": JSON_HELP,
    }
    | _OVERRIDES,
)
def render(
    c: Context,
    without: list[str],
    check: bool = False,
    diff: bool = False,
    base_image: str | None = None,
    extra_ca: str | None = None,
    json: bool = False,
) -> None:
    """Render the Dockerfile and a minimal build context into build/context."""
    from higgs_image import lockfile
    from higgs_image.build import render as build_render
    from higgs_image.build import source as build_source
    from higgs_image.build.patches import apply
    from higgs_image.errors import UsageError
    from higgs_image.workspace import Workspace

    with output(json) as out:
        workspace = Workspace.default()
        loaded = lockfile.load(workspace.lock_file)
        lockfile.require_consistent(loaded, workspace.root)
        overrides = _overrides(c, base_image, extra_ca, without)
        checkout = build_source.ensure(workspace, loaded)
        patched = apply.ensure(workspace, loaded, checkout, overrides.without)
        wanted = build_render.compute(workspace, loaded, checkout, patched, overrides)
        if diff and check:
            raise UsageError("--check and --diff were both given", "give one of them")
        if diff:
            found = build_render.read(workspace.context)
            out.result(
                {"files": build_render.drift(wanted, found)}, build_render.diff(wanted, found)
            )
        elif check:
            build_render.require_current(workspace, wanted)
            out.result({"files": []}, f"{workspace.context} is current")
        else:
            context = build_render.write(workspace, loaded, wanted)
            out.result(context, str(context.path))


@task(iterable=["without"], help={
    "push": "send the image to the registry under its immutable tag and read it back",
    "registry": "registry and path to push to (default: REGISTRY, then invoke.yaml)",
    "name": "name of the image (default: IMAGE_NAME, then invoke.yaml)",
    "compression": "gzip, or zstd: smaller and faster, needs Docker 23 or later to pull",
    "load": "make the image runnable in the engine (default: yes)",
    "no_cache": "build every step anew",
    "dry_run": "say what would be done, and do nothing",
    "json": JSON_HELP,
} | _OVERRIDES)  # fmt: skip
def build(
    c: Context,
    without: list[str],
    push: bool = False,
    registry: str | None = None,
    name: str | None = None,
    compression: str | None = None,
    base_image: str | None = None,
    extra_ca: str | None = None,
    load: bool = True,
    no_cache: bool = False,
    dry_run: bool = False,
    json: bool = False,
) -> None:
    """Build the image as an OCI layout, load it into the engine, and push it with --push."""
    from higgs_image.build import pipeline
    from higgs_image.workspace import Workspace

    with output(json) as out:
        request = pipeline.Request(
            workspace=Workspace.default(),
            name=setting(c, "image_name", name),
            registry=setting(c, "registry", registry) if push else None,
            compression=setting(c, "compression", compression),
            overrides=_overrides(c, base_image, extra_ca, without),
            load=load,
            no_cache=no_cache,
        )
        if dry_run:
            plan = pipeline.plan(request)
            out.result(plan, plan.text())
        else:
            report = pipeline.run(request)
            out.result(report, report.text())
