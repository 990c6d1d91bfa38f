"""The fake RunPod's HTTP server: the API below /v2, and the proxy of its pods below /proxy.

Each request and each answer is validated against the contract. Tests set faults in advance.
"""

from __future__ import annotations

import datetime
import http.client
import json
import re
import secrets
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from higgs_image.oci.container_spec import PORT
from tests.support.http_server import HOP, QuietHandler, RequestFault, Served
from tests.support.runpod import contract
from tests.support.runpod.pods import CATALOGUE, FakePod, PodLife

KEY, READ_ONLY = "rpa_TESTKEYTESTKEYTESTKEY", "rpa_READONLYREADONLY"

TITLES = {400: "Bad Request", 401: "Unauthorized", 402: "Payment Required", 403: "Forbidden",
          404: "Not Found", 409: "Conflict", 422: "Unprocessable Entity",
          429: "Too Many Requests"}  # fmt: skip


@dataclass
class ApiFault(RequestFault):
    """What to do with requests of one kind instead of what the contract says.

    Attributes:
        detail: of the answer.
        errors: of the answer.
        lost: serve it, then cut the connection instead of answering.
    """

    detail: str = "injected"
    errors: list[str] = field(default_factory=list)
    lost: bool = field(default=False, kw_only=True)


class Refusal(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, detail: str, errors: list[str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.detail, self.errors = status, detail, errors or []


class FakeRunPod(Served):
    """State of an account, and the server.

    Args:
        tls: with which it speaks https.

    Attributes:
        templates: by id.
        pods: by id.
        endpoints: by id.
        workers: of every endpoint.
        deleted: ids of pods that were deleted.
        catalogue: GPU types.
        life: of pods that are created from now on.
        full: GPU types that have no capacity, whatever the catalogue says.
        faults: the first that fits is used.
        requests: method, path and body of each that was served.
        violations: answers that break the contract; has to stay empty.
        upstream: port of a server that stands for that of every pod; 0: a stub for each.
        first_byte_seconds: for which the proxy waits for a server.
        seen: headers of each request that the proxy passed on.
        watch: is told of each request, before it is served and before it is answered.
        running: requests that are being served now, without streams.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.templates: dict[str, dict[str, Any]] = {}
        self.pods: dict[str, FakePod] = {}
        self.endpoints: dict[str, dict[str, Any]] = {}
        self.workers: list[dict[str, Any]] = []
        self.deleted: list[str] = []
        self.catalogue = [dict(x) for x in CATALOGUE]
        self.registries = [{"id": "reg_1", "name": "ghcr"}]
        self.life = PodLife()
        self.full: set[str] = set()
        self.faults: list[ApiFault] = []
        self.requests: list[tuple[str, str, Any]] = []
        self.violations: list[str] = []
        self.upstream = 0
        self.first_byte_seconds = 100.0
        self.seen: list[dict[str, str]] = []
        self.running = 0
        self.closed = False
        self.watch: Callable[[str, str, str], None] = lambda *_: None
        self._lock = threading.RLock()
        fake = self

        class Handler(_Handler):
            owner = fake

        super().__init__(Handler)
        if tls:
            self._server.socket = tls.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self.api = f"http{'s' * bool(tls)}://127.0.0.1:{self.port}"
        self.proxy = self.api + "/proxy/{pod}-{port}"

    def __exit__(self, *_: object) -> None:
        self.closed = True
        super().__exit__()
        for pod in self.pods.values():
            pod.end()

    def environment(self, key: str = KEY) -> dict[str, str]:
        """Return the variables that make our client ask this server."""
        return {"RUNPOD_API_KEY": key, "RUNPOD_API_URL": self.api, "RUNPOD_PROXY_URL": self.proxy}

    def fault(self, method: str, path: str) -> ApiFault | None:
        with self._lock:
            return next((x for x in self.faults if x.takes(method, path)), None)

    def serve(
        self, method: str, path: str, query: dict[str, str], body: Any
    ) -> tuple[int, str, Any]:
        """Return status, schema and value of an answer."""
        with self._lock:
            self.requests.append((method, path, body))
            for known, pattern, serve in self._routes():
                if known == method and (found := re.fullmatch(pattern, path)):
                    return serve(*found.groups(), query=query, body=body)
        raise Refusal(404, "resource not found")

    def _routes(self) -> list[tuple[str, str, Callable[..., tuple[int, str, Any]]]]:
        one = "/v2/templates/([^/]+)"
        return [
            ("GET", "/v2/templates",
             lambda **_: (200, "ListTemplatesResponse", {"templates": [*self.templates.values()]})),
            ("POST", "/v2/templates", self._create_template),
            ("GET", one, lambda id, **_: (200, "Template", self._found(self.templates, id))),
            ("PATCH", one, self._update_template),
            ("DELETE", one, self._delete_template),
            ("GET", "/v2/pods",
             lambda **_: (200, "ListPodsResponse",
                          {"pods": [x.answer() for x in self.pods.values()]})),
            ("POST", "/v2/pods", self._create_pod),
            ("GET", "/v2/pods/([^/]+)",
             lambda id, **_: (200, "Pod", self._found(self.pods, id).answer())),
            ("DELETE", "/v2/pods/([^/]+)", self._delete_pod),
            ("GET", "/v2/serverless",
             lambda **_: (200, "ListEndpointsResponse", {"endpoints": [*self.endpoints.values()]})),
            ("POST", "/v2/serverless", self._create_endpoint),
            ("GET", "/v2/serverless/([^/]+)",
             lambda id, **_: (200, "Endpoint", self._found(self.endpoints, id))),
            ("PATCH", "/v2/serverless/([^/]+)", self._update_endpoint),
            ("GET", "/v2/serverless/([^/]+)/workers", self._list_workers),
            ("GET", "/v2/catalog/gpus", self._list_gpus),
            ("GET", "/v2/registries",
             lambda **_: (200, "ListRegistriesResponse", {"registries": self.registries})),
        ]  # fmt: skip

    @staticmethod
    def _found(things: dict[str, Any], key: str) -> Any:
        if key not in things:
            raise Refusal(404, "resource not found")
        return things[key]

    @staticmethod
    def _checked(schema: str, body: Any) -> dict[str, Any]:
        if found := contract.faults(schema, body):
            raise Refusal(422, "Request validation failed.", found)
        assert isinstance(body, dict)
        return body

    # Templates

    def _create_template(self, body: Any, **_: Any) -> tuple[int, str, Any]:
        body = self._checked("CreateTemplateRequest", body)
        made = {
            "id": secrets.token_hex(5), "args": "", "disk": 10, "mounts": {}, "ports": [],
            "env": {}, "registry": None, "serverless": False, "public": False,
            "category": "NVIDIA", "startSsh": True, "startJupyter": True,
            "allowedCudaVersions": [],
        } | body  # fmt: skip
        self.templates[made["id"]] = made
        return 201, "Template", made

    def _update_template(self, id: str, body: Any, **_: Any) -> tuple[int, str, Any]:
        found = self._found(self.templates, id)
        body = self._checked("UpdateTemplateRequest", body)
        if not body.get("mounts", True):  # an empty one changes nothing
            del body["mounts"]
        found.update(body)
        return 200, "Template", found

    def _delete_template(self, id: str, **_: Any) -> tuple[int, str, Any]:
        self._found(self.templates, id)
        del self.templates[id]
        return 204, "", None

    # Endpoints

    def _create_endpoint(self, body: Any, **_: Any) -> tuple[int, str, Any]:
        body = self._checked("CreateEndpointRequest", body)
        self._require_gpus(body["gpu"])
        id_ = secrets.token_hex(4)
        made = {
            "id": id_, "args": "", "disk": 10, "ports": [], "env": {}, "registry": None,
            "dataCenterIds": [], "networkVolumes": [], "timeout": 300_000, "flashboot": "OFF",
            "requestUrls": {"base": f"https://{id_}.invalid", "health": f"https://{id_}.invalid/ping"},
            "createdAt": "2026-06-01T12:00:00Z",
        } | body  # fmt: skip
        made["gpu"] = {"allowedCudaVersions": [], "minCudaVersion": None} | body["gpu"]
        self.endpoints[id_] = made
        return 201, "Endpoint", made

    def _update_endpoint(self, id: str, body: Any, **_: Any) -> tuple[int, str, Any]:
        found = self._found(self.endpoints, id)
        body = self._checked("UpdateEndpointRequest", body)
        self._require_gpus(body.get("gpu", found["gpu"]))
        for name, value in body.items():
            parts = name in ("gpu", "workers", "scaling")
            found[name] = found[name] | value if parts else value
        return 200, "Endpoint", found

    def _require_gpus(self, gpu: dict[str, Any]) -> None:
        known = {x["id"]: x["pool"] for x in self.catalogue if x["pool"] in gpu["pools"]}
        if unknown := set(gpu["pools"]) - set(known.values()):
            raise Refusal(400, f"unknown pools: {sorted(unknown)}")
        excluded = set(gpu.get("excludedTypes", []))
        if excluded - known.keys() or not known.keys() - excluded:
            raise Refusal(400, "excludedTypes is not a part of the pools")
        if gpu.get("allowedCudaVersions") and gpu.get("minCudaVersion"):
            raise Refusal(400, "allowedCudaVersions and minCudaVersion are mutually exclusive")

    def _list_workers(self, id: str, **_: Any) -> tuple[int, str, Any]:
        self._found(self.endpoints, id)
        names = ("running", "idle", "initializing", "throttled", "unhealthy")
        count = {x: sum(y["status"] == x.upper() for y in self.workers) for x in names}
        summary = count | {"total": len(self.workers)}
        return 200, "ListEndpointWorkersResponse", {"workers": self.workers, "summary": summary}

    # Pods

    def _create_pod(self, body: Any, **_: Any) -> tuple[int, str, Any]:
        body = self._checked("CreatePodRequest", body)
        gpu = next((x for x in self.catalogue if x["id"] == body["gpu"]["id"]), None)
        if gpu is None:
            raise Refusal(400, "unknown GPU type")
        if body["gpu"].get("allowedCudaVersions") and "minCudaVersion" in body["gpu"]:
            raise Refusal(400, "allowedCudaVersions and minCudaVersion are mutually exclusive")
        if len(body.get("mounts", {})) > 1:
            raise Refusal(400, "persistent and network mounts are mutually exclusive")
        if gpu["id"] in self.full or gpu["availability"] == "NONE":
            raise Refusal(400, "There are no longer any instances available with the requested "
                               "specifications.")  # fmt: skip
        made = FakePod(body, gpu, self.life, self.upstream)
        self.pods[made.id] = made
        return 201, "Pod", made.answer()

    def _delete_pod(self, id: str, **_: Any) -> tuple[int, str, Any]:
        self._found(self.pods, id).end()
        del self.pods[id]
        self.deleted.append(id)
        return 204, "", None

    def _list_gpus(self, query: dict[str, str], **_: Any) -> tuple[int, str, Any]:
        if (query.get("include") == "AVAILABILITY") != ("product" in query):
            raise Refusal(400, "include=AVAILABILITY requires product, and product requires it")
        hidden = ("availability", "cudaVersions") if "product" not in query else ()
        gpus = [{k: v for k, v in x.items() if k not in hidden} for x in self.catalogue]
        return 200, "ListGpuTypesResponse", {"gpus": gpus}


class _Handler(QuietHandler):
    owner: FakeRunPod

    def _any(self) -> None:
        counts = not self.path.partition("?")[0].endswith("/logs")
        self.owner.running += counts
        try:
            self._serve()
        finally:
            self.owner.running -= counts

    def _serve(self) -> None:
        fake, parts = self.owner, urlsplit(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        raw = self.rfile.read(length)
        fake.watch("before", self.command, parts.path)
        fault = fake.fault(self.command, parts.path)
        if fault:
            time.sleep(fault.delay)
        if fault and fault.status == 0 and not fault.lost:
            self.reset()
            return
        try:
            if fault and fault.status > 0:
                raise Refusal(fault.status, fault.detail, fault.errors)
            if found := re.fullmatch(r"/proxy/(\w+)-(\d+)(/.*)", parts.path):
                self._proxied(found[1], raw, self.path.partition(f"-{found[2]}")[2])
                return
            self._authorize()
            if found := re.fullmatch(r"/v2/pods/([^/]+)/logs", parts.path):
                self._stream(found[1], parse_qs(parts.query))
                return
            query = {k: v[0] for k, v in parse_qs(parts.query).items()}
            body = json.loads(raw) if raw else None
            status, schema, value = fake.serve(self.command, parts.path, query, body)
        except Refusal as refusal:
            title = TITLES.get(refusal.status, "Error")
            problem = {"title": title, "status": refusal.status, "detail": refusal.detail}
            problem |= {"errors": refusal.errors} if refusal.errors else {}
            headers = fault.headers if fault else {}
            self._send(refusal.status, "ErrorResponse", problem, headers)
            return
        fake.watch("after", self.command, parts.path)
        if fault and fault.lost:
            self.reset()
            return
        self._send(status, schema, value, {})

    do_GET = do_POST = do_PATCH = do_DELETE = _any

    def _authorize(self) -> None:
        sent = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if sent not in (KEY, READ_ONLY):
            raise Refusal(401, "missing bearer token" if not sent else f"invalid token {sent}")
        if sent == READ_ONLY and self.command != "GET":
            raise Refusal(403, "access denied")

    def _send(self, status: int, schema: str, value: Any, headers: dict[str, str]) -> None:
        if schema and (wrong := contract.faults(schema, value)):
            self.owner.violations.append(f"{self.command} {self.path}: {wrong}")
        data = b"" if value is None else json.dumps(value).encode()
        kind = "application/problem+json" if schema == "ErrorResponse" else "application/json"
        self.answer(status, data, {
            "Content-Type": kind, "RateLimit": '"minute";r=59;t=12',
            "RateLimit-Policy": '"minute";q=60;w=60',
        } | headers)  # fmt: skip

    def _stream(self, id: str, query: dict[str, list[str]]) -> None:
        pod = self.owner.pods.get(id)
        if pod is None:
            raise Refusal(404, "resource not found")
        self.close_connection = True
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        last = self.headers.get("Last-Event-ID", "")
        source = query.get("source", [""])[0]
        sent = 0
        while id in self.owner.pods and not self.owner.closed:
            lines = pod.log()
            while sent < len(lines) and lines[sent][0] <= pod.age:
                age, kind, line = lines[sent]
                when = pod.created + datetime.timedelta(seconds=age)
                ts = when.isoformat().replace("+00:00", "Z")
                name = f"{ts}/{sent:012}"
                if name > last and source in ("", kind):
                    event = {"source": kind, "line": line, "ts": ts}
                    if not contract.openapi():  # which does not describe it
                        self.owner.violations += contract.faults("LogEvent", event)
                    self.wfile.write(f"id: {name}\ndata: {json.dumps(event)}\n\n".encode())
                    self.wfile.flush()
                sent += 1
            time.sleep(0.02)

    def _proxied(self, id: str, body: bytes, path: str) -> None:
        """Answer as RunPod's proxy does.

        404 without a pod, 502 without a server behind it, 524 if its first byte takes too long;
        headers of one hop are dropped, others are passed on, and the proxy's are added.
        """
        pod = self.owner.pods.get(id)
        port = pod.port() if pod else 0
        if pod is None or pod.status != "RUNNING" or not (port or not pod.loaded):
            self._plain(404 if pod is None else 502, b"<html>Bad gateway</html>")
            return
        if not port:  # the entrypoint answers while the server loads
            self._plain(204 if path == "/ping" else 503, b"")
            return
        upstream = http.client.HTTPConnection(
            "127.0.0.1", port, timeout=self.owner.first_byte_seconds
        )
        try:
            headers = {k: v for k, v in self.headers.items() if k.lower() not in HOP} | {
                "Host": f"{id}-{PORT}.proxy.runpod.net", "X-Forwarded-For": "203.0.113.7",
                "X-Forwarded-Proto": "https", "CF-Ray": "9a1b2c3d4e5f6789-FRA", "CDN-Loop": "x",
            }  # fmt: skip
            self.owner.seen.append(headers)
            upstream.request(self.command, path, body or None, headers)
            answer = upstream.getresponse()
        except TimeoutError:
            self._plain(524, b"<html>A timeout occurred</html>")
            return
        except OSError:
            self._plain(502, b"<html>Bad gateway</html>")
            return
        try:
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                if name.lower() not in HOP | {"server", "date"}:
                    self.send_header(name, value)
            self.send_header("CF-Ray", headers["CF-Ray"])
            chunked = answer.status != 204
            if chunked:
                self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            while block := answer.read1(1 << 16):
                self.wfile.write(b"%x\r\n%b\r\n" % (len(block), block))
            if chunked:
                self.wfile.write(b"0\r\n\r\n")
        except (OSError, http.client.HTTPException):
            self.reset()
        finally:
            upstream.close()

    def _plain(self, status: int, data: bytes) -> None:
        self.answer(status, data, {"Content-Type": "text/html"})
