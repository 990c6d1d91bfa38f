"""A proxy before a real registry that answers reads as the registry was some seconds ago.

ghcr.io does so: for a while after a write, a read may still say 404 or the previous digest.
"""

from __future__ import annotations

import http.client
import json
import random
import re
import time
from collections.abc import Callable
from typing import Any

from tests.support.fault_proxy import FaultProxy
from tests.support.http_server import QuietHandler

TAG = re.compile(r"/v2/(?P<repository>.+)/manifests/(?P<tag>[^/:]+)$")
LIST = re.compile(r"/v2/(?P<repository>.+)/tags/list")
JSON = {"Content-Type": "application/json"}


class LaggingProxy(FaultProxy):
    """Passes writes on at once; lets reads of tags and of the list of tags lag behind.

    Args:
        upstream: address of the registry.
        lag: returns the seconds for which reads lag behind the next write.
    """

    def __init__(self, upstream: str, lag: Callable[[], float]) -> None:
        super().__init__(upstream)
        self.lag = lag
        self.stale = 0
        # For each tag: its digest (None: absent) before a write, and until when reads say so.
        self._before: dict[tuple[str, str], tuple[str | None, float]] = {}

    @classmethod
    def between(cls, upstream: str, least: float, most: float, seed: int = 1) -> LaggingProxy:
        """Return one whose lag is chosen anew for each write."""
        rng = random.Random(seed)
        return cls(upstream, lambda: rng.uniform(least, most))

    def _ask(self, method: str, path: str, headers: dict[str, str]) -> tuple[int, bytes, str]:
        connection = http.client.HTTPConnection(self.upstream, timeout=60)
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        return answer.status, body, answer.getheader("Docker-Content-Digest", "")

    def _lagging(self, repository: str) -> dict[str, str | None]:
        now = time.monotonic()
        with self._lock:
            return {
                tag: before
                for (name, tag), (before, until) in self._before.items()
                if name == repository and now < until
            }

    def serve(self, handler: QuietHandler) -> None:
        """Answer one request: as the registry was, or as it is."""
        path = handler.path.partition("?")[0]
        if handler.command == "PUT" and (found := TAG.fullmatch(path)):
            key = (found["repository"], found["tag"])
            status, _, digest = self._ask("HEAD", path, {"Accept": handler.headers["Content-Type"]})
            with self._lock:
                earlier = self._before.get(key)
                before = digest if status == 200 else None
                if earlier and time.monotonic() < earlier[1]:
                    before = earlier[0]
                self._before[key] = (before, time.monotonic() + self.lag())
        elif handler.command in ("GET", "HEAD") and (found := TAG.fullmatch(path)):
            lagging = self._lagging(found["repository"])
            if found["tag"] in lagging:
                self.stale += 1
                before = lagging[found["tag"]]
                if before is None:
                    missing = b'{"errors":[{"code":"MANIFEST_UNKNOWN"}]}'
                    return handler.answer(404, missing, JSON)
                handler.path = f"/v2/{found['repository']}/manifests/{before}"
        elif found := LIST.fullmatch(path):
            absent = {x for x, y in self._lagging(found["repository"]).items() if y is None}
            status, body, _ = self._ask("GET", handler.path, {})
            if absent and status == 200:
                self.stale += 1
                listed: dict[str, Any] = json.loads(body)
                listed["tags"] = [x for x in listed["tags"] or [] if x not in absent]
                return handler.answer(200, json.dumps(listed).encode(), JSON)
        super().serve(handler)
        return None
