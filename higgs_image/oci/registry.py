"""Requests to a registry by the OCI distribution API, over connections that stay open.

skopeo moves images. What is small (manifests, lists of tags, records) is asked for here: a program
per request would need minutes for the thousands of tags that a cleanup looks at.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import ssl
import urllib.parse
import urllib.request
from collections.abc import Mapping
from typing import Any

import urllib3

from higgs_image import http, retry
from higgs_image.errors import (
    HiggsError,
    RegistryConflictError,
    RegistryError,
    RegistryNotFoundError,
    RegistryUnavailableError,
)
from higgs_image.files import sha256_bytes
from higgs_image.oci import certificates
from higgs_image.oci.credentials import Credentials
from higgs_image.oci.reference import is_loopback
from higgs_image.oci.registry_errors import document, explain_status

TIMEOUT = 120.0
"""Seconds that a registry may take for what is small: a manifest, a list of tags, a deletion."""

CONNECTIONS = 16
"""Requests at the same time."""

DAMAGED = "the registry, or a proxy in front of it, is damaged: nothing was done"

INDEX_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
MANIFEST_TYPES = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    *INDEX_TYPES,
)

_VERBS = {"GET": "read", "HEAD": "read", "PUT": "write", "DELETE": "delete"}


class RegistryClient:
    """The API of one repository; safe to use from several threads.

    Args:
        name: host and path.
        auth: credentials for it.
    """

    def __init__(self, name: str, auth: Credentials) -> None:
        self._host, _, self._path = name.partition("/")
        self._login = auth.login
        self._scheme = "http" if is_loopback(self._host) else "https"
        self._authorization: dict[str, str] = {}  # by kind of access

    def manifest(self, what: str) -> tuple[bytes, str] | None:
        """Return the bytes of a tag's or digest's manifest and their media type.

        None where the registry does not have it.

        Raises:
            RegistryConflictError: it is not what its digest says.
        """
        answer = self._call("GET", f"manifests/{what}", {"Accept": ", ".join(MANIFEST_TYPES)})
        if answer is None:
            return None
        document(answer, what, self._host)  # a proxy's page must not pass for a manifest
        digest = f"sha256:{sha256_bytes(answer.body)}"
        if what.startswith("sha256:") and digest != what:
            raise RegistryConflictError(
                f"{self._host}/{self._path}@{what} was answered with another manifest, {digest}",
                DAMAGED,
            )
        return answer.body, answer.headers.get("content-type", "").partition(";")[0]

    def blob(self, digest: str) -> bytes:
        """Return a blob, compared with its digest.

        Raises:
            RegistryNotFoundError: the registry does not have it.
            RegistryConflictError: it is not what its digest says.
        """
        answer = self._call("GET", f"blobs/{digest}")
        if answer is None:
            raise RegistryNotFoundError(
                f"{self._host}/{self._path}@{digest} was not found", "check the name and the digest"
            )
        if f"sha256:{sha256_bytes(answer.body)}" != digest:
            raise RegistryConflictError(
                f"{self._host}/{self._path} answered with other content than {digest}",
                DAMAGED,
            )
        return answer.body

    def put_blob(self, digest: str, data: bytes) -> None:
        """Send a blob, unless the registry has it."""
        for attempt in retry.attempts("write"):
            with attempt:
                with contextlib.suppress(HiggsError):  # of a new repository it may be refused
                    self._checked("HEAD", f"blobs/{digest}")
                    return
                started = self._checked("POST", "blobs/uploads/", body=b"")
                location = started.headers.get("location", "")
                goal = urllib.parse.urljoin(f"{self._root}/v2/", location)
                goal += f"{'&' if '?' in goal else '?'}digest={urllib.parse.quote(digest)}"
                self._checked("PUT", goal, {"Content-Type": "application/octet-stream"}, data)

    def put_manifest(self, what: str, data: bytes, media_type: str) -> None:
        """Store a manifest under a tag or its digest."""
        self._call("PUT", f"manifests/{what}", {"Content-Type": media_type}, data)

    def delete_manifest(self, digest: str) -> bool:
        """Delete a manifest and every tag that names it; False if there was none."""
        return self._call("DELETE", f"manifests/{digest}") is not None

    def tags(self) -> list[str] | None:
        """Return all tags; None where the registry does not know the repository."""
        found: list[str] = []
        path = "tags/list?n=1000"
        while path:
            answer = self._call("GET", path)
            if answer is None:
                return None
            found += document(answer, "the list of tags", self._host).get("tags") or []
            link = re.search(r'<([^>]+)>\s*;\s*rel="?next', answer.headers.get("link", ""))
            path = urllib.parse.urljoin(self._url(path), link[1]) if link else ""
        return found

    def _call(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> http.Response | None:
        """Send a request until it succeeds or fails permanently; None for a 404 of a read."""
        try:
            return retry.attempts(_VERBS[method])(self._checked, method, path, headers, body)
        except RegistryNotFoundError:
            if method == "PUT":
                raise
            return None

    def _checked(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> http.Response:
        access = "pull" if method in ("GET", "HEAD") else "push"

        def once() -> http.Response:
            token = self._authorization.get(access)
            more = {"Authorization": token} if token else {}
            return _request(method, self._url(path), self._host, {**(headers or {}), **more}, body)

        answer = once()
        if answer.status == 400 and b"HTTPS server" in answer.body and self._scheme == "http":
            self._scheme = "https"
            answer = once()
        if answer.status == 401:
            challenge = answer.headers.get("www-authenticate", "")
            if authorization := self._authorize(challenge):
                self._authorization[access] = authorization
                answer = once()
        if answer.status < 300:
            return answer
        what = urllib.parse.urlsplit(path).path.rpartition("/v2/")[2]
        raise explain_status(answer, f"{method} {self._host}/{self._path} {what}", self._host)

    @property
    def _root(self) -> str:
        host = "registry-1.docker.io" if self._host == "docker.io" else self._host
        return f"{self._scheme}://{host}"

    def _url(self, path: str) -> str:
        return path if "://" in path else f"{self._root}/v2/{self._path}/{path}"

    def _authorize(self, challenge: str) -> str:
        """Return the header that answers a challenge; empty if none can be given."""
        kind, _, rest = challenge.partition(" ")
        basic = ""
        if self._login:
            basic = urllib3.make_headers(basic_auth=":".join(self._login))["authorization"]
        if kind.lower() == "basic":
            return basic
        given = dict(re.findall(r'(\w+)="([^"]*)"', rest))
        if kind.lower() != "bearer" or "realm" not in given:
            return ""
        asked = {k: v for k, v in given.items() if k in ("service", "scope")}
        url = f"{given['realm']}?{urllib.parse.urlencode(asked)}"
        answer = _request("GET", url, self._host, {"Authorization": basic} if basic else {})
        if answer.status != 200:
            raise explain_status(answer, f"the token for {self._host}/{self._path}", self._host)
        found = document(answer, f"the request for a token of {self._path}", self._host)
        return f"Bearer {found.get('token') or found.get('access_token')}"


@functools.cache
def _pool(host: str, _process: int) -> urllib3.PoolManager:
    """Return a process's connections to a host, by the environment's proxy where one applies."""
    authority = certificates.authority(host)
    if is_loopback(host) and not authority:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # the system's authorities take 0.1 s
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE  # skopeo, cosign and docker do the same there
    else:
        context = ssl.create_default_context()
        if authority:
            context.load_verify_locations(authority)
    options: dict[str, Any] = {"maxsize": CONNECTIONS, "ssl_context": context}
    proxy = urllib.request.getproxies().get("https")
    bare = re.sub(r":\d+$", "", host)
    if proxy and not is_loopback(host) and not urllib.request.proxy_bypass(bare):
        return urllib3.ProxyManager(proxy, **options)
    return urllib3.PoolManager(**options)


def _request(
    method: str, url: str, host: str, headers: Mapping[str, str], body: bytes | None = None
) -> http.Response:
    shown = url.partition("?")[0]
    try:
        answer = _pool(host, os.getpid()).request(
            method, url, body=body, headers={"User-Agent": "higgs-image", **headers},
            timeout=urllib3.Timeout(TIMEOUT),
            retries=urllib3.Retry(None, connect=0, read=0, redirect=5, status=0, other=0),
        )  # fmt: skip
        return http.Response(
            answer.status, answer.reason or "", answer.data,
            {name.lower(): value for name, value in answer.headers.itermerged()},
        )  # fmt: skip
    except urllib3.exceptions.HTTPError as error:
        reason = getattr(error, "reason", None) or error
        if "certificate verify failed" in str(reason).lower():
            raise RegistryError(
                f"the certificate of {host} is not trusted ({reason})",
                certificates.HINT.format(host=host),
            ) from None
        refused = isinstance(reason, urllib3.exceptions.NewConnectionError)  # a TimeoutError, too
        late = isinstance(reason, urllib3.exceptions.TimeoutError) and not refused
        why = f"timed out after {TIMEOUT:g} s" if late else str(reason)
        raise RegistryUnavailableError(
            f"{host} did not answer to {method} {shown}: {why}",
            "run again when it does: what has arrived is not sent again",
        ) from None
