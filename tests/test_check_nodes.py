"""Findings of `invalidator check`: nodes that cannot be used, and workers that are connected to other ones."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from invalidator.broker.messages import WorkerState
from invalidator.memcached.failure import Failure
from invalidator.memcached.wire import LEAST_VERSION
from invalidator.operate.diagnosis.check_nodes import NODE_FIXES, NODE_IS_DOWN, check_nodes, elsewhere
from invalidator.operate.findings import Finding
from invalidator.settings import MemcachedSettings, RingSettings, Secret, Settings
from tests.scripted_node import Answer, Batch, Peer, ScriptedNode, say


async def finding_about(then: Answer) -> Finding:
    async with ScriptedNode(then=then) as server:
        nodes = {"c1": "{}:{}".format(*server.address)}
        [finding] = await check_nodes(Settings(ring=RingSettings(nodes=nodes)))
    assert finding.level == "wrong"
    return finding


async def test_for_a_node_without_meta_commands_the_least_version_is_named_and_never_start_it() -> None:
    finding = await finding_about(say(b"ERROR\r\n"))
    assert f"memcached {LEAST_VERSION} or later" in finding.text
    assert finding.fix.startswith("nothing confirms a delete there")


async def hang_up(peer: Peer, batch: Batch) -> None:
    peer.close()


@pytest.mark.parametrize(
    ("then", "fix"),
    [
        (say(b"CLIENT_ERROR unauthenticated\r\n"), "set memcached.user and memcached.password_file"),
        (say(b"ERROR Too many open connections\r\n"), "find who holds them, or raise its limit (memcached -c)"),
        (say(b"\x15\x03\x03\x00\x02\x02\x46"), "correct what is named"),
        (hang_up, "read its log; for one that speaks TLS (memcached -Z), memcached.tls must be true"),
        (say(b"NF O1\r\n"), NODE_IS_DOWN),
    ],
    ids=["login", "full", "tls", "hangs up", "another answer"],
)
async def test_each_kind_of_failure_has_its_fix(then: Answer, fix: str) -> None:
    assert fix == (await finding_about(then)).fix


async def test_the_words_in_a_reason_choose_no_fix() -> None:
    """The node quotes other faults, as an answer may do."""
    finding = await finding_about(say(b"SERVER_ERROR several addresses, user and password, TLS: connection closed\r\n"))
    assert NODE_IS_DOWN == finding.fix


@asynccontextmanager
async def refusing(answer: bytes) -> AsyncIterator[str]:
    """Yield the address of a node that answers every login like this, and closes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n")
        writer.write(answer)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield "{}:{}".format(*server.sockets[0].getsockname())


@pytest.mark.parametrize(
    ("answer", "fix"),
    [
        (b"CLIENT_ERROR authentication failure\r\n", NODE_FIXES[Failure.LOGIN_REFUSED]),
        (b"ERROR Too many open connections\r\n", NODE_FIXES[Failure.FULL]),
        (b"\x15\x03\x03\x00\x02\x02\x46", NODE_FIXES[Failure.TLS]),
        (b"-ERR syntax error\r\n", NODE_FIXES[Failure.PROTOCOL]),
        (b"", NODE_FIXES[Failure.CLOSED]),
    ],
    ids=["password", "full", "tls", "redis", "hangs up"],
)
async def test_a_login_that_fails_has_the_fix_of_its_cause(answer: bytes, fix: str) -> None:
    async with refusing(answer) as address:
        memcached = MemcachedSettings(user="shop", password=Secret("hush"))
        [finding] = await check_nodes(Settings(ring=RingSettings(nodes={"c1": address}), memcached=memcached))
    assert fix == finding.fix


@pytest.fixture
def resolved(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Resolve every name to the addresses in this list."""
    addresses: list[str] = []

    async def lookup(loop: object, host: str, port: int, **_: Any) -> list[Any]:
        if not addresses:
            raise socket.gaierror("not known")
        return [(6 if ":" in ip else 4, 1, 6, "", (ip, port)) for ip in addresses]

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", lookup)
    return addresses


async def differences(node: str, **connected: str) -> list[str]:
    settings = Settings(ring=RingSettings(nodes={"c1": node}))
    workers = {f"worker {name}": WorkerState("r", "c", connected={"c1": ip}) for name, ip in connected.items()}
    return [finding.text async for finding in elsewhere(settings, workers | {"worker new": WorkerState("r", "c")})]


async def test_a_worker_that_is_connected_to_the_machine_of_before_is_named(resolved: list[str]) -> None:
    resolved[:] = ["10.0.0.2"]
    found = await differences("cache-1:11211", stays="10.0.0.1", followed="10.0.0.2")
    assert ["worker stays evicts on 10.0.0.1 for c1, but here it is 10.0.0.2"] == found


async def test_each_address_of_one_machine_is_right(resolved: list[str]) -> None:
    resolved[:] = ["10.0.0.2", "fe80::2"]
    assert [] == await differences("cache-1:11211", a="10.0.0.2", b="fe80::2")


async def test_a_worker_on_the_machine_of_its_node_may_use_its_loopback(resolved: list[str]) -> None:
    resolved[:] = ["10.0.0.2"]
    assert [] == await differences("cache-1:11211", local="127.0.1.1")
    resolved[:] = ["127.0.1.1"]
    assert [] == await differences("cache-1:11211", remote="10.0.0.2")


async def test_a_name_that_is_not_known_here_and_a_socket_are_not_compared(resolved: list[str]) -> None:
    assert [] == await differences("cache-1:11211", a="10.0.0.1")
    assert [] == await differences("/run/memcached.sock", a="10.0.0.1")
