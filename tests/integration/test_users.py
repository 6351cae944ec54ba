"""The users of conf/rabbitmq/users.rst: each can do its work, and nothing else."""

import asyncio
import os
import re
import shlex
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any

import aio_pika
import aiormq
import msgspec
import pytest
from aio_pika.abc import AbstractChannel

from invalidator.app import AsyncPublisher
from invalidator.app.near.listener import listen
from invalidator.audit.account import SavedAccount
from invalidator.audit.auditor import Auditor
from invalidator.audit.verdict import Reason
from invalidator.broker.messages import Announcement
from invalidator.broker.topology import Topology
from invalidator.settings import AuditSettings, BrokerSettings, EventLogSettings, Secret, Settings
from tests.integration.aftermath import Trial
from tests.integration.conftest import MemcachedFactory
from tests.integration.shell import Shell
from tests.integration.shop import changed, eventually, publishing, settings_for, working
from tests.integration.test_faults_of_the_queue import delete_queue
from tests.servers import Broker

PAGE = Path(__file__).parents[2] / "conf/rabbitmq/users.rst"
COMMANDS = [shlex.split(line)[1:] for line in re.findall(r"^    (rabbitmqctl .+)$", PAGE.read_text(), re.MULTILINE)]
#: For a worker that heals from the log.
LOGGED = next(command for command in COMMANDS if "log" in command[-1])
NAMES = ("invalidator-eu", "shop", "shop-near", "audit-eu", "operator")

Attempt = Callable[[AbstractChannel], Awaitable[Any]]


@pytest.fixture
def url(broker: Broker, vhost: str) -> Iterator[Callable[[str], str]]:
    """Yield `url(name)` of a user made by the page's commands, for this test's vhost."""
    for name in NAMES:
        broker.api("PUT", f"/users/{name}", {"password": "secret", "tags": ""})
    for command in COMMANDS:
        if command is LOGGED:
            continue
        broker.ctl(*(vhost.rpartition("/")[2] if word == "/" else word for word in command))
    yield lambda name: vhost.replace("guest:guest", f"{name}:secret")
    for name in NAMES:
        broker.api("DELETE", f"/users/{name}")


@pytest.fixture
async def settings(broker: Broker, vhost: str, memcached: MemcachedFactory, tmp_path: Path) -> Settings:
    """Return settings of a cluster whose queues exist, beside another cluster's and a queue that is not ours."""
    settings = settings_for(vhost, [memcached(), memcached()])
    await Shell(settings, broker, tmp_path).declare()
    await Shell(settings_for(vhost, {"c1": "127.0.0.1"}, cluster="us"), broker, tmp_path).declare()
    broker.api("PUT", f"/queues/{vhost.rpartition('/')[2]}/billing", {"durable": True})
    return settings


def as_user(settings: Settings, url: str, **more: Any) -> Settings:
    return changed(settings, "broker", url=url, password=Secret("secret"), **more)


async def test_a_worker_evicts_parks_drains_and_dead_letters_and_may_do_nothing_else(
    settings: Settings, url: Callable[[str], str], vhost: str, memcached: MemcachedFactory
) -> None:
    alive, down = memcached(), memcached()
    settings = changed(settings, "ring", nodes={"c1": alive.address, "c2": down.address})
    topology = Topology.of(settings)
    down.kill()
    async with working(as_user(settings, url("invalidator-eu"), declare="passive")), publishing(vhost) as shop:
        alive.set("product:1", b"old")
        await shop.update(1)
        await shop.raw(b"no json")
        await eventually(lambda: alive.get("product:1") is None)
        await shop.settled_but(topology, topology.parked("c2"))
        await shop.settled_but(topology, topology.dead)
        down.start()
        await shop.settled(topology)
    await all_refused(
        url("invalidator-eu"),
        publish("product.updates"),
        consume("invalidator.us"),
        consume("invalidator.eu.dead"),
        declare("invalidator.eu.parked.c3"),
        delete("invalidator.eu"),
    )


async def test_a_worker_with_a_log_heals_and_still_may_not_do_more(
    url: Callable[[str], str], broker: Broker, vhost: str, memcached: MemcachedFactory
) -> None:
    broker.ctl(*(vhost.rpartition("/")[2] if word == "/" else word for word in LOGGED))
    node = memcached()
    logged = settings_for(vhost, [node], event_log=EventLogSettings(enabled=True))
    shop = Trial(logged, [node])
    await shop.declare()
    async with working(as_user(logged, url("invalidator-eu"), declare="passive")) as worker:
        await shop.is_logging()
        await delete_queue(broker, vhost, shop.topology.queue)
        await eventually(lambda: "invalidator topology declare" in worker.status())
        shop.fill(1, 2, 3)
        await shop.publish(1, 2, 3)
        await shop.declare()
        await eventually(shop.is_gone)
    await all_refused(url("invalidator-eu"), publish("product.updates"), consume("invalidator.us"))


async def test_an_auditor_receives_changes_counts_what_waits_and_may_do_nothing_else(
    settings: Settings, url: Callable[[str], str], vhost: str, memcached: MemcachedFactory, tmp_path: Path
) -> None:
    node, account = memcached(), tmp_path / "account.sqlite"
    audit = AuditSettings(share=1.0, delays=[0.1, 1.0], account=str(account))
    settings = msgspec.structs.replace(changed(settings, "ring", nodes={"c1": node.address}), audit=audit)
    auditor = Auditor(as_user(settings, url("audit-eu")), lambda key: lambda: "new")
    stopping = asyncio.Event()
    async with publishing(vhost) as shop, asyncio.TaskGroup() as tasks:
        tasks.create_task(auditor.run(stopping))
        await eventually(lambda: auditor.health().is_ready)
        node.set("product:1", b'"old"')
        await shop.update(1)
        with closing(SavedAccount(account)) as saved:
            await eventually(lambda: saved.findings(1))
            assert [Reason.BACKLOG] == [one.reason for one in saved.findings(1)]
        stopping.set()
    await all_refused(
        url("audit-eu"),
        publish("product.updates"),
        publish("cache.purged"),
        consume("invalidator.eu"),
        consume("invalidator.eu.dead"),
        delete("invalidator.eu"),
    )


async def test_a_publisher_publishes_and_may_do_nothing_else(
    settings: Settings, url: Callable[[str], str], vhost: str
) -> None:
    async with AsyncPublisher(url("shop")) as publisher, publishing(vhost) as shop:
        await publisher.publish("product_updated", {"id": 1})
        assert 1 == await shop.ready("invalidator.eu") == await shop.ready("invalidator.us")
    await all_refused(
        url("shop"),
        publish(""),
        publish("cache.purged"),
        consume("invalidator.eu"),
        declare("mine"),
        delete("invalidator.eu"),
    )


class Recorder:
    def __init__(self) -> None:
        self.keys: list[str] = []
        self.is_linked = False

    def linked(self) -> None:
        self.is_linked = True

    def received(self, announcement: Announcement) -> None:
        self.keys += announcement.keys

    def lost(self) -> None:
        """Do nothing: the test does not need it."""


async def own_queues(broker: Broker, vhost: str) -> list[str]:
    """Return the names of the listeners' queues, without the part that is random."""
    queues = await asyncio.to_thread(broker.api, "GET", f"/queues/{vhost.rpartition('/')[2]}")
    return [queue["name"].rpartition(".")[0] for queue in queues if queue["exclusive"]]


async def test_a_listener_permitted_to_use_queues_that_the_broker_names_gets_one(
    settings: Settings, url: Callable[[str], str], broker: Broker, vhost: str
) -> None:
    """Permissions were given like this until the queues had names that say whose they are."""
    near = BrokerSettings(url=url("shop-near"), password=Secret("secret"))
    before = ("^amq.gen-.+$", "^amq.gen-.+$", "^(cache.purged|amq.gen-.+)$")
    broker.ctl("set_permissions", "-p", vhost.rpartition("/")[2], "shop-near", *before)
    recorder = Recorder()
    listening = asyncio.create_task(listen(lambda: near, "eu", recorder, role="near"))
    await eventually(lambda: recorder.is_linked)
    listening.cancel()
    with suppress(asyncio.CancelledError):
        await listening


async def test_a_listener_receives_announcements_and_may_do_nothing_else(
    settings: Settings, url: Callable[[str], str], broker: Broker, vhost: str
) -> None:
    recorder = Recorder()
    near = BrokerSettings(url=url("shop-near"), password=Secret("secret"))
    async with working(as_user(settings, url("invalidator-eu"), declare="passive")), publishing(vhost) as shop:
        listening = asyncio.create_task(listen(lambda: near, "eu", recorder, role="near"))
        await eventually(lambda: recorder.is_linked)
        assert [f"invalidator-near.eu.{socket.gethostname()}.{os.getpid()}"] == await own_queues(broker, vhost)
        await shop.update(1)
        await eventually(lambda: "product:1" in recorder.keys)
        listening.cancel()
        with suppress(asyncio.CancelledError):
            await listening
    await all_refused(
        url("shop-near"),
        publish("product.updates"),
        publish("cache.purged"),
        publish(""),
        consume("invalidator.eu"),
        declare("mine"),
        delete("invalidator.eu"),
    )


async def test_an_operator_runs_every_command_and_may_touch_only_our_queues(
    settings: Settings, url: Callable[[str], str], broker: Broker, vhost: str, tmp_path: Path
) -> None:
    shell = Shell(as_user(settings, url("operator")), broker, tmp_path)
    shell.environ["INVALIDATOR_MANAGEMENT__EXPECT"] = '["eu"]'  # no worker of the other cluster runs
    async with working(settings), publishing_all_the_time(vhost):
        for command in (
            ("topology", "declare"),
            ("topology", "verify"),
            ("check",),
            ("evict", "product:1"),
            ("publish", "product_updated", "id=1"),
            ("dead", "list"),
            ("evict", "product:1", "--wait"),
            ("tail", "--limit", "1"),
            ("check", "--sample", "1"),
        ):
            done = await shell.run(*command)
            assert 0 == done.returncode, f"{command}: {done.stdout}{done.stderr}"
    await all_refused(url("operator"), consume("billing"), declare("mine"), delete("billing"))


@asynccontextmanager
async def publishing_all_the_time(vhost: str) -> AsyncIterator[None]:
    """Publish events for commands that wait for one."""

    async def publish_on() -> None:
        async with publishing(vhost) as shop:
            while True:
                await shop.update(1)
                await asyncio.sleep(0.05)

    publishing_on = asyncio.create_task(publish_on())
    yield
    publishing_on.cancel()
    with suppress(asyncio.CancelledError):
        await publishing_on


async def all_refused(url: str, *attempts: Attempt) -> None:
    connection = await aio_pika.connect(url)
    async with connection:
        for attempt in attempts:
            channel = await connection.channel()
            with pytest.raises(aiormq.exceptions.ChannelAccessRefused):
                await attempt(channel)


def publish(exchange: str) -> Attempt:
    async def attempt(channel: AbstractChannel) -> None:
        await (await channel.get_exchange(exchange, ensure=False)).publish(aio_pika.Message(b"{}"), "invalidator.eu")

    return attempt


def consume(queue: str) -> Attempt:
    async def attempt(channel: AbstractChannel) -> None:
        await (await channel.get_queue(queue, ensure=False)).get(fail=False)

    return attempt


def declare(queue: str) -> Attempt:
    return lambda channel: channel.declare_queue(queue, durable=True)


def delete(queue: str) -> Attempt:
    return lambda channel: channel.queue_delete(queue)
