"""One request and its answer, with the time at which each part arrived."""

from __future__ import annotations

import asyncio
import base64
import binascii
import time
from array import array
from typing import IO, Any

import aiohttp
import msgspec

from higgs_image.bench.failure import FailedAnswerError, Failure
from higgs_image.bench.recording import Recording
from higgs_image.bench.target import Target
from higgs_image.bench.workload import Item

SHOWN = 200
"""Characters of an error's body that are kept."""


class Exchange:
    """A request and its answer; times are of the monotonic clock.

    Attributes:
        item: what was spoken.
        counted: it belongs to the measured part of its level.
        planned: when it was to be sent.
        sent: when it was sent.
        headers: when the headers of the answer had arrived; 0: they never did.
        times: when parts of the sound arrived.
        sizes: bytes of the file that had arrived by then.
        ended: when the answer was whole, or failed.
        recording: the body.
        failure: why it failed; None: it did not, so far as the connection tells.
    """

    __slots__ = ("counted", "ended", "failure", "headers", "item", "planned", "recording", "sent",
                 "sizes", "times")  # fmt: skip

    def __init__(self, item: Item, counted: bool, planned: float, recording: Recording) -> None:
        self.item, self.counted, self.planned = item, counted, planned
        self.sent = self.headers = self.ended = 0.0
        self.times, self.sizes = array("d"), array("q")
        self.recording = recording
        self.failure: FailedAnswerError | None = None

    def add(self, data: bytes) -> None:
        """Take sound that has just arrived."""
        if data:
            self.times.append(time.monotonic())
            self.recording.add(data)
            self.sizes.append(self.recording.size)


class SpeechClient:
    """Sends requests to a server.

    Args:
        session: for all of them.
        target: the server and the route.
        timeout: seconds until an answer has to be whole.
        spool: takes bodies that have to be decoded.
    """

    def __init__(
        self, session: aiohttp.ClientSession, target: Target, timeout: float, spool: IO[bytes]
    ) -> None:
        self._session, self._target, self._timeout = session, target, timeout
        self._spool = spool

    async def speak(self, item: Item, planned: float, *, counted: bool) -> Exchange:
        """Send one request and read its answer to the end."""
        recording = Recording(self._target.form, self._spool)
        done = Exchange(item, counted, planned, recording)
        body = self._target.body(item)
        done.sent = time.monotonic()
        try:
            async with asyncio.timeout(self._timeout):
                await self._read(done, body)
        except FailedAnswerError as error:
            done.failure = error
        except TimeoutError:
            detail = f"not whole after {self._timeout:g} s, {recording.size} bytes arrived"
            done.failure = FailedAnswerError(Failure.TIMED_OUT, detail)
        except aiohttp.ClientConnectorError as error:
            done.failure = FailedAnswerError(Failure.REFUSED, f"no connection: {error.os_error}")
        except (aiohttp.ClientError, ConnectionError) as error:
            what = f"{type(error).__name__} after {recording.size} bytes"
            done.failure = FailedAnswerError(Failure.CUT, what)
        finally:
            done.ended = time.monotonic()
            recording.end()
        return done

    async def _read(self, done: Exchange, body: bytes) -> None:
        async with self._session.post(self._target.address, data=body) as answer:
            done.headers = time.monotonic()
            content = answer.content
            if answer.status != 200:
                shown = (await content.read(4 * SHOWN)).decode(errors="replace")[:SHOWN]
                detail = f"HTTP {answer.status}: {' '.join(shown.split())}"
                raise FailedAnswerError(Failure.REFUSED, detail)
            kind = answer.content_type
            if kind == "text/event-stream":
                await _read_events(done, content)
            elif self._target.route == "chat":
                done.add(_sound_of(await content.read()))
            elif kind == "application/json":
                shown = (await content.read(4 * SHOWN)).decode(errors="replace")[:SHOWN]
                raise FailedAnswerError(Failure.WRONG_FORMAT, f"JSON in place of sound: {shown}")
            else:
                while data := await content.readany():
                    done.add(data)


async def _read_events(done: Exchange, content: aiohttp.StreamReader) -> None:
    """Read server-sent events of a chat, or of a speech stream."""
    buffer = b""
    while data := await content.readany():
        *events, buffer = (buffer + data).split(b"\n\n")
        sound = b"".join(_piece(event) for event in events)
        done.add(sound)


def _piece(event: bytes) -> bytes:
    """Return the sound in an event; other events have none."""
    _, found, data = event.partition(b"data: ")
    if not found or data.strip() == b"[DONE]":
        return b""
    try:
        value: Any = msgspec.json.decode(data)
        if value.get("error"):
            raise FailedAnswerError(Failure.CUT, f"an error in the stream: {value['error']}")
        if "choices" in value:
            deltas = [x["delta"].get("audio") or {} for x in value["choices"]]
            return b"".join(base64.b64decode(x.get("data") or "") for x in deltas)
        return base64.b64decode(value.get("audio") or "")
    except (msgspec.DecodeError, AttributeError, KeyError, TypeError, binascii.Error) as error:
        detail = f"an event that is not understood: {error!r}"
        raise FailedAnswerError(Failure.WRONG_FORMAT, detail) from None


def _sound_of(body: bytes) -> bytes:
    """Return the sound of a whole chat completion."""
    try:
        value: Any = msgspec.json.decode(body)
        return base64.b64decode(value["choices"][0]["message"]["audio"]["data"])
    except (msgspec.DecodeError, KeyError, IndexError, TypeError, binascii.Error):
        shown = body[:SHOWN].decode(errors="replace")
        detail = f"a chat completion without sound: {shown}"
        raise FailedAnswerError(Failure.WRONG_FORMAT, detail) from None
