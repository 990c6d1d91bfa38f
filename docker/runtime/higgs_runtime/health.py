"""The image's HEALTHCHECK: `python3 -m higgs_runtime.health` ends with 0 when /ping is 200."""

from __future__ import annotations

import ssl
import sys
import urllib.request

from higgs_runtime.pod import PING_FILE

DEFAULT = "http://127.0.0.1:8000/ping"


def main() -> int:
    """Ask the address that the start code has left; 1 if it is not 200."""
    try:
        url = PING_FILE.read_text().strip()
    except OSError:
        url = DEFAULT
    context = ssl._create_unverified_context()  # noqa: S323 (the container asks itself)
    try:
        with urllib.request.urlopen(url, timeout=8, context=context) as answer:  # noqa: S310
            return int(answer.status != 200)
    except (OSError, ValueError) as error:
        print(f"{url}: {error}")
        return 1


if __name__ == "__main__":
    sys.exit(main())
