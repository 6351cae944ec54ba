"""Guards of the caches' ways to their nodes: each test is red without the line that it names."""

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from invalidator.app import LookAsideCache
from invalidator.app.cache.commands import Cas, Get
from invalidator.app.cache.items import Item
from invalidator.app.cache.nodes.routing import Placement, Route, Token, plan
from invalidator.errors import ConfigurationError
from tests.lying_memcached import LyingMemcached


@pytest.fixture
def node() -> Iterator[LyingMemcached]:
    with LyingMemcached() as node:
        yield node


def never() -> Any:
    raise AssertionError("loaded, and should not have been")


# Routes


def placement(prefix: str = "") -> Placement[str]:
    return Placement({"n1": "the node"}, kind="rendezvous", prefix=prefix)


@pytest.mark.parametrize("prefix", ["a b", "p" * 250])
def test_a_prefix_that_no_key_can_have_is_refused(prefix: str) -> None:
    with pytest.raises(ConfigurationError, match="the key prefix"):
        placement(prefix)


def test_the_longest_prefix_leaves_a_byte_for_the_key() -> None:
    assert Route("the node", b"p" * 249 + b"k") == placement("p" * 249).route("k")


def test_a_key_that_is_too_long_with_its_prefix_has_no_route() -> None:
    routes = placement("p:")
    assert Route("the node", b"p:" + b"k" * 248) == routes.route("k" * 248)
    assert routes.route("k" * 249) is None


def test_a_key_that_cannot_be_cached_is_loaded_among_many(node: LyingMemcached) -> None:
    node.put("good", b"1")
    with closing(LookAsideCache([node.address])) as cache:
        asked: list[list[str]] = []

        def load(keys: list[str]) -> dict[str, int]:
            asked.append(keys)
            return dict.fromkeys(keys, 2)

        assert {"good": 1, "not good": 2} == cache.get_many_or_load(["good", "not good"], load, ttl=60)
    assert [["not good"]] == asked


def test_commands_on_different_held_connections_are_different_exchanges() -> None:
    commands = [Cas("k", Item(b"1"), 60, Token("the node", connection, b"1")) for connection in ("one", "two", "one")]
    assert [("the node", [0, 2]), ("the node", [1])] == plan(commands, placement())


def test_a_command_whose_key_cannot_be_cached_is_in_no_exchange() -> None:
    assert [("the node", [1])] == plan([Get("not good"), Get("good")], placement())
