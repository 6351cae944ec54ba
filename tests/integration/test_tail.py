"""`invalidator tail` and `check --sample` on real servers: they see every message, and no worker misses one."""

import asyncio
import json
import subprocess

import pytest

from tests.integration.shell import Shell
from tests.integration.shop import eventually, publishing, working
from tests.servers import Broker

Done = subprocess.CompletedProcess[str]


async def listening(broker: Broker, vhost: str) -> None:
    """Wait until the temporary queue of `tail` is bound and read, and check its arguments."""
    name = vhost.rpartition("/")[2]
    # `check --sample` has such a queue for announcements before it has one for events.
    bindings = f"/exchanges/{name}/product.updates/bindings/source"
    await eventually(lambda: any("-tail." in one["destination"] for one in broker.api("GET", bindings)))
    await eventually(lambda: any("-tail." in one["queue"]["name"] for one in broker.api("GET", f"/consumers/{name}")))
    (queue,) = [one for one in broker.api("GET", f"/queues/{name}") if one["name"].startswith("invalidator-tail.")]
    queue["arguments"].pop("x-queue-type", None)  # RabbitMQ 4 notes the one that it chose
    assert (True, True, {"x-max-length": 1000}) == (queue["exclusive"], queue["auto_delete"], queue["arguments"])


async def test_events_and_announcements_go_by_and_the_worker_misses_none(
    shell: Shell, broker: Broker, vhost: str
) -> None:
    async with working(shell.settings) as _, publishing(vhost) as shop:
        tail = asyncio.create_task(shell.run("tail", "--limit", "3", "-o", "json"))
        await listening(broker, vhost)
        await shop.update(7)
        await shop.raw(b"poison")
        done = await tail
        assert 0 == done.returncode, done.stderr
        seen = [json.loads(line) for line in done.stdout.splitlines()]
        assert {"event", "purged", "poison"} == {one["what"] for one in seen}
        assert [["product:7", "product:7:reviews"]] * 2 == [one["keys"] for one in seen if one["what"] != "poison"]
        while not await shop.ready(shell.topology.dead):
            pass
    queues = broker.api("GET", f"/queues/{vhost.rpartition('/')[2]}")
    assert not [queue["name"] for queue in queues if "tail" in queue["name"]]


async def test_only_messages_with_a_matching_key_are_shown_and_nothing_that_a_terminal_obeys(
    shell: Shell, broker: Broker, vhost: str
) -> None:
    await shell.declare()
    async with publishing(vhost) as shop:
        tail = asyncio.create_task(shell.run("tail", "--limit", "1", "--key", "product:17*"))
        await listening(broker, vhost)
        await shop.raw(b"poison", type="\x1b[2J")
        await shop.update(7, 171)
        done = await tail
        assert 0 == done.returncode
        assert "product:171:reviews" in done.stdout
        tail = asyncio.create_task(shell.run("tail", "--limit", "1"))
        await listening(broker, vhost)
        await shop.raw(b"poison", type="\x1b[2J")
        done = await tail
        assert done.stdout.replace("\n", "").isprintable()


async def test_losing_the_broker_ends_it(shell: Shell, broker: Broker, vhost: str) -> None:
    await shell.declare()
    tail = asyncio.create_task(shell.run("tail"))
    await listening(broker, vhost)
    await asyncio.to_thread(broker.ctl, "close_all_connections", "--vhost", vhost.rpartition("/")[2], "maintenance")
    done = await tail
    assert 69 == done.returncode, done.stderr


async def test_without_an_exchange_it_exits_69(shell: Shell) -> None:
    done = await shell.run("tail")
    assert 69 == done.returncode
    assert "product.updates" in done.stderr


@pytest.mark.parametrize(("bodies", "code"), [((b"{}", b"[]"), 78), ((), 75), ((b'{"id":1}', b'{"id":2}'), 0)])
async def test_rules_are_tried_on_live_events_before_they_go_live(
    bodies: tuple[bytes, ...], code: int, shell: Shell, broker: Broker, vhost: str
) -> None:
    async with working(shell.settings), publishing(vhost) as shop:
        within = "30" if bodies else "0.1"
        check = asyncio.create_task(shell.run("check", "--sample", "2", "--within", within, "-o", "json"))
        if bodies:
            await listening(broker, vhost)
        for body in bodies:
            await shop.raw(body, type="product_updated")
        done = await check
    samples = [finding for finding in json.loads(done.stdout) if finding["what"] == "sample"]
    assert [code] == sorted({finding["exit_code"] for finding in samples})
    if code == 0:
        assert ["product_updated: events 2, keys 4"] == [finding["text"] for finding in samples]
