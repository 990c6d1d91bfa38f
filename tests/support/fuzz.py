"""Sends hostile requests to a running server, and tells what it did not take well.

    python -m tests.support.fuzz http://127.0.0.1:8000
    python -m tests.support.fuzz http://127.0.0.1:8000 --count 100 --seed 7 --only audio

The requests follow from the seed alone. After each one the server has to be healthy within a
second; no request may be answered with a 5xx, and every refusal has to be an error in OpenAI's form
that says what is wrong. Every now and then a good request with a seed has to give the very bytes
that it gave at the start, and no request may be left running. The exit code is 1 if there were
findings.
"""

from __future__ import annotations

import argparse
import base64
import collections
import contextlib
import http.client
import json
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from tests.support.attack import CHAT, SPEECH, Attack
from tests.support.hostile import attacks
from tests.support.hostile_audio import OWN_PATH
from tests.support.http_server import QuietHandler, Served

HEALTHY_WITHIN = 1.0
"""Seconds in which /health has to answer."""

CHECK_EVERY = 25
"""Requests between two looks at whether the server is still right."""

ANSWERED_WITHIN = 120.0
"""Seconds after which an answer counts as missing."""

SLOW_PIECES = 20
"""Pieces of a request that takes a second to come."""

# The one failure that is right: the model was asked for audio and gave none (errors of the model
# itself, which random weights commit now and then).
_MODEL_FAILED = re.compile(r"without audio|before a frame of audio|no audio", re.IGNORECASE)


@dataclass
class Report:
    """What came out.

    Attributes:
        findings: what was wrong, one line each, with the number that repeats it.
        statuses: how often each family of requests was answered how.
        slowest_health: seconds of the slowest answer of /health.
    """

    findings: list[str] = field(default_factory=list)
    statuses: collections.Counter[tuple[str, str]] = field(default_factory=collections.Counter)
    slowest_health: float = 0.0
    sent: int = 0

    def text(self) -> str:
        """The report for a person."""
        families = sorted({family for family, _ in self.statuses})
        lines = [f"{self.sent} requests, /health within {self.slowest_health:.2f} s"]
        for family in families:
            counts = sorted((s, n) for (f, s), n in self.statuses.items() if f == family)
            lines.append(f"  {family:12} " + ", ".join(f"{s}: {n}" for s, n in counts))
        lines += [f"FOUND {finding}" for finding in self.findings] or ["nothing found"]
        return "\n".join(lines)


def own_address() -> str:
    """The address of this machine that a container on it can reach."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        with contextlib.suppress(OSError):  # nothing is sent: the kernel only looks up a route
            probe.connect(("198.51.100.1", 9))
        return str(probe.getsockname()[0])


class Listener(Served):
    """A server on this machine that nobody may be made to ask."""

    def __init__(self) -> None:
        self.hits = hits = list[str]()

        class Handler(QuietHandler):
            def do_GET(self) -> None:
                hits.append(self.path)
                self.answer(200, b"", {})

        super().__init__(Handler, own_address())
        self.address = f"{own_address()}:{self.port}"
        self.__enter__()

    def close(self) -> None:
        """Stop listening."""
        self.__exit__()


class Server:
    """The server that is tried out."""

    def __init__(self, url: str, api_key: str | None = None) -> None:
        parts = urlsplit(url)
        self.host = parts.hostname or "127.0.0.1"
        self.port = parts.port or 80
        self.headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}

    def ask(
        self, method: str, path: str, body: bytes | None = None, timeout: float = ANSWERED_WITHIN
    ) -> tuple[int, bytes]:
        """The status and the body of an answer."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout)
        try:
            headers = {**self.headers, "Content-Type": "application/json"}
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def post(self, path: str, fields: dict[str, object]) -> tuple[int, bytes]:
        """The answer to a JSON request."""
        return self.ask("POST", path, json.dumps(fields).encode())

    def model(self) -> str:
        """The name of the served model."""
        return str(json.loads(self.ask("GET", "/v1/models")[1])["data"][0]["id"])

    def running(self) -> float:
        """How many requests the engine has, running and waiting."""
        text = self.ask("GET", "/metrics")[1].decode()
        found = re.findall(r"^vllm:num_requests_(?:running|waiting)\{.*\} (\S+)$", text, re.M)
        return sum(map(float, found))

    def asked_itself(self) -> int:
        """How often somebody asked for what nobody but the server itself would ask for."""
        text = self.ask("GET", "/metrics")[1].decode()
        found = re.findall(rf'^http_requests_total\{{handler="{OWN_PATH}".*\}} (\S+)$', text, re.M)
        return sum(int(float(count)) for count in found)

    def send(self, attack: Attack) -> str:
        """What an attack is answered: a status, or how it ended without one.

        Raises:
            AssertionError: the answer is not as an answer has to be.
        """
        data = attack.request(self.host, self.headers)
        with socket.create_connection((self.host, self.port), ANSWERED_WITHIN) as connection:
            if attack.hang_up is not None:
                return _hang_up(connection, data, attack.hang_up)
            try:
                for piece in _pieces(data, SLOW_PIECES if attack.slowly else 1):
                    connection.sendall(piece)
                    time.sleep(1 / SLOW_PIECES if attack.slowly else 0)
                if attack.closes:
                    connection.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # the server has said no before it read everything
            return _checked(attack, connection)


def _pieces(data: bytes, count: int) -> Iterator[bytes]:
    size = len(data) // count + 1
    for start in range(0, len(data), size):
        yield data[start : start + size]


def _hang_up(connection: socket.socket, data: bytes, stage: float) -> str:
    """Leave after a part of the request (below 1), or of the answer (from 1 on)."""
    if stage < 1:
        connection.sendall(data[: int(len(data) * stage)])
        return "left"
    connection.sendall(data)
    if stage > 1:
        left = int((stage - 1) * 100_000)
        connection.settimeout(20)
        with contextlib.suppress(TimeoutError):  # long enough: it leaves
            while left > 0 and (piece := connection.recv(min(left, 65_536))):
                left -= len(piece)
    return "left"


def _checked(attack: Attack, connection: socket.socket) -> str:
    response = http.client.HTTPResponse(connection, method=attack.method)
    try:
        response.begin()
    except (http.client.BadStatusLine, ConnectionError):
        assert attack.malformed, "no answer"
        return "closed"
    try:
        body = response.read()
    except (http.client.IncompleteRead, ConnectionError) as error:
        if attack.malformed:
            return f"{response.status}, closed"
        raise AssertionError(f"status {response.status}, then {type(error).__name__}") from None
    status, kind = response.status, response.headers.get_content_type()
    if status >= 400:
        if not attack.malformed and attack.path.startswith("/v1/"):
            message = json.loads(body)["error"]["message"]
            assert isinstance(message, str), body[:200]
            assert message, body[:200]
            assert len(message) < 5000, f"a message of {len(message)} characters"
            if status == 500 and _MODEL_FAILED.search(message):
                return "500 (model)"
        assert status < 500, f"status {status}: {body[:200]!r}"
    elif attack.malformed:
        pass  # the answer to something else, or to the half of it
    elif attack.path == SPEECH and attack.method == "POST":
        assert body, "an empty file"
        assert not body.lstrip().startswith(b"{"), f"JSON as audio: {body[:100]!r}"
    elif kind == "text/event-stream":
        _check_events(body)
    elif attack.path == CHAT and attack.method == "POST":
        assert json.loads(body)["choices"], body[:200]
    return str(status)


def _check_events(body: bytes) -> None:
    events = [line[6:] for line in body.decode().splitlines() if line.startswith("data: ")]
    assert events, "a stream without an event"
    for event in events[:-1]:
        json.loads(event)
    last = events[-1]
    if last != "[DONE]":
        message = json.loads(last)["error"]["message"]
        assert _MODEL_FAILED.search(message), f"the stream ended with {message!r}"


def fuzz(
    url: str,
    *,
    count: int = 500,
    seed: int = 1,
    only: str = "",
    api_key: str | None = None,
    healthy_within: float = HEALTHY_WITHIN,
    say: bool = False,
) -> Report:
    """Send `count` hostile requests.

    Args:
        url: of the server.
        count: how many.
        seed: what the requests follow from.
        only: a family of requests, without the others.
        api_key: of the server, if it has one.
        healthy_within: seconds in which /health has to answer.
        say: print each request.
    """
    server = Server(url, api_key)
    listener = Listener()
    report = Report()
    model = server.model()
    itself = server.asked_itself()
    good = _good(server, model)
    try:
        for attack in attacks(seed, count, model, listener.address, only):
            began = time.monotonic()
            answer = _attempt(server, attack, report)
            report.sent += 1
            report.statuses[attack.family, answer] += 1
            for finding in _after(server, listener, report, healthy_within):
                report.findings.append(f"{attack}: {finding}")
            if say:
                print(f"{attack}: {answer} in {time.monotonic() - began:.1f} s", flush=True)
            if report.sent % CHECK_EVERY == 0:
                where = f"after {attack}"
                report.findings += [
                    f"{where}: {what}" for what in _still_right(server, model, good)
                ]
            if report.findings and "dead" in report.findings[-1]:
                return report
        if (asked := server.asked_itself() - itself) > 0:
            report.findings.append(f"the server fetched {OWN_PATH} from itself, {asked} times")
    finally:
        listener.close()
    return report


def _attempt(server: Server, attack: Attack, report: Report) -> str:
    try:
        if attack.twins:
            answers: list[str] = []
            threads = [
                threading.Thread(target=lambda: answers.append(_try(server, attack, report)))
                for _ in range(2)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            if set(answers) != {"200"}:
                report.findings.append(f"{attack}: twins were answered {answers}")
            return " and ".join(sorted(answers))
        return _try(server, attack, report)
    except ConnectionRefusedError:
        return "refused"


def _try(server: Server, attack: Attack, report: Report) -> str:
    try:
        return server.send(attack)
    except ConnectionRefusedError:
        raise
    except (AssertionError, ValueError, KeyError, TypeError, OSError) as error:
        report.findings.append(f"{attack}: {type(error).__name__}: {error}")
        return "bad"


def _after(
    server: Server, listener: Listener, report: Report, healthy_within: float
) -> Iterator[str]:
    began = time.monotonic()
    try:
        status, _ = server.ask("GET", "/health", timeout=30)
    except OSError as error:
        yield f"the server is dead: {type(error).__name__}: {error}"
        return
    took = time.monotonic() - began
    report.slowest_health = max(report.slowest_health, took)
    if status != 200:
        yield f"/health answered {status}"
    if took > healthy_within:
        yield f"/health took {took:.1f} s"
    if listener.hits:
        yield f"the server asked this machine for {listener.hits.pop()}"
        listener.hits.clear()


def _good(server: Server, model: str) -> list[tuple[str, dict[str, object], bytes]]:
    """Good requests with a seed, and the sound that they give."""
    voices = json.loads(server.ask("GET", "/v1/audio/voices")[1])["voices"]
    speech: dict[str, object] = {
        "model": model,
        "voice": voices[0]["id"],
        "input": "The quick brown fox.",
        "response_format": "wav",
        "seed": 11,
        "max_tokens": 40,
    }
    chat: dict[str, object] = {
        "model": model,
        "messages": [{"role": "user", "content": "The quick brown fox."}],
        "modalities": ["audio"],
        "seed": 12,
        "max_tokens": 40,
    }
    return [
        (path, fields, _sound(server, path, fields))
        for path, fields in ((SPEECH, speech), (CHAT, chat))
    ]


def _sound(server: Server, path: str, fields: dict[str, object]) -> bytes:
    status, body = server.post(path, fields)
    if status != 200:
        raise AssertionError(f"a good request to {path} was answered {status}: {body[:300]!r}")
    if path == SPEECH:
        return body
    return base64.b64decode(json.loads(body)["choices"][0]["message"]["audio"]["data"])


def _still_right(
    server: Server, model: str, good: list[tuple[str, dict[str, object], bytes]]
) -> Iterator[str]:
    try:
        deadline = time.monotonic() + 60
        while (running := server.running()) and time.monotonic() < deadline:
            time.sleep(0.2)
        if running:
            yield f"{running:g} requests go on although nobody waits for them"
        for path, fields, sound in good:
            now = _sound(server, path, fields)
            if now != sound:
                yield f"a good request to {path} gave {len(now)} other bytes than at the start"
    except (AssertionError, OSError) as error:
        yield f"{type(error).__name__}: {error}"


def main(arguments: list[str] | None = None) -> int:
    """Fuzz the server that the command line names; 1 if there were findings."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.support.fuzz",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("url")
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="one family of requests")
    parser.add_argument("--api-key")
    parser.add_argument("--healthy-within", type=float, default=HEALTHY_WITHIN, help="seconds")
    parser.add_argument("--quiet", dest="say", action="store_false")
    report = fuzz(**vars(parser.parse_args(arguments)))
    print(report.text())
    return 1 if report.findings else 0


if __name__ == "__main__":
    sys.exit(main())
