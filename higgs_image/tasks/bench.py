"""./inv bench."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from invoke.context import Context

from higgs_image.tasks._workspace import current_workspace
from higgs_image.tasks.command import task
from higgs_image.tasks.output import Output
from higgs_image.tasks.values import (
    FILE,
    PATH,
    TEXT,
    WORDS,
    Value,
    matching,
    number,
    one_of,
    several,
    whole_number,
)

if TYPE_CHECKING:
    from higgs_image.bench.target import Route
    from higgs_image.bench.workload import VoiceMix


def _json_object(text: str) -> dict[str, Any]:
    if not text.lstrip().startswith("{"):
        raise ValueError
    found: dict[str, Any] = json.loads(text)
    return found


_VALUES = {
    "url": matching(r"\S+", "the URL of a server"),
    "at": replace(several(whole_number(1, 100_000)), blank=True),
    "rate": replace(several(number(0, 100_000, above=True)), blank=True),
    "burstiness": number(0, 1000, above=True),
    "slo": matching(r"[\w=.,]+", "limits, such as first=0.5,smooth=0.99"),
    "most": whole_number(1, 100_000),
    "compare": replace(FILE, blank=True),
    "against": matching(r"\S+", "the URL of a server"),
    "margin": number(0, 10),
    "route": one_of("speech", "chat", "generate"),
    "model": matching(r"\S+", "the name of a model"),
    "form": one_of("pcm", "wav", "mp3", "flac", "opus", "aac"),
    "extra": Value("a JSON object", _json_object, blank=True),
    "texts": PATH,
    "languages": matching(r"[a-z]{2,3}(,[a-z]{2,3})*", "languages, such as en,zh"),
    "voices": one_of("one", "many", "cloned"),
    "voice": WORDS,
    "reference": replace(FILE, blank=True),
    "reference_text": TEXT,
    "warmup": number(0, 3600),
    "seconds": number(0, 86_400, above=True),
    "requests": whole_number(1),
    "rounds": whole_number(1, 1000),
    "seed": whole_number(0),
    "buffer": number(0, 60),
    "timeout": number(0, 3600, above=True),
    "price": replace(number(0, 10_000, above=True), blank=True),
    "gpu": TEXT,
    "note": TEXT,
    "out": PATH,
}  # fmt: skip


@task(
    values=_VALUES,
    positional=["url"],
    help={
        "url": "URL of the server, such as http://127.0.0.1:8000; HIGGS_API_KEY or OPENAI_API_KEY "
        "has its API key",
        "at": "listeners at once (closed loop), such as 1,8,32 (the default)",
        "rate": "requests a second (open loop), such as 2,4,8",
        "burstiness": "how arrivals vary: 1 is Poisson (default), below it bursty, above it even",
        "slo": "limits (default: first=1,smooth=0.99,failed=0.01): seconds to the first sound "
        "(p95), share of listeners without an underrun, share of failures",
        "find": "search for the most listeners at which the SLO holds",
        "most": "listeners that --find tries at most (default: 512)",
        "compare": "JSON file of an earlier run: exit 1 if this one is worse, 41 if undecided",
        "against": "URL of a second server, measured in turn with the first and compared with it",
        "margin": "share by which a figure may be worse (default: 0.05)",
        "route": "speech (default), chat or generate",
        "model": "model name in each request (default: the first that the server lists)",
        "form": "pcm (default), wav, mp3, flac, opus or aac",
        "whole": "request whole answers, not streams",
        "extra": "more fields for every request, as JSON, such as '{\"stream\": true}'",
        "texts": "mixed (default), short, medium, long, or a file with one text in a line",
        "languages": "languages of the texts, such as en,zh (default: en,zh,de,es,ko)",
        "voices": "one (default), many (all of the server's), cloned (a recording in each request)",
        "voice": "name of the one voice (default: belinda)",
        "reference": "mono WAV file for --voices cloned (default: a generated one)",
        "reference_text": "transcript of --reference",
        "warmup": "seconds before each measurement (default: 5)",
        "seconds": "length of a measurement (default: 30)",
        "requests": "number of requests in a measurement, in place of --seconds",
        "rounds": "measurements at each load (default: 1); a comparison needs 3 or more",
        "seed": "seed of texts, voices and arrivals (default: 1)",
        "buffer": "seconds that the simulated player buffers (default: 0.2)",
        "timeout": "seconds until an answer must be complete (default: 300)",
        "price": "price of the machine in dollars an hour (default: from the table of cards)",
        "gpu": "GPU of the server, if the server cannot be asked",
        "note": "a note on the server for the report",
        "records": "keep every request in the JSON file",
        "arrivals": "as --records, with the arrival time of each chunk",
        "out": "folder for the files of each run (default: build/bench)",
    },
)
def bench(
    _: Context,
    shown: Output,
    url: str,
    at: tuple[int, ...] | None = None,
    rate: tuple[float, ...] | None = None,
    burstiness: float = 1,
    slo: str = "",
    find: bool = False,
    most: int = 512,
    compare: Path | None = None,
    against: str = "",
    margin: float = 0.05,
    route: str = "speech",
    model: str = "",
    form: str = "pcm",
    whole: bool = False,
    extra: dict[str, Any] | None = None,
    texts: str = "mixed",
    languages: str = "",
    voices: str = "one",
    voice: str = "belinda",
    reference: Path | None = None,
    reference_text: str = "",
    warmup: float = 5,
    seconds: float = 30,
    requests: int = 0,
    rounds: int = 1,
    seed: int = 1,
    buffer: float = 0.2,
    timeout: float = 300,
    price: float | None = None,
    gpu: str = "",
    note: str = "",
    records: bool = False,
    arrivals: bool = False,
    out: str = "",
) -> None:
    """Load a server with speech: how many can listen, how soon they hear, what it costs."""
    from higgs_image.bench import command
    from higgs_image.bench import slo as limits
    from higgs_image.bench.options import BenchOptions, levels, mix
    from higgs_image.bench.server_facts import ServerFacts
    from higgs_image.bench.target import Target, base_url
    from higgs_image.bench.workload import read_reference

    options = BenchOptions(
        target=Target(base_url(url), cast("Route", route), model, form, not whole, extra or {}),
        loads=levels(at or (), rate or (), burstiness),
        find=find,
        most=most,
        slo=limits.parse(slo),
        warmup_s=warmup,
        seconds=seconds,
        count=requests,
        rounds=rounds,
        seed=seed,
        texts=mix(texts, tuple(filter(None, languages.split(",")))),
        voices=cast("VoiceMix", voices),
        voice=voice,
        reference=read_reference(reference, reference_text) if reference else None,
        buffer_s=buffer,
        timeout_s=timeout,
        records=records or arrivals,
        arrivals=arrivals,
        price=price,
        facts=ServerFacts(gpu=gpu, note=note),
    )
    done = command.run(
        options,
        Path(out) if out else current_workspace().build / "bench",
        baseline=compare,
        against=base_url(against) if against else "",
        margin=margin,
    )
    shown.result(done.as_json(), done.text(), done.markdown())
    sys.exit(done.exit_code)
