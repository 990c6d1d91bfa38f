"""The matcher from a tool's message to an error."""

from __future__ import annotations

from higgs_image.errors import DiskFullError, RegistryAuthError
from higgs_image.explain import Rule, explain

RULES = (
    Rule("no space left", DiskFullError, "{tool}: the disk is full", "free some"),
    Rule(r"denied: (?P<what>.*)$", RegistryAuthError, "refused: {what}", "log in to {host}"),
)


def test_first_match_gives_the_error() -> None:
    error = explain(RULES, "x\nDENIED: you\nmore", host="ghcr.io", tool="skopeo")
    assert isinstance(error, RegistryAuthError)
    assert (error.message, error.hint) == ("refused: you", "log in to ghcr.io")


def test_values_of_the_caller_are_filled_in() -> None:
    error = explain(RULES, "write: No space left on device, denied: x", host="h", tool="skopeo")
    assert isinstance(error, DiskFullError)
    assert error.message == "skopeo: the disk is full"


def test_braces_in_the_output_are_kept() -> None:
    error = explain(RULES, "denied: {host}", host="h", tool="t")
    assert error is not None
    assert error.message == "refused: {host}"


def test_unknown_output_gives_none() -> None:
    assert explain(RULES, "all is well", host="h", tool="t") is None
