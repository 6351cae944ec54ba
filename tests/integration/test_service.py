"""The worker as a process: signals, exit codes, and its reports to systemd."""

import asyncio
import json
import signal
import subprocess
import urllib.request
from datetime import UTC, datetime
from pathlib import Path

from invalidator.broker.topology import Topology
from invalidator.broker.wire.timestamp import stamp
from invalidator.settings import Secret
from tests.integration.conftest import MemcachedFactory, Notifications
from tests.integration.shop import as_toml, changed, eventually, publishing, settings_for, worker_process
from tests.servers import Broker, free_port


async def ended(process: "subprocess.Popen[str]") -> tuple[int, str]:
    """Wait for the end of the process and return its exit code and log."""
    _, log = await asyncio.to_thread(process.communicate, timeout=60)
    return process.returncode, log


async def test_sigterm_under_load_settles_what_is_held_and_loses_nothing(
    vhost: str, memcached: MemcachedFactory, tmp_path: Path
) -> None:
    node = memcached()
    settings = settings_for(vhost, [node])
    async with publishing(vhost) as shop:
        with worker_process(settings, tmp_path) as process:
            await eventually(lambda: process.stderr and "consuming" in process.stderr.readline())
            for number in range(3000):
                node.set(f"product:{number}", b"old")
            load = asyncio.create_task(shop.update(*range(3000)))
            await eventually(lambda: node.get("product:0") is None)
            process.send_signal(signal.SIGTERM)
            code, log = await ended(process)
            await load
        assert code == 0, log
        assert "stopping" in log
        left = {json.loads(message.body)["id"] for message in await shop.take("invalidator.eu")}
    kept = {number for number in range(3000) if node.get(f"product:{number}")}
    assert kept <= left


async def test_batches_that_cannot_be_settled_in_time_are_left_to_the_broker(
    vhost: str, memcached: MemcachedFactory, tmp_path: Path
) -> None:
    """The node hangs and its parking queue is gone, so that the batch can only wait."""
    node = memcached()
    settings = settings_for(vhost, [node], memcached={"deadline": 0.2}, worker={"stop_within": 0.5})
    async with publishing(vhost) as shop:
        with worker_process(settings, tmp_path) as process:
            await eventually(lambda: process.stderr and "consuming" in process.stderr.readline())
            async with shop.connection.channel() as channel:
                await channel.queue_delete(Topology.of(settings).parked("c1"))
            node.pause()
            await shop.update(1)
            await eventually(
                lambda: process.stderr and "cannot publish to the parking queue" in process.stderr.readline()
            )
            process.send_signal(signal.SIGTERM)
            code, log = await ended(process)
        assert (code, "could not settle everything in time" in log) == (0, True), log
        await eventually_ready(shop.ready, "invalidator.eu", 1)


async def eventually_ready(ready: object, queue: str, count: int) -> None:
    async with asyncio.timeout(60):
        while await ready(queue) != count:  # type: ignore[operator]
            await asyncio.sleep(0.05)


async def test_a_second_signal_stops_at_once(vhost: str, memcached: MemcachedFactory, tmp_path: Path) -> None:
    node = memcached()
    settings = settings_for(vhost, [node], memcached={"deadline": 30.0}, worker={"stop_within": 30.0})
    async with publishing(vhost) as shop:
        with worker_process(settings, tmp_path) as process:
            await eventually(lambda: process.stderr and "consuming" in process.stderr.readline())
            node.set("product:1", b"old")
            node.pause()
            await shop.update(1)
            while await shop.ready("invalidator.eu"):
                await asyncio.sleep(0.02)
            process.send_signal(signal.SIGTERM)
            await eventually(lambda: process.stderr and "stopping" in process.stderr.readline())
            process.send_signal(signal.SIGTERM)
            code, log = await ended(process)
        assert (code, "second signal" in log) == (0, True), log


async def test_ready_status_watchdog_and_stopping_are_reported_to_systemd(
    vhost: str, memcached: MemcachedFactory, tmp_path: Path, notifications: Notifications
) -> None:
    with worker_process(settings_for(vhost, [memcached()]), tmp_path, NOTIFY_SOCKET=notifications.path) as process:
        await eventually(lambda: notifications.told("READY=1"))
        await eventually(lambda: notifications.told("WATCHDOG=1"))
        await eventually(lambda: notifications.told("STATUS=consuming"))
        process.send_signal(signal.SIGTERM)
        await eventually(lambda: notifications.told("STOPPING=1"))
        assert (await ended(process))[0] == 0


async def test_a_worker_waits_for_an_absent_broker(
    memcached: MemcachedFactory, tmp_path: Path, notifications: Notifications
) -> None:
    settings = settings_for(f"amqp://guest@127.0.0.1:{free_port()}/", [memcached()])
    with worker_process(settings, tmp_path, NOTIFY_SOCKET=notifications.path) as process:
        await eventually(lambda: notifications.told("READY=1"))
        await eventually(lambda: notifications.told("STATUS=waiting for the broker: no broker answers"))
        await eventually(lambda: notifications.told("WATCHDOG=1"))
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert (await ended(process))[0] == 0


async def test_a_refusal_exits_77_with_one_sentence(vhost: str, memcached: MemcachedFactory, tmp_path: Path) -> None:
    settings = changed(settings_for(vhost, [memcached()]), "broker", password=Secret("not the one"))
    with worker_process(settings, tmp_path) as process:
        code, log = await ended(process)
    assert code == 77
    assert log.splitlines()[-1].startswith("invalidator: 127.0.0.1:")
    assert "wrong user or password" in log
    assert "not the one" not in log


async def test_a_configuration_that_cannot_work_exits_78_and_names_the_key(tmp_path: Path) -> None:
    settings = settings_for("amqp://guest@127.0.0.1/", {"c1": "127.0.0.1:11211"})
    with worker_process(settings, tmp_path, INVALIDATOR_BROKER__PREFECH="5") as process:
        code, log = await ended(process)
    assert code == 78
    assert "did you mean INVALIDATOR_BROKER__PREFETCH?" in log


async def test_the_log_is_one_json_object_a_line_where_there_is_no_terminal(
    broker: Broker, vhost: str, memcached: MemcachedFactory, tmp_path: Path
) -> None:
    with worker_process(settings_for(vhost, [memcached()]), tmp_path) as process:
        async with publishing(vhost) as shop:
            await eventually(lambda: process.stderr and "consuming" in process.stderr.readline())
            await shop.update(1)
        await eventually(lambda: process.stderr and '"evicted"' in process.stderr.readline())
        process.send_signal(signal.SIGTERM)
        _, log = await ended(process)
    assert all(json.loads(line)["event"] for line in log.splitlines())
    assert "stopping" in log


async def test_a_broker_that_hangs_does_not_hold_up_the_stop(
    own_broker: Broker, own_vhost: str, memcached: MemcachedFactory, tmp_path: Path
) -> None:
    settings = settings_for(own_vhost, [memcached()], worker={"stop_within": 0.5})
    with worker_process(settings, tmp_path) as process:
        await eventually(lambda: process.stderr and "consuming" in process.stderr.readline())
        own_broker.pause()
        try:
            process.send_signal(signal.SIGTERM)
            code, log = await ended(process)
        finally:
            own_broker.resume()
    assert (code, "could not settle everything in time" in log) == (0, True), log


async def test_numbers_and_health_are_served_while_it_works(
    vhost: str, memcached: MemcachedFactory, tmp_path: Path
) -> None:
    listen = f"127.0.0.1:{free_port()}"
    settings = settings_for(vhost, [memcached()], metrics={"listen": listen})
    with worker_process(settings, tmp_path) as process:
        await eventually(lambda: process.stderr and "consuming" in process.stderr.readline())
        async with publishing(vhost) as shop:
            await shop.raw(b'{"type": "product_updated", "id": 1}', headers=stamp(datetime.now(UTC)))
        await eventually(
            lambda: 'invalidator_settled_total{cluster="eu",outcome="evicted"} 1.0' in page(listen, "/metrics")
        )
        numbers = page(listen, "/metrics")
        assert "consuming\n" == page(listen, "/live") == page(listen, "/ready")
    for line in (
        'invalidator_consuming{cluster="eu"} 1.0',
        'invalidator_evicted_keys_total{cluster="eu",node="c1"} 2.0',
        'invalidator_parked_keys_total{cluster="eu",node="c1"} 0.0',
        'invalidator_node_unreachable{cluster="eu",node="c1"} 0.0',
        'invalidator_event_age_seconds_count{cluster="eu"} 1.0',
        'invalidator_event_age_seconds_bucket{cluster="eu",le="60.0"} 1.0',
    ):
        assert line in numbers.splitlines()
    assert "product:1" not in numbers


async def test_a_hangup_puts_a_new_configuration_in_force_and_loses_nothing(
    vhost: str, memcached: MemcachedFactory, tmp_path: Path, notifications: Notifications
) -> None:
    """Under load, so that the old one has something to settle; the new one knows another node too."""
    old, new = memcached(), memcached()
    settings = settings_for(vhost, {"c1": old.address})
    async with publishing(vhost) as shop:
        with worker_process(settings, tmp_path, NOTIFY_SOCKET=notifications.path) as process:
            await eventually(lambda: process.stderr and "consuming" in process.stderr.readline())
            for number in range(1000):
                old.set(f"product:{number}", b"old")
            load = asyncio.create_task(shop.update(*range(1000)))
            (tmp_path / "eu.toml").write_text(as_toml(settings_for(vhost, {"c1": old.address, "c2": new.address})))
            process.send_signal(signal.SIGHUP)
            await load
            await eventually(lambda: process.stderr and '"consuming"' in process.stderr.readline())
            new.set("product:1", b"old")
            await shop.update(1)
            await eventually(lambda: new.get("product:1") is None)
            await shop.empty("invalidator.eu")
            process.send_signal(signal.SIGTERM)
            code, log = await ended(process)
        assert code == 0, log
    assert not [number for number in range(1000) if old.get(f"product:{number}")]
    assert notifications.told("RELOADING=1")
    assert ["READY=1", "RELOADING=1", "READY=1", "STOPPING=1"] == [
        line for line in notifications.lines if line in ("READY=1", "RELOADING=1", "STOPPING=1")
    ]


async def test_a_hangup_with_a_configuration_that_cannot_work_changes_nothing_and_is_reported(
    vhost: str, memcached: MemcachedFactory, tmp_path: Path, notifications: Notifications
) -> None:
    node = memcached()
    settings = settings_for(vhost, [node])
    async with publishing(vhost) as shop:
        with worker_process(settings, tmp_path, NOTIFY_SOCKET=notifications.path) as process:
            await eventually(lambda: process.stderr and "consuming" in process.stderr.readline())
            good = (tmp_path / "eu.toml").read_text()
            (tmp_path / "eu.toml").write_text(good.replace("prefetch", "prefech"))
            process.send_signal(signal.SIGHUP)
            await eventually(lambda: process.stderr and "not reloaded" in process.stderr.readline())
            await eventually(lambda: notifications.told('STATUS=not reloaded: unknown setting "broker.prefech"'))
            node.set("product:1", b"old")
            await shop.update(1)
            await eventually(lambda: node.get("product:1") is None)
            (tmp_path / "eu.toml").write_text(good)
            process.send_signal(signal.SIGHUP)
            await eventually(lambda: process.stderr and "reloading" in process.stderr.readline())
            notifications.lines.clear()
            await eventually(lambda: notifications.told("STATUS=consuming"))


def page(listen: str, path: str) -> str:
    with urllib.request.urlopen(f"http://{listen}{path}", timeout=10) as answer:
        return str(answer.read().decode())
