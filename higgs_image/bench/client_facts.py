"""What is known of the machine that sends the requests."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version

from higgs_image import checkout
from higgs_image.bench.result import ClientFacts
from higgs_image.smoke.runner import processor
from higgs_image.workspace import PROJECT


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


def client_facts() -> ClientFacts:
    """Return what is known of this machine; no name and no address of it."""
    libraries = {name: version(name) for name in ("aiohttp", "uvloop", "av", "numpy")}
    return ClientFacts(
        processor(),
        cores(),
        round(os.getloadavg()[0], 2),
        f"{platform.system()} {platform.release()}",
        {"python": platform.python_version(), **libraries},
        checkout.inspect(PROJECT).commit or "",
    )
