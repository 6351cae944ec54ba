"""The memcached of `invalidator.testing`, and of the explorer, agrees with the real one, command by command."""

from random import Random

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, rule, run_state_machine_as_test

from invalidator.app.cache.commands import Failure, Held
from invalidator.app.cache.items import LEASE, Item
from invalidator.app.cache.reader import Reader
from tests.explorer.case import KEY
from tests.explorer.chance import random_case, rest
from tests.explorer.real import Both
from tests.explorer.world import World
from tests.servers import Memcached

from .conftest import MemcachedFactory

KEYS = st.sampled_from(["a", "b"])
ITEMS = st.builds(Item, st.binary(max_size=20), st.sampled_from([0, LEASE, 0xFFFFFFFF]))
EXPIRES = st.sampled_from([0, 1000, -1])


class Commands(RuleBasedStateMachine):
    """Any commands in any order. `Both` raises if model and memcached differ."""

    server: Memcached
    held = Bundle("held")

    @initialize()
    def begin(self) -> None:
        self.both = Both(self.server)
        for key in ("a", "b"):
            self.server.delete(key)

    def teardown(self) -> None:
        self.both.close()

    @rule(key=KEYS)
    def get(self, key: str) -> None:
        self.both.get(key)

    @rule(target=held, key=KEYS)
    def gets(self, key: str) -> tuple[str, Held | None]:
        return key, self.both.gets(key)

    @rule(key=KEYS, item=ITEMS, expire=EXPIRES)
    def add(self, key: str, item: Item, expire: int) -> None:
        self.both.add(key, item, expire)

    @rule(key=KEYS, item=ITEMS, expire=EXPIRES)
    def set(self, key: str, item: Item, expire: int) -> None:
        self.both.set(key, item, expire)

    @rule(held=consumes(held), item=ITEMS, expire=EXPIRES)
    def cas(self, held: tuple[str, Held | None], item: Item, expire: int) -> None:
        key, found = held
        if found:
            self.both.cas(key, item, expire, found.token)

    @rule(key=KEYS)
    def delete(self, key: str) -> None:
        self.both.delete(key)


class CommandsAndRestarts(Commands):
    @rule()
    def restart(self) -> None:
        self.both.restart()


@pytest.mark.parametrize(("machine", "examples"), [(Commands, 100), (CommandsAndRestarts, 10)])
def test_model_answers_every_command_as_memcached_does(
    machine: type[Commands], examples: int, memcached: MemcachedFactory
) -> None:
    class OnThisServer(machine):  # type: ignore[misc,valid-type]
        server = memcached("-t", "1")

    run_state_machine_as_test(
        OnThisServer,
        settings=settings(
            max_examples=examples, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


def test_cas_numbers_begin_again_with_memcached(memcached: MemcachedFactory) -> None:
    both = Both(memcached())
    tokens = []
    for _ in range(2):
        both.add(KEY, Item(b"1"), 60)
        held = both.gets(KEY)
        assert held
        (token,) = both._tokens[held.token]
        tokens.append((held.token[1], int(token.number)))
        both.restart()
    assert tokens[0] == tokens[1]
    both.close()


@pytest.mark.parametrize("size", [(1 << 20) - 1024, 1 << 20])
def test_a_value_that_memcached_refuses_is_refused(size: int, memcached: MemcachedFactory) -> None:
    both = Both(memcached())
    both.add(KEY, Item(b"1"), 60)
    held = both.gets(KEY)
    assert held
    assert size < 1 << 20 or both.cas(KEY, Item(b"x" * size), 60, held.token) is Failure.REFUSED
    both.close()


def agree(server: Memcached, runs: range) -> None:
    for number in runs:
        chance = Random(number)
        _, case = random_case(Reader, chance)
        server.delete(KEY)
        both = Both(server)
        world = World(case, both)
        rest(world, chance)
        assert not world.is_stale(), f"run {number}"
        both.close()


def test_random_runs_on_real_memcached_agree_with_the_model(memcached: MemcachedFactory) -> None:
    agree(memcached("-t", "1"), range(100))


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_twenty_thousand_random_runs_on_real_memcached_agree_with_the_model(memcached: MemcachedFactory) -> None:
    agree(memcached("-t", "1"), range(20_000))
