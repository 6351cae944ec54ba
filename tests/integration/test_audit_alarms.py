"""No false alarms and no misses: keys that change all the time, while servers restart and connections are lost.

Every value that a key ever had is written down with its time, and each verdict is compared with that account. The long
runs take INVALIDATOR_LONG_SECONDS (1800) each, and begin with INVALIDATOR_LONG_SEED (1):

    pytest -m long -s tests/integration/test_audit_alarms.py
"""

import asyncio
import json
import os
import random
import threading
import time
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
from msgspec.structs import replace

from invalidator.app import LookAsideCache
from invalidator.audit import tracker
from invalidator.audit.account import account_of
from invalidator.audit.auditor import Auditor
from invalidator.audit.summary import DAY, percent, summary_of
from invalidator.settings import AuditSettings, FollowSettings, RuleSettings, Secret, Settings
from tests.faults.publishing import Publishing
from tests.integration.auditing import auditing
from tests.integration.changing_shop import Changes, Judge, Naive, Shop, StoredShop, id_of
from tests.integration.conftest import MemcachedFactory, require
from tests.integration.shop import eventually, settings_for, working
from tests.servers import Broker, Memcached, Postgres, ServerError, postgres_is_installed
from tests.servers.process import Server

DELAYS = [0.02, 0.1, 0.3]
RULES = [
    RuleSettings(on="product_updated", evict=["product:{id}"]),
    RuleSettings(on="changed:public.products", evict=["product:{id}"]),
]
#: Delays of a million checks: each of them is one, if the key rests for so long.
MANY_DELAYS = [0.02, *(number / 20 for number in range(1, 50))]
LONG = float(os.environ.get("INVALIDATOR_LONG_SECONDS", "1800"))
SEED = int(os.environ.get("INVALIDATOR_LONG_SEED", "1"))

TO_AND_FRO = Changes(prices=3, late=0.0)
LATE_EVENTS = Changes(prices=1_000_000, late=3.0)
BOTH = Changes(prices=3, late=3.0, rest=3.0, keys=40, together=20)


@contextmanager
def reading(shop: Shop, nodes: list[Memcached]) -> Iterator[None]:
    """Read all keys in a thread, through the cache."""
    done, cache = threading.Event(), LookAsideCache({f"c{n}": node.address for n, node in enumerate(nodes, 1)})
    chance, shelves = random.Random(2), shop.shelves()

    def read() -> None:
        while not done.wait(0.1 / len(shelves)):
            with suppress(psycopg.OperationalError):  # a database that restarts
                cache.get_many_or_load(chance.choice(shelves), shop.prices, ttl=60)

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        cache.close()


async def publish(bus: Publishing, keys: Sequence[str], *, after: float) -> None:
    """Publish an event of these keys, and again until it is confirmed."""
    await asyncio.sleep(after)
    await bus.confirmed(json.dumps({"type": "product_updated", "id": [*map(id_of, keys)]}).encode())


async def change(shop: Shop, bus: Publishing, keys: Sequence[str], chance: random.Random) -> None:
    """Change keys 50 times a second for a while, rest for a while, and so on."""
    async with asyncio.TaskGroup() as tasks:
        while True:
            for _ in range(chance.randrange(1, 25)):
                await shop.change(keys, chance)
                event = publish(bus, keys, after=shop.changes.late * chance.random() ** 4)
                if shop.changes.late:
                    tasks.create_task(event)
                else:
                    await event
                await asyncio.sleep(chance.expovariate(50))
            await asyncio.sleep(chance.uniform(0.0, shop.changes.rest))


async def disturb(nodes: list[Memcached], broker: Broker, vhost: str, chance: random.Random, *, every: float) -> None:
    """Restart nodes, and close the connections of auditor and worker."""
    while True:
        await asyncio.sleep(chance.uniform(0.5, 1.5) * every)
        if chance.random() < 0.5:
            node = chance.choice(nodes)
            await asyncio.to_thread(node.kill)
            await asyncio.to_thread(_up, [node])
        else:
            await asyncio.to_thread(_close_connection, broker, vhost, chance)


async def restart(servers: Sequence[Broker | Postgres], chance: random.Random) -> None:
    """Stop and start one of these servers about once a minute."""
    while True:
        await asyncio.sleep(chance.uniform(30, 90))
        server = chance.choice(servers)
        await asyncio.to_thread(server.stop if isinstance(server, Postgres) else server.kill)
        await asyncio.sleep(chance.uniform(0.0, 2.0))
        await asyncio.to_thread(_up, [server])


def _close_connection(broker: Broker, vhost: str, chance: random.Random) -> None:
    name = vhost.rpartition("/")[2]
    with suppress(OSError, ServerError):  # a broker that restarts, and a connection that has just ended
        ours = [
            each["name"]
            for each in broker.api("GET", f"/vhosts/{name}/connections")
            if each.get("client_properties", {}).get("connection_name", "").startswith("invalidator ")
        ]
        if ours:
            broker.api("DELETE", f"/connections/{chance.choice(ours).replace(' ', '%20').replace('>', '%3E')}")


def audited(
    vhost: str, nodes: list[Memcached], folder: Path, database: str | None, delays: list[float] = DELAYS
) -> Settings:
    audit = AuditSettings(
        account=str(folder / "account.sqlite"), share=1.0, delays=delays, reads=5000.0, commands=50_000.0
    )
    follow = FollowSettings(url=Secret(database) if database else None)
    return replace(settings_for(vhost, nodes, audit=audit, follow=follow), rule=RULES)


class Run:
    """One run: a shop that changes, its servers, and an auditor of everything."""

    def __init__(self, shop: Shop, vhost: str, broker: Broker, nodes: list[Memcached], settings: Settings) -> None:
        self.shop, self.vhost, self.broker, self.nodes, self.settings = shop, vhost, broker, nodes, settings
        self.auditor = Auditor(settings, shop.source)
        self.judge, self.naive = Judge(shop, self.auditor), Naive(shop, nodes)

    async def play(self, *, seconds: float, restarted: Sequence[Broker | Postgres] = (), every: float = 1.0) -> None:
        chance, bus = random.Random(SEED), Publishing(self.vhost)
        try:
            async with working(self.settings), auditing(self.auditor):
                with reading(self.shop, self.nodes):
                    await self._happen(bus, chance, seconds, restarted, every)
                await asyncio.to_thread(_up, restarted)
                await eventually(lambda: not len(self.auditor._tracker), within=180)
        finally:
            await bus.close()
            self.report()

    async def _happen(
        self,
        bus: Publishing,
        chance: random.Random,
        seconds: float,
        restarted: Sequence[Broker | Postgres],
        every: float,
    ) -> None:
        parts = [change(self.shop, bus, keys, chance) for keys in self.shop.shelves()]
        parts += [self.naive.compare(chance), disturb(self.nodes, self.broker, self.vhost, chance, every=every)]
        parts += [restart(restarted, chance)] if restarted else []
        await _together(parts, seconds)

    def report(self) -> None:
        judge, naive = self.judge, self.naive
        lines = summary_of(account_of(self.settings), now=time.time(), seconds=DAY)
        values, coverage = sum(line.present for line in lines), [line.coverage for line in lines]
        print(f"\nseed {SEED}: {judge.checks:,} checks, {values:,} with a value, {judge.stale:,} stale", end="; ")
        print(f"{len(judge.false_alarms)} false alarms, {len(judge.misses)} misses", end="; ")
        print(f"coverage of a delay {percent(min(coverage))} to {percent(max(coverage))}", end="; ")
        print(f"naive: {naive.compared:,} compared, {naive.alarms:,} alarms")
        print(*judge.false_alarms, *judge.misses, sep="\n")


async def _together(parts: Sequence[Coroutine[Any, Any, None]], seconds: float) -> None:
    """Run all parts for a while; fail if one of them ends by itself."""
    tasks = [asyncio.create_task(part) for part in parts]
    done, _ = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert not done, f"a part of the test failed: {[task.exception() for task in done]}"


def _up(servers: Sequence[Server]) -> None:
    """Start those of these servers that do not run, however long a busy machine takes for it."""
    for server in servers:
        while not server.running:
            with suppress(ServerError):
                server.start()


@pytest.mark.parametrize("changes", [TO_AND_FRO, LATE_EVENTS], ids=["to and fro", "late events"])
async def test_keys_that_change_50_times_a_second_raise_no_false_alarm_where_a_naive_comparer_does(
    changes: Changes, vhost: str, broker: Broker, memcached: MemcachedFactory, tmp_path: Path
) -> None:
    nodes = [memcached(), memcached()]
    run = Run(Shop(changes), vhost, broker, nodes, audited(vhost, nodes, tmp_path, None))
    await run.play(seconds=5)
    assert ([], []) == (run.judge.false_alarms, run.judge.misses)
    assert run.judge.checks > 10
    assert run.naive.alarms > 0


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("changes", [TO_AND_FRO, LATE_EVENTS], ids=["to and fro", "late events"])
async def test_half_an_hour_of_changes_raises_no_false_alarm_while_nodes_and_broker_restart(
    changes: Changes, own_vhost: str, own_broker: Broker, memcached: MemcachedFactory, tmp_path: Path
) -> None:
    nodes = [memcached(), memcached()]
    run = Run(Shop(changes), own_vhost, own_broker, nodes, audited(own_vhost, nodes, tmp_path, None))
    await run.play(seconds=LONG, restarted=[own_broker])
    assert ([], []) == (run.judge.false_alarms, run.judge.misses)
    assert run.naive.alarms > 0


@pytest.mark.long
@pytest.mark.timeout(7200)
async def test_changes_in_the_log_raise_no_false_alarm_while_all_three_servers_restart(
    own_vhost: str, own_broker: Broker, memcached: MemcachedFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require("postgresql", installed=postgres_is_installed())
    monkeypatch.setattr(tracker, "PAUSE", 0.05)  # many changes of a burst are checked, not one a second
    nodes = [memcached(), memcached()]
    with Postgres("-c", "wal_level=logical") as database, closing(StoredShop(BOTH, database.url())) as shop:
        run = Run(shop, own_vhost, own_broker, nodes, audited(own_vhost, nodes, tmp_path, database.url(), MANY_DELAYS))
        await run.play(seconds=LONG, restarted=[own_broker, database], every=10.0)
    assert ([], []) == (run.judge.false_alarms, run.judge.misses)
    assert run.naive.alarms > 0
