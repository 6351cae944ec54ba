"""Nodes that answer, but not memcached's meta commands: refused, named, and their keys parked."""

import pytest

from invalidator.memcached.eviction import Unreachable
from invalidator.memcached.failure import Failure
from invalidator.memcached.wire import LEAST_VERSION, chunks, refusal
from tests.scripted_node import Changes, ScriptedNode, node_at, say

TOO_OLD = f"use memcached {LEAST_VERSION} or later"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"ERROR\r\n", f"it knows no meta commands; {TOO_OLD}, and no proxy before it"),
        (b"ERROR\r\nERROR\r\n", f"it knows no meta commands; {TOO_OLD}, and no proxy before it"),
        (b"NF\r\n", f"it is too old; {TOO_OLD}"),
        (b"HD\r\n", f"it is too old; {TOO_OLD}"),
        (b"-ERR unknown command 'delete'\r\n", "it is not a memcached node but speaks Redis' protocol"),
        (b"HTTP/1.1 400 Bad Request\r\n", "it is not a memcached node but speaks HTTP"),
    ],
)
async def test_another_protocol_is_named(answer: bytes, expected: str) -> None:
    changes = Changes()
    async with ScriptedNode(then=say(answer)) as server, node_at(server.address, on_change=changes) as node:
        outcome = await node.evict(chunks([b"a"]))
    assert isinstance(outcome, Unreachable)
    assert ((b"a",), Failure.PROTOCOL) == (outcome.keys, outcome.failure)
    assert outcome.reason.endswith(f": {expected}")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"\x15\x03\x03\x00\x02\x02\x46", Failure.TLS),
        (b"CLIENT_ERROR unauthenticated\r\n", Failure.LOGIN_REQUIRED),
        (b"ERROR Too many open connections\r\n", Failure.FULL),
        (b"SERVER_ERROR out of memory\r\n", Failure.BROKEN),
    ],
)
async def test_a_node_that_refuses_to_serve_says_why(answer: bytes, expected: Failure) -> None:
    async with ScriptedNode(then=say(answer)) as server, node_at(server.address) as node:
        outcome = await node.evict(chunks([b"a"]))
    assert isinstance(outcome, Unreachable)
    assert expected is outcome.failure


@pytest.mark.parametrize("answer", [b"SERVER_ERROR out of memory\r\n", b"NF O1\r\n", b"\xff", b""])
def test_a_fault_of_a_node_that_speaks_our_protocol_is_no_refusal(answer: bytes) -> None:
    assert refusal(answer) is None
