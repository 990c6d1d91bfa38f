"""The protocol between the entrypoint and the middleware that runs inside the server.

It is separate from `readiness`, because importing that would cost the entrypoint 25 ms for asyncio.
"""

from __future__ import annotations

CONTROL = "HIGGS_CONTROL_FD"
"""Variable with the file descriptor of the socket between them."""
WARMUP = "HIGGS_WARMUP_SECONDS"
COMPANION = "HIGGS_COMPANION_TOKEN"
"""Variable with the secret by which the server knows requests of /generate while it drains."""
COMPANION_HEADER = "x-higgs-companion"
API_KEY = "VLLM_API_KEY"
REFERENCE = "HIGGS_MAX_REFERENCE_SECONDS"
CODEC_MEMORY = "HIGGS_CODEC_MEMORY_MIB"
KEEP_ALIVE = "HIGGS_KEEP_ALIVE_SECONDS"

READY, DRAIN, DRAINED, STOPPED = b"ready\n", b"drain\n", b"drained\n", b"stopped\n"
"""Messages on that socket, all to the entrypoint but DRAIN; STOPPED: every connection is closed."""
