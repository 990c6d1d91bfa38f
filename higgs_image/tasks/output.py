"""What every task shares: settings, progress on standard error, results on standard output."""

from __future__ import annotations

import dataclasses
import datetime
import errno
import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from higgs_image.errors import INTERRUPTED, DiskFullError, FileAccessError, HiggsError

if TYPE_CHECKING:
    from invoke.context import Context

log = logging.getLogger(__name__)

JSON_HELP = "print the result as JSON, and nothing else, on standard output"


def setting(context: Context, name: str, flag: str | None = None) -> str:
    """Return a setting: flag, then NAME in the environment, then Invoke's own order.

    That order is INVOKE_NAME, then invoke.yaml.
    """
    value = flag or os.environ.get(name.upper()) or context.get(name)
    return str(value or "")


class Output:
    """Where a task puts its result."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json

    def result(self, value: Any, text: str, markdown: str = "") -> None:
        """Print a result: `text` for a person, `value` as JSON for a program.

        In a workflow the job's summary gets it, too: `markdown`, or else the text.
        """
        if markdown or text:
            summarise(markdown or f"```\n{text}\n```")
        if self.as_json:
            print(json.dumps({"ok": True} | plain(value), indent=2))
        elif text:
            print(text)


def summarise(markdown: str) -> None:
    """Append to the summary of the workflow's job; elsewhere do nothing."""
    if path := os.environ.get("GITHUB_STEP_SUMMARY"):
        try:
            with Path(path).open("a", encoding="utf-8") as file:
                file.write(f"{markdown}\n")
        except OSError as error:  # what the task did is done, and its result is printed
            log.info("GITHUB_STEP_SUMMARY=%s: %s; no summary is written", path, error.strerror)


def plain(value: Any) -> Any:
    """Turn dataclasses, structs and paths into what JSON knows."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if hasattr(value, "__struct_fields__"):
        kind = value.__struct_config__  # a record of the journal says which it is
        named = {kind.tag_field: kind.tag} if kind.tag_field else {}
        return named | {name: plain(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return str(value) if isinstance(value, Path | datetime.date) else value


@contextmanager
def output(json: bool = False) -> Iterator[Output]:
    """Run a task's body: progress goes to standard error, errors become exit codes.

    An error is printed with its hint, or as JSON with `ok: false`.
    """
    logger = logging.getLogger("higgs_image")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.handlers[:] = [handler]
    logger.setLevel(logging.DEBUG if os.environ.get("HIGGS_DEBUG") else logging.INFO)
    try:
        yield Output(as_json=json)
    except HiggsError as error:
        fail(error, as_json=json)
    except KeyboardInterrupt:
        print("\ninterrupted: finished steps are kept; run again to continue", file=sys.stderr)
        if json:
            fail(_Interrupted("interrupted", "run again to continue"), as_json=True)
        sys.exit(INTERRUPTED)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            fail(DiskFullError(str(error), "free disk space, then run again"), as_json=json)
        elif error.errno in _NO_ACCESS and error.filename is not None:
            hint = f"make {error.filename} accessible to this user, then run again"
            fail(FileAccessError(str(error), hint), as_json=json)
        raise


_NO_ACCESS = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST,
    errno.ENAMETOOLONG, errno.ELOOP,
)  # fmt: skip


class _Interrupted(HiggsError):
    exit_code = INTERRUPTED


def fail(error: HiggsError, *, as_json: bool) -> None:
    """Print an error and end with its exit code."""
    summarise(f"```\nerror: {error.message}\n  hint: {error.hint}\n```")
    if as_json:
        body = {"type": type(error).__name__, "message": error.message, "hint": error.hint,
                "exit_code": error.exit_code, "transient": error.transient}  # fmt: skip
        print(json.dumps({"ok": False, "error": body}, indent=2))
    else:
        print(f"error: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"  hint: {error.hint}", file=sys.stderr)
    sys.exit(error.exit_code)
