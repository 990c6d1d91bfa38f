"""What has to be installed, on which machine."""

from __future__ import annotations

import pytest

from higgs_image.errors import EngineError, ToolMissingError
from higgs_image.host import facts, install_plan
from tests.support.machines import BARE, BOOKWORM, READY, TRIXIE, but


def test_versions_are_compared_as_numbers() -> None:
    assert "skopeo" not in install_plan.missing(but(READY, skopeo=(1, 18, 0)), registry=False)
    assert "docker-buildx" in install_plan.missing(but(READY, buildx=(0, 9, 1)), registry=False)


def test_debian_12_takes_only_docker_from_debian_13() -> None:
    plan = install_plan.plan(BARE)
    assert plan.packages == (
        "docker.io/trixie",
        "docker-cli/trixie",
        "docker-buildx/trixie",
        "skopeo",
    )
    assert plan.source
    assert "URIs: http://mirror.example/debian\nSuites: trixie\n" in plan.source
    assert plan.daemon_json == '{"features": {"containerd-snapshotter": true}}\n'
    assert plan.start
    assert len(plan.steps) == 4


def test_existing_trixie_source_is_used() -> None:
    plan = install_plan.plan(but(BARE, sources=(BOOKWORM, TRIXIE)))
    assert plan.source is None
    assert "docker.io/trixie" in plan.packages


def test_os_version_of_trixie_with_bookworm_sources() -> None:
    plan = install_plan.plan(but(BARE, os_version="13"))
    assert plan.source
    assert "docker.io/trixie" in plan.packages


def test_debian_12_without_source_is_an_error() -> None:
    with pytest.raises(EngineError, match="no source for Debian 12"):
        install_plan.plan(but(BARE, sources=()))


@pytest.mark.parametrize("version", ["13", "14", ""])
def test_later_debian_uses_own_packages(version: str) -> None:
    plan = install_plan.plan(but(BARE, os_version=version, sources=(TRIXIE,)))
    assert plan.packages == ("docker.io", "docker-cli", "docker-buildx", "skopeo")
    assert plan.source is None


def test_ubuntu_client_comes_with_the_engine() -> None:
    ubuntu = but(BARE, os_id="ubuntu", os_version="24.04", sources=())
    assert install_plan.plan(ubuntu).packages == ("docker.io", "docker-buildx", "skopeo")
    assert install_plan.plan(but(ubuntu, dockerd=(26, 0, 0))).packages[0] == "docker.io"


@pytest.mark.parametrize(
    ("os_id", "version"), [("fedora", "41"), ("ubuntu", "22.04"), ("debian", "11"), ("", "")]
)
def test_other_systems_get_instructions(os_id: str, version: str) -> None:
    with pytest.raises(
        ToolMissingError, match=r"Docker Engine 23 .*buildx 0\.13.*skopeo"
    ) as caught:
        install_plan.plan(but(BARE, os_id=os_id, os_version=version))
    assert caught.value.exit_code == 21
    assert "install them yourself" in caught.value.hint


def test_users_without_root_get_instructions() -> None:
    with pytest.raises(ToolMissingError, match="not root") as caught:
        install_plan.plan(but(BARE, root=False))
    assert "docker.io/trixie docker-cli/trixie docker-buildx/trixie skopeo" in caught.value.hint


def test_user_without_access_to_the_engine() -> None:
    refused = but(READY, engine=None, root=False, refusal="Permission denied while trying ...")
    with pytest.raises(ToolMissingError) as caught:
        install_plan.plan(refused)
    assert "usermod -aG docker" in caught.value.hint


@pytest.mark.parametrize("change", [{}, {"root": False}, {"os_id": "fedora"}, {"sources": ()}])
def test_existing_tools_are_kept(change: dict[str, object]) -> None:
    plan = install_plan.plan(but(READY, **change))
    assert plan == install_plan.InstallPlan()


def test_remote_engine_needs_no_local_daemon() -> None:
    remote = but(READY, endpoint="tcp://build.example:2376", dockerd=None, skopeo=None)
    assert install_plan.plan(remote).packages == ("skopeo",)
    assert not install_plan.plan(remote).start


def test_container_engine_uses_the_clients_endpoint() -> None:
    """GitHub's runners mount the host's engine at the usual place."""
    own = but(READY, engine=None, systemd=False, endpoint="unix:///run/own-docker.sock")
    assert install_plan.plan(own).start
    assert not install_plan.plan(but(own, engine=(26, 0, 0))).start
    with pytest.raises(EngineError, match="no engine answers"):
        install_plan.plan(but(own, systemd=True))


def test_unreachable_remote_engine_is_an_error() -> None:
    remote = but(READY, engine=None, endpoint="tcp://build.example:2376", refusal="refused")
    with pytest.raises(EngineError, match=r"tcp://build\.example:2376: refused"):
        install_plan.plan(remote)


@pytest.mark.parametrize("change", [{"endpoint": "tcp://x:1"}, {"listening": True}])
def test_missing_client_does_not_start_a_daemon(change: dict[str, object]) -> None:
    plan = install_plan.plan(but(BARE, privileged=False, **change))
    assert plan.packages == ("docker-cli/trixie", "docker-buildx/trixie", "skopeo")
    assert not plan.start
    assert plan.daemon_json is None


def test_installed_daemon_is_only_started() -> None:
    plan = install_plan.plan(
        but(READY, engine=None, daemon_json='{"features":{"containerd-snapshotter":true}}')
    )
    assert plan.packages == ()
    assert plan.steps == ("start the engine (dockerd, detached)",)


def test_running_old_daemon_is_not_replaced() -> None:
    with pytest.raises(EngineError, match=r"Docker 20\.10\.24, 23 or later"):
        install_plan.plan(but(READY, engine=(20, 10, 24)))


def test_stopped_old_docker_is_replaced() -> None:
    old = but(READY, engine=None, dockerd=(20, 10, 24), client=(20, 10, 24))
    assert install_plan.plan(old).packages == ("docker.io/trixie", "docker-cli/trixie")


def test_registry_and_cosign_are_optional() -> None:
    assert install_plan.plan(READY, signing=True).packages == ("cosign/trixie",)
    assert install_plan.plan(READY, registry=True).packages == ("docker-registry", "mmdebstrap")
    assert (
        install_plan.plan(but(READY, registry=True, mmdebstrap=True), registry=True)
        == install_plan.InstallPlan()
    )


@pytest.mark.parametrize(
    ("change", "message", "hint"),
    [
        ({"privileged": False}, "this container may not mount", "--privileged"),
        ({"data_root_type": "overlay"}, "overlay file system", "-v engine-data:/var/lib/docker"),
    ],
)
def test_unsuitable_container_is_refused(
    change: dict[str, object], message: str, hint: str
) -> None:
    with pytest.raises(EngineError, match=message) as caught:
        install_plan.plan(but(BARE, **change))
    assert hint in caught.value.hint
    assert install_plan.plan(but(READY, **change)) == install_plan.InstallPlan()


@pytest.mark.parametrize(
    ("before", "images", "after", "note"),
    [
        (None, False, '{"features": {"containerd-snapshotter": true}}\n', ""),
        ("", False, '{"features": {"containerd-snapshotter": true}}\n', ""),
        (None, True, None, "it contains images"),
        ('{"features": {"containerd-snapshotter": true}}', False, None, ""),
        (
            '{"features": {"containerd-snapshotter": false}}',
            False,
            None,
            "turns off",
        ),
        ('{"storage-driver": "btrfs"}', False, None, "names a driver"),
        ("{not json", False, None, "not valid JSON"),
        ("[]", False, None, "not valid JSON"),
    ],
)
def test_daemon_configuration(
    before: str | None, images: bool, after: str | None, note: str
) -> None:
    plan = install_plan.plan(but(BARE, daemon_json=before, images=images))
    assert plan.daemon_json == after
    assert (note in plan.notes[0]) if note else plan.notes == ()


def test_daemon_configuration_is_merged() -> None:
    before = '{"features": {"buildkit": true}, "mtu": 1400}'
    after = install_plan.plan(but(BARE, daemon_json=before)).daemon_json
    assert facts.decode(after) == {
        "features": {"buildkit": True, "containerd-snapshotter": True},
        "mtu": 1400,
    }


def test_running_daemon_keeps_its_configuration() -> None:
    plan = install_plan.plan(but(READY, store="classic", skopeo=None))
    assert plan.daemon_json is None
    assert "classic store" in plan.notes[0]
