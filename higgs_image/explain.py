"""From a tool's message to an error of ours: one table per tool, one matcher for all."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from higgs_image.errors import HiggsError


@dataclass(frozen=True)
class Rule:
    """What a message means.

    Attributes:
        pattern: regular expression, searched for without regard to case.
        error: class of the error.
        message: what failed; {name} stands for a named group or a value of the caller.
        hint: what to do now, with the same names.
    """

    pattern: str
    error: type[HiggsError]
    message: str
    hint: str


def explain(rules: Iterable[Rule], text: str, **values: object) -> HiggsError | None:
    """Return the error of the first rule that fits a tool's output; None if none does.

    Args:
        rules: in order; the first match counts.
        text: the output.
        values: what messages and hints may name.
    """
    for rule in rules:
        if found := re.search(rule.pattern, text, re.IGNORECASE | re.MULTILINE):
            names = values | {k: (v or "").strip() for k, v in found.groupdict().items()}
            return rule.error(rule.message.format(**names), rule.hint.format(**names))
    return None
