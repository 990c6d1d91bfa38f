"""How a request can fail: a failure is counted by its class and is never a latency."""

from __future__ import annotations

from enum import StrEnum


class Failure(StrEnum):
    """Why an answer is of no use to a listener."""

    REFUSED = "refused"
    """No connection, or an error status."""
    TIMED_OUT = "timed out"
    """The answer was not whole in time."""
    CUT = "cut"
    """The connection broke before the end of the answer."""
    WRONG_FORMAT = "wrong format"
    """The body is not sound of the format that was asked for."""
    SILENT = "silent"
    """Nothing can be heard."""
    TOO_SHORT = "too short"
    """The sound is far shorter than its text takes to speak."""


class FailedAnswerError(Exception):
    """An answer failed.

    Args:
        failure: its class.
        detail: what arrived, in one line.
    """

    def __init__(self, failure: Failure, detail: str) -> None:
        super().__init__(detail)
        self.failure = failure
        self.detail = detail
