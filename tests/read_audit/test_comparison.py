"""The comparison of a hit with the source, whatever happens between any two of its steps."""

import itertools
import json
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from enum import Enum
from typing import Any, NamedTuple

import pytest

from invalidator.app.cache.audit.comparison import AuditOutcome, Comparison
from invalidator.app.cache.commands import Command, Failure, Gets, Held, LetGo, Load, Wait
from invalidator.app.cache.freshness import Loaded
from invalidator.app.cache.items import NOTHING, Item, Json, placeholder

K = "product:1"
FRESH, GONE, STALE, UNDECIDED = AuditOutcome


def value(price: int | None) -> Item:
    return Item(b"", NOTHING) if price is None else Item(b"%d" % price)


class World:
    """A row, and the item that memcached holds for it."""

    def __init__(self, price: Any, item: Item | None) -> None:
        self.price = price
        self.item = item
        self.number = 1
        self.as_of: float | None = None
        self.is_down = False
        self.loads = 0

    def commit(self, price: Any) -> None:
        self.price = price

    def store(self, item: Item | None) -> None:
        self.item, self.number = item, self.number + 1

    def evict(self) -> None:
        self.store(None)

    def fill(self) -> None:
        """Fill as a reader does, which finds nothing and loads."""
        if self.item is None:
            self.store(value(self.price))

    def answer(self, command: Command) -> Any:
        match command:
            case Gets():
                found = self.item and Held(self.item, ("connection", self.number))
                return Failure.DOWN if self.is_down else found
            case Load():
                self.loads += 1
                return Loaded(self.price, self.as_of)
            case Wait() | LetGo():
                return None
        raise AssertionError(command)


def commands(world: World, served: Item, serializer: Any = None) -> Generator[Command, None, AuditOutcome]:
    """Yield each command before it is executed, and return the outcome."""
    steps = Comparison(serializer or Json()).steps(K, served)
    command = next(steps)
    while True:
        yield command
        try:
            command = steps.send(world.answer(command))
        except StopIteration as end:
            found: AuditOutcome = end.value
            return found


def outcome(world: World, served: Item, serializer: Any = None, **before: Any) -> AuditOutcome:
    """Return the outcome. `before` names what happens before a command: ``Load2=…`` before the second load."""
    going, number = commands(world, served, serializer), Counter[str]()
    while True:
        try:
            command = next(going)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        name = type(command).__name__
        number[name] += 1
        before.get(f"{name}{number[name]}", lambda: None)()


# Each way in which a comparison ends


def test_value_that_is_the_sources_is_fresh_and_costs_one_command_and_one_load() -> None:
    world = World(1, value(1))
    assert [Gets(K), LetGo(("connection", 1)), Load(K)] == list(commands(world, value(1)))
    assert FRESH is outcome(world, value(1))


@pytest.mark.parametrize(("truth", "served"), [(2, 1), (None, 1), (2, None)], ids=["changed", "deleted", "new row"])
def test_value_that_outlives_its_change_is_stale(truth: int | None, served: int | None) -> None:
    world = World(truth, value(served))
    assert STALE is outcome(world, value(served))
    assert 2 == world.loads


def test_value_that_is_evicted_after_the_hit_is_gone_without_a_load() -> None:
    for item in (None, placeholder(), value(2)):
        world = World(2, item)
        assert GONE is outcome(world, value(1))
        assert 0 == world.loads


@pytest.mark.parametrize("item", [None, placeholder(), value(2)], ids=["evicted", "being filled", "replaced"])
def test_value_that_is_gone_two_seconds_later_was_not_stale_for_so_long(item: Item | None) -> None:
    world = World(2, value(1))
    assert GONE is outcome(world, value(1), Wait1=lambda: world.store(item))


def test_value_on_a_node_that_does_not_answer_is_undecided() -> None:
    world = World(2, value(1))
    world.is_down = True
    assert UNDECIDED is outcome(world, value(1))
    world.is_down = False
    assert UNDECIDED is outcome(world, value(1), Load2=lambda: setattr(world, "is_down", True))


# The guards


def test_old_value_that_was_stored_again_meanwhile_is_undecided() -> None:
    world = World(2, value(1))
    assert UNDECIDED is outcome(world, value(1), Wait1=lambda: world.store(value(1)))


def test_old_value_of_a_source_that_changed_meanwhile_is_undecided() -> None:
    world = World(2, value(1))
    assert UNDECIDED is outcome(world, value(1), Load2=lambda: world.commit(3))


def test_source_that_may_be_behind_the_cache_proves_nothing() -> None:
    world = World(1, value(2))
    world.as_of = 7.0
    with pytest.raises(ValueError, match="audit_source"):
        outcome(world, value(2))


def test_value_that_does_not_equal_itself_proves_nothing() -> None:
    class Objects:
        dumps = staticmethod(lambda value: json.dumps(value).encode())
        loads = staticmethod(lambda data: object())

    assert UNDECIDED is outcome(World(2, value(1)), value(1), Objects())
    assert FRESH is outcome(World(1, value(1)), value(1), Objects())


def test_bytes_that_differ_and_mean_the_same_are_fresh() -> None:
    assert FRESH is outcome(World({"a": 1, "b": 2}, Item(b'{"b":2, "a":1}')), Item(b'{"b":2, "a":1}'))


def test_value_that_cannot_be_serialized_is_the_errors() -> None:
    with pytest.raises(TypeError):
        outcome(World((1, 2), value(1)), value(1))


# Every interleaving with a writer whose price goes to and fro, and with a reader that fills


class Act(Enum):
    COMMIT, EVICT, FILL = range(3)


class Moment(NamedTuple):
    """An act, and the number of commands that come before it."""

    act: Act
    at: int


#: Gets, LetGo, Load, Wait, Load, Gets, LetGo. An act at 3 comes while the comparison waits.
WAIT = 3
CHANGE = [Act.COMMIT, Act.EVICT, Act.FILL]


def interleavings(acts: Sequence[Act]) -> Iterator[list[Moment]]:
    for at in itertools.combinations_with_replacement(range(7), len(acts)):
        yield [Moment(act, position) for act, position in zip(acts, at, strict=True)]


def is_in_time(moments: Sequence[Moment]) -> bool:
    """Return True if each eviction comes within the two seconds that a value settles."""
    commits = [moment.at for moment in moments if moment.act is Act.COMMIT]
    evictions = [moment.at for moment in moments if moment.act is Act.EVICT]
    return all(evicted <= WAIT for changed, evicted in zip(commits, evictions, strict=True) if changed < WAIT)


def played(moments: Sequence[Moment]) -> tuple[AuditOutcome, list[int]]:
    """Return the outcome, and the prices at the comparison's reads of the source."""
    world, left = World(1, value(1)), list(moments)
    read: list[int] = []
    going = commands(world, value(1))
    for number in itertools.count():
        try:
            command = next(going)
        except StopIteration as end:
            return end.value, read
        while left and left[0].at <= number:
            match left.pop(0).act:
                case Act.COMMIT:
                    world.commit(3 - world.price)
                case Act.EVICT:
                    world.evict()
                case Act.FILL:
                    world.fill()
        read += [world.price] if isinstance(command, Load) else []
    raise AssertionError


def test_no_interleaving_makes_a_value_stale_whose_evictions_come_within_two_seconds() -> None:
    played_out = [moments for moments in interleavings(CHANGE * 3) if is_in_time(moments)]
    assert [] == [moments for moments in played_out if played(moments)[0] is STALE]
    assert len(played_out) > 1000


def test_without_the_two_seconds_interleavings_make_a_value_stale_that_is_about_to_be_evicted() -> None:
    assert any(played(moments)[0] is STALE for moments in interleavings(CHANGE * 3) if not is_in_time(moments))


def test_no_eviction_however_late_makes_a_value_stale_that_is_the_sources_at_either_read() -> None:
    for moments in interleavings([Act.COMMIT] * 3 + [Act.EVICT] * 2):
        found, read = played(moments)
        assert found is not STALE or [2, 2] == read, moments
