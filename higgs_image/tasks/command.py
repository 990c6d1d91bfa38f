"""How a task becomes a command: its values are checked first, and usage errors exit with 2."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from typing import Any, cast

import invoke.main
import invoke.tasks
from invoke.context import Context
from invoke.exceptions import Exit, ParseError
from invoke.parser.argument import Argument
from invoke.program import Program

from higgs_image.errors import UsageError
from higgs_image.tasks.output import output
from higgs_image.tasks.values import VALUES, Value

Body = Callable[..., None]


def task(*, values: Mapping[str, Value] | None = None, **options: Any) -> Callable[[Body], Task]:
    """Turn a function into a task whose values are checked before it runs.

    Args:
        values: what parameters accept that mean something else here than in VALUES.
        options: as invoke.task takes them.
    """

    def decorate(body: Body) -> Task:
        made = cast(Task, invoke.tasks.task(body, klass=Task, **options))
        made.values = {**VALUES, **(values or {})}
        return made

    return decorate


class Task(invoke.tasks.Task[Body]):
    """A task that checks every value, from flags and settings, before its body runs."""

    values: Mapping[str, Value]

    def get_arguments(self, ignore_unknown_help: bool | None = None) -> list[Argument]:
        """Return the arguments for Invoke's parser; numbers stay text until they are checked."""
        arguments: list[Argument] = super().get_arguments(ignore_unknown_help)
        for argument in arguments:
            argument.kind = str if argument.kind is int else argument.kind
            argument.names = tuple(x for x in argument.names if x != "-")  # of an underscore
        return arguments

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Check the values, then run the body with what they mean."""
        signature = inspect.signature(self.body)
        bound = signature.bind(*args, **kwargs)
        context, *names = signature.parameters
        with output(json=bound.arguments.get("json") is True):
            for name in names:
                default = signature.parameters[name].default
                given = bound.arguments.get(name)
                value = self._checked(bound.arguments[context], name, given, default)
                if value is not None:
                    bound.arguments[name] = value
                elif default is not inspect.Parameter.empty:
                    bound.arguments[name] = default
        return super().__call__(*bound.args, **bound.kwargs)

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
        if len(words) > 1 and words[1] in ("--help", "-h") and words[0] in self._task_names():
            # Else a task with a positional argument would take it for that one's value.
            self.args["help"].value, self.core.unparsed = words[0], []
        try:
            super().parse_tasks()
        except ParseError as error:
            hint = "./inv --list shows the tasks, ./inv --help TASK its flags"
            raise Exit(f"error: {error}\n  hint: {hint}", UsageError.exit_code) from None

    def _task_names(self) -> set[str]:
        known: Mapping[str, list[str]] = self.collection.task_names
        return {*known, *(alias for aliases in known.values() for alias in aliases)}


def install() -> None:
    """Let the program that is reading this collection end as CheckedProgram does."""
    invoke.main.program.__class__ = CheckedProgram
