"""amqps:// with a CA of our own and a broker that requires our certificate: every part works, every slip is named."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from invalidator.app.publish.publisher import Publisher
from invalidator.broker.connection import close, connect
from invalidator.broker.publish import blocking_publisher
from invalidator.broker.publish.numbers import Numbers
from invalidator.errors import UnreachableError
from invalidator.operate.management import Management
from invalidator.settings import Settings
from tests.integration.aftermath import Trial, trial
from tests.integration.certificates import Authority
from tests.integration.conftest import MemcachedFactory, require
from tests.integration.shell import Shell
from tests.integration.shop import changed, settings_for
from tests.integration.test_cli import levels
from tests.servers import Broker, rabbitmq_is_installed


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    made = Authority(tmp_path_factory.mktemp("tls"))
    made.issue("server", "127.0.0.1", "rabbitmq.shop.internal")
    made.issue("client", "worker.shop.internal")
    return made


@pytest.fixture(scope="module")
def tls_broker(authority: Authority) -> Iterator[Broker]:
    require("rabbitmq", installed=rabbitmq_is_installed())
    with Broker(tls=authority.folder) as broker:
        yield broker


@pytest.fixture
def settings(tls_broker: Broker, authority: Authority, memcached: MemcachedFactory, request: Any) -> Settings:
    vhost = f"test-{abs(hash(request.node.name))}"
    tls_broker.add_vhost(vhost)
    files = {"tls_ca": authority.ca_file, "tls_certificate": authority.folder / "client.pem"}
    files |= {"tls_key": authority.folder / "client-key.pem"}
    return settings_for(
        tls_broker.tls_url(vhost), [memcached()], broker={name: str(file) for name, file in files.items()}
    )


def plain(settings: Settings, broker: Broker) -> str:
    """Return the URL of the same vhost without TLS, for the test's own publisher."""
    return broker.url(settings.broker.url.rpartition("/")[2])


@pytest.mark.parametrize("consumer", ["tap", "aio-pika"])
async def test_a_worker_consumes_announces_and_dead_letters_over_tls(
    consumer: str, settings: Settings, tls_broker: Broker, memcached: MemcachedFactory
) -> None:
    node = memcached()
    settings = changed(changed(settings, "ring", nodes={"c1": node.address}), "broker", consumer=consumer)
    async with trial(settings, [node], url=plain(settings, tls_broker)) as (shop, _):
        shop.fill(*range(2000))
        await shop.publish(*range(2000))
        await shop.publish_poison(b"no event")


async def test_threads_publish_over_tls(settings: Settings, tls_broker: Broker) -> None:
    shop = Trial(settings, [], url=plain(settings, tls_broker))
    await shop.declare()
    with Publisher(changed(settings, "broker", tls_server_name="rabbitmq.shop.internal").broker, timeout=5.0) as app:
        await asyncio.to_thread(app.publish, "product_updated", {"id": 7})
    assert 1 == await shop.ready()


async def test_commands_work_over_tls(settings: Settings, tls_broker: Broker, tmp_path: Path) -> None:
    shell = Shell(settings, tls_broker, tmp_path)
    shell.environ["INVALIDATOR_MANAGEMENT__URL"] = tls_broker.management_tls_url
    assert 0 == (await shell.run("topology", "declare")).returncode
    assert 0 == (await shell.run("publish", "product_updated", "id=7")).returncode
    assert 0 == (await shell.run("evict", "product:7")).returncode
    done = await shell.run("check", "-o", "json")
    assert ["workers consuming invalidator.eu: 0; events waiting: 2"] == levels(done)["wrong"]


CA = ({"tls_ca": None}, "its certificate is not signed by a CA that is trusted here: see tls_ca")
NAME = ({"tls_server_name": "cache.shop.internal"}, "its certificate is for another name: .* see tls_server_name")
CERTIFICATE = (
    {"tls_certificate": None, "tls_key": None},
    "it .*(our|client) certificate.* [Ss]ee tls_certificate and tls_key",
)


@pytest.mark.parametrize(("slip", "expected"), [CA, NAME, CERTIFICATE])
async def test_a_slip_is_named_with_its_fix(slip: dict[str, Any], expected: str, settings: Settings) -> None:
    broker = changed(settings, "broker", **slip).broker
    with pytest.raises(UnreachableError, match=f"^no broker answers: 127.0.0.1:[0-9]+: TLS: {expected}"):
        await connect(broker, name="test")


@pytest.mark.parametrize(("slip", "expected"), [CA, NAME])
async def test_threads_get_the_same_error_for_a_slip(slip: dict[str, Any], expected: str, settings: Settings) -> None:
    broker = changed(settings, "broker", **slip).broker
    with pytest.raises(UnreachableError, match=f"^no broker answers: 127.0.0.1:[0-9]+: TLS: {expected}"):
        await asyncio.to_thread(blocking_publisher.connect, broker, name="test", within=5.0, numbers=Numbers("test"))


async def test_a_management_api_that_is_not_trusted_says_so(settings: Settings, tls_broker: Broker) -> None:
    settings = changed(changed(settings, "broker", tls_ca=None), "management", url=tls_broker.management_tls_url)
    with pytest.raises(UnreachableError, match=r"is trusted here: see tls_ca .*management\.url"):
        await Management(settings).cluster_name()


async def test_a_name_of_its_own_is_what_the_certificate_must_be_for(settings: Settings) -> None:
    broker = changed(settings, "broker", tls_server_name="rabbitmq.shop.internal").broker
    await close(await connect(broker, name="test"))


async def test_tls_to_a_port_without_it_is_named(settings: Settings, tls_broker: Broker) -> None:
    url = settings.broker.url.replace(str(tls_broker.tls_port), str(tls_broker.port))
    with pytest.raises(UnreachableError, match="TLS: it does not speak TLS on this port"):
        await connect(changed(settings, "broker", url=url).broker, name="test")


async def test_a_file_that_goes_missing_later_is_waited_for(settings: Settings) -> None:
    with pytest.raises(UnreachableError, match=r'setting "broker\.tls_ca": cannot read certificates in /nowhere'):
        await connect(changed(settings, "broker", tls_ca="/nowhere").broker, name="test")


async def test_an_expired_certificate_is_named_and_a_renewed_one_is_enough(
    settings: Settings, tls_broker: Broker, authority: Authority, memcached: MemcachedFactory
) -> None:
    yesterday = datetime.now(UTC) - timedelta(days=1)
    authority.issue("server", "127.0.0.1", not_after=yesterday)
    tls_broker.ctl("eval", "ssl:clear_pem_cache().")
    try:
        with pytest.raises(UnreachableError, match="TLS: its certificate has expired: renew it on that machine"):
            await connect(settings.broker, name="test")
    finally:
        authority.issue("server", "127.0.0.1", "rabbitmq.shop.internal")
        tls_broker.ctl("eval", "ssl:clear_pem_cache().")
    await close(await connect(settings.broker, name="test"))
