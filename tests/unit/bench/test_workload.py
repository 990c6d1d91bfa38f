"""The mix of texts and voices, and the arrivals."""

from __future__ import annotations

import io
import itertools
import wave
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from higgs_image.bench.arrivals import arrivals
from higgs_image.bench.options import BenchOptions, mix
from higgs_image.bench.server_metrics import change, parse
from higgs_image.bench.target import Target, base_url
from higgs_image.bench.workload import (
    Workload,
    default_reference,
    default_texts,
    read_reference,
)
from higgs_image.errors import UsageError

TEXTS = default_texts(("short", "long"), ("en", "zh"))


def test_mix_has_sizes_and_languages() -> None:
    assert Counter((x.language, x.size) for x in TEXTS) == {
        ("en", "short"): 8, ("en", "long"): 1, ("zh", "short"): 8, ("zh", "long"): 1,
    }  # fmt: skip
    assert len({x.text for x in mix("mixed", ())}) == len(mix("mixed", ()))


def test_same_seed_gives_the_same_items_and_another_seed_others() -> None:
    one, again, other = (Workload(TEXTS, ("a", "b"), seed) for seed in (1, 1, 2))
    items = [one.item(n) for n in range(50)]
    assert items == [again.item(n) for n in range(50)] != [other.item(n) for n in range(50)]


def test_every_text_comes_once_in_each_row() -> None:
    workload = Workload(TEXTS, ("a",), 3)
    texts = [workload.item(n).spoken.text for n in range(2 * len(TEXTS))]
    assert set(Counter(texts).values()) == {2}


def test_cloned_recordings_differ_and_sound_alike() -> None:
    workload = Workload(TEXTS, ("a",), 1, default_reference())
    one, two = (workload.item(n).reference for n in (0, 1))
    assert one and two and one.wav != two.wav
    samples = []
    for found in (one, two):
        with wave.open(io.BytesIO(found.wav)) as file:
            samples.append(np.frombuffer(file.readframes(10**6), "<i2").astype(int))
    assert np.abs(samples[0] - samples[1]).max() == 1


def test_file_of_texts(tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    path.write_text("One.\n\n  Zwei ü.  \n", encoding="utf-8")
    assert [x.text for x in mix(str(path), ())] == ["One.", "Zwei ü."]
    path.write_text("\n")
    with pytest.raises(UsageError, match="has no text"):
        mix(str(path), ())
    path.write_bytes(b"\xff")
    with pytest.raises(UsageError, match="is not UTF-8"):
        mix(str(path), ())
    with pytest.raises(UsageError, match="no such file"):
        mix(str(tmp_path / "none"), ())
    with pytest.raises(UsageError, match="unknown language: xx"):
        mix("short", ("xx",))


def test_bad_references_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "v.wav"
    path.write_bytes(b"no wav")
    with pytest.raises(UsageError, match="comes without its text"):
        read_reference(path, " ")
    with pytest.raises(UsageError, match="expected a mono WAV file"):
        read_reference(path, "Hello.")


def test_many_voices_need_a_server_that_has_them() -> None:
    options = BenchOptions(Target("http://x"), voices="many")
    assert options.workload(["b", "a"]).voices == ("a", "b")
    with pytest.raises(UsageError, match="tells of 0 voices"):
        options.workload([])


@pytest.mark.parametrize(("burstiness", "spread"), [(1.0, 1.0), (0.25, 2.0), (16.0, 0.25)])
def test_arrivals_have_the_rate_and_the_burstiness(burstiness: float, spread: float) -> None:
    times = np.array(list(itertools.islice(arrivals(20.0, burstiness, 1), 20_000)))
    gaps = np.diff(times)
    assert gaps.mean() == pytest.approx(1 / 20, rel=0.05)
    assert gaps.std() / gaps.mean() == pytest.approx(spread, rel=0.05)
    assert list(itertools.islice(arrivals(20.0, burstiness, 1), 9)) == list(times[:9])


@pytest.mark.parametrize(
    ("given", "wanted"),
    [("http://h:8000/v1/audio/speech", "http://h:8000"), ("h:8000/", "http://h:8000"),
     ("https://api.openai.com/v1", "https://api.openai.com"),
     ("https://h/proxy/8000", "https://h/proxy/8000")],
)  # fmt: skip
def test_url_is_that_of_the_server(given: str, wanted: str) -> None:
    assert base_url(given) == wanted


@pytest.mark.parametrize("given", ["ftp://h", "http://", "http://user:pw@h"])
def test_bad_urls_are_refused(given: str) -> None:
    with pytest.raises(UsageError) as error:
        base_url(given)
    assert "pw" not in error.value.message


def test_metrics_of_both_vllm_generations_are_read() -> None:
    old = parse('# HELP x\nvllm:gpu_cache_usage_perc{model="a"} 0.5\nvllm:num_requests_waiting 2\n')
    new = parse('vllm:kv_cache_usage_perc{engine="0"} 0.25\nvllm:kv_cache_usage_perc 1e-1\nbad\n')
    assert old == {"cache_use": 0.5, "waiting": 2.0}
    assert new == {"cache_use": pytest.approx(0.35)}
    assert change([{}, {}]) is None


def test_prefix_hits_are_those_of_the_round() -> None:
    found = change([{"queries": 100, "hits": 10}, {"queries": 300, "hits": 208}])
    assert found and found.prefix_hit_share == 0.99
