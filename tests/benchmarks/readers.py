"""The contestants of reads: our caches and the clients that applications use today, all given the same keys and values.

Each reads one key, many keys at once, or a copy in the process. What is returned is decoded, so that all do the same
work. Those that stand for a limit decode too, but check nothing of an answer.
"""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any

import aiomcache
import msgspec
import pylibmc
from cachetools import TTLCache
from pymemcache.client.base import Client
from pymemcache.client.hash import HashClient

from invalidator.app import AsyncLookAsideCache, LookAsideCache, NearCache
from invalidator.broker.messages import Announcement
from tests.servers import Memcached

VALUE = {"id": "abc-123", "name": "A garden chair, weatherproof", "price": 109.99, "sizes": [1, 2, 3]}
KEYS = [f"product:{number}" for number in range(100)]
#: Names to which others are compared.
CLIENT, HASH_CLIENT, STREAMS, LOCKED = "pymemcache Client", "pymemcache HashClient", "bare streams", "TTLCache, lock"
OURS, OURS_ASYNC, OURS_NEAR = "LookAsideCache", "AsyncLookAsideCache", "NearCache"
OURS_AUDITED, OURS_ASYNC_AUDITED = "LookAsideCache, 0.1 % audited", "AsyncLookAsideCache, 0.1 % audited"
AUDITED = 0.001


@dataclass(frozen=True)
class Reader:
    name: str
    #: Of memcached; 0 for copies in the process.
    nodes: int
    #: Read at once.
    keys: int
    #: Reads that many times.
    read: Callable[[int], None]


def readers(nodes: Sequence[Memcached], keys: int, stack: ExitStack, runner: asyncio.Runner) -> list[Reader]:
    """Return the readers of `keys` keys at once on these nodes, which are filled."""
    addresses = [node.address for node in nodes]
    blocking = _blocking(addresses, KEYS[:keys], stack)
    made = [Reader(name, len(nodes), keys, _repeated(read)) for name, read in blocking.items()]
    for name, act in runner.run(_on_a_loop(addresses, KEYS[:keys], stack)).items():
        made.append(Reader(name, len(nodes), keys, _run_by(runner, act)))
    return made


def near_readers() -> list[Reader]:
    """Return the readers of copies in the process."""

    class Shared:
        def get_or_load(self, key: str, load: Any, *, ttl: float, negative_ttl: float | None) -> Any:
            return VALUE

    class WithoutBroker(NearCache):
        def _listen(self) -> None:
            self._copies.linked()

    near = WithoutBroker(Shared(), "amqp://127.0.0.1/", cluster="eu", max_age=3600)
    locked: TTLCache[str, Any] = TTLCache(10_000, 3600)
    lock = threading.Lock()
    locked[KEYS[0]] = VALUE

    def heard(count: int) -> None:
        """Read while the worker is known to live."""
        near._copies.received(Announcement("eu", "w", 0))
        near.get_or_load(KEYS[0], never, ttl=3600)
        for _ in range(count):
            near.get_or_load(KEYS[0], never, ttl=3600)

    def look_up() -> Any:
        with lock:
            return locked.get(KEYS[0])

    return [Reader(LOCKED, 0, 1, _repeated(look_up)), Reader(OURS_NEAR, 0, 1, heard)]


def _blocking(addresses: list[str], keys: list[str], stack: ExitStack) -> dict[str, Callable[[], Any]]:
    ours = stack.enter_context(closing(LookAsideCache(addresses)))
    ours.get_many_or_load(KEYS, lambda keys: dict.fromkeys(keys, VALUE), ttl=3600)
    audited = stack.enter_context(closing(LookAsideCache(addresses, audit=AUDITED)))
    plain = stack.enter_context(closing(Client(addresses[0], no_delay=True)))
    hashed = stack.enter_context(closing(HashClient(addresses, no_delay=True)))
    ketama = pylibmc.Client(addresses, binary=False, behaviors={"ketama": True, "tcp_nodelay": True})
    encoded = dict.fromkeys(KEYS, json.dumps(VALUE).encode())
    for client in (plain, hashed, ketama):
        client.set_multi(encoded)
    (key, *more) = keys
    if not more:
        return {
            "bare socket": _bare_socket(addresses[0], key, stack),
            CLIENT: lambda: json.loads(plain.get(key)),
            HASH_CLIENT: lambda: json.loads(hashed.get(key)),
            "pylibmc": lambda: json.loads(ketama.get(key)),
            OURS: lambda: ours.get_or_load(key, never, ttl=60),
            OURS_AUDITED: lambda: audited.get_or_load(key, load, ttl=60),
        }
    return {
        CLIENT: lambda: _decoded(plain.get_many(keys)),
        HASH_CLIENT: lambda: _decoded(hashed.get_many(keys)),
        "pylibmc": lambda: _decoded(ketama.get_multi(keys)),
        OURS: lambda: ours.get_many_or_load(keys, never, ttl=60),
        OURS_AUDITED: lambda: audited.get_many_or_load(keys, load_many, ttl=60),
    }


async def _on_a_loop(
    addresses: list[str], keys: list[str], stack: ExitStack
) -> dict[str, Callable[[], Awaitable[Any]]]:
    twin, audited = AsyncLookAsideCache(addresses), AsyncLookAsideCache(addresses, audit=AUDITED)
    host, port = addresses[0].split(":")
    client = aiomcache.Client(host, int(port))
    names = [key.encode() for key in keys]

    async def one() -> Any:
        return json.loads(await client.get(names[0]) or b"")

    async def many() -> Any:
        return [json.loads(value) for value in await client.multi_get(*names) if value]

    if len(keys) > 1:
        return {
            "aiomcache": many,
            OURS_ASYNC: lambda: twin.get_many_or_load(keys, async_never, ttl=60),
            OURS_ASYNC_AUDITED: lambda: audited.get_many_or_load(keys, async_load_many, ttl=60),
        }
    streams = await asyncio.open_connection(host, int(port))
    return {
        STREAMS: lambda: _bare_streams(*streams, keys[0]),
        "aiomcache": one,
        OURS_ASYNC: lambda: twin.get_or_load(keys[0], async_never, ttl=60),
        OURS_ASYNC_AUDITED: lambda: audited.get_or_load(keys[0], async_load, ttl=60),
    }


def _bare_socket(address: str, key: str, stack: ExitStack) -> Callable[[], Any]:
    host, port = address.split(":")
    connection = stack.enter_context(socket.create_connection((host, int(port))))
    request = f"get {key}\r\n".encode()

    def read() -> Any:
        connection.sendall(request)
        return msgspec.json.decode(connection.recv(4096).split(b"\r\n")[1])

    return read


async def _bare_streams(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, key: str) -> Any:
    writer.write(f"get {key}\r\n".encode())
    answer = await reader.readuntil(b"END\r\n")
    return msgspec.json.decode(answer.split(b"\r\n")[1])


def _decoded(found: Mapping[str, bytes]) -> dict[str, Any]:
    return {key: json.loads(value) for key, value in found.items()}


def _repeated(read: Callable[[], Any]) -> Callable[[int], None]:
    def repeat(count: int) -> None:
        for _ in range(count):
            read()

    return repeat


def _run_by(runner: asyncio.Runner, read: Callable[[], Awaitable[Any]]) -> Callable[[int], None]:
    async def repeat(count: int) -> None:
        for _ in range(count):
            await read()

    return lambda count: runner.run(repeat(count))


def never(*_: Any) -> Any:
    raise AssertionError("loaded, and should not have been")


async def async_never(*_: Any) -> Any:
    never()


def load() -> Any:
    return VALUE


def load_many(keys: list[str]) -> dict[str, Any]:
    return dict.fromkeys(keys, VALUE)


async def async_load() -> Any:
    return VALUE


async def async_load_many(keys: list[str]) -> dict[str, Any]:
    return load_many(keys)


def measure(reader: Reader, seconds: float) -> float:
    """Return the CPU microseconds of this process for each read, over about that many seconds."""
    began = time.perf_counter()
    reader.read(10)
    count = max(10, int(seconds / (time.perf_counter() - began) * 10))
    started = time.process_time()
    reader.read(count)
    return (time.process_time() - started) / count * 1e6
