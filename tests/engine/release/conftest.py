"""What the release tests share: a registry, the fake fork's lock, and a helper that releases."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from higgs_image import lockfile, retry
from higgs_image.demo import fake_fork
from higgs_image.host.local_registry import LocalRegistry
from higgs_image.lockfile import Lock
from higgs_image.oci import read_back, reference
from higgs_image.oci.artifacts import Repository, open_repository
from higgs_image.oci.layout import BuiltImage
from higgs_image.release import evidence, lease, move_plan, publish, rollback
from higgs_image.release import promote as release_promote
from higgs_image.release.journal import Journal
from higgs_image.workspace import Workspace
from tests.support import small_image

GPU = release_promote.PromotionConditions()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No login of the machine's own, and short waits between attempts."""
    for name in ("REGISTRY_USER", "REGISTRY_PASSWORD", "GITHUB_TOKEN", "REGISTRY_AUTH_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker-config"))
    monkeypatch.setattr(retry, "WAIT", 0.05)
    monkeypatch.setattr(lease, "POLL", 0.05)
    monkeypatch.setattr(lease, "PROPAGATION", 0.5)
    monkeypatch.setattr(read_back, "LAG", 0.5)
    monkeypatch.setattr(read_back, "INTERVAL", 0.05)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRegistry]:
    with LocalRegistry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return fake_fork.make(tmp_path_factory.mktemp("fake-fork"))


@pytest.fixture(scope="module")
def lock(workspace: Workspace) -> Lock:
    return lockfile.load(workspace.lock_file)


def named(address: str, request: pytest.FixtureRequest) -> str:
    name = "".join(x if x.isalnum() else "-" for x in request.node.name.lower()).strip("-")
    return reference.repository(address, "-".join(filter(None, name.split("-"))))


@pytest.fixture
def target(served: LocalRegistry, request: pytest.FixtureRequest) -> str:
    return named(served.address, request)


@pytest.fixture
def repository(target: str) -> Iterator[Repository]:
    with open_repository(target) as opened:
        yield opened


@dataclass
class Release:
    """Pushes images and promotes them, as `./inv release` does."""

    target: str
    folder: Path
    lock: Lock
    workspace: Workspace

    def push(self, content: str = "1", smoke: str = "gpu pass", **options: object) -> str:
        """Push an image with this content and smoke test; returns its digest."""
        options.setdefault("layers", small_image.files(self.lock, content=content))
        options.setdefault("tag", f"{self.lock.tag}-{content}")
        number = len(list(self.folder.glob("layout-*")))
        built: BuiltImage = small_image.make(self.folder / f"layout-{number}", self.lock, **options)  # type: ignore[arg-type]
        pushed, _ = publish.push(built, self.lock, self.target, self.folder / "journal")
        for verdict in smoke.split(","):
            if verdict:
                self.smoke(pushed.digest, *verdict.split())
        return pushed.digest

    def smoke(self, digest: str, kind: str = "gpu", verdict: str = "pass") -> None:
        with open_repository(self.target) as repository:
            evidence.record_smoke(Journal(repository), small_image.smoke(digest, kind, verdict))

    def promote(
        self, digest: str, conditions: release_promote.PromotionConditions = GPU
    ) -> move_plan.Moved:
        with open_repository(self.target) as repository:
            moved, _ = release_promote.promote_with_notes(
                Journal(repository, self.folder / "journal"), digest, conditions,
                replace(self.workspace, build=self.folder / "build"),
            )  # fmt: skip
            return moved

    def rollback(self, to: str | None = None) -> move_plan.Moved:
        with open_repository(self.target) as repository:
            history = Journal(repository)
            plan = rollback.plan_rollback(history, "it hums", "custom", to)
            return move_plan.apply(history, plan)

    def custom(self) -> str | None:
        with open_repository(self.target) as repository:
            return repository.digest("custom")


@pytest.fixture
def release(target: str, tmp_path: Path, lock: Lock, workspace: Workspace) -> Release:
    return Release(target, tmp_path, lock, workspace)
