"""The private servers behave as all other tests expect."""

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.integration.conftest import MemcachedFactory, ProxyFactory, require
from tests.servers import (
    Broker,
    Memcached,
    Postgres,
    ServerError,
    memcached_is_installed,
    postgres_is_installed,
    rabbitmq_is_installed,
)


def test_memcached_comes_back_empty_on_the_same_address(memcached: MemcachedFactory) -> None:
    node = memcached()
    address = node.address
    node.set("k", b"value")
    assert node.get("k") == b"value"
    node.restart()
    assert node.address == address
    assert node.get("k") is None


def test_paused_memcached_accepts_but_never_answers(memcached: MemcachedFactory) -> None:
    node = memcached()
    node.pause()
    with pytest.raises(TimeoutError):
        node.command(b"version\r\n", timeout=0.2)
    node.resume()
    assert node.command(b"version\r\n").startswith(b"VERSION")


def test_databases_come_and_go(postgres: Postgres) -> None:
    postgres.add_database("a/b")
    assert postgres.sql("SELECT 1", database="a/b") == "1"
    postgres.drop_database("a/b")
    with pytest.raises(ServerError, match="does not exist"):
        postgres.sql("SELECT 1", database="a/b")


def test_killed_postgres_comes_back_with_what_was_committed() -> None:
    require("postgresql", installed=postgres_is_installed())
    with Postgres() as server:
        server.sql("CREATE TABLE kept AS SELECT 7 AS number")
        server.kill()
        server.start()
        assert server.sql("SELECT number FROM kept") == "7"


def test_a_replica_follows_its_primary_as_late_as_it_is_told_to(postgres: Postgres) -> None:
    with Postgres(primary=postgres) as prompt, Postgres("-c", "recovery_min_apply_delay=1h", primary=postgres) as late:
        postgres.sql("CREATE TABLE followed AS SELECT 1")
        written = postgres.sql("SELECT pg_current_wal_lsn()")
        while prompt.sql(f"SELECT pg_last_wal_replay_lsn() >= '{written}'") != "t":
            time.sleep(0.02)
        assert prompt.sql("SELECT count(*) FROM followed") == "1"
        with pytest.raises(ServerError, match='"followed" does not exist'):
            late.sql("SELECT count(*) FROM followed")
    postgres.sql("DROP TABLE followed")


def test_vhosts_come_and_go(broker: Broker) -> None:
    broker.add_vhost("a/b")
    assert "a/b" in [vhost["name"] for vhost in broker.api("GET", "/vhosts")]
    broker.delete_vhost("a/b")
    assert "a/b" not in [vhost["name"] for vhost in broker.api("GET", "/vhosts")]


def test_a_failing_rabbitmqctl_raises_what_it_said(broker: Broker) -> None:
    with pytest.raises(ServerError, match="no_such_command"):
        broker.ctl("no_such_command")


def test_rabbitmqctl_reaches_the_private_node(broker: Broker) -> None:
    assert broker.node in broker.ctl("status")


def test_killed_broker_starts_again_with_what_was_on_its_disk(own_broker: Broker) -> None:
    own_broker.add_vhost("kept")
    own_broker.kill()
    assert not own_broker.running
    own_broker.start()
    assert "kept" in [vhost["name"] for vhost in own_broker.api("GET", "/vhosts")]


def test_paused_broker_accepts_but_never_answers(own_broker: Broker) -> None:
    own_broker.pause()
    with socket.create_connection(("127.0.0.1", own_broker.port), timeout=0.2) as connection:
        connection.sendall(b"AMQP\x00\x00\x09\x01")
        with pytest.raises(TimeoutError):
            connection.recv(1)
        own_broker.resume()
        connection.settimeout(10)
        assert connection.recv(1) == b"\x01"


def test_a_broker_is_healed_whatever_was_done_to_it(own_broker: Broker) -> None:
    own_broker.ctl("set_disk_free_limit", "900000000000000")
    own_broker.api("PUT", "/queues/%2F/left-over", {})
    own_broker.pause()
    own_broker.heal()
    assert {"status": "ok"} == own_broker.api("GET", "/health/checks/alarms")
    assert [] == own_broker.api("GET", "/queues/%2F")
    own_broker.kill()
    own_broker.heal()
    assert own_broker.api("GET", "/overview")


def test_a_node_with_a_peer_joins_its_cluster(own_broker: Broker) -> None:
    with Broker(peer=own_broker) as second:
        members = {node["name"] for node in own_broker.api("GET", "/nodes") if node["running"]}
        assert members == {own_broker.node, second.node}


def test_nothing_outlives_a_killed_parent(tmp_path: Path) -> None:
    require("rabbitmq", installed=rabbitmq_is_installed())
    require("memcached", installed=memcached_is_installed())
    require("postgresql", installed=postgres_is_installed())
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path)], cwd=Path(__file__).parents[2], stdout=subprocess.PIPE
    )
    assert parent.stdout is not None
    with parent.stdout:
        database = Path(parent.stdout.readline().decode().strip())
    assert all(map(processes_of, (tmp_path, database)))
    parent.kill()
    parent.wait()
    while any(map(processes_of, (tmp_path, database))):
        time.sleep(0.05)  # the test's timeout ends this
    shutil.rmtree(database)


PARENT = """
import pathlib, sys, time
from tests.servers import Broker, Memcached, Postgres
folder = pathlib.Path(sys.argv[1])
Memcached(folder=folder / "memcached").start()
Broker(folder / "broker").start()
database = Postgres()  # in a folder of its own: PostgreSQL's user cannot reach the other
database.start()
print(database.folder, flush=True)
time.sleep(600)
"""


def processes_of(folder: Path) -> list[str]:
    """Return the command lines of all processes that work in the folder or have it in their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            here = (process / "cwd").readlink().is_relative_to(folder)
            if here or os.fsencode(folder) in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_text())
    return found


async def test_proxy_passes_bytes_and_rewrites_replies(memcached: MemcachedFactory, proxy: ProxyFactory) -> None:
    node = memcached()
    way = await proxy(node.address)
    way.replies.rewrite = lambda data: data.replace(b"VERSION", b"GARBAGE")
    reader, writer = await asyncio.open_connection("127.0.0.1", way.port)
    writer.write(b"version\r\n")
    assert (await reader.readline()).startswith(b"GARBAGE ")
    writer.close()


async def test_proxy_resets_connections_and_refuses_new_ones(memcached: MemcachedFactory, proxy: ProxyFactory) -> None:
    way = await proxy(memcached().address)
    reader, writer = await asyncio.open_connection("127.0.0.1", way.port)
    writer.write(b"version\r\n")
    await reader.readline()
    await way.refuse()
    await way.reset()
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", way.port)
    await way.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", way.port)
    writer.write(b"version\r\n")
    assert (await reader.readline()).startswith(b"VERSION ")
    writer.close()


async def test_held_bytes_arrive_when_released_and_swallowed_ones_never(
    memcached: MemcachedFactory, proxy: ProxyFactory
) -> None:
    node = memcached()
    way = await proxy(node.address)
    reader, writer = await asyncio.open_connection("127.0.0.1", way.port)
    way.replies.hold()
    writer.write(b"version\r\n")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.readline(), 0.2)
    way.replies.release()
    assert (await reader.readline()).startswith(b"VERSION ")
    way.requests.swallow = True
    writer.write(b"set k 0 0 1\r\nv\r\n")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.readline(), 0.2)
    assert node.get("k") is None
    writer.close()


async def test_the_end_of_a_held_connection_is_not_seen_before_release(
    memcached: MemcachedFactory, proxy: ProxyFactory
) -> None:
    node = memcached()
    way = await proxy(node.address)
    reader, writer = await asyncio.open_connection("127.0.0.1", way.port)
    writer.write(b"version\r\n")
    await reader.readline()
    way.requests.hold()
    writer.close()
    await writer.wait_closed()
    assert min(connection_count(node) for _ in range(20)) >= 2, "the proxy's connection, and the one that asks"
    way.requests.release()
    while connection_count(node) != 1:
        await asyncio.sleep(0.01)


def connection_count(node: Memcached) -> int:
    return int(node.stats()["curr_connections"])
