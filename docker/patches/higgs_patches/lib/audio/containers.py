"""Encode speech in the audio formats of OpenAI's API, as one file for each answer.

What goes in is PCM: signed 16 bit, little-endian, mono. `stream` gives the bytes of a file while
the speech is still coming; `whole` gives a finished file, whose header tells its length where the
format has a place for it. Both give exactly one file, however many chunks the PCM came in.

pcm and wav are made here; the rest, another sample rate, and another speed (with its pitch kept)
come from one ffmpeg process for each answer, which must be on PATH. It ends with the answer,
however that ends, and what it complains about is raised as `EncodingError`.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import struct
import subprocess
import tempfile
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from typing import IO

from higgs_patches.lib.audio import SAMPLE_RATE

SLOWEST, FASTEST = 0.25, 4.0
"""Bounds of `speed` (OpenAI's)."""


@dataclass(frozen=True)
class Container:
    """A format of audio files: its media type, and what ffmpeg is told to make it."""

    media_type: str
    ffmpeg: tuple[str, ...] = ("-f", "s16le")


CONTAINERS = {
    "pcm": Container("audio/pcm"),
    "wav": Container("audio/wav"),
    "mp3": Container("audio/mpeg", ("-f", "mp3", "-b:a", "128k", "-id3v2_version", "0")),
    "flac": Container("audio/flac", ("-f", "flac")),
    "opus": Container(
        "audio/ogg", ("-f", "ogg", "-c:a", "libopus", "-b:a", "64k", "-page_duration", "100000")
    ),
    "aac": Container("audio/aac", ("-f", "adts", "-b:a", "96k")),
}
"""The formats by the names of OpenAI's API. The bit rates are transparent for one voice; an Ogg
page of 0.1 s (in microseconds) keeps a listener from waiting for the usual whole second."""

# Raw PCM needs no probing, and with it ffmpeg gives out nothing before its input has ended. Without
# bitexact an Ogg file has a random serial number, and equal requests would get unequal answers.
_FFMPEG = ("ffmpeg", "-hide_banner", "-nostdin", "-loglevel", "error", "-y")
_INPUT = ("-probesize", "32", "-f", "s16le", "-ac", "1")
_OUTPUT = ("-ar", str(SAMPLE_RATE), "-fflags", "+bitexact", "-flags:a", "+bitexact")

_UNKNOWN = 0xFFFFFFFF
_READ = 1 << 16


class EncodingError(RuntimeError):
    """ffmpeg is missing or failed."""


def wav_header(data_bytes: int | None = None) -> bytes:
    """Return the 44 bytes before the PCM of a wav file.

    Without its length (as it is when the header is sent before the speech ends) both sizes are the
    largest possible, which readers take as "until the end": Python's wave, scipy, libsndfile,
    ffmpeg and Chromium then read every sample, while a size of 0 is read as an empty file by some.
    """
    size = _UNKNOWN if data_bytes is None else data_bytes
    riff = _UNKNOWN if data_bytes is None else 36 + data_bytes
    fields = (16, 1, 1, SAMPLE_RATE, 2 * SAMPLE_RATE, 2, 16)
    return struct.pack("<4sI8sIHHIIHH4sI", b"RIFF", riff, b"WAVEfmt ", *fields, b"data", size)


async def stream(
    pcm: AsyncGenerator[bytes, None], name: str, *, rate: int = SAMPLE_RATE, speed: float = 1.0
) -> AsyncGenerator[bytes, None]:
    """Give the bytes of one file as the PCM comes.

    Args:
        pcm: chunks of any size; closed when this ends, however it ends.
        name: one of `CONTAINERS`.
        rate: samples a second of the PCM.
        speed: how much faster it is played, from `SLOWEST` to `FASTEST`; its pitch stays.

    What `pcm` raises is raised here, and the file is not ended as if it were whole. Raises
    EncodingError.
    """
    if _needs_ffmpeg(name, rate, speed):
        pcm = _through_ffmpeg(pcm, _command(name, rate, speed, "pipe:1"))
    async with contextlib.aclosing(pcm):
        header = wav_header() if name == "wav" else b""
        async for chunk in pcm:
            yield header + chunk
            header = b""


async def whole(pcm: bytes, name: str, *, rate: int = SAMPLE_RATE, speed: float = 1.0) -> bytes:
    """Return the finished file of an utterance; the arguments are those of `stream`."""
    if _needs_ffmpeg(name, rate, speed):
        pcm = await asyncio.to_thread(_finished, pcm, name, rate, speed)
    return wav_header(len(pcm)) + pcm if name == "wav" else pcm


def _needs_ffmpeg(name: str, rate: int, speed: float) -> bool:
    return name not in ("pcm", "wav") or rate != SAMPLE_RATE or speed != 1.0


def _command(name: str, rate: int, speed: float, output: str) -> list[str]:
    tempo: tuple[str, ...] = ()
    if speed != 1.0:
        # One filter plays at most twice as fast without leaving samples out.
        filters = math.ceil(abs(math.log2(speed)))
        tempo = ("-af", ",".join([f"atempo={speed ** (1 / filters):.6f}"] * filters))
    arguments = (*_INPUT, "-ar", str(rate), "-i", "pipe:0", *tempo, *_OUTPUT)
    return [*_FFMPEG, *arguments, *CONTAINERS[name].ffmpeg, output]


def _finished(pcm: bytes, name: str, rate: int, speed: float) -> bytes:
    """Let ffmpeg write into a file, where it can go back and complete the header."""
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as complaints:
        command = _command(name, rate, speed, f"/dev/fd/{output.fileno()}")
        with _explained(complaints):
            done = subprocess.run(
                command, input=pcm, stdout=complaints, stderr=complaints, pass_fds=[output.fileno()]
            )
            _check(done.returncode)
        output.seek(0)
        return output.read()


async def _through_ffmpeg(
    pcm: AsyncGenerator[bytes, None], command: list[str]
) -> AsyncGenerator[bytes, None]:
    """Feed ffmpeg with PCM and give what it writes."""
    with tempfile.TemporaryFile() as complaints, _explained(complaints):
        # Not asyncio's own subprocess: uvloop forks for it, which stops the event loop for as long
        # as a process of gigabytes takes to fork. This one uses vfork.
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=complaints, bufsize=0
        )
        loop = asyncio.get_running_loop()
        with contextlib.ExitStack() as ends:
            # Nothing is awaited at the end: when a client hangs up, every await is cancelled again.
            ends.callback(_reap, process, loop)
            reader = asyncio.StreamReader()
            output, _ = await loop.connect_read_pipe(
                lambda: asyncio.StreamReaderProtocol(reader), process.stdout
            )
            ends.callback(output.close)
            transport, protocol = await loop.connect_write_pipe(
                asyncio.streams.FlowControlMixin, process.stdin
            )
            writer = asyncio.StreamWriter(transport, protocol, None, loop)
            ends.callback(_abort, transport)
            feeder = asyncio.create_task(_feed(pcm, writer))
            ends.callback(feeder.cancel)
            while chunk := await reader.read(_READ):
                yield chunk
            with contextlib.suppress(OSError):  # ffmpeg has gone: its exit status says why
                await feeder
            _check(await loop.run_in_executor(None, process.wait))


async def _feed(pcm: AsyncGenerator[bytes, None], writer: asyncio.StreamWriter) -> None:
    try:
        async with contextlib.aclosing(pcm):
            async for chunk in pcm:
                writer.write(chunk)
                await writer.drain()
    finally:
        writer.close()


def _abort(transport: asyncio.WriteTransport) -> None:
    if not transport.is_closing():
        transport.abort()


def _reap(process: subprocess.Popen[bytes], loop: asyncio.AbstractEventLoop) -> None:
    if process.poll() is None:
        process.kill()
        loop.run_in_executor(None, process.wait)


def _check(status: int) -> None:
    if status:
        raise EncodingError(f"ffmpeg ended with status {status}")


@contextlib.contextmanager
def _explained(complaints: IO[bytes]) -> Iterator[None]:
    """Say what ffmpeg said, or that it is not there."""
    try:
        yield
    except FileNotFoundError as error:
        raise EncodingError("ffmpeg is not on PATH: only pcm and wav can be made") from error
    except EncodingError as error:
        complaints.seek(0)
        raise EncodingError(f"{error}: {complaints.read().decode(errors='replace')}") from None
