"""What counts as good enough for a listener, and for a level."""

from __future__ import annotations

import msgspec

from higgs_image.bench.measured import RequestResult
from higgs_image.errors import UsageError


class Slo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Limits of a service.

    Attributes:
        first: seconds within which 95 % of the listeners hear the first sound.
        smooth: share of the listeners who hear no gap.
        failed: share of the requests that may fail.
    """

    first: float = 1.0
    smooth: float = 0.99
    failed: float = 0.01

    def text(self) -> str:
        """Return it as a person reads it."""
        return (
            f"p95 first sound {self.first:g} s, no underrun in {100 * self.smooth:g} %, "
            f"at most {100 * self.failed:g} % failures"
        )

    def is_good(self, request: RequestResult) -> bool:
        """Tell whether one listener was served well."""
        return (
            request.failure is None
            and request.first_sound_s <= self.first
            and not request.underruns
        )

    def violation(self, first_p95_s: float, smooth: float, failed: float) -> str:
        """Return what a level violates; empty if it keeps the SLO.

        Args:
            first_p95_s: 95th percentile of the time to the first sound.
            smooth: share of the listeners who heard no gap.
            failed: share of the requests that failed.
        """
        found = []
        if failed > self.failed:
            found.append(f"{100 * failed:.1f} % of the requests failed")
        if first_p95_s > self.first:
            found.append(f"the p95 of the first sound is {first_p95_s:.2f} s")
        if smooth < self.smooth:
            found.append(f"{100 * (1 - smooth):.1f} % of the listeners hear a gap")
        return ", ".join(found)


def parse(text: str) -> Slo:
    """Read an SLO such as `first=0.5,smooth=0.99,failed=0`.

    Raises:
        UsageError: a name is unknown or a value out of range.
    """
    values: dict[str, float] = {}
    hint = "such as --slo first=0.5,smooth=0.99,failed=0.01"
    for part in filter(None, (x.strip() for x in text.split(","))):
        name, _, value = part.partition("=")
        try:
            number = float(value)
        except ValueError:
            number = -1.0
        if name not in Slo.__struct_fields__:
            known = ", ".join(Slo.__struct_fields__)
            raise UsageError(f"--slo: unknown limit {name!r}; available: {known}", hint)
        if not (0 < number <= 600 if name == "first" else 0 <= number <= 1):
            expected = "seconds" if name == "first" else "a share from 0 to 1"
            raise UsageError(f"--slo {name}: expected {expected}, got {value!r}", hint)
        values[name] = number
    return Slo(**values)
