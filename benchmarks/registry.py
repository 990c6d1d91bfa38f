"""Measure history and cleanup of a repository with thousands of tags, in a local registry.

    .venv/bin/python -m benchmarks.registry --tags 3000

Needs docker-registry (./inv install-docker --registry). Prints seconds for each command.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from higgs_image.host.local_registry import LocalRegistry
from higgs_image.oci.artifacts import Artifact, Repository, open_repository
from higgs_image.oci.layout import CONFIG, MANIFEST, descriptor
from higgs_image.release import image_store, record_tags, records, retention, status
from higgs_image.release.actor import Actor
from higgs_image.release.journal import Journal
from higgs_image.release.records import Outcome, Promote, Push, Record

BY = Actor("benchmark")


def fill(repository: Repository, tags: int) -> None:
    """Write images, each with the record of its push, and a promotion of each fifth one."""
    client = repository._client
    client.put_blob(descriptor(b"layer", "x")["digest"], b"layer")
    kind = "application/vnd.oci.image.layer.v1.tar+gzip"

    def one(number: int) -> None:
        config = json.dumps({"architecture": "amd64", "os": "linux", "n": number}).encode()
        manifest = json.dumps({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": descriptor(config, CONFIG),
            "layers": [descriptor(b"layer", kind)],
        }).encode()  # fmt: skip
        client.put_blob(descriptor(config, CONFIG)["digest"], config)
        digest = descriptor(manifest, MANIFEST)["digest"]
        at = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC) + datetime.timedelta(hours=number)
        tag = f"{at:%Y%m%d}-abcdef0-{number:07x}"
        client.put_manifest(tag, manifest, MANIFEST)
        write(repository, Push(digest, at, BY, tag, "gzip", "d" * 64, "c" * 40, True, 5))
        if number % 5 == 0:
            move = write(repository, Promote(digest, at, BY, "custom", None, tag))
            write(repository, Outcome(digest, at, BY, move, records.DONE))

    # Of five images: five tags, five pushes, a promotion and its outcome.
    repository.each(one, range(tags * 5 // 12))


def write(repository: Repository, record: Record) -> str:
    """Write a record, and return its tag."""
    tag = record_tags.tag_for(record)
    repository.put(tag, Artifact(records.KIND, records.encode(record), {}))
    return tag


def read_history(name: str, newest: int) -> None:
    """Read what `history --last` shows."""
    with open_repository(name) as repository:
        history = Journal(repository)
        history.read_all(newest=newest)
        status.tag_status(history)


def measure(what: str, call: Callable[[], object]) -> None:
    """Print how long a call takes."""
    started, cpu = time.monotonic(), time.process_time()
    call()
    wall, cpu = time.monotonic() - started, time.process_time() - cpu
    print(f"{what:<24} {wall:6.1f} s, {cpu:.1f} s of it in this process")


def main() -> None:
    """Fill a repository and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tags", type=int, default=3000)
    parser.add_argument("--delete", action="store_true", help="also delete what cleanup plans")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, LocalRegistry(Path(folder)) as served:
        name = f"{served.address}/benchmark"
        with open_repository(name) as repository:
            measure(f"filling {options.tags} tags", lambda: fill(repository, options.tags))
            print(f"{'tags':<24} {len(repository.tags()):6}")
        for newest in (5, 50, 0):
            measure(f"history --last {newest}", functools.partial(read_history, name, newest))
        with open_repository(name) as repository:
            history = Journal(repository)
            store = image_store.store_of(repository)
            plans: list[retention.CleanupPlan] = []

            def plan() -> None:
                plans.append(retention.plan_cleanup(history, store, 10, set()))

            measure("cleanup (plan)", plan)
            print(f"{'to delete':<24} {len(plans[0].delete):6}")
            if options.delete:
                measure("cleanup --yes", lambda: retention.apply(history, store, plans[0]))


if __name__ == "__main__":
    main()
