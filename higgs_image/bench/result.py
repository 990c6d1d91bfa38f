"""The result of a benchmark, as its JSON file holds it; `schema` is its JSON Schema."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import msgspec

from higgs_image.bench.lag import OwnLag
from higgs_image.bench.load import Load
from higgs_image.bench.measured import RequestResult
from higgs_image.bench.server_facts import ServerFacts
from higgs_image.bench.server_metrics import MetricsChange
from higgs_image.bench.slo import Slo
from higgs_image.bench.target import Target
from higgs_image.errors import UsageError
from higgs_image.files import write_atomically
from higgs_image.verdict import Verdict

SCHEMA = 1


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class Quantiles(_Part, frozen=True):
    """How a figure was distributed over the requests of a round."""

    mean: float
    p50: float
    p90: float
    p95: float
    p99: float
    max: float


class Figures(_Part, frozen=True):
    """What a listener and an operator get in a round; failures count nowhere but in `good_share`.

    Attributes:
        audio_per_s: seconds of sound that arrived in a second.
        audio_tokens_per_s: 25 for each of them.
        requests_per_s: answers that ended in a second.
        good_per_s: of those, how many kept the SLO (goodput).
        good_share: share of the counted requests that kept it.
        smooth_share: share of the answers that a listener heard without an underrun.
        underruns: all of them.
        stalled_s: silence that they made.
        audio_s: sound of all counted answers.
        headers_s: time to the headers.
        first_byte_s: time to the first byte of sound.
        first_sound_s: time to the first 0.1 s of sound.
        gap_s: between two arrivals of a stream.
        rtf: time of an answer / length of its sound.
        total_s: time of an answer.
    """

    audio_per_s: float
    audio_tokens_per_s: float
    requests_per_s: float
    good_per_s: float
    good_share: float
    smooth_share: float
    underruns: int
    stalled_s: float
    audio_s: float
    headers_s: Quantiles
    first_byte_s: Quantiles
    first_sound_s: Quantiles
    gap_s: Quantiles
    rtf: Quantiles
    total_s: Quantiles


class Histogram(_Part, frozen=True):
    """Counts of gaps between two arrivals.

    Attributes:
        edges_s: lower borders of the bins; the last bin has all longer ones.
        counts: gaps in each bin.
    """

    edges_s: list[float]
    counts: list[int]


class Bar(_Part, frozen=True):
    """A stream in the timeline; times are seconds from the start of the measured time."""

    start_s: float
    first_s: float
    end_s: float
    underruns: int
    failure: str = ""


class Round(_Part, frozen=True):
    """One measurement at one load.

    Attributes:
        started: in UTC.
        window_s: length of the measured time.
        requests: that were counted.
        failures: number by class.
        examples: one detail for each class.
        limited_by: why the tool was the limit; empty: it was not.
        lag: of the tool.
        figures: None if the tool was the limit, or no request succeeded.
        server: what /metrics says; None if it says nothing.
        gaps: between arrivals.
        timeline: streams of the measured time.
        records: every request, if they were asked for; without arrivals unless these were, too.
    """

    started: datetime.datetime
    window_s: float
    requests: int
    failures: dict[str, int]
    examples: dict[str, str]
    limited_by: str
    lag: OwnLag
    figures: Figures | None
    server: MetricsChange | None
    gaps: Histogram
    timeline: list[Bar] = []
    records: list[RequestResult] = []


class Level(_Part, frozen=True):
    """All rounds at one load.

    Attributes:
        load: how hard.
        rounds: in the order in which they ran.
        verdict: on the SLO, over all rounds; inconclusive if the tool was the limit.
        reason: why it is not `pass`.
    """

    load: Load
    rounds: list[Round]
    verdict: Verdict
    reason: str = ""

    def figures(self) -> list[Figures]:
        """Return the figures of the rounds that have some."""
        return [x.figures for x in self.rounds if x.figures]


class Settings(_Part, frozen=True):
    """How it was measured.

    Attributes:
        seed: of texts, voices and arrivals.
        warmup_s: before the measured time of each round.
        seconds: of the measured time; 0: `count` decided.
        count: requests of a round; 0: `seconds` decided.
        rounds: measurements at each load.
        buffer_s: of the simulated player.
        timeout_s: until an answer had to be whole.
        texts: of the mix, by size.
        languages: of the mix.
        voices: by name.
        cloned: each request sent a recording to speak with.
    """

    seed: int
    warmup_s: float
    seconds: float
    count: int
    rounds: int
    buffer_s: float
    timeout_s: float
    texts: dict[str, int]
    languages: list[str]
    voices: list[str]
    cloned: bool


class ClientFacts(_Part, frozen=True):
    """The machine that sent the requests.

    Attributes:
        processor: its name.
        cores: that the tool could use.
        load: of the machine at the start (one minute).
        system: kernel.
        versions: of Python and the libraries that matter.
        commit: of this project.
    """

    processor: str
    cores: int
    load: float
    system: str
    versions: dict[str, str]
    commit: str = ""


class Capacity(_Part, frozen=True):
    """The result of --find.

    Attributes:
        listeners: most at once for which the SLO held; 0: it held for none.
        above: least for which it did not hold; None: it held for all that were tried.
        sentence: the result in words.
    """

    listeners: int
    above: int | None
    sentence: str


class Cost(_Part, frozen=True):
    """What sound costs.

    Attributes:
        dollars_per_hour: price of the machine.
        source: of the price.
        date: of the price.
        audio_hours_per_dollar: at the load with the most sound that kept the SLO.
        load: that load.
    """

    dollars_per_hour: float
    source: str
    date: str
    audio_hours_per_dollar: float
    load: Load


class BenchResult(_Part, frozen=True):
    """A whole benchmark.

    Attributes:
        schema: version of this structure.
        started: in UTC.
        seconds: duration of the whole.
        target: what was loaded.
        server: what is known of it.
        client: the machine that sent the requests.
        settings: how it was measured.
        slo: what counts as good.
        levels: one for each load.
        notes: what a reader has to know.
        capacity: result of --find.
        cost: if a price is known.
    """

    schema: int
    started: datetime.datetime
    seconds: float
    target: Target
    server: ServerFacts
    client: ClientFacts
    settings: Settings
    slo: Slo
    levels: list[Level]
    notes: list[str] = []
    capacity: Capacity | None = None
    cost: Cost | None = None


def schema() -> dict[str, Any]:
    """Return the JSON Schema of the file."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema",
            **msgspec.json.schema(BenchResult)}  # fmt: skip


def encode(result: BenchResult) -> bytes:
    """Return a result as JSON."""
    return msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n"


def save(result: BenchResult, path: Path) -> None:
    """Write a result as JSON."""
    write_atomically(path, encode(result))


def load(path: Path) -> BenchResult:
    """Read a result.

    Raises:
        UsageError: it is missing, malformed, or of another schema.
    """
    hint = "pass the JSON file of an earlier ./inv bench"
    try:
        found = msgspec.json.decode(path.read_bytes(), type=BenchResult)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}", hint) from None
    except msgspec.DecodeError as error:
        raise UsageError(f"{path}: {error}", hint) from None
    if found.schema != SCHEMA:
        raise UsageError(f"{path}: expected schema {SCHEMA}, got {found.schema}", hint)
    return found
