"""The state of the server, as clients are told."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum


class Phase(Enum):
    """Phases of a container, in order."""

    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    ENDED = "ended"


class ServerState:
    """What the server is doing.

    Attributes:
        phase: the current phase.
        activity: what happens while it loads, for a person.
        healthy: asks a server that is ready whether it still works.
    """

    def __init__(self, phase: Phase = Phase.LOADING) -> None:
        self.phase = phase
        self.activity = "starting"
        self.healthy: Callable[[], bool] = lambda: True

    def report(self, activity: str) -> None:
        """Set what happens now."""
        self.activity = activity
