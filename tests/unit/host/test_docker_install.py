"""`./inv engine`: apt's sources, what is missing where, apt's errors, the daemon's start."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from higgs_image import process
from higgs_image.errors import BusyError, DiskFullError, EngineError, NetworkError, ToolMissingError
from higgs_image.host import apt, docker_install, dockerd, facts
from higgs_image.host.apt import AptSource
from higgs_image.host.facts import Machine
from higgs_image.workspace import Workspace

BOOKWORM = AptSource(("http://mirror.example/debian",), ("bookworm",), ("main",))
TRIXIE = dataclasses.replace(BOOKWORM, suites=("trixie", "trixie-updates"))

BARE = Machine(os_id="debian", os_version="12", sources=(BOOKWORM,), systemd=False)
READY = dataclasses.replace(
    BARE, engine=(26, 1, 5), store="containerd", dockerd=(26, 1, 5), client=(26, 1, 5),
    buildx=(0, 13, 1), skopeo=(1, 9, 3),
)  # fmt: skip


def but(base: Machine, **changes: object) -> Machine:
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


# Versions ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("Docker version 28.2.2, build e6534b4", (28, 2, 2)),
        ("26.1.5+dfsg1", (26, 1, 5)),
        ("github.com/docker/buildx v0.12.1 30feaa1", (0, 12, 1)),
        ("github.com/docker/buildx 0.13.1+ds1 0.13.1+ds1-3", (0, 13, 1)),
        ("skopeo version 1.18", (1, 18, 0)),
        ("git version 2.39.5", (2, 39, 5)),
        ("", None),
        ("docker: 'buildx' is not a docker command.", None),
    ],
)
def test_version_in(text: str, version: facts.Version | None) -> None:
    assert facts.version_in(text) == version


def test_versions_are_compared_as_numbers() -> None:
    assert "skopeo" not in docker_install.missing(but(READY, skopeo=(1, 18, 0)), registry=False)
    assert "docker-buildx" in docker_install.missing(but(READY, buildx=(0, 9, 1)), registry=False)


# Sources -------------------------------------------------------------------------------------

DEB822 = """\
# The archive
Types: deb deb-src
URIs: http://one.example/debian mirror+file:///etc/apt/mirrors/debian.list
Suites: bookworm bookworm-updates
# Suites: buster
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
Architectures: amd64

types: deb
uris: https://security.example/debian-security
suites: bookworm-security
components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mQINBF
# a comment: it does not end the key
 =abcd
 -----END PGP PUBLIC KEY BLOCK-----
Check-Valid-Until: no
\t
Types: deb-src
URIs: http://one.example/debian
Suites: bookworm
Components: main

Enabled: no
Types: deb
URIs: http://off.example/debian
Suites: bookworm
Components: main

Types: deb
URIs: cdrom:[Debian]/
Suites: bookworm
Components: main
"""


def test_deb822() -> None:
    first, second = apt.parse_deb822(DEB822)
    assert first == AptSource(
        ("http://one.example/debian", "mirror+file:///etc/apt/mirrors/debian.list"),
        ("bookworm", "bookworm-updates"),
        ("main", "contrib"),
        {"Signed-By": "/usr/share/keyrings/debian-archive-keyring.gpg"},
    )
    assert second.uris == ("https://security.example/debian-security",)
    assert second.options["Check-Valid-Until"] == "no"
    assert second.options["Signed-By"].splitlines()[1:] == [
        " -----BEGIN PGP PUBLIC KEY BLOCK-----",
        " .",
        " mQINBF",
        " =abcd",
        " -----END PGP PUBLIC KEY BLOCK-----",
    ]


CLASSIC = """\
# deb http://old.example/debian bookworm main
deb cdrom:[Debian GNU/Linux 12.0.0 _Bookworm_ - Official amd64 NETINST 20230610-10:21]/ bookworm main
deb http://one.example/debian bookworm main contrib # the archive
deb-src http://one.example/debian bookworm main
deb  [ arch=amd64,arm64 signed-by=/usr/share/keyrings/k.gpg trusted=yes ]  https://two.example/d/ bookworm-updates main
deb [check-valid-until=no] mirror+https://three.example/list bookworm main
deb tor+http://four.example/flat ./

"""  # noqa: E501


def test_classic_lines() -> None:
    assert apt.parse_list(CLASSIC) == [
        AptSource(("http://one.example/debian",), ("bookworm",), ("main", "contrib")),
        AptSource(
            ("https://two.example/d/",), ("bookworm-updates",), ("main",),
            {"Signed-By": "/usr/share/keyrings/k.gpg", "Trusted": "yes"},
        ),
        AptSource(
            ("mirror+https://three.example/list",), ("bookworm",), ("main",),
            {"Check-Valid-Until": "no"},
        ),
        AptSource(("tor+http://four.example/flat",), ("./",), ()),
    ]  # fmt: skip


def test_both_formats_are_read_and_other_files_are_not(tmp_path: Path) -> None:
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list").write_text("deb http://a.example/debian bookworm main\n")
    (tmp_path / "sources.list.d" / "d.sources.save").write_text(DEB822)
    for name in ("b.list", "c.list.disabled"):
        text = f"deb http://{name}.example/debian bookworm main\n"
        (tmp_path / "sources.list.d" / name).write_text(text)
    (tmp_path / "sources.list.d" / "a.sources").write_text(DEB822)
    hosts = [x.uris[0].split("/")[2] for x in apt.read_sources(tmp_path)]
    assert hosts == ["a.example", "one.example", "security.example", "b.list.example"]


def test_no_sources_at_all(tmp_path: Path) -> None:
    assert apt.read_sources(tmp_path) == ()


def test_the_archive_is_told_from_others_with_the_same_suite() -> None:
    other = AptSource(("https://apt.vendor.example",), ("bookworm",), ("main",))
    engine_vendor = AptSource(("https://d.example/linux/debian",), ("bookworm",), ("stable",))
    updates = AptSource(("https://art.example/remote/",), ("bookworm-updates",), ("main",))
    remote = AptSource(("https://art.example/remote",), ("bookworm",), ("main",))
    keyed = dataclasses.replace(other, options={"Signed-By": "/usr/share/debian-archive-x.gpg"})
    assert apt.archive([engine_vendor, other, BOOKWORM], "bookworm") is BOOKWORM
    assert apt.archive([other, remote, updates], "bookworm") is remote
    assert apt.archive([other, keyed], "bookworm") is keyed
    assert apt.archive([other], "bookworm") is other
    assert apt.archive([engine_vendor, updates], "bookworm") is None


def test_the_source_is_this_machines_own_archive_and_reads_back() -> None:
    own = AptSource(
        ("http://one.example/debian", "https://two.example/debian"), ("bookworm",), ("main",),
        {"Signed-By": "\n -----BEGIN\n .\n =abcd\n -----END", "Trusted": "yes"},
    )  # fmt: skip
    text = apt.render_source(own)
    assert apt.parse_deb822(text) == [
        AptSource(own.uris, ("trixie",), ("main",), own.options),
    ]
    assert "Pin-Priority: 100\n" in apt.PIN


# Plans ---------------------------------------------------------------------------------------


def test_debian_12_takes_docker_alone_from_debian_13() -> None:
    plan = docker_install.plan(BARE)
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


def test_debian_12_that_knows_debian_13_needs_no_source() -> None:
    plan = docker_install.plan(but(BARE, sources=(BOOKWORM, TRIXIE)))
    assert plan.source is None
    assert "docker.io/trixie" in plan.packages


def test_debian_12_with_libc_of_13_is_still_debian_12() -> None:
    plan = docker_install.plan(but(BARE, os_version="13"))
    assert plan.source
    assert "docker.io/trixie" in plan.packages


def test_debian_12_without_an_archive() -> None:
    with pytest.raises(EngineError, match="no source for Debian 12"):
        docker_install.plan(but(BARE, sources=()))


@pytest.mark.parametrize("version", ["13", "14", ""])
def test_later_debian_takes_its_own(version: str) -> None:
    plan = docker_install.plan(but(BARE, os_version=version, sources=(TRIXIE,)))
    assert plan.packages == ("docker.io", "docker-cli", "docker-buildx", "skopeo")
    assert plan.source is None


def test_ubuntu_has_the_client_in_the_engines_package() -> None:
    ubuntu = but(BARE, os_id="ubuntu", os_version="24.04", sources=())
    assert docker_install.plan(ubuntu).packages == ("docker.io", "docker-buildx", "skopeo")
    assert docker_install.plan(but(ubuntu, dockerd=(26, 0, 0))).packages[0] == "docker.io"


@pytest.mark.parametrize(
    ("os_id", "version"), [("fedora", "41"), ("ubuntu", "22.04"), ("debian", "11"), ("", "")]
)
def test_elsewhere_it_says_what_to_install(os_id: str, version: str) -> None:
    with pytest.raises(
        ToolMissingError, match=r"Docker Engine 23 .*buildx 0\.13.*skopeo"
    ) as caught:
        docker_install.plan(but(BARE, os_id=os_id, os_version=version))
    assert caught.value.exit_code == 21
    assert "install them yourself" in caught.value.hint


def test_without_root_it_says_what_root_would_install() -> None:
    with pytest.raises(ToolMissingError, match="not root") as caught:
        docker_install.plan(but(BARE, root=False))
    assert "docker.io/trixie docker-cli/trixie docker-buildx/trixie skopeo" in caught.value.hint


def test_without_root_and_without_the_right_to_ask() -> None:
    refused = but(READY, engine=None, root=False, refusal="Permission denied while trying ...")
    with pytest.raises(ToolMissingError) as caught:
        docker_install.plan(refused)
    assert "usermod -aG docker" in caught.value.hint


@pytest.mark.parametrize("change", [{}, {"root": False}, {"os_id": "fedora"}, {"sources": ()}])
def test_what_is_there_is_left_alone(change: dict[str, object]) -> None:
    plan = docker_install.plan(but(READY, **change))
    assert plan == docker_install.Plan()


def test_an_engine_elsewhere_needs_no_daemon_here() -> None:
    remote = but(READY, endpoint="tcp://build.example:2376", dockerd=None, skopeo=None)
    assert docker_install.plan(remote).packages == ("skopeo",)
    assert not docker_install.plan(remote).start


def test_in_a_container_an_engine_is_started_where_the_client_looks() -> None:
    """GitHub's runners mount the host's engine at the usual place."""
    own = but(READY, engine=None, systemd=False, endpoint="unix:///run/own-docker.sock")
    assert docker_install.plan(own).start
    assert not docker_install.plan(but(own, engine=(26, 0, 0))).start
    with pytest.raises(EngineError, match="no engine answers"):
        docker_install.plan(but(own, systemd=True))


def test_an_engine_elsewhere_that_does_not_answer() -> None:
    remote = but(READY, engine=None, endpoint="tcp://build.example:2376", refusal="refused")
    with pytest.raises(EngineError, match=r"tcp://build\.example:2376: refused"):
        docker_install.plan(remote)


@pytest.mark.parametrize("change", [{"endpoint": "tcp://x:1"}, {"listening": True}])
def test_an_engine_that_only_lacks_its_client(change: dict[str, object]) -> None:
    plan = docker_install.plan(but(BARE, privileged=False, **change))
    assert plan.packages == ("docker-cli/trixie", "docker-buildx/trixie", "skopeo")
    assert not plan.start
    assert plan.daemon_json is None


def test_an_installed_daemon_is_only_started() -> None:
    plan = docker_install.plan(
        but(READY, engine=None, daemon_json='{"features":{"containerd-snapshotter":true}}')
    )
    assert plan.packages == ()
    assert plan.steps == ("start the engine (dockerd, detached)",)


def test_an_old_daemon_that_runs_is_not_replaced() -> None:
    with pytest.raises(EngineError, match=r"Docker 20\.10\.24, 23 or later"):
        docker_install.plan(but(READY, engine=(20, 10, 24)))


def test_an_old_docker_that_does_not_run_is_replaced_with_its_client() -> None:
    old = but(READY, engine=None, dockerd=(20, 10, 24), client=(20, 10, 24))
    assert docker_install.plan(old).packages == ("docker.io/trixie", "docker-cli/trixie")


def test_registry_is_an_extra_and_of_the_own_release() -> None:
    assert docker_install.plan(READY, signing=True).packages == ("cosign/trixie",)
    assert docker_install.plan(READY, registry=True).packages == ("docker-registry", "mmdebstrap")
    assert (
        docker_install.plan(but(READY, registry=True, mmdebstrap=True), registry=True)
        == docker_install.Plan()
    )


@pytest.mark.parametrize(
    ("change", "message", "way_out"),
    [
        ({"privileged": False}, "without the right to mount", "--privileged"),
        ({"data_root_type": "overlay"}, "overlay file system", "-v engine-data:/var/lib/docker"),
    ],
)
def test_a_container_in_which_no_engine_can_run(
    change: dict[str, object], message: str, way_out: str
) -> None:
    with pytest.raises(EngineError, match=message) as caught:
        docker_install.plan(but(BARE, **change))
    assert way_out in caught.value.hint
    assert docker_install.plan(but(READY, **change)) == docker_install.Plan()


@pytest.mark.parametrize(
    ("before", "images", "after", "note"),
    [
        (None, False, '{"features": {"containerd-snapshotter": true}}\n', ""),
        ("", False, '{"features": {"containerd-snapshotter": true}}\n', ""),
        (None, True, None, "images in the classic store"),
        ('{"features": {"containerd-snapshotter": true}}', False, None, ""),
        ('{"features": {"containerd-snapshotter": false}}', False, None, "turns the containerd"),
        ('{"storage-driver": "btrfs"}', False, None, "names a driver"),
        ("{not json", False, None, "no valid JSON"),
        ("[]", False, None, "no valid JSON"),
    ],
)
def test_the_daemons_configuration(
    before: str | None, images: bool, after: str | None, note: str
) -> None:
    plan = docker_install.plan(but(BARE, daemon_json=before, images=images))
    assert plan.daemon_json == after
    assert (note in plan.notes[0]) if note else plan.notes == ()


def test_the_daemons_configuration_is_merged() -> None:
    before = '{"features": {"buildkit": true}, "mtu": 1400}'
    after = docker_install.plan(but(BARE, daemon_json=before)).daemon_json
    assert facts.decode(after) == {
        "features": {"buildkit": True, "containerd-snapshotter": True},
        "mtu": 1400,
    }


def test_a_running_daemon_keeps_its_configuration() -> None:
    plan = docker_install.plan(but(READY, store="classic", skopeo=None))
    assert plan.daemon_json is None
    assert "classic store" in plan.notes[0]


def test_dry_run_does_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object) -> None:
        raise AssertionError("a dry run did something")

    monkeypatch.setattr(docker_install, "look", lambda: BARE)
    monkeypatch.setattr(docker_install, "_apply", forbidden)
    workspace = Workspace(tmp_path / "build", tmp_path / "x", tmp_path / "y")
    report = docker_install.run(workspace, dry_run=True)
    assert report.text().startswith("would do:\n  write /etc/apt")
    assert report.changed
    assert not (tmp_path / "build").exists()


def test_what_is_missing_after_the_installation_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = iter([BARE, but(READY, buildx=(0, 8, 0))])
    monkeypatch.setattr(docker_install, "look", lambda: next(looks))
    monkeypatch.setattr(docker_install, "_apply", lambda *_: None)
    workspace = Workspace(tmp_path / "build", tmp_path / "x", tmp_path / "y")
    with pytest.raises(
        EngineError, match=r"still missing: buildx 0\.13 or later \(found: 0\.8\.0\)"
    ):
        docker_install.run(workspace)


# The machine ---------------------------------------------------------------------------------

MOUNTS = """\
proc /proc proc rw 0 0
/dev/vda /var/lib/docker ext4 rw 0 0
tmpfs /var/lib/docker/tmp tmpfs rw 0 0
overlay / overlay rw,relatime 0 0
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "overlay"),
        ("/var/lib", "overlay"),
        ("/var/lib/docker", "ext4"),
        ("/var/lib/docker/image", "ext4"),
        ("/var/lib/docker-other", "overlay"),
        ("/var/lib/docker/tmp/x", "tmpfs"),
    ],
)
def test_file_system(path: str, kind: str) -> None:
    assert facts.file_system(Path(path), MOUNTS) == kind


def program(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Put scripts first on PATH."""
    folder = tmp_path / "bin"
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return lambda name, script: program(folder, name, script)


@pytest.mark.parametrize(
    ("script", "version", "refusal"),
    [
        ("""echo '{"ServerVersion":"26.1.5"}'""", "26.1.5", ""),
        ("""echo '{"ServerErrors":["Cannot connect"]}'; exit 1""", None, "Cannot connect"),
        ("echo 'permission denied' >&2; exit 1", None, "permission denied"),
        ("exit 3", None, "docker info: status 3"),
        ("exec sleep 9", None, "did not answer in 0 s"),
    ],
)
def test_engine_info(
    programs: Callable[[str, str], None], script: str, version: str | None, refusal: str
) -> None:
    programs("docker", script)
    info, why = facts.engine_info(timeout=0.4 if "sleep" in script else 10)
    assert info.get("ServerVersion") == version
    assert refusal in why
    assert bool(why) == (version is None)


def test_a_missing_program_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    assert process.ask("no-such-program-at-all").code == 127


# apt -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("output", "kind", "message"),
    [
        ("E: You don't have enough free space in /var/cache/apt/archives/.", DiskFullError, "apt"),
        ("dpkg: write error: No space left on device\nE: Sub-process failed", DiskFullError, "apt"),
        (
            "E: Could not get lock /var/lib/dpkg/lock-frontend. It is held by process 7 (apt)",
            BusyError,
            "process 7 (apt)",
        ),
        (
            "dpkg: error: dpkg frontend lock was locked by another process with pid 9",
            BusyError,
            "9",
        ),
        (
            "E: Unable to locate package x\nW: Failed to fetch http://a/x  Could not resolve",
            NetworkError,
            "http://a/x",
        ),
        ("E: Failed to fetch http://a/x  Connection timed out", NetworkError, "http://a/x"),
        ("E: The repository 'http://a' is not signed.\nW: NO_PUBKEY 6ED0", EngineError, "6ED0"),
        ("E: Packages need to be removed but remove is disabled.", EngineError, "remove"),
        ("E: Unable to locate package docker-buildx", ToolMissingError, "docker-buildx"),
        ("E: Release 'trixie' for 'docker.io' was not found", ToolMissingError, "trixie"),
        ("E: Sub-process /usr/bin/dpkg returned an error code (1)", EngineError, "Sub-process"),
        ("", EngineError, "no output"),
    ],
)
def test_what_apt_says(output: str, kind: type[Exception], message: str) -> None:
    error = apt.explain(output)
    assert type(error) is kind
    assert message in error.message
    assert error.hint


def test_install_repairs_updates_and_installs(
    programs: Callable[[str, str], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal = tmp_path / "journal"
    programs("dpkg", f'echo "dpkg $*" >> {journal}')
    programs(
        "apt-get",
        f'echo "apt-get $DEBIAN_FRONTEND $*" >> {journal}; echo "Setting up x"; echo "(Reading"',
    )
    with caplog.at_level("INFO", "higgs_image"):
        apt.install(["docker.io/trixie", "skopeo"])
    repair, update, install = journal.read_text().splitlines()
    assert repair == "dpkg --configure -a"
    assert update.startswith("apt-get noninteractive -q -y") and update.endswith(" update")
    assert install.endswith(
        "--fix-broken --no-install-recommends --no-remove install docker.io/trixie skopeo"
    )
    assert "DPkg::Lock::Timeout=300" in install
    assert "engine: Setting up x" in caplog.messages
    assert not any("(Reading" in x for x in caplog.messages)


def test_install_waits_for_another_apt(
    programs: Callable[[str, str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)
    programs("dpkg", "true")
    programs(
        "apt-get",
        f"echo x >> {tmp_path}/tries; [ $(wc -l < {tmp_path}/tries) -gt 2 ] && exit 0\n"
        'echo "E: Could not get lock /var/lib/apt/lists/lock. It is held by process 7"; exit 100',
    )
    apt.install(["skopeo"])
    assert len(waits) == 2


def test_install_gives_up_waiting(
    programs: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apt, "LOCK_SECONDS", -1)
    programs("dpkg", "true")
    programs("apt-get", 'echo "E: Could not get lock /x. It is held by process 7"; exit 100')
    with pytest.raises(BusyError, match="held by process 7"):
        apt.install(["skopeo"])


def test_an_archive_that_is_away_is_the_reason(programs: Callable[[str, str], None]) -> None:
    programs("dpkg", "true")
    programs(
        "apt-get",
        'case "$*" in *update) echo "W: Failed to fetch http://a/InRelease  Temporary failure '
        'resolving"; exit 0;; esac; echo "E: Unable to locate package skopeo"; exit 100',
    )
    with pytest.raises(NetworkError, match="http://a/InRelease"):
        apt.install(["skopeo"])


def test_services_are_held_while_packages_are_installed(tmp_path: Path) -> None:
    policy = tmp_path / "policy-rc.d"
    with pytest.raises(KeyboardInterrupt), apt.services_held(policy):
        for service, code in (("docker", 101), ("docker.service", 101), ("docker-registry", 101),
                              ("docker-registry.service", 101), ("ssh", 0)):  # fmt: skip
            assert os.waitstatus_to_exitcode(os.system(f"{policy} {service} start")) == code
        raise KeyboardInterrupt
    assert not policy.exists()


def test_a_policy_of_somebody_else_stays(tmp_path: Path) -> None:
    policy = tmp_path / "policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 101\n")
    with apt.services_held(policy):
        assert policy.read_text() == "#!/bin/sh\nexit 101\n"
    assert policy.exists()


def test_a_policy_that_a_killed_run_left_is_taken_away(tmp_path: Path) -> None:
    policy = tmp_path / "policy-rc.d"
    policy.write_text(f"#!/bin/sh\n# {apt.MARK}\nexit 101\n")
    with apt.services_held(policy):
        pass
    assert not policy.exists()


# The daemon ----------------------------------------------------------------------------------


SOCKET = "unix:///run/own-docker.sock"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dockerd, "START_SECONDS", 10.0)
    monkeypatch.setattr(dockerd, "running", lambda: False)
    monkeypatch.setattr(dockerd, "nest_cgroups", lambda: None)


@pytest.mark.usefixtures("quick")
def test_a_daemon_that_ends_at_once_shows_its_log(
    programs: Callable[[str, str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dockerd, "answers", lambda: False)
    programs("dockerd", "echo 'failed to start daemon: iptables: no chain' >&2; exit 1")
    started = time.monotonic()
    with pytest.raises(EngineError, match="iptables: no chain") as caught:
        dockerd.start(tmp_path / "logs" / "d.log", SOCKET, systemd=False)
    assert time.monotonic() - started < 5  # it does not wait for what has ended
    assert "iptables-legacy" in caught.value.hint
    assert str(tmp_path / "logs" / "d.log") in caught.value.hint


@pytest.mark.usefixtures("quick")
def test_a_daemon_outlives_the_task_in_a_session_of_its_own(
    programs: Callable[[str, str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "pid"
    programs(
        "dockerd",
        f"echo $* > {mark}.args; echo $$ > {mark}.new; mv {mark}.new {mark}; exec sleep 60",
    )
    monkeypatch.setattr(dockerd, "answers", mark.exists)
    dockerd.start(tmp_path / "d.log", SOCKET, systemd=False)
    pid = int(mark.read_text())
    try:
        assert os.getsid(pid) == pid
        assert Path(f"{mark}.args").read_text() == f"--host {SOCKET}\n"
        assert Path(f"/proc/{pid}/cwd").resolve() == Path("/")
    finally:
        os.kill(pid, 9)


@pytest.mark.usefixtures("quick")
def test_a_daemon_on_its_way_up_is_not_started_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dockerd, "running", lambda: True)
    monkeypatch.setattr(dockerd, "answers", lambda: True)
    monkeypatch.setattr(dockerd, "spawn", lambda *_: pytest.fail("started twice"))
    dockerd.start(tmp_path / "d.log", SOCKET, systemd=False)


def test_systemd_starts_the_service(
    programs: Callable[[str, str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dockerd, "answers", lambda: True)
    programs("systemctl", f'echo "$*" >> {tmp_path}/calls')
    dockerd.start(tmp_path / "d.log", SOCKET, systemd=True)
    assert (tmp_path / "calls").read_text() == "enable --now docker\n"
    programs("systemctl", "echo 'Job for docker.service failed' >&2; exit 1")
    programs("journalctl", "echo 'no space left on device'")
    with pytest.raises(EngineError, match="no space left") as caught:
        dockerd.start(tmp_path / "d.log", SOCKET, systemd=True)
    assert "free disk space" in caught.value.hint


def test_running_reads_the_pid_file(tmp_path: Path) -> None:
    pid = tmp_path / "docker.pid"
    assert not dockerd.running(pid)
    pid.write_text(str(os.getpid()))  # the number is in use again, by something else
    assert not dockerd.running(pid)


def test_cgroups_are_nested_only_inside_a_container(tmp_path: Path) -> None:
    def group(name: str, *, nested: bool) -> Path:
        root = tmp_path / name
        root.mkdir()
        (root / "cgroup.controllers").write_text("cpu memory\n")
        (root / "cgroup.procs").write_text("1\n7\n")
        (root / "cgroup.subtree_control").write_text("")
        if nested:
            (root / "cgroup.type").write_text("domain\n")
        return root

    own, inner = group("machine", nested=False), group("container", nested=True)
    for root in (own, inner, tmp_path / "version-1"):
        dockerd.nest_cgroups(root)
    assert not (own / "init").exists()
    assert (inner / "init" / "cgroup.procs").read_text() == "7"
    assert (inner / "cgroup.subtree_control").read_text() == "+cpu +memory"
