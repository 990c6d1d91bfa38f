"""Doctor's checks of registries and of the hub that holds the weights."""

from __future__ import annotations

import os
import re

from higgs_image import http
from higgs_image.doctor.model import (
    ANSWER_SECONDS,
    Result,
    Subject,
    failed,
    last_line,
    passed,
    undecided,
)
from higgs_image.doctor.pins import no_lock
from higgs_image.errors import NetworkError
from higgs_image.files import sha256_bytes
from higgs_image.oci import credentials, reference
from higgs_image.process import ask


def check_base(subject: Subject) -> Result:
    """Check that the base image is in the engine or its registry."""
    if subject.base_image:
        local = remote = subject.base_image
        digest = ""
    elif subject.lock is not None:
        base = subject.lock.base
        local, digest = base.reference, base.digest
        bare = re.sub(r":[^:/]+$", "", base.image)  # skopeo takes a tag or a digest, not both
        remote = f"{bare}@{digest}"
    else:
        return no_lock()
    if ask("docker", "image", "inspect", local, timeout=ANSWER_SECONDS).code == 0:
        return passed(f"{local} is in the engine, works offline")
    insecure = ["--tls-verify=false"] if reference.is_loopback(remote) else []
    asked = ask(
        "skopeo", "inspect", "--raw", *insecure, f"docker://{remote}", timeout=ANSWER_SECONDS
    )
    if asked.code == 127:
        return undecided("not checked: skopeo is not installed")
    read = f"sha256:{sha256_bytes(asked.out.encode())}"
    if asked.code == 0 and digest in ("", read):
        return passed(f"{remote} can be pulled")
    why = f"no answer in {ANSWER_SECONDS:.0f} s" if asked.code == 124 else skopeo_says(asked.err)
    if asked.code == 0:
        why = f"expected {digest}, got {read}"
    return failed(
        f"{remote} cannot be pulled: {why}",
        "check the network and docker login; or give a copy of it with --base-image (the result "
        "is marked -dev); ./inv demo needs no registry at all",
    )


def skopeo_says(output: str) -> str:
    """Return the reason in skopeo's last line, without the image reference."""
    line = last_line(output)
    said = re.search(r'msg="(.*)"$', line)
    text = said[1].replace('\\"', '"') if said else line
    return re.sub(r'^Error [a-z ]+"[^"]*": ', "", text)


def check_registry(subject: Subject) -> Result:
    """Check that the registry answers and accepts the login. Shows no secret."""
    if not subject.registry:
        return undecided(
            "no registry is configured: nothing can be pushed",
            "REGISTRY=ghcr.io/your-org ./inv doctor, or set it in invoke.yaml",
        )
    target = reference.repository(subject.registry, subject.name)
    host = target.split("/")[0]
    status, why = http_status(f"{'http' if reference.is_loopback(host) else 'https'}://{host}/v2/")
    if status is None or status >= 500:
        return failed(
            f"{host} does not answer: {why}",
            "check the address, the network and the proxy; for a local one: start it",
        )
    with credentials.credentials(target) as auth:
        from_environment = bool(auth.fds)
        who = ask("skopeo", "login", *auth.flags(""), "--get-login", host,
                  timeout=ANSWER_SECONDS, env=auth.env, pass_fds=auth.fds)  # fmt: skip
        known = who.code == 0
        if not known and status == 200:
            return passed(f"{host} answers and asks for no login")
        if who.code == 127:
            return undecided("login not checked: skopeo is missing")
        if not known:
            return failed(
                f"{host} asks for a login, and none is known",
                f"docker login {host}, or set REGISTRY_USER and REGISTRY_PASSWORD",
            )
        source = "the environment" if from_environment else "docker's configuration"
        login = ask("skopeo", "login", *auth.flags(""), host,
                    timeout=ANSWER_SECONDS, env=auth.env, pass_fds=auth.fds)  # fmt: skip
    if login.code == 0:
        return passed(f"{host} accepts the login from {source}")
    if login.code == 124:
        return undecided(f"{host} did not answer the login in time")
    # After a refused login skopeo asks for another, and its error only says that it got none.
    asks = "reading username" in login.err
    reason = "" if asks else f": {skopeo_says(login.err)}"
    return failed(
        f"{host} refused the login from {source}{reason}",
        f"docker login {host}, or set REGISTRY_USER and REGISTRY_PASSWORD",
    )


def check_hub(subject: Subject) -> Result:
    """Check that the hub has the weights. Only a starting server needs it."""
    if subject.lock is None:
        return no_lock()
    hub = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    repo = subject.lock.weights_for("generation").repo
    status, why = http_status(f"{hub}/api/models/{repo}")
    if status is not None and status < 400:
        return passed(f"{hub} has {repo}")
    return undecided(
        f"{hub} does not provide {repo}: {why}",
        "only the starting server needs it; a mirror is set with HF_ENDPOINT",
    )


def http_status(url: str) -> tuple[int | None, str]:
    """Return the status of a GET with its reason; None if no server answered."""
    try:
        answer = http.request("GET", url, timeout=ANSWER_SECONDS)
    except NetworkError as error:
        return None, error.message.removeprefix(f"GET {url}: ")
    return answer.status, f"{answer.status} {answer.reason}"
