"""The buildx command: which builder can do the job, how it reports progress and errors."""

from __future__ import annotations

import functools
import json
import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path

from higgs_image import process
from higgs_image.errors import (
    BuildError,
    DiskFullError,
    EngineError,
    HashMismatchError,
    HiggsError,
    NetworkError,
    RegistryAuthError,
    RegistryNotFoundError,
    RegistryUnavailableError,
)
from higgs_image.explain import Rule, explain
from higgs_image.oci import layout

log = logging.getLogger(__name__)

BUILDER = "higgs-image"
"""Name of the builder that is made where the default one cannot write OCI layouts."""

IMAGE = "moby/buildkit:v0.13.2"
"""What that builder runs: the BuildKit of Docker 26.1, so that both compress to the same bytes."""


def builder() -> str | None:
    """Return the name of a builder that can write OCI layouts; None for the default one.

    With the containerd image store the engine's own builder can; with the classic store a
    container builder is needed, which is made once (it pulls moby/buildkit). An engine that has
    answered is not asked again.

    Raises:
        EngineError: no engine answers, or it has no buildx.
    """
    return _builder(*map(os.environ.get, ("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG")))


@functools.cache
def _builder(*_engine: str | None) -> str | None:
    version = process.run(["docker", "buildx", "version"])
    if version.code != 0:
        raise EngineError(
            "docker has no buildx plugin",
            "install docker-buildx; on Debian as root: ./inv install-docker",
        )
    info = process.run(["docker", "info", "--format", "{{json .DriverStatus}}"])
    if info.code != 0 or info.out.strip() in ("", "null"):  # some clients end with 0 even so
        why = info.err.strip().splitlines()
        raise EngineError(
            f"no container engine answers: {why[-1] if why else info.out.strip()}",
            "start Docker; on Debian as root: ./inv install-docker",
        )
    if "io.containerd.snapshotter" in info.out:
        return None
    found = process.run(["docker", "buildx", "inspect", BUILDER])
    if found.code != 0:
        log.info(
            "build: the engine's classic image store cannot write OCI layouts; "
            "making the container builder %s",
            BUILDER,
        )
        made = process.run(
            ["docker", "buildx", "create", "--name", BUILDER, "--driver", "docker-container",
             "--driver-opt", f"image={IMAGE},network=host"]
        )  # fmt: skip
        if made.code != 0:
            raise EngineError(
                f"the container builder could not be made: {made.err.strip()}",
                'turn on the containerd image store ("features": {"containerd-snapshotter": true} '
                "in /etc/docker/daemon.json) and restart Docker",
            )
    return BUILDER


def build(
    arguments: Sequence[str],
    context: Path,
    log_file: Path,
    metadata: Path,
    *,
    show_steps: bool = True,
    provenance: bool = False,
) -> str:
    """Run `docker buildx build` with progress that a person can follow.

    Args:
        arguments: its flags, without builder, progress and metadata.
        context: the build context.
        log_file: receives the whole output.
        metadata: receives what BuildKit reports about the result.
        show_steps: False: only the export is shown, for a build whose steps are all cached.
        provenance: let BuildKit also describe what it did, in a manifest beside the image's.

    Returns:
        The digest of the image manifest; with provenance, of an index of both.

    Raises:
        HiggsError: classified from BuildKit's output.
    """
    name = builder()
    command = ["docker", "buildx", "build", "--progress", "plain", "--sbom=false",
               "--provenance=mode=max" if provenance else "--provenance=false",
               "--metadata-file", str(metadata)]  # fmt: skip
    command += [*(["--builder", name] if name else []), *arguments, str(context)]
    log_file.parent.mkdir(parents=True, exist_ok=True)
    metadata.unlink(missing_ok=True)
    metadata.parent.mkdir(parents=True, exist_ok=True)
    with log_file.open("w") as file:
        progress = Progress(show_steps=show_steps)

        def on_line(line: str) -> None:
            file.write(line + "\n")
            file.flush()
            if text := progress.feed(line):
                log.info("build: %s", text)

        done = process.run(command, on_line=on_line)
        if done.code != 0 and _LOST.search(done.err):
            log.info("build: BuildKit dropped this build, running again")
            done = process.run(command, on_line=on_line)
    if done.code != 0:
        raise explain_build(done.err, log_file)
    return str(json.loads(metadata.read_bytes())["containerimage.digest"])


_LOST = re.compile(
    r"ERROR: failed to solve: "
    r"(Canceled: context canceled|no active session|Unavailable: .*only one connection allowed"
    r"|failed to commit \S+ to \S+ during finalize: .*not found)"
)
"""BuildKit runs a step that two builds share once: to cancel the one build, or to kill it while it
exports, fails the other, too. On a busy machine it loses the connection to its client."""


class Progress:
    """Turns BuildKit's plain progress into one line per finished step."""

    _STEP = re.compile(r"^#(\d+) \[([\w-]+) +(\d+/\d+)\] (.*)")
    _DONE = re.compile(r"^#(\d+) (DONE|CACHED)(?: ([\d.]+)s)?")
    _EXPORT = re.compile(r"^#(\d+) (exporting (?:layers|to .+?))(?: ([\d.]+)s done)?$")
    _LEFT_WHOLE = re.compile(r"^#\d+ [\d.]+ device code: (.+ is left whole: .+)")

    def __init__(self, *, show_steps: bool = True) -> None:
        self._steps: dict[str, str] = {}
        self._show_steps = show_steps

    def feed(self, line: str) -> str | None:
        """Return what to show for this line of output, if anything."""
        if step := self._STEP.match(line):
            named = layout.STEP.search(step[4])
            what = named[1] if named else step[4].split(" ")[0].lower()
            first = step[1] not in self._steps
            self._steps[step[1]] = f"[{step[2]} {step[3]}] {what}"
            shown = first and what != "from" and self._show_steps
            return self._steps[step[1]] if shown else None
        if export := self._EXPORT.match(line):
            if export[3]:
                return f"{export[2]}: {export[3]} s"
            return export[2] if self._steps.setdefault(export[1], "export") == "export" else None
        if left := self._LEFT_WHOLE.match(line):
            return left[1]
        if done := self._DONE.match(line):
            step_name = self._steps.get(done[1])
            if self._show_steps and step_name and not step_name.endswith((" from", "export")):
                return f"{step_name}: {'cached' if done[2] == 'CACHED' else done[3] + ' s'}"
        return None


_LOG = "; the whole log is {log_file}"
_MISMATCH = (
    "{package} is not the file that was locked (hash mismatch)",
    "the index or a proxy serves other content, or the lock is wrong: compare the hash in "
    "versions.lock and docker/requirements with the publisher's" + _LOG,
)
_NO_INDEX = (
    "check the network and proxy (./inv doctor), then run again: finished steps are cached" + _LOG
)
_RULES = (
    Rule(
        r"no space left on device", DiskFullError,
        "the disk became full during the build",
        "docker builder prune frees the build cache; what is finished is kept" + _LOG,
    ),
    Rule(r"hash mismatch for `?(?P<package>[^`\n]+)`?", HashMismatchError, *_MISMATCH),
    Rule(r"do not match the hashes[^\n]*\n *(?P<package>\S+)", HashMismatchError, *_MISMATCH),
    Rule(
        r"failed to resolve source metadata.*(\b40[13]\b|unauthorized|denied|authorization failed)",
        RegistryAuthError,
        "the base image cannot be pulled: {last}", "log in: docker login REGISTRY",
    ),
    Rule(
        r"failed to resolve source metadata.*not found", RegistryNotFoundError,
        "the base image does not exist: {last}",
        "correct base in versions.lock, or give another with --base-image",
    ),
    Rule(
        r"failed to resolve source metadata", RegistryUnavailableError,
        "the base image's registry did not answer: {last}",
        "run again when it does, or give another with --base-image (made by ./inv "
        "build-base-image)",
    ),
    Rule(
        r"cannot connect to the docker daemon|closing transport|error reading from server: eof",
        EngineError,
        "the engine stopped during the build: {last}",
        "start Docker (./inv install-docker), then run again" + _LOG,
    ),
    Rule(
        r"^(?P<line>.*(temporary failure (in name )?resol|could not resolve|error resolving dns"
        r"|failed to fetch|error sending request|connection broken).*)$",
        NetworkError, "a package index could not be reached during the build: {line}", _NO_INDEX,
    ),
    Rule(
        r"connection (refused|reset|timed out)|network is unreachable|request failed after"
        r"|server error \(5\d\d",
        NetworkError, "a package index could not be reached during the build: {last}", _NO_INDEX,
    ),
)  # fmt: skip


def explain_build(output: str, log_file: Path) -> HiggsError:
    """Turn BuildKit's output into the error that says what to do."""
    errors = [x for x in output.splitlines() if x.startswith("ERROR")] or output.splitlines()[-1:]
    last = errors[-1].removeprefix("ERROR: ") if errors else "no output"
    step = _failed_step(output)  # not the earlier ones: their complaints had no consequence
    tail = "\n".join(f"    {x}" for x in step[-12:] if not x.startswith("ERROR: "))
    return explain(_RULES, "\n".join([*step, last]), last=last, log_file=log_file) or BuildError(
        f"the build failed: {last}\n{tail}".rstrip(), f"the whole log is {log_file}"
    )


def _failed_step(output: str) -> list[str]:
    """Return what the step that failed printed; the whole output where BuildKit names none."""
    failed = re.search(r"^#(\d+) ERROR: ", output, re.MULTILINE)
    if not failed:
        return output.splitlines()
    printed = re.compile(rf"^#{failed[1]} (?:\d+\.\d+ (.*)|(ERROR: .*))$")
    return [found[1] or found[2] or "" for x in output.splitlines() if (found := printed.match(x))]
