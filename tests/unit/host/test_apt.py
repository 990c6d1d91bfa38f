"""Debian's package manager: sources, installing, errors."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from higgs_image.errors import BusyError, DiskFullError, EngineError, NetworkError, ToolMissingError
from higgs_image.host import apt
from higgs_image.host.apt import AptSource
from tests.support.machines import BOOKWORM

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


def test_deb822_sources_are_read() -> None:
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


def test_classic_sources_are_read() -> None:
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


def test_only_source_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list").write_text("deb http://a.example/debian bookworm main\n")
    (tmp_path / "sources.list.d" / "d.sources.save").write_text(DEB822)
    for name in ("b.list", "c.list.disabled"):
        text = f"deb http://{name}.example/debian bookworm main\n"
        (tmp_path / "sources.list.d" / name).write_text(text)
    (tmp_path / "sources.list.d" / "a.sources").write_text(DEB822)
    hosts = [x.uris[0].split("/")[2] for x in apt.read_sources(tmp_path)]
    assert hosts == ["a.example", "one.example", "security.example", "b.list.example"]


def test_no_sources(tmp_path: Path) -> None:
    assert apt.read_sources(tmp_path) == ()


def test_debian_archive_is_preferred_to_third_parties() -> None:
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


def test_rendered_source_uses_own_archive() -> None:
    own = AptSource(
        ("http://one.example/debian", "https://two.example/debian"), ("bookworm",), ("main",),
        {"Signed-By": "\n -----BEGIN\n .\n =abcd\n -----END", "Trusted": "yes"},
    )  # fmt: skip
    text = apt.render_source(own)
    assert apt.parse_deb822(text) == [
        AptSource(own.uris, ("trixie",), ("main",), own.options),
    ]
    assert "Pin-Priority: 100\n" in apt.PIN


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
def test_apt_errors_are_classified(output: str, kind: type[Exception], message: str) -> None:
    error = apt.explain(output)
    assert type(error) is kind
    assert message in error.message
    assert error.hint


def test_install_finishes_interrupted_installations_first(
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
    assert "install-docker: Setting up x" in caplog.messages
    assert not any("(Reading" in x for x in caplog.messages)


def test_install_waits_for_another_apt(
    programs: Callable[[str, str], None], tmp_path: Path, waits: list[float]
) -> None:
    programs("dpkg", "true")
    programs(
        "apt-get",
        f"echo x >> {tmp_path}/tries; [ $(wc -l < {tmp_path}/tries) -gt 2 ] && exit 0\n"
        'echo "E: Could not get lock /var/lib/apt/lists/lock. It is held by process 7"; exit 100',
    )
    apt.install(["skopeo"])
    assert len(waits) == 2


def test_install_stops_waiting_after_the_timeout(
    programs: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apt, "LOCK_SECONDS", -1)
    programs("dpkg", "true")
    programs("apt-get", 'echo "E: Could not get lock /x. It is held by process 7"; exit 100')
    with pytest.raises(BusyError, match="held by process 7"):
        apt.install(["skopeo"])


def test_unreachable_archive_is_named(programs: Callable[[str, str], None]) -> None:
    programs("dpkg", "true")
    programs(
        "apt-get",
        'case "$*" in *update) echo "W: Failed to fetch http://a/InRelease  Temporary failure '
        'resolving"; exit 0;; esac; echo "E: Unable to locate package skopeo"; exit 100',
    )
    with pytest.raises(NetworkError, match="http://a/InRelease"):
        apt.install(["skopeo"])


def test_services_do_not_start_during_installation(tmp_path: Path) -> None:
    policy = tmp_path / "policy-rc.d"
    with pytest.raises(KeyboardInterrupt), apt.services_held(policy):
        for service, code in (("docker", 101), ("docker.service", 101), ("docker-registry", 101),
                              ("docker-registry.service", 101), ("ssh", 0)):  # fmt: skip
            assert os.waitstatus_to_exitcode(os.system(f"{policy} {service} start")) == code
        raise KeyboardInterrupt
    assert not policy.exists()


def test_existing_policy_is_kept(tmp_path: Path) -> None:
    policy = tmp_path / "policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 101\n")
    with apt.services_held(policy):
        assert policy.read_text() == "#!/bin/sh\nexit 101\n"
    assert policy.exists()


def test_policy_of_a_killed_run_is_removed(tmp_path: Path) -> None:
    policy = tmp_path / "policy-rc.d"
    policy.write_text(f"#!/bin/sh\n# {apt.MARK}\nexit 101\n")
    with apt.services_held(policy):
        pass
    assert not policy.exists()
