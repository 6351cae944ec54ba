"""The beginning of a relay's sweeps: behind no row that is to be published, and behind none still to be committed."""

import random
from collections.abc import Callable

import pytest

from invalidator.relay.lower_bound import ANEW_SECONDS, QUERY_SECONDS, LowerBound


class Transaction:
    """An application's: it locks the table, takes ids, commits, and gives the lock back."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.ids: list[int] = []


class Outbox:
    """A table with its sequence and locks, and a relay without the others."""

    def __init__(self) -> None:
        self.now = 0.0
        self.last = 0
        self.open: list[Transaction] = []
        #: Committed, their locks not given back yet.
        self.ending: list[Transaction] = []
        self.waiting: set[int] = set()
        self.bound = LowerBound(self.writers, clock=lambda: self.now)

    def writers(self) -> frozenset[str]:
        return frozenset(one.name for one in self.open + self.ending)

    def begin(self) -> Transaction:
        self.open.append(one := Transaction(f"3/{self.last}/{len(self.open)}/{self.now}"))
        return one

    def append(self, transaction: Transaction) -> None:
        self.last += 1
        transaction.ids.append(self.last)

    def commit(self, transaction: Transaction) -> None:
        self.open.remove(transaction)
        self.waiting.update(transaction.ids)
        self.ending.append(transaction)

    def end(self, transaction: Transaction) -> None:
        self.ending.remove(transaction)

    def sweep(self, *, at_most: int = 1000, during: Callable[[], None] = lambda: None) -> None:
        """Publish what is behind the bound; meanwhile other transactions go on."""
        self.now += QUERY_SECONDS
        self.bound.ask()
        found = sorted(id for id in self.waiting if id > self.bound.id)
        during()
        self.waiting.difference_update(found[:at_most])
        self.bound.passed(max(found[:at_most], default=0), is_whole=len(found) <= at_most)


def filled(rows: int) -> Outbox:
    outbox = Outbox()
    transaction = outbox.begin()
    for _ in range(rows):
        outbox.append(transaction)
    outbox.commit(transaction)
    outbox.end(transaction)
    return outbox


def test_sweeps_begin_behind_what_an_earlier_one_has_passed() -> None:
    outbox = filled(9)
    outbox.sweep()
    outbox.sweep()
    assert (9, set()) == (outbox.bound.id, outbox.waiting)


def test_of_a_long_backlog_the_bound_is_what_two_sweeps_have_passed() -> None:
    outbox = filled(9)
    passed = []
    for _ in range(4):
        outbox.sweep(at_most=2)
        passed.append(outbox.bound.id)
    assert [0, 2, 4, 6] == passed


def test_a_transaction_that_stays_open_holds_the_bound_below_its_ids() -> None:
    outbox = Outbox()
    long, short = outbox.begin(), outbox.begin()
    outbox.append(long)
    outbox.append(short)
    outbox.commit(short)
    outbox.end(short)
    for _ in range(5):
        outbox.sweep()
    assert 0 == outbox.bound.id
    outbox.commit(long)
    outbox.end(long)
    outbox.sweep()
    assert (2, set()) == (outbox.bound.id, outbox.waiting)


def test_a_transaction_that_begins_later_does_not_hold_it() -> None:
    outbox = filled(9)
    outbox.sweep()
    outbox.sweep(during=lambda: outbox.append(outbox.begin()))
    outbox.sweep()
    assert 9 == outbox.bound.id


def test_the_locks_are_queried_once_a_second_and_only_if_something_was_published() -> None:
    queries = 0
    now = 0.0

    def writers() -> frozenset[str]:
        nonlocal queries
        queries += 1
        return frozenset({"3/1"})

    bound = LowerBound(writers, clock=lambda: now)
    bound.ask()
    assert 0 == queries
    bound.passed(1, is_whole=True)
    for _ in range(5):
        bound.ask()
        bound.passed(1, is_whole=True)
    assert 1 == queries
    now = QUERY_SECONDS
    bound.ask()
    assert 2 == queries


def test_once_a_minute_a_sweep_begins_with_the_first_row() -> None:
    outbox = filled(9)
    outbox.sweep()
    outbox.sweep()
    outbox.waiting.add(5)  # an id that was taken long ago
    outbox.sweep()
    assert {5} == outbox.waiting
    outbox.now += ANEW_SECONDS
    outbox.sweep()
    assert set() == outbox.waiting


@pytest.mark.parametrize("seed", range(50))
def test_in_any_order_of_events_every_committed_row_is_published(seed: int) -> None:
    chance, outbox = random.Random(seed), Outbox()

    def step() -> None:
        match chance.choice(["begin", "append", "append", "commit", "commit", "end", "end"]):
            case "begin":
                outbox.begin()
            case "append" if outbox.open:
                outbox.append(chance.choice(outbox.open))
            case "commit" if outbox.open:
                outbox.commit(chance.choice(outbox.open))
            case "end" if outbox.ending:
                outbox.end(chance.choice(outbox.ending))

    highest = 0
    for _ in range(300):
        for _ in range(chance.randrange(4)):
            step()
        outbox.sweep(at_most=chance.choice([1, 2, 1000]), during=step)
        assert not any(id <= outbox.bound.id for id in outbox.waiting)
        assert not any(id <= outbox.bound.id for one in outbox.open for id in one.ids)
        highest = max(highest, outbox.bound.id)
    assert highest > 0, "it never moved"
