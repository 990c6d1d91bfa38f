"""Renders the tables of docs/ from the code: settings and exit codes of the image and the pipeline.

A table is between two marker comments in a page whose other text is written by hand.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from higgs_image import errors, table
from higgs_image.bench import performance
from higgs_image.errors import DriftError
from higgs_image.files import write_atomically
from higgs_image.workspace import PROJECT

PAGES = ("docs/configuration.md", "docs/exit-codes.md", "docs/performance.md")


@dataclass(frozen=True)
class RenderedDocs:
    """The result of `render`.

    Attributes:
        changed: pages whose tables differed from the code.
    """

    changed: list[str]


def render(root: Path, *, check: bool = False) -> RenderedDocs:
    """Bring the tables of all pages up to date.

    Args:
        root: the checkout.
        check: change nothing, and raise instead.

    Raises:
        DriftError: a page is out of date, or lacks a marker.
    """
    tables = {
        "settings": _settings(),
        "gpu-defaults": _gpu_defaults(),
        "image-codes": _image_codes(),
        "codes": _pipeline_codes(),
        "cards": performance.card_table(root),
        "runs": performance.run_table(root),
    }
    changed = []
    used: set[str] = set()
    for name in PAGES:
        page = root / name
        old = page.read_text(encoding="utf-8")
        used.update(re.findall(_MARKERS, old))
        new = re.sub(_MARKERS, lambda match: _marked(match[1], tables), old)
        if new != old:
            changed.append(name)
            if not check:
                write_atomically(page, new.encode())
    if missing := tables.keys() - used:
        raise DriftError(
            f"no page of docs/ has the marker of {min(missing)}",
            f"add <!-- generated: {min(missing)} --> and <!-- end -->",
        )
    if changed and check:
        raise DriftError(f"out of date: {', '.join(changed)}", "run ./inv docs")
    return RenderedDocs(changed)


_MARKERS = re.compile(r"<!-- generated: ([\w-]+) -->.*?<!-- end -->", re.DOTALL)


def _marked(name: str, tables: dict[str, str]) -> str:
    if name not in tables:
        raise DriftError(f"docs/ names an unknown table: {name}", f"use {', '.join(tables)}")
    return f"<!-- generated: {name} -->\n\n{tables[name]}\n\n<!-- end -->"


def _from_image(name: str) -> ModuleType:
    """Import a module of the image: they are outside this package."""
    for folder in ("docker/runtime", "docker/patches", "docker/generate"):
        if str(PROJECT / folder) not in sys.path:
            sys.path.append(str(PROJECT / folder))
    return importlib.import_module(name)


def _settings() -> str:
    """Return one table for each group of settings, of the entrypoint and of the patches."""
    groups: dict[str, list[list[str]]] = {}
    for x in _from_image("higgs_runtime.settings_table").TABLE:
        flag = f"`{x.flag}`" if x.flag else ""
        row = [f"`{x.name}`", flag, x.default, x.allowed, x.meaning]
        groups.setdefault(x.group, []).append(row)
    for group, module in (
        ("Requests", "higgs_patches.patch_settings"), ("POST /generate", "higgs_generate.settings"),
    ):  # fmt: skip
        groups[group] = [
            [f"`{x.variable}`", "", x.default or "none", x.values, x.meaning]
            for x in _from_image(module).SETTINGS
        ]
    heads = ("variable", "flag", "default", "allowed", "meaning")
    return "\n\n".join(
        f"### {name}\n\n{table.markdown(heads, rows)}" for name, rows in groups.items()
    )


def _gpu_defaults() -> str:
    memory = _from_image("higgs_runtime.gpu_memory")
    heads = ("memory", "engine's share", "tokens of a request", "requests at once", "reference",
             "audio tokenizer")  # fmt: skip
    rows = [
        [
            f"{max(24, -(-x.memory // 8_000) * 8)} GB or more",  # as cards are sold
            f"{x.utilization:.2f}",
            str(x.max_model_len),
            str(x.max_num_seqs),
            f"{x.reference_seconds} s",
            f"{memory.CODEC + memory.codec_growth(x.reference_seconds):.0f} MiB",
        ]
        for x in _from_image("higgs_runtime.gpu").DEFAULTS
    ]
    return table.markdown(heads, rows)


def _codes(module: ModuleType, base: type[Exception]) -> dict[int, str]:
    """Return the exit codes that a module's exceptions define, with their docstrings."""
    return {
        x.__dict__["exit_code"]: (inspect.getdoc(x) or "").partition("\n\n")[0].replace("\n", " ")
        for x in vars(module).values()
        if isinstance(x, type) and issubclass(x, base) and x is not base and "exit_code" in vars(x)
    }


def _code_table(codes: dict[int, str]) -> str:
    return table.markdown(("code", "meaning"), [(str(x), codes[x]) for x in sorted(codes)])


def _image_codes() -> str:
    module = _from_image("higgs_runtime.errors")
    codes = _codes(module, module.StartError)
    codes[0] = "The container was stopped by a signal."
    codes[module.SERVER_ENDED] = (
        "The server exited without an error and without having been stopped. Any other code is "
        "the server's own."
    )
    codes[module.GENERATE_ENDED] = (
        "The service of `/generate` ended again and again, soon after each start."
    )
    codes[137] = "The server was killed: usually its engine died, or the host ran out of memory."
    return _code_table(codes)


def _pipeline_codes() -> str:
    codes = _codes(errors, errors.HiggsError)
    codes[1] = "A check failed (`smoke`, `doctor`), or an unexpected error occurred."
    codes[errors.SMOKE_EXIT_CODES["inconclusive"]] = "The smoke test was inconclusive."
    codes[errors.INTERRUPTED] = "The command was interrupted with Ctrl-C."
    return _code_table(codes)
