"""One small HTTP request: whole answers of APIs, registries and servers on this machine."""

from __future__ import annotations

import base64
import http.client
import ipaddress
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from higgs_image.errors import NetworkError


@dataclass(frozen=True)
class Response:
    """An answer, whatever its status.

    Attributes:
        status: HTTP status code.
        reason: its text, such as `Not Found`.
        body: all of it.
        headers: names in lower case.
    """

    status: int
    reason: str = ""
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)

    def json(self) -> Any:
        """Return the body as JSON.

        Raises:
            ValueError: it is not JSON.
        """
        return json.loads(self.body)


def request(
    method: str,
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
    timeout: float = 30.0,
    follow: bool = True,
) -> Response:
    """Send one request and read the whole answer; an error status is an answer, too.

    Proxies of the environment are used, except for addresses of this machine.

    Args:
        method: such as GET.
        url: http or https.
        headers: added to the request.
        body: sent as it is.
        timeout: seconds without an answer or a byte.
        follow: go where a redirection points, with all headers; False: it is the answer.

    Raises:
        NetworkError: nothing answered, or the connection broke.
    """
    if not is_http(url):
        raise NetworkError(f"{url!r} is not an http or https URL", "correct the URL")
    asked = urllib.request.Request(  # noqa: S310 (the scheme is checked above)
        url, data=body, method=method, headers={"User-Agent": "higgs-image", **(headers or {})}
    )
    try:
        with opener(url, follow=follow).open(asked, timeout=timeout) as answer:
            return response(answer)
    except urllib.error.HTTPError as error:
        with error:
            return response(error)
    except (OSError, ValueError) as error:
        why = getattr(error, "reason", None) or error
        raise NetworkError(f"{method} {url}: no answer ({why})", "check the network") from None


def is_http(url: str) -> bool:
    """Return whether a text is an http or https URL with a host."""
    try:
        parts = urlsplit(url)
    except ValueError:  # half of an IPv6 address, for example
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)


def opener(url: str, *, follow: bool = True) -> urllib.request.OpenerDirector:
    """Return what opens a URL: by the environment's proxy, or directly on this machine."""
    handlers: list[urllib.request.BaseHandler] = [] if follow else [_NoRedirection()]
    if is_local(urlsplit(url).hostname or ""):
        handlers.append(urllib.request.ProxyHandler({}))
    return urllib.request.build_opener(*handlers)


def connection(host: str, port: int, *, tls: bool, timeout: float) -> http.client.HTTPConnection:
    """Return a connection, not opened yet: by the environment's proxy if it uses TLS, or directly.

    Args:
        host: name or address.
        port: of it.
        tls: whether it uses TLS.
        timeout: seconds without a byte.
    """
    if not tls:
        return http.client.HTTPConnection(host, port, timeout=timeout)
    proxy = urllib.request.getproxies().get("https", "")
    if not proxy or is_local(host) or urllib.request.proxy_bypass(f"{host}:{port}"):
        return http.client.HTTPSConnection(host, port, timeout=timeout)
    parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    made = http.client.HTTPSConnection(parts.hostname or "", parts.port or 80, timeout=timeout)
    login = {}
    if parts.username:
        text = urllib.parse.unquote(f"{parts.username}:{parts.password or ''}")
        login["Proxy-Authorization"] = f"Basic {base64.b64encode(text.encode()).decode()}"
    made.set_tunnel(host, port, login)
    return made


class _NoRedirection(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """Leave the redirection as it is."""


def response(answer: Any) -> Response:
    """Return what urllib got, read to its end."""
    headers = {name.lower(): value for name, value in answer.headers.items()}
    return Response(answer.status, answer.reason, answer.read(), headers)


def is_local(host: str) -> bool:
    """Tell whether a host is this machine by its loopback interface."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
