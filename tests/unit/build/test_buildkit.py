"""What BuildKit's output becomes. recorded/ holds real output of buildx 0.13 with dockerd 26."""

from __future__ import annotations

from pathlib import Path

import pytest

from higgs_image import process
from higgs_image.build import buildkit
from higgs_image.errors import (
    BuildError,
    DiskFullError,
    EngineError,
    HashMismatchError,
    HiggsError,
    NetworkError,
    RegistryAuthError,
    RegistryNotFoundError,
    RegistryUnavailableError,
)

RECORDED = Path(__file__).parent / "recorded"
LOG = Path("build/logs/build-gzip.log")

# recorded from uv 0.13 and pip 23
UV_MISMATCH = """\
Resolved 1 package in 1ms
error: Failed to download `higgs-tiny==1.0`
  cause: Hash mismatch for `higgs-tiny==1.0`

         Expected:
           sha256:0000000000000000000000000000000000000000000000000000000000000000

         Computed:
           sha256:827b693574f7e38a8b43fccd6ff278eb525bbf2490497eb30eeda31b369eae23"""
PIP_MISMATCH = """\
ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE. If you have updated the \
package versions, please update the hashes. Otherwise, examine the package contents carefully; \
someone may have tampered with them.
    higgs-tiny==1.0 from file:///w/higgs_tiny-1.0-py3-none-any.whl (from -r req.txt (line 1)):
        Expected sha256 0000000000000000000000000000000000000000000000000000000000000000
             Got        827b693574f7e38a8b43fccd6ff278eb525bbf2490497eb30eeda31b369eae23"""
UV_REFUSED = """\
error: Request failed after 3 retries in 6.5s
  cause: Failed to fetch: http://127.0.0.1:9/simple/higgs-tiny/
  cause: error sending request for url (http://127.0.0.1:9/simple/higgs-tiny/)
  cause: client error (Connect)
  cause: tcp connect error
  cause: Connection refused (os error 111)"""
UV_DNS = """\
error: Failed to fetch: http://pypi.invalid/simple/higgs-tiny/
  cause: error sending request for url (http://pypi.invalid/simple/higgs-tiny/)
  cause: client error (Connect)
  cause: dns error
  cause: error resolving DNS
  cause: failed to lookup address information: Name or service not known"""
UV_503 = """\
error: Failed to fetch: http://127.0.0.1:5998/simple/higgs-tiny/
  cause: HTTP status server error (503 Service Unavailable) for url (http://127.0.0.1:5998/simple/)"""
UV_404 = """\
error: No solution found when resolving dependencies
  cause: Because higgs-tiny was not found in the package registry and you require \
higgs-tiny==1.0, we can conclude that your requirements are unsatisfiable."""
PIP_REFUSED = """\
WARNING: Retrying (Retry(total=0, connect=None, read=None, redirect=None, status=None)) after \
connection broken by 'NewConnectionError('<pip._vendor.urllib3.connection.HTTPConnection object>: \
Failed to establish a new connection: [Errno 111] Connection refused')': /simple/higgs-tiny/
ERROR: Could not find a version that satisfies the requirement higgs-tiny==1.0 (from versions: none)
ERROR: No matching distribution found for higgs-tiny==1.0"""


def in_a_step(text: str) -> str:
    """Return text as BuildKit prints it: as the output of a step that fails."""
    what = "RUN . /build/certificates.sh && python3 /build/step.py packages torch"
    lines = text.splitlines()
    failed = f'process "/bin/sh -c {what[4:]}" did not complete successfully: exit code: 1'
    return "\n".join([
        f"#12 [image 4/9] {what}",
        *(f"#12 {1 + i / 1000:.3f} {line}" for i, line in enumerate(lines)),
        f"#12 ERROR: {failed}",
        "------", f" > [image 4/9] {what}:", *(f"1.0 {line}" for line in lines), "------",
        "Dockerfile:40", "--------------------", "  40 | >>> RUN", "--------------------",
        f"ERROR: failed to solve: {failed}",
    ])  # fmt: skip


def resolve(message: str) -> str:
    """Return what BuildKit says when it cannot resolve a base image."""
    return (
        "ERROR: failed to solve: r.example/b:c: failed to resolve source metadata for "
        f"r.example/b:c@sha256:{'401' * 21}4: {message}"
    )


def recorded(name: str) -> str:
    return (RECORDED / f"buildx-{name}.txt").read_text()


CASES: dict[str, tuple[str, type[HiggsError], list[str], str]] = {
    "step fails": (recorded("fail"), BuildError, ["exit code: 7", "    problem"], "whole log"),
    "step fails after another one complained": (
        recorded("earlier"), BuildError, ["the build failed", "exit code: 3"], "whole log",
    ),
    "step fails beside others": (
        recorded("parallel"), BuildError,
        ["packages triton", "exit code: 1\n    Using Python", " triton==3.2.0\n    step.py: "],
        "whole log",
    ),
    "unknown instruction": (recorded("syntax"), BuildError, ["RUNN", "line 2"], "whole log"),
    "missing file": (recorded("copy"), BuildError, ['"/nothing": not found'], "whole log"),
    "full disk in a step": (recorded("nospace"), DiskFullError, ["became full"], "prune"),
    "full disk at the export": (recorded("full"), DiskFullError, ["became full"], "prune"),
    "no such base": (
        recorded("notfound"), RegistryNotFoundError,
        ["does not exist", "127.0.0.1:5000/nothing:here"],
        "--base-image",
    ),
    "base's registry refuses": (
        recorded("refused"), RegistryUnavailableError, ["connection refused"], "run again",
    ),
    "base's registry has no address": (
        recorded("nohost"), RegistryUnavailableError, ["no such host"], "run again",
    ),
    "base needs a login": (
        resolve("pull access denied, repository does not exist or may require authorization: "
                "server message: insufficient_scope: authorization failed"),
        RegistryAuthError, ["cannot be pulled"], "docker login",
    ),
    "base's token is refused": (
        resolve("failed to authorize: failed to fetch oauth token: unexpected status from GET "
                "request to https://auth.example/token: 401 Unauthorized"),
        RegistryAuthError, ["cannot be pulled"], "docker login",
    ),
    "base's registry is ill": (
        resolve("unexpected status from HEAD request to https://r.example/v2/b/manifests/c: "
                "503 Service Unavailable"),
        RegistryUnavailableError, ["503"], "run again",
    ),
    "a digest with the digits 401 is not a login": (
        resolve(f"r.example/b:c@sha256:{'401' * 21}4: not found"),
        RegistryNotFoundError, ["does not exist"], "--base-image",
    ),
    "no engine": (recorded("noengine"), EngineError, ["/run/absent.sock"], "./inv install-docker"),
    "engine ends": (
        "#9 1.2 working\nERROR: failed to receive status: rpc error: code = Unavailable desc = "
        "error reading from server: EOF",
        EngineError, ["stopped during the build"], "./inv install-docker",
    ),
    "apt has no network": (
        recorded("apt"), NetworkError,
        ["Temporary failure resolving 'mirror.example'"], "./inv doctor",
    ),
    "uv: refused": (
        in_a_step(UV_REFUSED), NetworkError, ["Failed to fetch: http://127.0.0.1:9"], "cached",
    ),
    "uv: no address": (in_a_step(UV_DNS), NetworkError, ["http://pypi.invalid"], "cached"),
    "uv: 503": (in_a_step(UV_503), NetworkError, ["Failed to fetch"], "cached"),
    "uv: 404": (in_a_step(UV_404), BuildError, ["higgs-tiny was not found"], "whole log"),
    "pip: refused": (in_a_step(PIP_REFUSED), NetworkError, ["Connection refused"], "cached"),
    "uv: hash": (
        in_a_step(UV_MISMATCH), HashMismatchError, ["higgs-tiny==1.0 is not the file"], "compare",
    ),
    "pip: hash": (
        in_a_step(PIP_MISMATCH), HashMismatchError, ["higgs-tiny==1.0 is not the file"], "compare",
    ),
    "nothing at all": ("", BuildError, ["no output"], "whole log"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_output_becomes_an_error(name: str) -> None:
    output, kind, parts, hint = CASES[name]
    error = buildkit.explain_build(output, LOG)
    assert type(error) is kind, error.message
    for part in parts:
        assert part in error.message
    assert hint in error.hint
    assert len(error.message.splitlines()) <= 14


def test_transient_errors() -> None:
    transient = {
        name for name, case in CASES.items() if buildkit.explain_build(case[0], LOG).transient
    }
    assert transient == {
        "base's registry refuses", "base's registry has no address", "base's registry is ill",
        "apt has no network", "uv: refused", "uv: no address", "uv: 503", "pip: refused",
    }  # fmt: skip


# --- progress


def shown(name: str, **options: bool) -> list[str]:
    progress = buildkit.Progress(**options)
    return [text for line in recorded(name).splitlines() if (text := progress.feed(line))]


def test_progress_of_a_build() -> None:
    assert shown("good") == [
        "[system 2/2] system", "[system 2/2] system: 0.7 s",
        "[tools 1/1] run", "[tools 1/1] run: 0.3 s",
        "[image 1/3] torch", "[image 1/3] torch: 0.8 s",
        "[image 2/3] copy", "[image 2/3] copy: 0.0 s",
        "[image 3/3] workdir", "[image 3/3] workdir: 0.0 s",
        "exporting to oci image format", "exporting layers", "exporting layers: 0.3 s",
    ]  # fmt: skip


def test_progress_of_a_cached_build() -> None:
    lines = shown("cached")
    assert "[image 1/3] torch: cached" in lines
    assert lines[-1] == "exporting layers: 0.1 s"


def test_progress_without_steps() -> None:
    assert all(
        "exporting" in line or "cached" in line for line in shown("cached", show_steps=False)
    )


def test_steps_are_named_by_their_layer() -> None:
    progress = buildkit.Progress()
    line = (
        "#20 [image 7/9] RUN --mount=type=bind,source=build,target=/build "
        "--mount=type=bind,source=layers/code,target=/layer python3 /build/step.py overlay code"
    )
    assert progress.feed(line) == "[image 7/9] code"
    assert progress.feed(line) is None, "BuildKit repeats a step's first line"
    assert progress.feed("#20 0.123 #21 DONE") is None
    assert progress.feed("#2 DONE 0.0s") is None
    assert progress.feed("#20 DONE 12.5s") == "[image 7/9] code: 12.5 s"
    copy = "#21 [image 1/9] COPY --link --from=torch /packages/torch /"
    assert progress.feed(copy) == "[image 1/9] torch"
    for noise in ("", "text", "#20 CANCELED", "#x DONE", "------"):
        assert progress.feed(noise) is None


def test_a_library_that_was_not_cut_is_named() -> None:
    progress = buildkit.Progress()
    assert progress.feed("#13 15.55 device code: torch/lib/a.so 877.2 -> 463.0 MB") is None
    reason = "torch/lib/b.so is left whole: unknown format at 0x10: kind 3"
    assert progress.feed(f"#13 15.55 device code: {reason}") == reason


# --- a build that BuildKit drops

DOCKER = """\
#!/bin/sh
for x; do [ "$before" = --metadata-file ] && file=$x; before=$x; done
echo run >> "$0.runs"
if [ "$(wc -l < "$0.runs")" -gt {failures} ]; then
    echo '{{"containerimage.digest": "sha256:1"}}' > "$file" && exit
fi
echo "ERROR: failed to solve: {reason}"
exit 1
"""


LOST = [
    "Canceled: context canceled",
    "no active sessions",
    'Unavailable: Unavailable: connection error: desc = "transport: Error while dialing: only one '
    'connection allowed"',
    "failed to commit b5l to 5xw during finalize: failed to stat active key during commit: "
    "snapshot b5l does not exist: not found",
]


@pytest.mark.parametrize("failures", [1, 2])
@pytest.mark.parametrize("reason", LOST)
def test_a_build_that_buildkit_drops_is_run_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failures: int, reason: str
) -> None:
    docker = tmp_path / "docker"
    docker.write_text(DOCKER.format(failures=failures, reason=reason.replace('"', "")))
    docker.chmod(0o755)
    monkeypatch.setattr(process, "find", lambda name: str(tmp_path / name))
    monkeypatch.setattr(buildkit, "builder", lambda: "")

    def build() -> str:
        return buildkit.build([], tmp_path, tmp_path / "log", tmp_path / "metadata")

    if failures == 1:
        assert build() == "sha256:1"
    else:
        with pytest.raises(BuildError, match=reason.split(":")[0]):
            build()
    assert (tmp_path / "docker.runs").read_text() == "run\n" * 2
