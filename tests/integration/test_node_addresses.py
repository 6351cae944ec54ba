"""Nodes on UNIX sockets and behind names, and a node's password that changes, with a real worker and real nodes."""

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from invalidator.memcached import lookup as module
from invalidator.operate.diagnosis.check import check
from invalidator.operate.findings import Finding
from invalidator.settings import Settings
from tests.integration.aftermath import Trial, trial
from tests.integration.conftest import MemcachedFactory, require
from tests.integration.shop import eventually, settings_for, worker_process, working
from tests.servers import Memcached, SecureMemcached, memcached_is_installed


class OnSocket(Memcached):
    """A memcached process on a UNIX socket."""

    @property
    def address(self) -> str:
        return str(self.folder / "socket")

    def _command(self) -> list[str]:
        command = super()._command()
        listen = command.index("-l")
        return [*command[:listen], "-s", self.address, *command[listen + 6 :]]

    def _connect(self, timeout: float) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(timeout)
        try:
            connection.connect(self.address)
        except OSError:
            connection.close()
            raise
        return connection


class Elsewhere(Memcached):
    """A memcached process on another machine."""

    def _command(self) -> list[str]:
        return ["127.0.0.2" if word == "127.0.0.1" else word for word in super()._command()]

    def _connect(self, timeout: float) -> socket.socket:
        return socket.create_connection(("127.0.0.2", self.port), timeout=timeout)


@pytest.fixture
def on_socket() -> Iterator[OnSocket]:
    require("memcached", installed=memcached_is_installed())
    node = OnSocket()
    node.start()
    yield node
    node.close()


async def test_a_worker_evicts_on_a_unix_socket_and_drains_its_debts(on_socket: OnSocket, vhost: str) -> None:
    settings = settings_for(vhost, {"c1": on_socket.address})
    async with trial(settings, [on_socket]) as (shop, worker):
        shop.fill(*range(100))
        await shop.publish(*range(100))
        await eventually(shop.is_gone)
        on_socket.kill()
        await shop.publish("while-down")
        await shop.is_parked("c1")
        await eventually(lambda: "unreachable: c1" in worker.status())
        on_socket.start()


async def test_a_password_of_nodes_that_changes_is_read_again(vhost: str, tmp_path: Path) -> None:
    require("memcached", installed=memcached_is_installed())
    node = SecureMemcached()
    node.start()
    file = tmp_path / "password"
    file.write_text("hush\n")
    file.chmod(0o600)
    access = {"user": "shop", "password_file": str(file), "deadline": 3.0}
    shop = Trial(settings_for(vhost, [node], memcached=access), [node])
    try:
        with worker_process(shop.settings, tmp_path) as process:
            await eventually(lambda: process.stderr and "consuming" in process.stderr.readline())
            shop.fill(1)
            await shop.publish(1)
            await eventually(shop.is_gone)
            change_login(node, "changed")
            shop.fill(2)
            await shop.publish(2)
            await shop.is_parked("c1")
            file.write_text("changed\n")
            await eventually(shop.is_gone)
            process.terminate()
    finally:
        node.close()


def change_login(node: SecureMemcached, password: str) -> None:
    node.kill()
    (node.folder / "users").write_text(f"shop:{password}\n")
    node._login = f"shop {password}".encode()
    node.start()


class Names:
    """A name service: `cache.test` has the addresses that the test sets."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses
        self._real = socket.getaddrinfo

    def __call__(self, host: str, port: Any, *rest: Any, **options: Any) -> Any:
        if host != "cache.test":
            return self._real(host, port, *rest, **options)
        return [entry for address in self.addresses for entry in self._real(address, port, *rest, **options)]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    names = Names("127.0.0.1")
    monkeypatch.setattr(socket, "getaddrinfo", names)
    monkeypatch.setattr(module, "LOOKUP_SECONDS", 0.05)
    return names


def named(vhost: str, node: Memcached) -> Settings:
    return settings_for(vhost, {"c1": f"cache.test:{node.port}"})


async def test_while_a_name_has_several_addresses_its_keys_are_parked(
    vhost: str, memcached: MemcachedFactory, names: Names
) -> None:
    node = memcached()
    names.addresses = ("127.0.0.1", "127.0.0.2")
    async with trial(named(vhost, node), [node]) as (shop, worker):
        shop.fill(*range(3))
        await shop.publish(*range(3))
        await shop.is_parked("c1")
        await eventually(lambda: "unreachable: c1" in worker.status())
        names.addresses = ("127.0.0.1",)


async def test_a_worker_follows_a_name_that_moves_while_the_old_node_still_answers(
    vhost: str, memcached: MemcachedFactory, names: Names
) -> None:
    old = memcached()
    new = Elsewhere(port=old.port)
    new.start()
    shop = Trial(named(vhost, old), [old])
    try:
        async with working(shop.settings) as worker:
            shop.fill(1)
            await shop.publish(1)
            await eventually(shop.is_gone)
            first = worker._cluster._nodes["c1"]._connection
            names.addresses = ("127.0.0.2",)
            await eventually(lambda: first and first.ended)
            new.set("product:2", b"old")
            await shop.publish(2)
            await eventually(lambda: new.get("product:2") is None)
    finally:
        new.close()


async def test_check_names_a_worker_that_still_evicts_on_the_machine_of_before(
    vhost: str, memcached: MemcachedFactory, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOKUP_SECONDS", 600.0)
    node = memcached()
    shop = Trial(named(vhost, node), [node])
    async with working(shop.settings):
        shop.fill(1)
        await shop.publish(1)
        await eventually(shop.is_gone)
        assert [] == await evicting_elsewhere(shop.settings)
        names.addresses = ("127.0.0.2",)
        [finding] = await evicting_elsewhere(shop.settings)
    assert finding.text.endswith("evicts on 127.0.0.1 for c1, but here it is 127.0.0.2")
    assert 69 == finding.exit_code


async def evicting_elsewhere(settings: Settings) -> list[Finding]:
    return [finding for finding in await check(settings, source="a test") if "evicts on" in finding.text]
