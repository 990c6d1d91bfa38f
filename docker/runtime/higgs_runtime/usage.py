"""The text of --help."""

from __future__ import annotations

import textwrap

from higgs_runtime.image import ImageFacts
from higgs_runtime.settings_table import TABLE

WIDTH, NAMES = 80, 31
"""Columns of a screen, and of the variables' names."""


def help_text(image: ImageFacts | None) -> str:
    """Return what --help prints: one screen."""
    lines = [
        f"Higgs Audio v2 speech server, image {image.tag if image else '(unknown)'}",
        "",
        "  docker run --gpus all -p 8000:8000 IMAGE [SERVER FLAGS]     serve",
        "  docker run -it IMAGE bash                                   any other command",
        "",
        f"{'Variable':<{NAMES}}Meaning (allowed values) [default]",
    ]
    for setting in TABLE:
        meaning = setting.meaning.partition(" (")[0]
        default = "" if setting.default == "none" else f" [{setting.default}]"
        text = f"{setting.name:<{NAMES}}{meaning} ({setting.allowed}){default}"
        lines += textwrap.wrap(text, WIDTH, subsequent_indent=NAMES * " ", break_on_hyphens=False)
    lines += [
        "",
        "A flag wins over its variable; docs/configuration.md lists both. All flags:",
        "  docker run IMAGE python3 -m vllm.entrypoints.bosonai.api_server --help",
        "GET /ping: 204 while loading, 200 when ready. Speech: POST /v1/audio/speech.",
    ]
    return "\n".join(lines)
