"""What the start code and the middleware inside the server (`gate`) say to each other.

Apart from `gate`, which needs asyncio: the start code would wait 25 ms for that and not use it.
"""

from __future__ import annotations

CONTROL = "HIGGS_CONTROL_FD"
"""Variable with the number of the socket between them."""
WARMUP = "HIGGS_WARMUP_SECONDS"
API_KEY = "VLLM_API_KEY"

READY, DRAIN, DRAINED = b"ready\n", b"drain\n", b"drained\n"
"""What is said on that socket: to the start code, from it, to it."""
