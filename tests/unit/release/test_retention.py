"""Which images a cleanup takes away, and how it does it on GitHub."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from higgs_image import retry
from higgs_image.errors import (
    PromotionConflictError,
    RegistryAuthError,
    RegistryError,
    RegistryNotFoundError,
    RegistryUnavailableError,
    UsageError,
)
from higgs_image.oci import credentials
from higgs_image.oci.artifacts import Repository
from higgs_image.release import image_store, lease, retention
from higgs_image.release.image_store import StoredManifest
from higgs_image.release.journal import Journal


def digest(number: int) -> str:
    return f"sha256:{number:064x}"


def image(number: int, *more: str) -> StoredManifest:
    return StoredManifest(digest(number), (f"202601{number:02}-abcdef0-{number:07x}", *more))


def about(number: int, own: int, kind: str = "sig") -> StoredManifest:
    return StoredManifest(digest(own), (f"sha256-{digest(number)[7:]}.{kind}",))


def planned(
    versions: list[StoredManifest],
    keep_last: int = 1,
    promoted: set[str] | None = None,
    pinned: set[str] | None = None,
    children: set[str] | None = None,
) -> tuple[list[str], dict[str, str]]:
    found = retention.plan(
        versions, keep_last, promoted or set(), pinned or set(), children or set()
    )
    return [x.digest for x in found.delete], {x.digest: why for x, why in found.keep}


def test_newest_images_stay() -> None:
    gone, kept = planned([image(3), image(1), image(2)], keep_last=2)
    assert gone == [digest(1)]
    assert set(kept.values()) == {"among the last 2"}


def test_newest_is_by_push_where_the_journal_knows_it() -> None:
    first = StoredManifest("sha256:" + "a" * 64, ("20260101-abcdef0-0000001",))
    record = StoredManifest(digest(99), ("journal-20260301T000000000000Z-push-aaaaaaa-abcdef",))
    gone, kept = planned([first, image(2), record])
    assert gone == [digest(2)] and kept[first.digest] == "among the last 1"


def test_promoted_pinned_and_named_images_stay() -> None:
    versions = [image(number) for number in range(1, 8)]
    versions[0] = image(1, "custom")
    versions[1] = image(2, "custom-zstd")
    versions[5] = image(6, "keep-this-for-me")
    gone, kept = planned(versions, 1, {digest(3)}, {digest(4), versions[4].tags[0]})
    assert gone == []
    assert kept[digest(3)] == "it was promoted" and kept[digest(5)] == "a pin names it"
    assert "keep-this-for-me" in kept[digest(6)]


def test_attestations_stay_and_go_with_their_image() -> None:
    versions = [image(1), image(2), about(1, 11), about(1, 12, "att"), about(2, 21)]
    gone, kept = planned(versions)
    assert gone[0] == digest(1) and set(gone[1:]) == {digest(11), digest(12)}
    assert kept[digest(21)] == "it is about an image that stays"


def test_a_shared_attestation_stays_for_the_image_that_stays() -> None:
    """Two signatures with the same content are one manifest with two tags."""
    shared = StoredManifest(digest(11), (*about(1, 11).tags, *about(2, 11).tags))
    gone, kept = planned([image(1), image(2), shared])
    assert gone == [digest(1)] and digest(11) in kept


@pytest.mark.parametrize(
    "end",
    [
        "-zstd",
        "-sm89",
        "-zstd-sm86-sm89",
        "-sm120-dev-abcdef0",
        "-cuda12.8",
        "-cuda12.8-zstd-sm100",
    ],
)
def test_variants_are_images_too(end: str, tmp_path: Path) -> None:
    tag = f"20260101-abcdef0-0000001{end}"
    variant = StoredManifest(digest(1), (tag,))
    assert planned([variant, image(2)])[0] == [digest(1)]
    pins = tmp_path / "pins"
    pins.write_text(f"image: ghcr.io/x/y:{tag}")
    assert planned([variant, image(2)], pinned=retention.pins_in([pins]))[0] == []


def test_one_digest_with_two_tags_stays_for_either() -> None:
    both = image(1, "20260109-abcdef0-1234567")
    gone, kept = planned([both, image(2)], 0, pinned={"20260109-abcdef0-1234567"})
    assert gone == [digest(2)] and digest(1) in kept


def test_orphans_and_untagged_go_but_no_child_of_an_index() -> None:
    versions = [
        image(1),
        about(7, 71),
        StoredManifest(digest(8), ()),
        StoredManifest(digest(9), ()),
    ]
    gone, _ = planned(versions, children={digest(9)})
    assert set(gone) == {digest(71), digest(8)}


def test_the_journal_always_stays() -> None:
    tag = "journal-20260101T000000000000Z-push-abcdef0-123456"
    gone, kept = planned(
        [StoredManifest(digest(1), (tag,)), StoredManifest(digest(2), (tag + ".done",))], 0
    )
    assert gone == [] and set(kept.values()) == {"the journal"}


def test_pin_files(tmp_path: Path) -> None:
    path = tmp_path / "pins.yaml"
    path.write_text(f"image: ghcr.io/x/y:20260101-abcdef0-1234567-zstd\nold: y@{digest(5)}\n")
    assert retention.pins_in([path]) == {"20260101-abcdef0-1234567-zstd", digest(5)}
    with pytest.raises(UsageError, match=r"no\.yaml"):
        retention.pins_in([tmp_path / "no.yaml"])


class GitHub:
    """The part of GitHub's API that lists and deletes package versions."""

    def __init__(self, owner: str = "orgs") -> None:
        self.versions = {n: (digest(n), [f"tag-{n}"] if n % 2 else []) for n in range(1, 131)}
        self.status: int | None = None
        self.headers: dict[str, str] = {}
        self.seen: list[str] = []
        self.popular: set[int] = set()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None: ...

            def answer(self, status: int, body: object) -> None:
                data = json.dumps(body).encode() if body is not None else b""
                self.send_response(status)
                for name, value in fake.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def do_GET(self) -> None:
                fake.seen.append(self.headers["Authorization"])
                path, _, query = self.path.partition("?")
                if fake.status:
                    return self.answer(fake.status, {"message": "injected"})
                root = f"/{owner}/acme/packages/container/team%2Fimage"
                if path == root:
                    return self.answer(200, {"name": "team/image"})
                if path != f"{root}/versions":
                    return self.answer(404, {"message": "Not Found"})
                page = int(query.split("page=")[-1])
                rows = [
                    {"id": n, "name": d, "metadata": {"container": {"tags": tags}}}
                    for n, (d, tags) in fake.versions.items()
                ]
                return self.answer(200, rows[(page - 1) * 100 : page * 100])

            def do_DELETE(self) -> None:
                number = int(self.path.rpartition("/")[2])
                if number in fake.popular:
                    message = (
                        "Publicly visible package versions with more than 5000 downloads cannot "
                        "be deleted. Contact GitHub support for further assistance."
                    )
                    self.answer(400, {"message": message})
                    return
                fake.versions.pop(number)
                self.answer(204, None)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"


@pytest.fixture(params=["orgs", "users"])
def hub(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[GitHub]:
    fake = GitHub(request.param)
    monkeypatch.setenv("GITHUB_API_URL", fake.address)
    monkeypatch.setenv("GITHUB_TOKEN", "t0ken")
    for name in ("WAIT", "LONGEST_WAIT"):
        monkeypatch.setattr(retry, name, 0.01)
    monkeypatch.setattr(lease, "PROPAGATION", 0.0)
    yield fake
    fake.server.shutdown()
    fake.server.server_close()


@pytest.fixture
def repository() -> Repository:
    return Repository("ghcr.io/acme/team/image", credentials.Credentials("ghcr.io", None))


def test_github_lists_all_pages_and_deletes(hub: GitHub, repository: Repository) -> None:
    store = image_store.store_of(repository)
    versions = store.versions()
    assert len(versions) == 130
    assert versions[0] == StoredManifest(digest(1), ("tag-1",), "1") and versions[1].tags == ()
    store.delete(versions[4])
    assert 5 not in hub.versions and len(hub.versions) == 129
    assert set(hub.seen) == {"Bearer t0ken"}


@pytest.mark.parametrize(
    ("status", "headers", "kind"),
    [
        (401, {}, RegistryAuthError),
        (403, {}, RegistryAuthError),
        (403, {"Retry-After": "60"}, RegistryUnavailableError),
        (404, {}, RegistryNotFoundError),
        (429, {}, RegistryUnavailableError),
        (502, {}, RegistryUnavailableError),
    ],
)
def test_githubs_refusals(
    hub: GitHub, repository: Repository, status: int, headers: dict[str, str], kind: type[Exception]
) -> None:
    hub.status, hub.headers = status, headers
    with pytest.raises(kind, match=str(status)):
        image_store.store_of(repository)


def test_github_needs_a_token(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GITHUB_TOKEN", raising=False)
    with pytest.raises(RegistryAuthError, match="GITHUB_TOKEN"):
        image_store.store_of(repository)


class Ghcr:
    """A repository of which only manifests are asked for, as on ghcr.io; it has one index."""

    name = "ghcr.io/acme/team/image"
    is_local = False
    list_seconds = 0.0

    def __init__(self, *tags: str) -> None:
        self._tags = list(tags)

    def tags(self) -> list[str]:
        time.sleep(self.list_seconds)
        return self._tags

    def each(self, read: Any, items: Any) -> list[Any]:
        return list(map(read, items))

    def manifest(self, what: str) -> dict[str, Any]:
        kind = "application/vnd.oci.image.index.v1+json"
        if what == digest(1):
            return {"mediaType": kind, "manifests": [{"digest": digest(2)}]}
        return {"mediaType": "application/vnd.oci.image.manifest.v1+json"}


def test_children_of_an_index_stay(hub: GitHub) -> None:
    hub.versions = {
        1: (digest(1), ["20260101-abcdef0-1234567"]),
        2: (digest(2), []),
        3: (digest(3), []),
    }
    repository: Any = Ghcr()
    plan = retention.plan_cleanup(
        Journal(repository), image_store.GitHubStore(repository), 1, set()
    )
    assert [x.digest for x in plan.delete] == [digest(3)]


def test_a_refused_deletion_does_not_stop_the_others(hub: GitHub) -> None:
    repository: Any = Ghcr()
    store = image_store.GitHubStore(repository)
    hub.popular = {2}
    gone = tuple(x for x in store.versions() if x.key in ("1", "2", "3"))
    with pytest.raises(RegistryError, match=r"2 were deleted, 1 were not: .*5000 downloads"):
        retention.apply(Journal(repository), store, retention.CleanupPlan(gone, ()))
    assert 2 in hub.versions and not {1, 3} & set(hub.versions)


def test_a_long_list_of_tags_does_not_slow_each_deletion(hub: GitHub) -> None:
    """ghcr.io gives thousands of tags in pages, and deletes one version after the other."""
    repository: Any = Ghcr()
    repository.list_seconds = 0.3
    store = image_store.GitHubStore(repository)
    gone = tuple(store.versions())
    started = time.monotonic()
    retention.apply(Journal(repository), store, retention.CleanupPlan(gone, ()))
    assert time.monotonic() - started < 0.3 * len(gone) / 2
    assert not hub.versions


def test_a_promotion_that_the_plan_could_not_see_stops_the_cleanup(
    hub: GitHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ghcr.io lists another machine's announcement only some seconds after it was written."""
    monkeypatch.setattr(lease, "PROPAGATION", 0.3)
    written = time.monotonic()

    class Late(Ghcr):
        def tags(self) -> list[str]:
            shown = time.monotonic() > written + 0.2
            return ["journal-20260101T000000000000Z-promote-abcdef0-123456"] if shown else []

    repository: Any = Late()
    store = image_store.GitHubStore(repository)
    planned = retention.CleanupPlan((store.versions()[0],), ())
    with pytest.raises(PromotionConflictError, match="under way"):
        retention.apply(Journal(repository), store, planned)
    assert len(hub.versions) == 130


def test_a_promotion_during_the_cleanup_stops_it(
    hub: GitHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "CHECK_SECONDS", 0.05)
    repository: Any = Ghcr()
    store = image_store.GitHubStore(repository)
    gone = tuple(store.versions())

    def delete(version: StoredManifest) -> None:
        if version == gone[5]:
            repository._tags.append("journal-20260101T000000000000Z-promote-abcdef0-123456")
            time.sleep(0.06)
        image_store.GitHubStore.delete(store, version)

    monkeypatch.setattr(store, "delete", delete)
    with pytest.raises(PromotionConflictError, match="under way"):
        retention.apply(Journal(repository), store, retention.CleanupPlan(gone, ()))
    assert set(hub.versions) == set(range(7, 131))


def test_a_promotion_after_the_plan_stops_the_cleanup(hub: GitHub) -> None:
    known = "journal-20260101T000000000000Z-promote-abcdef0-123456"
    later = "journal-20260101T000000000001Z-promote-abcdef0-654321"
    store = image_store.GitHubStore(Ghcr())  # type: ignore[arg-type]
    planned = retention.CleanupPlan((store.versions()[0],), (), (known,))
    repository: Any = Ghcr(known, f"{known}.done", later, f"{later}.done")
    with pytest.raises(PromotionConflictError, match="after the plan"):
        retention.apply(Journal(repository), store, planned)
    assert len(hub.versions) == 130
    repository = Ghcr(known, f"{known}.done")
    assert retention.apply(Journal(repository), store, planned) == list(planned.delete)
