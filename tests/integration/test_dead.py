"""`invalidator dead` on a real broker: reading costs nothing, and an event is stored again before it is removed."""

import json
from collections.abc import AsyncIterator
from typing import Any

import aio_pika
import pytest

from invalidator.operate.dead_letters import Filter, dead_letters
from tests.integration.shell import Shell
from tests.integration.shop import Publishing, eventually, publishing, working
from tests.servers import Broker

GOOD = b'{"type":"product_updated","id":7}'
NO_ID = b'{"type":"product_updated","price":9}'


@pytest.fixture
async def shop(shell: Shell, vhost: str) -> AsyncIterator[Publishing]:
    """Yield a publisher. The topology is declared, and no worker runs."""
    await shell.declare()
    async with publishing(vhost) as shop:
        yield shop


async def dead_lettered(shell: Shell, shop: Publishing, *bodies: bytes, **properties: Any) -> None:
    """Publish poison, and let a worker dead-letter it."""
    before = await shop.ready(shell.topology.dead)
    for body in bodies:
        await shop.raw(body, **properties)
    async with working(shell.settings):
        await became(shop, shell.topology.dead, before + len(bodies))


async def rejected(shell: Shell, shop: Publishing, *bodies: bytes) -> None:
    """Publish, and reject as a worker does when it cannot publish."""
    for body in bodies:
        await shop.raw(body)
    async with shop.connection.channel() as channel:
        queue = await channel.get_queue(shell.topology.queue, ensure=False)
        for _ in bodies:
            await (await queue.get(timeout=10)).reject(requeue=False)
        await became(shop, shell.topology.dead, len(bodies))


async def became(shop: Publishing, queue: str, count: int) -> None:
    while await shop.ready(queue) != count:
        pass


async def listed(shell: Shell, *arguments: str) -> list[tuple[str, str, int]]:
    done = await shell.run("dead", "list", "-o", "json", *arguments)
    assert 0 == done.returncode, done.stderr
    return [(one["reason"], one["type"], one["count"]) for one in json.loads(done.stdout)]


async def test_dead_letters_are_counted_by_reason_and_type_and_filters_choose_among_them(
    shell: Shell, shop: Publishing
) -> None:
    await dead_lettered(shell, shop, b"not json", NO_ID, NO_ID)
    assert [("missing-field", "product_updated", 2), ("not-json", "", 1)] == await listed(shell)
    await became(shop, shell.topology.dead, 3)  # the broker has taken them back
    assert [("not-json", "", 1)] == await listed(shell, "--reason", "not-json")
    await became(shop, shell.topology.dead, 3)
    assert [("missing-field", "product_updated", 1)] == await listed(shell, "--type", "product_updated", "--limit", "1")
    assert 3 == await shop.ready(shell.topology.dead)


async def test_a_dead_letter_is_shown_with_its_reason_and_nothing_that_a_terminal_obeys(
    shell: Shell, shop: Publishing
) -> None:
    body = b'{"type":"product_updated","id":"1\\r\\n\\u001b[2J"}'
    await dead_lettered(shell, shop, body, message_id="the-id", headers={"trace": "\x1b]0;x\x07"})
    done = await shell.run("dead", "show")
    assert done.stdout.replace("\n", "").isprintable()
    for part in ("bad-key", "the-id", r"\x1b]0;x\x07", "holds a space or a control character"):
        assert part in done.stdout
    (shown,) = json.loads((await shell.run("dead", "show", "-o", "json")).stdout)
    assert (body.decode(), "the-id") == (shown["body"], shown["message_id"])
    assert shown["died_at"] and shown["worker"]
    assert [shown] == json.loads((await shell.run("dead", "show", shown["id"], "-o", "json")).stdout)
    assert [] == json.loads((await shell.run("dead", "show", "0" * 8, "-o", "json")).stdout)


async def test_a_dead_letter_read_25_times_is_still_there(shell: Shell, shop: Publishing) -> None:
    await dead_lettered(shell, shop, NO_ID)
    for _ in range(5):
        for command in (("list",), ("show",), ("replay", "--dry-run"), ("drop", "--dry-run"), ("drop",)):
            await shell.run("dead", *command)
            await became(shop, shell.topology.dead, 1)  # the broker has taken it back
    (message,) = await shop.take(shell.topology.dead)
    assert (NO_ID, 25) == (message.body, message.headers["x-delivery-count"])


async def test_deliveries_of_an_event_do_not_count_for_its_dead_letter(shell: Shell, shop: Publishing) -> None:
    await shop.raw(NO_ID)
    async with shop.connection.channel() as channel:
        queue = await channel.get_queue(shell.topology.queue, ensure=False)
        await (await queue.get(timeout=10)).nack(requeue=True)
    async with working(shell.settings):
        await became(shop, shell.topology.dead, 1)
    (message,) = await shop.take(shell.topology.dead)
    assert 0 == message.headers.get("x-delivery-count", 0)


async def test_a_reason_that_was_not_recorded_is_inferred(shell: Shell, shop: Publishing) -> None:
    await rejected(shell, shop, NO_ID, GOOD)
    assert {("missing-field", "product_updated", 1), ("rejected", "product_updated", 1)} == set(await listed(shell))
    shown = json.loads((await shell.run("dead", "show", "-o", "json")).stdout)
    assert [True, True] == [each["worked_out"] for each in shown]
    assert all(each["died_at"] for each in shown)


async def test_what_crashes_have_killed_is_replayed_to_this_cluster_and_evicted(
    shell: Shell, shop: Publishing, broker: Broker, vhost: str
) -> None:
    limit = {"pattern": r"^invalidator\.eu$", "definition": {"delivery-limit": 1}, "apply-to": "queues"}
    broker.api("PUT", f"/policies/{vhost.rpartition('/')[2]}/limit", limit)
    other = await (await shop.connection.channel()).declare_queue("invalidator.us", durable=True)
    await other.bind("product.updates")
    await shop.raw(GOOD, message_id="the-id", headers={"trace": "x"})
    while not await shop.ready(shell.topology.dead):  # until the policy is in force, and has struck
        async with shop.connection.channel() as channel:
            queue = await channel.get_queue(shell.topology.queue, ensure=False)
            if message := await queue.get(fail=False, timeout=10):
                await message.nack(requeue=True)
    assert [("delivery-limit", "product_updated", 1)] == await listed(shell)
    done = await shell.run("dead", "replay", "--reason", "delivery-limit")
    assert (0, "1 dead letter replayed\n") == (done.returncode, done.stdout)
    assert [1, 1, 0] == [
        await shop.ready(name) for name in (shell.topology.queue, "invalidator.us", shell.topology.dead)
    ]
    (message,) = await shop.take(shell.topology.queue)
    assert (GOOD, "the-id") == (message.body, message.message_id)
    message.headers.pop("x-delivery-count", None)  # the broker's own; RabbitMQ 4 leaves out a 0
    assert {"trace": "x"} == message.headers


async def test_what_the_broker_does_not_store_again_stays_a_dead_letter(
    shell: Shell, shop: Publishing, broker: Broker, vhost: str
) -> None:
    await dead_lettered(shell, shop, NO_ID, NO_ID)
    broker.api("DELETE", f"/queues/{vhost.rpartition('/')[2]}/{shell.topology.queue}")
    done = await shell.run("dead", "replay")
    assert 69 == done.returncode
    assert "invalidator: nothing was replayed:\n" in done.stderr
    assert 2 == await shop.ready(shell.topology.dead)


async def test_a_dead_letter_that_dies_again_is_replayed_once(shell: Shell, shop: Publishing) -> None:
    async with working(shell.settings):
        await shop.raw(NO_ID)
        await became(shop, shell.topology.dead, 1)
        async with dead_letters(shell.settings) as found:
            async for _ in found.replay(Filter(), rate=None, advance=lambda: None):
                await became(shop, shell.topology.dead, 1)
    assert 1 == found.count


async def test_replay_waits_and_says_how_many_died_again(shell: Shell, shop: Publishing) -> None:
    await rejected(shell, shop, GOOD)
    await dead_lettered(shell, shop, NO_ID, NO_ID)
    async with working(shell.settings):
        done = await shell.run("dead", "replay")
        assert (75, "3 dead letters replayed, and 2 of them died again: invalidator dead list\n") == (
            done.returncode,
            done.stdout,
        ), done.stderr
        await became(shop, shell.topology.dead, 2)
        done = await shell.run("dead", "replay", "-o", "json")
        assert {"replayed": 2, "left": 0, "died_again": 2, "unanswered": 0} == json.loads(done.stdout)


async def test_replay_without_a_worker_does_not_wait_and_says_so(shell: Shell, shop: Publishing) -> None:
    await rejected(shell, shop, GOOD)
    done = await shell.run("dead", "replay")
    assert (0, "1 dead letter replayed\n") == (done.returncode, done.stdout)
    assert "no worker has evicted 1 of them yet" in done.stderr


async def test_dead_letters_of_debezium_and_cloudevents_are_found_by_their_type(shell: Shell, shop: Publishing) -> None:
    change = (
        b'{"before":null,"after":{"name":"x"},"op":"u","source":{"connector":"mysql","db":"shop","table":"products"}}'
    )
    cloud = b'{"specversion":"1.0","id":"1","source":"/shop","type":"product_updated","data":{}}'
    await rejected(shell, shop, change, cloud)
    assert {("rejected", "debezium:shop.products", 1)} == set(await listed(shell, "--type", "debezium:shop.products"))
    assert {("missing-field", "product_updated", 1)} == set(await listed(shell, "--type", "product_updated"))


async def test_an_unreadable_debt_is_not_an_event_and_is_left(shell: Shell, shop: Publishing) -> None:
    debts = shell.topology.parked("c1")
    channel = await shop.connection.channel()
    await channel.default_exchange.publish(aio_pika.Message(b"no debt", delivery_mode=2), routing_key=debts)
    async with working(shell.settings):
        await became(shop, shell.topology.dead, 1)
    done = await shell.run("dead", "replay")
    assert (0, "0 dead letters replayed\n") == (done.returncode, done.stdout)
    assert "1 unreadable debt left: flush the node" in done.stderr
    assert 1 == await shop.ready(shell.topology.dead)


async def test_nothing_is_dropped_without_yes(shell: Shell, shop: Publishing) -> None:
    await dead_lettered(shell, shop, b"not json", NO_ID)
    assert 2 == (await shell.run("dead", "drop")).returncode
    done = await shell.run("dead", "drop", "--reason", "not-json", "--yes")
    assert (0, "1 dead letter dropped\n") == (done.returncode, done.stdout)
    assert [NO_ID] == [message.body for message in await shop.take(shell.topology.dead)]


async def test_where_reading_would_delete_dead_letters_nothing_is_read(
    shell: Shell, shop: Publishing, broker: Broker, vhost: str
) -> None:
    await dead_lettered(shell, shop, NO_ID)
    limit = {"pattern": r"dead$", "definition": {"delivery-limit": 3}, "apply-to": "queues"}
    name = vhost.rpartition("/")[2]
    broker.api("PUT", f"/policies/{name}/limit", limit)
    await eventually(
        lambda: broker.api("GET", f"/queues/{name}/{shell.topology.dead}").get("effective_policy_definition")
    )
    done = await shell.run("dead", "list")
    assert 78 == done.returncode
    assert f'"{shell.topology.dead}" has a delivery limit of 3' in done.stderr
    (message,) = await shop.take(shell.topology.dead)
    assert 0 == message.headers.get("x-delivery-count", 0)
