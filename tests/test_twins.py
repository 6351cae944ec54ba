"""Both caches, for threads and for asyncio, read alike: over a memcached in this process that can fail."""

import asyncio
import gc
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

import pytest
import trustme
from prometheus_client import REGISTRY

from invalidator.app import AsyncLookAsideCache, Loaded, LookAsideCache
from invalidator.app.cache.commands import Cas, Failure, Get, Gets, LetGo
from invalidator.app.cache.items import LEASE, Item
from invalidator.app.cache.nodes import async_nodes, blocking_nodes
from invalidator.app.cache.nodes.async_connection import AsyncConnection
from invalidator.app.cache.nodes.async_nodes import AsyncNode, AsyncNodes
from invalidator.app.cache.nodes.blocking_nodes import BlockingNode, BlockingNodes
from invalidator.app.cache.nodes.protocol import retrieval
from invalidator.memcached.access import Access
from invalidator.settings import Address
from tests.logs import capture_logs
from tests.lying_memcached import LyingMemcached

K = "product:1"


class Twin(Protocol):
    """A cache as both kinds of readers see it."""

    def get(self, load: Callable[[], Any], *, key: str = K, **asked: Any) -> Any: ...
    def get_many(self, keys: Sequence[str], load: Callable[[list[str]], Any], **asked: Any) -> Any: ...
    def cached(self, key: Any, function: Callable[..., Any]) -> Callable[..., Any]: ...
    def close(self) -> None: ...


class Threads:
    """The cache for threads."""

    def __init__(self, nodes: Sequence[str], position: Callable[[], Any] | None = None, **options: Any) -> None:
        self._cache = LookAsideCache(nodes, position=position, **options)

    def get(self, load: Callable[[], Any], *, key: str = K, **asked: Any) -> Any:
        return self._cache.get_or_load(key, load, **({"ttl": 60} | asked))

    def get_many(self, keys: Sequence[str], load: Callable[[list[str]], Any], **asked: Any) -> Any:
        return self._cache.get_many_or_load(keys, load, **({"ttl": 60} | asked))

    def cached(self, key: Any, function: Callable[..., Any]) -> Callable[..., Any]:
        return self._cache.cached(key, ttl=60)(function)

    def close(self) -> None:
        self._cache.close()


class Tasks:
    """The cache for asyncio, on a loop of its own."""

    def __init__(self, nodes: Sequence[str], position: Callable[[], Any] | None = None, **options: Any) -> None:
        self._runner = asyncio.Runner()
        asked = awaitable(position) if position else None
        self._cache = AsyncLookAsideCache(nodes, position=asked, **options)

    def get(self, load: Callable[[], Any], *, key: str = K, **asked: Any) -> Any:
        return self._runner.run(self._cache.get_or_load(key, awaitable(load), **({"ttl": 60} | asked)))

    def get_many(self, keys: Sequence[str], load: Callable[[list[str]], Any], **asked: Any) -> Any:
        return self._runner.run(self._cache.get_many_or_load(keys, awaitable(load), **({"ttl": 60} | asked)))

    def cached(self, key: Any, function: Callable[..., Any]) -> Callable[..., Any]:
        async def price(id: str) -> Any:
            return function(id)

        read = self._cache.cached(key, ttl=60)(price)
        return lambda *arguments: self._runner.run(call(read, *arguments))

    def close(self) -> None:
        async def close() -> None:
            self._cache.close()
            await asyncio.sleep(0)

        self._runner.run(close())

    def end(self) -> None:
        self.close()
        self._runner.close()


def awaitable(function: Callable[..., Any]) -> Callable[..., Any]:
    async def made(*arguments: Any) -> Any:
        return function(*arguments)

    return made


async def call(function: Callable[..., Any], *arguments: Any) -> Any:
    return await function(*arguments)


@pytest.fixture
def node() -> Iterator[LyingMemcached]:
    with LyingMemcached() as node:
        yield node


@pytest.fixture(params=[Threads, Tasks])
def twin(request: pytest.FixtureRequest) -> Iterator[Callable[..., Twin]]:
    made: list[Any] = []

    def make(*nodes: str, **options: Any) -> Twin:
        made.append(request.param(nodes, **({"timeout": 20, "patience": 0} | options)))
        twin: Twin = made[-1]
        return twin

    yield make
    for each in made:
        getattr(each, "end", each.close)()


Twins = Callable[..., Twin]


@pytest.fixture
def long_cooldown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("invalidator.app.cache.nodes.node_state.COOLDOWN_SECONDS", 3600.0)


def never(*_: Any) -> Any:
    raise AssertionError("loaded, and should not have been")


def outcomes(outcome: str) -> float:
    return REGISTRY.get_sample_value("invalidator_lookaside_reads_total", {"outcome": outcome}) or 0.0


# Reads


def test_a_miss_is_filled_and_a_hit_is_one_command(node: LyingMemcached, twin: Twins) -> None:
    read: list[str] = []
    hits = outcomes("hit")
    cache = twin(node.address, on_read=read.append)
    assert [1, 1] == [cache.get(lambda: 1), cache.get(never)]
    assert (["get", "add", "gets", "cas", "get"], [K, K]) == (node.verbs, read)
    assert (1, 1) == (outcomes("hit") - hits, len(node.accepted))


def test_many_keys_are_returned_in_their_order_and_only_those_that_lack_are_loaded(
    node: LyingMemcached, twin: Twins
) -> None:
    read: list[str] = []
    asked: list[list[str]] = []
    cache = twin(node.address, on_read=read.append)
    node.put("b", b"2")

    def load(keys: list[str]) -> dict[str, int]:
        asked.append(keys)
        return {"a": 1}

    assert [("a", 1), ("b", 2), ("c", None)] == list(cache.get_many("abcab", load).items())
    assert ([["a", "c"]], ["a", "b", "c"]) == (asked, read)
    assert {"a": 1, "b": 2, "c": None} == cache.get_many("abc", never)
    assert {} == cache.get_many("", never)


def test_many_keys_of_many_nodes_are_read_though_one_is_down(node: LyingMemcached, twin: Twins) -> None:
    cache = twin(node.address, "127.0.0.1:1")
    keys = [f"product:{number}" for number in range(20)]
    assert dict.fromkeys(keys, 1) == cache.get_many(keys, lambda keys: dict.fromkeys(keys, 1))
    asked: list[str] = []

    def load(keys: list[str]) -> dict[str, int]:
        asked.extend(keys)
        return dict.fromkeys(keys, 2)

    values = cache.get_many(keys, load)
    assert 0 < len(asked) < 20
    assert {key: 2 if key in asked else 1 for key in keys} == values


def test_a_decorated_function_is_read_by_its_arguments(node: LyingMemcached, twin: Twins) -> None:
    calls: list[str] = []

    def price(id: str) -> str:
        calls.append(id)
        return f"price of {id}"

    read = twin(node.address).cached("price:{id}", price)
    assert ["price of 1", "price of 2", "price of 1"] == [read("1"), read("2"), read("1")]
    assert (["1", "2"], b'"price of 1"') == (calls, node.value("price:1"))


def test_a_failed_load_is_raised_and_leaves_no_placeholder(node: LyingMemcached, twin: Twins) -> None:
    def fail(*_: Any) -> Any:
        raise LookupError("no such product")

    cache = twin(node.address)
    with pytest.raises(LookupError, match="no such product"):
        cache.get(fail)
    with pytest.raises(LookupError, match="no such product"):
        cache.get_many("ab", fail)
    assert {} == node.items
    assert 1 == cache.get(lambda: 1)


def test_another_readers_fill_is_waited_for(node: LyingMemcached, twin: Twins) -> None:
    node._store(K.encode(), b"f" * 32, b"%d" % LEASE)

    def fill(verb: str) -> None:
        if len(node.verbs) == 2:
            node.put(K, b"7")

    node.before = fill
    assert 7 == twin(node.address, patience=5).get(never)
    assert ["get", "get", "get"] == node.verbs


def test_the_pauses_while_another_reader_fills_are_real(node: LyingMemcached, twin: Twins) -> None:
    node._store(K.encode(), b"f" * 32, b"%d" % LEASE)
    later = threading.Timer(0.3, node.put, [K, b"7"])
    later.start()
    assert 7 == twin(node.address, patience=10).get(never)
    later.join()


def test_a_load_from_a_replica_is_kept_once_it_is_behind_the_placeholder(node: LyingMemcached, twin: Twins) -> None:
    cache = twin(node.address, position=lambda: 5)
    assert 1 == cache.get(lambda: Loaded(1, as_of=4.0))
    assert node.value(K) is None
    assert 2 == cache.get(lambda: Loaded(2, as_of=6.0))
    assert b"2" == node.value(K)


@pytest.mark.parametrize("position", [lambda: 1 / 0, lambda: "nowhere"])
def test_an_unknown_position_costs_the_fill_and_not_the_read(
    node: LyingMemcached, twin: Twins, position: Callable[[], Any]
) -> None:
    with capture_logs() as lines:
        assert 1 == twin(node.address, position=position).get(lambda: Loaded(1, as_of=4.0))
    assert node.value(K) is None
    assert ["the primary's position is unknown; serving the loaded value without caching"] == [
        line["event"] for line in lines
    ]


# Nodes


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


AUTHORITY = trustme.CA()


@pytest.fixture
def secure() -> Iterator[LyingMemcached]:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    AUTHORITY.issue_cert("127.0.0.1").configure_cert(server)
    with LyingMemcached(tls=server) as node:
        yield node


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def test_a_node_with_tls_is_read_and_one_that_says_nothing_costs_one_timeout(
    secure: LyingMemcached, twin: Twins
) -> None:
    secure.put(K, b"7")
    cache = twin(secure.address, tls=trusting(AUTHORITY))
    assert [7, 7] == [cache.get(never), cache.get(never)]
    secure.lies[b"get"] = b""
    assert 1 == twin(secure.address, tls=trusting(AUTHORITY), timeout=0.5).get(lambda: 1)


def test_a_certificate_of_another_authority_is_logged_and_costs_no_read(secure: LyingMemcached, twin: Twins) -> None:
    with capture_logs() as lines:
        assert 1 == twin(secure.address, tls=trusting(trustme.CA())).get(lambda: 1)
    assert ([], 1) == (secure.verbs, len(lines))
    assert "CERTIFICATE_VERIFY_FAILED" in lines[0]["error"]


# Connections of threads


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


# Connections of tasks


@pytest.fixture
def shared(node: LyingMemcached) -> AsyncNode:
    host, port = node.address.split(":")
    return AsyncNode("n1", Address(host, int(port)), prefix="", timeout=20, access=Access())


async def ended(shared: AsyncNode) -> None:
    shared.close()
    await asyncio.sleep(0)
    await asyncio.sleep(0)


async def test_tasks_that_begin_together_dial_once(node: LyingMemcached, shared: AsyncNode) -> None:
    assert [[None]] * 8 == await asyncio.gather(*(shared.answer([Get(key)]) for key in "abcdefgh"))
    assert 1 == len(node.accepted)
    await ended(shared)


async def test_a_task_that_is_cancelled_while_it_dials_takes_the_connection_from_no_other(
    node: LyingMemcached, shared: AsyncNode
) -> None:
    first, second = (asyncio.create_task(shared.answer([Get("k")])) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    assert [None] == await second
    assert ([True], 1) == ([first.cancelled()], len(node.accepted))
    await ended(shared)


@pytest.mark.filterwarnings("ignore:unclosed transport:ResourceWarning")  # asyncio's, of the first loop
def test_a_loop_that_is_closed_leaves_no_connection_behind(node: LyingMemcached, shared: AsyncNode) -> None:
    before: list[AsyncConnection] = []

    async def read(*, last: bool = False) -> None:
        assert [None] == await shared.answer([Get("k")])
        if last:
            assert [-1] == [connection._socket.fileno() for connection in before]
            await ended(shared)

    asyncio.run(read())
    before.extend(shared._connections.values())
    asyncio.run(read(last=True))
    assert {} == shared._connections
    before.clear()
    gc.collect()


def test_each_loop_keeps_its_connection(node: LyingMemcached, shared: AsyncNode) -> None:
    with asyncio.Runner() as one, asyncio.Runner() as two:
        for runner in (one, two, one, two):
            assert [[None]] == [runner.run(shared.answer([Get("k")]))]
        assert 2 == len(node.accepted)
        for runner in (one, two):
            runner.run(ended(shared))


async def test_a_cas_is_sent_on_the_connection_of_its_gets_or_not_at_all(
    node: LyingMemcached, shared: AsyncNode
) -> None:
    node.put("k", b"1")
    (held,) = await shared.answer([Gets("k")])
    held.token.connection.close()
    assert [Item(b"1")] == await shared.answer([Get("k")])
    assert [Failure.DOWN] == await shared.answer([Cas("k", Item(b"2"), 60, held.token)])
    assert b"1" == node.value("k")
    await ended(shared)


async def test_a_connection_whose_life_is_over_serves_those_that_wait_on_it(
    node: LyingMemcached, shared: AsyncNode
) -> None:
    assert [None] == await shared.answer([Get("k")])
    (old,) = shared._connections.values()
    shared._longest_life = 0.0
    waiting = old.ask(retrieval([b"k"]).data, retrieval([b"k"]).reply)
    assert [None] == await shared.answer([Get("k")])
    assert await waiting is None
    assert (False, 2) == (old.is_open, len(node.accepted))
    await ended(shared)


async def test_commands_for_several_nodes_are_answered_by_each(node: LyingMemcached) -> None:
    with LyingMemcached() as other:
        nodes = {each.address: Address("127.0.0.1", int(each.address.partition(":")[2])) for each in (node, other)}
        for each in (node, other):
            each.put("a", b"1")
            each.put("b", b"2")
        shared = AsyncNodes(nodes, ring="rendezvous", prefix="", timeout=20, access=Access())
        held = await shared.answer([Gets(key) for key in "abc"])
        assert [Item(b"1"), Item(b"2"), None] == [each and each.item for each in held]
        assert [True, True] == await shared.answer(
            [Cas(key, Item(b"3"), 60, each.token) for key, each in zip("ab", held, strict=False)]
        )
        assert [Item(b"3"), Item(b"3"), None] == await shared.get_many("abc")
        assert [Failure.DOWN] == await shared.answer([Get("not good")])
        assert [Failure.DOWN, Failure.DOWN] == await shared.answer([LetGo(each.token) for each in held[:2]])
        shared.close()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
