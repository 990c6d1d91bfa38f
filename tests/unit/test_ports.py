"""Ports of this machine."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from higgs_image import ports
from higgs_image.errors import EngineError
from higgs_image.ports import HOST, free_port, is_free

EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")


def test_nobody_else_is_given_the_port() -> None:
    assert free_port() < int(EPHEMERAL.read_text().split()[0])


def test_a_port_in_use_is_not_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    first = free_port()
    with socket.create_server((HOST, first)):
        assert not is_free(first)
        monkeypatch.setattr(ports, "CHOICE", range(first, first + 1))
        with pytest.raises(EngineError, match=f"from {first} to {first} is free"):
            free_port()
    assert free_port() == first
