"""The connections of threads: each command has one to itself."""

import socket
import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from invalidator.app.cache.commands import Cas, Failure, Get, Gets
from invalidator.app.cache.items import Item
from invalidator.app.cache.nodes import blocking_nodes
from invalidator.app.cache.nodes.blocking_nodes import BlockingNode, BlockingNodes
from invalidator.app.cache.nodes.protocol import retrieval
from invalidator.memcached.access import Access
from invalidator.settings import Address
from tests.logs import capture_logs
from tests.lying_memcached import LyingMemcached


@pytest.fixture
def blocking(node: LyingMemcached) -> Iterator[BlockingNode]:
    host, port = node.address.split(":")
    with closing(BlockingNode("n1", Address(host, int(port)), prefix="", timeout=5, access=Access())) as made:
        yield made


def test_threads_keep_a_bounded_number_of_idle_connections(
    node: LyingMemcached, blocking: BlockingNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocking_nodes, "IDLE_CONNECTIONS", 2)
    together = threading.Barrier(4)

    def wait(verb: str) -> None:
        together.wait(20)

    node.before = wait
    threads = [threading.Thread(target=blocking.get, args=[b"k"]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (4, 2) == (len(node.accepted), len(blocking._idle))


def test_a_thread_is_told_that_a_node_is_down(node: LyingMemcached, blocking: BlockingNode) -> None:
    node.lies[b"get"] = None
    assert Failure.DOWN is blocking.get(b"k")


def test_a_connection_that_answered_gets_is_nobody_elses_until_all_its_answers_are_used(
    node: LyingMemcached, blocking: BlockingNode
) -> None:
    node.put("a", b"1")
    node.put("b", b"2")
    first, second = (held.token for held in blocking.answer([Gets("a"), Gets("b")]))
    assert [] == blocking._idle
    blocking.let_go(first)
    assert [] == blocking._idle
    blocking.let_go(second)
    assert 1 == len(blocking._idle)
    (held,) = blocking.answer([Gets("a")])
    assert [True] == blocking.answer([Cas("a", Item(b"3"), 60, held.token)])
    assert (1, 1) == (len(blocking._idle), len(node.accepted))


def test_a_connection_that_failed_while_it_was_held_is_not_kept(node: LyingMemcached, blocking: BlockingNode) -> None:
    node.put("a", b"1")
    (held,) = blocking.answer([Gets("a")])
    node.lies[b"cas"] = b"nonsense\r\n"
    assert [Failure.DOWN] == blocking.answer([Cas("a", Item(b"3"), 60, held.token)])
    assert [] == blocking._idle


def test_a_forked_child_begins_without_idle_connections(blocking: BlockingNode) -> None:
    assert [None] == blocking.answer([Get("k")])
    (idle,) = blocking._idle
    blocking.begin_in_child()
    assert ([], False) == (blocking._idle, idle.is_open)


def test_a_request_that_cannot_be_sent_means_that_the_node_is_down(blocking: BlockingNode) -> None:
    assert [None] == blocking.answer([Get("k")])
    blocking._idle[0]._socket.shutdown(socket.SHUT_WR)
    with capture_logs() as lines:
        assert [Failure.DOWN] == blocking.answer([Get("k")])
    assert "BrokenPipeError" in lines[0]["error"]
    assert [Failure.DOWN] == blocking.answer([Get("k")]), "it is left alone"


def test_an_interrupted_exchange_closes_its_connections_for_answers_may_follow(blocking: BlockingNode) -> None:
    sent: list[blocking_nodes.Sent] = []

    def requests() -> Iterator[blocking_nodes.Sent]:
        sent.append(blocking.send(Get, retrieval([b"k"])))
        yield sent[0]
        yield sent[0]._replace(connection=None)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        blocking_nodes.exchange(requests())
    assert sent[0].connection
    assert not sent[0].connection.is_open


def test_the_same_nodes_apart_have_connections_of_their_own(node: LyingMemcached) -> None:
    host, port = node.address.split(":")
    nodes = BlockingNodes({"n1": Address(host, int(port))}, ring="rendezvous", prefix="", timeout=20, access=Access())
    apart = nodes.apart()
    with closing(nodes), closing(apart):
        assert [None, None] == [nodes.get("k"), apart.get("k")]
        assert 2 == len(node.accepted)
