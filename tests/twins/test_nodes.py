"""Nodes that are silent, refuse, restart or ask for a password: what a read of either cache costs."""

import socket
from pathlib import Path

import pytest

from invalidator.app.cache.items import LEASE
from invalidator.app.cache.nodes import async_nodes, blocking_nodes
from tests.logs import capture_logs
from tests.lying_memcached import LyingMemcached
from tests.twins.twin import K, Twins, never


@pytest.mark.usefixtures("long_cooldown")
def test_a_node_that_says_nothing_costs_one_timeout_and_is_then_left_alone(node: LyingMemcached, twin: Twins) -> None:
    node.lies[b"get"] = b""
    cache = twin(node.address, timeout=0.2)
    with capture_logs() as lines:
        assert [1, 2, 3] == [cache.get(lambda: 1), cache.get(lambda: 2), cache.get_many("a", lambda _: {"a": 3})["a"]]
    assert (["get"], 1) == (node.verbs, len(lines))


@pytest.mark.usefixtures("long_cooldown")
def test_a_node_that_says_nothing_to_a_read_of_many_is_left_alone_too(node: LyingMemcached, twin: Twins) -> None:
    node.lies[b"get"] = b""
    cache = twin(node.address, timeout=0.2)
    with capture_logs() as lines:
        assert [{"a": 1}] * 2 == [cache.get_many("a", lambda _: {"a": 1}) for _ in range(2)]
    assert (["get"], 1) == (node.verbs, len(lines))


@pytest.mark.usefixtures("long_cooldown")
@pytest.mark.parametrize("many", [True, False])
def test_a_node_that_refuses_connections_is_logged_once_and_everything_is_loaded(twin: Twins, many: bool) -> None:
    cache = twin("127.0.0.1:1")
    with capture_logs() as lines:
        for _ in range(2):
            assert 1 == (cache.get_many("a", lambda _: {"a": 1})["a"] if many else cache.get(lambda: 1))
    assert ["memcached does not answer: reads go to the source"] == [line["event"] for line in lines]
    assert "ConnectionRefusedError" in lines[0]["error"]


def test_a_key_that_cannot_be_cached_is_loaded(node: LyingMemcached, twin: Twins) -> None:
    cache = twin(node.address)
    assert [1, 2] == [cache.get(lambda: 1, key="not good"), cache.get(lambda: 2, key="not good")]
    assert [] == node.verbs


def test_the_connection_to_a_name_is_used_again(node: LyingMemcached, twin: Twins) -> None:
    cache = twin(node.address.replace("127.0.0.1", "localhost"))
    assert [1, 1] == [cache.get(lambda: 1), cache.get(never)]
    assert 1 == len(node.accepted)


def test_the_connection_to_an_ip_address_has_no_end(
    node: LyingMemcached, twin: Twins, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (blocking_nodes, async_nodes):
        monkeypatch.setattr(module, "LOOKUP_SECONDS", 0.0)
    cache = twin(node.address)
    assert [1, 1] == [cache.get(lambda: 1), cache.get(never)]
    assert 1 == len(node.accepted)


def test_a_node_that_is_restarted_with_cas_numbers_is_filled(node: LyingMemcached, twin: Twins) -> None:
    node.lies[b"gets"] = b"VALUE %b %d 32 0\r\n%b\r\nEND\r\n" % (K.encode(), LEASE, b"f" * 32)
    cache = twin(node.address)
    assert [1, 2] == [cache.get(lambda: 1), cache.get(lambda: 2)]
    node.lies.clear()
    node.items.clear()
    cut(node, 0)
    assert 3 == cache.get(lambda: 3)
    assert b"3" == node.value(K)


def test_a_node_on_a_unix_socket_is_read(twin: Twins, tmp_path: Path) -> None:
    with LyingMemcached(path=tmp_path / "node") as node:
        node.put(K, b"7")
        cache = twin(node.address)
        assert 7 == cache.get(never)
        cache.close()


def test_on_a_node_without_cas_numbers_nobody_waits_for_a_placeholder(node: LyingMemcached, twin: Twins) -> None:
    node.lies[b"gets"] = b"VALUE %b %d 32 0\r\n%b\r\nEND\r\n" % (K.encode(), LEASE, b"f" * 32)
    cache = twin(node.address, patience=20)
    assert 1 == cache.get(lambda: 1)
    node._store(K.encode(), b"f" * 32, b"%d" % LEASE)
    node.verbs.clear()
    assert 2 == cache.get(lambda: 2)
    assert {K: 3} == cache.get_many([K], lambda _: {K: 3})
    node.items.clear()
    assert 4 == cache.get(lambda: 4)
    assert (["get"] * 3, 1) == (node.verbs, len(node.accepted))


def test_a_node_is_used_again_once_it_answers(
    node: LyingMemcached, twin: Twins, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("invalidator.app.cache.nodes.node_state.COOLDOWN_SECONDS", 0.0)
    node.put(K, b"7")
    node.lies[b"get"] = b"nonsense\r\n"
    cache = twin(node.address)
    with capture_logs() as lines:
        assert 1 == cache.get(lambda: 1)
        node.lies.clear()
        assert [7, 7] == [cache.get(never), cache.get(never)]
        assert {K: 7} == cache.get_many([K], never)
    assert ["memcached does not answer: reads go to the source", "memcached answers again"] == [
        line["event"] for line in lines
    ]


def test_a_connection_that_ended_while_idle_costs_nothing(node: LyingMemcached, twin: Twins) -> None:
    node.put(K, b"7")
    cache = twin(node.address)
    with capture_logs() as lines:
        assert 7 == cache.get(never)
        cut(node, 0)
        assert 7 == cache.get(never)
        cut(node, 1)
        assert {K: 7} == cache.get_many([K], never)
    assert ([], 3) == (lines, len(node.accepted))


def cut(node: LyingMemcached, number: int) -> None:
    """Close a connection from memcached's side."""
    node.accepted[number].shutdown(socket.SHUT_RDWR)


def test_a_closed_cache_opens_connections_again(node: LyingMemcached, twin: Twins) -> None:
    node.put(K, b"7")
    cache = twin(node.address)
    for number in range(1, 4):
        assert 7 == cache.get(never)
        assert number == len(node.accepted)
        cache.close()


def test_a_login_comes_first_on_each_connection(node: LyingMemcached, twin: Twins) -> None:
    node.put(K, b"7")
    assert 7 == twin(node.address, login=("shop", "hush")).get(never)
    assert ["set", "get"] == node.verbs


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"CLIENT_ERROR authentication failure\r\n", "refused the login: CLIENT_ERROR authentication failure"),
        (b"nonsense\r\n", "refused the login: b'nonsense'"),
        (None, "memcached closed the connection"),
        (b"", "TimeoutError"),
    ],
)
def test_a_refused_login_is_logged_and_costs_no_read(
    node: LyingMemcached, twin: Twins, answer: bytes | None, says: str
) -> None:
    node.lies[b"set"] = answer
    with capture_logs() as lines:
        assert 1 == twin(node.address, login=("shop", "hush"), timeout=0.5).get(lambda: 1)
    assert (set(), 1) == (set(node.verbs) - {"set"}, len(lines))
    assert says in lines[0]["error"]
    assert "hush" not in str(lines)
