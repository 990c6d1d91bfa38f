"""What is found on a machine: versions, file systems, the engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from higgs_image.host import facts


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
