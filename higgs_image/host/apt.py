"""Debian's package manager: the sources of this machine, installing packages, apt's errors."""

from __future__ import annotations

import email
import logging
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from higgs_image import process
from higgs_image.errors import (
    BusyError,
    DiskFullError,
    EngineError,
    HiggsError,
    NetworkError,
    ToolMissingError,
)
from higgs_image.explain import Rule
from higgs_image.explain import explain as explain_by
from higgs_image.files import write_atomically

log = logging.getLogger(__name__)

OLD, NEW = "bookworm", "trixie"
"""Debian 12, whose own Docker is too old, and Debian 13, whose Docker runs on it unchanged."""

SOURCES_FILE = Path("/etc/apt/sources.list.d/higgs-image-trixie.sources")
PIN_FILE = Path("/etc/apt/preferences.d/higgs-image-trixie")
POLICY_FILE = Path("/usr/sbin/policy-rc.d")

LOCK_SECONDS = 300
"""How long to wait for another apt to release its lock."""

MARK = "Written by ./inv install-docker"


@dataclass(frozen=True)
class AptSource:
    """One entry of apt's sources, in either of the two formats.

    Attributes:
        uris: addresses of the archive; CD-ROMs are left out.
        suites: such as bookworm, bookworm-updates.
        components: such as main.
        options: those that decide whether apt trusts it, by deb822 name.
    """

    uris: tuple[str, ...]
    suites: tuple[str, ...]
    components: tuple[str, ...]
    options: dict[str, str] = field(default_factory=dict)


_TRUST = {
    name.lower(): name
    for name in ("Signed-By", "Trusted", "Check-Valid-Until", "Check-Date", "Allow-Insecure")
}


def parse_deb822(text: str) -> list[AptSource]:
    """Read a `.sources` file, without disabled entries and source packages."""
    found = []
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    for stanza in re.split(r"\n(?:[ \t]*\n)+", "\n".join(lines)):
        header = email.message_from_string(stanza.lstrip("\n"))
        fields = {name.lower(): value for name, value in header.items()}
        uris = tuple(x for x in fields.get("uris", "").split() if not x.startswith("cdrom:"))
        enabled = fields.get("enabled", "yes").lower() not in ("no", "false", "off", "0")
        if uris and enabled and "deb" in fields.get("types", "").split():
            options = {_TRUST[key]: value for key, value in fields.items() if key in _TRUST}
            suites, components = fields.get("suites", ""), fields.get("components", "")
            found.append(AptSource(uris, tuple(suites.split()), tuple(components.split()), options))
    return found


_ONE_LINE = re.compile(r"^deb\s+(?:\[(?P<options>[^\]]*)\]\s+)?(?P<rest>\S.*)$")


def parse_list(text: str) -> list[AptSource]:
    """Read a classic `sources.list`, without CD-ROMs and source packages."""
    found = []
    for line in text.splitlines():
        entry = _ONE_LINE.match(line.partition("#")[0].strip())
        if not entry or entry["rest"].startswith("cdrom:"):
            continue
        uri, *words = entry["rest"].split()
        options = {}
        for option in (entry["options"] or "").split():
            key, _, value = option.partition("=")
            if key.lower() in _TRUST:
                options[_TRUST[key.lower()]] = value
        if words:
            found.append(AptSource((uri,), (words[0],), tuple(words[1:]), options))
    return found


def read_sources(etc_apt: Path = Path("/etc/apt")) -> tuple[AptSource, ...]:
    """Read all package sources of this machine, in apt's order."""
    classic, folder = etc_apt / "sources.list", etc_apt / "sources.list.d"
    found = parse_list(classic.read_text()) if classic.is_file() else []
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.suffix in (".list", ".sources"):
            parse = parse_list if path.suffix == ".list" else parse_deb822
            found += parse(path.read_text(errors="replace"))
    return tuple(found)


def archive(sources: Sequence[AptSource], suite: str) -> AptSource | None:
    """Return the source from which this machine installs a Debian release.

    Third-party archives may use the same suite name. Debian's own is the one whose key, updates or
    address say so; without such a sign, the first.
    """
    offers = [x for x in sources if suite in x.suites and "main" in x.components]
    updated = {uri.rstrip("/") for x in sources if f"{suite}-updates" in x.suites for uri in x.uris}

    def signs(source: AptSource) -> int:
        return (
            ("debian-archive" in source.options.get("Signed-By", ""))
            + any(uri.rstrip("/") in updated for uri in source.uris)
            + any(re.search(r"/debian/?$", uri) is not None for uri in source.uris)
        )

    return max(offers, key=signs, default=None)


def render_source(own: AptSource) -> str:
    """Return the deb822 file that adds Debian 13 from the same archive."""
    options = "".join(f"{key}: {value}\n" for key, value in own.options.items())
    return (
        f"# {MARK}: Docker for Debian 12 comes from Debian 13.\n"
        f"Types: deb\nURIs: {' '.join(own.uris)}\nSuites: {NEW}\nComponents: main\n{options}"
    )


PIN = (
    f"Explanation: {MARK}: use packages of Debian 13 only on request.\n"
    f"Package: *\nPin: release n={NEW}\nPin-Priority: 100\n"
)


@contextmanager
def services_held(path: Path = POLICY_FILE) -> Iterator[None]:
    """Keep new packages from starting Docker before it is configured, or a registry on port 5000.

    Debian's packages ask policy-rc.d; an existing one is kept.
    """
    if path.exists() and MARK not in path.read_text(errors="replace"):
        yield
        return
    write_atomically(
        path,
        f"#!/bin/sh\n# {MARK}, and removed at its end.\n"
        'case "$1" in docker|docker.*|docker-registry*) exit 101 ;; esac\nexit 0\n'.encode(),
    )
    path.chmod(0o755)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


_APT = ["apt-get", "-q", "-y", "-o", f"DPkg::Lock::Timeout={LOCK_SECONDS}",
        "-o", "Acquire::Retries=2", "-o", "Acquire::http::Timeout=20",
        "-o", "Acquire::https::Timeout=20", "-o", "Dpkg::Use-Pty=0",
        "-o", "Dpkg::Options::=--force-confdef",
        "-o", "Dpkg::Options::=--force-confold"]  # fmt: skip
_ENV = {"DEBIAN_FRONTEND": "noninteractive", "NEEDRESTART_SUSPEND": "1", "LC_ALL": "C"}
_SHOWN = re.compile(r"^(Get:|Err:|Need to get|After this|Unpacking|Setting up|Waiting|[EW]: )")


def install(packages: Sequence[str]) -> None:
    """Install packages with apt, without removing or upgrading others.

    An installation that was interrupted earlier is finished first.

    Raises:
        HiggsError: apt failed; its output decides on the class.
    """
    log.info("install-docker: updating the package lists")
    _run(["dpkg", "--configure", "-a"])
    updated = _run([*_APT, "update"])
    if updated.code != 0:
        raise explain(updated.err)
    log.info("install-docker: installing %s", " ".join(packages))
    done = _run(
        [*_APT, "--fix-broken", "--no-install-recommends", "--no-remove", "install", *packages]
    )
    if done.code != 0:
        # `update` succeeds although an archive does not answer: then that is the reason.
        failed = [x for x in updated.err.splitlines() if x.startswith("W: Failed to fetch")]
        raise explain("\n".join([done.err, *failed]))


_LOCKED = re.compile(r"could not get lock|unable to lock|locked by another process", re.IGNORECASE)


def _run(command: Sequence[str]) -> process.Completed:
    """Run apt or dpkg and show its progress; wait while another process holds the lock.

    apt has a timeout for dpkg's frontend lock only.
    """
    last = ""

    def on_line(line: str) -> None:
        nonlocal last
        if line != last and _SHOWN.match(line):
            log.info("install-docker: %s", line)
        last = line

    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        done = process.run(command, env=_ENV, on_line=on_line)
        if done.code == 0 or not _LOCKED.search(done.err) or time.monotonic() > deadline:
            return done
        log.info("install-docker: waiting for another apt or dpkg to end")
        time.sleep(3)


def _line(pattern: str) -> str:
    """Return a pattern for the whole line that contains another pattern."""
    return f"(?P<line>.*(?:{pattern}).*)"


_RULES = (
    Rule(_line("no space left on device|enough free space"), DiskFullError,
         "apt: {line}", "free disk space (apt-get clean), then run again"),
    Rule(_line(f"{_LOCKED.pattern}|unable to acquire the dpkg frontend lock"), BusyError,
         "another apt has held its lock for {seconds} s: {line}",
         "wait for it to end, then run again"),
    *(Rule(_line(pattern), EngineError,
           "apt does not trust the archive: {line}",
           "apt-get install debian-archive-keyring, then run again")
      for pattern in ("no_pubkey", "is not signed|missing key")),
    Rule(_line("temporary failure resolving|could not resolve|could not connect|"
               "connection (?:refused|timed out|failed)|network is unreachable|failed to fetch|"
               "certificate verification failed|unable to connect"), NetworkError,
         "the package archive did not answer: {line}",
         "check the network, and http_proxy or apt's own proxy setting; then run again"),
    Rule(_line("remove is disabled"), EngineError,
         "apt refused because it would have to remove installed packages: {line}",
         "see what conflicts: apt-get --simulate install docker.io; remove it yourself if you do "
         "not need it, then run again"),
    Rule(_line("unable to locate package|candidate|was not found"), ToolMissingError,
         "the package archive does not have it: {line}",
         "use a complete mirror, or install Docker Engine 23 or later with buildx 0.13 and skopeo "
         "1.9.3 by other means"),
    Rule("^(?P<line>E: .*)", EngineError,
         "apt failed: {line}", "fix the reported problem (apt-get check), then run again"),
)  # fmt: skip


def explain(output: str) -> HiggsError:
    """Turn apt's output into an error with a hint."""
    last = (output.strip().splitlines() or ["no output"])[-1]
    return explain_by(_RULES, output, seconds=LOCK_SECONDS) or EngineError(
        f"apt failed: {last}", "see the lines above, then run again"
    )
