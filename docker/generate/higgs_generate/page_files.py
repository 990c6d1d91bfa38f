"""The page: a few files that are read once and served from memory, under a strict policy.

A request can only name a file that was found at the start, so there is no path to escape from.
"""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path
from typing import NamedTuple

from higgs_patches.lib.errors import error_response
from starlette.types import Receive, Scope, Send

FOLDER = Path(__file__).with_name("page")
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".woff2": "font/woff2",
    ".webmanifest": "application/manifest+json",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "media-src 'self' blob:; font-src 'self'; connect-src 'self'; worker-src 'self'; "
    "manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "permissions-policy": "microphone=(self), camera=(), geolocation=()",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",
}


class PageFile(NamedTuple):
    """A file of the page: its content, plain and compressed, and headers."""

    content: bytes
    gzip: bytes
    etag: bytes
    headers: list[tuple[bytes, bytes]]


def read(folder: Path) -> dict[str, PageFile]:
    """Return the files of a folder by the path at which they are served."""
    files = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.suffix in TYPES and path.is_file():
            name = "/" if path.name == "index.html" else f"/page/{path.name}"
            files[name] = page_file(path.read_bytes(), TYPES[path.suffix])
    return files


def page_file(content: bytes, media_type: str) -> PageFile:
    """Return a file with its headers."""
    etag = f'"{hashlib.sha256(content).hexdigest()[:20]}"'
    headers = HEADERS | {"content-type": media_type, "etag": etag, "vary": "accept-encoding"}
    encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
    return PageFile(content, gzip.compress(content, mtime=0), etag.encode(), encoded)


async def send_file(file: PageFile, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer GET and HEAD with a file (ASGI)."""
    if scope["method"] not in ("GET", "HEAD"):
        refused = error_response("this path answers GET only", 405)
        refused.headers["Allow"] = "GET, HEAD"
        await refused(scope, receive, send)
        return
    known = any(
        name == b"if-none-match" and file.etag in (x.strip() for x in value.split(b","))
        for name, value in scope["headers"]
    )
    if known:
        headers = [x for x in file.headers if x[0] != b"content-type"]
        await send({"type": "http.response.start", "status": 304, "headers": headers})
        await send({"type": "http.response.body", "body": b""})
        return
    content, headers = file.content, list(file.headers)
    if _takes_gzip(scope):
        content = file.gzip
        headers.append((b"content-encoding", b"gzip"))
    headers.append((b"content-length", str(len(content)).encode()))
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    body = b"" if scope["method"] == "HEAD" else content
    await send({"type": "http.response.body", "body": body})


def _takes_gzip(scope: Scope) -> bool:
    accepted = b",".join(value for name, value in scope["headers"] if name == b"accept-encoding")
    for one in accepted.lower().split(b","):
        name, _, weight = one.partition(b";")
        if name.strip() == b"gzip":
            return weight.replace(b" ", b"").rstrip(b".0") != b"q="
    return False
