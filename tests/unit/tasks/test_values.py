"""Every value of every task is checked before the task does anything."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from invoke.collection import Collection
from invoke.context import Context
from invoke.parser.argument import Argument

from higgs_image.tasks import namespace
from higgs_image.tasks.command import CheckedProgram, Task, task
from higgs_image.tasks.output import Output
from higgs_image.tasks.values import VALUES, whole_number
from higgs_image.workspace import PROJECT

UNDECODABLE = os.fsdecode(b"caf\xe9")
TASKS: dict[str, Task] = dict(namespace.tasks.items())
VALUED = {
    name: [x for x in task.get_arguments(ignore_unknown_help=True) if x.takes_value]
    for name, task in TASKS.items()
}
NUMBERS = ("keep", "last", "min_age", "port", "tail")
POSITIONAL = {
    "bench": "url", "promote": "digest", "smoke-pushed": "digest", "verify": "image",
    "pod-smoke": "digest",    "pod-logs": "pod", "pod-down": "pod",
}  # fmt: skip


def bad_values() -> list[tuple[str, str, str]]:
    """Return each task with each of its flags that take a value, and what the flag cannot take."""
    found = []
    for name, arguments in VALUED.items():
        for argument in arguments:
            values = ["a\nb", "\x1b[31m", UNDECODABLE]
            if argument.name in NUMBERS:
                values += ["abc", "-3", "1.5", "", "9" * 30]
            elif argument.default not in (None, "") or argument.kind is list:
                values += [""]
            found += [(name, str(argument.name), value) for value in values]
    return found


Run = Callable[..., int]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return a function that runs a command line whose task fails the test if it is entered."""

    def start(*words: str, tasks: Collection = namespace) -> int:
        for each in tasks.tasks.values():

            @functools.wraps(each.body)
            def entered(*_: Any, **__: Any) -> None:
                pytest.fail("the task was entered")

            monkeypatch.setattr(each, "body", entered)
        with pytest.raises(SystemExit) as ended:
            CheckedProgram(namespace=tasks, name="inv").run(["inv", *words])
        assert isinstance(ended.value.code, int)
        return ended.value.code

    return start


def flag_of(argument: Argument | str) -> str:
    name = argument if isinstance(argument, str) else argument.name
    return f"--{str(name).replace('_', '-')}"


def test_every_flag_with_a_value_has_a_check() -> None:
    for name, arguments in VALUED.items():
        for argument in arguments:
            key = str(argument.attr_name or argument.name)
            assert key.replace("-", "_") in TASKS[name].values, f"{name} {flag_of(argument)}"
    used = {str(x.attr_name or x.name).replace("-", "_") for y in VALUED.values() for x in y}
    assert set(VALUES) <= used, "no task has such a flag"


@pytest.mark.parametrize(("name", "parameter", "value"), bad_values())
def test_bad_value_is_refused_before_the_task_starts(
    name: str, parameter: str, value: str, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    flag = flag_of(parameter)
    words = ["v1"] if POSITIONAL.get(name, parameter) != parameter else []
    alone = Collection(TASKS[name])  # Invoke's parser copies all tasks for each command line
    assert run(name, *words, f"{flag}={value}", tasks=alone) == 2
    shown = capsys.readouterr().err
    assert shown.startswith(f"error: {flag}: expected ")
    assert f"got {value!r}\n  hint: " in shown


@pytest.mark.parametrize(
    "words",
    [
        ["no-such-task"],
        ["build", "--no-such-flag"],
        ["build", "--compression"],
        ["build", "--push=yes"],
        ["promote"],
        ["build", UNDECODABLE],
        ["--no-such-flag"],
    ],
)
def test_unknown_words_are_usage_errors(
    words: list[str], run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*words) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("error: ") and "  hint: ./inv --list" in shown


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("IMAGE_NAME", "my image"),
        ("REGISTRY", "https://ghcr.io/x"),
        ("COMPRESSION", "lzma"),
        ("BASE_IMAGE", "debian bookworm"),
        ("EXTRA_CA", "/no/such/file"),
        ("IMAGE_NAME", UNDECODABLE),
    ],
)
def test_settings_are_checked_too(
    variable: str,
    value: str,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(variable, value)
    assert run("build", "--push") == 2
    assert f"error: {variable}: expected " in capsys.readouterr().err


def real_command(*words: str | bytes) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "invoke", "--search-root", PROJECT, *words]
    return subprocess.run(command, capture_output=True)


def test_refused_by_the_real_command() -> None:
    """In a process of its own: the exit code, no traceback, and nothing on standard output."""
    for words in (["cleanup", "--keep", "abc"], ["start", b"--name=caf\xe9"], ["nonsense"]):
        done = real_command(*words)
        assert (done.returncode, done.stdout) == (2, b"")
        assert b"error: " in done.stderr and b"Traceback" not in done.stderr


def test_numbers_arrive_as_numbers() -> None:
    assert whole_number(0).parse("007", "--last") == 7


@pytest.mark.parametrize("flag", ["--help", "-h"])
@pytest.mark.parametrize("name", ["promote", "verify", "smoke-pushed", "record", "build"])
def test_help_behind_a_task_is_shown(
    name: str, flag: str, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where the task has a positional argument, whose value it would be for Invoke."""
    assert run(name, flag) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("Usage: ") and "Docstring:" in shown


def test_help_is_shown_by_the_real_command() -> None:
    done = real_command("promote", "--help")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"Usage: ") and b"Docstring:" in done.stdout


def test_short_flags_are_letters() -> None:
    names = [
        x for task in TASKS.values() for argument in task.get_arguments() for x in argument.names
    ]
    assert [x for x in names if len(x) == 1 and not x.isalpha()] == []


# --- the output's reader has ended


@task()
def speaks(_: Context, out: Output) -> None:
    out.result({}, "spoken")


@task()
def loses(_: Context) -> None:
    raise BrokenPipeError("of a connection")


PRINTING = Collection(speaks, loses)


@pytest.mark.parametrize(
    "words", [["speaks"], ["speaks", "--json"], ["speaks", "--help"], ["--list"]]
)
@pytest.mark.parametrize("buffering", [1, -1])
def test_a_reader_that_ends_is_no_error(
    monkeypatch: pytest.MonkeyPatch, words: list[str], buffering: int
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w", buffering) as closed, pytest.raises(SystemExit) as ended:
        monkeypatch.setattr(sys, "stdout", closed)
        CheckedProgram(namespace=PRINTING, name="inv").run(["inv", *words])
    assert ended.value.code == 141


def test_another_broken_pipe_is_an_error() -> None:
    with pytest.raises(BrokenPipeError, match="of a connection"):
        CheckedProgram(namespace=PRINTING, name="inv").run(["inv", "loses"])
