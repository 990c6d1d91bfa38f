"""What the service refuses: other origins, tricks with paths and headers, an open door."""

from __future__ import annotations

import gzip
import socket

import pytest
from higgs_generate import settings
from higgs_generate.listen import listen_address

from tests.support.generate_service import GenerateRun
from tests.unit.generate.conftest import MakeRun

RUNPOD = {"RUNPOD_POD_ID": "abc123"}


@pytest.mark.parametrize("platform", [RUNPOD, {"VAST_CONTAINERLABEL": "C.1"}])
def test_without_a_key_it_is_not_reachable_on_a_public_platform(platform: dict[str, str]) -> None:
    host, reason = listen_address("0.0.0.0", platform)
    assert host == "127.0.0.1" and "no API key" in reason and "HIGGS_API_KEY" in reason
    assert listen_address("::", platform)[0] == "::1"
    for told in ({"HIGGS_API_KEY": "secret-key"}, {"VLLM_API_KEY": "secret-key"},
                 {"HIGGS_GENERATE_OPEN": "1"}):  # fmt: skip
        assert listen_address("0.0.0.0", platform | told) == ("0.0.0.0", "")


def test_elsewhere_it_listens_as_it_is_told() -> None:
    assert listen_address("0.0.0.0", {}) == ("0.0.0.0", "")
    assert listen_address("127.0.0.1", RUNPOD) == ("127.0.0.1", "")


@pytest.mark.parametrize(
    ("name", "value"),
    [("HIGGS_GENERATE_SERVER", "ftp://x"), ("HIGGS_GENERATE_SERVER", "http://u:p@x"),
     ("HIGGS_GENERATE_OPEN", "maybe"), ("HIGGS_GENERATE_RUNNING", "0"),
     ("HIGGS_GENERATE_QUEUE", "-1"), ("HIGGS_GENERATE_TIMEOUT", "nan"),
     ("HIGGS_GENERATE_ALLOWED_ORIGINS", "example.com")],
)  # fmt: skip
def test_setting_that_cannot_be_used(name: str, value: str) -> None:
    with pytest.raises(ValueError, match=name):
        settings.read({name: value})


def test_pages_of_other_origins_cannot_use_it(run: GenerateRun) -> None:
    value = {"text": "a b"}
    for origin in ("https://evil.example", "null", f"https://127.0.0.1:{run.port}.evil.example"):
        answer = run.ask("POST", "/generate", value, {"Origin": origin})
        assert answer.status == 403 and "access-control-allow-origin" not in answer.headers
    assert run.ask("POST", "/generate", value, {"Sec-Fetch-Site": "cross-site"}).status == 403
    assert run.server.requests == []
    own = {"Origin": f"http://127.0.0.1:{run.port}"}
    assert run.ask("POST", "/generate", value, own).status == 200
    preflight = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    assert run.ask("OPTIONS", "/generate", None, preflight).status == 403


def test_allowed_origin(make_run: MakeRun) -> None:
    run = make_run(HIGGS_GENERATE_ALLOWED_ORIGINS="https://page.example")
    origin = {"Origin": "https://page.example"}
    answer = run.ask("POST", "/generate", {"text": "a b"}, origin)
    assert answer.status == 200
    assert answer.headers["access-control-allow-origin"] == "https://page.example"
    preflight = run.ask(
        "OPTIONS", "/generate", None, origin | {"Access-Control-Request-Method": "POST"}
    )
    assert (
        preflight.status == 204
        and "Authorization" in preflight.headers["access-control-allow-headers"]
    )
    assert run.ask("POST", "/generate", {"text": "a"}, {"Origin": "https://b"}).status == 403


@pytest.mark.parametrize(
    "path",
    ["/page/../secret.txt", "/page/%2e%2e/secret.txt", "/page/..%2fsecret.txt", "//page/app.js",
     "/page//app.js", "/page/app.js/", "/page/app.js%00", "/page/.", "/page/", "/page/index.html",
     "/../secret.txt", "/page/..\\secret.txt", "/static/app.js"],
)  # fmt: skip
def test_paths_that_name_no_file(run: GenerateRun, run_with_key: GenerateRun, path: str) -> None:
    for each in (run, run_with_key):
        answer = each.ask("GET", path)
        assert answer.status in (401, 404) and answer.body != b"secret"


@pytest.mark.parametrize("host", ["x?", "a/b", "a b", "x#", "[::1", "x:99999999"])
def test_host_header_cannot_open_a_route(run_with_key: GenerateRun, host: str) -> None:
    answer = run_with_key.ask("POST", "/generate", {"text": "a"}, {"Host": host})
    assert answer.status in (400, 401) and run_with_key.server.requests == []


@pytest.mark.parametrize("path", ["/GENERATE", "/generate/", "//generate", "/generate;x",
                                  "/generate/jobs/..%2f..%2fx", "/generate/jobs/" + "g" * 32,
                                  "/voices/..%2f..%2fetc/preview"])  # fmt: skip
def test_other_spellings_of_a_route_are_not_found(run: GenerateRun, path: str) -> None:
    assert run.ask("GET", path).status in (404, 405)


def test_page_has_a_strict_policy(run: GenerateRun) -> None:
    answer = run.ask("GET", "/")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "*" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["permissions-policy"].startswith("microphone=(self)")
    assert "access-control-allow-origin" not in answer.headers
    script = run.ask("GET", "/page/app.js")
    assert script.headers["content-type"].startswith("text/javascript")
    again = run.ask("GET", "/page/app.js", None, {"If-None-Match": script.headers["etag"]})
    assert (again.status, again.body) == (304, b"")
    assert run.ask("POST", "/").status == 405
    assert run.ask("GET", "/docs").headers["content-security-policy"] == policy


@pytest.mark.parametrize(
    ("accepted", "packed"),
    [("gzip", True), ("br, GZIP;q=0.5", True), ("", False), ("identity", False), ("br", False),
     ("gzip;q=0", False), ("gzip; q=0.0", False), ("xgzip", False)],
)  # fmt: skip
def test_page_is_compressed_for_who_takes_it(run: GenerateRun, accepted: str, packed: bool) -> None:
    answer = run.ask("GET", "/page/app.js", None, {"Accept-Encoding": accepted})
    assert (answer.headers.get("content-encoding") == "gzip") == packed
    assert int(answer.headers["content-length"]) == len(answer.body)
    content = gzip.decompress(answer.body) if packed else answer.body
    assert content == b"'use strict';" and answer.headers["vary"] == "accept-encoding"
    again = {"Accept-Encoding": accepted, "If-None-Match": answer.headers["etag"]}
    assert run.ask("GET", "/page/app.js", None, again).status == 304


def test_what_is_not_http_gets_json(run: GenerateRun) -> None:
    with socket.create_connection(("127.0.0.1", run.port)) as connection:
        connection.sendall(b"\x16\x03\x01 not http\r\n\r\n")
        received = b""
        while chunk := connection.recv(4096):
            received += chunk
        assert received.startswith(b"HTTP/1.1 400 ") and b'"code": 400' in received


def test_endless_head_is_cut(run: GenerateRun) -> None:
    with socket.create_connection(("127.0.0.1", run.port)) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n")
        with pytest.raises(OSError):
            for _ in range(100):
                connection.sendall(b"X: " + b"a" * 8000 + b"\r\n")
                if connection.recv(4096, socket.MSG_DONTWAIT | socket.MSG_PEEK):
                    raise OSError("it was answered")


def test_large_bodies_at_once_take_bounded_memory(
    run: GenerateRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    from higgs_generate import body_budget

    monkeypatch.setattr(body_budget, "BUDGET", 200_000)
    run.behave(first=30)
    import json

    held = run.connect()
    large = json.dumps({"text": "Hello.", "ref_audio": "A" * 150_000, "ref_text": "a"})
    held.request("POST", "/generate", large)
    run.wait_until(lambda: run.server.running == 1)
    answer = run.ask("POST", "/generate", large.encode())
    assert answer.status == 429 and answer.headers["retry-after"]
    held.close()
    run.wait_until(lambda: run.server.running == 0)
    run.behave(first=0)
    assert run.ask("POST", "/generate", large.encode()).status == 200
