"""Records of the journal prove themselves; one that is damaged is named."""

from __future__ import annotations

import datetime
import json
import subprocess
import sys
from typing import Any

import pytest

from higgs_image.errors import RegistryError
from higgs_image.oci import read_back
from higgs_image.release import record_tags, records
from higgs_image.release.actor import Actor
from higgs_image.release.journal import Journal
from higgs_image.release.records import Outcome, Promote, Push, Record, Smoke
from higgs_image.verdict import Verdict
from higgs_image.workspace import PROJECT

AT = datetime.datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=datetime.UTC)
DIGEST, OTHER = "sha256:" + "a" * 64, "sha256:" + "b" * 64
BY = Actor("ann", machine="m", process="1:2")
PROMOTE = Promote(DIGEST, AT, BY, "custom", OTHER, "20260101-abcdef0-1234567", "d" * 64)
RECORDS: list[Record] = [
    Push(DIGEST, AT, BY, "20260101-abcdef0-1234567", "gzip", "d" * 64, "c" * 40, True, 5),
    Smoke(DIGEST, AT, BY, "gpu", Verdict.PASS, "NVIDIA L40S", 12.0, {"a.b": 1.5}),
    PROMOTE,
    Outcome(DIGEST, AT, BY, record_tags.tag_for(PROMOTE), records.DONE),
]


class FakeRepository:
    """Holds the manifests of records."""

    name = "r.example/image"

    def __init__(self) -> None:
        self.manifests: dict[str, dict[str, Any]] = {}

    def manifest(self, what: str) -> dict[str, Any] | None:
        return self.manifests.get(what)

    def tags(self) -> list[str]:
        return sorted(self.manifests)

    def reference(self, what: str) -> str:
        return f"{self.name}:{what}"

    def each(self, read: Any, items: Any) -> list[Any]:
        return list(map(read, items))


def kept(record: Record, *, checksum: bool = True) -> tuple[Journal, FakeRepository, str]:
    repository: Any = FakeRepository()
    tag = record_tags.tag_for(record)
    annotations = records.encode(record)
    if not checksum:
        del annotations[records.RECORD_SHA256]
    repository.manifests[tag] = {"annotations": annotations}
    return Journal(repository), repository, tag


@pytest.mark.parametrize("record", RECORDS, ids=lambda x: type(x).__name__)
@pytest.mark.parametrize("checksum", [True, False])
def test_a_record_is_read_as_it_was_written(record: Record, checksum: bool) -> None:
    history, _, tag = kept(record, checksum=checksum)
    assert history.record(tag) == record


@pytest.mark.parametrize("record", RECORDS, ids=lambda x: type(x).__name__)
def test_one_changed_letter_anywhere_is_noticed(record: Record) -> None:
    history, repository, tag = kept(record)
    annotations = repository.manifests[tag]["annotations"]
    text = annotations[records.RECORD]
    for place in range(len(text)):
        changed = text[:place] + ("y" if text[place] != "y" else "z") + text[place + 1 :]
        repository.manifests[tag] = {"annotations": annotations | {records.RECORD: changed}}
        with pytest.raises(RegistryError, match=tag):
            history.record(tag)


def changed(record: Record, **values: object) -> str:
    return json.dumps(json.loads(records.encode(record)[records.RECORD]) | values)


CONTRADICTIONS: dict[str, tuple[dict[str, object], str]] = {
    "another digest": ({"digest": OTHER}, "begins with aaaaaaa"),
    "another event": ({"event": "rollback"}, "of the event promote"),
    "later than its tag": ({"at": "2026-01-03T00:00:00Z"}, "expected a time up to"),
    "no digest": ({"digest": "sha256:aaaaaaa"}, "digest"),
    "no previous digest": ({"previous": "b" * 64}, "previous"),
    "no tag": ({"moving": "custom tag"}, "moving"),
    "no time zone": ({"at": "2026-01-02T03:04:05"}, "at"),
    "unknown field": ({"previos": OTHER}, "previos"),
}


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_an_old_record_that_contradicts_itself_is_named(case: str) -> None:
    """Records of earlier versions have no checksum; tag, digest and values must agree."""
    values, reason = CONTRADICTIONS[case]
    history, repository, tag = kept(PROMOTE)
    repository.manifests[tag] = {"annotations": {records.RECORD: changed(PROMOTE, **values)}}
    with pytest.raises(RegistryError, match=reason) as caught:
        history.record(tag)
    assert f"r.example/image:{tag}" in caught.value.message and caught.value.hint


def test_an_outcome_belongs_to_its_move() -> None:
    outcome = RECORDS[-1]
    assert isinstance(outcome, Outcome)
    assert record_tags.disagreement(f"{outcome.of}.done", outcome) == ""
    assert "expected the tag" in record_tags.disagreement(f"{outcome.of}.lost", outcome)


def test_the_others_are_read_beside_a_damaged_one() -> None:
    history, repository, tag = kept(PROMOTE)
    good = record_tags.tag_for(RECORDS[0])
    repository.manifests[good] = {"annotations": records.encode(RECORDS[0])}
    repository.manifests[tag] = {"annotations": {}}
    entries, damaged = history.read_all()
    assert [x.tag for x in entries] == [good]
    assert len(damaged) == 1 and tag in damaged[0].message
    with pytest.raises(RegistryError, match=tag):
        history.read()


def test_a_record_that_is_listed_before_it_can_be_read_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """docker-registry lists a tag before it has written what it names: two at once meet that."""
    monkeypatch.setattr(read_back, "INTERVAL", 0.01)
    history, repository, tag = kept(PROMOTE)
    answers = [None, None, repository.manifests[tag]]
    monkeypatch.setattr(repository, "manifest", lambda _: answers.pop(0))
    assert history.record(tag) == PROMOTE
    assert not answers


THREADS = """
import threading
from higgs_image.release import records
from higgs_image.release.records import Promote
text = {records.RECORD: %r}
barrier = threading.Barrier(16)
def read():
    barrier.wait()
    assert isinstance(records.decode(text), Promote)
threads = [threading.Thread(target=read) for _ in range(16)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


def test_many_threads_decode_the_first_records_of_a_process() -> None:
    """msgspec makes a type's decoder on first use, which is not safe in several threads."""
    assert records._DECODER.type == Record
    script = THREADS % records.encode(PROMOTE)[records.RECORD]
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", script], cwd=PROJECT, capture_output=True)
        assert done.returncode == 0, done.stderr
