"""What a benchmark does: the values of its flags, checked."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from higgs_image.bench import workload
from higgs_image.bench.load import Load
from higgs_image.bench.player import BUFFER_SECONDS
from higgs_image.bench.server_facts import ServerFacts
from higgs_image.bench.slo import Slo
from higgs_image.bench.target import Target
from higgs_image.bench.workload import SIZES, Reference, Spoken, VoiceMix, Workload
from higgs_image.errors import UsageError

DEFAULT_VOICE = "belinda"


@dataclass(frozen=True)
class BenchOptions:
    """What a benchmark does.

    Attributes:
        target: the server.
        loads: levels, in the order in which they are run.
        find: search for the most listeners at which the SLO holds.
        most: listeners that the search tries at most.
        slo: what counts as good.
        warmup_s: seconds of each round that do not count.
        seconds: measured time of each round; 0: `count` decides.
        count: requests of each round; 0: `seconds` decides.
        rounds: measurements at each load.
        seed: of texts, voices and arrivals.
        texts: what is spoken.
        voices: one, many, or cloned.
        voice: name of the one voice.
        reference: recording for cloned voices.
        buffer_s: sound that the simulated player buffers.
        timeout_s: seconds until an answer has to be whole.
        records: keep every request.
        arrivals: with the arrival of each part of its sound.
        price: of the machine in dollars an hour; None: from the table, by the card.
        facts: what a person says of the server.
    """

    target: Target
    loads: tuple[Load, ...] = (Load(1), Load(8), Load(32))
    find: bool = False
    most: int = 512
    slo: Slo = field(default_factory=Slo)
    warmup_s: float = 5.0
    seconds: float = 30.0
    count: int = 0
    rounds: int = 1
    seed: int = 1
    texts: tuple[Spoken, ...] = ()
    voices: VoiceMix = "one"
    voice: str = DEFAULT_VOICE
    reference: Reference | None = None
    buffer_s: float = BUFFER_SECONDS
    timeout_s: float = 300.0
    records: bool = False
    arrivals: bool = False
    price: float | None = None
    facts: ServerFacts = field(default_factory=ServerFacts)

    def workload(self, known_voices: list[str]) -> Workload:
        """Return the mix of texts and voices.

        Args:
            known_voices: of the server.

        Raises:
            UsageError: many voices are wanted, and the server tells of none.
        """
        names: tuple[str, ...] = (self.voice,)
        if self.voices == "many":
            if len(known_voices) < 2:
                raise UsageError(
                    f"--voices many: the server tells of {len(known_voices)} voices",
                    "use --voices one --voice NAME, or --voices cloned",
                )
            names = tuple(sorted(known_voices))
        reference = None
        if self.voices == "cloned":
            reference = self.reference or workload.default_reference()
        return Workload(self.texts or mix("mixed", ()), names, self.seed, reference)


def mix(texts: str, languages: tuple[str, ...]) -> tuple[Spoken, ...]:
    """Return the texts that a flag names: mixed, short, medium, long, or a file.

    Raises:
        UsageError: there is no such file or language.
    """
    if texts == "mixed":
        return workload.default_texts(tuple(SIZES), languages)
    if texts in SIZES:
        return workload.default_texts((texts,), languages)
    path = Path(texts).expanduser()
    if not path.is_file():
        known = ", ".join(("mixed", *SIZES))
        raise UsageError(f"--texts {texts}: no such file", f"name a file, or one of {known}")
    if languages:
        raise UsageError("--languages says nothing about a file of texts", "leave it out")
    return workload.read_texts(path)


def levels(at: tuple[int, ...], rates: tuple[float, ...], burstiness: float) -> tuple[Load, ...]:
    """Return the loads of --at and --rate."""
    found = [Load(x) for x in at] + [Load(0, x, burstiness) for x in rates]
    return tuple(found) or (Load(1), Load(8), Load(32))
