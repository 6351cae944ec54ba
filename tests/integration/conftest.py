"""Real servers, private to the test run.

The tests of a server that is not installed, or cannot run here, are skipped. They fail instead if $INVALIDATOR_REQUIRE
names the server, so that a green run proves that they ran. It is a list of `rabbitmq`, `memcached`, `postgresql`,
`mariadb`, `prometheus`, `chromium` and `systemd`, separated by spaces.
"""

import os
import socket
import threading
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tests.integration import shop
from tests.integration.shell import Shell
from tests.integration.shop import settings_for
from tests.servers import (
    Broker,
    Mariadb,
    Memcached,
    Postgres,
    ServerError,
    Systemd,
    TcpProxy,
    mariadb_is_installed,
    memcached_is_installed,
    postgres_is_installed,
    rabbitmq_is_installed,
    systemd_is_installed,
)

MemcachedFactory = Callable[..., Memcached]
#: The database of `django_project`.
DJANGO_DATABASE = "django-shop"
ProxyFactory = Callable[[str], Awaitable[TcpProxy]]


class Notifications:
    """The other end of $NOTIFY_SOCKET, which reads all the time, as systemd does."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "notify")
        self.lines: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.path)
        self._reading = threading.Thread(target=self._read)
        self._reading.start()

    def told(self, word: str) -> bool:
        return any(line.startswith(word) for line in self.lines)

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
            last.sendto(b"", self.path)
        self._reading.join()
        self._socket.close()

    def _read(self) -> None:
        while received := self._socket.recv(4096):
            self.lines += received.decode().splitlines()


def require(server: str, *, installed: bool) -> None:
    if not installed:
        cannot_have(server, "not installed: ./dev test installs it")


def cannot_have(server: str, why: str) -> NoReturn:
    """Skip this test, or fail it if $INVALIDATOR_REQUIRE names the server."""
    if server in os.environ.get("INVALIDATOR_REQUIRE", "").split():
        pytest.fail(f"{server} is required, but {why}")
    pytest.skip(f"{server}: {why}")


@pytest.fixture(scope="session")
def broker() -> Iterator[Broker]:
    """Start one RabbitMQ node for all tests of this process."""
    require("rabbitmq", installed=rabbitmq_is_installed())
    with Broker() as broker:
        yield broker


@pytest.fixture
def vhost(broker: Broker) -> Iterator[str]:
    """Yield the AMQP URL of an empty vhost, deleted with all its queues after the test."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    yield broker.add_vhost(name)
    broker.delete_vhost(name)


@pytest.fixture
def own_broker(broker: Broker) -> Iterator[Broker]:
    """Yield the node to a test that kills, pauses or alarms it, and heal it afterwards."""
    vhosts, process = _vhosts(broker), broker.process
    yield broker
    broker.heal()
    if broker.process is process:  # after a restart, deleting a vhost takes five seconds and is not worth it
        for name in _vhosts(broker) - vhosts:
            broker.delete_vhost(name)


def _vhosts(broker: Broker) -> set[str]:
    return {vhost["name"] for vhost in broker.api("GET", "/vhosts")}


@pytest.fixture
def own_vhost(own_broker: Broker) -> str:
    """Return the AMQP URL of an empty vhost of `own_broker`."""
    return own_broker.add_vhost(f"test-{uuid.uuid4().hex[:12]}")


@pytest.fixture
def memcached() -> Iterator[MemcachedFactory]:
    """Yield `memcached(*arguments, port=…)`, which starts a memcached process that ends with the test."""
    require("memcached", installed=memcached_is_installed())
    started: list[Memcached] = []

    def start(*arguments: str, port: int | None = None) -> Memcached:
        node = Memcached(*arguments, port=port)
        started.append(node)
        node.start()
        return node

    yield start
    for node in started:
        node.close()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """Start one PostgreSQL server for all tests of this process."""
    require("postgresql", installed=postgres_is_installed())
    with Postgres("-c", "wal_level=logical") as server:
        yield server


@pytest.fixture(scope="session")
def django_project(postgres: Postgres) -> Iterator[Any]:
    """Set Django up, once for this process, with its tables; yield the shop's models."""
    import django
    from django.conf import settings
    from django.core.management import call_command
    from django.db import connection

    postgres.add_database(DJANGO_DATABASE)
    host, port = postgres.address.split(":")
    database = {"ENGINE": "django.db.backends.postgresql", "NAME": DJANGO_DATABASE, "USER": "postgres"}
    settings.configure(
        DATABASES={"default": database | {"HOST": host, "PORT": port}},
        INSTALLED_APPS=["invalidator.app.django", "tests.integration.django_shop"],
        INVALIDATOR_APP_ID="shop",
        USE_TZ=True,
    )
    django.setup()
    call_command("migrate", run_syncdb=True, verbosity=0)
    with connection.cursor() as cursor:
        cursor.execute("ALTER SEQUENCE django_shop_product_id_seq RESTART 1000")  # tests name smaller ids
    from tests.integration.django_shop import models

    yield models
    connection.close()


@pytest.fixture
def database(postgres: Postgres) -> Iterator[str]:
    """Yield the URL of an empty PostgreSQL database, dropped after the test."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    yield postgres.add_database(name)
    postgres.drop_database(name)


@pytest.fixture(scope="session")
def mariadb() -> Iterator[Mariadb]:
    """Start one MariaDB server for all tests of this process."""
    require("mariadb", installed=mariadb_is_installed())
    with Mariadb() as server:
        yield server


@pytest.fixture
def mariadb_database(mariadb: Mariadb) -> Iterator[str]:
    """Yield the URL of an empty MariaDB database, dropped after the test."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    yield mariadb.add_database(name)
    mariadb.drop_database(name)


@pytest.fixture(scope="module")
def systemd() -> Iterator[Systemd]:
    """Boot one systemd for all tests of a file."""
    require("systemd", installed=systemd_is_installed())
    if os.geteuid() != 0:
        cannot_have("systemd", "a systemd of one's own needs root")
    private = Systemd()
    try:
        private.start()
    except ServerError as error:
        private.close()
        cannot_have("systemd", f"this kernel or container does not let one be started: {error}")
    yield private
    private.close()


@pytest.fixture(params=["tap", "aio-pika"])
def intake(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run the test with each way to consume: `pytestmark = pytest.mark.usefixtures("intake")`."""
    monkeypatch.setattr(shop, "INTAKE", request.param)
    return str(request.param)


@pytest.fixture
def shell(vhost: str, broker: Broker, memcached: MemcachedFactory, tmp_path: Path) -> Shell:
    return Shell(settings_for(vhost, [memcached(), memcached()]), broker, tmp_path)


@pytest.fixture
async def proxy() -> AsyncIterator[ProxyFactory]:
    """Yield `await proxy("host:port")`, which starts a TcpProxy in front of that address that ends with the test."""
    started: list[TcpProxy] = []

    async def start(target: str) -> TcpProxy:
        made = TcpProxy(target)
        started.append(made)
        await made.start()
        return made

    yield start
    for made in started:
        await made.stop()


@pytest.fixture
def notifications(tmp_path: Path) -> Iterator[Notifications]:
    listening = Notifications(tmp_path)
    yield listening
    listening.close()
