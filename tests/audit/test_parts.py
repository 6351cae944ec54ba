"""The small parts of an auditor: its sample, its limits, the truth, and the reason of a stale value."""

from decimal import Decimal

import pytest

from invalidator.app.cache.items import NOTHING, Item
from invalidator.audit.budget import Budget
from invalidator.audit.changes.sampling import Sample
from invalidator.audit.reasons import HEAD_START, Facts, Recent, reason_of
from invalidator.audit.truth import Read, SourceError, Truth, source_of
from invalidator.audit.verdict import Reason
from invalidator.errors import ConfigurationError


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


# The sample


def test_a_sample_takes_its_share_of_the_keys_and_always_the_same_ones() -> None:
    keys = [f"product:{number}" for number in range(100_000)]
    sample = [key for key in keys if key in Sample(0.01)]
    assert 1000 == pytest.approx(len(sample), rel=0.1)
    assert sample == [key for key in keys if key in Sample(0.01)]


def test_a_sample_of_everything_takes_every_key_and_one_of_nothing_only_those_that_are_named() -> None:
    assert all(f"product:{number}" in Sample(1.0) for number in range(1000))
    assert ["named"] == [key for key in ("a", "b", "named") if key in Sample(0.0, ["named"])]


# Limits


def test_a_budget_allows_its_rate_after_a_burst() -> None:
    clock = Clock()
    budget = Budget(5.0, clock=clock)
    assert 10 == sum(budget.claim() for _ in range(100))
    clock.now += 3.0
    assert 10 == sum(budget.claim() for _ in range(100)), "no more than a burst is saved up"
    clock.now += 0.5
    assert [True, True, False] == [budget.claim() for _ in range(3)]


def test_a_budget_keeps_what_is_to_be_left() -> None:
    budget = Budget(2.5, clock=Clock())
    assert [True, False, True] == [budget.claim(leaving=4), budget.claim(leaving=4), budget.claim(leaving=3)]


def test_a_small_rate_allows_the_least_at_once() -> None:
    budget = Budget(0.001, least=3, clock=Clock())
    assert [True, True, True, False] == [budget.claim() for _ in range(4)]


# The truth


def test_contents_are_compared_as_the_cache_stores_them() -> None:
    truth = Truth.of({"price": 109.90, "id": 7})
    assert truth.equals(Item(b'{"id": 7, "price": 109.9}'))
    assert truth.equals(Item(b'{"id":7,"price":99.9}')) is False
    assert truth.equals(Item(b'{"version":2,"id":7,"price":109.9}')) is False


def test_a_missing_row_equals_a_negative_entry_only() -> None:
    nothing = Truth.of(None)
    assert [True, False] == [nothing.equals(item) for item in (Item(b"", NOTHING), Item(b"{}"))]
    assert Truth.of({}).equals(Item(b"", NOTHING)) is False


def test_bytes_are_compared_as_they_are() -> None:
    truth = Truth.of(b"\x80pickled")
    assert [True, False] == [truth.equals(item) for item in (Item(b"\x80pickled", 1), Item(b"other", 1))]


def test_an_item_that_cannot_be_read_equals_nothing_and_differs_from_nothing() -> None:
    assert [None, None] == [Truth.of("new").equals(item) for item in (Item(b'"old"', 1), Item(b"not JSON"))]


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(SourceError, match="a Decimal cannot be compared"):
        Truth.of(Decimal("1.1"))


def found(key: str) -> Read | None:
    """Stand in for a source: every key can be read."""
    return lambda: key


def test_a_source_is_found_by_its_name() -> None:
    read = source_of("tests.audit.test_parts:found")("product:7")
    assert read and read() == "product:7"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        (None, "no source is named"),
        ("shop.nowhere:source", "No module named 'shop'"),
        ("tests.audit.test_parts", "is not a function"),
    ],
)
def test_a_source_that_cannot_be_used_is_a_configuration_error(name: str | None, why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        source_of(name)


# Reasons

#: A worker evicted the key everywhere, and nothing waits.
EVICTED = Facts(has_event=True, is_announced=True, is_parked=False, is_placed=True, has_rule=True, backlog=0, debts=0)


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (EVICTED, Reason.WRITTEN_BACK),
        (EVICTED._replace(is_placed=False), Reason.WRONG_RING),
        (EVICTED._replace(is_parked=True), Reason.PARKED),
        (EVICTED._replace(is_announced=False, debts=3), Reason.PARKED),
        (EVICTED._replace(is_announced=False, backlog=100), Reason.BACKLOG),
        (EVICTED._replace(is_announced=False), Reason.NOT_EVICTED),
        (EVICTED._replace(is_announced=False, backlog=None), Reason.UNKNOWN),
        (EVICTED._replace(is_announced=False, has_event=False), Reason.EVENT_MISSING),
        (EVICTED._replace(is_announced=False, has_event=False, is_unpublished=True), Reason.FOLLOWER_BEHIND),
        (EVICTED._replace(is_announced=False, has_event=None, is_unpublished=True), Reason.FOLLOWER_BEHIND),
        (EVICTED._replace(is_announced=False, has_event=None), Reason.UNKNOWN),
        (EVICTED._replace(is_announced=False, has_event=False, has_rule=False), Reason.RULE_MISSING),
    ],
)
def test_the_reason_explains_the_facts(facts: Facts, expected: Reason) -> None:
    assert expected is reason_of(facts)


def test_an_announcement_counts_for_the_change_that_it_follows() -> None:
    clock = Clock()
    evictions = Recent[str](clock=clock)
    evictions.remember("a", "evicted")
    assert "evicted" == evictions.since("a", clock.now + HEAD_START)
    assert evictions.since("a", clock.now + HEAD_START + 0.1) is None
    assert evictions.since("b", 0.0) is None


def test_the_last_announcements_are_remembered_and_the_oldest_is_forgotten() -> None:
    evictions = Recent[int](limit=2, clock=Clock())
    for number, key in enumerate(("a", "b", "a", "c")):
        evictions.remember(key, number)
    assert [True, False, True] == [evictions.since(key, 0.0) is not None for key in ("a", "b", "c")]
