"""The log: a stream that keeps a second copy of every event."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from invalidator.app.publish.rabbit_bus import RabbitEventBus
from invalidator.operate.diagnosis.permissions import Permissions, needed
from invalidator.settings import EventLogSettings
from tests.integration.aftermath import Trial
from tests.integration.conftest import MemcachedFactory
from tests.integration.shell import Shell, as_user
from tests.integration.shop import changed, publishing, settings_for
from tests.servers import Broker

LOGGED = EventLogSettings(enabled=True)
#: The publisher of conf/rabbitmq/users.rst.
SHOP = Permissions("^$", r"^product\.updates$", "^$")


@pytest.fixture
def shell(vhost: str, broker: Broker, memcached: MemcachedFactory, tmp_path: Path) -> Shell:
    return Shell(settings_for(vhost, [memcached()], event_log=LOGGED), broker, tmp_path)


async def delete_queue(broker: Broker, shell: Shell, vhost: str) -> None:
    await asyncio.to_thread(broker.api, "DELETE", f"/queues/{vhost.rpartition('/')[2]}/{shell.topology.queue}")


async def test_it_is_declared_exported_imported_and_verified(
    shell: Shell, broker: Broker, vhost: str, tmp_path: Path
) -> None:
    file = tmp_path / "definitions.json"
    file.write_text((await shell.run("topology", "export", "--rabbitmq", broker.version.partition(".")[0])).stdout)
    await asyncio.to_thread(broker.ctl, "import_definitions", str(file))
    verified = await shell.run("topology", "verify")
    assert (0, True) == (verified.returncode, "invalidator.log: loses nothing" in verified.stdout)
    assert "product.updates -> invalidator.log" in verified.stdout
    declared = await shell.run("topology", "declare", "-o", "json")
    assert {"what": "queue", "name": "invalidator.log"} in json.loads(declared.stdout)


async def test_a_log_of_another_size_is_left_as_it_is_and_verify_names_the_difference(
    shell: Shell, broker: Broker, vhost: str
) -> None:
    await shell.declare()
    shell.configure(changed(shell.settings, "event_log", days=8))
    assert 0 == (await shell.run("topology", "declare")).returncode
    verified = await shell.run("topology", "verify")
    assert 78 == verified.returncode
    assert "has x-max-age '7D' instead of '8D'" in verified.stdout


async def test_a_queue_in_its_place_that_is_no_stream_is_refused(shell: Shell, broker: Broker, vhost: str) -> None:
    quorum = {"durable": True, "arguments": {"x-queue-type": "quorum"}}
    broker.api("PUT", f"/queues/{vhost.rpartition('/')[2]}/invalidator.log", quorum)
    declared = await shell.run("topology", "declare")
    assert (78, True) == (declared.returncode, "is no stream" in declared.stderr)


@pytest.mark.parametrize("api", [True, False])
async def test_no_cluster_is_bound_is_said_although_the_log_is(
    api: bool, shell: Shell, broker: Broker, vhost: str
) -> None:
    await shell.declare()
    await delete_queue(broker, shell, vhost)
    without = {} if api else {"INVALIDATOR_MANAGEMENT__URL": "http://127.0.0.1:1"}
    published = await shell.run("publish", "product_updated", "id=1", environ=without)
    assert (69, True) == (published.returncode, "no cluster is bound" in published.stderr)
    evicted = await shell.run("evict", "product:1", environ=without)
    assert (69, True) == (evicted.returncode, "no cluster is bound" in evicted.stderr)
    for command in ("status", "check"):
        told = await shell.run(command, environ=without)
        assert (69, True) == (told.returncode, shell.topology.queue in told.stdout), told.stdout
        assert api == ("no cluster is bound" in told.stdout)
    async with publishing(vhost) as shop:
        assert 0 == await shop.ready("invalidator.log")


async def test_no_cluster_is_bound_is_said_by_a_file_that_does_not_know_of_the_log_and_beside_a_listener(
    shell: Shell, broker: Broker, vhost: str
) -> None:
    await shell.declare()
    await delete_queue(broker, shell, vhost)
    shell.configure(changed(shell.settings, "event_log", enabled=False))
    with RabbitEventBus(vhost) as bus:
        bus.subscribe("product_updated", lambda _: None)
        for command in (["publish", "product_updated", "id=1"], ["evict", "product:1"], ["status"], ["check"]):
            done = await shell.run(*command)
            assert (69, True) == (done.returncode, "no cluster is bound" in done.stdout + done.stderr), done


async def test_a_publisher_of_the_handbook_publishes_beside_it(shell: Shell, broker: Broker, vhost: str) -> None:
    await shell.declare()
    published = await as_user(shell, broker, vhost, SHOP, "publish", "product_updated", "id=1")
    assert 0 == published.returncode, published.stderr
    async with publishing(vhost) as shop:
        assert 1 == await shop.ready(shell.topology.queue)


async def test_it_is_no_cluster(shell: Shell) -> None:
    await shell.declare()
    shown = json.loads((await shell.run("status", "-o", "json")).stdout)
    assert ["eu"] == [cluster["cluster"] for cluster in shown["clusters"]]


@pytest.mark.parametrize("declares", [False, True])
async def test_the_permissions_that_check_asks_for_are_enough_and_each_is_needed(
    declares: bool, shell: Shell, broker: Broker, vhost: str
) -> None:
    await shell.declare()
    shell.configure(changed(shell.settings, "broker", declare="active" if declares else "passive"))
    enough = needed(shell.topology, declares=declares)
    checked = await as_user(shell, broker, vhost, enough, "check")
    assert "may do all that a worker does" in checked.stdout
    less = Permissions(enough.configure, enough.write, enough.read.replace(r"invalidator\.log", "no"))
    checked = await as_user(shell, broker, vhost, less, "check")
    assert (77, True) == (checked.returncode, "may not: to read invalidator.log" in checked.stdout)


async def test_a_replay_is_counted_first_and_then_evicted_by_a_worker(
    shell: Shell, memcached: MemcachedFactory
) -> None:
    node = memcached()
    shell.configure(settings := changed(shell.settings, "ring", nodes={"c1": node.address}))
    shop = Trial(settings, [node])
    async with shop.working():
        await shop.publish(*range(30))
        await shop.becomes_ready(0)
        shop.fill(*range(30))  # as a node that came back with old values
        counted = await shell.run("replay", "--from", "1h")
        assert (2, True) == (counted.returncode, "would evict 60 keys of 30 events" in counted.stdout), counted.stdout
        assert not shop.is_gone(0)
        replayed = await shell.run("replay", "--from", "1h", "--yes", "-o", "json")
        assert shop.is_gone(*range(30))
        assert (75, 30) == (replayed.returncode, json.loads(replayed.stdout)["events"])  # the log is younger
        assert "the log begins at" in replayed.stderr


async def test_a_replay_ends_where_it_is_asked_to(shell: Shell, memcached: MemcachedFactory) -> None:
    shop = Trial(shell.settings, [])
    await shop.declare()
    for hour in (1, 2, 3):
        at = datetime.now(UTC) - timedelta(hours=hour)
        async with publishing(shop.url) as publisher:
            await publisher.raw(b'{"type": "product_updated", "id": %d}' % hour, timestamp=at)
    counted = await shell.run("replay", "--from", "4h", "--to", "90m", "-o", "json")
    assert (2, 4) == (json.loads(counted.stdout)["events"], json.loads(counted.stdout)["keys"])


async def test_without_a_worker_a_replay_is_stored_and_exits_75(shell: Shell) -> None:
    await shell.declare()
    replayed = await shell.run("replay", "--from", "1h", "--within", "0.5", "--yes")
    assert (75, True) == (replayed.returncode, "no worker has finished the replay" in replayed.stderr)
    async with publishing(shell.settings.broker.url) as shop:
        assert 1 == await shop.ready(shell.topology.gaps)


async def test_without_a_log_nothing_can_be_replayed(shell: Shell) -> None:
    shell.configure(changed(shell.settings, "event_log", enabled=False))
    for more in ([], ["--yes"]):
        replayed = await shell.run("replay", "--from", "1h", *more)
        assert (69, True) == (replayed.returncode, 'no queue "invalidator.log"' in replayed.stderr)
