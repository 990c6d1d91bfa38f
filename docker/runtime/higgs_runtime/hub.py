"""Downloads weights from the Hugging Face hub: resumed, checked, and with plain words on errors.

`huggingface_hub` does the transfers. What it leaves open is done here: the sizes are known before
anything is fetched, so that a disk that is too small is refused at once; every file is compared
with its hash; what may pass is tried again; and the log has a line now and then instead of a bar.

Imported only when something has to be downloaded: the library takes a third of a second.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeVar

from higgs_runtime import log, weights
from higgs_runtime.errors import (
    BadSetting,
    DiskTooSmall,
    HubBusy,
    HubNotFound,
    HubRefused,
    NoNetwork,
    Refused,
    WeightsDamaged,
)
from higgs_runtime.weights import Wanted

# Read by huggingface_hub when it is imported. Its Xet transfers start a broken file anew and keep a
# second copy in a cache of their own; plain HTTP goes on where it broke off.
os.environ.setdefault("HF_HUB_DISABLE_XET", "1")
# Templates for pods set this; the package is not in the image, and cannot go on with a file.
os.environ.pop("HF_HUB_ENABLE_HF_TRANSFER", None)
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_DOWNLOAD_TIMEOUT", "30")

import requests
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
RESERVE = 200_000_000
"""Bytes that must stay free beside the weights."""
WAITS = (1.0, 2.0, 5.0, 10.0, 20.0)
"""Seconds between the attempts at one thing."""
LONGEST_WAIT = 120.0
"""Seconds that a hub may ask us to wait."""
ASK_SECONDS = 20.0
"""Time for a connection, and for an answer: the library would wait for ever."""
PROGRESS_SECONDS = 10.0
WORKERS = 8

sleep = time.sleep

T = TypeVar("T")


class File(NamedTuple):
    """A file of a repository, as the hub describes it.

    Attributes:
        name: path in the repository.
        size: in bytes.
        sha256: of a large file's content; None for a small one.
        blob: git's object id of a small file.
    """

    name: str
    size: int
    sha256: str | None
    blob: str


class Snapshot(NamedTuple):
    """A repository at one commit."""

    entry: Wanted
    commit: str
    files: tuple[File, ...]

    @property
    def size(self) -> int:
        """All files together, in bytes."""
        return sum(file.size for file in self.files)


def download(
    missing: list[Wanted], cache: Path, progress: Callable[[str], None]
) -> dict[Wanted, Path]:
    """Fetch what is missing and check it.

    Args:
        missing: repositories that are not complete.
        cache: the hub's cache.
        progress: is told what is going on.

    Returns:
        Each with the folder of its snapshot.

    Raises:
        Refused: the first thing that made it impossible.
    """
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its retries are told here
    api = HfApi()  # takes HF_TOKEN and HF_ENDPOINT from the environment
    progress("asking the hub for the list of weights")
    try:
        snapshots = [describe(api, entry) for entry in missing]
        require_room(snapshots, cache)
        return {x.entry: _fetch(x, cache, progress) for x in snapshots}
    except OSError as error:
        if error.errno in DISK_FULL:
            raise _full(error) from None
        raise BadSetting(
            f"weights cannot be downloaded to {cache}: {error}",
            "set what this names (by HF_HOME or another variable) to what is there and can be used",
        ) from None


def describe(api: HfApi, entry: Wanted) -> Snapshot:
    """Ask the hub which files a revision has, with sizes and hashes."""

    def ask() -> Snapshot:
        info = api.model_info(
            entry.repo, revision=entry.revision, files_metadata=True, timeout=ASK_SECONDS
        )
        files = [
            File(x.rfilename, x.size or 0, x.lfs.sha256 if x.lfs else None, x.blob_id or "")
            for x in info.siblings or ()
        ]
        if not info.sha or not files:
            raise HubNotFound(
                f"the hub has no files in {entry.repo} at {entry.revision}", _hint(entry)
            )
        return Snapshot(entry, info.sha, tuple(files))

    return _retried(entry, ask)


def require_room(snapshots: list[Snapshot], cache: Path) -> None:
    """Refuse to begin a download that cannot end.

    Raises:
        DiskTooSmall: saying how much is needed and free.
    """
    needed = sum(x.size - _present(x, cache) for x in snapshots)
    place = cache
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < needed + RESERVE:
        raise DiskTooSmall(
            f"the weights need {_gb(needed + RESERVE)} GB free at {cache}, {_gb(free)} GB are",
            "give the container or its volume a larger disk (20 GB are enough), or set HF_HOME to "
            "a folder on another one",
        )


def _fetch(snapshot: Snapshot, cache: Path, progress: Callable[[str], None]) -> Path:
    entry = snapshot.entry
    started, before = time.monotonic(), _present(snapshot, cache)
    name = f"{entry.what} {entry.repo} at {snapshot.commit[:7]}"
    resumed = f", {_gb(before)} are there" if before else ""
    log.info(f"downloading {name}: {_gb(snapshot.size)} GB{resumed}")

    def fetch() -> Path:
        _drop_too_long(snapshot, cache)
        return Path(
            snapshot_download(
                entry.repo, revision=snapshot.commit, cache_dir=cache, max_workers=WORKERS
            )
        )

    with _reporting(snapshot, cache, progress):
        for last in (False, True):
            folder = _retried(entry, fetch, lambda: _present(snapshot, cache))
            bad = damaged(snapshot, folder)
            if not bad:
                break
            for path in bad:
                log.warning(f"{path.name} is not what the hub says it is: fetching it again")
                path.resolve().unlink(missing_ok=True)
                path.unlink(missing_ok=True)
            if last:
                raise WeightsDamaged(
                    f"{bad[0].name} of {entry.repo} was damaged in two downloads",
                    "check the disk and the proxy between here and the hub, then start again",
                )
    if entry.revision != snapshot.commit:
        reference = weights.repo_folder(entry.repo, cache) / "refs" / entry.revision
        reference.parent.mkdir(parents=True, exist_ok=True)
        reference.write_text(snapshot.commit)
    weights.write_record(
        entry.repo, snapshot.commit, cache, {file.name: file.size for file in snapshot.files}
    )
    seconds = time.monotonic() - started
    log.info(f"downloaded and checked {name} in {seconds:.0f} s")
    return folder


def damaged(snapshot: Snapshot, folder: Path) -> list[Path]:
    """Return the files that differ in size or hash from what the hub says."""

    def bad(file: File) -> bool:
        path = folder / file.name
        if not path.is_file() or path.stat().st_size != file.size:
            return True
        if file.sha256:
            digest = hashlib.sha256()
            expected = file.sha256
        elif file.blob:
            digest = hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)
            expected = file.blob
        else:
            return False
        with path.open("rb") as data:
            while chunk := data.read(4 << 20):
                digest.update(chunk)
        return digest.hexdigest() != expected

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(bad, snapshot.files))
    return [folder / x.name for x, broken in zip(snapshot.files, results, strict=True) if broken]


def _drop_too_long(snapshot: Snapshot, cache: Path) -> None:
    """Remove a partial file that is longer than the whole: it cannot be gone on with."""
    for file in snapshot.files:
        blobs = weights.repo_folder(snapshot.entry.repo, cache) / "blobs"
        partial = blobs / f"{file.sha256 or file.blob}.incomplete"
        if partial.exists() and partial.stat().st_size > file.size:
            partial.unlink()


def _present(snapshot: Snapshot, cache: Path) -> int:
    """Return how many bytes of a snapshot are on the disk, finished or not."""
    blobs = weights.repo_folder(snapshot.entry.repo, cache) / "blobs"
    total = 0
    for file in snapshot.files:
        for name in (file.sha256 or file.blob, f"{file.sha256 or file.blob}.incomplete"):
            try:
                total += min((blobs / name).stat().st_size, file.size)
                break
            except OSError:
                continue
    return total


@contextmanager
def _reporting(snapshot: Snapshot, cache: Path, progress: Callable[[str], None]) -> Iterator[None]:
    """Say every ten seconds how far a download is."""
    done = threading.Event()
    before, started = _present(snapshot, cache), time.monotonic()

    def report() -> None:
        last = started
        while not done.wait(1.0):
            now, there = time.monotonic(), _present(snapshot, cache)
            rate = (there - before) / (now - started)
            share = 100 * there // max(snapshot.size, 1)
            text = f"{snapshot.entry.what}: {_gb(there)} of {_gb(snapshot.size)} GB, {share} %"
            progress(f"downloading the {text}")
            if now - last >= PROGRESS_SECONDS:
                last = now
                left = f", {(snapshot.size - there) / rate:.0f} s left" if rate > 0 else ""
                log.info(f"{text}, {rate / 1e6:.0f} MB/s{left}")

    thread = threading.Thread(target=report, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _retried(entry: Wanted, attempt: Callable[[], T], there: Callable[[], int] = lambda: 0) -> T:
    """Try again what may pass; translate what does not.

    Args:
        entry: what it is about.
        attempt: what is tried.
        there: how far it has come; as long as that grows, nothing is given up.
    """
    failures, reached = 0, there()
    while True:
        try:
            return attempt()
        except Refused:
            raise
        except Exception as error:  # the library lets through what is below it, too
            refusal, asked = explain(entry, error)
            if refusal is None:
                raise
            before, reached = reached, there()
            failures = 0 if reached > before else failures
            if failures == len(WAITS) or not isinstance(refusal, HubBusy | NoNetwork):
                raise refusal from None
            pause = min(max(WAITS[failures], asked), LONGEST_WAIT)
            failures += 1
            log.warning(f"{refusal.message}: trying again in {pause:.0f} s")
            sleep(pause)


def explain(entry: Wanted, error: BaseException) -> tuple[Refused | None, float]:
    """Say plainly what a failure means.

    Returns:
        The refusal, None if the error is none of the hub's or the network's; and the seconds that
        the hub asks us to wait.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in DISK_FULL:
            return _full(cause), 0.0
        if isinstance(cause, HfHubHTTPError | requests.HTTPError):
            if cause.response is not None:
                return _by_status(entry, cause.response)
            cause = cause.__cause__ or cause.__context__  # it stands for another error
            continue
        if isinstance(cause, OfflineModeIsEnabled):
            return NoNetwork("HF_HUB_OFFLINE is set", "unset it, or set HIGGS_OFFLINE=1"), 0.0
        broken = isinstance(cause, requests.exceptions.ChunkedEncodingError) or (
            isinstance(cause, OSError) and "Consistency check failed" in str(cause)
        )
        if isinstance(cause, requests.RequestException) or broken:
            host = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
            what = "broke off an answer" if broken else f"cannot be reached ({_kind(cause)})"
            return NoNetwork(
                f"{host} {what}",
                "check the network, name server and proxy of this machine; with the weights on a "
                "volume HIGGS_OFFLINE=1 needs no network",
            ), 0.0
        cause = cause.__cause__ or cause.__context__
    return None, 0.0


def _kind(error: BaseException) -> str:
    return {"ConnectTimeout": "timeout", "ReadTimeout": "timeout", "SSLError": "certificate",
            "ProxyError": "proxy"}.get(type(error).__name__, "no connection")  # fmt: skip


def _full(error: OSError) -> DiskTooSmall:
    return DiskTooSmall(
        f"the disk is full at {error.filename or 'the cache of the weights'}",
        "give the container or its volume a larger disk (20 GB are enough), then start again: "
        "what is there is kept",
    )


def _by_status(entry: Wanted, response: requests.Response) -> tuple[Refused | None, float]:
    status, code = response.status_code, response.headers.get("X-Error-Code", "")
    what = f"{entry.repo} at {entry.revision}"
    if code == "GatedRepo":
        return HubRefused(
            f"{entry.repo} is gated ({status})",
            f"accept its licence at https://huggingface.co/{entry.repo} and set HF_TOKEN to a "
            "token of that account",
        ), 0.0
    if status == 404:
        return HubNotFound(f"the hub has no {what} (404)", _hint(entry)), 0.0
    if status == 401 and "Authorization" in response.request.headers:
        return HubRefused(
            f"the hub does not accept the token in HF_TOKEN, or it may not read {entry.repo} (401)",
            f"set HF_TOKEN to a valid one, or unset it: pinned weights need none; {_hint(entry)}",
        ), 0.0
    if status == 401:
        return HubRefused(
            f"the hub wants a login for {entry.repo}, or has no such repository (401)",
            f"set HF_TOKEN to a valid token that may read it; {_hint(entry)}",
        ), 0.0
    if status == 403:
        return HubRefused(
            f"the account of HF_TOKEN may not read {entry.repo} (403)",
            "use a token with read access to it",
        ), 0.0
    if status == 429:
        return HubBusy(
            "the hub limits the requests from this address (429)",
            "wait some minutes, or set HF_TOKEN: accounts have higher limits",
        ), _seconds(response.headers.get("Retry-After"))
    if status >= 500 or status in (408, 416):
        return HubBusy(
            f"the hub failed with {status} for {entry.repo}", "see https://status.huggingface.co, "
            "then start again: what is there is kept",
        ), _seconds(response.headers.get("Retry-After"))  # fmt: skip
    return HubNotFound(f"the hub answers {status} for {what}", _hint(entry)), 0.0


def _seconds(header: str | None) -> float:
    return float(header) if header and header.isdigit() else 0.0


def _hint(entry: Wanted) -> str:
    variable = {"model": "HIGGS_MODEL", "audio tokenizer": "HIGGS_AUDIO_TOKENIZER"}.get(entry.what)
    if variable is None:
        return "this image may be too old: use a newer one"
    return f"check {variable} and {variable}_REVISION"


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f}"
