"""`invoke doctor`: can this machine do the job, and what to do about what it lacks.

Each check is a small function that returns a finding with one of three verdicts: it passes, it
fails (a build or push would fail too), or it was inconclusive. They run side by side, each with
short timeouts, so that the answer is there within ten seconds also when the network is away.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from higgs_image import build as builds
from higgs_image import buildkit, engine, registry
from higgs_image import lock as locks
from higgs_image.errors import HiggsError
from higgs_image.hashing import git_tree_ids, sha256_bytes
from higgs_image.lock import Lock
from higgs_image.machine import ask, engine_info, file_system, shown, store_of, version_in
from higgs_image.workspace import Workspace

INFO_SECONDS = 3.0
"""How long the engine may take to answer."""
ANSWER_SECONDS = 4.0
"""How long one program or server may take."""
DEADLINE_SECONDS = 6.0
"""How long all checks together may take, after the engine has answered."""

MIN_SKOPEO_CLASSIC = (1, 14, 2)
"""The first skopeo that agrees with the engine on an API version; Docker 25 refuses older ones."""


class Verdict(StrEnum):
    """What a check came to. Inconclusive is never a pass."""

    PASS = "pass"  # noqa: S105 (no password)
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        check: its name.
        verdict: pass, fail or inconclusive.
        found: what is there, with its value.
        remedy: what to do now; empty where nothing is to be done.
    """

    check: str
    verdict: Verdict
    found: str
    remedy: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """All findings, in the order of the checks."""

    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """No check failed."""
        return all(x.verdict is not Verdict.FAIL for x in self.findings)

    def text(self) -> str:
        """Return the findings as a table."""
        lines = []
        for x in self.findings:
            verdict = x.verdict.upper() if x.verdict is Verdict.FAIL else x.verdict
            lines.append(f"{verdict:<12}  {x.check:<12}  {x.found}")
            if x.remedy:
                lines.append(f"{'':<28}-> {x.remedy}")
        failed = sum(x.verdict is Verdict.FAIL for x in self.findings)
        open_ = sum(x.verdict is Verdict.INCONCLUSIVE for x in self.findings)
        lines.append(f"{failed} failed, {open_} inconclusive, of {len(self.findings)} checks")
        return "\n".join(lines)


@dataclass(frozen=True)
class Subject:
    """What is examined.

    Attributes:
        workspace: folders of the product.
        lock: versions.lock; None if it cannot be read (a check of its own says why).
        info: what `docker info` says; empty if no engine answers.
        refusal: why none answers.
        registry: host and path to push to; empty if none is configured.
        name: the image's name.
        base_image: used instead of the locked base; empty if it is not overridden.
    """

    workspace: Workspace
    lock: Lock | None
    info: dict[str, Any]
    refusal: str = ""
    registry: str = ""
    name: str = "image"
    base_image: str = ""


Check = Callable[[str, Subject], Finding]


def examine(
    workspace: Workspace, *, registry: str = "", name: str = "image", base_image: str = ""
) -> Diagnosis:
    """Run all checks side by side.

    Args:
        workspace: folders of the product.
        registry: host and path to push to; empty if none is configured.
        name: the image's name.
        base_image: used instead of the locked base; empty if it is not overridden.
    """
    info, refusal = engine_info(INFO_SECONDS)
    try:
        lock = locks.load(workspace.lock_file)
    except HiggsError:
        lock = None
    subject = Subject(workspace, lock, info, refusal, registry, name, base_image)
    return Diagnosis(tuple(run_checks(CHECKS, subject, DEADLINE_SECONDS)))


def run_checks(checks: dict[str, Check], subject: Subject, seconds: float) -> list[Finding]:
    """Run checks side by side; one without an answer in time is inconclusive.

    The threads are daemons: a look-up of a name that hangs must not hold up the end.
    """
    found: dict[str, Finding] = {}

    def work(name: str, check: Check) -> None:
        found[name] = one(name, check, subject)

    threads = [
        threading.Thread(target=work, args=item, daemon=True, name=item[0])
        for item in checks.items()
    ]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return [found.get(name) or late(name, seconds) for name in checks]


def late(name: str, seconds: float) -> Finding:
    """Return the finding of a check that has not answered: a silent network is a failed one."""
    found = f"no answer within {seconds:.0f} s"
    if name in NETWORK:
        return Finding(name, Verdict.FAIL, found, "check the network and the proxy")
    return Finding(name, Verdict.INCONCLUSIVE, found, "run it again")


def one(name: str, check: Check, subject: Subject) -> Finding:
    """Run one check; an error of the pipeline's own is a failed check with its way out."""
    try:
        finding = check(name, subject)
    except HiggsError as error:
        finding = Finding(name, Verdict.FAIL, error.message, error.hint)
    except OSError as error:
        finding = Finding(name, Verdict.INCONCLUSIVE, f"could not be checked: {error}")
    return Finding(finding.check, finding.verdict, without_secrets(finding.found), finding.remedy)


def without_secrets(text: str) -> str:
    """Remove user names and passwords from the URLs in a text."""
    return re.sub(r"://[^/@\s'\"]+@(?!sha256:)", "://***@", text)


def last_line(text: str) -> str:
    """Return the line of a program's output that says what went wrong."""
    lines = [x.strip() for x in text.strip().splitlines() if x.strip()]
    fatal = [x for x in lines if re.search(r"fatal|error|level=fatal", x, re.IGNORECASE)]
    return (fatal or lines or ["no output"])[-1]


# The machine --------------------------------------------------------------------------------


def check_engine(name: str, subject: Subject) -> Finding:
    """An engine answers, is new enough, and its disk can hold images."""
    info = subject.info
    if not info:
        remedy = "start Docker; on Debian as root: ./inv engine"
        if "permission denied" in subject.refusal.lower():
            remedy = "as root: usermod -aG docker USER, then log in again"
        return Finding(name, Verdict.FAIL, f"no engine answers: {subject.refusal}", remedy)
    version = version_in(str(info.get("ServerVersion")))
    found = f"Docker {shown(version)}, {store_of(info)} image store"
    if version is None or version < engine.MIN_ENGINE:
        return Finding(
            name, Verdict.FAIL, f"{found}; 23 or later is needed", "upgrade it; see ./inv engine"
        )
    root = engine_root(subject)
    mounts = Path("/proc/self/mounts")
    if root and mounts.exists() and file_system(root, mounts.read_text()) == "overlay":
        return Finding(
            name,
            Verdict.FAIL,
            f"{found}; its data in {root} is on an overlay file system, where no container starts",
            f"start this container with a volume at {root}",
        )
    return Finding(name, Verdict.PASS, found)


def engine_root(subject: Subject) -> Path | None:
    """Return the folder where the engine keeps images; None if it is on another machine."""
    root = Path(str(subject.info.get("DockerRootDir", "")))
    if subject.info.get("Name") != socket.gethostname() or not root.is_dir():
        return None
    # As a service Docker leaves them to the system's containerd, which has a folder of its own.
    apart = Path("/var/lib/containerd")
    shared = Path("/run/containerd/containerd.sock").exists()
    if store_of(subject.info) == "containerd" and shared and any(apart.glob("*metadata*")):
        return apart
    return root


def check_buildx(name: str, _: Subject) -> Finding:
    """The buildx command is there and new enough."""
    asked = ask("docker", "buildx", "version", timeout=ANSWER_SECONDS)
    version = version_in(asked.out) if asked.code == 0 else None
    if version is None or version < engine.MIN_BUILDX:
        found = f"buildx {shown(version)}" if version else "docker has no buildx command"
        return Finding(
            name,
            Verdict.FAIL,
            f"{found}; 0.13 or later is needed",
            "install docker-buildx; on Debian as root: ./inv engine",
        )
    return Finding(name, Verdict.PASS, f"buildx {shown(version)}")


def check_builder(name: str, subject: Subject) -> Finding:
    """A builder is there that can write OCI layouts. Makes none."""
    if not subject.info:
        return Finding(name, Verdict.INCONCLUSIVE, "no engine answers")
    if store_of(subject.info) == "containerd":
        return Finding(name, Verdict.PASS, "the engine's own builder writes OCI layouts")
    asked = ask("docker", "buildx", "inspect", buildkit.BUILDER, timeout=ANSWER_SECONDS)
    if asked.code == 0:
        return Finding(
            name, Verdict.PASS, f"the container builder {buildkit.BUILDER} writes OCI layouts"
        )
    return Finding(
        name,
        Verdict.INCONCLUSIVE,
        "the classic image store cannot write OCI layouts; the first build makes the container "
        f"builder {buildkit.BUILDER}, which pulls BuildKit's image",
        'where it cannot be pulled: "features": {"containerd-snapshotter": true} in '
        "/etc/docker/daemon.json, and restart Docker",
    )


def check_skopeo(name: str, subject: Subject) -> Finding:
    """The program that moves images is there and new enough, also for this engine."""
    version = version_in(ask("skopeo", "--version", timeout=ANSWER_SECONDS).out)
    if version is None or version < engine.MIN_SKOPEO:
        found = f"skopeo {shown(version)}" if version else "skopeo is not installed"
        return Finding(
            name,
            Verdict.FAIL,
            f"{found}; 1.9.3 or later is needed",
            "install skopeo; on Debian as root: ./inv engine",
        )
    server = version_in(str(subject.info.get("ServerVersion", "")))
    classic = bool(subject.info) and store_of(subject.info) == "classic"
    if classic and server and server >= (25, 0, 0) and version < MIN_SKOPEO_CLASSIC:
        return Finding(
            name,
            Verdict.FAIL,
            f"skopeo {shown(version)} cannot load images into the classic image store of Docker "
            f"{shown(server)} (which wants a newer API)",
            "build with --no-load, install skopeo 1.14.2 or later, or turn on the containerd image "
            'store: "features": {"containerd-snapshotter": true} in /etc/docker/daemon.json',
        )
    return Finding(name, Verdict.PASS, f"skopeo {shown(version)}")


def check_git(name: str, _: Subject) -> Finding:
    """Git is there."""
    asked = ask("git", "--version", timeout=ANSWER_SECONDS)
    if asked.code != 0:
        return Finding(name, Verdict.FAIL, "git is not installed", "install git")
    return Finding(name, Verdict.PASS, f"git {shown(version_in(asked.out))}")


def enough_disk(name: str, path: Path, built: bool) -> Finding:
    """Compare free space with what a build needs.

    Args:
        name: of the check.
        path: the nearest folder above it that exists is measured.
        built: an image was built already: another one needs less.
    """
    while not path.exists():
        path = path.parent
    free = shutil.disk_usage(path).free / 1e9
    least = 5.0 if built else builds.DISK_GB
    found = f"{free:.1f} GB free at {path}, a build needs {least:.0f}"
    if free < least:
        return Finding(
            name,
            Verdict.FAIL,
            found,
            "free space there (docker builder prune; docker image prune)",
        )
    return Finding(name, Verdict.PASS, found)


def _built(subject: Subject) -> bool:
    return any(subject.workspace.layout(x).exists() for x in builds.COMPRESSIONS)


def check_disk(name: str, subject: Subject) -> Finding:
    """The layout fits below build/."""
    return enough_disk(name, subject.workspace.build, _built(subject))


def check_engine_disk(name: str, subject: Subject) -> Finding:
    """The build's layers fit where the engine keeps them."""
    root = engine_root(subject)
    if root is None:
        why = "the engine is on another machine" if subject.info else "no engine answers"
        return Finding(
            name, Verdict.INCONCLUSIVE, why, f"it needs {builds.DISK_GB:.0f} GB free there"
        )
    return enough_disk(name, root, _built(subject))


def check_gpu(name: str, _: Subject) -> Finding:
    """A GPU is there. A build needs none."""
    asked = ask(
        "nvidia-smi",
        "--query-gpu=name,memory.total,driver_version",
        "--format=csv,noheader",
        timeout=ANSWER_SECONDS,
    )
    if asked.code == 0 and asked.out.strip():
        return Finding(name, Verdict.PASS, "; ".join(asked.out.strip().splitlines()))
    why = "no NVIDIA driver (nvidia-smi)" if asked.code == 127 else last_line(asked.out + asked.err)
    return Finding(
        name,
        Verdict.INCONCLUSIVE,
        f"{why}: the smoke test can run on a CPU only, which does not prove kernels and sound",
        "build and push work without; to prove the rest, run the tests on a machine with a GPU",
    )


def check_gpu_toolkit(name: str, subject: Subject) -> Finding:
    """The engine can give a GPU to a container."""
    if "nvidia" in (subject.info.get("Runtimes") or {}):
        return Finding(name, Verdict.PASS, "the engine has the runtime nvidia")
    return Finding(
        name,
        Verdict.INCONCLUSIVE,
        "the engine has no runtime nvidia: containers get no GPU, the smoke test runs on a CPU",
        "on a machine with a GPU: install nvidia-container-toolkit, then "
        "nvidia-ctk runtime configure --runtime=docker, and restart Docker",
    )


# The pins -----------------------------------------------------------------------------------


def check_lock(name: str, subject: Subject) -> Finding:
    """versions.lock can be read and matches the files that it covers."""
    lock = locks.load(subject.workspace.lock_file)
    locks.require_consistent(lock, subject.workspace.root)
    return Finding(name, Verdict.PASS, f"versions.lock is consistent: {lock.tag}")


def _no_lock(name: str) -> Finding:
    return Finding(name, Verdict.INCONCLUSIVE, "versions.lock cannot be read")


# What has to be reached ---------------------------------------------------------------------


def check_fork(name: str, subject: Subject) -> Finding:
    """The fork is there already, or can be fetched."""
    lock = subject.lock
    if lock is None:
        return _no_lock(name)
    links = {lock.submodule.path: lock.submodule.commit}
    fork = lock.fork
    return _repository(
        name, fork.url, subject.workspace.source / "fork", fork.commit, fork.tree, links
    )


def check_submodule(name: str, subject: Subject) -> Finding:
    """The submodule is there already, or can be fetched."""
    lock = subject.lock
    if lock is None:
        return _no_lock(name)
    part = lock.submodule
    return _repository(
        name, part.url, subject.workspace.source / "submodule", part.commit, part.tree, {}
    )


def _repository(
    name: str, url: str, checkout: Path, commit: str, tree: str, gitlinks: dict[str, str]
) -> Finding:
    if (checkout / ".git").exists() and git_tree_ids(checkout, gitlinks).get("") == tree:
        return Finding(name, Verdict.PASS, f"{commit[:7]} is fetched and verified, works offline")
    asked = ask("git", "ls-remote", url, "HEAD", timeout=ANSWER_SECONDS, env=_GIT_ENV)
    if asked.code == 0:
        return Finding(name, Verdict.PASS, f"{url} answers")
    why = f"no answer in {ANSWER_SECONDS:.0f} s" if asked.code == 124 else last_line(asked.err)
    return Finding(
        name,
        Verdict.FAIL,
        f"{url} cannot be read: {why}",
        "check the network and the proxy; a mirror can be set with "
        "git config --global url.MIRROR.insteadOf PREFIX",
    )


_GIT_ENV = {"GIT_TERMINAL_PROMPT": "0", "GIT_ASKPASS": "true", "SSH_ASKPASS": "true"}


def check_packages(name: str, subject: Subject) -> Finding:
    """The package index that pip is configured for answers, and holds the locked wheel."""
    if subject.lock is None:
        return _no_lock(name)
    wheel = subject.lock.wheel
    asked = ask(
        sys.executable, "-m", "pip", "index", "versions", wheel.name, "-vv",
        "--disable-pip-version-check", "--retries", "0", "--timeout", "3",
        "--platform", "manylinux1_x86_64", "--python-version", subject.lock.python.version,
        "--only-binary", ":all:", timeout=DEADLINE_SECONDS - 1,
    )  # fmt: skip
    output = asked.out + asked.err
    if asked.code == 0 and re.search(rf"[ ,]{re.escape(wheel.version)}(,|\s|$)", asked.out):
        pages = re.findall(r'^(\S+) "GET .*" 200', output, re.MULTILINE)
        where = pages[0] if pages else "what pip is configured for"
        return Finding(name, Verdict.PASS, f"{where} has {wheel.name} {wheel.version}")
    if "No module named pip" in output:
        return Finding(name, Verdict.INCONCLUSIVE, "this environment has no pip to ask with")
    if asked.code == 124:
        why = f"no answer in {DEADLINE_SECONDS - 1:.0f} s"
    elif away := re.search(r"Could not fetch URL (\S+): (.*)", output):
        why = f"{away[1]}: {pip_says(away[2])}"
    else:
        why = f"{wheel.name} {wheel.version} is not offered"
    return Finding(
        name,
        Verdict.FAIL,
        f"the package index that pip is configured for does not help: {why}",
        "check the network and the proxy; another index: pip config set global.index-url URL; "
        "certificates of a company: pip config set global.cert FILE",
    )


def pip_says(reason: str) -> str:
    """Return the core of pip's reason for a page that could not be fetched."""
    core = re.sub(r"^.*\(Caused by \w+\(| - skipping$|<[^>]*>[:,]? ?", "", reason)
    return core.strip("()'\" ")


def check_base(name: str, subject: Subject) -> Finding:
    """The base image is in the engine already, or its registry has it."""
    if subject.base_image:
        local = remote = subject.base_image
        digest = ""
    elif subject.lock is not None:
        base = subject.lock.base
        local, digest = base.reference, base.digest
        bare = re.sub(r":[^:/]+$", "", base.image)  # skopeo takes a tag or a digest, not both
        remote = f"{bare}@{digest}"
    else:
        return _no_lock(name)
    if ask("docker", "image", "inspect", local, timeout=ANSWER_SECONDS).code == 0:
        return Finding(name, Verdict.PASS, f"{local} is in the engine, works offline")
    insecure = ["--tls-verify=false"] if registry.is_loopback(remote) else []
    asked = ask(
        "skopeo", "inspect", "--raw", *insecure, f"docker://{remote}", timeout=ANSWER_SECONDS
    )
    if asked.code == 127:
        return Finding(name, Verdict.INCONCLUSIVE, "not checked: skopeo is not installed")
    read = f"sha256:{sha256_bytes(asked.out.encode())}"
    if asked.code == 0 and digest in ("", read):
        return Finding(name, Verdict.PASS, f"{remote} can be pulled")
    why = f"no answer in {ANSWER_SECONDS:.0f} s" if asked.code == 124 else skopeo_says(asked.err)
    if asked.code == 0:
        why = f"what arrives is {read}"
    return Finding(
        name,
        Verdict.FAIL,
        f"{remote} cannot be pulled: {why}",
        "check the network and docker login; or give a copy of it with --base-image (the result "
        "is marked -dev); ./inv demo needs no registry at all",
    )


def skopeo_says(output: str) -> str:
    """Return the reason in skopeo's last line, without the reference that it repeats."""
    line = last_line(output)
    said = re.search(r'msg="(.*)"$', line)
    text = said[1].replace('\\"', '"') if said else line
    return re.sub(r'^Error [a-z ]+"[^"]*": ', "", text)


def check_registry(name: str, subject: Subject) -> Finding:
    """The registry to push to answers and takes our login. Shows no secret."""
    if not subject.registry:
        return Finding(
            name,
            Verdict.INCONCLUSIVE,
            "no registry is configured: nothing can be pushed",
            "REGISTRY=ghcr.io/your-org invoke doctor, or set it in invoke.yaml",
        )
    target = registry.repository(subject.registry, subject.name)
    host = target.split("/")[0]
    status, why = http_status(f"{'http' if registry.is_loopback(host) else 'https'}://{host}/v2/")
    if status is None or status >= 500:
        return Finding(
            name,
            Verdict.FAIL,
            f"{host} does not answer: {why}",
            "check the address, the network and the proxy; for a local one: start it",
        )
    with registry.credentials(target) as auth:
        from_environment = bool(auth.fds)
        who = ask("skopeo", "login", *auth.flags(""), "--get-login", host,
                  timeout=ANSWER_SECONDS, env=auth.env, pass_fds=auth.fds)  # fmt: skip
        known = who.code == 0
        if not known and status == 200:
            return Finding(name, Verdict.PASS, f"{host} answers and asks for no login")
        if who.code == 127:
            return Finding(name, Verdict.INCONCLUSIVE, "login not checked: skopeo is missing")
        if not known:
            return Finding(
                name,
                Verdict.FAIL,
                f"{host} asks for a login, and none is known",
                f"docker login {host}, or set REGISTRY_USER and REGISTRY_PASSWORD",
            )
        source = "the environment" if from_environment else "docker's configuration"
        login = ask("skopeo", "login", *auth.flags(""), host,
                    timeout=ANSWER_SECONDS, env=auth.env, pass_fds=auth.fds)  # fmt: skip
    if login.code == 0:
        return Finding(name, Verdict.PASS, f"{host} takes the login from {source}")
    if login.code == 124:
        return Finding(name, Verdict.INCONCLUSIVE, f"{host} did not answer to the login in time")
    # When a login is refused, skopeo asks for another: then all that it says is that none came.
    asks = "reading username" in login.err
    reason = "" if asks else f": {skopeo_says(login.err)}"
    return Finding(
        name,
        Verdict.FAIL,
        f"{host} does not take the login from {source}{reason}",
        f"docker login {host}, or set REGISTRY_USER and REGISTRY_PASSWORD",
    )


def check_hub(name: str, subject: Subject) -> Finding:
    """The hub that holds the weights answers. The server needs it when it starts, a build never."""
    if subject.lock is None:
        return _no_lock(name)
    hub = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    repo = subject.lock.weights_for("generation").repo
    status, why = http_status(f"{hub}/api/models/{repo}")
    if status is not None and status < 400:
        return Finding(name, Verdict.PASS, f"{hub} has {repo}")
    return Finding(
        name,
        Verdict.INCONCLUSIVE,
        f"{hub} does not give {repo}: {why}",
        "only the starting server needs it; a mirror is set with HF_ENDPOINT",
    )


def http_status(url: str) -> tuple[int | None, str]:
    """Return the status of a GET, and what it says; None if no server answered."""
    request = urllib.request.Request(url, headers={"User-Agent": "higgs-image"})  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as answer:  # noqa: S310
            return answer.status, "200 OK"
    except urllib.error.HTTPError as error:
        return error.code, f"{error.code} {error.reason}"
    except (OSError, ValueError) as error:
        return None, str(getattr(error, "reason", error))


CHECKS: dict[str, Check] = {
    "engine": check_engine,
    "buildx": check_buildx,
    "builder": check_builder,
    "skopeo": check_skopeo,
    "git": check_git,
    "disk": check_disk,
    "engine disk": check_engine_disk,
    "lock": check_lock,
    "fork": check_fork,
    "submodule": check_submodule,
    "packages": check_packages,
    "base image": check_base,
    "registry": check_registry,
    "gpu": check_gpu,
    "gpu toolkit": check_gpu_toolkit,
    "hub": check_hub,
}
"""All checks, in the order in which they are shown."""

NETWORK = ("fork", "submodule", "packages", "base image", "registry")
"""Checks of what a build or push has to reach."""
