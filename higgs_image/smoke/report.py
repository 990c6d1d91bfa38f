"""What a record looks like to a person and to a CI system."""

from __future__ import annotations

import textwrap
from pathlib import Path
from xml.etree import ElementTree as xml

from higgs_image.smoke.record import Check, Record

MARKS = {"pass": "pass", "fail": "FAIL", "inconclusive": "?"}


def save(record: Record, folder: Path) -> None:
    """Write the report beside the record: report.md and junit.xml."""
    (folder / "report.md").write_text(markdown(record), encoding="utf-8")
    (folder / "junit.xml").write_bytes(junit(record))


def text(record: Record) -> str:
    """Return a table for the terminal."""
    width = max(len(check.name) for check in record.checks)
    lines = []
    for check in record.checks:
        head = f"{MARKS[check.verdict]:<5}{check.name:<{width}} {check.seconds:>6.1f} s  "
        said = check.reason or _figures(check)
        lines += textwrap.wrap(
            head + said, 110, subsequent_indent=" " * len(head), break_long_words=False
        ) or [head]  # fmt: skip
    device = record.device
    name = f"{device.count} x {device.name}" + (f", driver {device.driver}" * bool(device.driver))
    ending = f": {record.reason}" if record.reason else ""
    return "\n".join([
        *lines,
        "",
        f"image    {record.image.reference}",
        f"digest   {record.image.digest or 'none: it was never in a registry'}",
        f"device   {device.kind}: {name}",
        f"time     {record.seconds:.0f} s",
        f"verdict  {record.verdict}{ending}",
    ])  # fmt: skip


def markdown(record: Record) -> str:
    """Return the report for a job's summary."""
    rows = [
        f"| {MARKS[check.verdict]} | {check.name}{'' if check.required else ' (optional)'} "
        f"| {check.seconds:.1f} | {_cell(check.reason or _figures(check))} |"
        for check in record.checks
    ]
    device = record.device
    return "\n".join([
        f"## Smoke test: {record.verdict}",
        "",
        *([_cell(record.reason), ""] if record.reason else []),
        f"`{record.image.reference}` on {device.kind} ({device.count} x {device.name}), "
        f"{record.seconds:.0f} s, digest `{record.image.digest}`",
        "",
        "| | check | s | seen |",
        "|---|---|---|---|",
        *rows,
        "",
    ])  # fmt: skip


def junit(record: Record) -> bytes:
    """Return the report as JUnit XML; what could not be decided counts as skipped."""
    counts = {verdict: 0 for verdict in MARKS}
    for check in record.checks:
        counts[check.verdict] += 1
    suite = xml.Element(
        "testsuite",
        name="smoke",
        tests=str(len(record.checks)),
        failures=str(counts["fail"]),
        skipped=str(counts["inconclusive"]),
        time=f"{record.seconds:.1f}",
        timestamp=record.started.isoformat(),
    )
    for check in record.checks:
        case = xml.SubElement(
            suite, "testcase", classname="smoke", name=check.name, time=f"{check.seconds:.2f}"
        )
        if check.verdict == "fail":
            xml.SubElement(case, "failure", message=_plain(check.reason))
        elif check.verdict == "inconclusive":
            xml.SubElement(case, "skipped", message=_plain(check.reason))
        if check.measured:
            xml.SubElement(case, "system-out").text = _plain(_figures(check))
    return bytes(xml.tostring(suite, encoding="utf-8", xml_declaration=True)) + b"\n"


def _figures(check: Check) -> str:
    return ", ".join(f"{name} {value}" for name, value in check.measured.items())


def _cell(value: str) -> str:
    return _plain(value).replace("|", "\\|").replace("<", "&lt;")


def _plain(value: str) -> str:
    """Take out what neither XML nor a table can hold."""
    return "".join(x if x.isprintable() else " " for x in value)
