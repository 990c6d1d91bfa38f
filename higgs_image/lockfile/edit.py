"""Edits of versions.lock that keep every other byte: comments, order and layout."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomlkit
from tomlkit.items import Table

from higgs_image.files import write_atomically
from higgs_image.lockfile.load import parse
from higgs_image.lockfile.schema import Lock

Value = str | datetime.datetime


def write(path: Path, values: Mapping[str, Value | None], *, comments: bool = True) -> Lock:
    """Change values of versions.lock in place, atomically.

    The date, which is part of the tag, becomes today's.

    Args:
        path: the file.
        values: key, such as `weights[0].revision`, to its new value; None removes the key.
        comments: keep the comment behind a changed value; False: it was about the old value.

    Raises:
        LockError: the result is not valid; the file is left unchanged.
    """
    document = tomlkit.parse(path.read_bytes().decode())
    for key, value in values.items():
        *steps, name = re.findall(r"[^.\[\]]+", key)
        table: Any = document
        for step in steps:
            table = table[int(step) if step.isdecimal() else step]
        if value is None:
            table.pop(name, None)
        elif name in table or not isinstance(table, Table):
            table[name] = value
        else:
            _append(table, name, value)
        if value is not None and not comments and name in table and isinstance(table, Table):
            changed: Any = table.value.item(name)
            changed.trivia.comment_ws = changed.trivia.comment = ""
    document["date"] = datetime.datetime.now(datetime.UTC).date()
    data = tomlkit.dumps(document).encode()
    lock = parse(path, data)
    write_atomically(path, data)
    return lock


def _append(table: Table, name: str, value: Value) -> None:
    """Add a key behind the table's last one; tomlkit adds it behind the next table's comment."""
    body = table.value.body
    last = max((i for i, (key, _) in enumerate(body) if key is not None), default=-1)
    before = body[last][1].trivia if last >= 0 else table.trivia
    item = tomlkit.item(value)
    item.trivia.trail, before.trail = before.trail, before.trail or "\n"
    body.insert(last + 1, (tomlkit.key(name), item))
