"""Machines that tests plan installations for."""

from __future__ import annotations

import dataclasses

from higgs_image.host.apt import AptSource
from higgs_image.host.facts import Machine

BOOKWORM = AptSource(("http://mirror.example/debian",), ("bookworm",), ("main",))

TRIXIE = dataclasses.replace(BOOKWORM, suites=("trixie", "trixie-updates"))

BARE = Machine(os_id="debian", os_version="12", sources=(BOOKWORM,), systemd=False)

READY = dataclasses.replace(
    BARE, engine=(26, 1, 5), store="containerd", dockerd=(26, 1, 5), client=(26, 1, 5),
    buildx=(0, 13, 1), skopeo=(1, 9, 3),
)  # fmt: skip


def but(base: Machine, **changes: object) -> Machine:
    """Return a machine that differs in some facts."""
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]
