"""On which address the service listens: without an API key never openly on a public platform."""

from __future__ import annotations

from collections.abc import Mapping

from higgs_generate.settings import OPEN

PUBLIC_PLATFORMS = ("RUNPOD_POD_ID", "VAST_CONTAINERLABEL")
"""Variables of platforms whose ports anyone can reach."""
LOOPBACK = ("127.0.0.1", "::1", "localhost")


def listen_address(host: str, environment: Mapping[str, str]) -> tuple[str, str]:
    """Return the address to listen on, and why it is not the one that was asked for.

    Args:
        host: the address that was asked for.
        environment: the variables of the process.
    """
    key = environment.get("HIGGS_API_KEY") or environment.get("VLLM_API_KEY")
    public = next((name for name in PUBLIC_PLATFORMS if environment.get(name)), "")
    if key or not public or host in LOOPBACK or OPEN.read(environment):
        return host, ""
    loopback = "::1" if ":" in host else "127.0.0.1"
    return loopback, (
        f"/generate listens on {loopback} only: anyone on the internet could use it, since there "
        f"is no API key and {public} is set; hint: set HIGGS_API_KEY, or {OPEN.variable}=1"
    )
