"""The result of the demonstration, and what it proves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from higgs_image.build import pipeline
from higgs_image.lockfile import Lock
from higgs_image.smoke.checks import START
from higgs_image.smoke.device import FAKE_FORK
from higgs_image.smoke.record import Measured


@dataclass(frozen=True)
class DemoResult:
    """Result of the demonstration.

    Attributes:
        digest: of the image that was built, pushed, pulled and run.
        reference: name by which the engine pulled it.
        built: report of the pipeline.
        skipped: nothing had changed, so nothing was built.
        audio: WAV file that the server answered.
        audio_seconds: its length.
        health_seconds: from the container's start to the first answer.
        registry: command that starts the local registry again, with the pushed image.
        notes: facts about this machine.
        seconds: duration of each part.
        proved: what was shown to work.
        unproved: what only the real fork can show.
    """

    digest: str
    reference: str
    built: pipeline.BuildReport
    skipped: bool
    audio: Path
    audio_seconds: float
    health_seconds: float
    registry: str
    notes: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    proved: list[str] = field(default_factory=list)
    unproved: list[str] = field(default_factory=list)

    def text(self) -> str:
        """Return the result as text."""
        total = sum(self.seconds.values())
        parts = ", ".join(f"{name} {value:.1f}" for name, value in self.seconds.items())
        variables = " ".join(f"-e {name}={value}" for name, value in FAKE_FORK.items())
        return "\n".join([
            self.built.text(),
            f"audio   {self.audio} ({self.audio_seconds:.2f} s)",
            f"time    {total:.0f} s ({parts})",
            "",
            "proved:",
            *(f"  - {line}" for line in self.proved),
            "only the real fork would prove:",
            *(f"  - {line}" for line in self.unproved),
            *(["notes:", *(f"  - {line}" for line in self.notes)] if self.notes else []),
            "",
            f"start it:      docker run --rm --publish 127.0.0.1:8000:8000 {variables} "
            f"{self.reference}",
            f"its registry:  {self.registry}",
            "real image:    ./inv build (see README.md)",
        ])  # fmt: skip


def proved(
    locked: Lock, report: pipeline.BuildReport, figures: Mapping[str, Measured]
) -> list[str]:
    """Return what a finished demonstration has shown to work, one line each."""
    return [
        f"git: fork {locked.fork.commit[:7]} and submodule {locked.submodule.commit[:7]} are what "
        f"the lock says, and no kernel changed against {locked.vllm.ref}",
        f"build: {len(report.layers)} layers within their budgets"
        + (", unchanged since the last run" if report.skipped else ""),
        "image: the wheel with the fork's Python over it, packages and submodule (the server "
        "imports one of each before it is healthy)",
        "push: pushed, read back, and pulled by the one digest that was built",
        f"run: healthy after {figures[START]['health_s']} s with the image's own entrypoint, "
        f"{figures['speech-wav']['audio_s']} s of valid WAV, and a clean end on SIGTERM in "
        f"{figures['stop']['stop_s']} s",
    ]
