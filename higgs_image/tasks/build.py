"""From the pinned source to the pushed image: source, patches, render, build."""

from __future__ import annotations

from typing import TYPE_CHECKING

from invoke.context import Context

from higgs_image.tasks._workspace import VARIANT_HELP, current_workspace
from higgs_image.tasks.command import task
from higgs_image.tasks.output import JSON_HELP, existing_file, output, setting
from higgs_image.tasks.values import matching

if TYPE_CHECKING:
    from higgs_image.build.overrides import Overrides

_OVERRIDES = {
    "base_image": "build on this image instead of the locked one (the result is marked -dev)",
    "extra_ca": "PEM file with CA certificates that the build must trust, such as a proxy's "
    "(the result is marked -dev)",
    "without": "leave this patch out; can be given several times (the result is marked -dev)",
    "gpus": "compute capabilities, such as 8.9 or 8.6,8.9: a smaller image for these GPUs only "
    "(the tag gets -sm89)",
}

_GPUS = {"gpus": matching(r"\d+\.\d(,\d+\.\d)*", "compute capabilities, such as 8.9 or 8.6,8.9")}


def _overrides(
    c: Context,
    base_image: str | None,
    extra_ca: str | None,
    without: list[str],
    gpus: str | None,
) -> Overrides:
    from higgs_image.build.overrides import Overrides

    return Overrides(
        setting(c, "base_image", base_image) or None,
        existing_file(setting(c, "extra_ca", extra_ca), "--extra-ca"),
        tuple(sorted(set(without))),
        tuple(sorted(set(gpus.split(",")), key=float)) if gpus else (),
    )


@task(help={"json": JSON_HELP})
def source(_: Context, json: bool = False) -> None:
    """Clone the pinned fork and its submodule, and prove that they are what the lock says."""
    from higgs_image.build import stages

    with output(json) as out:
        checkout = stages.fetch_source(current_workspace())
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
    from higgs_image.build import stages

    with output(json) as out:
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
    help={
        "check": "write nothing; show how build/context differs from what the lock and templates "
        "give, and fail if it does",
        "diff": "as --check, but do not fail",
        "json": JSON_HELP,
    }
    | _OVERRIDES
    | VARIANT_HELP,
)
def render(
    c: Context,
    without: list[str],
    check: bool = False,
    diff: bool = False,
    base_image: str | None = None,
    extra_ca: str | None = None,
    gpus: str | None = None,
    variant: str = "",
    json: bool = False,
) -> None:
    """Render the Dockerfile and a minimal build context into build/context."""
    from higgs_image.build import stages

    with output(json) as out:
        overrides = _overrides(c, base_image, extra_ca, without, gpus)
        if check or diff:
            drift = stages.compare_context(current_workspace(variant), overrides)
            if check and drift.diff and not json:
                print(drift.diff)
            if check:
                drift.require_none()
            out.result({"files": drift.files}, drift.diff or f"{drift.path} is current")
        else:
            context = stages.write_context(current_workspace(variant), overrides)
            out.result(context, str(context.path))


@task(values=_GPUS, iterable=["without"], help={
    "push": "send the image to the registry under its immutable tag and read it back",
    "registry": "registry and path to push to (default: REGISTRY, then invoke.yaml)",
    "name": "name of the image (default: IMAGE_NAME, then invoke.yaml)",
    "compression": "gzip, or zstd: smaller and faster, needs Docker 23 or later to pull",
    "load": "make the image runnable in the engine (default: yes)",
    "no_cache": "build every step again, without the cache",
    "dry_run": "print what would be done, and do nothing",
    "json": JSON_HELP,
} | _OVERRIDES | VARIANT_HELP)  # fmt: skip
def build(
    c: Context,
    without: list[str],
    push: bool = False,
    registry: str | None = None,
    name: str | None = None,
    compression: str | None = None,
    base_image: str | None = None,
    extra_ca: str | None = None,
    gpus: str | None = None,
    variant: str = "",
    load: bool = True,
    no_cache: bool = False,
    dry_run: bool = False,
    json: bool = False,
) -> None:
    """Build the image as an OCI layout, load it into the engine, and push it with --push."""
    from higgs_image.build import pipeline
    from higgs_image.release import publish

    with output(json) as out:
        request = pipeline.BuildRequest(
            workspace=current_workspace(variant),
            name=setting(c, "image_name", name),
            registry=setting(c, "registry", registry) if push else None,
            compression=setting(c, "compression", compression),
            overrides=_overrides(c, base_image, extra_ca, without, gpus),
            load=load,
            no_cache=no_cache,
        )
        done = pipeline.plan(request) if dry_run else publish.build_and_push(request)
        out.result(done, done.text())
