"""A base image made of Debian's packages, for machines that cannot pull the pinned one.

mmdebstrap installs a minimal Debian, as in Debian's slim images. skopeo copies the resulting OCI
layout to a registry. An image that is built on it is marked and cannot be released.
"""

from __future__ import annotations

import contextlib
import datetime
import gzip
import hashlib
import logging
import os
import re
import tarfile
import tempfile
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from higgs_image import process
from higgs_image.errors import BuildError, DiskFullError, HiggsError, NetworkError, UsageError
from higgs_image.explain import Rule
from higgs_image.explain import explain as explain_by
from higgs_image.files import new_folder, sha256_bytes, sha256_file, temporary_folder
from higgs_image.oci import credentials, reference, skopeo
from higgs_image.oci import layout as oci_layout
from higgs_image.workspace import Workspace

log = logging.getLogger(__name__)

NAME = "debian-base"

SUITES = {"3.11": "bookworm", "3.13": "trixie"}
"""Python version to the Debian suite that packages it."""

EPOCH = int(datetime.datetime(2025, 7, 30, tzinfo=datetime.UTC).timestamp())
"""Latest modification time of any file, so that the same packages give the same image."""

# As in Debian's slim images, below /usr/share. dpkg keeps the list for later installations.
_EXCLUDES = ("doc", "groff", "info", "linda", "lintian", "locale", "man")

# From the machine that made it, or different in every run.
_LEFTOVERS = (
    "etc/hostname", "etc/resolv.conf", "var/cache/debconf/*-old", "var/cache/ldconfig/aux-cache",
    "var/lib/dpkg/*-old", "var/log/*.log",
)  # fmt: skip

_MERGED_USR = Path("/usr/share/mmdebstrap/hooks/merged-usr")

# mmdebstrap extracts the first packages itself. With the list it sends them through a filter in
# Python, which takes longer than all else: the list comes back after that, and what it excludes is
# removed. Folders keep their dates, so that the image is the same.
_LIST = "etc/dpkg/dpkg.cfg.d/99mmdebstrap"
_BEFORE_EXTRACTING = f'cd "$1" && cp {_LIST} tmp/list && : >{_LIST}'
_AFTER_EXTRACTING = (
    f'cd "$1" && cat tmp/list >{_LIST} && cd usr/share && for folder in {" ".join(_EXCLUDES)}; do '
    "[ -d $folder ] || continue; date=$(stat --format=%y $folder) && "
    "find $folder -mindepth 1 ! -type d ! -name copyright -delete && "
    "find $folder -mindepth 1 -type d -empty -delete && "
    'touch --date="$date" $folder || exit 1; done'
)

# mmdebstrap mounts /proc, /sys and /dev in the new root: these mounts end with it, even if it is
# killed.
_OWN_MOUNTS = ("unshare", "--mount", "--propagation=slave")

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class BaseImage:
    """A base image in a layout.

    Attributes:
        suite: codename of the Debian release.
        layout: the OCI layout.
        digest: of the manifest.
        size: compressed, in bytes.
        skipped: whether an earlier one was used.
    """

    suite: str
    layout: Path
    digest: str
    size: int
    skipped: bool


def ensure(workspace: Workspace, python: str = "3.11", *, refresh: bool = False) -> BaseImage:
    """Return the base image; make it unless an earlier run has.

    Args:
        workspace: it is kept in its `build/base`.
        python: version that the image will install, which determines the Debian suite.
        refresh: make it again, with the current Debian packages.

    Raises:
        ToolMissingError: mmdebstrap is not installed.
        NetworkError: Debian's packages cannot be fetched.
        BuildError: mmdebstrap failed.
    """
    suite = suite_for(python)
    goal = workspace.build / "base" / suite
    with workspace.exclusive(f"base-{suite}"):
        state = workspace.read_state(f"base-{suite}")
        if state.get("recipe") == _recipe(suite) and not refresh:
            try:
                image = oci_layout.read(goal, state["digest"])
            except (BuildError, KeyError):
                pass
            else:
                log.info("base: using debian %s of %s", suite, state.get("made", "?"))
                return BaseImage(suite, goal, image.digest, image.size, skipped=True)
        workspace.require_disk(goal.parent, 1.0, "a base image")
        with new_folder(goal) as new:
            tar = new / "base.tar"
            _bootstrap(suite, tar)
            image = _write_layout(tar, new, suite)
            tar.unlink()
        made = datetime.datetime.now(datetime.UTC).date().isoformat()
        workspace.write_state(
            f"base-{suite}", {"digest": image.digest, "made": made, "recipe": _recipe(suite)}
        )
    log.info("base: debian %s, %.0f MB, %s", suite, image.size / oci_layout.MB, image.digest)
    return BaseImage(suite, goal, image.digest, image.size, skipped=False)


def publish(base: BaseImage, to: str) -> str:
    """Copy a base image to a registry.

    Args:
        base: from `ensure`.
        to: registry, with an optional path.

    Returns:
        `registry/debian-base@sha256:...`, for --base-image.

    Raises:
        HiggsError: the registry refused it or did not answer.
    """
    target = reference.repository(to, NAME)
    by_digest = f"{target}@{base.digest}"
    with credentials.credentials(target) as auth:
        if skopeo.digest_of(by_digest, auth) == base.digest:
            log.info("base: %s exists already", by_digest)
            return by_digest
        tag = f"{target}:{base.suite}-{base.digest[7:19]}"
        done = process.run(
            ["skopeo", "copy", "--preserve-digests", *auth.flags("dest"),
             f"oci:{base.layout}:{base.suite}", f"docker://{tag}"],
            env=auth.env, pass_fds=auth.fds,
        )  # fmt: skip
        if done.code != 0:
            raise skopeo.explain(done.err, tag)
    log.info("base: pushed %s", by_digest)
    return by_digest


def suite_for(python: str) -> str:
    """Return the Debian suite that packages a Python version.

    Raises:
        UsageError: no known suite does.
    """
    if python not in SUITES:
        raise UsageError(
            f"no known Debian release packages Python {python}",
            f"give a base image that has it with --base-image (known: {', '.join(SUITES)})",
        )
    return SUITES[python]


def _recipe(suite: str) -> str:
    """Return a hash of what determines the content besides Debian's packages."""
    return sha256_bytes(
        repr((_arguments(suite), EPOCH, _EXCLUDES, _LEFTOVERS, "empty /dev")).encode()
    )


def _arguments(suite: str) -> list[str]:
    # Patterns are not quoted: the shell expands them below the new root.
    leftovers = " ".join(f'"$1"/{path}' for path in _LEFTOVERS)
    return [
        "--variant=minbase",
        "--architectures=amd64",
        "--format=tar",
        "--skip=output/dev",
        # Without it bookworm installs usrmerge, and with that Perl.
        *([f"--hook-dir={_MERGED_USR}"] if suite == "bookworm" and _MERGED_USR.is_dir() else []),
        *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in _EXCLUDES),
        "--dpkgopt=path-include=/usr/share/doc/*/copyright",
        f"--setup-hook={_BEFORE_EXTRACTING}",
        f"--extract-hook={_AFTER_EXTRACTING}",
        f"--customize-hook=rm -rf {leftovers}",
    ]


def _root_folder(goal: Path) -> AbstractContextManager[Path]:
    """Return a folder for the new root; a later run removes what a killed one left there.

    It is not in the build folder, which apt's own user may not be allowed to enter.
    """
    prefix = f"higgs-base-{sha256_bytes(bytes(goal))[:12]}-"
    return temporary_folder(Path(tempfile.gettempdir()), prefix)


def _bootstrap(suite: str, tar: Path) -> None:
    mode = "root" if os.geteuid() == 0 else "unshare"

    def on_line(line: str) -> None:
        step = re.match(r"I: (.*)\.\.\.$", line)
        if step and "tempdir" not in line:
            log.info("base: %s", step[1])

    log.info("base: debian %s from Debian's packages, half a minute", suite)
    command = ["mmdebstrap", f"--mode={mode}", *_arguments(suite), suite, str(tar)]
    env = {"SOURCE_DATE_EPOCH": str(EPOCH)}
    with contextlib.ExitStack() as stack:
        if mode == "root" and process.ask(*_OWN_MOUNTS, "true").code == 0:
            command = [*_OWN_MOUNTS, *command]
            env["TMPDIR"] = str(stack.enter_context(_root_folder(tar.parent.parent / suite)))
        done = process.run(command, env=env, on_line=on_line)
    if done.code != 0:
        raise explain(done.err, suite, mode)
    # --skip=output/dev removes all of /dev. Without an empty folder there, the first container
    # would make one, and the layer of that build step would contain the current time.
    with tarfile.open(tar, "a") as archive:
        dev = tarfile.TarInfo("./dev/")
        dev.type, dev.mode, dev.mtime = tarfile.DIRTYPE, 0o755, EPOCH
        archive.addfile(dev)


_RULES = (
    Rule("no space left", DiskFullError,
         "{what}", "free disk space (also in {tmp}), then run again"),
    Rule(r"could not (?:resolve|connect)|temporary failure|failed to fetch|timed out", NetworkError,
         "{what}", "check the network (./inv doctor); behind a proxy set http_proxy"),
    Rule("no_pubkey|keyring", BuildError, "{what}", "install debian-archive-keyring"),
)  # fmt: skip


def explain(output: str, suite: str, mode: str) -> HiggsError:
    """Turn mmdebstrap's output into an error with a hint."""
    errors = [x for x in output.splitlines() if re.match(r"(E|Err):?\d* ?", x)]
    last = (errors or output.splitlines()[-1:] or ["no output"])[0].removeprefix("E: ")
    what = f"mmdebstrap could not make debian {suite}: {last}"
    hint = "see the lines above; HIGGS_DEBUG=1 shows the command"
    if mode == "unshare":
        hint = "run as root, or allow unprivileged user namespaces"
    found = explain_by(_RULES, output, what=what, tmp=tempfile.gettempdir())
    return found or BuildError(what, hint)


def _write_layout(tar: Path, target: Path, suite: str) -> oci_layout.Image:
    """Write an OCI layout with one image of one layer; the same tar gives the same bytes."""
    oci_layout.create(target)
    blobs = target / "blobs" / "sha256"
    unpacked = hashlib.sha256()
    with (
        tar.open("rb") as source,
        (blobs / "layer").open("wb") as file,
        gzip.GzipFile("", "wb", 6, file, mtime=0) as packed,
    ):
        while chunk := source.read(1 << 20):
            unpacked.update(chunk)
            packed.write(chunk)
    name = sha256_file(blobs / "layer")
    size = (blobs / "layer").stat().st_size
    (blobs / "layer").rename(blobs / name)
    created = datetime.datetime.fromtimestamp(EPOCH, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    config = {
        "created": created,
        "architecture": "amd64",
        "os": "linux",
        "config": {"Env": [f"PATH={_PATH}"], "Cmd": ["bash"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{unpacked.hexdigest()}"]},
        "history": [{"created": created, "created_by": f"mmdebstrap {suite}"}],
    }
    layer = {
        "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
        "digest": f"sha256:{name}",
        "size": size,
    }
    return oci_layout.add_image(target, config, [layer], suite)
