"""Downloads weights from the Hugging Face hub.

`huggingface_hub` does the transfers, with resume and locks. This module adds what it lacks: the
sizes are compared with the free disk space first; every file is compared with its hash; transient
failures are retried; and the log has a progress line now and then instead of a progress bar.

Imported only if something has to be downloaded: the library takes a third of a second.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

# huggingface_hub reads these when it is imported. Xet transfers restart a broken file and keep a
# second copy in another cache; plain HTTP resumes.
os.environ.setdefault("HF_HUB_DISABLE_XET", "1")
# Set by templates for pods; the package is not in the image, and cannot resume.
os.environ.pop("HF_HUB_ENABLE_HF_TRANSFER", None)
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_DOWNLOAD_TIMEOUT", "30")

from huggingface_hub import HfApi, snapshot_download

from higgs_runtime import cache, log
from higgs_runtime.cache import WeightsRepo
from higgs_runtime.errors import (
    DiskTooSmallError,
    HubBusyError,
    HubNotFoundError,
    HubUnreachableError,
    SettingError,
    StartError,
    WeightsDamagedError,
)
from higgs_runtime.hub_errors import DISK_FULL, disk_full, explain, revision_hint
from higgs_runtime.snapshot import HubFile, HubSnapshot, damaged

RESERVE = 200_000_000
"""Bytes that must stay free beside the weights."""
WAITS = (1.0, 2.0, 5.0, 10.0, 20.0)
"""Seconds between attempts."""
LONGEST_WAIT = 120.0
"""Longest time in seconds to wait when the hub asks for it."""
API_SECONDS = 20.0
"""Timeout of a request for metadata: the library's default is none."""
PROGRESS_SECONDS = 10.0
WORKERS = 8

sleep = time.sleep

T = TypeVar("T")


def download(
    missing: list[WeightsRepo], folder: Path, report: Callable[[str], None]
) -> dict[WeightsRepo, Path]:
    """Download and check what is missing.

    Args:
        missing: repositories that are not complete.
        folder: the hub's cache.
        report: is called with what happens now.

    Returns:
        The folder of each snapshot.

    Raises:
        StartError: the first failure.
    """
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # retries are logged here
    api = HfApi()  # takes HF_TOKEN and HF_ENDPOINT from the environment
    report("asking the hub for the list of weights")
    try:
        snapshots = [describe(api, entry) for entry in missing]
        require_space(snapshots, folder)
        return {x.entry: _fetch(x, folder, report) for x in snapshots}
    except OSError as error:
        if error.errno in DISK_FULL:
            raise disk_full(error) from None
        raise SettingError(
            f"weights cannot be downloaded to {folder}: {error}",
            "correct what this names: HF_HOME, or the variable with that path",
        ) from None


def describe(api: HfApi, entry: WeightsRepo) -> HubSnapshot:
    """Return the files of a revision, with sizes and hashes."""

    def ask() -> HubSnapshot:
        info = api.model_info(
            entry.repo, revision=entry.revision, files_metadata=True, timeout=API_SECONDS
        )
        files = [
            HubFile(x.rfilename, x.size or 0, x.lfs.sha256 if x.lfs else None, x.blob_id or "")
            for x in info.siblings or ()
        ]
        if not info.sha or not files:
            raise HubNotFoundError(
                f"{entry.repo} at {entry.revision} has no files", revision_hint(entry)
            )
        return HubSnapshot(entry, info.sha, tuple(files))

    return _retry(entry, ask)


def require_space(snapshots: list[HubSnapshot], folder: Path) -> None:
    """Refuse a download for which the disk is too small.

    Raises:
        DiskTooSmallError: with the needed and the free space.
    """
    needed = RESERVE + sum(x.size - x.present(folder) for x in snapshots)
    place = folder
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < needed:
        raise DiskTooSmallError(
            f"the weights need {_gb(needed)} GB of free space at {folder}, it has {_gb(free)} GB",
            "give the container or its volume a larger disk (20 GB are enough), or set HF_HOME to "
            "a folder on another one",
        )


def _fetch(snapshot: HubSnapshot, folder: Path, report: Callable[[str], None]) -> Path:
    entry, commit = snapshot.entry, snapshot.commit
    started, before = time.monotonic(), snapshot.present(folder)
    name = f"{entry.role} {entry.repo} at {commit[:7]}"
    resumed = f", {_gb(before)} already downloaded" if before else ""
    log.info(f"downloading {name}: {_gb(snapshot.size)} GB{resumed}")

    def fetch() -> Path:
        for file in snapshot.files:  # the library cannot resume a file that is too long
            partial = snapshot.partial(file, folder)
            if partial.exists() and partial.stat().st_size > file.size:
                partial.unlink()
        return Path(
            snapshot_download(entry.repo, revision=commit, cache_dir=folder, max_workers=WORKERS)
        )

    with _progress(snapshot, folder, report):
        for last in (False, True):
            place = _retry(entry, fetch, lambda: snapshot.present(folder))
            bad = damaged(snapshot, place)
            if not bad:
                break
            if last:
                raise WeightsDamagedError(
                    f"{bad[0].name} of {entry.repo} was damaged in two downloads",
                    "check the disk and the proxy between here and the hub, then start again",
                )
            for path in bad:
                log.warning(f"{path.name} has the wrong size or hash: downloading it again")
                path.resolve().unlink(missing_ok=True)
                path.unlink(missing_ok=True)
    if entry.revision != commit:
        reference = cache.reference_file(entry.repo, entry.revision, folder)
        reference.parent.mkdir(parents=True, exist_ok=True)
        reference.write_text(commit)
    cache.write_record(
        entry.repo, commit, folder, {file.name: file.size for file in snapshot.files}
    )
    log.info(f"downloaded and checked {name} in {time.monotonic() - started:.0f} s")
    return place


@contextmanager
def _progress(snapshot: HubSnapshot, folder: Path, report: Callable[[str], None]) -> Iterator[None]:
    """Report the progress of a download, and log it every ten seconds."""
    done = threading.Event()
    before, started = snapshot.present(folder), time.monotonic()

    def watch() -> None:
        last = started
        while not done.wait(1.0):
            now, present = time.monotonic(), snapshot.present(folder)
            rate = (present - before) / (now - started)
            share = 100 * present // max(snapshot.size, 1)
            size = f"{_gb(present)} of {_gb(snapshot.size)} GB, {share} %"
            report(f"downloading the {snapshot.entry.role}: {size}")
            if now - last >= PROGRESS_SECONDS:
                last = now
                left = f", {(snapshot.size - present) / rate:.0f} s left" if rate > 0 else ""
                log.info(f"{snapshot.entry.role}: {size}, {rate / 1e6:.0f} MB/s{left}")

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _retry(entry: WeightsRepo, attempt: Callable[[], T], present: Callable[[], int] = int) -> T:
    """Retry transient failures, without limit as long as the download makes progress.

    Args:
        entry: the repository.
        attempt: what is tried.
        present: how many bytes have arrived.

    Raises:
        StartError: the failure, explained.
    """
    failures, reached = 0, present()
    while True:
        try:
            return attempt()
        except StartError:
            raise
        except Exception as error:  # the library does not wrap all errors
            failure = explain(entry, error)
            if failure is None:
                raise
            before, reached = reached, present()
            failures = 0 if reached > before else failures
            transient = isinstance(failure.error, HubBusyError | HubUnreachableError)
            if failures == len(WAITS) or not transient:
                raise failure.error from None
            pause = min(max(WAITS[failures], failure.retry_after), LONGEST_WAIT)
            failures += 1
            log.warning(f"{failure.error.message}: trying again in {pause:.0f} s")
            sleep(pause)


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f}"
