"""What stands against a promotion: each refusal, from literals."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import replace

import msgspec
import pytest

from higgs_image.release import policy
from higgs_image.release.actor import Actor
from higgs_image.release.policy import Known
from higgs_image.release.records import Push
from higgs_image.smoke import record as smoke_record
from higgs_image.verdict import Verdict

DIGEST, OTHER = "sha256:" + "a" * 64, "sha256:" + "b" * 64
LABEL = "org.higgs-image."
NOW = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)
PUSH = Push(
    digest=DIGEST, at=NOW, by=Actor("ann"), tag="20260101-abcdef0-1234567", compression="gzip",
    lock_sha256="d" * 64, commit="c" * 40, clean=True, size=1,
)  # fmt: skip


def smoke(kind: str = "gpu", verdict: str = "pass") -> smoke_record.Record:
    return smoke_record.Record(
        smoke_record.SCHEMA, Verdict(verdict), "it hums", smoke_record.SmokeImage("image", DIGEST),
        smoke_record.SmokeDevice(kind, "NVIDIA L40S"), NOW, 1.0, [],  # type: ignore[arg-type]
    )  # fmt: skip


GOOD = Known(
    digest=DIGEST,
    labels={LABEL + "lock-sha256": "d" * 64, LABEL + "fork": "https://git.invalid/fork 1234"},
    push=PUSH,
    smokes=[smoke()],
    local=False,
    tagged=DIGEST,
)


def labelled(**labels: str) -> Known:
    more = {LABEL + name.replace("_", "-"): value for name, value in labels.items()}
    return replace(GOOD, labels={**GOOD.labels, **more})


def pushed(**changes: object) -> Known:
    return replace(GOOD, push=msgspec.structs.replace(PUSH, **changes))


def smoke_tested(*smokes: smoke_record.Record) -> Known:
    return replace(GOOD, smokes=smokes)


def reasons(refusals: Sequence[policy.Refusal]) -> list[str]:
    return [x.reason for x in refusals]


def test_tested_release_is_not_refused() -> None:
    assert policy.refusals(GOOD, "gpu") == []


REFUSED: dict[str, tuple[Known, str]] = {
    "fake fork": (labelled(fork="file:///x 1234"), "built from a fake fork"),
    "no push record": (replace(GOOD, push=None), "no record says who built it"),
    "no git": (pushed(commit=None), "built outside git"),
    "changed work tree": (pushed(clean=False), "differed from its commit ccccccc"),
    "tag moved": (replace(GOOD, tagged=OTHER), f"now points to {OTHER}"),
    "tag gone": (replace(GOOD, tagged=None), "now points to nothing"),
    "another lock": (labelled(lock_sha256="f" * 64), "names the lock fffffff"),
    "another base": (labelled(overrides="base-image"), "not the locked one"),
    "patch left out": (labelled(overrides="without-voices"), "patch voices was left out"),
    "unknown override": (labelled(overrides="wheel"), "the override wheel"),
    "proxy": (labelled(extra_ca_sha256="ab"), "behind a proxy"),
    "marked tag": (pushed(tag="20260101-abcdef0-1234567-dev-1234567"), "marks it as overridden"),
    "never tested": (smoke_tested(), "no smoke test on a gpu is recorded"),
    "tested on a CPU": (smoke_tested(smoke("cpu")), "on a gpu is recorded for it, only on cpu"),
    "failed": (smoke_tested(smoke(verdict="fail")), "ended with fail: it hums"),
    "inconclusive": (smoke_tested(smoke(verdict="inconclusive")), "ended with inconclusive"),
    "failed later": (smoke_tested(smoke(), smoke(verdict="fail")), "ended with fail"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_each_refusal_has_reason_and_remedy(case: str) -> None:
    known, reason = REFUSED[case]
    (refusal,) = policy.refusals(known, "gpu")
    assert reason in refusal.reason and refusal.remedy


def in_pod() -> smoke_record.Record:
    return msgspec.structs.replace(smoke(), place="pod")


def in_engine(*passed: str, kind: str = "cpu") -> smoke_record.Record:
    checks = [smoke_record.CheckResult(x, Verdict.PASS, True) for x in passed]
    return msgspec.structs.replace(smoke(kind), checks=checks)


def test_a_pod_counts_with_what_it_cannot_show_from_an_engine() -> None:
    for engine in (in_engine(*smoke_record.ENGINE_ONLY), in_engine(*smoke_record.REQUIRED["cpu"])):
        assert policy.refusals(smoke_tested(engine, in_pod()), "gpu") == []
        assert policy.refusals(smoke_tested(in_pod(), engine), "gpu") == []


@pytest.mark.parametrize(
    ("engine", "missing"),
    [
        ([], "custom-voice, idle-cpu, memory, stop"),
        ([in_engine("custom-voice", "memory", "stop")], "passed idle-cpu, which"),
        (
            [in_engine(*smoke_record.ENGINE_ONLY), in_engine("stop")],
            "custom-voice, idle-cpu, memory",
        ),
    ],
)
def test_a_pod_alone_is_refused(engine: list[smoke_record.Record], missing: str) -> None:
    (refusal,) = policy.refusals(smoke_tested(*engine, in_pod()), "gpu")
    assert missing in refusal.reason and "--device-class cpu" in refusal.remedy


def test_later_pass_counts() -> None:
    assert policy.refusals(smoke_tested(smoke(verdict="fail"), smoke()), "gpu") == []


def test_several_reasons_are_all_given() -> None:
    found = policy.refusals(replace(GOOD, push=None, smokes=[]), "gpu")
    assert len(found) == 2


def test_a_test_on_a_cpu_is_refused_except_in_a_rehearsal() -> None:
    known = smoke_tested(smoke("cpu"))
    (refusal,) = policy.decide(known, "cpu").refused
    assert "says nothing about kernels" in refusal.reason
    decision = policy.decide(known, "cpu", rehearsal=True)
    assert not decision.refused and reasons(decision.rehearsed) == [refusal.reason]


@pytest.mark.parametrize("case", [x for x in REFUSED if x not in ("fake fork",)])
def test_force_overrides_and_records_what_it_overrode(case: str) -> None:
    known, _ = REFUSED[case]
    decision = policy.decide(known, "gpu", force=True)
    assert not decision.refused and decision.forced == tuple(policy.refusals(known, "gpu"))


def test_force_releases_a_fake_fork_only_on_this_machine() -> None:
    known, _ = REFUSED["fake fork"]
    assert policy.decide(known, "gpu", force=True).refused
    assert not policy.decide(replace(known, local=True), "gpu", force=True).refused


REHEARSABLE = {"fake fork", "another base", "proxy"}


@pytest.mark.parametrize("case", REFUSED)
def test_a_rehearsal_allows_only_what_the_machine_causes(case: str) -> None:
    known, _ = REFUSED[case]
    assert (not policy.decide(known, "gpu", rehearsal=True).refused) is (case in REHEARSABLE)
