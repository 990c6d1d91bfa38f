"""Releases in a real registry: promotion, refusal, rollback, crashes, races and faults."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from higgs_image.attest import sbom
from higgs_image.checkout import Checkout
from higgs_image.errors import (
    HiggsError,
    PromotionConflictError,
    RegistryAuthError,
    RegistryConflictError,
    RegistryError,
    RegistryNotFoundError,
    RegistryUnavailableError,
    ReleaseRefusedError,
    UsageError,
)
from higgs_image.host.local_registry import LocalRegistry
from higgs_image.lockfile import Lock
from higgs_image.oci import reference, registry, skopeo
from higgs_image.oci.artifacts import Repository
from higgs_image.release import (
    evidence,
    journal,
    lease,
    notes,
    promote,
    publish,
    record_tags,
    records,
    rollback,
    status,
)
from higgs_image.release.journal import Journal
from higgs_image.release.move_plan import Moved
from higgs_image.workspace import PROJECT, Workspace
from tests.engine.test_registry import HTPASSWD, SECRET
from tests.support import small_image
from tests.support.fault_proxy import Fault, FaultProxy

from .conftest import Release, named

pytestmark = pytest.mark.engine

LABEL = "org.higgs-image."


@pytest.fixture
def second_release(release: Release) -> tuple[str, str, Moved]:
    """Two releases: both digests, and what the second promotion did."""
    first = release.push("1")
    release.promote(first)
    second = release.push(
        "2", layers=small_image.files(release.lock, ssl="3.0.16-1", content="2"),
        more={LABEL + "patches": "voices@1234567"},
    )  # fmt: skip
    return first, second, release.promote(second)


def test_promote_sets_the_floating_tag_once(release: Release) -> None:
    digest = release.push("1")
    assert release.custom() is None
    moved = release.promote(digest)
    assert moved.digest == digest == release.custom() and moved.previous is None
    assert release.promote(digest).skipped


def test_promote_says_what_it_replaced_and_how_to_undo_it(
    release: Release, second_release: tuple[str, str, Moved]
) -> None:
    first, second, moved = second_release
    assert (moved.previous, release.custom()) == (first, second)
    assert f"--to {first} --moving custom --registry" in moved.undo


def test_release_manifest_compares_with_the_previous_release(
    repository: Repository, second_release: tuple[str, str, Moved]
) -> None:
    first, _, moved = second_release
    manifest = json.loads(repository.files(moved.record)[notes.MANIFEST])
    assert manifest["previous"]["digest"] == first
    assert manifest["previous"]["package_changes"] == ["deb libssl3 3.0.15-1 -> 3.0.16-1"]
    assert manifest["smoke"][0]["figures"] == {"speech-wav.first_audio_s": 0.5}
    base, packages = manifest["layers"]
    assert (base["new"], packages["new"]) == (True, True)  # the base has another content, too


def test_release_notes_are_kept_with_the_record(
    release: Release, repository: Repository, second_release: tuple[str, str, Moved]
) -> None:
    _, second, moved = second_release
    text = repository.files(moved.record)[notes.NOTES].decode()
    assert f"docker pull {release.target}@{second}" in text and "3.0.15-1 -> 3.0.16-1" in text
    assert "voices@1234567" in text and "None" not in text.replace("None.", "")
    assert "speech-wav: first_audio_s 0.5" in text
    assert f"Upgrading from {release.lock.tag}-1 downloads" in text and "| new |" in text


def test_rollback_goes_back_and_forth(
    release: Release, repository: Repository, second_release: tuple[str, str, Moved]
) -> None:
    first, second, _ = second_release
    history = Journal(repository)
    planned = rollback.plan_rollback(history, "it hums", "custom")
    assert release.custom() == second, "a plan changes nothing"
    assert planned.move.digest == first and second in planned.undo
    assert release.rollback().digest == first == release.custom()
    with pytest.raises(ReleaseRefusedError, match="no image was promoted before"):
        rollback.plan_rollback(history, "again", "custom")
    assert release.rollback(second).digest == second == release.custom()


def test_the_journal_and_its_copy_have_every_event_in_order(
    release: Release, repository: Repository, second_release: tuple[str, str, Moved]
) -> None:
    release.rollback()
    entries = Journal(repository).read()
    assert [type(x.record).__name__ for x in entries] == [
        "Push", "Smoke", "Promote", "Push", "Smoke", "Promote", "Rollback",
    ]  # fmt: skip
    assert all(x.outcome == "done" for x in entries if x.outcome)
    lines = (release.folder / "journal").glob("*.jsonl")
    kept = [json.loads(x) for file in lines for x in file.read_text().splitlines()]
    assert [x["record"]["event"] for x in kept] == [
        "push", "promote", "outcome", "push", "promote", "outcome",
    ]  # fmt: skip
    tags = [x for x in repository.tags() if not record_tags.is_record(x)]
    assert tags == [f"{release.lock.tag}-1", f"{release.lock.tag}-2", "custom"]


REFUSED: dict[str, tuple[dict[str, object], str]] = {
    "no smoke test": ({"smoke": ""}, "no smoke test on a gpu"),
    "another device": ({"smoke": "cpu pass"}, "no smoke test on a gpu .* only on cpu"),
    "failed": ({"smoke": "gpu fail"}, "ended with fail"),
    "inconclusive": ({"smoke": "gpu inconclusive"}, "ended with inconclusive"),
    "failed later": ({"smoke": "gpu pass,gpu fail"}, "ended with fail"),
    "another base": ({"more": {LABEL + "overrides": "base-image"}}, "not the locked one"),
    "patch left out": ({"more": {LABEL + "overrides": "without-voices"}}, "patch voices was left"),
    "proxy": ({"more": {LABEL + "extra-ca-sha256": "ab"}}, "behind a proxy"),
    "marked tag": ({"tag": "20260101-abcdef0-1234567-dev-1234567"}, "marks it as overridden"),
    "dirty": ({"checkout": Checkout("c" * 40, ("x.py",))}, "differed from its commit ccccccc"),
    "no git": ({"checkout": Checkout(None)}, "outside git"),
    "another lock": ({"more": {LABEL + "lock-sha256": "f" * 64}}, "names the lock fffffff"),
    "fake fork": ({"more": {LABEL + "fork": "file:///x 1234"}}, "a fake fork"),
}
"""Options of the image to the reason against it."""


def test_a_test_on_a_cpu_alone_is_not_enough(release: Release) -> None:
    digest = release.push("1", smoke="cpu pass")
    with pytest.raises(ReleaseRefusedError, match="says nothing about kernels"):
        release.promote(digest, promote.PromotionConditions("cpu"))
    assert release.custom() is None
    assert (
        release.promote(digest, promote.PromotionConditions("cpu", rehearsal=True)).digest == digest
    )


def test_promote_refuses_an_image_whose_immutable_tag_moved(
    release: Release, repository: Repository
) -> None:
    first, second = release.push("1"), release.push("2")
    repository.point(f"{release.lock.tag}-1", second)
    with pytest.raises(ReleaseRefusedError, match=f"now points to {second}"):
        release.promote(first)
    assert release.custom() is None


def test_the_history_is_in_order_where_a_clock_is_behind(
    release: Release, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rollback would else go back to another image than the one before."""
    first, second, third = (release.push(x) for x in "123")
    release.promote(first)
    release.promote(second)
    now = records.now()
    for module in (records, lease):
        monkeypatch.setattr(module, "now", lambda: now - timedelta(hours=3))
    release.promote(third)
    history = Journal(repository)
    assert [x.record.digest for x in journal.promoted(history.read(), "custom")] == [
        first, second, third,
    ]  # fmt: skip
    assert history.read()[-1].record.at == now - timedelta(hours=3), "what the clock said is kept"
    assert release.rollback().digest == second == release.custom()


def test_the_newest_records_and_what_the_tags_name(
    release: Release, repository: Repository
) -> None:
    history = Journal(repository)
    assert status.tag_status(history) == []
    first, second = release.push("1"), release.push("2")
    release.promote(first)
    assert [type(x.record).__name__ for x in history.read(newest=2)] == ["Smoke", "Promote"]
    assert status.tag_status(history) == [f"custom names {first}"]
    repository.point("custom", second)
    by = history.read()[0].record.by
    begun = history.write(records.Promote(second, records.now(), by, "custom", first))
    (line,) = status.tag_status(history)
    assert second in line and "not finished" in line
    end = records.Outcome(second, records.now(), by, begun.tag, records.ABANDONED)
    history.write(end, tag=record_tags.tag_for(end))
    (line,) = status.tag_status(history)
    assert second in line and f"but the journal says {first}" in line
    planned = rollback.plan_rollback(history, "why", "custom")
    assert planned.move.digest == first and "no record" in planned.text()


def test_a_copy_that_cannot_be_written_stops_no_release(release: Release) -> None:
    (release.folder / "journal").write_text("in the way of a folder")
    digest = release.push("1")
    assert release.promote(digest).digest == digest == release.custom()


def test_a_torn_line_of_the_copy_is_left_alone(release: Release) -> None:
    release.push("1")
    (copy,) = (release.folder / "journal").glob("*.jsonl")
    whole = copy.read_bytes()
    copy.write_bytes(whole[:-20])
    release.push("2")
    lines = copy.read_bytes().splitlines()
    assert len(lines) == 2 and json.loads(lines[1])["record"]["event"] == "push"


@pytest.mark.parametrize("why", REFUSED)
def test_refused_image_is_promoted_only_by_force(
    release: Release, repository: Repository, why: str
) -> None:
    options, reason = REFUSED[why]
    before = release.promote(release.push("0")).digest
    digest = release.push("1", **options)  # type: ignore[arg-type]
    with pytest.raises(ReleaseRefusedError, match=reason) as caught:
        release.promote(digest)
    assert caught.value.hint and release.custom() == before
    assert "--force" in caught.value.hint
    with pytest.raises(UsageError, match="needs a reason"):
        release.promote(digest, promote.PromotionConditions(force=True))

    forced = release.promote(
        digest, promote.PromotionConditions(force=True, reason="the demo is today")
    )
    assert release.custom() == digest
    entry = Journal(repository).record(forced.record)
    assert isinstance(entry, records.Promote)
    assert entry.reason == "the demo is today" and len(entry.forced) == 1
    text = repository.files(forced.record)[notes.NOTES].decode()
    assert "**Forced although" in text and "the demo is today" in text


def test_an_image_without_push_record_is_refused(release: Release, tmp_path: Path) -> None:
    built = small_image.make(tmp_path / "foreign", release.lock)
    pushed = skopeo.push(built, release.target)
    with pytest.raises(ReleaseRefusedError, match="no record says who built it"):
        release.promote(pushed.digest)
    with pytest.raises(RegistryNotFoundError):
        release.promote("sha256:" + "0" * 64)


def test_a_rehearsal_allows_a_fake_fork_and_records_it(
    release: Release, repository: Repository
) -> None:
    more = {LABEL + "fork": "file:///x 1234", LABEL + "overrides": "base-image"}
    digest = release.push("1", smoke="cpu pass", more=more)
    rehearsal = promote.PromotionConditions("cpu", rehearsal=True)
    moved = release.promote(digest, rehearsal)
    record = Journal(repository).record(moved.record)
    assert isinstance(record, records.Promote) and record.rehearsal and not record.forced
    assert "a rehearsal, not a release" in record.describe()
    dirty = release.push("2", smoke="cpu pass", more=more, checkout=Checkout("c" * 40, ("x",)))
    with pytest.raises(ReleaseRefusedError, match="differed from its commit"):
        release.promote(dirty, rehearsal)


def test_an_immutable_tag_is_never_overwritten(release: Release) -> None:
    release.push("1", tag="20260101-abcdef0-1234567")
    with pytest.raises(RegistryConflictError, match="already names"):
        release.push("2", tag="20260101-abcdef0-1234567")


def test_a_smoke_record_of_another_image_does_not_count(
    release: Release, repository: Repository
) -> None:
    tested, other = release.push("1"), release.push("2", smoke="")
    (entry,) = [x for x in Journal(repository).of(tested) if isinstance(x.record, records.Smoke)]
    forged = replace_digest(entry.record, other)
    Journal(repository).write(
        forged, {evidence.SMOKE: (repository.files(entry.tag)[evidence.SMOKE], evidence.JSON)}
    )
    with pytest.raises(UsageError, match="not of"):
        release.promote(other)


def replace_digest(record: records.Record, digest: str) -> records.Record:
    import msgspec

    return msgspec.structs.replace(record, digest=digest)


def test_rollback_is_refused_without_reason_or_past(
    release: Release, repository: Repository
) -> None:
    history = Journal(repository)
    with pytest.raises(ReleaseRefusedError, match="never promoted"):
        rollback.plan_rollback(history, "why", "custom")
    release.promote(release.push("1"))
    with pytest.raises(UsageError, match="needs a reason"):
        rollback.plan_rollback(history, " ", "custom")
    with pytest.raises(ReleaseRefusedError, match="never named"):
        rollback.plan_rollback(history, "why", "custom", release.push("2"))


# Crashes ------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from higgs_image import lockfile, process
from higgs_image.demo import fake_fork
from higgs_image.oci import read_back
from higgs_image.oci.registry import RegistryClient
from tests.engine.release.conftest import Release
from pathlib import Path

folder, target, at = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
workspace = fake_fork.workspace_in(Path(sys.argv[4]))
writes, read_back.LAG = 0, 0.5

def counted(real, is_write):
    def call(*arguments, **options):
        global writes
        writing = is_write(*arguments)
        if writing:
            writes += 1
            if writes == at:
                os.kill(os.getpid(), signal.SIGKILL)
        done = real(*arguments, **options)
        if writing and writes == at - 100:  # killed after this write
            os.kill(os.getpid(), signal.SIGKILL)
        return done
    return call

process.run = counted(process.run, lambda command: command[0] == "skopeo" and "copy" in command)
RegistryClient.put_manifest = counted(RegistryClient.put_manifest, lambda *_: True)
release = Release(target, folder, lockfile.load(workspace.lock_file), workspace)
digest = release.push("2")
release.promote(digest)
print(writes)
"""
WRITES = 6
"""Image, push record, smoke record, announcement, the tag itself, outcome."""


def attempt(release: Release, at: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", KILLED, str(release.folder), release.target, str(at),
         str(release.workspace.lock_file.parent)],
        cwd=PROJECT, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(PROJECT)},
    )  # fmt: skip


@pytest.mark.parametrize("at", [*range(1, WRITES + 1), *range(101, 101 + WRITES)])
def test_a_crash_at_each_step_is_repaired_by_running_again(
    release: Release, repository: Repository, at: int
) -> None:
    first = release.promote(release.push("1")).digest
    crashed = attempt(release, at)
    assert crashed.returncode == -signal.SIGKILL, crashed.stderr
    assert release.custom() == first or at in (6, 105, 106)

    again = attempt(release, 0)
    assert again.returncode == 0, again.stderr
    second = release.custom()
    assert second is not None and second != first
    done = [x for x in Journal(repository).read() if isinstance(x.record, records.Promote)]
    assert None not in [x.outcome for x in done]
    assert [x.record.digest for x in done if x.outcome == "done"] == [first, second]
    pushes = [x for x in Journal(repository).of(second) if isinstance(x.record, records.Push)]
    assert len(pushes) == 1


def test_without_a_crash_there_are_that_many_writes(release: Release) -> None:
    assert attempt(release, 0).stdout.strip() == str(WRITES)


# Two at once --------------------------------------------------------------------------------


def contend(release: Release, digest: str, start: object, results: object) -> None:
    start.wait()  # type: ignore[attr-defined]
    try:
        release.promote(digest)
        results.put((digest, "won"))  # type: ignore[attr-defined]
    except PromotionConflictError as error:
        results.put((digest, f"lost: {error.message}"))  # type: ignore[attr-defined]
    except HiggsError as error:
        results.put((digest, f"error: {error.message}"))  # type: ignore[attr-defined]


@pytest.mark.parametrize("number", range(int(os.environ.get("HIGGS_RACES", "3"))))
def test_concurrent_promotions_have_one_winner(
    release: Release, repository: Repository, number: int
) -> None:
    digests = [release.push("1"), release.push("2")]
    context = multiprocessing.get_context("fork")
    start, results = context.Barrier(2), context.Queue()
    children = [
        context.Process(target=contend, args=(release, digest, start, results))
        for digest in digests
    ]
    for child in children:
        child.start()
    results_by_digest = dict(results.get(timeout=60) for _ in children)
    for child in children:
        child.join()
    winners = [digest for digest, result in results_by_digest.items() if result == "won"]
    losers = [result for result in results_by_digest.values() if result.startswith("lost")]
    assert len(winners) == 1 and len(losers) == 1, results_by_digest
    assert release.custom() == winners[0]
    moves = [x for x in Journal(repository).read() if isinstance(x.record, records.Promote)]
    assert None not in [x.outcome for x in moves]
    assert [x.record.digest for x in moves if x.outcome == "done"] == winners


# Faults -------------------------------------------------------------------------------------


@pytest.fixture
def proxy(served: LocalRegistry) -> Iterator[FaultProxy]:
    with FaultProxy(served.address) as running:
        yield running


@pytest.fixture
def behind(proxy: FaultProxy, release: Release, request: pytest.FixtureRequest) -> Release:
    """The same repository, through the proxy."""
    return replace(release, target=named(proxy.address, request))


STAYS = {
    "401": (Fault("GET|HEAD|PUT", "/manifests/", 401), RegistryAuthError),
    "403 on write": (Fault("PUT", "/manifests/", 403), RegistryAuthError),
    "404 of the image": (Fault("GET|HEAD", "/manifests/sha256:", 404), RegistryNotFoundError),
    "429": (Fault("PUT", "/manifests/", 429, headers={"Retry-After": "0"}),
            RegistryUnavailableError),
    "500": (Fault("PUT", "/manifests/", 500), RegistryUnavailableError),
    "503 on the list": (Fault("GET", "/tags/list", 503), RegistryUnavailableError),
    "reset": (Fault("PUT", "/manifests/", 0), RegistryUnavailableError),
    "reset while reading": (Fault("GET", "/blobs/", 0), RegistryUnavailableError),
}  # fmt: skip


@pytest.mark.parametrize("fault", STAYS)
def test_nothing_is_promoted_on_a_fault_that_stays(
    release: Release, behind: Release, proxy: FaultProxy, repository: Repository, fault: str
) -> None:
    before = release.promote(release.push("1")).digest
    digest = release.push("2")
    injected, kind = STAYS[fault]
    proxy.faults = [replace(injected, seen=0)]
    with pytest.raises(kind) as caught:
        behind.promote(digest)
    assert caught.value.hint
    assert release.custom() == before
    proxy.faults = []
    assert behind.promote(digest).digest == digest == release.custom()


@pytest.mark.parametrize("status", [429, 500, 502, 503, 0])
def test_transient_faults_are_retried(
    release: Release, behind: Release, proxy: FaultProxy, status: int
) -> None:
    digest = release.push("1")
    headers = {"Retry-After": "1"} if status == 429 else {}
    proxy.faults = [Fault("PUT", "/manifests/", status, times=1, headers=headers),
                    Fault("GET", "/manifests/", status, times=1, headers=headers)]  # fmt: skip
    assert behind.promote(digest).digest == digest == release.custom()


def test_a_registry_that_answers_too_slowly(
    release: Release, behind: Release, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = release.push("1")
    monkeypatch.setattr(registry, "TIMEOUT", 1.0)
    proxy.faults = [Fault("PUT", "/manifests/journal-", -1, delay=5)]
    with pytest.raises(RegistryUnavailableError, match="timed out"):
        behind.promote(digest)
    assert release.custom() is None


def test_a_registry_that_says_yes_and_stores_nothing(
    release: Release, behind: Release, proxy: FaultProxy, repository: Repository
) -> None:
    digest = release.push("1")
    proxy.faults = [Fault("PUT", "/manifests/custom", 201, body=b"")]
    with pytest.raises(RegistryConflictError, match="reads back as None"):
        behind.promote(digest)
    assert release.custom() is None
    (end,) = record_tags.outcomes(repository.tags()).values()
    assert end == "abandoned"


def test_a_manifest_with_another_digest_is_refused(
    release: Release, behind: Release, proxy: FaultProxy
) -> None:
    digest = release.push("1")
    proxy.faults = [Fault("GET", f"/manifests/{digest}", 200, body=b'{"schemaVersion": 2}',
                          headers={"Docker-Content-Digest": digest})]  # fmt: skip
    with pytest.raises((RegistryConflictError, RegistryError)):
        behind.promote(digest)
    assert release.custom() is None


def test_a_registry_with_a_login(
    tmp_path: Path, lock: Lock, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    passwords = tmp_path / "htpasswd"
    passwords.write_text(HTPASSWD + "\n")
    with LocalRegistry(tmp_path / "guarded", htpasswd=passwords) as guarded:
        release = Release(reference.repository(guarded.address, "image"), tmp_path, lock, workspace)
        with pytest.raises(RegistryAuthError):
            release.push("1")
        monkeypatch.setenv("REGISTRY_USER", "releaser")
        monkeypatch.setenv("REGISTRY_PASSWORD", SECRET)
        digest = release.push("1")
        assert release.promote(digest).digest == digest == release.custom()
        monkeypatch.setenv("REGISTRY_PASSWORD", SECRET + "-wrong")
        with pytest.raises(RegistryAuthError):
            release.custom()


def test_the_bill_of_materials_is_kept_and_valid(release: Release, repository: Repository) -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    digest = release.push("1")
    (entry,) = [x for x in Journal(repository).of(digest) if isinstance(x.record, records.Push)]
    data = repository.files(entry.tag)[publish.SBOM]
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(data.decode()) is None
    versions = sbom.versions(data)
    assert versions["deb libssl3"] == "3.0.15-1", "the upper layer's list counts"
    assert versions["pypi vllm"] == "0.8.3" and "deb gone" not in versions
