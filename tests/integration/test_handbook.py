"""The commands of the handbook, run as they stand there, on private servers in place of the usual addresses."""

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from invalidator.settings import Settings
from tests.integration.conftest import MemcachedFactory, require
from tests.integration.shop import configuration, eventually, publishing, settings_for, worker_process
from tests.pages import blocks, run
from tests.servers import Broker, Systemd, free_port, rabbitmq_is_installed

ROOT = Path(__file__).parents[2]
BLOCKS = blocks((ROOT / "conf/README.rst").read_text())
TOOLS = ("rabbitmqctl", "rabbitmq-plugins", "rabbitmq-queues", "rabbitmq-diagnostics")


def block(beginning: str) -> str:
    (found,) = (each for each in BLOCKS if each.startswith(beginning))
    return found


class Operator:
    """Somebody in a shell on the machine of a broker, with a cluster's configuration in the environment."""

    def __init__(self, settings: Settings, broker: Broker, folder: Path) -> None:
        self._folder = folder
        for name in TOOLS:
            (folder / name).write_text(broker.tool(name))
            (folder / name).chmod(0o755)
        vhost = settings.broker.url.rpartition("/")[2]
        self.instead = {'"vhost": "/"': f'"vhost": "{vhost}"', "rabbitmq 3": f"rabbitmq {broker.version[0]}"}
        self.environ = {
            "PATH": f"{folder}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "INVALIDATOR_CONFIG": str(configuration(settings, folder)),
            "INVALIDATOR_MANAGEMENT__URL": broker.management_url,
            "INVALIDATOR_MANAGEMENT__EXPECT": '["eu"]',
        }

    def types(self, text: str, *, expecting: int = 0) -> str:
        """What it prints."""
        for usual, private in self.instead.items():
            text = text.replace(usual, private)
        done = run(text, self._folder, self.environ)
        assert expecting == done.returncode, f"{text}\n{done.stdout}\n{done.stderr}"
        return done.stdout


@pytest.mark.timeout(300)
def test_ten_commands_lead_from_nothing_to_a_worker_under_systemd_that_evicts(
    systemd: Systemd, own_broker: Broker, own_vhost: str, memcached: MemcachedFactory
) -> None:
    """The packages are there, and their services are private ones."""
    node, name = memcached(), own_vhost.rpartition("/")[2]
    node.set("product:1", b"old")
    text = block("apt-get install")
    commands = [line for line in text.partition("cat >")[0].splitlines() if line]
    commands += [line for line in text.partition("\nEND\n")[2].splitlines() if line]
    assert 10 >= len(commands) + 1
    text = text.partition("\n")[2]
    for usual, private in {
        "127.0.0.1:5672/": f"{own_broker.address}/{name}",
        "127.0.0.1:11211": node.address,
        "set_permissions": f"set_permissions -p {name}",
    }.items():
        assert usual in text
        text = text.replace(usual, private)
    systemd.write(f"{own_broker.folder}/.erlang.cookie", own_broker.cookie, mode="400")
    systemd.write("/usr/local/sbin/rabbitmqctl", own_broker.tool("rabbitmqctl"), mode="755")
    systemd.write("/root/typed", f"set -e\nexport PATH=/usr/local/sbin:/usr/sbin:/usr/bin\ncd {ROOT}\n{text}")
    said = systemd.run("bash", "/root/typed")
    assert "eu" in said
    assert node.get("product:1") is None
    assert "/opt/invalidator/bin/python" in systemd.run("cat", "/opt/invalidator/bin/invalidator")
    systemd.systemctl("stop", "invalidator-worker@eu")


@pytest.fixture
def operator(own_broker: Broker, own_vhost: str, memcached: MemcachedFactory, tmp_path: Path) -> Iterator[Operator]:
    """Of a cluster at work."""
    settings = settings_for(own_vhost, [memcached()], metrics={"listen": f"127.0.0.1:{free_port()}"})
    operator = Operator(settings, own_broker, tmp_path)
    operator.instead["127.0.0.1:9871"] = settings.metrics.listen
    with worker_process(settings, tmp_path):
        operator.types("until invalidator status && invalidator check; do sleep 0.2; done")
        yield operator


def test_what_is_typed_at_3_a_m_works_as_it_stands(operator: Operator) -> None:
    for command in block("invalidator check\ninvalidator status\ninvalidator explain").splitlines():
        operator.types(command, expecting=2 if command == "invalidator flush" else 0)
    operator.types(block("invalidator evict product:1 --wait"))


def test_whoever_scrapes_a_worker_finds_the_service_level(operator: Operator) -> None:
    assert "invalidator_event_age_seconds_bucket" in operator.types(block("curl -s"))


def test_an_import_of_definitions_is_verified(
    own_broker: Broker, own_vhost: str, memcached: MemcachedFactory, tmp_path: Path
) -> None:
    operator = Operator(settings_for(own_vhost, [memcached()]), own_broker, tmp_path)
    assert "WRONG" not in operator.types(block("invalidator topology export"))


@pytest.mark.timeout(120)
async def test_several_queues_of_one_cluster_share_its_events(
    own_broker: Broker, own_vhost: str, memcached: MemcachedFactory, tmp_path: Path
) -> None:
    node, queues = memcached(), ("invalidator.eu.1", "invalidator.eu.2")
    operator = Operator(settings_for(own_vhost, [node]), own_broker, tmp_path)
    operator.types(block("export INVALIDATOR_BROKER__DECLARE=passive"))
    node.set("product:1", b"old")
    node.set("product:200", b"old")
    operator.types("invalidator publish product_updated id={n} --count 200")
    async with publishing(own_vhost) as shop:
        shares = [await shop.ready(queue) for queue in queues]
    assert 200 == sum(shares)
    assert all(shares)
    with ExitStack() as stack:
        for queue in queues:
            (folder := tmp_path / queue).mkdir()
            settings = settings_for(own_vhost, [node], broker={"declare": "passive", "queue": queue})
            stack.enter_context(worker_process(settings, folder))
        await eventually(lambda: node.get("product:1") is None and node.get("product:200") is None)
        for queue in queues:
            operator.environ |= {"INVALIDATOR_BROKER__QUEUE": queue, "INVALIDATOR_BROKER__DECLARE": "passive"}
            operator.types("until invalidator check; do sleep 0.2; done")
        operator.types("until invalidator status; do sleep 0.2; done")
        assert "eu" in operator.types("invalidator evict product:1 --wait")


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_queues_made_on_one_broker_node_have_three_members_after_they_were_grown(tmp_path: Path) -> None:
    require("rabbitmq", installed=rabbitmq_is_installed())
    with Broker() as one:
        operator = Operator(settings_for(one.url(), {"c1": "127.0.0.1:11211"}), one, tmp_path)
        operator.types("invalidator topology declare")
        with Broker(peer=one) as two, Broker(peer=one) as three:
            for name, node in {"rabbit@two": two, "rabbit@three": three}.items():
                operator.instead[name] = node.node
            assert 1 == len(one.api("GET", "/queues/%2F/invalidator.eu")["members"])
            operator.types(block("rabbitmq-queues grow"))
            for queue in ("invalidator.eu", "invalidator.eu.dead", "invalidator.eu.parked.c1"):
                assert 3 == len(one.api("GET", f"/queues/%2F/{queue}")["members"])
            operator.types("rabbitmq-diagnostics check_if_node_is_quorum_critical")
