"""Looking back: what happened to the images, and what is proven of one."""

from __future__ import annotations

import sys
from pathlib import Path

from invoke.context import Context

from higgs_image.tasks._image import BUILD_FLAGS, PLACE, BuildFlags, ImagePlace, PromotionFlags
from higgs_image.tasks._workspace import current_workspace
from higgs_image.tasks.command import task
from higgs_image.tasks.output import Output


@task(help={"last": "how many of the newest records; 0: all (default: 50)"})
def history(_: Context, out: Output, place: ImagePlace = PLACE, last: int = 50) -> None:
    """Show pushes, smoke tests, promotions and rollbacks, and what the floating tags name."""
    from higgs_image.errors import RegistryError
    from higgs_image.release import status

    with place.journal() as journal:
        entries, damaged = journal.read_all(newest=last)
        now = status.tag_status(journal)
    wrong = [error.message for error in damaged]
    lines = [*(entry.text() for entry in entries), *now, *(f"DAMAGED: {x}" for x in wrong)]
    out.result(
        {"entries": entries, "now": now, "damaged": wrong},
        "\n".join(lines) or "nothing is recorded",
    )
    sys.exit(RegistryError.exit_code if wrong else 0)


@task(
    positional=["image"],
    help={
        "image": "digest or tag, such as custom, or the full name of an image",
        "key": "public key of cosign whose signature is trusted",
        "identity": "regular expression of the workflow whose signature is trusted",
        "layers": "also fetch the image and compare its layers with its SBOM",
        "rebuild": "also build the lock again and compare the digests",
        "device_class": PromotionFlags.HELP["device_class"],
        "base_image": "build on another base image, for --rebuild",
        "extra_ca": "PEM file with CA certificates that the build must trust, for --rebuild",
    },
)
def verify(
    _: Context,
    out: Output,
    image: str,
    place: ImagePlace = PLACE,
    key: Path | None = None,
    identity: str = "",
    layers: bool = False,
    rebuild: bool = False,
    device_class: str = "",
    build: BuildFlags = BUILD_FLAGS,
) -> None:
    """Check the origin, contents, signature and tests of an image, and list what is not proven."""
    from higgs_image import lockfile
    from higgs_image.attest import signature
    from higgs_image.errors import VerificationError
    from higgs_image.release import verify as release_verify

    with place.image(image) as (history, what):
        workspace = current_workspace()
        trust = signature.Trust(key, identity) if key or identity else None
        done = release_verify.verify(
            history, what, workspace, lockfile.load(workspace.lock_file), trust, device_class,
            layers=layers,
        )  # fmt: skip
        compared = None
        if rebuild:
            compared = release_verify.rebuild(history, done, workspace, build.overrides())
    text = "\n".join(x.text() for x in (done, compared) if x)
    wrong = [x.check for x in done.failed]
    wrong += ["rebuild"] if compared and not compared.same else []
    out.result({"ok": not wrong, "verification": done, "rebuild": compared}, text)
    sys.exit(VerificationError.exit_code if wrong else 0)
