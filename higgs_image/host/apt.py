"""Debian's package manager: this machine's own archive, installing from it, and apt's errors."""

from __future__ import annotations

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
from higgs_image.files import write_atomically

log = logging.getLogger(__name__)

OLD, NEW = "bookworm", "trixie"
"""Debian 12, whose own Docker is too old, and Debian 13, whose Docker runs on it unchanged."""

SOURCES_FILE = Path("/etc/apt/sources.list.d/higgs-image-trixie.sources")
PIN_FILE = Path("/etc/apt/preferences.d/higgs-image-trixie")
POLICY_FILE = Path("/usr/sbin/policy-rc.d")

LOCK_SECONDS = 300
"""How long another apt may hold its lock."""

MARK = "Written by ./inv engine"


@dataclass(frozen=True)
class AptSource:
    """One entry of apt's sources, in either of the two formats.

    Attributes:
        uris: where the archive is; cdroms are left out.
        suites: such as bookworm, bookworm-updates.
        components: such as main.
        options: what decides whether apt trusts it, by deb822 name; an inline key keeps its lines.
    """

    uris: tuple[str, ...]
    suites: tuple[str, ...]
    components: tuple[str, ...]
    options: dict[str, str] = field(default_factory=dict)


# Options that must be carried over to reach the same archive in the same way.
_TRUST = {
    name.lower(): name
    for name in ("Signed-By", "Trusted", "Check-Valid-Until", "Check-Date", "Allow-Insecure")
}


def parse_deb822(text: str) -> list[AptSource]:
    """Read a `.sources` file; entries that are disabled or for source packages are left out."""
    found = []
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    for stanza in re.split(r"\n(?:[ \t]*\n)+", "\n".join(lines)):
        fields: dict[str, str] = {}
        name = ""
        for line in stanza.splitlines():
            if line[:1] in (" ", "\t") and name:
                fields[name] += "\n" + line.rstrip()
            elif ":" in line:
                name, _, value = line.partition(":")
                name = name.strip().lower()
                fields[name] = value.strip()
        uris = tuple(x for x in fields.get("uris", "").split() if not x.startswith("cdrom:"))
        enabled = fields.get("enabled", "yes").lower() not in ("no", "false", "off", "0")
        if uris and enabled and "deb" in fields.get("types", "").split():
            options = {_TRUST[key]: value for key, value in fields.items() if key in _TRUST}
            suites, components = fields.get("suites", ""), fields.get("components", "")
            found.append(AptSource(uris, tuple(suites.split()), tuple(components.split()), options))
    return found


_ONE_LINE = re.compile(r"^deb\s+(?:\[(?P<options>[^\]]*)\]\s+)?(?P<rest>\S.*)$")


def parse_list(text: str) -> list[AptSource]:
    """Read a classic `sources.list`; cdroms and source packages are left out."""
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
    """Return the source through which this machine reaches a Debian release itself.

    Others may use the same suite name: the archive is the one whose key, updates or address say
    Debian; without any such sign, the first.
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
    """Return the deb822 file by which apt finds Debian 13 in the same archive."""
    options = "".join(f"{key}: {value}\n" for key, value in own.options.items())
    return (
        f"# {MARK}: Docker for Debian 12 comes from Debian 13.\n"
        f"Types: deb\nURIs: {' '.join(own.uris)}\nSuites: {NEW}\nComponents: main\n{options}"
    )


PIN = (
    f"Explanation: {MARK}: nothing is taken from Debian 13 unless it is asked for.\n"
    f"Package: *\nPin: release n={NEW}\nPin-Priority: 100\n"
)


@contextmanager
def services_held(path: Path = POLICY_FILE) -> Iterator[None]:
    """Keep packages from starting Docker (not configured yet) or a registry on port 5000.

    policy-rc.d is how Debian's packages ask; one that is there already is left as it is.
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
    """Install packages with apt; nothing is removed, and nothing else is upgraded.

    What an earlier run that was killed left half-installed is finished first.

    Raises:
        HiggsError: classified from apt's output.
    """
    log.info("engine: asking the package archive")
    _patiently(["dpkg", "--configure", "-a"])
    updated = _patiently([*_APT, "update"])
    if updated.code != 0:
        raise explain(updated.err)
    log.info("engine: installing %s", " ".join(packages))
    done = _patiently(
        [*_APT, "--fix-broken", "--no-install-recommends", "--no-remove", "install", *packages]
    )
    if done.code != 0:
        # `update` ends well although an archive is away: then that is the reason.
        away = [x for x in updated.err.splitlines() if x.startswith("W: Failed to fetch")]
        raise explain("\n".join([done.err, *away]))


_LOCKED = re.compile(r"could not get lock|unable to lock|locked by another process", re.IGNORECASE)


def _patiently(command: Sequence[str]) -> process.Completed:
    """Run apt or dpkg with its progress shown; wait while another one holds the lock.

    Only dpkg's frontend lock has a timeout of apt's own; the lists and dpkg itself have none.
    """
    last = ""

    def on_line(line: str) -> None:
        nonlocal last
        if line != last and _SHOWN.match(line):
            log.info("engine: %s", line)
        last = line

    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        done = process.run(command, env=_ENV, on_line=on_line)
        if done.code == 0 or not _LOCKED.search(done.err) or time.monotonic() > deadline:
            return done
        log.info("engine: another apt or dpkg is running, waiting for it to end")
        time.sleep(3)


def explain(output: str) -> HiggsError:
    """Turn apt's output into the error that says what to do."""
    lines = [x for x in output.splitlines() if x.startswith(("E: ", "W: ", "Err:"))]
    lower = output.lower()

    def saying(pattern: str) -> str:
        found = [x for x in lines if re.search(pattern, x.lower())]
        return (found or lines or output.strip().splitlines() or ["no output"])[-1]

    if "no space left on device" in lower or "enough free space" in lower:
        return DiskFullError(
            f"apt: {saying('space')}", "free disk space (apt-get clean), then run again"
        )
    if _LOCKED.search(output) or "unable to acquire the dpkg frontend lock" in lower:
        return BusyError(
            f"another apt has held its lock for {LOCK_SECONDS} s: {saying('lock')}",
            "wait for it to end, then run again",
        )
    if "no_pubkey" in lower or "is not signed" in lower or "missing key" in lower:
        return EngineError(
            f"apt does not trust the archive: {saying('pubkey|signed|key')}",
            "apt-get install debian-archive-keyring, then run again",
        )
    if re.search(
        r"temporary failure resolving|could not resolve|could not connect|connection (refused|timed"
        r" out|failed)|network is unreachable|failed to fetch|certificate verification failed"
        r"|unable to connect",
        lower,
    ):
        return NetworkError(
            f"the package archive did not answer: {saying('fetch|resolv|connect|certificate')}",
            "check the network, and http_proxy or apt's own proxy setting; then run again",
        )
    if "remove is disabled" in lower:
        return EngineError(
            "apt would have to remove installed packages, and was kept from it: "
            f"{saying('remove')}",
            "see what conflicts with: apt-get --simulate install docker.io; remove it yourself if "
            "you can do without it, then run again",
        )
    if "unable to locate package" in lower or re.search(r"(candidate|was not found)", lower):
        return ToolMissingError(
            f"the package archive does not have it: {saying('locate|candidate|not found')}",
            "use a mirror that is complete, or install Docker Engine 23 or later with buildx 0.13 "
            "and skopeo 1.9.3 by other means",
        )
    return EngineError(
        f"apt failed: {saying('^e: ')}", "correct what it names (apt-get check), then run again"
    )
