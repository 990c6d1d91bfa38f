"""From the pinned source to the pushed image: source, patches, render, build."""

from __future__ import annotations

from invoke.context import Context

from higgs_image.tasks._image import BUILD_FLAGS, PLACE, BuildFlags, ImagePlace
from higgs_image.tasks._workspace import VARIANT_HELP, current_workspace
from higgs_image.tasks.command import task
from higgs_image.tasks.output import Output
from higgs_image.tasks.values import matching

_BUILD_HELP = {
    "without": "leave this patch out; can be given several times (the result is marked -dev)",
    "gpus": "compute capabilities, such as 8.9 or 8.6,8.9: a smaller image for these GPUs only "
    "(the tag gets -sm89)",
} | VARIANT_HELP

_GPUS = {"gpus": matching(r"\d+\.\d(,\d+\.\d)*", "compute capabilities, such as 8.9 or 8.6,8.9")}


@task()
def source(_: Context, out: Output) -> None:
    """Clone the pinned fork and its submodule, and prove that they are what the lock says."""
    from higgs_image.build import stages

    checkout = stages.fetch_source(current_workspace())
    out.result(checkout, f"{checkout.fork}\n{checkout.submodule}")


@task(
    iterable=["without"],
    help={
        "diff": "show what the patches change in the source",
        "without": "leave this patch out; can be given several times",
    },
)
def patches(_: Context, out: Output, without: list[str], diff: bool = False) -> None:
    """List the patches and whether each fits the pinned source; fails if one does not."""
    from higgs_image.build import stages

    if diff:
        text = stages.diff_patches(current_workspace(), without)
        out.result({"diff": text}, text)
    else:
        report = stages.check_patches(current_workspace(), without)
        out.result(report, report.text())
        report.require_fit()


@task(
    values=_GPUS,
    iterable=["without"],
    help=_BUILD_HELP
    | {
        "check": "write nothing; show how build/context differs from what the lock and templates "
        "give, and fail if it does",
    },
)
def render(
    _: Context,
    out: Output,
    without: list[str],
    check: bool = False,
    flags: BuildFlags = BUILD_FLAGS,
    gpus: str = "",
    variant: str = "",
) -> None:
    """Render the Dockerfile and a minimal build context into build/context."""
    from higgs_image.build import stages

    workspace, overrides = current_workspace(variant), flags.overrides(without, gpus)
    if check:
        drift = stages.compare_context(workspace, overrides)
        if drift.diff and not out.as_json:
            print(drift.diff)
        drift.require_none()
        out.result({"files": drift.files}, f"{drift.path} is current")
    else:
        context = stages.write_context(workspace, overrides)
        out.result(context, str(context.path))


@task(
    values=_GPUS,
    iterable=["without"],
    help=_BUILD_HELP
    | {
        "push": "send the image to the registry under its immutable tag and read it back",
        "compression": "gzip, or zstd: smaller and faster, needs Docker 23 or later to pull",
        "load": "make the image runnable in the engine (default: yes)",
        "no_cache": "build every step again, without the cache",
        "dry_run": "print what would be done, and do nothing",
    },
)
def build(
    _: Context,
    out: Output,
    without: list[str],
    push: bool = False,
    place: ImagePlace = PLACE,
    compression: str = "",
    flags: BuildFlags = BUILD_FLAGS,
    gpus: str = "",
    variant: str = "",
    load: bool = True,
    no_cache: bool = False,
    dry_run: bool = False,
) -> None:
    """Build the image as an OCI layout, load it into the engine, and push it with --push."""
    from higgs_image.build import pipeline
    from higgs_image.release import publish

    request = pipeline.BuildRequest(
        workspace=current_workspace(variant),
        name=place.name,
        registry=place.registry if push else None,
        compression=compression,
        overrides=flags.overrides(without, gpus),
        load=load,
        no_cache=no_cache,
    )
    done = pipeline.plan(request) if dry_run else publish.build_and_push(request)
    out.result(done, done.text())
