"""Releasing: release, promote, rollback, history, record, verify, cleanup."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from invoke.context import Context

from higgs_image.tasks.command import task
from higgs_image.tasks.output import JSON_HELP, existing_file, output, setting

if TYPE_CHECKING:
    from higgs_image.oci.artifacts import Repository

_REGISTRY = {
    "registry": "registry and path (default: REGISTRY, then invoke.yaml)",
    "name": "name of the image (default: IMAGE_NAME, then invoke.yaml)",
    "json": JSON_HELP,
}
_CONDITIONS = {
    "device_class": "gpu or cpu: on which the smoke test must have passed (default: DEVICE_CLASS, "
    "then invoke.yaml)",
    "force": "go over what is refused; needs --reason, and both are written down",
    "reason": "why; written to the journal",
    "rehearsal": "for a registry on loopback: also a stand-in, or a build on another base",
}
_DRY_RUN = "say what would be done, and do nothing"


def _target(c: Context, registry: str | None, name: str | None) -> str:
    from higgs_image.errors import UsageError
    from higgs_image.oci import reference

    found = setting(c, "registry", registry)
    if not found:
        raise UsageError(
            "no registry is set", "REGISTRY=ghcr.io/your-org, or --registry, or invoke.yaml"
        )
    # Registries know lower case only; the name of a GitHub account may have capitals.
    return reference.repository(found.lower(), setting(c, "image_name", name))


@contextmanager
def _opened(
    c: Context, image: str, registry: str | None, name: str | None
) -> Iterator[tuple[Repository, str]]:
    """Yield repository and tag or digest; the full name of an image names its repository itself."""
    from higgs_image.oci.artifacts import open_repository
    from higgs_image.oci.reference import split

    target, what = split(image) if "/" in image else (_target(c, registry, name), image)
    with open_repository(target) as repository:
        yield repository, what


@task(help={
    "compression": "gzip, or zstd (moves custom-zstd)",
    "base_image": "build on another base: only in a rehearsal",
    "extra_ca": "PEM file with CA certificates that the build must trust: only in a rehearsal",
    "promote": "move the tag at the end (default: yes)",
    "smoke": "test the pushed image on this machine (default: yes); else another machine does it, "
    "with invoke smoke and invoke record",
    "dry_run": _DRY_RUN,
} | _CONDITIONS | _REGISTRY)  # fmt: skip
def release(
    c: Context,
    registry: str | None = None,
    name: str | None = None,
    compression: str | None = None,
    base_image: str | None = None,
    extra_ca: str | None = None,
    promote: bool = True,
    smoke: bool = True,
    device_class: str | None = None,
    force: bool = False,
    reason: str = "",
    rehearsal: bool = False,
    dry_run: bool = False,
    json: bool = False,
) -> None:
    """Build, push, sign, smoke-test and promote; what is done already is skipped."""
    from higgs_image.build.overrides import Overrides
    from higgs_image.errors import SMOKE_EXIT_CODES
    from higgs_image.release import pipeline
    from higgs_image.release import promote as release_promote
    from higgs_image.workspace import Workspace

    code = 0
    with output(json) as out:
        request = pipeline.Request(
            workspace=Workspace.default(),
            target=_target(c, registry, name),
            compression=setting(c, "compression", compression),
            overrides=Overrides(
                setting(c, "base_image", base_image) or None,
                existing_file(setting(c, "extra_ca", extra_ca), "--extra-ca"),
            ),
            conditions=release_promote.Request(
                setting(c, "device_class", device_class), force, reason, rehearsal
            ),
            promote=promote,
        )
        if dry_run:
            text = pipeline.plan(request)
            out.result({"plan": text.splitlines()[1:]}, text)
        else:
            report = pipeline.run(
                request, pipeline.smoke_here(request.workspace) if smoke else None
            )
            out.result(report, report.text())
            if smoke and report.moved is None:  # a promotion has decided on the verdict itself
                code = SMOKE_EXIT_CODES[report.smoke.rpartition(": ")[2]]
    sys.exit(code)


@task(
    positional=["digest"],
    help={
        "digest": "digest or immutable tag of a pushed image, or its full name",
        "dry_run": _DRY_RUN,
    }
    | _CONDITIONS
    | _REGISTRY,
)
def promote(
    c: Context,
    digest: str,
    registry: str | None = None,
    name: str | None = None,
    device_class: str | None = None,
    force: bool = False,
    reason: str = "",
    rehearsal: bool = False,
    dry_run: bool = False,
    json: bool = False,
) -> None:
    """Let the moving tag name a tested image, by its digest."""
    from higgs_image.release import pipeline
    from higgs_image.release import promote as release_promote
    from higgs_image.release.journal import Journal
    from higgs_image.workspace import Workspace

    with output(json) as out, _opened(c, digest, registry, name) as (repository, what):
        workspace = Workspace.default()
        history = Journal(repository, workspace.build / "journal")
        conditions = release_promote.Request(
            setting(c, "device_class", device_class), force, reason, rehearsal
        )
        if dry_run:
            plan = release_promote.plan_promotion(repository, history, what, conditions)
            out.result({"plan": plan}, plan.text())
        else:
            moved, notes = pipeline.promote_with_notes(
                repository, history, what, conditions, workspace
            )
            text = f"{moved.text()}\nnotes: {notes}"
            out.result({"moved": moved, "notes": notes}, text, notes.read_text())


@task(help={
    "reason": "why; written to the journal",
    "to": "digest to go back to (default: the one before the present one)",
    "moving": "the tag (default: custom)",
    "yes": "do it; without this it is only planned",
} | _REGISTRY)  # fmt: skip
def rollback(
    c: Context,
    registry: str | None = None,
    name: str | None = None,
    reason: str = "",
    to: str | None = None,
    moving: str = "custom",
    yes: bool = False,
    json: bool = False,
) -> None:
    """Let the moving tag name an image again that it named before."""
    from higgs_image.oci.artifacts import open_repository
    from higgs_image.release import promote as release_promote
    from higgs_image.release.journal import Journal
    from higgs_image.workspace import Workspace

    with output(json) as out, open_repository(_target(c, registry, name)) as repository:
        history = Journal(repository, Workspace.default().build / "journal")
        if yes:
            release_promote.settle(repository, history)
        plan = release_promote.plan_rollback(repository, history, reason, moving, to or None)
        if yes:
            moved = release_promote.apply(repository, history, plan)
            out.result({"moved": moved}, moved.text())
        else:
            out.result({"plan": plan}, f"{plan.text()}\ndo it with --yes")


@task(help={"last": "how many of the newest records; 0: all (default: 50)"} | _REGISTRY)
def history(
    c: Context,
    registry: str | None = None,
    name: str | None = None,
    last: int = 50,
    json: bool = False,
) -> None:
    """Show what happened to the images: pushes, smoke tests, promotions, rollbacks."""
    from higgs_image.oci.artifacts import open_repository
    from higgs_image.release import promote as release_promote
    from higgs_image.release.journal import Journal

    with output(json) as out, open_repository(_target(c, registry, name)) as repository:
        journal = Journal(repository)
        entries = journal.read(newest=last)
        now = release_promote.state(repository, journal)
        text = "\n".join([*(entry.text() for entry in entries), *now]) or "nothing is recorded"
        out.result({"entries": entries, "now": now}, text)


@task(
    positional=["digest"],
    help={
        "digest": "digest or immutable tag of a pushed image, or its full name",
        "file": "record of a smoke test that was made elsewhere (default: test it here)",
        "device_class": "gpu or cpu: what to test it on (default: DEVICE_CLASS, then invoke.yaml)",
    }
    | _REGISTRY,
)
def record(
    c: Context,
    digest: str,
    file: str | None = None,
    device_class: str | None = None,
    registry: str | None = None,
    name: str | None = None,
    json: bool = False,
) -> None:
    """Smoke-test a pushed image by its digest, and write the verdict to the journal."""
    from higgs_image.errors import SMOKE_EXIT_CODES
    from higgs_image.release import pipeline
    from higgs_image.release.journal import Journal
    from higgs_image.smoke import report as smoke_report
    from higgs_image.workspace import Workspace

    with output(json) as out, _opened(c, digest, registry, name) as (repository, what):
        workspace = Workspace.default()
        entry, told = pipeline.record(
            repository,
            Journal(repository, workspace.build / "journal"),
            what,
            setting(c, "device_class", device_class),
            pipeline.smoke_here(workspace),
            existing_file(file, "--file"),
        )
        out.result({"entry": entry}, entry.text(), smoke_report.markdown(told))
    sys.exit(SMOKE_EXIT_CODES[told.verdict])


@task(
    positional=["image"],
    help={
        "image": "digest or tag, such as custom, or the full name of an image",
        "key": "public key of cosign whose signature is believed",
        "identity": "regular expression of the workflow whose signature is believed",
        "layers": "also fetch the image and compare its layers with its list of packages",
        "rebuild": "also build the lock again and compare the digests",
        "device_class": _CONDITIONS["device_class"],
        "base_image": "build on another base, for --rebuild",
        "extra_ca": "PEM file with CA certificates that the build must trust, for --rebuild",
    }
    | _REGISTRY,
)
def verify(
    c: Context,
    image: str,
    registry: str | None = None,
    name: str | None = None,
    key: str | None = None,
    identity: str = "",
    layers: bool = False,
    rebuild: bool = False,
    device_class: str | None = None,
    base_image: str | None = None,
    extra_ca: str | None = None,
    json: bool = False,
) -> None:
    """Say what is proven of an image: origin, contents, signature, tests; and what is not."""
    from higgs_image import lockfile
    from higgs_image.attest import signature
    from higgs_image.build.overrides import Overrides
    from higgs_image.errors import VerificationError
    from higgs_image.release import verify as release_verify
    from higgs_image.release.journal import Journal
    from higgs_image.workspace import Workspace

    with output(json) as out, _opened(c, image, registry, name) as (repository, what):
        workspace = Workspace.default()
        public = existing_file(key, "--key")
        trust = signature.Trust(public, identity) if public or identity else None
        done = release_verify.verify(
            repository, Journal(repository), what, lockfile.load(workspace.lock_file), trust,
            setting(c, "device_class", device_class), layers=layers,
        )  # fmt: skip
        compared = None
        if rebuild:
            overrides = Overrides(
                setting(c, "base_image", base_image) or None,
                existing_file(setting(c, "extra_ca", extra_ca), "--extra-ca"),
            )
            compared = release_verify.rebuild(repository, done, workspace, overrides)
        text = "\n".join(x.text() for x in (done, compared) if x)
        wrong = [x.check for x in done.failed]
        wrong += ["rebuild"] if compared and not compared.same else []
        out.result({"ok": not wrong, "verification": done, "rebuild": compared}, text)
    sys.exit(VerificationError.exit_code if wrong else 0)


@task(
    iterable=["pins"],
    help={
        "keep": "how many of the newest images stay",
        "pins": "file whose digests and tags stay; can be given several times",
        "yes": "do it; without this it is only planned",
    }
    | _REGISTRY,
)
def cleanup(
    c: Context,
    pins: list[str],
    keep: int = 10,
    registry: str | None = None,
    name: str | None = None,
    yes: bool = False,
    json: bool = False,
) -> None:
    """Delete old images: not what was promoted, is pinned, or is among the newest."""
    from higgs_image.oci.artifacts import open_repository
    from higgs_image.release import retention
    from higgs_image.release.journal import Journal

    with output(json) as out, open_repository(_target(c, registry, name)) as repository:
        store = retention.store_of(repository)
        plan = retention.look(
            repository, Journal(repository), store, keep, retention.pins_in(map(Path, pins))
        )
        done = retention.apply(repository, store, plan) if yes else []
        title = "deleted:" if yes else "would do (do it with --yes):"
        out.result({"plan": plan, "deleted": done}, f"{title}\n{plan.text()}")
