"""The account of `dev faults followed`: it must be able to turn red."""

from dataclasses import replace

import pytest

from tests.faults.followed.account import Change, Seen, account
from tests.faults.followed.production import Production

ONE, TWO = Change("u", 1, 10), Change("d", 2, 11)
QUIET = Seen(
    committed=[ONE, TWO],
    events={"A.1": ONE, "B.1": TWO},
    repeated=3,
    renamed=0,
    early=0,
    stale=[],
    gaps=0,
    rolled_back=1,
    by_django=[ONE, TWO],
    hooked={"a": (1, 10), "b": (2, 11)},
)


def test_a_quiet_run_is_green_and_repetitions_do_no_harm() -> None:
    assert account(QUIET).passes
    assert (2, 3, 1) == (account(QUIET).committed, account(QUIET).repeated, account(QUIET).rolled_back)


@pytest.mark.parametrize(
    ("column", "seen"),
    [
        ("lost", replace(QUIET, events={"A.1": ONE})),
        ("phantom", replace(QUIET, committed=[ONE])),
        ("renamed", replace(QUIET, renamed=1)),
        ("early", replace(QUIET, early=1)),
        ("stale", replace(QUIET, stale=[1])),
        ("gaps", replace(QUIET, gaps=1)),
        ("unhooked", replace(QUIET, hooked={"a": (1, 10)})),
        ("hook_phantom", replace(QUIET, by_django=[ONE])),
    ],
)
def test_each_fault_of_the_follower_turns_it_red(column: str, seen: Seen) -> None:
    found = account(seen)
    assert [column] == [name for name, count in found.faults.items() if count]
    assert not found.passes


def test_a_change_that_two_events_of_hooks_stand_for_must_have_been_made_twice() -> None:
    twice = replace(QUIET, hooked={**QUIET.hooked, "c": (1, 10)})
    assert 1 == account(twice).hook_phantom
    assert account(replace(twice, by_django=[ONE, TWO, Change("d", 1, 10)])).passes


def test_a_schedule_has_every_fault_and_is_that_of_its_seed() -> None:
    schedule = Production(seed=7).schedule()
    assert (50, 10, 5, 3, 30) == tuple(
        sum(found == kind for _, found in schedule) for kind in ("follower", "relay", "broker", "database", "stall")
    )
    assert schedule == Production(seed=7).schedule()
    assert schedule != Production(seed=8).schedule()
    assert 0 < schedule[0][0] < schedule[-1][0] < 100_000
