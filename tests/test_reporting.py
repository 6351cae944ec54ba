"""Metrics and log lines of batches: counted immediately, logged at most once a second."""

import asyncio
from typing import Any

import pytest

from invalidator.errors import PoisonError
from invalidator.memcached.cluster import Outcome
from invalidator.memcached.eviction import Unreachable
from invalidator.runtime import metrics
from invalidator.worker import reporting as module
from invalidator.worker.planner import Plan
from invalidator.worker.reporting import BatchReport, UnmatchedTypes
from tests.logs import capture_logs

POISON = [("delivery", PoisonError("not-json", "the body is not JSON"))]


def settle(report: BatchReport, *keys: bytes, parked: int = 0, poison: Any = (), seconds: float = 0.001) -> None:
    debt = {"n": Unreachable(tuple(keys), "hung", waited=True)} if parked else {}
    outcome = Outcome({} if parked else {"n": len(keys)}, debt)
    plan: Plan[Any] = Plan(keys=list(keys), poison=list(poison))
    report.settled(len(keys) + len(poison), plan, outcome, {"n": parked} if parked else {}, seconds=seconds)


async def test_the_first_batch_is_logged_at_once_and_those_behind_it_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LINE_SECONDS", 0.05)
    report = BatchReport()
    with capture_logs() as lines:
        settle(report, b"a")
        assert [(line["batches"], line["events"], line["slowest_ms"]) for line in lines] == [(1, 1, 1.0)]
        settle(report, b"b", b"c", seconds=0.5)
        settle(report, b"d", poison=POISON)
        settle(report, b"e", parked=1)
        assert len(lines) == 1
        while report._timer:  # a quiet while is over when it has ended
            await asyncio.sleep(0.001)
        assert [line["event"] for line in lines] == ["evicted", "evicted"], "and nothing of a second without a batch"
        assert {name: lines[1][name] for name in ("batches", "events", "keys", "slowest_ms", "dead", "parked")} == {
            "batches": 3,
            "events": 5,
            "keys": 4,
            "slowest_ms": 500.0,
            "dead": ["not-json"],
            "parked": {"n": 1},
        }
        settle(report, b"f")
        assert len(lines) == 3, "after a quiet second at once again"


class TestUnmatchedTypes:
    def count(self, unmatched: UnmatchedTypes, *types: str) -> None:
        plan: Plan[Any] = Plan(unmatched=len(types), unmatched_types=list(types))
        BatchReport(unmatched).settled(len(types), plan, Outcome({}, {}), {}, seconds=0.001)

    async def test_each_type_is_logged_once_with_the_nearest_known_one(self) -> None:
        unmatched = UnmatchedTypes(["product_updated"])
        with capture_logs() as lines:
            self.count(unmatched, "product_updatd", "product_updatd", "login")
            self.count(unmatched, "product_updatd")
        warnings = [line for line in lines if "no rule is on" in line["event"]]
        assert [("'product_updatd'", "product_updated"), ("'login'", None)] == [
            (line["type"], line.get("nearest")) for line in warnings
        ]

    async def test_after_twenty_types_all_others_are_counted_as_one_and_not_logged(self) -> None:
        unmatched = UnmatchedTypes([])
        before = metrics.UNMATCHED.labels("other", "")._value.get()
        with capture_logs() as lines:
            self.count(unmatched, *(f"type-{number}" for number in range(1000)))
        assert (20, 980) == (len(unmatched.found), metrics.UNMATCHED.labels("other", "")._value.get() - before)
        assert 20 == len([line for line in lines if "no rule is on" in line["event"]])

    async def test_a_huge_type_is_cut(self) -> None:
        unmatched = UnmatchedTypes([])
        self.count(unmatched, "x" * 100_000)
        assert [80] == [len(found.type) for found in unmatched.found]


async def test_batches_that_were_not_logged_yet_are_logged_at_the_end() -> None:
    report = BatchReport()
    with capture_logs() as lines:
        settle(report, b"a")
        settle(report, b"b")
        report.close()
        report.close()
    assert [line["batches"] for line in lines] == [1, 1]


async def test_everything_is_counted_at_once() -> None:
    def counted() -> list[float]:
        return [
            metrics.SETTLED.labels("evicted")._value.get(),
            metrics.SETTLED.labels("dead")._value.get(),
            metrics.EVICTED.labels("n")._value.get(),
            metrics.PARKED.labels("n")._value.get(),
            metrics.UNREACHABLE.labels("n", "yes")._value.get(),
        ]

    report = BatchReport()
    before = counted()
    settle(report, b"a")
    settle(report, b"b", b"c", poison=POISON)
    settle(report, b"d", parked=1)
    report.close()
    assert [now - then for now, then in zip(counted(), before, strict=True)] == [4, 1, 3, 1, 1]
