"""Present a record to a person and to a CI system."""

from __future__ import annotations

from pathlib import Path

from higgs_image import table
from higgs_image.smoke.diagnosis import printable
from higgs_image.smoke.record import CheckResult, Record
from higgs_image.verdict import Verdict

MARKS = {Verdict.PASS: "pass", Verdict.FAIL: "FAIL", Verdict.INCONCLUSIVE: "?"}
LOG = "server.log"
TAIL, LONGEST = 40, 300
"""Lines of the log that a report shows, and characters of each."""
_LOG_END = "<details><summary>End of the server's log</summary><pre>\n{}\n</pre></details>\n"
DECLARATION = b'<?xml version="1.0" encoding="utf-8"?>\n'


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
    """Return the report as text for a terminal."""
    rows = [
        (MARKS[check.verdict], check.name, f"{check.seconds:.1f} s",
         " ".join((check.reason or _figures(check)).split()))
        for check in record.checks
    ]  # fmt: skip
    device = record.device
    name = f"{device.count} x {device.name}" + (f", driver {device.driver}" * bool(device.driver))
    return "\n".join([
        table.text(rows, right=[2]),
        "",
        f"image    {record.image.reference}",
        f"digest   {record.image.digest or 'none: it was never in a registry'}",
        f"device   {device.kind}: {name}",
        f"time     {record.seconds:.0f} s",
        *([f"open     {_undecided(record)}"] if _undecided(record) else []),
        *([_kept(record)] if record.container.get("kept") else []),
        f"verdict  {record.verdict}" + (f": {record.reason}" if record.reason else ""),
    ])  # fmt: skip


def _undecided(record: Record) -> str:
    """Return the optional checks that a pass leaves undecided."""
    if not record.passed:
        return ""
    undecided = (x for x in record.checks if x.verdict == Verdict.INCONCLUSIVE and not x.required)
    return ", ".join(check.name for check in undecided)


def _kept(record: Record) -> str:
    name = str(record.container["id"])[:12]
    status = record.container.get("status", "")
    return f"kept     container {name} ({status}): docker start {name}; docker rm --force {name}"


def markdown(record: Record, log: str = "") -> str:
    """Return the report for a job's summary.

    Args:
        record: to report.
        log: the end of the server's log, shown if the verdict is not pass.
    """
    rows = [
        (MARKS[check.verdict], check.name + ("" if check.required else " (optional)"),
         f"{check.seconds:.1f}", _cell(check.reason or _figures(check)))
        for check in record.checks
    ]  # fmt: skip
    device = record.device
    escaped = log.replace("&", "&amp;").replace("<", "&lt;")
    return "\n".join([
        f"## Smoke test: {record.verdict}",
        "",
        *([_cell(record.reason), ""] if record.reason else []),
        f"`{record.image.reference}` on {device.kind} ({device.count} x {device.name}), "
        f"{record.seconds:.0f} s, digest `{record.image.digest}`",
        "",
        table.markdown(("", "check", "s", "result"), rows),
        *(["", f"Not decided on a {device.kind}: {_undecided(record)}"] * bool(_undecided(record))),
        "",
        *([_LOG_END.format(escaped)] if log and not record.passed else []),
    ])  # fmt: skip


def junit(record: Record) -> bytes:
    """Return the report as JUnit XML; an undecided check counts as skipped."""
    from junitparser import Failure, Skipped, TestCase, TestSuite

    suite = TestSuite("smoke")
    suite.timestamp = record.started.isoformat()
    for check in record.checks:
        case = TestCase(check.name, "smoke", check.seconds)
        if check.verdict == Verdict.FAIL:
            case.result = [Failure(printable(check.reason))]
        elif check.verdict == Verdict.INCONCLUSIVE:
            case.result = [Skipped(printable(check.reason))]
        if check.measured:
            case.system_out = printable(_figures(check))
        suite.add_testcase(case)
    suite.update_statistics()  # type: ignore[no-untyped-call]  # junitparser has no types
    suite.time = record.seconds
    text: bytes = suite.tostring()  # type: ignore[no-untyped-call]  # as above
    return DECLARATION + text


def _figures(check: CheckResult) -> str:
    return ", ".join(f"{name} {value}" for name, value in check.measured.items())


def _cell(value: str) -> str:
    return printable(value).replace("<", "&lt;")
