"""The right to move a tag, under every order in which two runs can get in each other's way."""

from __future__ import annotations

import datetime
import itertools
import threading
from collections.abc import Callable, Iterator

import pytest

from higgs_image.errors import HiggsError, PromotionConflictError, RegistryUnavailableError
from higgs_image.oci import read_back
from higgs_image.release import lease, record_tags, records
from higgs_image.release.actor import Actor
from higgs_image.release.records import Move, Outcome, Promote

OLD = "sha256:" + "0" * 64
NEW = {"a": "sha256:" + "a" * 64, "b": "sha256:" + "b" * 64}


@pytest.fixture(autouse=True)
def no_lag(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_back, "LAG", 0.0)


class Killed(BaseException):
    """The process ends here, as with kill -9."""


class Registry:
    """What a registry keeps; each call is one step."""

    def __init__(self) -> None:
        self.records: dict[str, Move | Outcome] = {}
        self.custom: str | None = OLD
        self.moves: list[tuple[str, str | None, str]] = []
        self.ended: set[str] = set()


class FakeStore:
    """One run's view: every call waits for its turn."""

    def __init__(self, registry: Registry, who: str, turn: Callable[[str], None]) -> None:
        self.registry, self.who, self.turn = registry, who, turn
        self._seen: str | None = None

    def tags(self) -> list[str]:
        self.turn("tags")
        return sorted(self.registry.records)

    def record(self, tag: str) -> Move:
        found = self.registry.records[tag]
        assert not isinstance(found, Outcome)
        return found

    def write(self, record: Move | Outcome, tag: str) -> None:
        self.turn("write")
        self.registry.records[tag] = record

    def digest(self, tag: str) -> str | None:
        self.turn("digest")
        self._seen = self.registry.custom
        return self._seen

    def propagate(self) -> None:
        """Every write is shown at once."""

    def point(self, tag: str, digest: str) -> None:
        self.turn("point")
        self.registry.moves.append((self.who, self.registry.custom, digest))
        assert self.registry.custom == self._seen, "somebody moved it after we looked"
        self.registry.custom = digest


def actor_of(who: str) -> Actor:
    return Actor(who, machine="m", process=who)


def wanted(who: str, at: datetime.datetime | None = None) -> Promote:
    return Promote(NEW[who], at or records.now(), actor_of(who), "custom", OLD)


class Scheduler:
    """Runs threads one step at a time, in a given order."""

    def __init__(self) -> None:
        self.condition = threading.Condition()
        self.granted: str | None = None
        self.ready: set[str] = set()
        self.over: set[str] = set()

    def turn(self, who: str) -> None:
        with self.condition:
            self.ready.add(who)
            self.condition.notify_all()
            self.condition.wait_for(lambda: self.granted == who, timeout=10)
            self.granted = None
            self.ready.discard(who)

    def end(self, who: str) -> None:
        with self.condition:
            self.over.add(who)
            self.condition.notify_all()

    def run(self, names: set[str], order: Iterator[str]) -> None:
        """Grant steps in this order; a name that has ended is passed over."""
        for who in order:
            with self.condition:
                self.condition.wait_for(
                    lambda: self.granted is None and names <= self.ready | self.over, timeout=10
                )
                if names <= self.over:
                    return
                if who in self.over:
                    continue
                self.granted = who
                self.condition.notify_all()
        raise AssertionError("they wait for each other for ever")


def race(
    order: Iterator[str], first: str, kill: tuple[str, int] | None = None
) -> tuple[Registry, dict[str, BaseException | str]]:
    """Let `a` and `b` promote at the same time; `first` has the smaller name."""
    registry, scheduler = Registry(), Scheduler()
    results: dict[str, BaseException | str] = {}
    at = records.now()
    later = {"a": at, "b": at}
    later["b" if first == "a" else "a"] += datetime.timedelta(milliseconds=1)

    def contend(who: str) -> None:
        steps = itertools.count(1)

        def turn(what: str) -> None:
            scheduler.turn(who)
            if kill == (who, next(steps)):
                raise Killed(what)

        try:
            results[who] = lease.move(
                FakeStore(registry, who, turn), wanted(who, later[who]), actor_of(who),
                dead=lambda other: other.name in registry.ended, wait=lambda _: turn("wait"),
            )  # fmt: skip
        except (HiggsError, Killed) as error:
            results[who] = error
        except BaseException as error:
            results[who] = error
        finally:
            if isinstance(results[who], Killed):
                registry.ended.add(who)
            scheduler.end(who)

    threads = [threading.Thread(target=contend, args=(who,)) for who in "ab"]
    for thread in threads:
        thread.start()
    scheduler.run({"a", "b"}, order)
    for thread in threads:
        thread.join()
    return registry, results


def orders() -> Iterator[tuple[str, ...]]:
    """Every order of up to 10 steps each that changes between the two at most three times."""
    for first, second in ("ab", "ba"):
        for x, y, z in itertools.product(range(9), range(1, 9, 2), range(1, 9, 2)):
            yield (first,) * x + (second,) * y + (first,) * z


def steps(order: tuple[str, ...]) -> Iterator[str]:
    yield from order
    for _ in range(60):  # then in turn
        yield "a"
        yield "b"


@pytest.mark.parametrize("first", ["a", "b"])
def test_exactly_one_of_two_moves_wins_in_every_order(first: str) -> None:
    for order in orders():
        registry, results = race(steps(order), first)
        winners = [who for who, result in results.items() if isinstance(result, str)]
        losers = [r for r in results.values() if isinstance(r, PromotionConflictError)]
        assert len(winners) == 1 and len(losers) == 1, (order, results)
        assert registry.custom == NEW[winners[0]], order
        assert registry.moves == [(winners[0], OLD, NEW[winners[0]])], order
        assert None not in record_tags.outcomes(registry.records).values(), order


@pytest.mark.parametrize("step", range(1, 12))
@pytest.mark.parametrize("who", ["a", "b"])
def test_a_killed_move_is_settled_by_another_run(who: str, step: int) -> None:
    for order in itertools.islice(orders(), 0, None, 29):
        registry, results = race(steps(order), "a", kill=(who, step))
        if any(isinstance(x, AssertionError) for x in results.values()):
            raise AssertionError((order, results))
        registry.ended |= {"a", "b"}
        store = FakeStore(registry, "c", lambda _: None)
        lease.settle(store, Actor("c"), lambda other: True)
        ends = record_tags.outcomes(registry.records)
        assert None not in ends.values()
        done = [tag for tag, end in ends.items() if end == records.DONE]
        recorded = [registry.records[tag].digest for tag in done]
        assert recorded == [new for _, _, new in registry.moves], (order, results)


def alone(registry: Registry) -> FakeStore:
    return FakeStore(registry, "c", lambda _: None)


def test_a_live_announcement_is_respected_and_a_lapsed_one_is_not() -> None:
    registry = Registry()
    other = wanted("b")
    registry.records[record_tags.tag_for(other)] = other
    with pytest.raises(PromotionConflictError, match="b has been moving custom"):
        lease.move(alone(registry), wanted("a"), actor_of("a"), dead=lambda _: False)
    assert registry.custom == OLD and len(registry.records) == 1

    lapsed = wanted("b", records.now() - lease.LEASE)
    registry.records = {record_tags.tag_for(lapsed): lapsed}
    lease.move(alone(registry), wanted("a"), actor_of("a"), dead=lambda _: False)
    assert registry.custom == NEW["a"]
    assert records.ABANDONED in record_tags.outcomes(registry.records).values()


def test_a_tag_that_was_moved_by_hand_is_not_overwritten() -> None:
    registry = Registry()
    registry.custom = NEW["b"]
    with pytest.raises(PromotionConflictError, match="custom now names"):
        lease.move(alone(registry), wanted("a"), actor_of("a"), dead=lambda _: False)
    assert registry.custom == NEW["b"]
    assert list(record_tags.outcomes(registry.records).values()) == [records.LOST]


def test_an_old_announcement_moves_nothing() -> None:
    registry = Registry()
    with pytest.raises(PromotionConflictError, match="more than"):
        lease.move(
            alone(registry), wanted("a", records.now() - lease.LEASE / 2), actor_of("a"),
            dead=lambda _: False,
        )  # fmt: skip
    assert registry.custom == OLD


@pytest.mark.parametrize("moved", [True, False])
def test_a_registry_that_fails_during_the_move(moved: bool) -> None:
    registry = Registry()

    class Failing(FakeStore):
        def point(self, tag: str, digest: str) -> None:
            if moved:
                super().point(tag, digest)
            raise RegistryUnavailableError("503")

    with pytest.raises(RegistryUnavailableError):
        lease.move(
            Failing(registry, "a", lambda _: None), wanted("a"), actor_of("a"), dead=lambda _: False
        )
    (end,) = record_tags.outcomes(registry.records).values()
    assert end == (records.DONE if moved else records.ABANDONED)
