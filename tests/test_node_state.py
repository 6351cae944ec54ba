"""A reader's knowledge of a node: that it is down, and that it has no CAS numbers."""

from typing import Any

import pytest

from invalidator.app.cache.commands import Add, Failure, Get, Gets, Held
from invalidator.app.cache.items import LEASE, Item
from invalidator.app.cache.nodes.node_state import COOLDOWN_SECONDS, CasSupport, Cooldown, NodeState
from invalidator.app.cache.nodes.protocol import Numbered
from invalidator.app.cache.nodes.routing import Token
from tests.logs import capture_logs

DOWN = OSError("no answer")
VALUE, PLACEHOLDER = Item(b"1"), Item(b"nonce", LEASE)


def hold(number: bytes) -> Token:
    return Token(None, None, number)


def test_a_node_that_failed_is_skipped_for_a_while_and_then_one_caller_tries_it() -> None:
    cooldown = Cooldown("n1")
    assert not cooldown.is_on(100.0)
    cooldown.begin(100.0, DOWN)
    over = 100.0 + COOLDOWN_SECONDS
    assert [True, True, False, True] == [cooldown.is_on(now) for now in (100.0, over - 0.1, over, over)]
    cooldown.begin(200.0, DOWN)
    assert cooldown.is_on(200.5), "it failed again"
    cooldown.end()
    assert not cooldown.is_on(200.6)


def test_each_outage_is_logged_when_it_begins_and_when_it_ends() -> None:
    cooldown = Cooldown("n1")
    with capture_logs() as lines:
        cooldown.end()
        for _ in range(2):
            for now in (1.0, 2.0):
                cooldown.begin(now, DOWN)
            for _ in range(2):
                cooldown.end()
    assert [
        ("memcached does not answer: reads go to the source", "n1"),
        ("memcached answers again", "n1"),
    ] * 2 == [(line["event"], line["node"]) for line in lines]
    assert "OSError('no answer')" == lines[0]["error"]


def test_a_node_without_cas_numbers_is_found_and_logged_once() -> None:
    support = CasSupport("n1")
    assert not support.is_missing
    with capture_logs() as lines:
        assert [True, False, False] == [support.check(number) for number in (b"10", b"0", b"00")]
        assert support.is_missing
        support.may_have_changed()
        assert not support.is_missing, "it may have been restarted with other options"
        assert [False, True] == [support.check(number) for number in (b"0", b"1")]
    assert not support.is_missing
    assert ["n1"] == [line["node"] for line in lines]


def test_a_node_is_well_until_it_fails_and_again_once_it_answers() -> None:
    state = NodeState("n1")
    assert (True, False) == (state.is_well, state.skips(Get, 1.0))
    state.failed(1.0, DOWN)
    assert (False, True) == (state.is_well, state.skips(Get, 1.5))
    state.answered()
    assert (True, False) == (state.is_well, state.skips(Get, 1.5))


@pytest.mark.parametrize("heals", ["fails", "may have restarted"])
def test_of_a_node_without_cas_numbers_values_are_read_and_nothing_else(heals: str) -> None:
    state = NodeState("n1")
    assert [Failure.DOWN] == state.usable([Numbered(PLACEHOLDER, b"0")], hold)
    assert not state.is_well
    state.answered()
    assert not state.is_well, "that it answers changes nothing"
    assert [False, True, True] == [state.skips(kind, 1.0) for kind in (Get, Gets, Add)]
    answers: list[Any] = [VALUE, PLACEHOLDER, None, Failure.REFUSED]
    assert [VALUE, Failure.DOWN, None, Failure.REFUSED] == state.usable(answers, hold)
    if heals == "fails":
        state.failed(1.0, DOWN)
    else:
        state.may_have_restarted()
    state.answered()
    assert (True, False) == (state.is_well, state.skips(Add, 1.0))


def test_an_item_with_its_number_is_held() -> None:
    state = NodeState("n1")
    assert [Held(VALUE, hold(b"7")), PLACEHOLDER] == state.usable([Numbered(VALUE, b"7"), PLACEHOLDER], hold)
    assert state.is_well
    state.failed(1.0, DOWN)
    state.usable([Numbered(VALUE, b"7")], hold)
    assert not state.is_well, "a number alone does not heal a node"
