"""Explains failures of the Hugging Face hub, the network and the disk in plain terms.

Imported only for a download, after the environment has been prepared: see `download`.
"""

from __future__ import annotations

import errno
import os
from typing import NamedTuple

import requests
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

from higgs_runtime.cache import WeightsRepo
from higgs_runtime.errors import (
    DiskTooSmallError,
    HubAccessError,
    HubBusyError,
    HubNotFoundError,
    HubUnreachableError,
    StartError,
)

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


class HubFailure(NamedTuple):
    """An explained failure.

    Attributes:
        error: what to report.
        retry_after: seconds that the hub asks to wait; 0 if it does not say.
    """

    error: StartError
    retry_after: float = 0.0


def explain(entry: WeightsRepo, error: BaseException) -> HubFailure | None:
    """Return what a failure means; None if neither hub, network nor disk caused it."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in DISK_FULL:
            return HubFailure(disk_full(cause))
        if isinstance(cause, HfHubHTTPError | requests.HTTPError) and cause.response is not None:
            return _by_status(entry, cause.response)
        if isinstance(cause, OfflineModeIsEnabled):
            return HubFailure(
                HubUnreachableError("HF_HUB_OFFLINE is set", "unset it, or set HIGGS_OFFLINE=1")
            )
        wrapper = isinstance(cause, HfHubHTTPError | requests.HTTPError)  # of another error
        broken = isinstance(cause, requests.exceptions.ChunkedEncodingError) or (
            isinstance(cause, OSError) and "Consistency check failed" in str(cause)
        )
        if not wrapper and (broken or isinstance(cause, requests.RequestException)):
            host = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
            what = "broke off an answer" if broken else f"cannot be reached ({_kind(cause)})"
            return HubFailure(
                HubUnreachableError(
                    f"{host} {what}",
                    "check the network, DNS and proxy of this machine; if the weights are on a "
                    "volume, HIGGS_OFFLINE=1 needs no network",
                )
            )
        cause = cause.__cause__ or cause.__context__
    return None


def _kind(error: BaseException) -> str:
    names = {
        "ConnectTimeout": "timeout",
        "ReadTimeout": "timeout",
        "SSLError": "certificate",
        "ProxyError": "proxy",
    }
    return names.get(type(error).__name__, "no connection")


def disk_full(error: OSError) -> DiskTooSmallError:
    """Return the error for a write that failed for lack of space."""
    return DiskTooSmallError(
        f"the disk is full at {error.filename or 'the cache of the weights'}",
        "give the container or its volume a larger disk (20 GB are enough), then start again: "
        "files that are complete are kept",
    )


def _by_status(entry: WeightsRepo, response: requests.Response) -> HubFailure:
    status, wait = response.status_code, response.headers.get("Retry-After", "")
    retry_after = float(wait) if wait.isdigit() else 0.0
    if status == 429:
        return HubFailure(
            HubBusyError(
                "the hub limits the requests from this address (429)",
                "wait some minutes, or set HF_TOKEN: accounts have higher limits",
            ),
            retry_after,
        )
    if status >= 500 or status in (408, 416):
        return HubFailure(
            HubBusyError(
                f"the hub failed with {status} for {entry.repo}",
                "see https://status.huggingface.co, then start again: complete files are kept",
            ),
            retry_after,
        )
    return HubFailure(_final(entry, response))


def _final(entry: WeightsRepo, response: requests.Response) -> StartError:
    """Return the error for an answer that a retry would not change."""
    status = response.status_code
    what = f"{entry.repo} at {entry.revision}"
    if response.headers.get("X-Error-Code") == "GatedRepo":
        return HubAccessError(
            f"{entry.repo} is gated ({status})",
            f"accept its licence at https://huggingface.co/{entry.repo} and set HF_TOKEN to a "
            "token of that account",
        )
    if status == 404:
        return HubNotFoundError(f"the hub does not have {what} (404)", revision_hint(entry))
    if status == 401 and "Authorization" in response.request.headers:
        return HubAccessError(
            f"the hub rejects the token in HF_TOKEN, or it may not read {entry.repo} (401)",
            "set HF_TOKEN to a valid token, or unset it: the pinned weights need none; "
            + revision_hint(entry),
        )
    if status == 401:
        return HubAccessError(
            f"the hub requires a login for {entry.repo}, or the repository does not exist (401)",
            f"set HF_TOKEN to a valid token that may read it; {revision_hint(entry)}",
        )
    if status == 403:
        return HubAccessError(
            f"the account of HF_TOKEN may not read {entry.repo} (403)",
            "use a token with read access to it",
        )
    return HubNotFoundError(f"the hub answered {status} for {what}", revision_hint(entry))


def revision_hint(entry: WeightsRepo) -> str:
    """Return which variables to check if a repository or revision does not exist."""
    variables = {"model": "HIGGS_MODEL", "audio tokenizer": "HIGGS_AUDIO_TOKENIZER"}
    variable = variables.get(entry.role)
    if variable is None:
        return "this image may be too old: use a newer one"
    return f"check {variable} and {variable}_REVISION"
