"""Tags of the journal's records, which tell order, event and outcome without reading a record.

    journal-20261124T120000123456Z-promote-4f2a9c1-0c1d2e
            time (UTC)             event   digest  random

A record that announces the move of a tag is followed by one more, which says how it ended
(`...-0c1d2e.done`). So the list of tags alone shows what is under way.

The time in the tag gives the order. Clocks differ between machines: a record that follows another
one is never given an earlier time there than that; its `at` is what the clock said.
"""

from __future__ import annotations

import datetime
import logging
import re
import secrets
from collections.abc import Iterable

from higgs_image.release.records import ABANDONED, DONE, LOST, Outcome, OutcomeName, Record

log = logging.getLogger(__name__)

_TAG = re.compile(
    r"journal-(?P<time>\d{8}T\d{12}Z)-(?P<event>[a-z]+)-(?P<digest>[0-9a-f]{7})-(?P<id>[0-9a-f]{6})"
    r"(?:\.(?P<outcome>[a-z]+))?"
)
OUTCOMES: tuple[OutcomeName, ...] = (DONE, LOST, ABANDONED)
_TIME = "%Y%m%dT%H%M%S%fZ"


def tag_for(record: Record, tags: Iterable[str] = ()) -> str:
    """Return the tag under which a record is written.

    Args:
        record: what is written.
        tags: existing ones: the new one sorts behind all of the journal, also where this
            machine's clock is behind. A rollback would otherwise go back to the wrong image.
    """
    if isinstance(record, Outcome):
        return f"{record.of}.{record.outcome}"
    event = record.__struct_config__.tag
    when = record.at.astimezone(datetime.UTC)
    times = [match["time"] for tag in tags if (match := _TAG.fullmatch(tag))]
    if times and (newest := _parsed(max(times))) >= when:
        log.info("journal: this machine's clock is behind the newest record, of %s", newest)
        when = newest + datetime.timedelta(microseconds=1)
    return f"journal-{when.strftime(_TIME)}-{event}-{record.digest[7:14]}-{secrets.token_hex(3)}"


def _parsed(time: str) -> datetime.datetime:
    return datetime.datetime.strptime(time, _TIME).replace(tzinfo=datetime.UTC)


def is_record(tag: str) -> bool:
    """Tell whether a tag is one of the journal's."""
    return _TAG.fullmatch(tag) is not None


def event_of(tag: str) -> str:
    """Return the event in a record's tag; empty for any other tag and for outcomes."""
    match = _TAG.fullmatch(tag)
    return match["event"] if match and not match["outcome"] else ""


def is_move(tag: str) -> bool:
    """Tell whether a tag is that of an announced move of a floating tag."""
    return event_of(tag) in ("promote", "rollback")


def pushed_at(tags: Iterable[str]) -> dict[str, str]:
    """Return the time of the last push by the first digits of the digest."""
    found = (match for tag in sorted(tags) if event_of(tag) == "push"
             and (match := _TAG.fullmatch(tag)))  # fmt: skip
    return {match["digest"]: match["time"] for match in found}


def outcomes(tags: Iterable[str]) -> dict[str, OutcomeName | None]:
    """Return each announced move in a list of tags with its outcome; None: it is under way."""
    all_tags = set(tags)
    return {
        tag: next((x for x in OUTCOMES if f"{tag}.{x}" in all_tags), None)
        for tag in sorted(filter(is_move, all_tags))
    }


def disagreement(tag: str, record: Record) -> str:
    """Return how a record contradicts the tag under which it was found; empty if it does not."""
    match = _TAG.fullmatch(tag)
    if match is None:
        return "its tag is not one of the journal's"
    if isinstance(record, Outcome):
        wanted = f"{record.of}.{record.outcome}"
        return "" if tag == wanted else f"expected the tag {wanted}"
    if match["outcome"] or record.__struct_config__.tag != match["event"]:
        return (
            f"expected a record of the event {match['event']}, got {record.__struct_config__.tag}"
        )
    if record.digest[7:14] != match["digest"]:
        return f"expected a digest that begins with {match['digest']}, got {record.digest}"
    if record.at > _parsed(match["time"]):
        return f"expected a time up to {match['time']}, got {record.at:{_TIME}}"
    return ""
