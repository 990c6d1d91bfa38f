"""The image's HEALTHCHECK: `python3 -m higgs_runtime.health` ends with 0 when /ping is 200."""

from __future__ import annotations

import ssl
import sys
import urllib.request

from higgs_runtime import pod

DEFAULT = "http://127.0.0.1:8000/ping"


def main() -> int:
    """Ask the address that the start code has left; 1 if it is not 200."""
    try:
        url = pod.ping_file().read_text().strip()
    except OSError:
        url = DEFAULT
    context = ssl._create_unverified_context()  # noqa: S323 (the container asks itself)
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}),  # a proxy for the outside would be asked for it otherwise
        urllib.request.HTTPSHandler(context=context),
    )
    try:
        with opener.open(url, timeout=8) as answer:
            return int(answer.status != 200)
    except (OSError, ValueError) as error:
        print(f"{url}: {error}")
        return 1


if __name__ == "__main__":
    sys.exit(main())
