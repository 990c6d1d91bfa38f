"""One HTML page with everything in it: tables and plots, without any request to a server."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from higgs_image.bench import compare, plots, report
from higgs_image.bench.compare import Comparison
from higgs_image.bench.result import BenchResult, Level

TEMPLATE = Path(__file__).with_name("page.html.j2")


def render(results: Sequence[BenchResult], comparison: Comparison | None = None) -> str:
    """Return the page.

    Args:
        results: of one server, or of several that were measured side by side.
        comparison: of two of them, or with a baseline.
    """
    import jinja2

    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=True
    )
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        heads=report.HEADS,
        servers=[_server(x) for x in results],
        plots=plots.over_load(results),
        comparison=comparison,
        comparison_heads=compare.HEADS,
        comparison_rows=compare.rows(comparison) if comparison else [],
    )


def _server(result: BenchResult) -> dict[str, Any]:
    return {
        "result": result,
        "line": report.server_line(result),
        "rows": [report.row(x) for x in result.levels],
        "remarks": report.remarks(result),
        "facts": _facts(result),
        "levels": [_level(x) for x in result.levels],
    }


def _level(level: Level) -> dict[str, Any]:
    last = level.rounds[-1]
    return {
        "name": level.load.text(),
        "plots": [plots.gaps(last, level.load.text()), plots.timeline(last, level.load.text())],
    }


def _facts(result: BenchResult) -> list[tuple[str, str]]:
    server, client, settings = result.server, result.client, result.settings
    versions = ", ".join(f"{name} {value}" for name, value in client.versions.items())
    found = [
        ("image", server.image), ("digest", server.digest or ""),
        ("GPU", f"{server.gpus or 1} x {server.gpu}" if server.gpu else ""),
        ("driver", server.driver), ("server's version", server.version),
        ("models", ", ".join(server.models)), ("arguments", " ".join(server.flags)),
        ("start", server.start_line), ("note", server.note), ("SLO", result.slo.text()),
        ("measured", report.duration(settings)), ("texts", report.mix(settings)),
        ("voices", "cloned" if settings.cloned else ", ".join(settings.voices)),
        ("seed", str(settings.seed)), ("player's buffer", f"{settings.buffer_s:g} s"),
        ("client", f"{client.processor}, {client.cores} cores, {client.system}, {versions}"),
        ("commit of the tool", client.commit),
        ("own lag", report.own_lag(result)),
    ]  # fmt: skip
    return [(name, value) for name, value in found if value]
