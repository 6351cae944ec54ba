"""memcached -Z -Y: real nodes that speak TLS and require a login, and every slip with its reason."""

import asyncio
import json
import ssl
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from invalidator.app import AsyncLookAsideCache, LookAsideCache
from invalidator.settings import Secret
from tests.integration.aftermath import Trial, trial
from tests.integration.certificates import Authority
from tests.integration.conftest import require
from tests.integration.shell import Shell
from tests.integration.shop import changed, eventually, settings_for, working
from tests.logs import capture_logs
from tests.servers import Broker, SecureMemcached, memcached_has_tls, memcached_is_installed

SecureFactory = Callable[..., SecureMemcached]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    made = Authority(tmp_path)
    made.issue("server", "127.0.0.1", "cache.shop.internal")
    return made


@pytest.fixture
def secure() -> Iterator[SecureFactory]:
    """`secure(tls=folder)` starts a node that ends with the test."""
    require("memcached", installed=memcached_is_installed())
    started: list[SecureMemcached] = []

    def start(*, tls: Path | None = None) -> SecureMemcached:
        if tls and not memcached_has_tls():
            pytest.skip("this memcached is built without TLS")
        node = SecureMemcached(tls=tls)
        started.append(node)
        node.start()
        return node

    yield start
    for node in started:
        node.close()


def access(authority: Authority | None = None, password: str = "hush") -> dict[str, Any]:
    tls = {"tls": True, "tls_ca": str(authority.ca_file)} if authority else {}
    return {"user": "shop", "password": Secret(password), "deadline": 3.0} | tls


@pytest.mark.parametrize("with_tls", [True, False])
async def test_a_worker_evicts_on_nodes_that_require_a_login_and_drains_their_debts(
    with_tls: bool, vhost: str, secure: SecureFactory, authority: Authority
) -> None:
    nodes = [secure(tls=authority.folder if with_tls else None) for _ in range(2)]
    settings = settings_for(vhost, nodes, memcached=access(authority if with_tls else None))
    async with trial(settings, nodes) as (shop, _):
        shop.fill(*range(1500))
        await shop.publish(*range(1500))
        nodes[1].kill()
        await shop.publish("while-down")
        await shop.is_parked("c2")
        nodes[1].start()


SLIPS: list[tuple[dict[str, Any], str, str]] = [
    ({"password": Secret("wrong")}, "it answers user and password with b'CLIENT_ERROR authentication fail", "user"),
    ({"user": None, "password": None}, "CLIENT_ERROR unauthenticated", "memcached.user"),
    ({"tls": False, "tls_ca": None}, "", "memcached.tls"),
    ({"tls_ca": None}, "not signed by a CA that is trusted here: see tls_ca", "tls_ca"),
    ({"tls_server_name": "other"}, "its certificate is for another name", "tls_server_name"),
]


@pytest.mark.parametrize(("slip", "reason", "fix"), SLIPS, ids=["password", "login", "tls", "ca", "name"])
async def test_a_slip_is_named_with_its_fix_and_its_keys_are_parked(
    slip: dict[str, Any], reason: str, fix: str, vhost: str, broker: Broker, secure: SecureFactory,
    authority: Authority, tmp_path: Path,
) -> None:  # fmt: skip
    settings = changed(
        settings_for(vhost, [secure(tls=authority.folder)], memcached=access(authority)), "memcached", **slip
    )
    async with working(settings) as worker:
        shop = Trial(settings, [])
        await shop.publish(7)
        await shop.is_parked("c1")
        await eventually(lambda: "unreachable: c1" in worker.status())
        done = await Shell(settings, broker, tmp_path).run("check", "-o", "json")
    (node,) = [finding for finding in json.loads(done.stdout) if finding["what"] == "node"]
    assert reason in node["text"]
    assert fix in f"{node['text']} {node['fix']}"


async def test_commands_that_connect_to_nodes_themselves_can_log_in(
    vhost: str, broker: Broker, secure: SecureFactory, authority: Authority, tmp_path: Path
) -> None:
    node = secure(tls=authority.folder)
    settings = settings_for(vhost, [node], memcached=access(authority) | {"tls_server_name": "cache.shop.internal"})
    shell = Shell(settings, broker, tmp_path)
    node.set("product:7", b"old")
    done = await shell.run("evict", "product:7", "--direct", "-o", "json")
    assert (0, None) == (done.returncode, node.get("product:7"))
    node.set("product:7", b"old")
    done = await shell.run("explain", "--key", "product:7", "-o", "json")
    assert (0, True) == (done.returncode, json.loads(done.stdout)["nodes"][0]["present"])
    assert 0 == (await shell.run("flush", "--yes")).returncode
    assert node.get("product:7") is None


async def test_an_expired_certificate_is_named(
    vhost: str, broker: Broker, secure: SecureFactory, authority: Authority, tmp_path: Path
) -> None:
    authority.issue("server", "127.0.0.1", not_after=datetime.now(UTC) - timedelta(days=1))
    settings = settings_for(vhost, [secure(tls=authority.folder)], memcached=access(authority))
    done = await Shell(settings, broker, tmp_path).run("evict", "product:7", "--direct")
    assert 75 == done.returncode
    assert "its certificate has expired: renew it on that machine" in done.stdout


@pytest.mark.parametrize("with_tls", [True, False])
async def test_applications_read_through_nodes_that_require_a_login(
    with_tls: bool, secure: SecureFactory, authority: Authority
) -> None:
    node = secure(tls=authority.folder if with_tls else None)
    tls = ssl.create_default_context(cafile=str(authority.ca_file)) if with_tls else None
    cache = LookAsideCache([node.address], tls=tls, login=("shop", "hush"), timeout=20)
    for price in (1, 2):
        assert 1 == await asyncio.to_thread(lambda price=price: cache.get_or_load("threads", lambda: price, ttl=60))  # type: ignore[misc]
    cache.close()

    async def load() -> int:
        return 3

    on_the_loop = AsyncLookAsideCache([node.address], tls=tls, login=("shop", "hush"), timeout=20)
    assert 3 == await on_the_loop.get_or_load("tasks", load, ttl=60)
    on_the_loop.close()
    assert [b"1", b"3"] == [node.get("threads"), node.get("tasks")]


async def test_wrong_password_of_an_application_is_logged_and_costs_no_read(secure: SecureFactory) -> None:
    node = secure()

    async def load() -> int:
        return 1

    cache = LookAsideCache([node.address], login=("shop", "wrong"), timeout=20)
    on_the_loop = AsyncLookAsideCache([node.address], login=("shop", "wrong"), timeout=20)
    with capture_logs() as logs:
        assert 1 == cache.get_or_load("k", lambda: 1, ttl=60)
        assert 1 == await on_the_loop.get_or_load("k", load, ttl=60)
    assert 2 == len(logs)
    assert all("memcached refused the login" in log["error"] for log in logs)
