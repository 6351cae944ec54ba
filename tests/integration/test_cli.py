"""The installed command on a real broker and real nodes: exit codes and output."""

import asyncio
import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import aio_pika
import pytest
from pymemcache import HashClient

from invalidator.operate.diagnosis.permissions import Permissions, needed
from tests.integration.aftermath import alarm
from tests.integration.conftest import MemcachedFactory
from tests.integration.shell import COMMAND, Shell, as_user
from tests.integration.shop import (
    changed,
    eventually,
    publishing,
    settings_for,
    worker_process,
)
from tests.servers import Broker, Memcached


def levels(done: "subprocess.CompletedProcess[str]") -> dict[str, list[str]]:
    """Return the findings of `check` or `verify` with -o json: level -> texts."""
    found: dict[str, list[str]] = {}
    for finding in json.loads(done.stdout):
        found.setdefault(finding["level"], []).append(f"{finding['what']} {finding['text']}")
    return found


class TestPublish:
    async def test_without_a_queue_it_exits_69_and_names_the_fix(self, shell: Shell) -> None:
        done = await shell.run("publish", "product_updated", "id=7")
        assert (69, "") == (done.returncode, done.stdout)
        assert 'no queue is bound to the exchange "product.updates"' in done.stderr
        assert "invalidator topology declare" in done.stderr

    async def test_an_event_is_stored_as_the_design_says(self, shell: Shell, vhost: str) -> None:
        await shell.declare()
        done = await shell.run("publish", "product_updated", "id=007", "price:=109.99")
        assert (0, "") == (done.returncode, done.stderr)
        assert done.stdout.startswith("1 event published to product.updates and confirmed")
        async with publishing(vhost) as shop:
            (message,) = await shop.take(shell.topology.queue)
        assert {"type": "product_updated", "id": "007", "price": 109.99} == json.loads(message.body)
        assert ("application/json", "product_updated", "invalidator") == (
            message.content_type,
            message.type,
            message.app_id,
        )
        assert aio_pika.DeliveryMode.PERSISTENT == message.delivery_mode
        assert message.message_id and message.timestamp

    async def test_count_numbers_the_events_and_none_is_missing(self, shell: Shell, vhost: str) -> None:
        await shell.declare()
        done = await shell.run("publish", "product_updated", "id:={n}", "--count", "1000", "-o", "json")
        assert (0, 1000) == (done.returncode, json.loads(done.stdout)["published"])
        async with publishing(vhost) as shop:
            bodies = [json.loads(message.body) for message in await shop.take(shell.topology.queue)]
        assert list(range(1, 1001)) == sorted(body["id"] for body in bodies)

    async def test_rate_is_kept(self, shell: Shell) -> None:
        await shell.declare()
        done = await shell.run("publish", "product_updated", "id={n}", "--count", "21", "--rate", "50", "-o", "json")
        assert json.loads(done.stdout)["seconds"] >= 0.4

    async def test_a_file_with_a_bad_line_sends_nothing(self, shell: Shell, vhost: str, tmp_path: Path) -> None:
        await shell.declare()
        file = tmp_path / "events.jsonl"
        file.write_text('{"type": "product_updated", "id": 1}\n' * 3 + "{bad\n")
        done = await shell.run("publish", "--from-file", str(file))
        assert 2 == done.returncode
        assert "line 4: " in done.stderr
        async with publishing(vhost) as shop:
            assert 0 == await shop.ready(shell.topology.queue)

    async def test_a_pipe_is_sent_up_to_its_bad_line_and_the_number_is_printed(self, shell: Shell, vhost: str) -> None:
        await shell.declare()
        lines = b'{"type": "product_updated", "id": 109.90}\n' * 500 + b"{bad\n" + b'{"type": "late"}\n'
        done = await shell.run_installed("publish", "--from-file", "-", stdin=lines)
        assert 2 == done.returncode
        assert "500 events published and confirmed, then:" in done.stderr
        assert "line 501: " in done.stderr
        async with publishing(vhost) as shop:
            bodies = {message.body for message in await shop.take(shell.topology.queue)}
        assert {b'{"type": "product_updated", "id": 109.90}'} == bodies  # to the byte: the number keeps its form

    async def test_a_pipe_that_goes_on_is_published_line_by_line(self, shell: Shell, vhost: str) -> None:
        await shell.declare()
        process = await asyncio.create_subprocess_exec(
            COMMAND, "publish", "--from-file", "-", stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env=os.environ | {"INVALIDATOR_CONFIG": str(shell._file)},
        )  # fmt: skip
        assert process.stdin and process.stdout
        async with publishing(vhost) as shop:
            process.stdin.write(b'{"type": "product_updated", "id": 1}\n')
            async with asyncio.timeout(60):
                while await shop.ready(shell.topology.queue) < 1:
                    await asyncio.sleep(0.02)
        process.stdin.close()
        assert b"1 event published" in await process.stdout.read()
        assert 0 == await process.wait()

    async def test_wrong_password_exits_77(self, shell: Shell) -> None:
        done = await shell.run("publish", "product_updated", environ={"INVALIDATOR_BROKER__PASSWORD": "wrong"})
        assert 77 == done.returncode
        assert 'refuses user "guest"' in done.stderr
        assert "wrong user or password" in done.stderr

    async def test_a_user_who_may_not_publish_exits_77(self, shell: Shell, broker: Broker, vhost: str) -> None:
        await shell.declare()
        done = await as_user(shell, broker, vhost, Permissions("^$", "^$", "^$"), "publish", "product_updated")
        assert 77 == done.returncode
        assert "product.updates" in done.stderr

    async def test_in_an_alarm_it_exits_75_and_says_which(self, shell: Shell, own_broker: Broker) -> None:
        shell.configure(changed(shell.settings, "broker", publish_timeout=1.5))
        await shell.declare()
        async with alarm(own_broker, "memory"):
            done = await shell.run("publish", "product_updated", "id={n}", "--count", "500", "--rate", "100")
            assert 75 == done.returncode, done.stderr
            assert "0 events of 500 published" in done.stderr
            assert f"alarms in force: memory on {own_broker.node}" in done.stderr
            checked = await shell.run("check", "-o", "json")
            assert any("alarm, memory on" in text for text in levels(checked)["wrong"])
            assert any("permissions not verified" in text for text in levels(checked)["unverified"])


def fill(nodes: Sequence[Memcached], *keys: str) -> None:
    for node in nodes:
        for key in keys:
            node.set(key, b"old")


class TestEvict:
    async def test_through_the_fanout_every_cluster_evicts(
        self, vhost: str, broker: Broker, memcached: MemcachedFactory, tmp_path: Path
    ) -> None:
        eu, us = memcached(), memcached()
        shell = Shell(settings_for(vhost, [eu]), broker, tmp_path)
        american = settings_for(vhost, [us], cluster="us")
        await shell.declare()
        await Shell(american, broker, tmp_path).declare()
        shell.configure(shell.settings)
        with worker_process(shell.settings, tmp_path), worker_process(american, tmp_path):
            fill([eu, us], "product:7", "product:8", "product:9")
            done = await shell.run("evict", "product:7", "--from-file", "-", stdin=b"product:8\n")
            assert (0, "") == (done.returncode, done.stderr)
            assert done.stdout.startswith("2 keys in 1 event published")
            await eventually(lambda: not any(n.get(f"product:{i}") for n in (eu, us) for i in (7, 8)))
            assert [b"old", b"old"] == [node.get("product:9") for node in (eu, us)]

    async def test_many_keys_go_in_events_within_the_limits(self, shell: Shell, vhost: str) -> None:
        await shell.declare()
        keys = "".join(f"k{number}\n" for number in range(2500))
        done = await shell.run(
            "evict", "--from-file", "-", stdin=keys.encode(), environ={"INVALIDATOR_LIMITS__EVENT_KEYS": "1000"}
        )
        assert 0 == done.returncode, done.stderr
        async with publishing(vhost) as shop:
            events = [json.loads(message.body) for message in await shop.take(shell.topology.queue)]
        assert {"cache_evict"} == {event["type"] for event in events}
        assert [500, 1000, 1000] == sorted(len(event["keys"]) for event in events)
        assert 2500 == len({key for event in events for key in event["keys"]})

    async def test_directly_needs_no_broker_and_names_the_node_that_did_not_confirm(
        self, vhost: str, broker: Broker, memcached: MemcachedFactory, tmp_path: Path
    ) -> None:
        there, gone = memcached(), memcached()
        shell = Shell(settings_for("amqp://127.0.0.1:1/", [there, gone]), broker, tmp_path)
        fill([there, gone], "product:7", "product:8")
        done = await shell.run("evict", "product:7", "--direct")
        assert (0, "") == (done.returncode, done.stderr)
        assert [None, None, b"old"] == [there.get("product:7"), gone.get("product:7"), gone.get("product:8")]
        gone.kill()
        done = await shell.run("evict", "product:8", "--direct")
        assert 75 == done.returncode
        assert "not confirmed by c2" in done.stderr
        assert there.get("product:8") is None

    async def test_a_dry_run_and_a_bad_key_touch_nothing(
        self, vhost: str, broker: Broker, memcached: MemcachedFactory, tmp_path: Path
    ) -> None:
        node = memcached()
        shell = Shell(settings_for(vhost, [node]), broker, tmp_path)
        fill([node], "product:7")
        assert 0 == (await shell.run("evict", "product:7", "--direct", "--dry-run")).returncode
        assert 2 == (await shell.run("evict", "product:7", "product:7\r\nflush_all", "--direct")).returncode
        assert b"old" == node.get("product:7")


class TestTopology:
    async def test_what_is_declared_is_verified(self, shell: Shell) -> None:
        before = await shell.run("topology", "verify", "-o", "json")
        assert 69 == before.returncode
        assert 8 == len(levels(before)["wrong"])  # two exchanges, five queues, one binding
        assert 0 == (await shell.run("topology", "declare")).returncode
        after = await shell.run("topology", "verify", "-o", "json")
        assert (0, ["ok"]) == (after.returncode, list(levels(after))), after.stdout

    async def test_what_is_exported_imports_and_is_verified(self, shell: Shell, broker: Broker, tmp_path: Path) -> None:
        exported = await shell.run("topology", "export", "--rabbitmq", broker.version.partition(".")[0])
        file = tmp_path / "definitions.json"
        file.write_text(exported.stdout)
        await asyncio.to_thread(broker.ctl, "import_definitions", str(file))
        done = await shell.run("topology", "verify", "-o", "json")
        assert (0, ["ok"]) == (done.returncode, list(levels(done))), done.stdout
        assert 0 == (await shell.run("topology", "declare")).returncode

    async def test_the_shipped_definitions_import_and_a_worker_finds_nothing_to_declare(
        self, shell: Shell, broker: Broker, vhost: str
    ) -> None:
        version = broker.version.partition(".")[0]
        name = "definitions.json" if version == "4" else f"definitions-rabbitmq-{version}.json"
        text = (Path(__file__).parents[2] / "conf" / "rabbitmq" / name).read_text()
        ours = vhost.rpartition("/")[2]
        broker.api("POST", "/definitions", json.loads(text.replace('"vhost": "/"', f'"vhost": "{ours}"')))
        defaults = {"INVALIDATOR_CLUSTER": "main", "INVALIDATOR_RING__NODES": '["127.0.0.1:11211"]'}
        done = await shell.run("topology", "verify", "-o", "json", environ=defaults)
        assert (0, ["ok"]) == (done.returncode, list(levels(done))), done.stdout
        assert 0 == (await shell.run("topology", "declare", environ=defaults)).returncode

    async def test_a_classic_queue_exits_78_and_the_argument_is_named(
        self, shell: Shell, broker: Broker, vhost: str
    ) -> None:
        path = f"/queues/{vhost.rpartition('/')[2]}/{shell.topology.dead}"
        broker.api(
            "PUT", path, {"durable": True, "arguments": {"x-queue-type": "classic", "x-overflow": "reject-publish"}}
        )
        done = await shell.run("topology", "declare")
        assert 78 == done.returncode
        assert "x-queue-type" in done.stderr
        done = await shell.run("topology", "verify")
        assert 78 == done.returncode
        assert f"{shell.topology.dead} has x-queue-type 'classic' instead of 'quorum'" in done.stdout

    async def test_without_the_management_api_existence_is_checked_and_the_rest_not_verified(
        self, shell: Shell
    ) -> None:
        await shell.declare()
        for environ, code, reason in (
            ({"INVALIDATOR_MANAGEMENT__URL": "http://127.0.0.1:1"}, 69, "does not answer"),
            ({"INVALIDATOR_MANAGEMENT__USER": "nobody"}, 77, 'refuses user "nobody"'),
        ):
            done = await shell.run("topology", "verify", "-o", "json", environ=environ)
            assert code == done.returncode
            found = levels(done)
            assert 7 == len(found["ok"])
            (text,) = found["unverified"]
            assert reason in text
            assert "wrong" not in found


class TestCheck:
    async def test_all_is_well_while_a_worker_works(self, shell: Shell, tmp_path: Path) -> None:
        with worker_process(shell.settings, tmp_path):
            async with asyncio.timeout(60):
                while (done := await shell.run("check", "-o", "json")).returncode:
                    pass
        assert ["ok"] == list(levels(done))
        texts = "\n".join(levels(done)["ok"])
        for part in ("RabbitMQ ", "may do all that a worker does", "consuming invalidator.eu: 1", "answers a fence"):
            assert part in texts

    async def test_dead_letters_and_debts_wait_for_somebody(self, shell: Shell, vhost: str) -> None:
        await shell.declare()
        async with publishing(vhost) as shop:
            for queue in (shell.topology.dead, shell.topology.parked("c2")):
                channel = await shop.connection.channel()
                await channel.default_exchange.publish(aio_pika.Message(b"{}", delivery_mode=2), routing_key=queue)
        wrong = levels(await shell.run("check", "-o", "json"))["wrong"]
        assert any(text.startswith("dead letters 1 in invalidator.eu.dead; the oldest: 1 no-type (") for text in wrong)
        assert any(text == "debts 1 in invalidator.eu.parked.c2" for text in wrong)
        assert any(text.startswith("workers consuming invalidator.eu: 0") for text in wrong)

    async def test_a_node_that_hangs_is_named_and_the_others_are_well(
        self, vhost: str, broker: Broker, memcached: MemcachedFactory, tmp_path: Path
    ) -> None:
        well, hung = memcached(), memcached()
        hung.pause()
        try:
            done = await Shell(settings_for(vhost, [well, hung]), broker, tmp_path).run("check", "-o", "json")
        finally:
            hung.resume()
        assert 69 == done.returncode
        assert any(text.startswith(f"node c2 ({hung.address}): no confirmation") for text in levels(done)["wrong"])
        assert any(text.startswith(f"node c1 ({well.address}): answers") for text in levels(done)["ok"])

    async def test_a_node_without_cas_is_noted(
        self, vhost: str, broker: Broker, memcached: MemcachedFactory, tmp_path: Path
    ) -> None:
        settings = settings_for(vhost, [memcached(), memcached("-C")])
        found = levels(await Shell(settings, broker, tmp_path).run("check", "-o", "json"))
        (note,) = [text for text in found["note"] if text.startswith("node ")]
        assert note.startswith("node c2 ") and "runs without CAS (memcached -C)" in note

    @pytest.mark.parametrize("declares", [False, True])
    async def test_the_permissions_that_it_asks_for_are_enough_and_each_is_needed(
        self, declares: bool, shell: Shell, broker: Broker, vhost: str
    ) -> None:
        await shell.declare()
        shell.configure(changed(shell.settings, "broker", declare="active" if declares else "passive"))
        enough = needed(shell.topology, declares=declares)
        done = await as_user(shell, broker, vhost, enough, "check", "-o", "json")
        assert any("may do all that a worker does" in text for text in levels(done)["ok"])
        for kind in ("configure", "write", "read") if declares else ("write", "read"):
            less = Permissions(**(vars(enough) | {kind: "^$"}))
            done = await as_user(shell, broker, vhost, less, "check")
            assert 77 == done.returncode, done.stdout
            assert f"may not: to {kind}" in done.stdout
            assert "fix: rabbitmqctl set_permissions -p " in done.stdout

    async def test_it_changes_nothing_not_even_what_is_missing(self, shell: Shell, broker: Broker, vhost: str) -> None:
        name = vhost.rpartition("/")[2]
        exchanges = broker.api("GET", f"/exchanges/{name}")
        await shell.run("check")
        assert [] == broker.api("GET", f"/queues/{name}")
        assert exchanges == broker.api("GET", f"/exchanges/{name}")
        await shell.declare()
        before = broker.api("GET", f"/bindings/{name}")
        await shell.run("check")
        assert before == broker.api("GET", f"/bindings/{name}")
        async with publishing(vhost) as shop:
            assert [0, 0] == [await shop.ready(queue) for queue in (shell.topology.queue, shell.topology.dead)]

    async def test_the_management_api_of_another_broker_verifies_nothing(self, shell: Shell, tmp_path: Path) -> None:
        folder = tmp_path / "other"
        folder.mkdir()
        await shell.declare()
        with Broker(folder) as other:
            url = {"INVALIDATOR_MANAGEMENT__URL": other.management_url}
            (text,) = levels(await shell.run("check", "-o", "json", environ=url))["unverified"]
        assert "is that of the broker" in text


class TestExplainKey:
    async def test_a_key_is_found_with_its_life_and_asking_does_not_count_as_a_read(
        self, broker: Broker, memcached: MemcachedFactory, tmp_path: Path
    ) -> None:
        nodes = [memcached(), memcached()]
        shell = Shell(settings_for("amqp://127.0.0.1:1/", nodes, memcached={"prefix": "shop:"}), broker, tmp_path)
        nodes[0].command(b"set shop:product:7 0 100 1\r\nx\r\n", end=b"STORED\r\n")
        nodes[1].command(b"set shop:product:7 0 0 1\r\nx\r\n", end=b"STORED\r\n")
        done = await shell.run("explain", "--key", "product:7", "-o", "json")
        assert 0 == done.returncode, done.stderr
        found = json.loads(done.stdout)
        assert [{"on": "product_updated", "evict": "product:{id}", "fields": {"id": "7"}}] == found["makers"][:1]
        assert [(True, True), (True, True)] == [(one["present"], one["evicted_here"]) for one in found["nodes"]]
        assert [True, False] == [one["ttl"] is not None and 90 < one["ttl"] <= 100 for one in found["nodes"]]
        assert b"fetch=no" in nodes[0].command(b"me shop:product:7\r\n", end=b"\r\n")

    async def test_a_key_on_a_node_that_does_not_own_it_is_reported(
        self, broker: Broker, memcached: MemcachedFactory, tmp_path: Path
    ) -> None:
        nodes = [memcached(), memcached()]
        owner = {"evict_on": "owner"}
        shell = Shell(settings_for("amqp://127.0.0.1:1/", nodes, memcached=owner), broker, tmp_path)
        fill(nodes, "product:7")
        done = await shell.run("explain", "--key", "product:7")
        assert 78 == done.returncode
        assert "where it is not evicted: clients use another ring" in done.stdout

    async def test_a_bytes_key_of_hashclient_is_found_where_it_is_not_evicted(
        self, broker: Broker, memcached: MemcachedFactory, tmp_path: Path
    ) -> None:
        nodes = [memcached() for _ in range(4)]
        labels = {node.address: node.address for node in nodes}
        shell = Shell(settings_for("amqp://127.0.0.1:1/", labels, memcached={"evict_on": "owner"}), broker, tmp_path)
        client = HashClient([node.address for node in nodes])
        said = []
        for number in range(20):
            client.set(b"product:%d" % number, b"old")
            done = await shell.run("explain", "--key", f"product:{number}")
            said.append((done.returncode, "HashClient puts keys that are bytes there" in done.stdout))
        client.close()
        assert {(0, False), (78, True)} == set(said), "on their owner by luck, or named"

    async def test_a_node_that_hangs_is_named_and_the_others_are_asked(
        self, broker: Broker, memcached: MemcachedFactory, tmp_path: Path
    ) -> None:
        well, hung = memcached(), memcached()
        shell = Shell(settings_for("amqp://127.0.0.1:1/", [well, hung]), broker, tmp_path)
        fill([well], "product:7")
        hung.pause()
        try:
            done = await shell.run("explain", "--key", "product:7")
        finally:
            hung.resume()
        assert 75 == done.returncode
        assert "c2 does not say: no answer within 1 s" in done.stdout
        assert [["c1", "yes", "yes"]] == [
            [line.split()[0], *line.split()[2:4]] for line in done.stdout.splitlines() if line.startswith("c1 ")
        ]
