"""What a person and a program get of a result."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import jsonschema
import msgspec
import pytest

from higgs_image.bench import cards, compare, html_page, performance, report, result
from higgs_image.bench.cost import cost
from higgs_image.bench.load import Load
from higgs_image.bench.server_facts import ServerFacts
from higgs_image.errors import UsageError
from higgs_image.verdict import Verdict
from tests.unit.bench.made import made_result, made_round

GOOD = made_result([made_round()])


def test_json_keeps_to_its_schema_and_is_read_again(tmp_path: Path) -> None:
    result.save(GOOD, tmp_path / "r.json")
    jsonschema.validate(json.loads((tmp_path / "r.json").read_text()), result.schema())
    assert result.load(tmp_path / "r.json") == GOOD


@pytest.mark.parametrize(
    ("change", "says"),
    [('"schema": 1|"schema": 2', "expected schema 1, got 2"), ('"levels"|"level"', "unknown field"),
     ("{|", "object")],
)  # fmt: skip
def test_other_files_are_refused(change: str, says: str, tmp_path: Path) -> None:
    old, _, new = change.partition("|")
    path = tmp_path / "r.json"
    path.write_text(result.encode(GOOD).decode().replace(old, new, 1))
    with pytest.raises(UsageError, match=says):
        result.load(path)


def test_row_has_every_figure() -> None:
    shown = dict(zip(report.HEADS, report.row(GOOD.levels[0]), strict=True))
    assert shown["load"] == "8 at once"
    assert (shown["audio s/s"], shown["tokens/s"]) == ("20.00", "500")
    assert shown["first sound p50"] == "200 ms"
    assert shown["SLO"] == "pass"


def test_limited_round_has_no_figures_anywhere() -> None:
    limited = made_result([made_round(limited_by="its event loop was 9 ms late")])
    assert report.row(limited.levels[0])[3:] == ["-"] * 10 + ["inconclusive"]
    for shown in (report.text(limited), report.markdown(limited), html_page.render([limited])):
        assert "the tool was the limit: its event loop was 9 ms late" in shown
        assert "20.00" not in shown


def test_failures_are_shown_with_an_example() -> None:
    bad = made_result([made_round(failures={"cut": 3})])
    assert "cut: why" in report.text(bad)
    assert bad.levels[0].verdict is Verdict.FAIL
    assert bad.levels[0].reason == "3.0 % of the requests failed"


def test_page_asks_no_other_host_and_escapes_what_a_server_says() -> None:
    server = ServerFacts("<script>alert(1)</script>", gpu="NVIDIA L40S")
    two = made_result([made_round(first=0.4)], Load(32))
    many = msgspec.structs.replace(GOOD, server=server, levels=[*GOOD.levels, *two.levels])
    page = html_page.render([many, GOOD], compare.compare(GOOD, GOOD))
    assert "<script" not in page
    assert page.count("<svg") == 2 + 2 * 3
    assert not re.search(r"""(src|href)=["'](?!#)""", page.replace("xlink:href", "href"))
    assert "default-src 'none'" in page


def test_price_of_the_card_gives_the_cost() -> None:
    found = cost(GOOD.levels, None, "NVIDIA L40S", 2)
    assert found
    assert (found.dollars_per_hour, found.audio_hours_per_dollar) == (1.58, 12.66)
    assert found.date == "2026-03-10" and "RunPod" in found.source


def test_given_price_counts_more_and_no_price_gives_no_cost() -> None:
    found = cost(GOOD.levels, 0.5, "NVIDIA L40S", 1)
    assert found and found.audio_hours_per_dollar == 40.0
    assert cost(GOOD.levels, None, "NVIDIA Unknown", 1) is None
    bad = made_result([made_round(smooth=0.5)])
    assert cost(bad.levels, 0.5, "", 1) is None  # no load kept the SLO


@pytest.mark.parametrize(
    ("product", "name"),
    [("NVIDIA L40S", "L40S"), ("NVIDIA L4", "L4"), ("NVIDIA H100 80GB HBM3", "H100 80 GB"),
     ("NVIDIA A100-SXM4-40GB", "A100 40 GB"), ("NVIDIA GeForce RTX 4090", "RTX 4090")],
)  # fmt: skip
def test_card_is_found_by_its_product_name(product: str, name: str) -> None:
    found = cards.find(product)
    assert found and found.name == name


def test_every_price_has_a_source_and_a_date() -> None:
    assert [x.name for x in cards.cards() if x.dollars_per_hour and not (x.source and x.date)] == []


def test_published_run_is_in_the_table_of_cards(tmp_path: Path) -> None:
    folder = tmp_path / performance.RESULTS
    folder.mkdir(parents=True)
    assert performance.card_table(tmp_path).count("not measured") == len(cards.cards())
    result.save(GOOD, folder / "bench-2026-11-27-l40s.json")
    table = performance.card_table(tmp_path)
    assert table.count("not measured") == len(cards.cards()) - 1
    assert "| L40S | 48 GB | 500 | 20.0 | 0.24 s | 8 at once |" in table
    assert "bench-2026-11-27-l40s.json) | NVIDIA L40S | 8 at once |" in performance.run_table(
        tmp_path
    )
    shutil.rmtree(folder)
