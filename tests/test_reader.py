"""The reader's protocol, step by step, with every answer scripted."""

from typing import Any

import pytest

from invalidator.app.cache.commands import (
    Add,
    Cas,
    Failure,
    Get,
    Gets,
    Held,
    LetGo,
    Load,
    Position,
    Reading,
    ReadOutcome,
    Steps,
    Wait,
)
from invalidator.app.cache.freshness import Loaded, Source
from invalidator.app.cache.items import LEASE, NOTHING, Item, Json
from invalidator.app.cache.multi import together
from invalidator.app.cache.reader import STALE_BYTES, Reader, Terms
from tests.logs import capture_logs

K = "product:1"
MINE, OTHER = Item(b"mine", LEASE), Item(b"other", LEASE)
VALUE = Item(b'{"price":1}')
TERMS = Terms(ttl=60, negative_ttl=60)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


PRIMARY = Source()


def reader(source: Source = PRIMARY, *, patience: float = 0, clock: Clock | None = None) -> Reader:
    return Reader(
        source,
        Json(),
        patience=patience,
        clock=clock or Clock(),
        new_placeholder=lambda: MINE,
        uniform=lambda shortest, longest: longest,
    )


def play(steps: Steps, *answers: Any) -> tuple[list[Any], Reading]:
    """Return the commands that the reader gave for these answers, and its reading."""
    commands = [next(steps), *(steps.send(answer) for answer in answers[:-1])]
    with pytest.raises(StopIteration) as end:
        steps.send(answers[-1])
    return commands, end.value.value


def test_hit_is_one_command() -> None:
    assert ([Get(K)], Reading({"price": 1}, ReadOutcome.HIT)) == play(reader().read(K, TERMS), VALUE)


def test_miss_is_filled_over_its_own_placeholder() -> None:
    commands, reading = play(reader().read(K, TERMS), None, True, Loaded({"price": 1}), Held(MINE, "token"), True)
    assert [Get(K), Add(K, MINE, 30), Load(K), Gets(K), Cas(K, VALUE, 60, "token")] == commands
    assert Reading({"price": 1}, ReadOutcome.FILLED) == reading


@pytest.mark.parametrize("found", [OTHER, VALUE, Item(b"mine"), Item(b"", NOTHING)])
def test_any_other_item_is_left_alone_and_the_row_returned(found: Item) -> None:
    commands, reading = play(reader().read(K, TERMS), None, True, Loaded(1), Held(found, "token"), None)
    assert LetGo("token") == commands[-1]
    assert Reading(1, ReadOutcome.EVICTED) == reading


def test_placeholder_evicted_meanwhile_is_not_filled() -> None:
    commands, reading = play(reader().read(K, TERMS), None, True, Loaded(1), None)
    assert Gets(K) == commands[-1]
    assert Reading(1, ReadOutcome.EVICTED) == reading


def test_refused_cas_is_never_repeated() -> None:
    _, reading = play(reader().read(K, TERMS), None, True, Loaded(1), Held(MINE, "token"), False)
    assert Reading(1, ReadOutcome.EVICTED) == reading


@pytest.mark.parametrize("failure", list(Failure))
def test_memcached_that_fails_costs_nothing_but_the_fill(failure: Failure) -> None:
    unfilled = Reading(1, ReadOutcome.UNFILLED)
    assert ([Get(K), Load(K)], unfilled) == play(reader().read(K, TERMS), failure, Loaded(1))
    assert unfilled == play(reader().read(K, TERMS), None, failure, Loaded(1))[1]


def test_memcached_that_is_gone_after_the_load_costs_the_fill() -> None:
    steps = None, True, Loaded(1)
    assert Reading(1, ReadOutcome.UNFILLED) == play(reader().read(K, TERMS), *steps, Failure.DOWN)[1]
    assert Reading(1, ReadOutcome.UNFILLED) == play(reader().read(K, TERMS), *steps, Held(MINE, 1), Failure.DOWN)[1]


def test_value_that_memcached_refuses_releases_its_placeholder() -> None:
    with capture_logs() as logs:
        commands, reading = play(
            reader().read(K, TERMS), None, True, Loaded(1), Held(MINE, 1), Failure.REFUSED, Held(MINE, 2), True
        )
    assert [Gets(K), Cas(K, MINE, -1, 2)] == commands[-2:]
    assert Reading(1, ReadOutcome.UNFILLED) == reading
    assert ["memcached refused the value; serving it without caching"] == [log["event"] for log in logs]


def test_failed_load_releases_its_placeholder_and_is_raised() -> None:
    steps = reader().read(K, TERMS)
    play_to_load(steps)
    assert Gets(K) == steps.throw(KeyError("no database"))
    assert Cas(K, MINE, -1, "token") == steps.send(Held(MINE, "token"))
    with pytest.raises(KeyError):
        steps.send(True)


def play_to_load(steps: Steps) -> None:
    next(steps)
    steps.send(None)
    assert Load(K) == steps.send(True)


def test_value_that_cannot_be_serialized_is_served_and_not_cached() -> None:
    value = object()
    with capture_logs() as logs:
        commands, reading = play(reader().read(K, TERMS), None, True, Loaded(value), Held(MINE, "token"), True)
    assert Cas(K, MINE, -1, "token") == commands[-1]
    assert Reading(value, ReadOutcome.UNFILLED) == reading
    assert ["warning"] == [log["log_level"] for log in logs]


def test_miss_returns_the_same_as_a_hit() -> None:
    class Rounding(Json):
        def dumps(self, value: Any, /) -> bytes:
            return super().dumps(round(value))

    rounded = Reader(PRIMARY, Rounding(), new_placeholder=lambda: MINE)
    _, reading = play(rounded.read(K, TERMS), None, True, Loaded(1.4), Held(MINE, "token"), True)
    assert 1 == reading.value


@pytest.mark.parametrize("value", [(1, 2), {1: 2}, {"deep": [(1,)]}, float("nan"), {True: 1}])
def test_value_that_json_would_change_is_served_as_it_is_and_not_cached(value: Any) -> None:
    with capture_logs() as logs:
        commands, reading = play(reader().read(K, TERMS), None, True, Loaded(value), Held(MINE, "token"), True)
    assert Cas(K, MINE, -1, "token") == commands[-1]
    assert value is reading.value
    assert ["cannot serialize the value; serving it without caching"] == [log["event"] for log in logs]


def test_value_that_cannot_be_cached_is_logged_once_for_each_kind_of_key() -> None:
    same = reader()
    with capture_logs() as logs:
        for key in ("product:1", "product:2", "user:1", "product:1", "user:2"):
            play(same.read(key, TERMS), None, True, Loaded(object()), Held(MINE, "token"), True)
            play(same.read(key, TERMS), Item(b"not JSON"), Loaded(1))
    serializing = "cannot serialize the value; serving it without caching"
    reading = "cannot read the cached item; loading the value instead"
    assert [
        (serializing, "product:1"), (reading, "product:1"), (serializing, "user:1"), (reading, "user:1"),
    ] == [(log["event"], log["key"]) for log in logs]  # fmt: skip


@pytest.mark.parametrize("found", [Item(b"not JSON"), Item(b"pickled", 1)])
def test_unreadable_item_is_loaded_and_left_alone(found: Item) -> None:
    with capture_logs() as logs:
        commands, reading = play(reader().read(K, TERMS), found, Loaded(1))
    assert [Get(K), Load(K)] == commands
    assert Reading(1, ReadOutcome.UNFILLED) == reading
    assert ["warning"] == [log["log_level"] for log in logs]


def test_none_is_kept_as_such_for_its_own_ttl() -> None:
    terms = Terms(ttl=60, negative_ttl=5)
    commands, reading = play(reader().read(K, terms), None, True, Loaded(None), Held(MINE, "token"), True)
    assert Cas(K, Item(b"", NOTHING), 5, "token") == commands[-1]
    assert Reading(None, ReadOutcome.FILLED) == reading
    assert Reading(None, ReadOutcome.HIT) == play(reader().read(K, terms), Item(b"", NOTHING))[1]


def test_none_need_not_be_kept() -> None:
    terms = Terms(ttl=60, negative_ttl=0)
    commands, _ = play(reader().read(K, terms), None, True, Loaded(None), Held(MINE, "token"), True)
    assert -1 == commands[-1].expire


def test_ttl_is_shortened_by_a_tenth_at_most_and_never_beyond_thirty_days() -> None:
    chosen = iter([0.9, 1.0, 1.0, 0.9])
    shortening = Reader(PRIMARY, Json(), uniform=lambda shortest, longest: next(chosen))
    assert [90, 100, 2_592_000, 1] == [shortening._expire(ttl) for ttl in (100, 100, 1e9, 0.5)]


# Other readers filling


def test_loser_waits_for_the_fill_of_the_winner() -> None:
    commands, reading = play(reader(patience=0.015).read(K, TERMS), None, False, None, OTHER, None, VALUE)
    assert [Get(K), Add(K, MINE, 30), Wait(0.005), Get(K), Wait(0.01), Get(K)] == commands
    assert Reading({"price": 1}, ReadOutcome.WAITED) == reading


def test_loser_that_waited_in_vain_fills_over_the_placeholder_it_saw() -> None:
    commands, reading = play(
        reader(patience=0.005).read(K, TERMS), OTHER, None, OTHER, Loaded({"price": 1}), Held(OTHER, "token"), True
    )
    assert [Load(K), Gets(K), Cas(K, VALUE, 60, "token")] == commands[-3:]
    assert ReadOutcome.FILLED == reading.outcome


def test_loser_fills_over_no_placeholder_that_came_after_its_read() -> None:
    _, reading = play(reader().read(K, TERMS), OTHER, Loaded(1), Held(MINE, "token"), None)
    assert ReadOutcome.EVICTED == reading.outcome


def test_loser_that_saw_no_placeholder_loads_without_filling() -> None:
    commands, reading = play(reader().read(K, TERMS), None, False, Loaded(1))
    assert [Get(K), Add(K, MINE, 30), Load(K)] == commands
    assert Reading(1, ReadOutcome.UNFILLED) == reading


def test_loser_takes_the_copy_this_process_still_has_where_that_is_allowed() -> None:
    clock = Clock()
    waiting, terms = reader(patience=0.005, clock=clock), Terms(ttl=60, negative_ttl=60, stale_for=5)
    play(waiting.read(K, terms), VALUE)
    clock.now += 5
    assert ([Get(K)], Reading({"price": 1}, ReadOutcome.STALE)) == play(waiting.read(K, terms), OTHER)
    assert Wait(0.005) == play(waiting.read(K, TERMS), OTHER, None, VALUE)[0][1]
    clock.now += 0.1
    assert Wait(0.005) == play(waiting.read(K, terms), OTHER, None, VALUE)[0][1]


def test_stale_copy_is_as_old_as_the_beginning_of_the_load() -> None:
    clock = Clock()
    waiting, terms = reader(patience=0.005, clock=clock), Terms(ttl=60, negative_ttl=60, stale_for=5)
    steps = waiting.read(K, terms)
    play_to_load(steps)
    clock.now += 4
    assert Gets(K) == steps.send(Loaded(1))
    clock.now += 2
    assert Wait(0.005) == play(waiting.read(K, terms), OTHER, None, VALUE)[0][1]


def test_stale_copies_are_bounded_by_their_bytes_and_their_number() -> None:
    terms = Terms(ttl=60, negative_ttl=60, stale_for=5)
    waiting = reader(patience=0.005)
    for number in range(5):
        play(waiting.read(f"{number}", terms), Item(b'"%b"' % (b"x" * (STALE_BYTES // 3))))
    play(waiting.read("too large", terms), Item(b'"%b"' % (b"x" * STALE_BYTES)))
    assert ["3", "4"] == list(waiting._last_seen._entries)
    many = Reader(PRIMARY, Json(), memory=10)
    for number in range(50):
        play(many.read(f"{number}", terms), VALUE)
    assert 10 == len(many._last_seen._entries)


def test_pauses_are_short_at_first_and_no_longer_than_there_is_patience() -> None:
    assert [0.005, 0.01, 0.02, 0.04, 0.05, 0.05, 0.025] == pytest.approx(Reader(PRIMARY, Json(), patience=0.2)._pauses)
    assert () == Reader(PRIMARY, Json(), patience=0)._pauses


# Replicas


def test_replica_behind_the_birth_of_the_placeholder_is_served_and_not_stored() -> None:
    commands, reading = play(reader(Source(has_position=True)).read(K, TERMS), None, True, 7, Loaded(1, as_of=7))
    assert [Get(K), Add(K, MINE, 30), Position(), Load(K)] == commands
    assert Reading(1, ReadOutcome.UNPROVEN) == reading


def test_replica_past_the_birth_of_the_placeholder_fills() -> None:
    _, reading = play(
        reader(Source(has_position=True)).read(K, TERMS), None, True, 7, Loaded(1, as_of=7.5), Held(MINE, "token"), True
    )
    assert ReadOutcome.FILLED == reading.outcome


def test_next_read_is_proven_against_the_birth_of_the_same_placeholder_and_waits_for_nobody() -> None:
    behind = reader(Source(has_position=True), patience=0.005)
    play(behind.read(K, TERMS), None, True, 7, Loaded(1, as_of=7))
    commands, reading = play(behind.read(K, TERMS), MINE, Loaded(1, as_of=8), Held(MINE, "token"), True)
    assert [Get(K), Load(K), Gets(K)] == commands[:-1]
    assert ReadOutcome.FILLED == reading.outcome


@pytest.mark.parametrize(("birth", "as_of"), [(None, 8), (7, None)])
def test_nothing_is_proven_without_both_positions(birth: float | None, as_of: float | None) -> None:
    _, reading = play(reader(Source(has_position=True)).read(K, TERMS), None, True, birth, Loaded(1, as_of=as_of))
    assert ReadOutcome.UNPROVEN == reading.outcome


def test_as_of_without_a_position_to_compare_with_proves_nothing() -> None:
    _, reading = play(reader().read(K, TERMS), None, True, Loaded(1, as_of=8))
    assert ReadOutcome.UNPROVEN == reading.outcome


def test_read_that_began_when_the_placeholder_was_older_than_the_lag_fills() -> None:
    clock = Clock()
    lagging = reader(Source(max_lag=5), clock=clock)
    commands, reading = play(lagging.read(K, TERMS), None, True, Loaded(1))
    assert Add(K, MINE, 35) == commands[1]
    assert ReadOutcome.UNPROVEN == reading.outcome
    clock.now += 5
    assert ReadOutcome.UNPROVEN == play(lagging.read(K, TERMS), MINE, Loaded(1))[1].outcome
    clock.now += 0.1
    assert ReadOutcome.FILLED == play(lagging.read(K, TERMS), MINE, Loaded(1), Held(MINE, "token"), True)[1].outcome


def test_age_is_that_of_when_the_read_began_not_of_when_it_ended() -> None:
    clock = Clock()
    steps = reader(Source(max_lag=5), clock=clock).read(K, TERMS)
    play_to_load(steps)
    clock.now += 100
    with pytest.raises(StopIteration) as end:
        steps.send(Loaded(1))
    assert ReadOutcome.UNPROVEN == end.value.value.outcome


# Many keys


def test_many_keys_are_asked_for_at_once_and_loaded_after_all_placeholders_are_there() -> None:
    rounds = together([reader().read(key, TERMS) for key in ("a", "b", "c", "d")])
    assert [Get("a"), Get("b"), Get("c"), Get("d")] == next(rounds)
    assert [Add("b", MINE, 30), Add("c", MINE, 30), Add("d", MINE, 30)] == rounds.send([VALUE, None, None, None])
    assert [Load("b"), Load("c"), Load("d")] == rounds.send([True, True, True])
    assert [Gets("b"), Gets("c"), Gets("d")] == rounds.send([Loaded(2), Loaded(3), Loaded(4)])
    held = [Held(MINE, "token b"), None, Held(MINE, "token d")]
    assert [Cas("b", Item(b"2"), 60, "token b"), Cas("d", Item(b"4"), 60, "token d")] == rounds.send(held)
    with pytest.raises(StopIteration) as end:
        rounds.send([True, False])
    assert [
        Reading({"price": 1}, ReadOutcome.HIT),
        Reading(2, ReadOutcome.FILLED),
        Reading(3, ReadOutcome.EVICTED),
        Reading(4, ReadOutcome.EVICTED),
    ] == end.value.value


def test_connections_that_are_held_are_used_or_let_go_before_anything_else() -> None:
    rounds = together([reader().read(key, TERMS) for key in ("a", "b", "c")])
    next(rounds)
    rounds.send([None, None, None])
    rounds.send([True, True, True])
    rounds.send([Loaded(1), Loaded(2), Loaded(3)])
    held = [Held(MINE, "a"), Held(OTHER, "b"), Held(MINE, "c")]
    assert [Cas("a", Item(b"1"), 60, "a"), Cas("c", Item(b"3"), 60, "c")] == rounds.send(held)
    assert [LetGo("b")] == rounds.send([Failure.REFUSED, True])
    assert [Gets("a")] == rounds.send([None])


def test_keys_that_others_load_are_waited_for_after_ones_own_are_filled() -> None:
    rounds = together([reader(patience=0.005).read(key, TERMS) for key in ("a", "b")])
    next(rounds)
    assert [Add("b", MINE, 30)] == rounds.send([OTHER, None])
    assert [Load("b")] == rounds.send([True])
    assert [Gets("b")] == rounds.send([Loaded(2)])
    assert [Wait(0.005)] == rounds.send([None])


def test_failed_load_of_many_releases_all_placeholders_and_is_raised() -> None:
    rounds = together([reader(patience=0.005).read(key, TERMS) for key in ("a", "b", "c")])
    next(rounds)
    rounds.send([None, None, OTHER])
    assert [Load("a"), Load("b")] == rounds.send([True, True])
    assert [Gets("a"), Gets("b")] == rounds.throw(KeyError("no database"))
    assert [Cas("a", MINE, -1, "token")] == rounds.send([Held(MINE, "token"), None])
    with pytest.raises(KeyError):
        rounds.send([True])
