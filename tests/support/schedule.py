"""Which tests one worker of pytest-xdist runs, and which ones are started first.

pytest-xdist's own groups (`--dist=loadgroup`) are not used: 3.8 writes them into the ids of tests,
which pytest 9.2 does not read any more, and runs the tests of a group anywhere.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

from higgs_image import retry

TOGETHER = {
    "tests/fork/": "real",
    "tests/gpu/": "real",
    "tests/engine/release/test_tasks.py": "no-cache",
    "tests/engine/smoke/test_ends.py": "ends",
    "tests/engine/smoke/test_gpu_check.py": "sandbox",
    "tests/engine/test_compose.py": "compose",
    "tests/engine/test_demo.py": "demo",
    "tests/engine/test_generate.py": "generate",
    "tests/engine/test_no_cache.py": "no-cache",
    "tests/engine/test_rolling.py": "rolling",
    "tests/engine/test_runtime.py": "runtime",
    "tests/engine/test_service.py": "service",
    "tests/unit/bench/test_report.py": "matplotlib",
    "tests/unit/bench/test_smoke_check.py": "bench",
    "tests/unit/bench/test_truth.py": "bench",
    "tests/unit/cloud/test_pod_ends.py": "warm",
    "tests/unit/lockfile/test_audit.py": "warm",
    "tests/unit/runtime/test_download.py": "hub",
    "tests/unit/runtime/test_hub_errors.py": "hub",
    "tests/unit/runtime/test_weights.py": "hub",
}
"""How ids begin, and the group that one worker runs: the tests share an image that takes long to
build, or containers' names, or a processor that does nothing else, or a process with libraries
(tests/support/warm.py); or they build without a cache."""

FIRST = (
    *("tests/fork/", "tests/gpu/"),
    *("tests/engine/test_no_cache.py", "tests/engine/release/test_tasks.py"),
    "tests/engine/release/",  # without the base image, which takes half a minute
    *("tests/engine/test_base_image.py", "tests/engine/test_build.py"),
    *("tests/engine/test_", "tests/unit/bench/test_truth.py", "tests/unit/cloud/test_pod_ends.py"),
    "tests/engine/",
)
"""How the ids begin of the tests that are started first: long ones, so that no worker has to wait
at the end for another one's long test."""


def place(nodeid: str) -> int:
    """Return where a test comes: its place in FIRST."""
    return next((n for n, start in enumerate(FIRST) if nodeid.startswith(start)), len(FIRST))


@contextlib.contextmanager
def first_worker_first(config: pytest.Config) -> Iterator[None]:
    """Let the first worker compile the tests, which in a fresh clone takes most of their start.

    The others read what it has compiled; where an earlier run did, they need not wait.
    """
    worker = getattr(config, "workerinput", {}).get("workerid")
    if not worker or all(map(_is_compiled, _files(config))):
        yield
        return
    collected = Path(config.option.basetemp).parent / "collected"
    if worker != "gw0":
        retry.wait_until(collected.exists, 60)
    yield
    if worker == "gw0":
        collected.touch()


def _files(config: pytest.Config) -> Iterator[Path]:
    for argument in config.args:
        path = config.rootpath / argument.partition("::")[0]
        yield from path.rglob("test_*.py") if path.is_dir() else [path]


def _is_compiled(path: Path) -> bool:
    name = f"{path.stem}.{sys.implementation.cache_tag}-pytest-{pytest.__version__}.pyc"
    return (path.parent / "__pycache__" / name).exists()


class GroupScheduling(LoadScopeScheduling):  # type: ignore[misc] # it has no types
    """Hands out groups, and every other test alone, in the order of collection."""

    def __init__(self, config: pytest.Config, log: Producer | None = None) -> None:
        super().__init__(config, log)
        config.option.loadscopereorder = False

    def mark_test_complete(
        self, node: WorkerController, item_index: int, duration: float = 0
    ) -> None:
        """Forget a group that is done: all that a worker was given is counted after each test."""
        super().mark_test_complete(node, item_index, duration)
        scope = self._split_scope(self.registered_collections[node][item_index])
        if all(self.assigned_work[node][scope].values()):
            del self.assigned_work[node][scope]

    def _split_scope(self, nodeid: str) -> str:
        return next((x for start, x in TOGETHER.items() if nodeid.startswith(start)), nodeid)
