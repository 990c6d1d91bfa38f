"""Reference audio: what may be fetched, and what is taken for audio."""

from __future__ import annotations

import asyncio
import base64
import http.server
import io
import socket
import struct
import threading
import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from higgs_patches.lib.audio import reference
from higgs_patches.patch_settings import ALLOWED_MEDIA_HOSTS
from higgs_patches.patches import media

REFUSED_ADDRESSES = """
    127.0.0.1 127.1.2.3 0.0.0.0 10.0.0.1 172.16.0.1 172.31.255.255 192.168.1.1 169.254.169.254
    169.254.170.2 100.64.0.1 100.100.100.200 168.63.129.16 192.0.0.192 192.0.0.8 198.18.0.1
    192.0.2.1 198.51.100.1 203.0.113.1 224.0.0.1 239.255.255.250 240.0.0.1 255.255.255.255
    192.88.99.1 :: ::1 ::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:8.8.8.8 ::127.0.0.1
    64:ff9b::7f00:1 64:ff9b:1::a00:1 2002:7f00:1::1 2002:a00:1::1 2001:0:4136:e378::1 2001:db8::1
    fe80::1 fe80::1%eth0 fc00::1 fd00:ec2::254 fec0::1 ff02::1 100::1
""".split()  # noqa: SIM905


@pytest.mark.parametrize("address", REFUSED_ADDRESSES)
def test_an_address_that_is_not_public_is_refused(address: str) -> None:
    assert not media.is_public(address)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with pytest.raises(OSError, match="not public"):
        media.public_socket((family, socket.SOCK_STREAM, 6, "", (address, 80)))


@pytest.mark.parametrize("address", ["8.8.8.8", "140.82.121.3", "2606:4700::1111", "2a00:1450::1"])
def test_a_public_address_is_accepted(address: str) -> None:
    assert media.is_public(address)


def test_hosts_are_compared_without_case_and_final_dot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HIGGS_ALLOWED_MEDIA_HOSTS", raising=False)
    assert ALLOWED_MEDIA_HOSTS.read() == frozenset()
    monkeypatch.setenv("HIGGS_ALLOWED_MEDIA_HOSTS", " Voices.Example , cdn.example.,,")
    assert ALLOWED_MEDIA_HOSTS.read() == {"voices.example", "cdn.example"}


# -- what a URL may name ---------------------------------------------------------------------------


def load(url: str, folder: Path | None = None) -> Any:
    connector = SimpleNamespace(allowed_local_media_path=folder)
    return asyncio.run(media.fetch_audio_async(connector, url))


@pytest.mark.parametrize(
    "url",
    ["", "x", "ftp://a/b.wav", "gopher://a", "javascript:1", "//a/b", "\x00", "blob:http://a"],
)
def test_other_schemes_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match="is not a data: or https: URL"):
        load(url)


@pytest.mark.parametrize("url", ["http://voices.example/a.wav", "HTTPS://voices.example/a.wav"])
def test_urls_are_off_by_default(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HIGGS_ALLOWED_MEDIA_HOSTS", raising=False)
    with pytest.raises(ValueError, match=r"off on this server.*HIGGS_ALLOWED_MEDIA_HOSTS"):
        load(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://other.example/a.wav",
        "http://voices.example.evil.example/a.wav",
        "http://voices.example@other.example/a.wav",
        "http://other.example\\@voices.example/a.wav",
        "http://other.example#@voices.example/a.wav",
        "http://127.0.0.1/a.wav",
        "http://[::1]/a.wav",
        "http://2130706433/a.wav",
        "http://[bad/a.wav",
        "http:///a.wav",
        "http:voices.example",
        "http://voices.example:99999999/",
    ],
)
def test_only_allowed_hosts_are_asked(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIGGS_ALLOWED_MEDIA_HOSTS", "voices.example")
    asked: list[Any] = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **_: asked.append(args) or [])
    with pytest.raises(ValueError, match=r"is not among those|cannot be fetched"):
        load(url)
    assert not asked


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("data:audio/wav;base64", "is not base64"),
        ("data:audio/wav,abc", "is not base64"),
        ("data:,", "is not base64"),
        ("data:audio/wav;base64,!!!!", "not valid base64"),
        ("data:audio/wav;base64,AAA", "not valid base64"),
        ("data:audio/wav;base64,ÄÄÄÄ", "not valid base64"),
        ("data:audio/wav;base64,", "neither WAV"),
        ("data:audio/wav;base64," + "A" * 40, "neither WAV"),
        ("data:audio/wav;base64," + "A" * (media.MAX_BYTES * 2), "larger than 20 MiB"),
        ("data:audio/wav;base64," + "A" * (media.MAX_BYTES // 3 * 4 + 8), "larger than 20 MiB"),
    ],
)
def test_bad_data_urls_are_refused(url: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(url)


def test_base64_may_be_broken_into_lines() -> None:
    assert media.from_data_url("data:audio/wav;base64,UklG\r\nRg==\n") == b"RIFF"
    assert media.from_data_url("data:audio/x; charset=utf-8;base64,UklGRg==") == b"RIFF"


def test_files_are_read_below_the_allowed_folder_only(tmp_path: Path) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    (folder / "a b.wav").write_bytes(b"RIFF")
    (tmp_path / "secret.wav").write_bytes(b"RIFF")
    (folder / "link.wav").symlink_to(tmp_path / "secret.wav")
    assert media.from_file_url(f"file://{folder}/a%20b.wav", folder) == b"RIFF"
    for refused in (
        f"file://{tmp_path}/secret.wav",
        f"file://{folder}/../secret.wav",
        f"file://{folder}/%2e%2e/secret.wav",
        f"file://{folder}/link.wav",
        f"file://{folder}",
        f"file://{folder}/missing.wav",
        f"file://host{folder}/a%20b.wav",
        f"file:{folder}/a%20b.wav",
        "file:///etc/passwd",
        "file://",
        "file:",
    ):
        with pytest.raises(ValueError, match="not a file below --allowed-local-media-path"):
            media.from_file_url(refused, folder)
    with pytest.raises(ValueError, match="file: URLs are off"):
        load(f"file://{folder}/a%20b.wav")


# -- fetching, from a real server on this machine --------------------------------------------------


class Handler(http.server.BaseHTTPRequestHandler):
    hits: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.hits.append(self.path)
        if self.path == "/redirect":
            self.send_response(302)
            self.send_header("Location", "/a.wav")
            self.end_headers()
            return
        self.send_response(404 if self.path == "/missing" else 200)
        self.end_headers()
        try:
            if self.path == "/endless":
                while True:
                    self.wfile.write(b"\0" * 2**20)
            elif self.path == "/slow":
                for _ in range(100):
                    self.wfile.write(b"\0")
                    stopped.wait(0.1)
            else:
                self.wfile.write(wav(2400))
        except OSError:
            pass  # the client has gone, as it should

    def log_message(self, *args: Any) -> None:
        pass


stopped = threading.Event()


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], str]]:
    """Gives the URL of a path on a server here that DNS calls voices.example."""
    monkeypatch.setenv("HIGGS_ALLOWED_MEDIA_HOSTS", "voices.example")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        port = server.server_address[1]
        real = socket.getaddrinfo

        def lookup(host: str, *args: Any, **kwargs: Any) -> Any:
            return real("127.0.0.1" if host == "voices.example" else host, *args, **kwargs)

        monkeypatch.setattr(socket, "getaddrinfo", lookup)
        Handler.hits.clear()
        stopped.clear()
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield lambda path: f"http://voices.example:{port}{path}"
        stopped.set()
        server.shutdown()


def test_an_allowed_host_on_a_private_address_is_never_connected_to(
    site: Callable[[str], str],
) -> None:
    with pytest.raises(ValueError, match="its address is not a public one"):
        load(site("/a.wav"))
    assert Handler.hits == []


def test_an_allowed_literal_address_that_is_private_is_never_connected_to(
    site: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HIGGS_ALLOWED_MEDIA_HOSTS", "127.0.0.1,localhost")
    for host in ("127.0.0.1", "localhost"):
        with pytest.raises(ValueError, match="cannot be fetched"):
            load(site("/a.wav").replace("voices.example", host))
    assert Handler.hits == []


@pytest.fixture
def loopback_is_public(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media, "is_public", lambda _: True)


@pytest.mark.usefixtures("loopback_is_public")
def test_an_allowed_host_is_fetched(site: Callable[[str], str]) -> None:
    samples, rate = load(site("/a.wav"))
    assert (len(samples), rate) == (2400, 24_000)


@pytest.mark.usefixtures("loopback_is_public")
def test_redirects_are_not_followed(site: Callable[[str], str]) -> None:
    with pytest.raises(ValueError, match="answered 302"):
        load(site("/redirect"))
    assert Handler.hits == ["/redirect"]


@pytest.mark.usefixtures("loopback_is_public")
def test_endless_and_slow_answers_are_cut(
    site: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="larger than 20 MiB"):
        load(site("/endless"))
    with pytest.raises(ValueError, match="answered 404"):
        load(site("/missing"))
    monkeypatch.setattr(media, "FETCH_SECONDS", 0.5)
    with pytest.raises(ValueError, match=r"longer than 0\.5 s"):
        load(site("/slow"))


# -- what is audio ---------------------------------------------------------------------------------


def wav(frames: int, rate: int = 24_000, channels: int = 1, value: int = 1000) -> bytes:
    goal = io.BytesIO()
    with wave.open(goal, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(struct.pack("<h", value) * frames * channels)
    return goal.getvalue()


def float_wav(*values: float) -> bytes:
    data = struct.pack(f"<{len(values)}f", *values)
    form = struct.pack("<HHIIHH", 3, 1, 24_000, 96_000, 4, 32)
    chunks = b"WAVEfmt " + struct.pack("<I", len(form)) + form
    chunks += b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(chunks)) + chunks


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "neither WAV, FLAC, Ogg nor MP3"),
        (b"<html>", "neither WAV"),
        (b"#EXTM3U\nhttp://127.0.0.1/\n", "neither WAV"),
        (b"RIFF", "cannot be decoded"),
        (b"fLaC" + b"\xff" * 500, "cannot be decoded"),
        (b"OggS" + b"\0" * 500, "cannot be decoded"),
        (wav(0), "lasts 0.000 s"),
        (wav(1), "lasts 0.000 s"),
        (wav(2399), "lasts 0.100 s"),
        (wav(24_000, rate=1), "rate of 1 Hz"),
        (wav(24_000, rate=500_000), "rate of 500000 Hz"),
        (wav(24_000, channels=9), "9 channels"),
        (wav(24_000 * 61), "longer than 60 s"),
        (float_wav(*[0.1] * 2400, float("nan")), "not finite numbers"),
        (float_wav(*[0.1] * 2400, float("inf")), "not finite numbers"),
    ],
)
def test_what_is_no_usable_audio_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        reference.decode(data)


@pytest.mark.parametrize("rate", [4_000, 8_000, 22_050, 24_000, 48_000, 384_000])
@pytest.mark.parametrize("channels", [1, 2, 8])
def test_any_rate_becomes_one_channel_at_the_rate_of_the_codec(rate: int, channels: int) -> None:
    samples, wanted = reference.decode(wav(rate, rate, channels))
    assert wanted == 24_000
    assert abs(len(samples) - 24_000) <= 1
    assert abs(float(samples[12_000]) - 1000 / 32768) < 0.001


def test_samples_beyond_full_scale_are_clipped() -> None:
    samples, _ = reference.decode(float_wav(*[0.5] * 2400, 1e30, -1e30))
    assert samples[-2:].tolist() == [1.0, -1.0]


def test_a_cut_file_gives_what_is_in_it() -> None:
    samples, _ = reference.decode(wav(24_000)[: 44 + 2 * 12_000])
    assert len(samples) == 12_000


def test_the_limit_of_length_can_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIGGS_MAX_REFERENCE_SECONDS", "0.5")
    with pytest.raises(ValueError, match=r"longer than 0\.5 s"):
        reference.decode(wav(24_000))
    monkeypatch.setenv("HIGGS_MAX_REFERENCE_SECONDS", "long")
    with pytest.raises(ValueError, match=r"is 'long'; expected a number from 0\.1"):
        reference.decode(wav(24_000))


def test_data_url_to_samples() -> None:
    samples, rate = load("data:audio/wav;base64," + base64.b64encode(wav(24_000)).decode())
    assert (len(samples), rate) == (24_000, 24_000)
