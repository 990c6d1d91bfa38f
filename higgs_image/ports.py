"""Ports of this machine."""

from __future__ import annotations

import random
import socket

from higgs_image.errors import EngineError

HOST = "127.0.0.1"
CHOICE = range(10_000, 32_768)
"""Ports to choose from. The kernel gives those from 32768 on to outgoing connections (ip(7),
ip_local_port_range) and the engine gives them to containers: one that is free when it is chosen
may be taken when the program listens that it was chosen for."""


def is_free(port: int) -> bool:
    """Tell whether nothing listens on a loopback port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """Return a loopback port for a program that is started later.

    Raises:
        EngineError: all are in use.
    """
    for port in random.sample(CHOICE, len(CHOICE)):
        if is_free(port):
            return port
    raise EngineError(
        f"no port of {HOST} from {CHOICE.start} to {CHOICE.stop - 1} is free",
        "ss -ltn lists the programs that listen",
    )
