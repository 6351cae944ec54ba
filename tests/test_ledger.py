"""The pure parts of `dev faults`: the account, the schedule, the turns of products, and the histogram of staleness."""

import random
from collections import Counter
from dataclasses import replace

import pytest

from tests.faults.ledger import Found, account, table
from tests.faults.schedule import FULL, FULL_EVENTS, LASTING, ON_A_NODE, Kind, Size, schedule
from tests.faults.staleness import Staleness
from tests.faults.turns import Turns

#: Three products at the versions 3, 2 and 1, which makes three events; two poison messages; no node is stale.
QUIET = Found(
    attempted=5,
    confirmed=[3, 2, 1],
    copies={"c1": {0: 3}, "c2": {1: 2, 2: 1}},
    debts={},
    dead_letters=[b"poison 1", b"poison 2"],
    poison={b"poison 1", b"poison 2"},
)


def good_dead_letter(product: int, version: int) -> bytes:
    return b'{"type": "product_updated", "id": %d, "version": %d}' % (product, version)


# The account


def test_a_quiet_run_is_green_and_every_event_is_accounted_for() -> None:
    ledger = account(QUIET)
    assert ledger.passes
    assert (5, 3, 2) == (ledger.confirmed, ledger.evicted, ledger.dead_lettered)
    assert (0, 0, 0, 0) == (ledger.lost, ledger.parked, ledger.unexpected, ledger.stale_keys)


def test_an_old_version_on_one_node_is_a_lost_event() -> None:
    ledger = account(replace(QUIET, copies={"c1": {}, "c2": {1: 1}}))
    assert (1, 1, 2) == (ledger.lost, ledger.stale_keys, ledger.evicted)
    assert not ledger.passes


def test_every_event_since_the_version_that_a_node_still_holds_is_lost() -> None:
    assert 2 == account(replace(QUIET, copies={"c1": {0: 1}, "c2": {0: 2}})).lost


def test_an_old_version_that_its_node_is_owed_is_parked_and_still_not_green() -> None:
    ledger = account(replace(QUIET, copies={"c2": {1: 1}}, debts={"c2": {1}}))
    assert (0, 1, 1) == (ledger.lost, ledger.parked, ledger.stale_keys)
    assert not ledger.passes


def test_a_debt_of_another_node_excuses_nothing() -> None:
    ledger = account(replace(QUIET, copies={"c1": {1: 1}, "c2": {1: 1}}, debts={"c2": {1}}))
    assert (1, 0) == (ledger.lost, ledger.parked)


def test_poison_that_is_not_in_the_dead_letter_queue_is_lost() -> None:
    ledger = account(replace(QUIET, dead_letters=[b"poison 1"]))
    assert (1, 1) == (ledger.lost, ledger.dead_lettered)


def test_poison_that_is_there_twice_is_a_duplicate() -> None:
    ledger = account(replace(QUIET, dead_letters=[*QUIET.dead_letters, b"poison 1"]))
    assert (1, 2) == (ledger.duplicated, ledger.dead_lettered)
    assert ledger.passes


def test_a_good_event_among_the_dead_letters_is_unexpected_and_not_lost_as_well() -> None:
    dead = [*QUIET.dead_letters, good_dead_letter(1, 2)]
    ledger = account(replace(QUIET, copies={"c1": {1: 1}}, dead_letters=dead))
    assert (1, 0, 3) == (ledger.unexpected, ledger.lost, ledger.dead_lettered)
    assert not ledger.passes


def test_poison_that_nobody_published_is_unexpected() -> None:
    assert 1 == account(replace(QUIET, dead_letters=[*QUIET.dead_letters, b"poison 9"])).unexpected


def test_surprises_turn_it_red() -> None:
    assert not account(replace(QUIET, surprises=["a worker ended by itself"])).passes


def test_a_publish_that_was_repeated_is_a_duplicate() -> None:
    assert 3 == account(replace(QUIET, attempted=8)).duplicated


@pytest.mark.parametrize("seed", range(20))
def test_confirmed_is_always_the_sum_of_what_became_of_the_events(seed: int) -> None:
    chance = random.Random(seed)
    confirmed = [chance.randrange(1, 5) for _ in range(20)]
    copies = {
        label: {p: chance.randrange(1, v + 1) for p, v in enumerate(confirmed) if chance.random() < 0.5}
        for label in ("c1", "c2")
    }
    debts = {label: {p for p in range(20) if chance.random() < 0.3} for label in copies}
    dead = chance.sample([b"poison 1", b"poison 2"], chance.randrange(3))
    ledger = account(replace(QUIET, confirmed=confirmed, copies=copies, debts=debts, dead_letters=dead))
    assert ledger.confirmed == ledger.evicted + ledger.dead_lettered + ledger.parked + ledger.lost


def test_ledgers_stand_side_by_side() -> None:
    shown = table({"ours": account(QUIET), "theirs": account(replace(QUIET, copies={"c1": {1: 1}}))}).splitlines()
    assert ["ours", "theirs"] == shown[0].split()
    assert ["lost", "0", "1"] in [line.split() for line in shown]
    assert ["verdict", "green", "RED"] == shown[-1].split()


# The schedule


def test_the_same_seed_makes_the_same_schedule_and_another_one_another() -> None:
    assert schedule(1, 5000, nodes=3, workers=2) == schedule(1, 5000, nodes=3, workers=2)
    assert schedule(1, 5000, nodes=3, workers=2) != schedule(2, 5000, nodes=3, workers=2)


def test_a_full_run_has_every_fault_as_often_as_promised() -> None:
    kinds = Counter(fault.kind for fault in schedule(1, FULL_EVENTS, nodes=3, workers=2))
    assert FULL == kinds
    assert kinds[Kind.KILL_WORKER] + kinds[Kind.KILL_WORKERS] >= 20
    assert min(kinds[Kind.RESTART_BROKER], kinds[Kind.FREEZE_NODE], kinds[Kind.RESTART_NODE]) >= 5
    assert kinds[Kind.PARTITION_NODE] >= 3


def test_a_full_run_freezes_for_thirty_seconds_and_a_tenth_of_it_has_as_many_faults() -> None:
    full, tenth = schedule(1, FULL_EVENTS, nodes=3, workers=2), schedule(1, FULL_EVENTS // 10, nodes=3, workers=2)
    assert {30.0} == {fault.seconds for fault in full if fault.kind in LASTING}
    assert len(full) == len(tenth)


@pytest.mark.parametrize("events", [1_000, 5_000, 100_000, FULL_EVENTS])
def test_every_kind_happens_while_events_flow(events: int) -> None:
    faults = schedule(3, events, nodes=3, workers=2)
    assert set(Kind) == {fault.kind for fault in faults}
    assert all(0 < fault.after < events * 0.95 for fault in faults)
    assert all(fault.target < (3 if fault.kind in ON_A_NODE else 2) for fault in faults)
    assert sorted(faults, key=lambda fault: fault.after) == faults


def test_every_node_is_frozen_before_one_is_frozen_twice() -> None:
    frozen = [fault.target for fault in schedule(1, FULL_EVENTS, nodes=3, workers=2) if fault.kind == Kind.FREEZE_NODE]
    assert {0, 1, 2} == set(frozen[:3])


def test_there_are_products_enough_to_go_on_through_a_freeze() -> None:
    size = Size.of(FULL_EVENTS)
    assert size.products > size.rate * size.freeze


# Turns


def filled(turns: Turns) -> Turns:
    for node, products in enumerate(turns.fills):
        turns.filled(node, list(products))
        products.clear()
    return turns


def test_a_product_waits_for_its_turn_when_every_node_holds_it() -> None:
    turns = Turns(1, 2, lambda _: range(2))
    turns.filled(0, [0])
    assert [] == list(turns.waiting)
    turns.filled(1, [0])
    assert [0] == list(turns.waiting)


def test_a_change_is_pending_until_no_node_holds_an_older_version() -> None:
    turns = filled(Turns(1, 2, lambda _: range(2)))
    assert [2, 3] == turns.change(0, 2)
    turns.published(0, now=10.0)
    assert [] == turns.observed(0, [turns.watched[0].popleft()], {}, now=11.0)
    assert [] == turns.observed(1, [turns.watched[1].popleft()], {0: 2}, now=12.0)
    assert [0] == list(turns.watched[1])
    assert 2.0 == turns.oldest(now=12.0)
    assert [3.0] == turns.observed(1, [turns.watched[1].popleft()], {0: 3}, now=13.0)
    assert {} == turns.pending


def test_a_product_is_filled_again_only_after_its_change_was_seen_everywhere() -> None:
    turns = filled(Turns(1, 1, lambda _: range(1)))
    turns.change(turns.waiting.popleft())
    turns.published(0, now=0.0)
    turns.observed(0, [turns.watched[0].popleft()], {0: 1}, now=1.0)
    assert ([], []) == (list(turns.fills[0]), list(turns.waiting))
    turns.observed(0, [turns.watched[0].popleft()], {}, now=2.0)
    assert [0] == list(turns.fills[0])


def test_a_product_with_one_home_is_looked_at_there_only() -> None:
    turns = filled(Turns(2, 2, lambda product: [product]))
    turns.change(1)
    turns.published(1, now=0.0)
    assert ([], [1]) == (list(turns.watched[0]), list(turns.watched[1]))
    assert [1.0] == turns.observed(1, [turns.watched[1].popleft()], {}, now=1.0)


def test_a_node_that_came_back_empty_is_filled_with_what_waits_others_first() -> None:
    turns = filled(Turns(3, 2, lambda product: range(2) if product else [1]))
    assert [2] == turns.lend(0, 1)
    turns.give_back([2])
    assert [1] == turns.lend(0, 1)
    turns.give_back([1])
    assert [] == turns.lend(0, 1)  # the one product that has no place there
    assert {0, 1, 2} == set(turns.waiting)


def test_when_all_products_are_stale_further_ones_take_their_turn() -> None:
    turns = filled(Turns(1, 1, lambda _: range(1)))
    turns.change(turns.waiting.popleft())
    turns.published(0, now=0.0)
    assert turns.exhausted
    turns.add(1)
    assert [1] == list(filled(turns).waiting)
    assert not turns.exhausted


# Staleness


def test_staleness_is_told_within_a_quarter() -> None:
    staleness = Staleness()
    for milliseconds in range(1, 1001):
        staleness.add(milliseconds / 1000)
    assert 0.5 <= staleness.within(0.5) <= 0.625
    assert 1.0 == staleness.within(1.0) == staleness.longest


def test_staleness_adds_up_over_processes() -> None:
    one, other, both = Staleness(), Staleness(), Staleness()
    for seconds, where in ((0.01, one), (2.0, one), (0.3, other)):
        where.add(seconds)
        both.add(seconds)
    one.merge(other.written())
    assert both.written() == one.written()


def test_no_staleness_is_none() -> None:
    assert 0.0 == Staleness().within(0.99)
