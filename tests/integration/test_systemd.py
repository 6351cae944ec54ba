"""The units of conf/systemd in a real systemd: sandbox and credentials on, broker and nodes outside."""

import asyncio
import json
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy as sa

from invalidator.app import Event, Outbox
from invalidator.operate.topology import declared
from invalidator.settings import Secret, Settings
from tests.integration.conftest import MemcachedFactory, require
from tests.integration.shop import as_toml, changed, eventually, publishing, settings_for, working
from tests.servers import Broker, Memcached, ServerError, Systemd, systemd_is_installed

UNITS = Path(__file__).parents[2] / "conf/systemd"
#: The highest exposure that systemd-analyze may find, times ten.
EXPOSURE = 12
#: Not guest, whose password libraries guess.
USER, PASSWORD = "sandboxed", "in a file for root alone"
#: An application's module, for the warmer.
SHOP = """
from invalidator.app import LookAsideCache

cache = LookAsideCache(["{node}"])

def refill(key):
    return lambda: cache.get_or_load(key, lambda: "read again", ttl=60)
"""


class Unit:
    """One worker's service, and its configuration: the password is in the credential's file alone."""

    def __init__(self, systemd: Systemd, settings: Settings) -> None:
        self._systemd = systemd
        self.cluster = settings.cluster
        self.name = f"invalidator-worker@{settings.cluster}.service"
        self.queue = f"invalidator.{self.cluster}"
        self._file = f"/etc/invalidator/{self.cluster}.toml"
        self.configure(settings)
        systemd.write(f"/etc/invalidator/{self.cluster}.broker-password", f"{PASSWORD}\n", mode="600")

    def configure(self, settings: Settings) -> None:
        self.write(as_toml(without_password(settings)))

    def write(self, text: str) -> None:
        self._systemd.write(self._file, text)

    def ask(self, verb: str, *options: str) -> None:
        self._systemd.systemctl(verb, *options, self.name)

    def kill(self, signal: str) -> None:
        self.ask("kill", f"--signal={signal}", "--kill-whom=main")

    def show(self, name: str) -> str:
        return self._systemd.show(self.name, name)

    def log(self) -> str:
        return self._systemd.journal(self.name)

    async def consuming(self) -> None:
        await eventually(lambda: self.show("StatusText") == "consuming")


def without_password(settings: Settings) -> Settings:
    return changed(settings, "broker", url=settings.broker.url.replace("guest:guest@", f"{USER}@"), password=None)


@pytest.fixture
def user(broker: Broker, vhost: str) -> None:
    """`USER` may do everything there."""
    broker.api("PUT", f"/users/{USER}", {"password": PASSWORD, "tags": ""})
    everything = {"configure": ".*", "write": ".*", "read": ".*"}
    broker.api("PUT", f"/permissions/{vhost.rpartition('/')[2]}/{USER}", everything)


@pytest.fixture
def unit(systemd: Systemd, user: None, vhost: str) -> Iterator[Callable[..., Unit]]:
    """`unit(nodes)` makes a service of a cluster of these nodes, not started, that is stopped at the end."""
    made: list[Unit] = []

    def make(*nodes: Memcached, **more: Any) -> Unit:
        cluster = f"test-{uuid4().hex[:8]}"
        made.append(Unit(systemd, settings_for(vhost, nodes, cluster=cluster, **more)))
        return made[-1]

    yield make
    for service in made:
        service.ask("stop")


async def test_a_worker_works_in_its_sandbox_with_the_password_from_its_credential(
    unit: Callable[..., Unit], vhost: str, memcached: MemcachedFactory
) -> None:
    node = memcached()
    service = unit(node)
    service.ask("start")
    await service.consuming()
    node.set("product:1", b"old")
    async with publishing(vhost) as shop:
        await shop.update(1)
    await eventually(lambda: node.get("product:1") is None)
    assert "active" == service.show("ActiveState")
    assert int(service.show("UID")) > 60_000, "a user that is made for this service alone"


async def test_a_reload_puts_the_new_configuration_in_force_in_place(
    unit: Callable[..., Unit], vhost: str, memcached: MemcachedFactory
) -> None:
    old, new = memcached(), memcached()
    service = unit(old)
    service.ask("start")
    await service.consuming()
    process = service.show("MainPID")
    service.configure(settings_for(vhost, [old, new], cluster=service.cluster))
    service.ask("reload")
    await eventually(lambda: service.log().count('"event": "consuming"') == 2)
    await service.consuming()
    new.set("product:1", b"old")
    async with publishing(vhost) as shop:
        await shop.update(1)
    await eventually(lambda: new.get("product:1") is None)
    assert (process, "running") == (service.show("MainPID"), service.show("SubState"))


async def test_a_reload_with_a_bad_configuration_fails_and_changes_nothing(
    unit: Callable[..., Unit], vhost: str, memcached: MemcachedFactory
) -> None:
    node = memcached()
    service = unit(node)
    service.ask("start")
    await service.consuming()
    process = service.show("MainPID")
    service.write("broker.prefech = 5")
    with pytest.raises(ServerError):
        service.ask("reload")
    assert 'unknown setting "broker.prefech"' in service.log()
    assert "consuming" == service.show("StatusText")
    node.set("product:1", b"old")
    async with publishing(vhost) as shop:
        await shop.update(1)
    await eventually(lambda: node.get("product:1") is None)
    assert (process, "running") == (service.show("MainPID"), service.show("SubState"))


async def test_an_operators_drop_in_wins_over_the_sandbox(
    unit: Callable[..., Unit], systemd: Systemd, memcached: MemcachedFactory
) -> None:
    service = unit(memcached())
    assert "yes" == service.show("ProtectHome")
    systemd.run("mkdir", "-p", f"/etc/systemd/system/{service.name}.d")
    systemd.write(f"/etc/systemd/system/{service.name}.d/override.conf", "[Service]\nProtectHome=read-only\n")
    systemd.systemctl("daemon-reload")
    assert "read-only" == service.show("ProtectHome")


async def test_a_stop_under_load_leaves_nothing_that_was_done_to_be_done_again(
    unit: Callable[..., Unit], vhost: str, memcached: MemcachedFactory
) -> None:
    node = memcached()
    service = unit(node)
    service.ask("start")
    await service.consuming()
    for number in range(3000):
        node.set(f"product:{number}", b"old")
    async with publishing(vhost) as shop:
        load = asyncio.create_task(shop.update(*range(3000)))
        await eventually(lambda: node.get("product:0") is None)
        await asyncio.to_thread(service.ask, "stop")
        await load
        left = {json.loads(message.body)["id"] for message in await shop.take(service.queue)}
    kept = {number for number in range(3000) if node.get(f"product:{number}")}
    assert kept == left
    assert ("inactive", "success") == (service.show("ActiveState"), service.show("Result"))


async def test_a_killed_worker_is_started_again(
    unit: Callable[..., Unit], vhost: str, memcached: MemcachedFactory
) -> None:
    node = memcached()
    service = unit(node)
    service.ask("start")
    await service.consuming()
    service.kill("KILL")
    node.set("product:1", b"old")
    async with publishing(vhost) as shop:
        await shop.update(1)
    await eventually(lambda: node.get("product:1") is None)
    assert "1" == service.show("NRestarts")


@pytest.mark.timeout(120)
async def test_a_worker_that_hangs_is_restarted_by_the_watchdog_and_loses_nothing(
    unit: Callable[..., Unit], vhost: str, memcached: MemcachedFactory
) -> None:
    """Within 40 seconds: WatchdogSec is 30, a restart takes one and a start less."""
    node = memcached()
    service = unit(node)
    service.ask("start")
    await service.consuming()
    service.kill("STOP")
    node.set("product:1", b"old")
    async with publishing(vhost) as shop:
        await shop.update(1)
    await eventually(lambda: node.get("product:1") is None, within=40, every=0.1)
    assert "Watchdog timeout" in service.log()
    assert "1" == service.show("NRestarts")


@pytest.mark.parametrize(("code", "text"), [(78, "cluster = 5"), (77, None)])
async def test_what_a_restart_cannot_fix_is_not_restarted(
    unit: Callable[..., Unit], systemd: Systemd, memcached: MemcachedFactory, code: int, text: str | None
) -> None:
    service = unit(memcached())
    if text:
        service.write(text)
    else:
        systemd.write(f"/etc/invalidator/{service.cluster}.broker-password", "not the one\n")
    with pytest.raises(ServerError):
        service.ask("start")
    assert "failed" == service.show("ActiveState")
    assert (str(code), "0") == (service.show("ExecMainStatus"), service.show("NRestarts"))


async def test_a_relay_works_in_its_sandbox(systemd: Systemd, vhost: str, database: str) -> None:
    settings = settings_for(vhost.replace(":guest@", "@"), {"c1": "127.0.0.1:11211"})
    settings = changed(changed(settings, "broker", password=None), "outbox", url=Secret(database))
    systemd.write("/etc/invalidator/relay.toml", as_toml(settings))
    systemd.write("/etc/invalidator/relay.broker-password", "guest\n", mode="600")
    engine = sa.create_engine(database.replace("postgresql:", "postgresql+psycopg:"), poolclass=sa.NullPool)
    outbox = Outbox()
    outbox.create(engine)
    await declared(settings_for(vhost, {"c1": "127.0.0.1:11211"}))
    systemd.systemctl("start", "invalidator-relay")
    with engine.begin() as connection:
        outbox.append(connection, Event("product_updated", {"id": 17}))
    async with publishing(vhost) as shop, asyncio.timeout(60):
        while not await shop.ready("invalidator.eu"):
            await asyncio.sleep(0.02)
    systemd.systemctl("reload", "invalidator-relay")
    await eventually(lambda: "reloading" in systemd.journal("invalidator-relay"))
    await eventually(lambda: systemd.show("invalidator-relay", "StatusText") == "relaying")
    systemd.systemctl("stop", "invalidator-relay")
    assert "success" == systemd.show("invalidator-relay", "Result")


async def test_a_warmer_works_in_its_sandbox_with_a_loader_installed_beside_it(
    systemd: Systemd, user: None, vhost: str, memcached: MemcachedFactory
) -> None:
    node = memcached()
    settings = settings_for(vhost, [node])
    file = as_toml(changed(without_password(settings), "warmer", loader="shop:refill"))
    systemd.write("/etc/invalidator/eu.toml", file)
    systemd.write("/etc/invalidator/eu.warmer-password", f"{PASSWORD}\n", mode="600")
    systemd.write("/opt/invalidator/ours/shop.py", SHOP.format(node=node.address))
    service = "invalidator-warmer@eu"
    async with working(settings), publishing(vhost) as shop:
        systemd.systemctl("start", service)
        await eventually(lambda: systemd.show(service, "StatusText") == "listening; 0 keys wait")
        node.set("product:1", b"old")
        await shop.update(1)
        await eventually(lambda: node.get("product:1") == b'"read again"')
        systemd.systemctl("reload", service)
        await eventually(lambda: systemd.journal(service).count("receiving announcements") == 2)
        node.set("product:2", b"old")
        await shop.update(2)
        await eventually(lambda: node.get("product:2") == b'"read again"')
        systemd.systemctl("stop", service)
    assert "success" == systemd.show(service, "Result")


async def test_an_auditor_works_in_its_sandbox_and_its_account_outlives_it(
    systemd: Systemd, user: None, vhost: str, memcached: MemcachedFactory
) -> None:
    node = memcached()
    settings = settings_for(vhost, [node])
    file = as_toml(changed(without_password(settings), "audit", source="audited:source", share=1.0, delays=[0.1, 2.0]))
    systemd.write("/etc/invalidator/eu.toml", file)
    systemd.write("/etc/invalidator/eu.audit-password", f"{PASSWORD}\n", mode="600")
    systemd.write("/opt/invalidator/ours/audited.py", 'def source(key):\n    return lambda: "new"\n')
    service = "invalidator-audit@eu"
    async with working(settings), publishing(vhost) as shop:
        for id in ("1", "2"):
            systemd.systemctl("start", service)
            await eventually(lambda: systemd.show(service, "StatusText").startswith("listening"))
            node.set(f"product:{id}", b"to be evicted")
            await shop.update(id)
            await eventually(partial(_is_gone, node, f"product:{id}"))
            node.set(f"product:{id}", b'"old"')
            await eventually(partial(_is_gone, node, f"product:{id}"))
            systemd.systemctl("stop", service)
            assert "success" == systemd.show(service, "Result")
    command = ["/opt/invalidator/bin/invalidator", "audit", "report", "-o", "json", "-c", "/etc/invalidator/eu.toml"]
    found = json.loads(systemd.run(*command))
    assert ["product:2", "product:1"] == [one["key"] for one in found["stale"]]


def _is_gone(node: Memcached, key: str) -> bool:
    return node.get(key) is None


async def test_the_target_stops_and_starts_what_is_enabled(
    unit: Callable[..., Unit], systemd: Systemd, memcached: MemcachedFactory
) -> None:
    service = unit(memcached())
    service.ask("enable", "--now")
    await service.consuming()
    systemd.systemctl("stop", "invalidator.target")
    await eventually(lambda: service.show("ActiveState") == "inactive")
    systemd.systemctl("start", "invalidator.target")
    await service.consuming()
    service.ask("disable")


@pytest.mark.parametrize("unit_file", sorted(UNITS.glob("*.service")), ids=lambda file: file.name)
def test_no_service_is_exposed_more_than_it_must_be(unit_file: Path) -> None:
    require("systemd", installed=systemd_is_installed())
    analyze = ["systemd-analyze", "security", "--offline=true", f"--threshold={EXPOSURE}", "--no-pager", str(unit_file)]
    done = subprocess.run(analyze, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Overall exposure level" in done.stdout
