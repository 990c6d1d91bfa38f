"""How a task becomes a command: its values are checked first, and usage errors exit with 2."""

from __future__ import annotations

import inspect
import os
import select
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any, ClassVar, cast

import invoke.main
import invoke.tasks
from invoke.context import Context
from invoke.exceptions import Exit, ParseError
from invoke.parser.argument import Argument
from invoke.program import Program

from higgs_image.errors import UsageError
from higgs_image.tasks.output import JSON_HELP, Output, output
from higgs_image.tasks.values import VALUES, Value

Body = Callable[..., None]


@dataclass(frozen=True)
class FlagGroup:
    """Flags that several tasks share: one for each field of a subclass.

    A task has them by a parameter whose default is an instance.

    Attributes:
        HELP: name of the field to the help of the flag.
    """

    HELP: ClassVar[Mapping[str, str]] = {}


def task(*, values: Mapping[str, Value] | None = None, **options: Any) -> Callable[[Body], Task]:
    """Turn a function into a task whose values are checked before it runs.

    A parameter of the type `Output` is where the task puts its result. It gives the task the flag
    --json, unless a parameter of that name stands for something else.

    Args:
        values: what parameters accept that mean something else here than in VALUES.
        options: as invoke.task takes them.
    """

    def decorate(body: Body) -> Task:
        made = cast(Task, invoke.tasks.task(body, klass=Task, **options))
        made.values = {**VALUES, **(values or {})}
        for parameter in inspect.signature(body).parameters.values():
            if isinstance(parameter.default, FlagGroup):
                made.help = {**parameter.default.HELP, **made.help}
        if "json" in made.argspec(body).parameters:
            made.help.setdefault("json", JSON_HELP)
        return made

    return decorate


def _is_output(parameter: inspect.Parameter) -> bool:
    return parameter.annotation in (Output, Output.__name__)


class Task(invoke.tasks.Task[Body]):
    """A task that checks every value, from flags and settings, before its body runs."""

    values: Mapping[str, Value]

    def argspec(self, body: Body) -> inspect.Signature:
        """Return the flags: those of a group in its place, and --json for an `Output`."""
        flags: dict[str, inspect.Parameter] = {}
        signature = super().argspec(body)
        for parameter in signature.parameters.values():
            if isinstance(parameter.default, FlagGroup):
                for x in fields(parameter.default):
                    flags[x.name] = parameter.replace(name=x.name, default=x.default)
            elif not _is_output(parameter):
                flags[parameter.name] = parameter
        if any(map(_is_output, signature.parameters.values())):
            kind = inspect.Parameter.KEYWORD_ONLY
            flags.setdefault("json", inspect.Parameter("json", kind, default=False))
        return signature.replace(parameters=list(flags.values()))

    def get_arguments(self, ignore_unknown_help: bool | None = None) -> list[Argument]:
        """Return the arguments for Invoke's parser; values stay text until they are checked."""
        arguments: list[Argument] = super().get_arguments(ignore_unknown_help)
        for argument in arguments:
            argument.kind = str if argument.kind in (int, float) else argument.kind
            argument.names = tuple(x for x in argument.names if x != "-")  # of an underscore
        return arguments

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Check the values, then run the body with what they mean."""
        context, *given = args
        signature = self.argspec(self.body)
        flags: dict[str, Any] = signature.bind(*given, **kwargs).arguments
        with output(json=flags.get("json") is True) as out:
            for name, parameter in signature.parameters.items():
                value = self._checked(context, name, flags.get(name), parameter.default)
                if value is not None:
                    flags[name] = value
                elif parameter.default is not inspect.Parameter.empty:
                    flags[name] = parameter.default
            return super().__call__(context, **self._for_body(flags, out))

    def _for_body(self, flags: dict[str, Any], out: Output) -> dict[str, Any]:
        """Return what the body takes: groups of flags as one value, and the output."""
        parameters = inspect.signature(self.body).parameters
        for name, parameter in parameters.items():
            if isinstance(group := parameter.default, FlagGroup):
                flags[name] = type(group)(**{x.name: flags.pop(x.name) for x in fields(group)})
            elif _is_output(parameter):
                flags[name] = out
        return {name: value for name, value in flags.items() if name in parameters}

    def _checked(self, context: Context, name: str, given: Any, default: Any) -> Any:
        """Return the value of a parameter; None if nothing gives it one."""
        known = self.values.get(name)
        if known is None or isinstance(given, bool):
            return given
        flag, hint = f"--{name.replace('_', '-')}", f"./inv --help {self.name}"
        if isinstance(given, list | tuple):
            return [known.parse(str(x), flag, hint) for x in given]
        if known.setting and not given:
            variable = known.setting.upper()
            for source, found in (
                (variable, os.environ.get(variable)),
                (f"{known.setting} in invoke.yaml", context.get(known.setting)),
            ):
                if found:
                    return known.parse(str(found), source, hint)
        if given in (None, default) or (given == "" and (known.blank or known.setting)):
            return None
        return known.parse(str(given), flag, hint)


class CheckedProgram(Program):
    """Invoke's program, with the exit code of a usage error for what it cannot parse."""

    def parse_tasks(self) -> None:
        """Parse the tasks and their flags."""
        words = self.core.unparsed
        if len(words) > 1 and words[1] in ("--help", "-h") and words[0] in self.collection:
            # Else a task with a positional argument would take it for that one's value.
            self.args["help"].value, self.core.unparsed = words[0], []
        try:
            super().parse_tasks()
        except ParseError as error:
            hint = "./inv --list shows the tasks, ./inv --help TASK its flags"
            raise Exit(f"error: {error}\n  hint: {hint}", UsageError.exit_code) from None

    def parse_cleanup(self) -> None:
        """Print lists and help, if that is what was asked for."""
        with _end_with_the_reader():
            super().parse_cleanup()

    def execute(self) -> None:
        """Run the tasks."""
        with _end_with_the_reader():
            super().execute()


@contextmanager
def _end_with_the_reader() -> Iterator[None]:
    """End without a traceback once nothing reads the output any more, as in `./inv --list | head`.

    Raises:
        Exit: with the code that a shell gives a program that SIGPIPE ended.
    """
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        poll = select.poll()
        poll.register(sys.stdout, 0)
        if not poll.poll(0):  # it was another pipe or connection
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise Exit(code=128 + signal.SIGPIPE) from None


def install() -> None:
    """Let the program that is reading this collection end as CheckedProgram does."""
    invoke.main.program.__class__ = CheckedProgram
