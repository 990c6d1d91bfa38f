"""A fake hub on loopback: the part of huggingface.co that huggingface_hub 0.34 uses, in memory.

Metadata of a revision with sizes and hashes; small files directly, large ones by a redirect to
another host name with X-Linked-ETag and X-Linked-Size; byte ranges; error codes in X-Error-Code.
Tests set failures in advance: statuses, broken connections, damaged bytes.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from typing import Any

from tests.support.http_server import BusyHTTPServer, QuietHandler

LARGE = 100_000
"""Files of this size and more are stored as large files, as git-lfs has them."""


@dataclass
class Failure:
    """A response that replaces the correct one.

    Attributes:
        path: pattern of the paths.
        status: its status.
        headers: its headers.
        times: how often it is used.
    """

    path: str
    status: int
    headers: dict[str, str] = field(default_factory=dict)
    times: int = 10**9


@dataclass
class Hub:
    """Content, planned failures, and the received requests.

    Attributes:
        repos: name to commit to path to content.
        branches: name to branch to commit.
        failures: the first that matches is used.
        cut: number of downloads to break, each after `cut_after` bytes.
        damage: number of downloads of large files to damage.
        asked: method, path and Range of every request.
        tokens: Authorization of every request.
    """

    repos: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    branches: dict[str, dict[str, str]] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    cut: int = 0
    cut_after: int = 50_000
    damage: int = 0
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)

    def add(self, repo: str, commit: str, files: dict[str, bytes], branch: str = "main") -> None:
        self.repos.setdefault(repo, {})[commit] = files
        self.branches.setdefault(repo, {})[branch] = commit

    def reset(self) -> None:
        self.__init__()  # type: ignore[misc]

    def downloads(self, name: str = "") -> list[tuple[str, str]]:
        """Path and Range of the requests that fetched content."""
        return [(p, r) for m, p, r in self.asked if m == "GET" and "/api/" not in p and name in p]


def blob_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class Handler(QuietHandler):
    server: Server

    def do_GET(self) -> None:
        hub = self.server.hub
        path = self.path.partition("?")[0]
        hub.asked.append((self.command, path, self.headers.get("Range", "")))
        hub.tokens.append(self.headers.get("Authorization", ""))
        for failure in hub.failures:
            if failure.times > 0 and re.search(failure.path, path):
                failure.times -= 1
                self._send(failure.status, b"{}", failure.headers)
                return
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/revision/(.+)", path):
            self._metadata(match[1], match[2])
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._file(match[1], match[2], match[3])
        elif match := re.fullmatch(r"/cdn/([^/]+/[^/]+)/([^/]+)/(.+)", path):
            self._content(self.server.hub.repos[match[1]][match[2]][match[3]], {})
        else:
            self._send(404, b"{}", {})

    do_HEAD = do_GET

    def _find(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        hub = self.server.hub
        if repo not in hub.repos:  # the real hub hides private repositories
            self._send(401, b'{"error": "Invalid username or password."}', {})
            return None
        commit = hub.branches[repo].get(revision, revision)
        if commit not in hub.repos[repo]:
            self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            return None
        return commit, hub.repos[repo][commit]

    def _metadata(self, repo: str, revision: str) -> None:
        if (found := self._find(repo, revision)) is None:
            return
        commit, files = found
        siblings = []
        for name, data in files.items():
            entry: dict[str, Any] = {"rfilename": name, "size": len(data), "blobId": blob_id(data)}
            if len(data) >= LARGE:
                sha256 = hashlib.sha256(data).hexdigest()
                entry["lfs"] = {"sha256": sha256, "size": len(data), "pointerSize": 134}
            siblings.append(entry)
        value = {"id": repo, "sha": commit, "siblings": siblings}
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _file(self, repo: str, revision: str, name: str) -> None:
        if (found := self._find(repo, revision)) is None:
            return
        commit, files = found
        if name not in files:
            self._send(404, b"{}", {"X-Error-Code": "EntryNotFound"})
            return
        data = files[name]
        headers = {"X-Repo-Commit": commit}
        if len(data) < LARGE:
            self._content(data, headers | {"ETag": f'"{blob_id(data)}"'})
            return
        self._send(302, b"", headers | {
            "Location": f"http://localhost:{self.server.server_port}/cdn/{repo}/{commit}/{name}",
            "X-Linked-Size": str(len(data)),
            "X-Linked-ETag": f'"{hashlib.sha256(data).hexdigest()}"',
            "ETag": f'"{blob_id(data)}"',
            "X-Xet-Hash": hashlib.sha256(data).hexdigest(),  # offered by the real hub, too
            "X-Xet-Refresh-Route": f"{self.server.url}/api/models/{repo}/xet-read-token/{commit}",
        })  # fmt: skip

    def _content(self, data: bytes, headers: dict[str, str]) -> None:
        hub = self.server.hub
        status, start = 200, 0
        if match := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            start = int(match[1])
            if start >= len(data):
                self._send(416, b"", {"Content-Range": f"bytes */{len(data)}"})
                return
            status = 206
            headers = headers | {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
        chunk = data[start:]
        large = len(data) >= LARGE and self.command == "GET"
        if large and hub.damage > 0:
            hub.damage -= 1
            chunk = bytes([chunk[0] ^ 1]) + chunk[1:]
        if large and hub.cut > 0:
            hub.cut -= 1
            self._send(status, chunk, headers, most=hub.cut_after)
            self.close_connection = True
        else:
            self._send(status, chunk, headers)

    def _send(
        self, status: int, data: bytes, headers: dict[str, str], most: int | None = None
    ) -> None:
        self.answer(status, data[:most], {"Content-Length": str(len(data))} | headers)


class Server(BusyHTTPServer):
    """The hub's HTTP server on a free port."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        super().__init__((host, 0), Handler)
        self.host = host
        self.hub = Hub()
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.server_port}"
