"""Tables: aligned, plain when piped, and never taken for markup."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

from higgs_image import table
from higgs_image.workspace import PROJECT

ROWS = [("pass", "1.5 s", "[red]as it is[/red]"), ("inconclusive", "12.0 s", "long " * 100)]


def test_piped_table_is_plain_and_not_folded() -> None:
    assert table.text(ROWS, right=[1]).splitlines() == [
        "pass           1.5 s  [red]as it is[/red]",
        f"inconclusive  12.0 s  {('long ' * 100).rstrip()}",
    ]


def test_empty_table() -> None:
    assert table.text([]) == ""


def test_terminal_gets_colours_and_folded_cells() -> None:
    script = f"from higgs_image import table; print(table.text({ROWS!r}))"
    parent, child = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "60"}
    environment.pop("NO_COLOR", None)
    done = subprocess.Popen(
        [sys.executable, "-c", script], stdout=child, cwd=PROJECT, env=environment
    )
    os.close(child)
    shown = b""
    while True:
        try:
            chunk = os.read(parent, 4096)
        except OSError:  # the other end was closed
            break
        if not chunk:
            break
        shown += chunk
    os.close(parent)
    assert done.wait() == 0
    assert shown.startswith(b"\x1b[32mpass")
    assert max(map(len, shown.splitlines())) < 90
