"""Read the reference audio of a chat request safely, off the event loop.

The fork fetches whatever URL a client names, follows redirects into the network that the server
is in, reads without a limit, and decodes on the event loop, so that one request can reach a private
network, fill the memory, or block all others. Here reference audio comes from

- the request itself (``input_audio``, or an ``audio_url`` with a ``data:`` URL);
- an ``http(s)`` URL whose host is listed in ``HIGGS_ALLOWED_MEDIA_HOSTS`` (host names separated by
  commas; empty, the default, allows none). The server connects to public addresses only, which is
  checked on the very address of each connection, and follows no redirect;
- a ``file:`` URL, where vLLM was started with ``--allowed-local-media-path``.

It is WAV, FLAC, Ogg or MP3 of at most 20 MiB and ``HIGGS_MAX_REFERENCE_SECONDS`` (60 by default).
Anything else is a ValueError, which the server answers with 400 and its message.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import ipaddress
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from higgs_patches.lib.audio.reference import decode
from higgs_patches.patch_settings import ALLOWED_MEDIA_HOSTS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PATCH = {
    "title": "Reference audio is fetched from allowed public hosts only, within limits",
    "issues": [],
    "why": (
        "MediaConnector fetches any URL of a client, also loopback and private ones, follows"
        " redirects, has no limit of size, and decodes on the event loop: server-side request"
        " forgery on a publicly reachable pod, and a stopped server."
    ),
    "obsolete_when": (
        "MediaConnector takes a list of allowed domains, checks the address that it connects to,"
        " and decodes in a thread."
    ),
    "targets": [
        {
            "file": "vllm/multimodal/utils.py",
            "name": "MediaConnector.fetch_audio_async",
            "how": "replace",
            "with": "fetch_audio_async",
            "sha256": "0937bd5b16275a88e67212674620ff9ab0ce74d30dc214b76d10b1b424963d90",
            "fixed": r"allowed_media_domains",
        },
    ],
}

MAX_BYTES = 20 * 2**20
"""The largest file of reference audio."""

FETCH_SECONDS = 10.0
"""How long fetching a URL may take in all."""

_READ = 65_536  # bytes at a time

# Public by the registries' tables, and never a server of recordings: Azure's platform service, and
# addresses that embed another one.
_NEVER = tuple(
    ipaddress.ip_network(network)
    for network in ("168.63.129.16/32", "192.0.0.0/24", "192.88.99.0/24", "2001::/32", "2002::/16")
)
_IPV6_UNICAST = ipaddress.IPv6Network("2000::/3")


def is_public(address: str) -> bool:
    """Whether an IP address is a public unicast one.

    Loopback, private, link-local, shared (carrier NAT), multicast, reserved and documentation
    addresses are not, nor are the metadata services of clouds, nor IPv6 addresses that stand for
    an IPv4 one (mapped, translated, 6to4, Teredo).
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if ip.version == 6 and ip not in _IPV6_UNICAST:
        return False
    return (
        ip.is_global
        and not ip.is_multicast
        and not ip.is_reserved
        and not any(ip in network for network in _NEVER)
    )


async def fetch_audio_async(self: Any, audio_url: str) -> tuple[NDArray[np.float32], int]:
    """The audio behind a URL: samples of one channel between -1 and 1, and their rate in Hz.

    Raises:
        ValueError: the URL may not be fetched, or what it names is not usable audio.
    """
    # urllib.parse would keep the whole URL, which may be a file of many megabytes, in its cache.
    scheme = audio_url[:16].partition(":")[0].strip().lower()
    if scheme == "data":
        return await asyncio.to_thread(lambda: decode(from_data_url(audio_url)))
    if scheme == "file":
        folder = self.allowed_local_media_path
        return await asyncio.to_thread(lambda: decode(from_file_url(audio_url, folder)))
    if scheme in {"http", "https"}:
        data = await fetch(audio_url)
        return await asyncio.to_thread(decode, data)
    raise ValueError(f"audio_url {_short(audio_url)} is not a data: or https: URL")


def from_data_url(url: str) -> bytes:
    """The bytes of a ``data:...;base64,...`` URL; line breaks in the base64 are accepted."""
    header, comma, text = url.partition(",")
    if not comma or not header.rstrip().endswith(";base64"):
        raise ValueError(
            f"audio data {_short(url)} is not base64; expected data:audio/wav;base64,UklGR..."
        )
    if len(text) > MAX_BYTES * 3 // 2:
        raise ValueError(f"the audio is larger than {MAX_BYTES >> 20} MiB")
    try:
        data = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"the audio is not valid base64: {error}") from None
    return _within_limit(data)


def from_file_url(url: str, folder: Path | None) -> bytes:
    """The bytes of a file below the folder that --allowed-local-media-path names."""
    if folder is None:
        raise ValueError(
            "file: URLs are off; the server can allow them by --allowed-local-media-path"
        )
    location = url.partition(":")[2]
    host, slash, rest = location.removeprefix("//").partition("/")
    path = Path(slash + unquote(rest)).resolve() if location.startswith("//") and not host else None
    if path is None or not path.is_relative_to(folder.resolve()) or not path.is_file():
        raise ValueError(f"audio_url {_short(url)} is not a file below --allowed-local-media-path")
    with path.open("rb") as file:
        return _within_limit(file.read(MAX_BYTES + 1))


async def fetch(url: str) -> bytes:
    """What an http(s) URL names, if its host is allowed and its address public.

    Raises:
        ValueError: it is not, or it sends no file of at most MAX_BYTES within FETCH_SECONDS.
    """
    import aiohttp
    import yarl

    hosts = ALLOWED_MEDIA_HOSTS.read()
    if not hosts:
        raise ValueError(
            "audio by URL is off on this server: send the audio itself, as input_audio or as a"
            " data: URL (a server's owner can allow hosts by HIGGS_ALLOWED_MEDIA_HOSTS)"
        )
    try:
        # The object that is checked is the one that is fetched: no second opinion on the spelling.
        target = yarl.URL(url)
        host = (target.host or "").rstrip(".").lower()
    except ValueError:
        host = ""
    if host not in hosts:
        raise ValueError(
            f"audio_url: the host {_short(host)} is not among those that this server allows"
            f" (HIGGS_ALLOWED_MEDIA_HOSTS): {', '.join(sorted(hosts))}"
        )
    try:
        async with (
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(socket_factory=public_socket),
                timeout=aiohttp.ClientTimeout(total=FETCH_SECONDS),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,  # a proxy would connect to addresses that are not seen here
            ) as session,
            session.get(
                target, allow_redirects=False, headers={"Accept-Encoding": "identity"}
            ) as response,
        ):
            if response.status != 200:
                raise ValueError(
                    f"audio_url {_short(url)} answered {response.status} instead of 200"
                    " (redirects are not followed)"
                )
            data = bytearray()
            async for chunk in response.content.iter_chunked(_READ):
                data += chunk
                if len(data) > MAX_BYTES:
                    break
            return _within_limit(bytes(data))
    except (aiohttp.ClientError, TimeoutError) as error:
        if isinstance(getattr(error, "os_error", None), NotPublicError):
            reason = "its address is not a public one"
        elif isinstance(error, TimeoutError):
            reason = f"it took longer than {FETCH_SECONDS:g} s"
        else:
            reason = type(error).__name__
        raise ValueError(f"audio_url {_short(url)} cannot be fetched: {reason}") from None


class NotPublicError(OSError):
    """The address of a connection is not a public one."""


def public_socket(info: Any) -> socket.socket:
    """A socket for one entry of getaddrinfo, which the connection is then made to.

    Raises:
        OSError: the address of the entry is not public.
    """
    family, kind, protocol, _, address = info
    if not is_public(str(address[0])):
        raise NotPublicError("address is not public")
    return socket.socket(family, kind, protocol)


def _within_limit(data: bytes) -> bytes:
    if len(data) > MAX_BYTES:
        raise ValueError(f"the audio is larger than {MAX_BYTES >> 20} MiB")
    return data


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")
