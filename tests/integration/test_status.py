"""`invalidator status` on real servers: its first screen names the cause of a fault."""

import asyncio
import json
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from invalidator.operate.diagnosis.permissions import needed
from tests.integration.aftermath import alarm
from tests.integration.conftest import MemcachedFactory
from tests.integration.shell import Shell, as_user
from tests.integration.shop import changed, publishing, settings_for, worker_process, working
from tests.servers import Broker

Done = subprocess.CompletedProcess[str]


@pytest.fixture
def without_management(shell: Shell) -> None:
    """Leave management.url at its default, where nothing listens, as with Debian's RabbitMQ."""
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", 15672)) == 0:
            pytest.skip("a broker with its management plugin runs on this machine")
    shell.environ.clear()


async def eventually_says(shell: Shell, command: str, words: str, *, code: int | None = None) -> Done:
    """Wait until a command says so, and exits with `code`: RabbitMQ's counts may be five seconds old."""
    async with asyncio.timeout(60):
        while words not in (done := await shell.run(command)).stdout or code not in (None, done.returncode):
            pass
    return done


async def says(shell: Shell, words: str, *, code: int | None = None) -> Done:
    return await eventually_says(shell, "status", words, code=code)


async def test_all_is_well_while_a_worker_works_and_its_first_start_is_no_gap(shell: Shell) -> None:
    async with working(shell.settings):
        done = await says(shell, "eu       1", code=0)
        assert (0, ["CLUSTER", "eu", "", "healthy"]) == (
            done.returncode,
            [line.partition(" ")[0] for line in done.stdout.splitlines()],
        )


@pytest.mark.parametrize("command", ["status", "check"])
async def test_a_management_api_that_is_configured_and_does_not_answer_is_unreachable(
    command: str, shell: Shell
) -> None:
    """Without one in the configuration, what AMQP shows is enough: see `without_management`."""
    async with working(shell.settings):
        done = await shell.run(command, environ={"INVALIDATOR_MANAGEMENT__URL": "http://127.0.0.1:1"})
    assert 69 == done.returncode
    assert "http://127.0.0.1:1" in done.stdout


async def test_a_missing_queue_a_missing_binding_and_a_missing_worker_are_told_apart(
    shell: Shell, broker: Broker, vhost: str
) -> None:
    assert "there is no queue invalidator.eu" in (await shell.run("status")).stdout
    await shell.declare()
    done = await says(shell, "no worker consumes invalidator.eu")
    assert 69 == done.returncode
    assert "not bound" not in done.stdout
    name = vhost.rpartition("/")[2]
    broker.api("DELETE", f"/bindings/{name}/e/product.updates/q/invalidator.eu/~")
    assert "invalidator.eu is not bound: no event arrives" in (await shell.run("status")).stdout


async def test_dead_letters_and_parked_debts_are_counted(
    vhost: str, broker: Broker, memcached: MemcachedFactory, tmp_path: Path
) -> None:
    nodes = [memcached(), memcached()]
    shell = Shell(settings_for(vhost, nodes, memcached={"deadline": 0.3}), broker, tmp_path)
    async with working(shell.settings), publishing(vhost) as shop:
        nodes[1].kill()
        await shop.update(7)
        await shop.raw(b"poison")
        assert 75 == (await says(shell, "c2 did not answer, parked debts: 1")).returncode
        assert 75 == (await says(shell, "dead letters: 1")).returncode


async def test_a_worker_that_hangs_is_reported(shell: Shell, vhost: str, tmp_path: Path) -> None:
    await shell.declare()
    with worker_process(shell.settings, tmp_path) as process:
        await says(shell, "eu       1")
        process.send_signal(signal.SIGSTOP)
        async with publishing(vhost) as shop:
            await shop.update(*range(5))
        done = await says(shell, "no event is being settled, and 5 wait")
        process.send_signal(signal.SIGCONT)
    assert 75 == done.returncode


async def test_a_gap_outlives_its_worker_and_is_shown_by_status_and_check_until_the_nodes_are_flushed(
    shell: Shell, broker: Broker, vhost: str
) -> None:
    await shell.declare()
    async with working(shell.settings):
        broker.api("DELETE", f"/queues/{vhost.rpartition('/')[2]}/invalidator.eu")
        done = await says(shell, "its queue was deleted; events may have been missed", code=75)
        assert "fix: invalidator flush" in done.stdout
    async with working(shell.settings):
        for command in ("status", "check"):
            await eventually_says(shell, command, "its queue was deleted; events may have been missed", code=75)
        await shell.run("flush", "--node", "c1", "--yes")
        assert 75 == (await shell.run("check")).returncode
        done = await shell.run("flush", "--pause", "0", "--yes")
        assert (0, "invalidator: the gap before the flush is cleared\n") == (done.returncode, done.stderr)
        for command in ("status", "check"):
            done = await shell.run(command)
            assert (0, False) == (done.returncode, "events may have been missed" in done.stdout), done.stdout


async def test_a_cluster_that_is_expected_and_not_there_is_missed(shell: Shell) -> None:
    await shell.declare()
    done = await shell.run("status", environ={"INVALIDATOR_MANAGEMENT__EXPECT": '["eu", "us"]'})
    assert "there is no queue invalidator.us" in done.stdout


async def test_without_the_management_api_it_names_the_unknown_figures_and_never_says_that_all_is_well(
    shell: Shell, vhost: str
) -> None:
    for environ, code, words in (
        ({"INVALIDATOR_MANAGEMENT__URL": "http://127.0.0.1:1"}, 69, "does not answer"),
        ({"INVALIDATOR_MANAGEMENT__USER": "nobody"}, 77, 'refuses user "nobody"'),
    ):
        async with working(shell.settings), publishing(vhost) as shop:
            await shop.raw(b"poison")
            while not await shop.ready(shell.topology.dead):
                pass
            done = await shell.run("status", "-o", "json", environ=environ)
            found = json.loads(done.stdout)
            assert code == done.returncode
            assert (1, None) == (found["clusters"][0]["workers"], found["clusters"][0]["settled"])
            assert found["clusters"][0]["dead"]
            assert words in found["findings"][-1]["text"]


async def test_with_a_broker_without_management_plugin_it_is_healthy_as_far_as_can_be_seen(
    shell: Shell, without_management: None
) -> None:
    await shell.declare()
    async with working(shell.settings):
        done = await shell.run("status")
        assert (0, "") == (done.returncode, done.stderr)
        assert "?      broker  rates, bindings, alarms and other clusters are not known" in done.stdout
        assert "healthy as far as can be seen" in done.stdout
        done = await shell.run("topology", "verify")
        assert (0, True) == (done.returncode, "arguments, policies and bindings are not verified" in done.stdout)
        done = await shell.run("evict", "product:1", "--wait")
        assert (0, True) == (done.returncode, "waiting for the cluster eu only" in done.stderr), done.stderr
        done = await shell.run("check")
        assert (0, True) == (done.returncode, "OK     rules" in done.stdout), done.stdout


async def test_check_says_that_ring_and_rules_were_not_compared_where_they_were_not(
    shell: Shell, broker: Broker, vhost: str, without_management: None
) -> None:
    await shell.declare()
    async with working(shell.settings):
        shell.configure(changed(shell.settings, "broker", declare="passive"))
        done = await as_user(shell, broker, vhost, needed(shell.topology, declares=False), "check")
        assert 69 == done.returncode
        assert "?      workers" in done.stdout
        assert "ring and rules were compared with 0 of 1 running workers" in done.stdout


async def test_a_misspelt_type_is_noted_by_status_and_check(shell: Shell, vhost: str) -> None:
    async with working(shell.settings), publishing(vhost) as shop:
        await shop.raw(b'{"id":1}', type="product_updatd")
        await shop.settled(shell.topology)
        for command in ("status", "check"):
            done = await eventually_says(shell, command, 'no rule is on events of type "product_updatd"')
            assert 'fix: is "product_updated" meant?' in done.stdout


async def test_counts_are_those_of_now_and_not_of_the_last_refresh(shell: Shell, vhost: str) -> None:
    await shell.declare()
    await says(shell, "no worker consumes")  # and the management API has counted the queue as empty
    async with publishing(vhost) as shop:
        await shop.update(*range(5))
        found = json.loads((await shell.run("status", "-o", "json")).stdout)
    assert 5 == found["clusters"][0]["waiting"]


async def test_a_broker_that_is_not_there_or_refuses_is_one_sentence(shell: Shell, vhost: str) -> None:
    away = {"INVALIDATOR_MANAGEMENT__URL": "http://127.0.0.1:1"}
    shell.configure(changed(shell.settings, "broker", url="amqp://guest@127.0.0.1:1/"))
    done = await shell.run("status", environ=away)
    assert (69, True) == (done.returncode, done.stderr.startswith("invalidator: no broker answers"))
    shell.configure(changed(shell.settings, "broker", url=f"{vhost}-missing"))
    done = await shell.run("status", environ=away)
    assert 77 == done.returncode


async def test_an_alarm_stands_first(
    own_broker: Broker, own_vhost: str, memcached: MemcachedFactory, tmp_path: Path
) -> None:
    shell = Shell(settings_for(own_vhost, [memcached()]), own_broker, tmp_path)
    await shell.declare()
    async with working(shell.settings):
        await says(shell, "eu       1")
        async with alarm(own_broker, "memory"):
            done = await says(shell, "alarm, memory on")
    assert 75 == done.returncode
    assert "broker" in done.stdout.splitlines()[3]
