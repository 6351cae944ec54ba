"""The commands of the handbook, run as they are written, on private servers in place of the usual addresses."""

import base64
import os
import re
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest

from invalidator.settings import Settings
from tests.integration import release
from tests.integration.conftest import MemcachedFactory, require
from tests.integration.shop import configuration, eventually, publishing, settings_for, worker_process
from tests.pages import blocks, run
from tests.servers import Broker, Systemd, free_port, rabbitmq_is_installed

ROOT = Path(__file__).parents[2]
BLOCKS = [block for page in ("README", "upgrade") for block in blocks((ROOT / f"conf/{page}.rst").read_text())]
TOOLS = ("rabbitmqctl", "rabbitmq-plugins", "rabbitmq-queues", "rabbitmq-diagnostics", "rabbitmq-upgrade")


def block(beginning: str) -> str:
    (found,) = (each for each in BLOCKS if each.startswith(beginning))
    return found


class Operator:
    """An operator in a shell on the machine of a broker, with a cluster's configuration in the environment."""

    def __init__(self, settings: Settings, broker: Broker, folder: Path) -> None:
        self._folder = folder
        self.goes_to(broker)
        vhost = settings.broker.url.rpartition("/")[2]
        self.instead = {'"vhost": "/"': f'"vhost": "{vhost}"', "rabbitmq 3": f"rabbitmq {broker.version[0]}"}
        self.environ = {
            "PATH": f"{folder}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "INVALIDATOR_CONFIG": str(configuration(settings, folder)),
            "INVALIDATOR_MANAGEMENT__URL": broker.management_url,
            "INVALIDATOR_MANAGEMENT__EXPECT": '["eu"]',
        }

    def goes_to(self, broker: Broker) -> None:
        """Go to the machine of another node."""
        for name in TOOLS:
            (self._folder / name).write_text(broker.tool(name))
            (self._folder / name).chmod(0o755)

    def types(self, text: str, *, expecting: int = 0) -> str:
        """Run the commands, and return their output."""
        for usual, private in self.instead.items():
            text = text.replace(usual, private)
        done = run(text, self._folder, self.environ)
        assert expecting == done.returncode, f"{text}\n{done.stdout}\n{done.stderr}"
        return done.stdout


class Newcomer:
    """Root on a machine with systemd, where Debian's packages are installed and broker and node are running."""

    def __init__(self, systemd: Systemd, broker: Broker, vhost: str, node: str) -> None:
        self._systemd = systemd
        self._instead = {
            "apt-get install": "true",
            "rabbitmq-plugins enable": "true",
            "127.0.0.1:5672/": f"{broker.address}/{vhost}",
            "127.0.0.1:11211": node,
            "set_permissions": f"set_permissions -p {vhost}",
        }
        self._environ = f"PATH=/usr/local/sbin:/usr/sbin:/usr/bin INVALIDATOR_MANAGEMENT__URL={broker.management_url}"
        systemd.run("sh", "-c", CLEAN)
        systemd.write("/usr/local/sbin/rabbitmqctl", broker.tool("rabbitmqctl"), mode="755")
        systemd.write(f"{broker.folder}/.erlang.cookie", broker.cookie, mode="400")

    def has_the_project(self) -> None:
        """Stand in the project's folder: a copy without build artefacts, because pip builds in the source folder."""
        files = "setup.cfg setup.py pyproject.toml README.rst CHANGES.rst LICENSE invalidator cli conf"
        self._systemd.run("sh", "-c", f"cd /srv/source && cp -r {files} /srv/project")

    def has_the_wheel(self, wheel: Path) -> None:
        """Stand in a folder with nothing but the wheel."""
        self._systemd.write("/tmp/base64", base64.b64encode(wheel.read_bytes()).decode())
        self._systemd.run("sh", "-c", f"base64 --decode /tmp/base64 >/srv/project/{wheel.name}")
        self._instead |= {"pip install .": f"pip install {wheel.name}", "--upgrade .": f"--upgrade {wheel.name}"}

    def types(self, *texts: str) -> None:
        text = "".join(texts)
        for usual, private in self._instead.items():
            text = text.replace(usual, private)
        # The management API shows the worker after a few seconds.
        text = re.sub("^invalidator (check|status)$", r"until \g<0>; do sleep 0.2; done", text, flags=re.MULTILINE)
        self._systemd.write("/srv/typed", f"set -e\ncd /srv/project\nexport {self._environ}\n{text}")
        self._systemd.run("bash", "/srv/typed")


#: Removes what another newcomer, or the set-up of these tests, has installed.
CLEAN = """
rm -rf /srv/project /etc/invalidator /etc/systemd/system/invalidator* /opt/invalidator/bin /opt/invalidator/lib
mkdir /srv/project
if [ -e /usr/local/sbin/rabbitmqctl ]; then rabbitmqctl delete_user invalidator-eu; fi
"""


@pytest.mark.timeout(300)
@pytest.mark.parametrize("source", ["checkout", "wheel"])
def test_ten_commands_lead_from_nothing_to_a_worker_under_systemd_that_evicts(
    source: str, systemd: Systemd, own_broker: Broker, own_vhost: str, memcached: MemcachedFactory, tmp_path: Path
) -> None:
    """Run the installation, then the commands that operate and upgrade it."""
    node = memcached()
    newcomer = Newcomer(systemd, own_broker, own_vhost.rpartition("/")[2], node.address)
    if source == "wheel":
        newcomer.has_the_wheel(release.wheel(release.sdist(tmp_path)))
    else:
        newcomer.has_the_project()
    install = block("apt-get install -y rabbitmq-server")
    assert 10 == len(re.sub("<<'END'\n.*\nEND\n", "\n", install, flags=re.DOTALL).splitlines())
    node.set("product:1", b"old")
    newcomer.types(install)
    assert node.get("product:1") is None
    environment, inspect = block("export PATH"), block("rabbitmq-plugins enable rabbitmq_management")
    newcomer.types(environment, inspect, block("systemctl reload"))
    node.set("product:1", b"old")
    before, upgrade = (
        block("python3 -m venv /opt/invalidator-next"),
        block("/opt/invalidator/bin/pip install --upgrade"),
    )
    newcomer.types(environment, before, upgrade, block("invalidator topology verify\ninvalidator evict"))
    assert node.get("product:1") is None
    systemd.systemctl("stop", "invalidator-worker@eu")


@pytest.fixture
def operator(own_broker: Broker, own_vhost: str, memcached: MemcachedFactory, tmp_path: Path) -> Iterator[Operator]:
    """Operate a cluster at work."""
    settings = settings_for(own_vhost, [memcached()], metrics={"listen": f"127.0.0.1:{free_port()}"})
    operator = Operator(settings, own_broker, tmp_path)
    operator.instead["127.0.0.1:9871"] = str(settings.metrics.listen)
    with worker_process(settings, tmp_path):
        operator.types("until invalidator status && invalidator check; do sleep 0.2; done")
        yield operator


def test_the_commands_for_3_a_m_work_as_they_are_written(operator: Operator) -> None:
    for command in block("invalidator check\ninvalidator status\ninvalidator explain").splitlines():
        operator.types(command, expecting=2 if command == "invalidator flush" else 0)
    operator.types(block("invalidator evict product:1 --wait"))


def test_the_commands_around_an_upgrade_work_as_they_are_written(operator: Operator) -> None:
    (before,) = (block for block in BLOCKS if block == "invalidator check\ninvalidator status\n")
    operator.types(before)
    operator.types(block("invalidator status\nrabbitmq-diagnostics check_running"))
    operator.types(block("invalidator topology verify\ninvalidator evict"))


def test_a_scrape_of_a_worker_contains_the_service_level(operator: Operator) -> None:
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


def test_postgresql_sends_the_row_before_the_change_after_the_command(database: str) -> None:
    with psycopg.connect(database) as connection:
        connection.execute("CREATE TABLE products (id int PRIMARY KEY)")
        connection.execute(block("ALTER TABLE").encode())
        assert ("f",) == connection.execute("SELECT relreplident FROM pg_class WHERE relname = 'products'").fetchone()


@pytest.mark.long
@pytest.mark.timeout(300)
def test_queues_made_on_one_broker_node_have_three_members_after_two_joined_and_they_were_grown(tmp_path: Path) -> None:
    require("rabbitmq", installed=rabbitmq_is_installed())
    with Broker() as one, ExitStack() as stack:
        operator = Operator(settings_for(one.url(), {"c1": "127.0.0.1:11211"}), one, tmp_path)
        operator.instead["rabbit@one"] = one.node
        operator.types("invalidator topology declare")
        for name in ("two", "three"):
            node = Broker()
            node.cookie, node.epmd = one.cookie, one.epmd  # nodes must share these before they can join
            stack.enter_context(node)
            operator.instead[f"rabbit@{name}"] = node.node
            operator.goes_to(node)
            operator.types(block("rabbitmqctl stop_app"))
        operator.types(block("rabbitmq-queues grow"))
        for queue in ("invalidator.eu", "invalidator.eu.dead", "invalidator.eu.parked.c1"):
            assert 3 == len(one.api("GET", f"/queues/%2F/{queue}")["members"])
        operator.types(block("rabbitmq-diagnostics"))
