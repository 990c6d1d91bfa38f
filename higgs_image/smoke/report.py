"""What a record looks like to a person and to a CI system."""

from __future__ import annotations

import textwrap
from pathlib import Path
from xml.etree import ElementTree as xml

from higgs_image.smoke.diagnosis import printable
from higgs_image.smoke.record import Check, Record

MARKS = {"pass": "pass", "fail": "FAIL", "inconclusive": "?"}
LOG = "server.log"
TAIL, LONGEST = 40, 300
"""Lines of the log that a report shows, and characters of each."""


def save(record: Record, folder: Path) -> None:
    """Write the report beside the record and the log: report.md and junit.xml."""
    text = markdown(record, _end_of(folder / LOG))
    (folder / "report.md").write_text(text, encoding="utf-8")
    (folder / "junit.xml").write_bytes(junit(record))


def _end_of(log: Path) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 4 * TAIL * LONGEST))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    return "\n".join(printable(line[:LONGEST]) for line in lines[-TAIL:])


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
        *([f"open     {_undecided(record)}"] if _undecided(record) else []),
        *([_kept(record)] if record.container.get("kept") else []),
        f"verdict  {record.verdict}{ending}",
    ])  # fmt: skip


def _undecided(record: Record) -> str:
    """Return what a pass leaves open: the checks that could not decide, and are not required."""
    if not record.passed:
        return ""
    names = [x.name for x in record.checks if x.verdict == "inconclusive" and not x.required]
    return ", ".join(names)


def _kept(record: Record) -> str:
    name = str(record.container["id"])[:12]
    status = record.container.get("status", "")
    return f"kept     container {name} ({status}): docker start {name}; docker rm --force {name}"


def markdown(record: Record, log: str = "") -> str:
    """Return the report for a job's summary.

    Args:
        record: what it is about.
        log: the end of the server's log, shown where the verdict is not pass.
    """
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
        *(["", f"Not decided on a {device.kind}: {_undecided(record)}"] * bool(_undecided(record))),
        "",
        *([_details("End of the server's log", log)] if log and not record.passed else []),
    ])  # fmt: skip


def _details(title: str, text: str) -> str:
    escaped = text.replace("&", "&amp;").replace("<", "&lt;")
    return f"<details><summary>{title}</summary><pre>\n{escaped}\n</pre></details>\n"


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
            xml.SubElement(case, "failure", message=printable(check.reason))
        elif check.verdict == "inconclusive":
            xml.SubElement(case, "skipped", message=printable(check.reason))
        if check.measured:
            xml.SubElement(case, "system-out").text = printable(_figures(check))
    return bytes(xml.tostring(suite, encoding="utf-8", xml_declaration=True)) + b"\n"


def _figures(check: Check) -> str:
    return ", ".join(f"{name} {value}" for name, value in check.measured.items())


def _cell(value: str) -> str:
    return printable(value).replace("|", "\\|").replace("<", "&lt;")
