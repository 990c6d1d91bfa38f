"""Whether an image is slower than the last release, by the benchmarks in their smoke records."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from higgs_image.release.policy import Refusal
from higgs_image.smoke.record import Measured, Record
from higgs_image.verdict import Verdict

CHECK = "bench"

FIGURES = {"audio_per_s": True, "first_sound_p95_s": False}
"""Those that are compared; whether more is better."""


def last_bench(smokes: Sequence[Record]) -> tuple[str, Measured] | None:
    """Return the card and the figures of the last benchmark on a GPU; None if there is none."""
    for record in reversed(smokes):
        for check in record.checks:
            measured = check.name == CHECK and check.verdict is Verdict.PASS and check.measured
            if measured and record.device.kind == "gpu":
                return record.device.name, measured
    return None


def refusals(now: Sequence[Record], before: Sequence[Record], share: float) -> Iterator[Refusal]:
    """Yield what stands against an image that must not be slower than the last release.

    Args:
        now: its smoke records, oldest first.
        before: those of the last release; empty if there is none.
        share: by which a figure may be worse.
    """
    again = "test it on the card of the last release: ./inv smoke-pushed DIGEST --bench"
    new, old = last_bench(now), last_bench(before)
    if new is None:
        yield Refusal("no benchmark on a GPU is recorded for it", again)
    elif before and old is None:
        yield Refusal("no benchmark on a GPU is recorded for the last release",
                      again.replace("it on the card of ", ""))  # fmt: skip
    if new is None or old is None:
        return
    (card, measured), (old_card, old_measured) = new, old
    if (card, measured.get("at_once")) != (old_card, old_measured.get("at_once")):
        yield Refusal(
            f"its benchmark ran on {card} with {measured.get('at_once')} at once, that of the "
            f"last release on {old_card} with {old_measured.get('at_once')}",
            again,
        )
        return
    for name, more_is_better in FIGURES.items():
        value, former = float(measured[name]), float(old_measured[name])
        worse = (
            (former / value if more_is_better else value / former) - 1 if value and former else 0
        )
        if worse > share:
            words = (
                f"its {name} is {value:g}, {100 * worse:.0f} % worse than {former:g} of the last"
            )
            yield Refusal(f"{words} release; {100 * share:g} % is allowed", again)
