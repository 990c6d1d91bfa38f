"""./inv smoke, gpu-check."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NoReturn

from invoke.context import Context

from higgs_image.tasks._workspace import current_workspace
from higgs_image.tasks.command import FlagGroup, task
from higgs_image.tasks.output import Output
from higgs_image.tasks.values import PATH

if TYPE_CHECKING:
    from higgs_image.smoke.record import Record
    from higgs_image.smoke.session import SmokeOptions
    from higgs_image.workspace import Workspace


def names_an_image(words: list[str]) -> bool:
    """Tell whether the command line has an image without a flag: `./inv smoke IMAGE`.

    Invoke's positional arguments cannot be optional, so the task has one only if it is given.
    """
    after = words[words.index("smoke") :] if "smoke" in words else []
    return any(
        not word.startswith("-")
        and (not before.startswith("-") or "=" in before or before in ("-k", "--keep"))
        for before, word in itertools.pairwise(after)
    )


def require_writable(path: Path, flag: str) -> None:
    """Remove an earlier run's file, and refuse a path that cannot be written.

    Raises:
        UsageError: it cannot be written.
    """
    from higgs_image.errors import UsageError

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("ab").close()
        if path.is_file() and not path.is_symlink():  # not a device
            path.unlink()
    except OSError as error:
        raise UsageError(
            f"{flag} {path} cannot be written: {error.strerror}", "name another file"
        ) from None


@dataclass(frozen=True)
class SmokeFlags(FlagGroup):
    """Flags of a smoke test, wherever it runs."""

    HELP: ClassVar = {
        "device": "gpu: real weights; cpu: the CPU device and random weights; auto (default)",
        "timeout": "seconds until the server has to be healthy (default: 1800 on a GPU, 300 on a "
        "CPU)",
        "json": "write the record to this file, too",
        "junit": "write a JUnit report to this file, too",
    }

    device: str = "auto"
    timeout: float = 0
    json: str | None = None
    junit: str | None = None


_FLAGS = SmokeFlags()
_ONLY = {"only": "run only this check; can be given several times; a pass needs all of them"}


@task(
    values={"json": PATH},
    positional=["image"] if names_an_image(sys.argv) else [],
    iterable=["only"],
    help={
        "image": "name or digest of the image, also without the flag: ./inv smoke IMAGE (default: "
        "the one that was built last)",
        "gpus": "ids of GPUs, such as 0,1 (default: all)",
        "keep": "leave the container behind, stopped",
        "shm_size": "size of /dev/shm, such as 2g (default: the host's IPC namespace on a GPU)",
        "cache": "volume or folder for the real weights (default: the volume higgs-audio-weights)",
        "bench": "end with a short benchmark, whose figures go into the record",
    }
    | _ONLY,
)
def smoke(
    _: Context,
    out: Output,
    only: list[str],
    image: str | None = None,
    flags: SmokeFlags = _FLAGS,
    gpus: str = "all",
    keep: bool = False,
    shm_size: str = "",
    cache: str = "higgs-audio-weights",
    bench: bool = False,
) -> None:
    """Start an image as a user would and test it: pass (0), fail (1) or inconclusive (41)."""
    from higgs_image.bench.smoke_check import BENCH
    from higgs_image.smoke import session

    options = session.SmokeOptions(
        image=image or "",
        device=flags.device,
        gpus=gpus,
        timeout=flags.timeout,
        keep=keep,
        shm_size=shm_size,
        cache=cache,
        only=frozenset(only),
        more=(BENCH,) if bench else (),
    )
    _run(out, session.run, options, flags)


@task(
    values={"json": PATH, "cache": PATH},
    iterable=["only"],
    help={
        "image": "folder of an OCI layout, or name of an image in a registry (default: the one "
        "that was built last)",
        "cache": "folder for the real weights (default: build/gpu-weights)",
    }
    | _ONLY,
)
def gpu_check(
    _: Context,
    out: Output,
    only: list[str],
    image: str | None = None,
    flags: SmokeFlags = _FLAGS,
    cache: str | None = None,
) -> None:
    """Test an image as smoke does, on a machine without Docker, such as a rented GPU."""
    from higgs_image.smoke import gpu_check as unpacked
    from higgs_image.smoke.session import SmokeOptions

    options = SmokeOptions(
        image=image or "",
        device=flags.device,
        timeout=flags.timeout,
        cache=cache or "",
        only=frozenset(only),
    )
    _run(out, unpacked.run, options, flags)


def _run(
    out: Output,
    test: Callable[[Workspace, SmokeOptions], tuple[Record, Path]],
    options: SmokeOptions,
    flags: SmokeFlags,
) -> NoReturn:
    """Run a smoke test, print its record, write copies of it, and end with its exit code."""
    from higgs_image.errors import SMOKE_EXIT_CODES
    from higgs_image.smoke import report

    wanted = ((flags.json, "--json", "record.json"), (flags.junit, "--junit", "junit.xml"))
    copies = [(Path(x), flag, name) for x, flag, name in wanted if x]
    for path, flag, _ in copies:
        require_writable(path, flag)
    record, folder = test(current_workspace(), options)
    for path, _, name in copies:
        path.write_bytes((folder / name).read_bytes())
    text = f"{report.text(record)}\nevidence {folder}"
    out.result(record, text, (folder / "report.md").read_text(encoding="utf-8"))
    sys.exit(SMOKE_EXIT_CODES[record.verdict])
