"""The nodes that we choose are those where the applications' real clients put their values."""

import random
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import pylibmc
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from pymemcache.client.base import Client
from pymemcache.client.hash import HashClient

from invalidator.memcached.cluster import Cluster, Outcome
from invalidator.memcached.ring import Kind, owners, ring_of
from invalidator.settings import Address
from tests.servers import Memcached, memcached_is_installed

from .conftest import MemcachedFactory, require

KEYS = st.lists(st.from_regex(r"[\x21-\x7e]{1,60}", fullmatch=True), min_size=30, max_size=60, unique=True)
LABEL = st.tuples(st.from_regex(r"[a-z][a-z0-9.-]{0,20}", fullmatch=True), st.integers(1, 65535))
KETAMA: list[tuple[Kind, dict[str, Any]]] = [
    ("ketama", {"ketama": True}),
    ("ketama-md5", {"ketama": True, "hash": "md5"}),
    ("ketama-weighted", {"ketama_weighted": True}),
]
#: Smaller examples show no more, and trying hundreds of them on real servers would outlast the test's timeout.
NO_SHRINKING = (Phase.explicit, Phase.reuse, Phase.generate)


class Resolver:
    """The socket module with names of our own: HashClient hashes the label, and connects to the real address."""

    def __init__(self, addresses: Mapping[tuple[str, int], tuple[str, int]]) -> None:
        self._addresses = addresses

    def __getattr__(self, name: str) -> Any:
        return getattr(socket, name)

    def getaddrinfo(self, host: str, port: int, *rest: Any) -> Any:
        return socket.getaddrinfo(*self._addresses[host, port], *rest)


@dataclass
class Home:
    """A memcached process that listens on several loopback addresses, each a label of its own for libmemcached."""

    node: Memcached
    labels: list[str]

    def holding(self, keys: Sequence[str], value: str) -> set[str]:
        """Return those of the keys that have this value here."""
        with closing(Client(("127.0.0.1", self.node.port))) as client:
            return {key for key, held in client.get_many(keys).items() if held == value.encode()}


def is_free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


@pytest.fixture(scope="module")
def homes() -> Iterator[list[Home]]:
    """Twenty nodes; the last one, where that is free, also on the default port, which libmemcached does not hash."""
    require("memcached", installed=memcached_is_installed())
    chance = random.Random(11211)
    homes = []
    for _ in range(20):
        hosts = [f"127.{chance.randrange(1, 255)}.{chance.randrange(256)}.{chance.randrange(1, 255)}" for _ in range(4)]
        node = Memcached("-t", "1", "-m", "16", "-l", ",".join(hosts))
        homes.append(Home(node, [f"{host}:{node.port}" for host in hosts]))
    if is_free("127.112.11.1", 11211):
        homes[-1].node.arguments += ("-l", "127.112.11.1:11211")
        homes[-1].labels = ["127.112.11.1:11211"]
    for home in homes:
        home.node.start()
    yield homes
    for home in homes:
        home.node.close()


def assert_values_are_where_we_evict(kind: Kind, homes: Mapping[str, Home], keys: Sequence[str], value: str) -> None:
    placed = owners([ring_of(kind, list(homes))], [key.encode() for key in keys])
    expected = {label: {key.decode() for key in part} for label, part in placed.items()}
    assert {label: home.holding(list(part), value) for label, part in expected.items() for home in [homes[label]]} == (
        expected
    )


@given(labels=st.lists(LABEL, min_size=1, max_size=20, unique=True), keys=KEYS, value=st.uuids())
@settings(max_examples=25, deadline=None, phases=NO_SHRINKING)
def test_rendezvous_owner_is_where_hash_client_put_the_value(
    homes: list[Home], labels: list[tuple[str, int]], keys: list[str], value: object
) -> None:
    nodes = dict(zip(labels, homes, strict=False))
    resolver = Resolver({label: ("127.0.0.1", home.node.port) for label, home in nodes.items()})
    with closing(HashClient(labels, socket_module=resolver, key_prefix=b"")) as client:
        for key in keys:
            client.set(key, str(value), noreply=False)
    by_label = {f"{host}:{port}": home for (host, port), home in nodes.items()}
    assert_values_are_where_we_evict("rendezvous", by_label, keys, str(value))


@pytest.mark.parametrize(("kind", "behaviors"), KETAMA)
@given(choice=st.randoms(use_true_random=False), count=st.integers(1, 20), keys=KEYS, value=st.uuids())
@settings(max_examples=12, deadline=None, phases=NO_SHRINKING)
def test_ketama_owner_is_where_pylibmc_put_the_value(
    homes: list[Home],
    kind: Kind,
    behaviors: dict[str, Any],
    choice: random.Random,
    count: int,
    keys: list[str],
    value: object,
) -> None:
    nodes = {choice.choice(home.labels): home for home in choice.sample(homes, count)}
    client = pylibmc.Client(list(nodes), behaviors=behaviors)
    for key in keys:
        assert client.set(key, str(value))
    client.disconnect_all()
    assert_values_are_where_we_evict(kind, nodes, keys, str(value))


def test_twenty_five_weighted_nodes_have_the_points_that_libmemcached_gives_them(homes: list[Home]) -> None:
    """libmemcached's arithmetic in 32-bit floats comes out one short of 40 here."""
    labels = [label for home in homes[:-1] for label in home.labels][:25]
    nodes = {label: home for home in homes for label in home.labels if label in labels}
    in_order = {label: nodes[label] for label in labels}
    keys = [f"weighted:{index}" for index in range(3000)]
    client = pylibmc.Client(labels, behaviors={"ketama_weighted": True})
    client.set_multi(dict.fromkeys(keys, "25"))
    client.disconnect_all()
    ring = ring_of("ketama-weighted", list(in_order))
    by_home: dict[int, set[str]] = {}
    for key in keys:
        by_home.setdefault(id(nodes[ring.owner(key.encode())]), set()).add(key)
    for home in {id(home): home for home in nodes.values()}.values():
        assert home.holding(keys, "25") == by_home.get(id(home), set())


def test_prefix_of_hash_client_is_not_hashed(homes: list[Home]) -> None:
    nodes = {f"127.0.0.1:{home.node.port}": home for home in homes[:5]}
    keys = [f"product:{index}" for index in range(100)]
    with closing(HashClient(list(nodes), key_prefix=b"shop:")) as client:
        for key in keys:
            client.set(key, "prefixed", noreply=False)
    ring = ring_of("rendezvous", list(nodes))
    for label, home in nodes.items():
        expected = {f"shop:{key}" for key in keys if ring.owner(key.encode()) == label}
        assert home.holding([f"shop:{key}" for key in keys], "prefixed") == expected


# With the default, "every-node", whatever the clients do


def nodes_of(memcached: MemcachedFactory) -> dict[str, Memcached]:
    started = [memcached("-t", "1") for _ in range(3)]
    return {node.address: node for node in started}


async def evict_everywhere(nodes: Mapping[str, Memcached], keys: Sequence[str]) -> Outcome:
    cluster = Cluster({label: Address("127.0.0.1", node.port) for label, node in nodes.items()})
    outcome = await cluster.evict([key.encode() for key in keys])
    await cluster.close()
    return outcome


def copies(nodes: Mapping[str, Memcached], keys: Sequence[str]) -> int:
    held = 0
    for node in nodes.values():
        with closing(Client(("127.0.0.1", node.port))) as client:
            held += len(client.get_many(keys))
    return held


async def test_every_node_evicts_what_hash_client_wrote_before_during_and_after_an_outage(
    memcached: MemcachedFactory,
) -> None:
    nodes = nodes_of(memcached)
    keys = [f"product:{index}" for index in range(200)]
    hung = next(iter(nodes.values()))
    with closing(
        HashClient(list(nodes), connect_timeout=0.2, timeout=0.2, retry_attempts=0, dead_timeout=0.5, ignore_exc=True)
    ) as client:
        client.set_many(dict.fromkeys(keys, "before"), noreply=False)
        assert copies(nodes, keys) == 200
        hung.pause()
        # The first write to the hung node fails and buries it; from then on its keys go to the two others.
        for _ in range(2):
            for key in keys:
                client.set(key, "during", noreply=False)
        hung.resume()
        assert copies(nodes, keys) > 230
    with closing(HashClient(list(nodes))) as client:
        client.set_many(dict.fromkeys(keys[:50], "after"), noreply=False)
    outcome = await evict_everywhere(nodes, keys)
    assert outcome == Outcome(dict.fromkeys(nodes, 200), {})
    assert copies(nodes, keys) == 0


@pytest.mark.parametrize(
    "behaviors", [{}, *(behaviors for _, behaviors in KETAMA), {"distribution": "consistent", "hash": "fnv1a_32"}]
)
async def test_every_node_evicts_what_pylibmc_wrote(memcached: MemcachedFactory, behaviors: dict[str, Any]) -> None:
    nodes = nodes_of(memcached)
    keys = [f"product:{index}" for index in range(200)]
    client = pylibmc.Client(list(nodes), behaviors=behaviors)
    client.set_multi(dict.fromkeys(keys, "value"))
    client.disconnect_all()
    assert copies(nodes, keys) == 200
    await evict_everywhere(nodes, keys)
    assert copies(nodes, keys) == 0
