"""Measures what the benchmark itself costs, against a server that paces sound exactly.

    .venv/bin/python -m benchmarks.own_limit [--streams 1000] [--runs 2]

Client and server share this machine's cores. Goals for 1,000 streams at 25 chunks a second on two
cores: lag p99 at most 5 ms, at most 1.5 cores, at most 500 MB; runs differ by at most 2 %.
"""

from __future__ import annotations

import argparse
import os

from higgs_image.bench import session
from higgs_image.bench.load import Load
from higgs_image.bench.options import BenchOptions
from higgs_image.bench.target import Target
from higgs_image.bench.workload import Spoken
from tests.support.paced_server import Pace, Plan, running

PACE = Pace(first_s=0.2, seconds=8.0)


def main() -> None:
    """Print the figures of each run, beside the truth."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=20.0)
    given = parser.parse_args()
    total = PACE.first_s + PACE.seconds - PACE.chunk_s
    truth = given.streams * PACE.seconds / total
    print(f"load average {os.getloadavg()[0]:.1f}; truth: {truth:.1f} audio s/s, first byte "
          f"{1000 * PACE.first_s:.0f} ms, answer {total:.2f} s")  # fmt: skip
    with running(Plan([PACE], record=False)) as url:
        for _ in range(given.runs):
            options = BenchOptions(
                Target(url), loads=(Load(given.streams),), warmup_s=10.0, seconds=given.seconds,
                texts=(Spoken("Good day.", "own"),),
            )  # fmt: skip
            [found] = session.run(options)
            [one] = found.levels[0].rounds
            print(f"lag p50 {one.lag.loop_p50_ms} p99 {one.lag.loop_p99_ms} ms, {one.lag.cores} "
                  f"cores, {one.lag.memory_mb:.0f} MB, {one.requests} requests")  # fmt: skip
            if x := one.figures:
                first = (
                    f"p50 {1000 * x.first_byte_s.p50:.1f} p99 {1000 * x.first_byte_s.p99:.1f} ms"
                )
                print(f"  {x.audio_per_s:.1f} audio s/s, first byte {first}, answer "
                      f"{x.total_s.p50:.3f} s, gap p99 {1000 * x.gap_s.p99:.1f} ms")  # fmt: skip
            else:
                print(f"  not quoted: {one.limited_by}")


if __name__ == "__main__":
    main()
