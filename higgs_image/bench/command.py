"""The whole of `./inv bench`: measure, compare, and write the files."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from higgs_image.bench import compare, html_page, report, result, session
from higgs_image.bench.compare import MARGIN, Comparison
from higgs_image.bench.options import BenchOptions
from higgs_image.bench.result import BenchResult
from higgs_image.errors import SMOKE_EXIT_CODES
from higgs_image.files import write_atomically
from higgs_image.verdict import Verdict

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BenchRun:
    """What a run measured, and where its files are.

    Attributes:
        results: of the server, then of the one beside it.
        comparison: with the baseline, or with the server beside it.
        decides: the comparison decides on the exit code.
        folder: of the files.
    """

    results: list[BenchResult]
    comparison: Comparison | None
    decides: bool
    folder: Path

    @property
    def exit_code(self) -> int:
        """By the comparison with a baseline; inconclusive if the tool was the limit anywhere."""
        verdicts = {x.verdict for one in self.results for x in one.levels} - {Verdict.FAIL}
        if self.comparison and self.decides:
            verdicts.add(self.comparison.verdict)
        worst = (Verdict.FAIL, Verdict.INCONCLUSIVE)
        return SMOKE_EXIT_CODES[next((x for x in worst if x in verdicts), Verdict.PASS)]

    def as_json(self) -> dict[str, Any]:
        """Return all of it for a program."""
        return {
            "results": [msgspec.to_builtins(x) for x in self.results],
            "comparison": msgspec.to_builtins(self.comparison),
            "folder": str(self.folder),
        }

    def text(self) -> str:
        """Return it as a person reads it in a terminal."""
        parts = [report.text(x) for x in self.results]
        parts += [compare.text(self.comparison)] if self.comparison else []
        return "\n\n".join([*parts, f"files    {self.folder}"])

    def markdown(self) -> str:
        """Return it as Markdown."""
        parts = [report.markdown(x) for x in self.results]
        parts += [compare.markdown(self.comparison)] if self.comparison else []
        return "\n".join(parts)


def run(
    options: BenchOptions,
    folder: Path,
    *,
    baseline: Path | None = None,
    against: str = "",
    margin: float = MARGIN,
) -> BenchRun:
    """Measure a server, compare it, and write JSON, its schema, Markdown and a page.

    Args:
        options: of the benchmark.
        folder: takes a folder for this run.
        baseline: result of an earlier run.
        against: URL of a server that is measured beside it.
        margin: share by which a figure may be worse.

    Raises:
        NetworkError: a server does not answer.
        UsageError: the baseline cannot be read.
    """
    old = result.load(baseline) if baseline else None
    peers = []
    if against:
        target = msgspec.structs.replace(options.target, url=against, model="")
        peers = [dataclasses.replace(options, target=target)]
    results = session.run(options, *peers)
    comparison = None
    if old or peers:
        comparison = compare.compare(old or results[1], results[0], margin)
    place = folder / f"{results[0].started:%Y%m%dT%H%M%SZ}"
    done = BenchRun(results, comparison, old is not None, place)
    for number, one in enumerate(results):
        result.save(one, place / ("result.json" if not number else "against.json"))
    write_atomically(place / "schema.json", msgspec.json.encode(result.schema()))
    write_atomically(place / "report.md", done.markdown().encode())
    write_atomically(place / "report.html", html_page.render(results, comparison).encode())
    return done
