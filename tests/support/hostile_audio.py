"""Hostile requests that bring audio, or name a place where it is to be fetched."""

from __future__ import annotations

import functools
import io
import struct
from collections.abc import Callable

from tests.support.attack import CHAT, Attack, AttackContext, chat, posted, with_audio

# -- audio -----------------------------------------------------------------------------------------


OWN_PORT, OWN_PATH = 8000, "/v1/models"
"""Where the server would find itself, and what only a request made by itself asks for."""


def wav(
    frames: int,
    rate: int = 24_000,
    channels: int = 1,
    bits: int = 16,
    form: int = 1,
    data: bytes | None = None,
    sizes: tuple[int, int] | None = None,
) -> bytes:
    """A wav file of a low hum, or with the given data, and with honest or other sizes."""
    if data is None:
        wave = [(index * 37 % 200 - 100) * 40 for index in range(200)]
        frame = [struct.pack("<h", value) * channels for value in wave]
        data = b"".join(frame) * (frames // 200) + b"".join(frame[: frames % 200])
    align = channels * bits // 8
    head = struct.pack(
        "<HHIIHH", form, channels, rate % 2**32, rate * align % 2**32, align % 2**16, bits
    )
    riff, size = sizes or (36 + len(data), len(data))
    parts = [b"RIFF", struct.pack("<I", riff), b"WAVEfmt ", struct.pack("<I", 16), head]
    return b"".join([*parts, b"data", struct.pack("<I", size), data])


def id3(kind: bytes, text: str) -> bytes:
    """An ID3v2.3 tag of one frame."""
    data = text.encode("latin-1")
    frame = kind + struct.pack(">IH", len(data), 0) + data
    return b"ID3\3\0\0" + bytes((len(frame) >> shift) & 127 for shift in (21, 14, 7, 0)) + frame


def mp3(frames: int) -> bytes:
    """An mp3 file of silence: MPEG 1 layer III, 128 kbit/s, 44.1 kHz."""
    return (b"\xff\xfb\x90\x64" + b"\0" * 413) * frames


@functools.lru_cache(maxsize=4)
def bomb(seconds: int) -> bytes:
    """A small FLAC file that is long and large when it is decoded: silence, well compressed."""
    import numpy as np
    import soundfile

    file = io.BytesIO()
    soundfile.write(file, np.zeros((seconds * 8000, 8), np.int16), 8000, format="FLAC")
    return file.getvalue()


def chunked_wav(name: bytes, size: int, data: bytes) -> bytes:
    """A good wav file with one more chunk in it, whose size may be false."""
    good = wav(24_000)
    return good[:12] + name + struct.pack("<I", size) + data + good[12:]


def _sound(at: AttackContext) -> tuple[str, bytes]:
    chance = at.chance
    noise = chance.randbytes(chance.choice([1, 50, 5000, 60_000]))
    nan, inf = struct.pack("<f", float("nan")), struct.pack("<f", float("inf"))
    makers: dict[str, Callable[[], bytes]] = {
        "good": lambda: wav(24_000),
        "cut wav": lambda: wav(24_000)[: chance.randint(1, 40_000)],
        "cut head": lambda: wav(24_000)[: chance.randint(1, 44)],
        "0 samples": lambda: wav(0),
        "1 sample": lambda: wav(1),
        "few samples": lambda: wav(chance.randint(2, 5000)),
        "nan": lambda: wav(0, bits=32, form=3, data=nan * 24_000),
        "one nan": lambda: wav(0, bits=32, form=3, data=b"\0\0\0\0" * 24_000 + nan),
        "inf": lambda: wav(0, bits=32, form=3, data=inf * 24_000),
        "huge samples": lambda: wav(0, bits=32, form=3, data=struct.pack("<f", 3e38) * 24_000),
        "8 channels": lambda: wav(24_000, channels=8),
        "many channels": lambda: wav(100, channels=chance.choice([9, 255, 1024, 65_535])),
        "0 channels": lambda: wav(0, channels=0, data=noise),
        "1 Hz": lambda: wav(chance.choice([10, 1000]), rate=1),
        "0 Hz": lambda: wav(1000, rate=0),
        "384 kHz": lambda: wav(384_000, rate=384_000),
        "huge rate": lambda: wav(24_000, rate=chance.choice([500_000, 2**31, 2**32 - 1])),
        "odd bits": lambda: wav(0, bits=chance.choice([0, 1, 7, 12, 64, 4096]), data=noise),
        "odd form": lambda: wav(0, form=chance.choice([0, 2, 6, 7, 85, 65_534]), data=noise),
        "huge sizes": lambda: wav(24_000, sizes=(2**32 - 1, 2**32 - 1)),
        "false sizes": lambda: wav(24_000, sizes=(0, 0)),
        "10 minutes": lambda: wav(600 * 4000, rate=4000),
        "over a minute": lambda: wav(61 * 8000, rate=8000),
        "silence": lambda: wav(0, data=b"\0\0" * 48_000),
        "mp3": lambda: mp3(60),
        "mp3 garbage": lambda: b"\xff\xfb\x90\x64" + noise,
        "mp3 id3": lambda: b"ID3\x04\0\0\x7f\x7f\x7f\x7f" + noise,
        "long mp3": lambda: mp3(30_000),
        "flac garbage": lambda: b"fLaC\0\0\0\x22" + noise,
        "flac huge": lambda: b"fLaC\x80\0\0\x22\x10\0\x10\0" + b"\0" * 6 + b"\xff" * 24 + noise,
        "ogg garbage": lambda: b"OggS\0\x02" + noise,
        "noise": lambda: noise,
        "png": lambda: b"\x89PNG\r\n\x1a\n" + noise,
        "nothing": lambda: b"",
        "flac bomb": lambda: bomb(600),
        "long flac": lambda: bomb(59),
        "a chunk too large": lambda: chunked_wav(b"LIST", 2**32 - 1, b"x" * 20),
        "a chunk of many": lambda: chunked_wav(b"LIST", 2 * 10**6, b"LIST\4\0\0\0abcd" * 166_666),
        "endless chunks": lambda: b"RIFF\xff\xff\xff\xffWAVE" + b"JUNK\0\0\0\0" * 50_000,
        "rf64": lambda: b"RF64" + wav(24_000)[4:],
        "aiff": lambda: b"FORM\0\0\0\x1aAIFFCOMM" + noise,
        "au": lambda: b".snd" + struct.pack(">5I", 24, 2**32 - 1, 3, 24_000, 1) + noise,
        "caf": lambda: b"caff\0\1\0\0desc" + noise,
        "mp3 with a link": lambda: id3(b"WXXX", f"\0\0http://{at.private}/id3") + mp3(60),
        "mp3 with a picture's link": lambda: (
            id3(b"APIC", f"\0-->\0\3\0http://{at.private}/apic") + mp3(60)
        ),
        "playlist": lambda: f"#EXTM3U\n#EXTINF:1,\nhttp://{at.private}/m3u\n".encode(),
        "concat": lambda: b"ffconcat version 1.0\nfile /etc/passwd\n",
        "svg": lambda: f"<svg><image href='http://{at.private}/svg'/></svg>".encode(),
        "html": lambda: b"<html><body>not found</body></html>",
    }
    name = chance.choice(list(makers))
    sound = makers[name]()
    if chance.random() < 0.2 and sound:
        broken = bytearray(sound)
        for _ in range(chance.randint(1, 20)):
            broken[chance.randrange(min(len(broken), 200))] = chance.randrange(256)
        return f"mutated {name}", bytes(broken)
    return name, sound


def audio(at: AttackContext) -> Attack:
    """Reference audio of any kind of badness, in any wrapping."""
    name, data = _sound(at)
    fields = with_audio(at, data)
    part = fields["messages"][1]["content"][0]
    text = part["input_audio"]["data"]
    odd = at.chance.random()
    if odd < 0.05:
        name, part["input_audio"]["data"] = f"{name} as a cut base64", text[:-1]
    elif odd < 0.1:
        name, part["input_audio"]["data"] = f"{name} with a bad letter", "!" + text
    elif odd < 0.15:
        name, part["input_audio"]["format"] = f"{name} with an odd format", "wav;base64,AAAA"
    elif odd < 0.2:
        name = f"{name} by data URL"
        by_url = {"type": "audio_url", "audio_url": {"url": f"data:audio/wav;base64,{text}"}}
        fields["messages"][1]["content"][0] = by_url
    elif odd < 0.25:
        name = f"{name}, eight times"
        fields["messages"][1]["content"] *= 8
    if at.chance.random() < 0.3:
        fields["modalities"] = ["audio"]
    return posted(f"{name}, {len(data)} bytes", CHAT, fields)


def urls(at: AttackContext) -> Attack:
    """A URL instead of audio: of private addresses, of files, of nothing."""
    own = [
        *("127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "2130706433", "0x7f.1"),
        *("127.1", "0"),
    ]
    url = at.chance.choice(
        [
            f"http://{at.private}/a.wav",
            f"http://example.com@{at.private}/a",
            f"http://{at.private}\\@example.com/a",
            f"HTTP://{at.private}/a",
            f"https://{at.private}/a",
            *(f"http://{host}:{OWN_PORT}{OWN_PATH}" for host in own),
            "http://169.254.169.254/latest/meta-data/",
            *("http://10.0.0.1/a", "http://[fd00::1]/a"),
            *("file:///etc/passwd", "file://localhost/etc/passwd", "FILE:///etc/passwd"),
            *("file:/etc/passwd", "ftp://127.0.0.1/a", "gopher://127.0.0.1/a", "//127.0.0.1/a"),
            *("", " ", "\x00", "a" * 100_000, "data:", "data:,", "data:;base64,"),
            *("data:audio/wav;base64,%%%", "data:audio/wav,abc", "http://", "http:///", "http://["),
            *("https://\u2488", "javascript:alert(1)"),
        ]
    )
    kind = at.chance.choice(["audio_url", "audio_url", "audio_url", "image_url", "video_url"])
    part = {"type": kind, kind: {"url": url}}
    messages = [{"role": "user", "content": [part, {"type": "text", "text": "Hello."}]}]
    return posted(f"{kind} {url[:60]!r}", CHAT, chat(at, messages=messages))
