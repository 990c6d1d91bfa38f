"""Hostile requests below the API: bytes that are no JSON, HTTP that is none, clients that leave."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from tests.support.attack import CHAT, Attack, AttackContext, either, posted, with_audio
from tests.support.hostile_audio import wav

# -- bytes -----------------------------------------------------------------------------------------


def body(at: AttackContext) -> Attack:
    """A body that is no JSON, or only just."""
    path, fields = either(at)
    good = json.dumps(fields).encode()
    deep = at.chance.choice([100, 900, 5000, 200_000])
    name, body = at.chance.choice(
        [
            ("empty", b""),
            ("null", b"null"),
            ("list", b"[]"),
            ("text", b'"x"'),
            ("number", b"1"),
            ("cut", good[: at.chance.randint(1, len(good) - 1)]),
            ("trailing", good + b"}"),
            ("not utf-8", good[:-1] + b', "x": "\xff\xfe"}'),
            ("latin-1", '{"input": "ü"}'.encode("latin-1")),
            ("utf-16", good.decode().encode("utf-16")),
            ("bom", b"\xef\xbb\xbf" + good),
            ("lone surrogate", good.replace(b"Hello", b"\\ud800")),
            ("nul", good.replace(b"Hello", b"\\u0000")),
            ("raw nul", b"\0" * 100),
            ("nan", good[:-1] + b', "temperature": NaN}'),
            ("long number", good[:-1] + b', "temperature": ' + b"1" * 10_000 + b"}"),
            ("exponent", good[:-1] + b', "temperature": 1e999999}'),
            (f"{deep} lists", b'{"messages": ' + b"[" * deep + b"]" * deep + b"}"),
            (f"{deep} objects", b'{"a":' * deep + b"1" + b"}" * deep),
            (f"{deep} in a field", good[:-1] + b', "stop": ' + b"[" * deep + b"]" * deep + b"}"),
            ("same field twice", good[:-1] + b', "model": "x", "model": 5}'),
            ("many fields", b"{" + b",".join(b'"%d": 1' % i for i in range(20_000)) + b"}"),
            ("many elements", b"[" + b"[]," * 900_000 + b"[]]"),
            ("34 MB", b'{"input": "' + b"x" * (34 * 2**20) + b'"}'),
            ("5 MB of text", good.replace(b"Hello", b"x" * (5 * 2**20))),
            ("nan twice", good[:-1] + b', "temperature": -NaN, "seed": Infinity}'),
            ("half a surrogate pair", good.replace(b"Hello", b"\\udfff\\ud83d")),
            ("not a character", good.replace(b"Hello", "\uffff\ufdd0\U0010ffff".encode())),
            ("encoded surrogate", good.replace(b"Hello", b"\xed\xa0\x80")),
            ("overlong utf-8", good.replace(b"Hello", b"\xc0\xaf")),
            ("long digits", good[:-1] + b', "seed": ' + b"9" * 100_000 + b"}"),
            ("long key", b'{"' + b"k" * 100_000 + b'": 1, ' + good[1:]),
            ("same field many times", b"{" + b'"input": "a",' * 50_000 + good[1:]),
            ("escapes", good.replace(b"Hello", b"\\u0041" * 3000)),
            ("spaces", b" " * 10**6 + good + b"\n" * 10**6),
            ("many commas", b"[" + b"," * 600_000 + b"]"),
            ("multipart", b'--x\r\nContent-Disposition: form-data; name="input"\r\n\r\na\r\n--x--'),
            ("form", b"model=x&input=y"),
            ("xml", b"<?xml version='1.0'?><a/>"),
        ]
    )
    return Attack(f"{path[4:]} {name}", "", path, body=body)


# -- HTTP ------------------------------------------------------------------------------------------


METHODS = ["GET", "PUT", "DELETE", "PATCH", "TRACE", "FOO"]
PATHS = [
    *("/v1//chat", "/v1/../health", "/%00", "/x", "/v1/audio/voices/../../etc/passwd"),
    "/v1/models/x",
]
IDS = ["", " ", "a" * 5000, "\xff\xfe", "%0d%0a"]


def http(at: AttackContext) -> Attack:
    """A request that is no HTTP, or odd HTTP."""
    path, fields = either(at)
    good = json.dumps(fields).encode()
    post = f"POST {path} HTTP/1.1".encode()
    host, json_type, close = b"Host: x", b"Content-Type: application/json", b"Connection: close"
    length = b"Content-Length: %d" % len(good)
    chunked = b"Transfer-Encoding: chunked"
    health = b"GET /health HTTP/1.1"

    def lines(*head: bytes, body: bytes = good) -> bytes:
        return b"\r\n".join([*head, b"", body])

    def sent(*headers: bytes, body: bytes = good) -> bytes:
        return lines(post, host, json_type, *headers, body=body)

    raw = {
        "long header": sent(length, b"X-A: " + b"a" * 200_000),
        "many headers": sent(length, *(b"X-%d: a" % i for i in range(20_000))),
        "long path": lines(b"GET /%b HTTP/1.1" % (b"a" * 200_000), host, close, body=b""),
        "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
        + at.chance.randbytes(200)
        + b"\r\n\r\n",
        "short body": sent(b"Content-Length: 100000"),
        "long body": sent(close, b"Content-Length: 5"),
        "two lengths": sent(b"Content-Length: 5", b"Content-Length: 6"),
        "negative length": sent(b"Content-Length: -5"),
        "huge length": sent(b"Content-Length: 99999999999999999999"),
        "bad chunk": sent(chunked, body=b"ZZ\r\n" + good),
        "huge chunk": sent(chunked, body=b"ffffffffffffffff\r\n" + good),
        "length and chunked": sent(length, chunked, body=b"0\r\n\r\n"),
        "smuggled": sent(b"Content-Length: 0", close, body=lines(health, body=b"")),
        "HTTP/0.9": b"GET /health\r\n\r\n",
        "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "nul in header": sent(length, b"X-A: a\0b"),
        "HTTP/1.0": lines(f"POST {path} HTTP/1.0".encode(), json_type, length),
        "no host": lines(post, length),
        "two hosts": sent(b"Host: y", length),
        "no version": lines(f"POST {path}".encode(), host, json_type, length),
        "HTTP/3.7": lines(f"POST {path} HTTP/3.7".encode(), host, json_type, length),
        "line feeds": sent(length, body=b"").replace(b"\r\n", b"\n") + good,
        "folded header": sent(length, b"X-A: a\r\n  b"),
        "no colon": sent(length, b"X-A a"),
        "space before colon": sent(b"Content-Length : 5"),
        "length with a sign": sent(b"Content-Length: +5"),
        "hexadecimal length": sent(b"Content-Length: 0x10"),
        "length of text": sent(b"Content-Length: many"),
        "gzip of chunks": sent(b"Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n"),
        "unknown coding": sent(b"Transfer-Encoding: foo"),
        "chunk too short": sent(chunked, body=b"5\r\n" + good + b"\r\n0\r\n\r\n"),
        "negative chunk": sent(chunked, body=b"-5\r\n" + good),
        "chunk without an end": sent(chunked, body=b"%x\r\n" % len(good) + good),
        "long chunk extension": sent(chunked, body=b"1;%b\r\n{\r\n0\r\n\r\n" % (b"a" * 200_000)),
        "many small chunks": sent(chunked, body=b"1\r\n{\r\n" * 50_000 + b"0\r\n\r\n"),
        "endless trailers": sent(chunked, body=b"0\r\n" + b"X: a\r\n" * 50_000 + b"\r\n"),
        "connect": lines(b"CONNECT 127.0.0.1:22 HTTP/1.1", host, body=b""),
        "whole address": lines(b"GET http://[::1]:22/ HTTP/1.0", close, body=b""),
        "star": lines(b"OPTIONS * HTTP/1.1", host, close, body=b""),
        "bytes in the path": lines(b"GET /\xff\xfe\x80 HTTP/1.1", host, close, body=b""),
        "pipelined": 20 * lines(health, host, body=b"") + sent(close, length),
        "nothing": b"",
        "empty lines": b"\r\n" * 1000,
    }
    origin = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    in_chunks: dict[str, str | None] = {"Content-Length": None, "Transfer-Encoding": "chunked"}
    whole: dict[str, dict[str, Any]] = {
        "wrong method": {"method": at.chance.choice(METHODS)},
        "head": {"method": "HEAD", "body": b""},
        "options": {"method": "OPTIONS"},
        "wrong path": {"path": at.chance.choice([path + "/", *PATHS])},
        "query": {"path": path + "?model=x&" + "a=b&" * 500},
        "no type": {"headers": {"Content-Type": ""}},
        "text": {"headers": {"Content-Type": "text/plain"}},
        "multipart": {"headers": {"Content-Type": "multipart/form-data; boundary=x"}},
        "charset": {"headers": {"Content-Type": "application/json; charset=utf-16"}},
        "gzip": {"headers": {"Content-Encoding": "gzip"}},
        "odd id": {"headers": {"X-Request-Id": at.chance.choice(IDS)}},
        "slow": {"slowly": True},
        "in chunks": {
            "headers": in_chunks,
            "body": b"".join(b"1\r\n%c\r\n" % byte for byte in good) + b"0\r\n\r\n",
        },
        "asked to go on": {"headers": {"Expect": "100-continue"}, "malformed": True},
        "odd charset": {"headers": {"Content-Type": "application/json; charset=\xff"}},
        "many types": {"headers": {"Content-Type": "application/json, text/html"}},
        "odd accept": {"headers": {"Accept": "text/html", "Accept-Encoding": "br;q=nan"}},
        "odd key": {"headers": {"Authorization": "Bearer " + "x" * 5000}},
        "cookie": {"headers": {"Cookie": "a=" + "b" * 4000}},
        "forwarded": {"headers": {"X-Forwarded-For": "127.0.0.1", "X-Forwarded-Host": "a" * 500}},
        "override": {"headers": {"X-HTTP-Method-Override": "DELETE"}},
        "origin": {"headers": origin},
        "upgrade": {"headers": {"Connection": "Upgrade", "Upgrade": "websocket"}},
        "expect": {"headers": {"Expect": "200-maybe"}},
        "range": {"headers": {"Range": "bytes=0-1"}},
        "metrics": {"path": "/metrics", "method": "GET", "body": b""},
        "docs": {"path": "/docs", "method": "GET", "body": b""},
        "openapi": {"path": "/openapi.json", "method": "GET", "body": b""},
    }
    name = at.chance.choice([*raw, *whole])
    if name in raw:
        return Attack(f"{path[4:]} {name}", "", path, raw=raw[name], malformed=True, closes=True)
    malformed = name in ("head", "upgrade", "options", "odd id", "expect")
    usual = Attack(f"{path[4:]} {name}", "", path, body=good, malformed=malformed)
    return replace(usual, **whole[name])


def same_id(at: AttackContext) -> Attack:
    """Two requests at once that have one id."""
    path, fields = either(at)
    if path == CHAT:
        fields |= {"modalities": ["text"], "stream": False, "request_id": "same"}
    return posted(
        f"{path[4:]} twice with one id", path, fields, headers={"X-Request-Id": "same"}, twins=True
    )


def hang_up(at: AttackContext) -> Attack:
    """A client that leaves in the middle."""
    path, fields = either(at)
    fields["max_tokens"] = 300
    if path == CHAT:
        fields["modalities"] = at.chance.choice([["audio"], ["text"]])
        fields["n"] = at.chance.choice([1, 1, 2])
    if at.chance.random() < 0.2:
        path, fields = CHAT, {**with_audio(at, wav(48_000)), "max_tokens": 300}
    stage = at.chance.choice([0.1, 0.5, 0.99, 1.0, 1.0, 1.001, 1.01, 1.1, 1.5])
    streamed = "streamed " if fields.get("stream") else ""
    return posted(f"{path[4:]} {streamed}left at {stage}", path, fields, hang_up=stage)


ROUTES = [
    *("/tokenize", "/detokenize", "/v1/completions", "/v1/embeddings", "/v1/responses"),
    *("/pooling", "/score", "/v1/score", "/rerank", "/v1/rerank", "/v2/rerank", "/invocations"),
    *("/v1/audio/transcriptions", "/v1/audio/translations", "/v1/audio/voices"),
    *("/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/start_profile", "/stop_profile"),
    *("/server_info", "/sleep", "/wake_up", "/reset_prefix_cache", "/collective_rpc"),
    *("/load", "/ping", "/health", "/metrics", "/docs", "/redoc", "/v1/realtime", "/v1/files"),
]
"""Other routes of vLLM's servers and of OpenAI's API, whether or not this one has them."""


def routes(at: AttackContext) -> Attack:
    """A request to another route than the two that speak."""
    _, fields = either(at)
    path = at.chance.choice(ROUTES)
    method = at.chance.choice(["GET", "POST", "POST", "HEAD", "OPTIONS", "DELETE"])
    prompt: Any = at.chance.choice(["a <|AUDIO_OUT|> b", [], [[2**40]], {}, None, -1])
    content = json.dumps(fields | {"prompt": prompt}).encode() if at.chance.random() < 0.8 else b""
    query = at.chance.choice(["", "", "?format=names", "?format=" + "x" * 3000, "?level=1&x=%ff"])
    malformed = method in ("HEAD", "OPTIONS")
    return Attack(
        f"{method} {path}{query[:30]}", "", path + query, method, content, malformed=malformed
    )
