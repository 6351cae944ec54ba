"""Guards of the reader's protocol: each test is red without the line that it names."""

from typing import Any

import pytest

from invalidator.app.cache.commands import Add, Cas, Failure, Get, Gets, Held, Join, Load, Reading, ReadOutcome, Wait
from invalidator.app.cache.freshness import Loaded, Source
from invalidator.app.cache.items import LEASE, NOTHING, Item, Json
from invalidator.app.cache.multi import together
from invalidator.app.cache.reader import EXPIRED, Bounded, Reader, Terms, terms_of
from invalidator.errors import ConfigurationError
from tests.test_herds import MINE, Process, end
from tests.test_herds import K as KEY
from tests.test_reader import TERMS, VALUE, Clock, K, play, reader

STALE_FOR_5 = Terms(ttl=60, negative_ttl=60, stale_for=5)


@pytest.mark.parametrize("ttl", [0, -1])
def test_terms_without_a_time_to_live_are_refused(ttl: float) -> None:
    with pytest.raises(ConfigurationError, match=f"a ttl of {ttl} s caches nothing"):
        terms_of(ttl=ttl)


@pytest.mark.parametrize(("negative_ttl", "expected"), [(None, 0.5), (0, 0), (7, 7)])
def test_none_lives_as_long_as_a_value_unless_told_otherwise(negative_ttl: float | None, expected: float) -> None:
    assert Terms(0.5, expected, 3.0) == terms_of(ttl=0.5, negative_ttl=negative_ttl, stale_for=3.0)


def test_a_value_is_filled_for_its_own_ttl_and_none_for_the_other() -> None:
    terms = Terms(ttl=60, negative_ttl=5)
    for value, item, expire in ((1, Item(b"1"), 60), (None, Item(b"", NOTHING), 5)):
        commands, _ = play(reader().read(K, terms), None, True, Loaded(value), Held(MINE_OF_READER, "token"), True)
        assert Cas(K, item, expire, "token") == commands[-1]


MINE_OF_READER = Item(b"mine", LEASE)


def test_the_time_to_live_is_shortened_at_random_between_a_tenth_and_nothing() -> None:
    bounds: list[tuple[float, float]] = []

    def uniform(shortest: float, longest: float) -> float:
        bounds.append((shortest, longest))
        return shortest

    assert 54 == Reader(Source(), Json(), uniform=uniform)._expire(60)
    assert [(0.9, 1.0)] == bounds
    assert [EXPIRED, 1] == [Reader(Source(), Json(), uniform=uniform)._expire(ttl) for ttl in (0, 1)]


def test_a_reader_whose_add_was_refused_lets_the_process_wait_for_nobody() -> None:
    """`add` fails outright: there is no reader to wait for, so it loads at once."""
    commands, reading = play(reader(patience=1).read(K, TERMS), None, None, Loaded(1))
    assert [Get(K), Add(K, MINE_OF_READER, 30), Load(K)] == commands
    assert Reading(1, ReadOutcome.UNFILLED) == reading


def test_while_memcached_is_down_nobody_waits_for_another_reader() -> None:
    commands, reading = play(reader(patience=1).read(K, TERMS), Failure.DOWN, Loaded(1))
    assert ([Get(K), Load(K)], Reading(1, ReadOutcome.UNFILLED)) == (commands, reading)


def test_an_item_that_another_client_wrote_is_no_placeholder_to_wait_for() -> None:
    commands, _ = play(reader(patience=1).read(K, TERMS), Item(b"x", 77), Loaded(1))
    assert [Get(K), Load(K)] == commands


# What a process has seen


def test_only_a_caller_who_takes_stale_values_leaves_one() -> None:
    cautious = reader()
    play_hit(cautious, TERMS)
    assert cautious._last_seen.get(K) is None
    assert cautious.hit(K, VALUE, TERMS)
    assert cautious._last_seen.get(K) is None
    play_hit(cautious, Terms(ttl=60, negative_ttl=60, stale_for=0.5))
    assert cautious._last_seen.get(K)


def play_hit(of: Reader, terms: Terms) -> None:
    assert ([Get(K)], Reading({"price": 1}, ReadOutcome.HIT)) == play(of.read(K, terms), VALUE)


@pytest.mark.parametrize("stale_for", [0, 0.5])
def test_only_a_caller_who_takes_stale_values_gets_one(stale_for: float) -> None:
    willing = reader(clock=Clock())
    willing._keep_last_seen(K, VALUE, STALE_FOR_5, seen_at=100.0)
    found = willing._recently_seen(K, Terms(ttl=60, negative_ttl=60, stale_for=stale_for))
    assert (Reading({"price": 1}, ReadOutcome.STALE) if stale_for else None) == found


def test_a_loaded_value_is_kept_for_later_readers_who_take_stale_ones() -> None:
    willing = reader(clock=Clock())
    play(willing.read(K, STALE_FOR_5), None, True, Loaded({"price": 1}), None)
    assert Reading({"price": 1}, ReadOutcome.STALE) == willing._recently_seen(K, STALE_FOR_5)
    unwilling = reader(clock=Clock())
    play(unwilling.read(K, TERMS), None, True, Loaded({"price": 1}), None)
    assert unwilling._last_seen.get(K) is None


def test_who_takes_stale_values_does_not_wait_for_another_reader_of_the_process() -> None:
    process = Process()
    process._reader._keep_last_seen(KEY, VALUE, STALE_FOR_5, seen_at=process._reader._clock())
    first = process.begin()
    process.begin_load(first)
    second = process._reader.read(KEY, STALE_FOR_5)
    next(second)
    assert Reading({"price": 1}, ReadOutcome.STALE) == end(second, MINE)


# What readers of a process share


def test_an_unproven_or_uncached_load_is_shared_by_value() -> None:
    process = Process()
    first, second = process.begin(), process.begin()
    assert isinstance(first.send(Item(b"of another client", 77)), Load)
    assert isinstance(second.send(None), Join)
    mine = end(first, Loaded([1]))
    shared = end(second, None)
    assert (Reading([1], ReadOutcome.UNFILLED), Reading([1], ReadOutcome.SHARED)) == (mine, shared)
    assert mine.value is not shared.value


def test_a_value_that_cannot_be_serialized_is_shared_as_it_is() -> None:
    process, value = Process(), object()
    first, second = process.begin(), process.begin()
    process.begin_load(first)
    assert isinstance(second.send(MINE), Join)
    assert isinstance(first.send(Loaded(value)), Gets)
    assert value is end(first, None).value
    assert Reading(value, ReadOutcome.SHARED) == end(second, None)


# The memory


def test_an_entry_that_fills_the_memory_is_kept_and_a_larger_one_drops_the_one_before() -> None:
    bounded: Bounded[str, bytes] = Bounded(3, len)
    bounded.put("k", b"123")
    assert b"123" == bounded.get("k")
    bounded.put("k", b"1234")
    assert bounded.get("k") is None


def test_an_entry_is_replaced_without_room_for_both() -> None:
    bounded: Bounded[str, Any] = Bounded(3, len)
    bounded.put("other", b"1")
    bounded.put("k", b"12")
    bounded.put("k", b"34")
    assert [b"1", b"34"] == [bounded.get("other"), bounded.get("k")]


# Many keys


ALL_HITS = [Item(b"1"), Item(b"2")]


def test_many_hits_are_decoded_at_once() -> None:
    assert [1, 2] == reader().all_hits(ALL_HITS, TERMS)


@pytest.mark.parametrize(
    ("found", "stale_for"),
    [
        (ALL_HITS, 0.5),  # each is to be remembered
        ([], 0),
        ([Item(b"1"), None], 0),
        ([Item(b"1"), Failure.DOWN], 0),
        ([Item(b"1"), MINE_OF_READER], 0),
        ([Item(b"1"), Item(b"no JSON")], 0),
    ],
)
def test_anything_else_among_many_answers_is_considered_one_by_one(found: list[Any], stale_for: float) -> None:
    assert reader().all_hits(found, Terms(ttl=60, negative_ttl=60, stale_for=stale_for)) is None


class OneStep:
    """A reading of one command, which notices its end."""

    def __init__(self, command: Any) -> None:
        self.has_ended = False
        self.steps = self._run(command)

    def _run(self, command: Any) -> Any:
        try:
            yield command
        finally:
            self.has_ended = True


def test_readings_that_a_failed_load_abandons_have_ended_when_its_error_is_raised() -> None:
    loading, waiting = OneStep(Load("a")), OneStep(Wait(1.0))
    rounds = together([loading.steps, waiting.steps])
    assert [Load("a")] == next(rounds)
    with pytest.raises(LookupError) as raised:
        rounds.throw(LookupError())
    assert (True, True) == (loading.has_ended, waiting.has_ended), raised


def test_rounds_that_are_given_up_end_their_readings_without_an_error() -> None:
    reading = OneStep(Load("a"))
    rounds = together([reading.steps])
    next(rounds)
    rounds.close()
    assert reading.has_ended
