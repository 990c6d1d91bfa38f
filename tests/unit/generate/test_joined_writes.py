"""What is written in one turn of the event loop is one packet."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

from higgs_generate.joined_writes import JoinedWrites

from tests.support.generate_service import GenerateRun


class Recorder(asyncio.Transport):
    """Notes what is sent, and how it ends."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[Any] = []

    def write(self, data: Any) -> None:
        self.sent.append(data)

    def close(self) -> None:
        self.sent.append("closed")

    def abort(self) -> None:
        self.sent.append("aborted")

    def is_closing(self) -> bool:
        return bool({"closed", "aborted"} & set(self.sent))


def test_head_and_first_sound_are_one_packet() -> None:
    async def run() -> list[Any]:
        recorder = Recorder()
        joined = JoinedWrites(recorder)
        joined.write(b"head ")
        joined.write(b"sound")
        await asyncio.sleep(0)
        joined.write(b"more")
        await asyncio.sleep(0)
        return recorder.sent

    assert asyncio.run(run()) == [b"head sound", b"more"]


def test_close_sends_what_is_held_and_nothing_after_it() -> None:
    async def run() -> list[Any]:
        recorder = Recorder()
        joined = JoinedWrites(recorder)
        joined.write(b"end")
        joined.close()
        assert joined.is_closing()
        joined.write(b"too late")
        await asyncio.sleep(0)
        return recorder.sent

    assert asyncio.run(run()) == [b"end", "closed"]


def test_abort_sends_nothing() -> None:
    async def run() -> list[Any]:
        recorder = Recorder()
        joined = JoinedWrites(recorder)
        joined.write(b"held")
        joined.abort()
        await asyncio.sleep(0)
        return recorder.sent

    assert asyncio.run(run()) == ["aborted"]


def test_a_listener_gets_head_and_sound_by_one_read(run: GenerateRun) -> None:
    body = json.dumps({"text": "Hello.", "response_format": "pcm", "stream": True}).encode()
    head = b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
    with socket.create_connection(("127.0.0.1", run.port), timeout=30) as connection:
        connection.sendall(head + body)
        answer, _, sound = connection.recv(1 << 20).partition(b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200") and sound
