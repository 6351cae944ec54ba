"""The reader's protocol against every interleaving of a small world, and many of a larger one: nothing stays stale.

Each guard is needed: the other tests show the shortest way to a stale value without it. `./dev explore` runs longer.
"""

import pytest

from invalidator.app.cache.reader import Reader
from tests.explorer.case import FAILURES, Case
from tests.explorer.cases import COUNTEREXAMPLES, EVERY, POSITIONS, PRIMARY, case, herd
from tests.explorer.chance import tally
from tests.explorer.sabotage import PlainLookAside
from tests.explorer.search import search, story


@pytest.mark.parametrize("case", [EVERY["primary"], case(**POSITIONS, ticks=1, faults=0)], ids=["primary", "replica"])
def test_no_interleaving_of_two_readers_and_two_writers_leaves_a_stale_value(case: Case) -> None:
    found = search(case)
    assert found.stale is None
    # Without any cached value nothing could be stale.
    assert found.states > 50_000
    assert found.filled > 200


def test_no_load_that_fails_or_is_cancelled_and_no_refused_value_leaves_a_placeholder_or_a_stale_value() -> None:
    found = search(case(writers=(0,), **PRIMARY, kinds=FAILURES, faults=2))
    assert found.stale is None
    assert found.states > 5_000
    assert found.filled > 100


@pytest.mark.parametrize("case", [EVERY["a herd"], herd(writers=(0, 1), faults=0)], ids=["failures", "two writers"])
def test_no_reader_that_shares_a_load_gets_a_value_older_than_its_read_or_waits_for_ever(case: Case) -> None:
    found = search(case)
    assert found.stale is None
    assert found.states > 5_000
    assert found.filled > 200


@pytest.mark.parametrize("name", ["two keys", "two rings"])
def test_no_reader_of_several_keys_and_no_two_rings_leave_a_stale_value(name: str) -> None:
    found = search(EVERY[name])
    assert found.stale is None
    assert found.states > 5_000
    assert found.filled > 100


def test_no_random_run_of_up_to_eight_readers_leaves_a_stale_value() -> None:
    ends = tally(Reader, seed=1, runs=range(5_000))
    assert [] == [end for end in ends if "stale" in end]
    for source in ("primary", "positions", "old snapshots", "max_lag"):
        assert ends[f"{source}: filled"] > 10


def test_plain_look_aside_goes_stale_in_one_random_run_of_ten() -> None:
    ends = tally(PlainLookAside, seed=1, runs=range(2_000))
    stale = sum(count for end, count in ends.items() if end.endswith(": stale"))
    print(f"plain look-aside: {stale} of 2000 random runs stale")
    assert stale > 200


def found_out(guard: str) -> list[str]:
    """Return the shortest way to a stale value without that guard."""
    case = COUNTEREXAMPLES[guard]
    choices = search(case).stale
    assert choices, f"nothing is stale without {guard}"
    return story(case, choices)


def test_plain_look_aside_goes_stale_in_six_steps() -> None:
    assert [
        "reader 0: get -> nothing",
        "reader 0: load -> (0, 0)",
        "writer: commit -> (1, 0)",
        "worker: delete -> False",
        "reader 0: set",
        "stale",
    ] == found_out("the protocol")


def test_without_the_nonce_somebody_elses_placeholder_is_filled_over() -> None:
    assert [
        "reader 0: get -> nothing",
        "reader 0: add -> True",
        "reader 0: load -> (0, 0)",
        "writer: commit -> (1, 0)",
        "worker: delete -> True",
        "reader 1: get -> nothing",
        "reader 1: add -> True",
        "reader 0: gets -> reader 1, 0",
        "reader 0: cas -> True",
        "stale",
    ] == found_out("the nonce")


def test_without_a_new_read_after_the_add_what_was_evicted_before_it_is_stored() -> None:
    assert [
        "reader 0: get -> nothing",
        "reader 0: load -> (0, 0)",
        "writer: commit -> (1, 0)",
        "worker: delete -> False",
        "reader 0: add -> True",
        "reader 0: gets -> reader 0, 0",
        "reader 0: cas -> True",
        "stale",
    ] == found_out("the new read after the add")


def test_without_a_strict_as_of_a_read_of_the_same_position_is_taken_for_a_later_one() -> None:
    assert [
        "reader 0: get -> nothing",
        "writer: commit -> (1, 0)",
        "worker: delete -> False",
        "reader 0: add -> True",
        "reader 0: position -> 0",
        "reader 0: load -> (0, 0) as of 0",
        "reader 0: gets -> reader 0, 0",
        "reader 0: cas -> True",
        "stale",
    ] == found_out("the strict as_of")


def test_without_the_age_of_the_placeholder_a_lagging_read_is_stored() -> None:
    assert [
        "reader 0: get -> nothing",
        "writer: commit -> (1, 0)",
        "worker: delete -> False",
        "reader 0: add -> True",
        "reader 0: load -> (0, 0)",
        "reader 0: gets -> reader 0, 0",
        "reader 0: cas -> True",
        "stale",
    ] == found_out("the age of the placeholder")


def test_without_the_one_connection_a_cas_number_means_another_placeholder_after_a_restart() -> None:
    assert [
        "reader 0: get -> nothing",
        "reader 0: add -> True",
        "reader 0: load -> (0, 0)",
        "reader 0: gets -> reader 0, 0",
        "writer: commit -> (1, 0)",
        "worker: delete -> True",
        "reader 1: get -> nothing",
        "memcached: restart",
        "reader 1: add -> True",
        "reader 0: cas -> True",
        "stale",
    ] == found_out("the one connection")


def test_read_in_a_snapshot_opened_before_is_stored_where_it_does_not_tell_as_of() -> None:
    assert [
        "reader 0: get -> nothing",
        "writer: commit -> (1, 0)",
        "worker: delete -> False",
        "reader 0: add -> True",
        "reader 0: load -> (0, 0)",
        "reader 0: gets -> reader 0, 0",
        "reader 0: cas -> True",
        "stale",
    ] == found_out("a snapshot of its own")


def test_without_a_read_of_its_own_before_it_a_shared_load_may_be_older_than_the_eviction_that_the_caller_knows() -> (
    None
):
    assert [
        "reader 0: get -> nothing",
        "reader 0: add -> True",
        "reader 0: load -> (0, 0)",
        "writer: commit -> (1, 0)",
        "worker: delete -> True",
        "reader 1: get -> nothing",
        "reader 0: gets -> nothing",
        "stale",
    ] == found_out("the own read before a shared load")


def test_without_all_placeholders_before_it_one_load_for_several_keys_fills_a_value_that_was_evicted() -> None:
    assert [
        "reader 0: get -> nothing",
        "reader 0: add -> True",
        "reader 0: load -> (0, 0)",
        "writer: commit -> (1, 0)",
        "worker: delete a -> True",
        "reader 0: gets -> nothing",
        "reader 1: get -> nothing",
        "worker: delete b -> False",
        "reader 1: add -> True",
        "reader 1: gets -> reader 0, 1",
        "reader 1: cas -> True",
        "stale",
    ] == found_out("the placeholders before the one load")


def test_without_the_eviction_by_both_rings_the_owner_by_the_other_one_keeps_the_old_value() -> None:
    assert [
        "reader 1: get -> nothing",
        "reader 1: add -> True",
        "reader 1: load -> (0, 0)",
        "reader 1: gets -> reader 1, 0",
        "reader 1: cas -> True",
        "writer: commit -> (1, 0)",
        "worker: delete k on c1 -> False",
        "stale",
    ] == found_out("the eviction by both rings")


def test_without_the_handing_over_of_a_flight_others_wait_for_ever() -> None:
    assert [
        "reader 0: get -> nothing",
        "reader 0: add -> True",
        "reader 0: load -> (0, 0)",
        "reader 0: gets -> reader 0, 0",
        "reader 1: get -> reader 0, 0",
        "reader 0: cas -> True",
        "left",
    ] == found_out("the handing over of a flight")


def test_without_the_gate_a_change_event_that_comes_before_its_commit_is_seen_leaves_the_old_value() -> None:
    assert [
        "reader 0: get -> nothing",
        "writer: commit, decoded",
        "worker: delete -> False",
        "reader 0: add -> True",
        "reader 0: load -> (0, 0)",
        "reader 0: gets -> reader 0, 0",
        "reader 0: cas -> True",
        "database: commit seen -> (1, 0)",
        "stale",
    ] == found_out("the gate before a change event")


@pytest.mark.parametrize(
    ("guard", "error"),
    [
        ("the release after a failed load", "LoadError"),
        ("the release after a cancelled load", "CancelledError"),
    ],
)
def test_without_the_release_a_load_that_failed_leaves_its_placeholder(guard: str, error: str) -> None:
    assert [
        "reader 0: get -> nothing",
        "reader 0: add -> True",
        f"reader 0: load -> {error}",
        "left",
    ] == found_out(guard)


def test_without_the_release_a_refused_value_leaves_its_placeholder() -> None:
    assert [
        "reader 0: get -> nothing",
        "reader 0: add -> True",
        "reader 0: load -> (0, 0)",
        "reader 0: gets -> reader 0, 0",
        "reader 0: cas -> Failure.REFUSED",
        "left",
    ] == found_out("the release of a refused value")
